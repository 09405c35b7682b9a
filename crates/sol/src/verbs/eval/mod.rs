//! `sol eval`: benchmarks, as lm-evaluation-harness runs them.

mod ask;
mod finished;
mod model;
mod plan;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use serde_json::{Map, Value};
use sol_eval::data;
use sol_eval::log::Recorded;
use sol_eval::prompt::{Chat, Prepared, Settings};
use sol_eval::python::Random;
use sol_eval::task::Registry;
use sol_hub::Hub;

use self::model::Subject;
use self::plan::{Part, parts};
use crate::common::{Bars, Output, RunOptions, note, print};

/// Arguments.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  sol eval --list\n  sol eval --data DIR --tasks arc_challenge --num-fewshot 25 --limit 100 --output results\n  \
    sol eval --data DIR --tasks 'mmlu_*,gsm8k_cot' -m MODEL.gguf\n  sol eval --suite solar-pro-preview --allow-code-execution --output results\n  sol eval compare results other-results\n\nRows \
    come from the hub and are kept in its cache (HF_TOKEN for gated ones, \
    HF_HUB_OFFLINE), or from DIR, which has a folder for each benchmark with the rows of its data set as JSON Lines (test.jsonl, .gz or .zst) \
    or Parquet, in the columns of the data set on the hub. With --output, answers are kept as they come: the \
    same command goes on where it was stopped."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    finished: Option<finished::Verb>,
    #[command(flatten)]
    run: RunOptions,
    /// Tasks, groups and patterns, separated by commas
    #[arg(long, value_delimiter = ',', required_unless_present_any = ["list", "suite"], conflicts_with = "suite")]
    tasks: Vec<String>,
    /// A published table with its settings: solar-pro-preview
    #[arg(long, value_name = "NAME", conflicts_with_all = ["num_fewshot", "fewshot_as_multiturn", "system_instruction"])]
    suite: Option<String>,
    /// Print the names of all tasks and groups
    #[arg(long)]
    list: bool,
    /// Folder with the benchmarks' rows [default: the hub's data sets]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A file with a task of your own (TOML; docs/tasks.md)
    #[arg(long, value_name = "FILE")]
    include: Vec<PathBuf>,
    /// Examples in front of each question [default: the task's]
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,
    /// Seed of the draw of examples
    #[arg(long, value_name = "N", default_value_t = 1234)]
    fewshot_seed: u64,
    /// Seed of shuffled options and of sampled answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Only the first N documents of each task; below 1, that share of them
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<f64>,
    /// Make prompts conversations by the model's chat template, `chatml`, or a Jinja file
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, default_missing_value = "")]
    apply_chat_template: Option<String>,
    /// Make examples turns of the conversation
    #[arg(long, requires = "apply_chat_template")]
    fewshot_as_multiturn: bool,
    /// Text before the task's description; the system message of a conversation
    #[arg(long, value_name = "TEXT")]
    system_instruction: Option<String>,
    /// Change how tasks generate: temperature=0.5,do_sample=true,max_gen_toks=64
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = gen_kwargs)]
    gen_kwargs: Option<Map<String, Value>>,
    /// Ask an OpenAI-compatible server (http://localhost:8000/v1) instead of a model in this process
    #[arg(long, value_name = "URL", requires = "served_model", conflicts_with_all = ["answers", "model", "threads", "kv", "batch_size", "no_prefix_sharing"])]
    base_url: Option<String>,
    /// The model's name at the server
    #[arg(long, value_name = "NAME", requires = "base_url")]
    served_model: Option<String>,
    /// Key of the server
    #[arg(long, value_name = "KEY", env = "OPENAI_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The served model's tokenizer (a model as for -m): prompts are sent as tokens, split as the harness splits them
    #[arg(long, value_name = "MODEL", requires = "base_url")]
    tokenizer: Option<String>,
    /// Requests in flight at the server
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Tries after the first one where a server fails or is busy
    #[arg(long, value_name = "N", default_value_t = 6)]
    retries: u32,
    /// Most requests a minute that the server takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: Option<u32>,
    /// Write the requests as JSON Lines and stop
    #[arg(long, value_name = "FILE", conflicts_with_all = ["answers", "output"])]
    requests: Option<PathBuf>,
    /// Score the answers in this file (JSON Lines, also .gz; or samples_*.jsonl) instead of asking a model
    #[arg(long, value_name = "FILE")]
    answers: Vec<PathBuf>,
    /// Keep answers and results.json in this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write what was asked, answered and earned of every document to samples_TASK.jsonl
    #[arg(long, requires = "output")]
    log_samples: bool,
    /// Write a page with the table, charts and every item that works without a network
    #[arg(long, value_name = "FILE.html", requires = "output")]
    report: Option<PathBuf>,
    /// Let programs that the model wrote run here, in a sandbox (MBPP and its like)
    #[arg(long)]
    allow_code_execution: bool,
    /// Answers that are generated together [default: as many of 16 as memory has room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    batch_size: Option<u16>,
    /// Compute the context of every question anew, to measure what sharing saves
    #[arg(long, conflicts_with = "answers")]
    no_prefix_sharing: bool,
}

fn limit(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(|| "must be a number above 0".into())
}

/// Values as Python reads them: numbers, True and False; anything else is a text.
fn gen_kwargs(text: &str) -> Result<Map<String, Value>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("'{pair}' is not KEY=VALUE"))?;
        let value = match value {
            "true" | "True" => true.into(),
            "false" | "False" => false.into(),
            value => serde_json::from_str(value).ok().filter(Value::is_number).unwrap_or_else(|| value.into()),
        };
        Ok((key.trim().to_owned(), value))
    };
    text.split(',').map(pair).collect()
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    if let Some(finished) = &args.finished {
        return finished::run(finished, output);
    }
    let mut registry = Registry::built_in()?;
    args.include.iter().try_for_each(|file| registry.include(file))?;
    if args.list {
        print(&registry.names().join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut plan = parts(&args, &registry)?;
    let recorded = if args.answers.is_empty() { None } else { Some(Recorded::open(&args.answers)?) };
    if plan.suite.is_some() {
        plan.leave_out(&args, recorded.as_ref(), output);
    }
    let data = match &args.data {
        Some(dir) => data::Source::folder(dir),
        None => data::Source::hub(Hub::from_env()?),
    };
    let asks = args.requests.is_none() && recorded.is_none();
    let chats = plan.parts.iter().any(|part| part.chat && part.left_out.is_none());
    let own_template = chats && matches!(args.apply_chat_template.as_deref(), None | Some(""));
    let mut subject = match &args.base_url {
        Some(_) if !asks => None,
        Some(_) => Some(Subject::Remote(model::remote(&args, output)?)),
        None if asks || own_template => Some(Subject::Local(Box::new(model::open_model(&args, output)?))),
        None => None,
    };
    let chat = if chats { Some(model::chat(&args, subject.as_mut())?) } else { None };
    let template = chat.as_ref().map(|(_, source)| source.clone());
    let chat = chat.as_ref().map(|(render, _)| &**render as &Chat);
    let settings = |part: &Part| Settings {
        num_fewshot: part.num_fewshot,
        fewshot_seed: args.fewshot_seed,
        limit: args.limit,
        system_instruction: args.system_instruction.as_deref(),
        chat: chat.filter(|_| part.chat),
        fewshot_as_multiturn: args.fewshot_as_multiturn,
        conversation: args.base_url.is_some() && own_template,
        generate: args.gen_kwargs.as_ref(),
        seed: args.seed,
    };
    let bars = Bars::new(output);
    let mut ready: Vec<Ready<'_>> = Vec::new();
    let mut missing: Vec<(String, String)> = Vec::new();
    for part in plan.parts.iter().filter(|part| part.left_out.is_none()) {
        // Each part is a run of the harness of its own, with its generator.
        let random = Arc::new(Mutex::new(Random::new(args.seed)));
        let settings = settings(part);
        let prepared = part.tasks.iter().map(|task| Prepared::load(task, &data, &settings, &random, &bars));
        match prepared.collect::<Result<Vec<_>, _>>() {
            Ok(prepared) => ready.push(Ready { part, prepared, settings }),
            // A table is worth having without a row whose rows can't be had.
            Err(error @ (sol_eval::Error::NoData { .. } | sol_eval::Error::Hub(_))) if plan.suite.is_some() => {
                note(output, &format!("{} is left out: {error}", part.name));
                missing.push((part.name.clone(), error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if ready.is_empty() {
        bail!("there is nothing left to ask");
    }
    if let Some(shots) = args.num_fewshot {
        let fixed = ready.iter().flat_map(|r| &r.prepared).filter(|p| p.task().fewshot.fixed && p.n_shot() != shots);
        let fixed: Vec<&str> = fixed.map(|p| p.task().name.as_str()).collect();
        if !fixed.is_empty() {
            note(output, &format!("--num-fewshot does not change {}, by its definition", fixed.join(", ")));
        }
    }
    if args.fewshot_as_multiturn && ready.iter().flat_map(|r| &r.prepared).all(|p| p.n_shot() == 0) {
        bail!("--fewshot-as-multiturn needs examples; --num-fewshot asks for them");
    }
    if let Some(file) = &args.requests {
        return write::requests(file, &ready);
    }
    let origins = write::origins(&data, &ready, &bars)?;
    drop(bars);
    let run = ask::Run { args: &args, registry: &registry, plan: &plan, ready: &ready, missing, template, origins, output };
    run.ask(subject.as_mut(), recorded.as_ref())
}

/// A part of a run with its rows.
struct Ready<'a> {
    part: &'a Part,
    prepared: Vec<Prepared>,
    settings: Settings<'a>,
}
