//! `sol eval`: benchmarks, as lm-evaluation-harness runs them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sol_engine::{LanguageModel, Message};
use sol_eval::data;
use sol_eval::log::{AnswerLog, Recorded};
use sol_eval::model::Local;
use sol_eval::prompt::{Chat, Prepared, Settings, request_line};
use sol_eval::python::Random;
use sol_eval::results::{TaskResult, groups, table, to_json};
use sol_eval::run::{Source, run as run_task};
use sol_eval::task::{ROWS, Registry};
use sol_hub::Hub;
use sol_text::{ChatTemplate, RenderOptions};

use crate::common::{Bars, Meter, Output, RunOptions, note, open, print};
use crate::ctrl_c::{CtrlC, Patience};

/// Tokens of context where nobody asks for another number: more than any built-in benchmark needs.
const CONTEXT: usize = 8192;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sol eval --list\n  sol eval --data DIR --tasks arc_challenge --num-fewshot 25 --limit 100 --output results\n  \
    sol eval --data DIR --tasks 'mmlu_*,gsm8k_cot' -m MODEL.gguf\n\nRows come from the hub and are kept in its cache (HF_TOKEN for gated ones, \
    HF_HUB_OFFLINE), or from DIR, which has a folder for each benchmark with the rows of its data set as JSON Lines (test.jsonl, .gz or .zst) \
    or Parquet, in the columns of the data set on the hub. With --output, answers are kept as they come: the \
    same command goes on where it was stopped."
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    /// Tasks, groups and patterns, separated by commas
    #[arg(long, value_delimiter = ',', required_unless_present = "list")]
    tasks: Vec<String>,
    /// Print the names of all tasks and groups
    #[arg(long)]
    list: bool,
    /// Folder with the benchmarks' rows [default: the hub's data sets]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A file with a task of your own (TOML)
    #[arg(long, value_name = "FILE")]
    include: Vec<PathBuf>,
    /// Examples in front of each question [default: the task's]
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,
    /// Seed of the draw of examples
    #[arg(long, value_name = "N", default_value_t = 1234)]
    fewshot_seed: u64,
    /// Only the first N documents of each task; below 1, that share of them
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<f64>,
    /// Make prompts conversations by the model's chat template, `chatml`, or a Jinja file
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    apply_chat_template: Option<String>,
    /// Make examples turns of the conversation
    #[arg(long, requires = "apply_chat_template")]
    fewshot_as_multiturn: bool,
    /// Text before the task's description; the system message of a conversation
    #[arg(long, value_name = "TEXT")]
    system_instruction: Option<String>,
    /// Write the requests as JSON Lines and stop
    #[arg(long, value_name = "FILE", conflicts_with_all = ["answers", "output"])]
    requests: Option<PathBuf>,
    /// Score the answers in this file (JSON Lines, also .gz) instead of asking a model
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Keep answers and results.json in this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Answers that are generated together [default: as many of 16 as memory has room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    batch_size: Option<u16>,
}

fn limit(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(|| "must be a number above 0".into())
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let mut registry = Registry::built_in()?;
    args.include.iter().try_for_each(|file| registry.include(file))?;
    if args.list {
        print(&registry.names().join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let tasks = registry.select(&args.tasks)?;
    let data = match &args.data {
        Some(dir) => data::Source::folder(dir),
        None => data::Source::hub(Hub::from_env()?),
    };

    let own_template = args.apply_chat_template.as_deref() == Some("");
    let asks = args.requests.is_none() && args.answers.is_none();
    let mut model = if asks || own_template { Some(open_model(&args, output)?) } else { None };
    let template = match (args.apply_chat_template.as_deref(), &model) {
        (None, _) => None,
        (Some("chatml"), _) => Some((ChatTemplate::chatml(), generation_prompt())),
        (Some(""), Some(model)) => model.chat_template().map(|(template, options)| Some((template.clone(), options)))?,
        (Some(file), _) => {
            let source = std::fs::read_to_string(file).with_context(|| format!("can not read the template {file}"))?;
            Some((ChatTemplate::new(&source)?, generation_prompt()))
        }
    };
    let chat = template.map(|(template, options)| {
        move |messages: &[Message]| -> sol_eval::Result<String> { Ok(template.render(messages, &options)?) }
    });
    let settings = Settings {
        num_fewshot: args.num_fewshot,
        fewshot_seed: args.fewshot_seed,
        limit: args.limit,
        system_instruction: args.system_instruction.as_deref(),
        chat: chat.as_ref().map(|chat| chat as &Chat),
        fewshot_as_multiturn: args.fewshot_as_multiturn,
    };
    let random = Arc::new(Mutex::new(Random::new(0)));
    let bars = Bars::new(output);
    let prepared = tasks.iter().map(|task| Prepared::load(task, &data, &settings, &random, &bars));
    let prepared: Vec<Prepared> = prepared.collect::<Result<_, _>>()?;
    if args.fewshot_as_multiturn && prepared.iter().all(|p| p.n_shot() == 0) {
        bail!("--fewshot-as-multiturn needs examples; --num-fewshot asks for them");
    }
    if let Some(file) = &args.requests {
        return write_requests(file, &prepared, &settings);
    }

    if let Some(dir) = &args.output {
        std::fs::create_dir_all(dir).with_context(|| format!("can not make the folder {}", dir.display()))?;
    }
    let origins = origins(&data, &prepared, &bars)?;
    let recorded = args.answers.as_deref().map(Recorded::open).transpose()?;
    let mut local = model.as_mut().filter(|_| asks).map(Local::new);
    let fingerprint = local.as_mut().map(|local| match args.run.rope_factors {
        None => local.fingerprint(),
        Some(_) => format!("{}, rope factors {:?}", local.fingerprint(), args.run.options().rope_factors),
    });
    let mut log = match (&args.output, &fingerprint) {
        (Some(dir), Some(fingerprint)) => Some(AnswerLog::open(&dir.join("answers.jsonl"), fingerprint)?),
        _ => None,
    };
    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let start = Instant::now();
    let (mut results, mut resumed): (Vec<TaskResult>, usize) = (Vec::new(), 0);
    for prepared in &prepared {
        let mut meter = Meter::new(output, prepared.limited(args.limit) as u64, "documents");
        meter.say(prepared.task().name.clone());
        let mut source = match (&mut local, &recorded) {
            (Some(local), _) => Source::Model(local, log.as_mut()),
            (None, Some(recorded)) => Source::Recorded(recorded, "<|im_end|>"),
            (None, None) => bail!("there is nobody to ask"),
        };
        let result = run_task(prepared, &settings, &mut source, &|| stop.is_set(), &mut |known| {
            resumed += usize::from(known && asks);
            meter.step();
        });
        drop(meter);
        results.push(match (result, &args.output) {
            (Err(error @ sol_eval::Error::Interrupted), Some(dir)) => {
                note(output, &format!("the answers so far are in {}: the same command goes on from there", dir.display()));
                return Err(error.into());
            }
            (result, _) => result?,
        });
    }
    let groups = groups(&registry, &results);
    let cost = local.as_ref().map(Local::cost).unwrap_or_default();
    let mut json = to_json(&results, &groups);
    json.insert("model".into(), if asks { args.run.model.model.clone().into() } else { Value::Null });
    json.insert("model_fingerprint".into(), fingerprint.into());
    json.insert("chat".into(), args.apply_chat_template.clone().into());
    json.insert("fewshot_as_multiturn".into(), args.fewshot_as_multiturn.into());
    json.insert("system_instruction".into(), args.system_instruction.clone().into());
    json.insert("fewshot_seed".into(), args.fewshot_seed.into());
    json.insert("data".into(), origins);
    json.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    json.insert(
        "cost".into(),
        json!({ "computed_tokens": cost.computed, "naive_tokens": cost.naive, "generated_tokens": cost.generated,
            "truncated": cost.truncated, "resumed": resumed, "seconds": start.elapsed().as_secs_f64() }),
    );
    let text = serde_json::to_string_pretty(&json)?;
    if let Some(dir) = &args.output {
        write_whole(&dir.join("results.json"), text.as_bytes())?;
    }
    if output.json {
        print(&text)?;
    } else {
        print(table(&results, &groups).trim_end())?;
        if asks {
            let share = cost.naive as f64 / cost.computed.max(1) as f64;
            let mut line = format!("{} tokens computed ({share:.1} times fewer than one by one)", cost.computed);
            line += &format!(", {:.0} s", start.elapsed().as_secs_f64());
            if cost.truncated > 0 {
                line += &format!("; {} prompts lost their beginning to the context (--ctx)", cost.truncated);
            }
            note(output, &line);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What each task's rows were read from.
fn origins(data: &data::Source, prepared: &[Prepared], bars: &Bars) -> Result<Value> {
    let origin = |prepared: &Prepared| -> Result<(String, Value)> {
        let task = prepared.task();
        let origin = data.describe(&task.location(), ROWS, bars)?;
        Ok((task.name.clone(), serde_json::to_value(origin)?))
    };
    Ok(Value::Object(prepared.iter().map(origin).collect::<Result<_>>()?))
}

fn generation_prompt() -> RenderOptions {
    RenderOptions { add_generation_prompt: true, ..RenderOptions::default() }
}

fn open_model(args: &Args, output: &Output) -> Result<LanguageModel> {
    let mut options = args.run.options();
    let path = args.run.model.resolve(output)?;
    let checkpoint = sol_weights::Checkpoint::open(&path)?;
    let spec = sol_model::describe(&checkpoint)?.spec;
    let context = options.context.unwrap_or(CONTEXT.min(spec.context));
    options.context = Some(context);
    options.sequences = args.batch_size.map(usize::from).or_else(|| {
        let kv = options.kv_type.unwrap_or_else(|| sol_model::natural_kv_type(&checkpoint));
        let limits = sol_engine::Limits::now();
        let fits = |n: &usize| {
            let need = sol_engine::Need::new(&checkpoint, &spec, context, *n, kv);
            matches!(limits.fit(&need), sol_engine::Fit::Whole)
        };
        [16, 8, 4, 2].into_iter().find(fits)
    });
    open(&path, options, output)
}

fn write_requests(file: &Path, prepared: &[Prepared], settings: &Settings<'_>) -> Result<ExitCode> {
    let shown = || format!("can not write {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(shown)?);
    for prepared in prepared {
        let written = prepared.documents(settings, &mut |document| {
            let io = |source| sol_eval::Error::Io { path: file.into(), source };
            writeln!(out, "{}", request_line(&document)).map_err(io)
        });
        written?;
    }
    out.flush().with_context(shown)?;
    Ok(ExitCode::SUCCESS)
}

/// A file that is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = || format!("can not write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(shown)?;
    file.write_all(bytes).with_context(shown)?;
    file.persist(path).with_context(shown)?;
    Ok(())
}
