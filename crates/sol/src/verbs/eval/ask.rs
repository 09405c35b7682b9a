//! Asking a model, or a file of answers, and showing what came of it.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use sol_eval::document::{Answer, Document, Scored, Share};
use sol_eval::log::{AnswerLog, Recorded};
use sol_eval::metrics::Execute;
use sol_eval::model::{Cost, Local, Model};
use sol_eval::results::{TaskResult, groups, json as results_json, table};
use sol_eval::run::{Listener, Source, run as run_task};
use sol_eval::samples::Samples;
use sol_eval::sandbox::Sandbox;
use sol_eval::suite::Entry;
use sol_eval::task::{Judge, Registry};

use super::model::Subject;
use super::plan::Plan;
use super::{Args, Ready, finished, write};
use crate::common::{Meter, Output, note, print, say};
use crate::ctrl_c::{CtrlC, Patience};

/// What ends recorded texts: the models of the card speak ChatML.
const RECORDED_END: &str = "<|im_end|>";

pub(super) fn all(
    args: &Args,
    registry: &Registry,
    plan: &Plan,
    ready: &[Ready<'_>],
    mut subject: Option<&mut Subject>,
    origins: Map<String, Value>,
    output: &Output,
) -> Result<ExitCode> {
    if let Some(dir) = &args.output {
        std::fs::create_dir_all(dir).with_context(|| format!("can not make the folder {}", dir.display()))?;
    }
    let recorded = if args.answers.is_empty() { None } else { Some(Recorded::open(&args.answers)?) };
    let mut local = None;
    let mut model: Option<&mut dyn Model> = match &mut subject {
        Some(_) if recorded.is_some() => None,
        Some(Subject::Local(model)) => {
            let model = Local::new(model);
            Some(local.insert(if args.no_prefix_sharing { model.without_sharing() } else { model }))
        }
        Some(Subject::Remote(model)) => Some(model),
        None => None,
    };
    let fingerprint = model.as_mut().map(|model| match args.run.rope_factors {
        None => model.fingerprint(),
        Some(_) => format!("{}, rope factors {:?}", model.fingerprint(), args.run.options().rope_factors),
    });
    let mut log = match (&args.output, &fingerprint) {
        (Some(dir), Some(fingerprint)) => Some(AnswerLog::open(&dir.join("answers.jsonl"), fingerprint)?),
        _ => None,
    };
    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let programs = ready.iter().flat_map(|ready| &ready.part.tasks).any(|task| task.judge == Some(Judge::Programs));
    let sandbox = if programs && args.allow_code_execution { Some(sandbox(output)?) } else { None };
    let run_programs = |programs: &[String]| {
        let Some(sandbox) = &sandbox else { return Ok(Vec::new()) };
        Ok(sandbox.run(programs, &|| stop.is_set())?.iter().map(ToString::to_string).collect())
    };
    let execute = sandbox.is_some().then_some(&run_programs as &Execute<'_>);
    let start = (Instant::now(), SystemTime::now());
    let (mut results, mut resumed, mut entries): (Vec<TaskResult>, usize, Vec<Option<Entry>>) = (Vec::new(), 0, Vec::new());
    let mut left_out: Map<String, Value> = Map::new();
    for (row, Ready { part, prepared, settings, left_out: why }) in ready.iter().enumerate() {
        let before = results.len();
        let missing = match (&plan.suite, &recorded) {
            (None, _) => None,
            (Some(_), Some(recorded)) if !part.tasks.iter().any(|task| recorded.has(&task.name)) => {
                Some("there are no answers to it")
            }
            (Some(_), _) if execute.is_none() && part.tasks.iter().any(|task| task.judge == Some(Judge::Programs)) => {
                Some("it runs programs that a model wrote; --allow-code-execution lets it")
            }
            _ => None,
        };
        if let Some(missing) = missing.filter(|_| why.is_none()) {
            note(output, &format!("{} is left out: {missing}", part.name));
            left_out.insert(part.name.clone(), missing.into());
            entries.push(None);
            continue;
        }
        for prepared in prepared {
            let task = prepared.task();
            let eos = match &model {
                Some(model) => model.eos(),
                None => Some(RECORDED_END.to_owned()),
            };
            let samples = match (&args.output, args.log_samples || args.report.is_some()) {
                (Some(dir), true) => Some(Samples::create(dir, &task.name, eos)?),
                _ => None,
            };
            let meter = Meter::new(output, prepared.limited(args.limit) as u64, "documents");
            meter.say(task.name.clone());
            let mut progress = Progress { meter, task: &task.name, known: 0, sum: (0.0, 0.0), samples };
            let mut source = match (&mut model, &recorded) {
                (Some(model), _) => Source::Model(&mut **model, log.as_mut()),
                (None, Some(recorded)) => Source::Recorded(recorded, RECORDED_END),
                (None, None) => bail!("there is nobody to ask"),
            };
            let result = run_task(prepared, settings, &mut source, execute, &|| stop.is_set(), &mut progress);
            resumed += if recorded.is_none() { progress.known } else { 0 };
            drop(progress.meter);
            match (result, &args.output) {
                (Err(error @ sol_eval::Error::Interrupted), Some(dir)) => {
                    note(output, &format!("the answers so far are in {}: the same command goes on from there", dir.display()));
                    return Err(error.into());
                }
                (result, _) => results.push(result?),
            }
            progress.samples.map(Samples::finish).transpose()?;
        }
        left_out.extend(why.iter().map(|why| (part.name.clone(), why.as_str().into())));
        entries.push(plan.suite.as_ref().and_then(|suite| suite.rows[row].entry(&results[before..])));
    }
    let groups = groups(registry, &results);
    let cost = model.as_ref().map(|model| model.cost()).unwrap_or_default();
    let mut json = results_json(&results, &groups);
    if let Some(suite) = &plan.suite {
        let mut table = suite.json(&entries);
        table["left_out"] = left_out.into();
        json.insert("suite".into(), table);
    }
    settings(&mut json, args, plan, fingerprint, recorded.is_some());
    json.insert("data".into(), origins.into());
    if let Some(sandbox) = &sandbox {
        json.insert("sandbox".into(), json!({ "python": sandbox.python_version(), "not_enforced": sandbox.missing() }));
    }
    json.insert("cost".into(), cost_json(cost, resumed, start.0));
    time(&mut json, start);
    let text = serde_json::to_string_pretty(&json)?;
    if let Some(dir) = &args.output {
        write::whole(&dir.join("results.json"), text.as_bytes())?;
    }
    if let (Some(dir), Some(page)) = (&args.output, &args.report) {
        finished::page(dir, page, output)?;
    }
    if output.json {
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(suite) = &plan.suite {
        print(&suite.table(&name(args), &entries))?;
    }
    print(table(&results, &groups).trim_end())?;
    if recorded.is_none() {
        let share = cost.naive as f64 / cost.computed.max(1) as f64;
        let mut line = match args.base_url {
            Some(_) => format!("{} tokens read, {} made", cost.naive, cost.generated),
            None => format!("{} tokens computed ({share:.1} times fewer than one by one)", cost.computed),
        };
        line += &format!(", {:.0} s", start.0.elapsed().as_secs_f64());
        if cost.truncated > 0 {
            line += &format!("; {} prompts lost their beginning to the context (--ctx)", cost.truncated);
        }
        note(output, &line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where programs run. What this machine can not enforce is said before any does.
fn sandbox(output: &Output) -> Result<Sandbox> {
    let sandbox = Sandbox::new(sol_eval::sandbox::Options::default())?;
    note(output, &format!("programs that the model writes run in a sandbox, with Python {}", sandbox.python_version()));
    // Said even when quiet: it is for the user to know what may happen.
    sandbox.missing().iter().for_each(|missing| say(&format!("the sandbox is not whole: {missing}")));
    Ok(sandbox)
}

/// Shows how far a task is and what it scores, and logs its samples.
struct Progress<'a> {
    meter: Meter,
    task: &'a str,
    known: usize,
    /// Of the first figure: values and what they count for.
    sum: (f64, f64),
    samples: Option<Samples>,
}

impl Listener for Progress<'_> {
    fn answered(&mut self, known: bool) {
        self.known += usize::from(known);
        self.meter.step();
    }

    fn scored(&mut self, scored: &Scored) {
        let Some(figure) = scored.figures.first() else { return };
        let counts = match &figure.share {
            Share::Document => 1.0,
            Share::Flags(flags) => flags.len() as f64,
            Share::Units(units) => *units,
        };
        self.sum = (self.sum.0 + figure.value, self.sum.1 + counts);
        self.meter.say(format!("{} {} {:.4}", self.task, figure.metric, self.sum.0 / self.sum.1));
    }

    fn done(&mut self, document: &Document, answer: &Answer, scored: &Scored) -> sol_eval::Result<()> {
        self.samples.as_mut().map_or(Ok(()), |samples| samples.push(document, answer, scored))
    }
}

fn name(args: &Args) -> String {
    let model = args.served_model.as_ref().unwrap_or(&args.run.model.model);
    Path::new(model).file_stem().map_or_else(|| model.clone(), |stem| stem.to_string_lossy().into_owned())
}

/// Everything that a figure depends on.
fn settings(json: &mut Map<String, Value>, args: &Args, plan: &Plan, fingerprint: Option<String>, recorded: bool) {
    let model = args.served_model.as_ref().unwrap_or(&args.run.model.model);
    let model = if recorded { Value::Null } else { model.clone().into() };
    let options = args.run.options();
    json.insert("model".into(), model.clone());
    json.insert("model_name".into(), model);
    json.insert(
        "model_source".into(),
        match &args.base_url {
            _ if recorded => "answers".into(),
            Some(url) => url.as_str().into(),
            None => "solarium".into(),
        },
    );
    json.insert("model_fingerprint".into(), fingerprint.into());
    json.insert(
        "config".into(),
        json!({
            "model": json["model"], "limit": args.limit, "num_fewshot": args.num_fewshot, "gen_kwargs": args.gen_kwargs,
            "random_seed": args.seed, "fewshot_seed": args.fewshot_seed, "batch_size": args.batch_size,
            "context": options.context, "kv": options.kv_type.map(|kv| format!("{kv:?}")), "device": "cpu",
            "suite": plan.suite.as_ref().map(|suite| &suite.name), "tasks": args.tasks,
            "answers": args.answers, "prefix_sharing": !args.no_prefix_sharing,
        }),
    );
    json.insert("chat_template".into(), args.apply_chat_template.clone().into());
    json.insert("fewshot_as_multiturn".into(), args.fewshot_as_multiturn.into());
    json.insert("system_instruction".into(), args.system_instruction.clone().into());
    json.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    json.insert("git_hash".into(), option_env!("SOL_GIT_HASH").into());
}

fn cost_json(cost: Cost, resumed: usize, start: Instant) -> Value {
    json!({ "computed_tokens": cost.computed, "naive_tokens": cost.naive, "generated_tokens": cost.generated,
        "truncated": cost.truncated, "resumed": resumed, "seconds": start.elapsed().as_secs_f64() })
}

/// In the harness's words, seconds since 1970.
fn time(json: &mut Map<String, Value>, start: (Instant, SystemTime)) {
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    json.insert("date".into(), since(start.1).into());
    json.insert("start_time".into(), since(start.1).into());
    json.insert("end_time".into(), since(SystemTime::now()).into());
    json.insert("total_evaluation_time_seconds".into(), format!("{}", start.0.elapsed().as_secs_f64()).into());
}
