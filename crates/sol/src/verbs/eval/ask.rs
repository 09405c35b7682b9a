//! Asking a model, or a file of answers, and showing what came of it.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use sol_eval::document::{Answer, Document, Scored, Share};
use sol_eval::log::{AnswerLog, Recorded};
use sol_eval::metrics::{Execute, Metrics};
use sol_eval::model::{Cost, Local, Model};
use sol_eval::results::{TaskResult, groups, json as results_json, table};
use sol_eval::run::{Listener, Source, run as run_task};
use sol_eval::samples::Samples;
use sol_eval::sandbox::Sandbox;
use sol_eval::suite::{Entry, Row};
use sol_eval::task::{Judge, Registry};

use super::model::Subject;
use super::plan::Plan;
use super::{Args, Ready, finished, write};
use crate::common::{Meter, Output, note, print, say};
use crate::ctrl_c::{CtrlC, Patience};

/// What ends recorded texts: the models of the card speak ChatML.
const RECORDED_END: &str = "<|im_end|>";

/// All that is known before anything is asked.
pub(super) struct Run<'a> {
    pub(super) args: &'a Args,
    pub(super) registry: &'a Registry,
    pub(super) plan: &'a Plan,
    pub(super) ready: &'a [Ready<'a>],
    /// Rows of a table whose data is missing, and why.
    pub(super) missing: Vec<(String, String)>,
    /// Source of the chat template.
    pub(super) template: Option<String>,
    /// What the rows were read from.
    pub(super) origins: Map<String, Value>,
    pub(super) output: &'a Output,
}

impl Run<'_> {
    pub(super) fn ask(self, mut subject: Option<&mut Subject>, recorded: Option<&Recorded>) -> Result<ExitCode> {
        let Self { args, output, .. } = self;
        if let Some(dir) = &args.output {
            std::fs::create_dir_all(dir).with_context(|| format!("can not make the folder {}", dir.display()))?;
        }
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
        let fingerprint = model.as_mut().map(|model| match args.run.how.rope_factors {
            None => model.fingerprint(),
            Some(_) => format!("{}, rope factors {:?}", model.fingerprint(), args.run.options().rope_factors),
        });
        let mut log = match (&args.output, &fingerprint) {
            (Some(dir), Some(fingerprint)) => Some(AnswerLog::open(&dir.join("answers.jsonl"), fingerprint)?),
            _ => None,
        };
        let ctrl_c = CtrlC::install(Patience::None)?;
        let stop = ctrl_c.interrupt();
        let tasks = || self.ready.iter().flat_map(|ready| &ready.prepared);
        let programs = tasks().any(|prepared| prepared.task().judge == Some(Judge::Programs));
        let sandbox = if programs && args.allow_code_execution { Some(sandbox(output)?) } else { None };
        let run_programs = |programs: &[String]| {
            let Some(sandbox) = &sandbox else { return Ok(Vec::new()) };
            Ok(sandbox.run(programs, &|| stop.is_set())?.iter().map(ToString::to_string).collect())
        };
        let execute = sandbox.is_some().then_some(&run_programs as &Execute<'_>);
        // What must fail fails before anything is asked.
        tasks().try_for_each(|prepared| Metrics::new(prepared.task(), prepared.random(), execute).map(drop))?;
        let start = (Instant::now(), SystemTime::now());
        let (mut results, mut resumed, mut entries): (Vec<TaskResult>, usize, Vec<(&str, Entry)>) = (Vec::new(), 0, Vec::new());
        let mut refused: Vec<(String, String)> = Vec::new();
        for Ready { part, prepared, settings } in self.ready {
            let before = results.len();
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
                let mut source = match (&mut model, recorded) {
                    (Some(model), _) => Source::Model(&mut **model, log.as_mut()),
                    (None, Some(recorded)) => Source::Recorded(recorded, RECORDED_END),
                    (None, None) => bail!("there is nobody to ask"),
                };
                let result = run_task(prepared, settings, &mut source, execute, &|| stop.is_set(), &mut progress);
                resumed += if recorded.is_none() { progress.known } else { 0 };
                drop(progress.meter);
                match (result, &args.output) {
                    // A server without log-likelihoods can still generate.
                    (Err(error @ sol_eval::Error::Refused { .. }), _) if self.plan.suite.is_some() => {
                        note(output, &format!("{} is left out: {error}", part.name));
                        refused.push((part.name.clone(), error.to_string()));
                        results.truncate(before);
                        break;
                    }
                    (Err(error), Some(dir)) if recorded.is_none() => {
                        let dir = dir.display();
                        note(output, &format!("the answers so far are in {dir}: the same command goes on from there"));
                        return Err(error.into());
                    }
                    (result, _) => results.push(result?),
                }
                progress.samples.map(Samples::finish).transpose()?;
            }
            let row = self.plan.suite.as_ref().and_then(|suite| suite.rows.iter().find(|row| row.name == part.name));
            entries.extend(row.and_then(|row| Some((part.name.as_str(), row.entry(&results[before..])?))));
        }
        let groups = groups(self.registry, &results);
        let cost = model.as_ref().map(|model| model.cost()).unwrap_or_default();
        let mut json = results_json(&results, &groups);
        let suite = self.plan.suite.as_ref().map(|suite| {
            let of = |row: &Row| entries.iter().find(|(name, _)| *name == row.name).map(|(_, entry)| entry.clone());
            (suite, suite.rows.iter().map(of).collect::<Vec<_>>())
        });
        if let Some((suite, entries)) = &suite {
            let known = self.plan.parts.iter().filter_map(|part| Some((part.name.clone(), part.left_out?.to_owned())));
            let left_out = known.chain(self.missing.iter().chain(&refused).cloned()).map(|(name, why)| (name, why.into()));
            let mut table = suite.json(entries);
            table["left_out"] = left_out.collect::<Map<_, _>>().into();
            json.insert("suite".into(), table);
        }
        self.settings(&mut json, fingerprint, recorded.is_some());
        json.insert("data".into(), self.origins.clone().into());
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
        if let Some((suite, entries)) = &suite {
            print(&suite.table(&self.name(), entries))?;
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

    /// What a table calls the model.
    fn name(&self) -> String {
        if !self.args.answers.is_empty() {
            return "answers".into();
        }
        let model = self.args.served_model.as_ref().unwrap_or(&self.args.run.model.model).trim_end_matches('/');
        let name = model.rsplit('/').next().unwrap_or(model);
        name.strip_suffix(".gguf").unwrap_or(name).to_owned()
    }

    /// Everything that a figure depends on.
    fn settings(&self, json: &mut Map<String, Value>, fingerprint: Option<String>, recorded: bool) {
        let args = self.args;
        let model = args.served_model.as_ref().unwrap_or(&args.run.model.model);
        let model = if recorded { Value::Null } else { model.clone().into() };
        let options = args.run.options();
        json.insert("model".into(), model.clone());
        json.insert("model_name".into(), model);
        let source = match &args.base_url {
            _ if recorded => "answers",
            Some(url) => url,
            None => "solarium",
        };
        json.insert("model_source".into(), source.into());
        json.insert("model_fingerprint".into(), fingerprint.into());
        json.insert(
            "config".into(),
            json!({
                "model": json["model"], "limit": args.limit, "num_fewshot": args.num_fewshot, "gen_kwargs": args.gen_kwargs,
                "random_seed": args.seed, "fewshot_seed": args.fewshot_seed, "batch_size": args.batch_size,
                "context": options.context, "kv": options.kv_type.map(|kv| format!("{kv:?}")), "no_window": options.no_window,
                "rope_factors": options.rope_factors.map(|factors| format!("{factors:?}")), "device": "cpu",
                "suite": self.plan.suite.as_ref().map(|suite| &suite.name), "tasks": args.tasks,
                "answers": args.answers, "tokenizer": args.tokenizer, "prefix_sharing": !args.no_prefix_sharing,
            }),
        );
        let chats = self.ready.iter().filter(|ready| ready.part.chat).flat_map(|ready| &ready.part.tasks);
        json.insert("chat_template".into(), self.template.clone().into());
        json.insert("chat_template_tasks".into(), chats.map(|task| task.name.as_str()).collect());
        json.insert("fewshot_as_multiturn".into(), args.fewshot_as_multiturn.into());
        json.insert("system_instruction".into(), args.system_instruction.clone().into());
        json.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        json.insert("git_hash".into(), option_env!("SOL_GIT_HASH").into());
    }
}

/// Where programs run. What this machine can not enforce is said before any does.
fn sandbox(output: &Output) -> Result<Sandbox> {
    let sandbox = Sandbox::new(sol_eval::sandbox::Options::default())?;
    let python = sandbox.python_version();
    note(
        output,
        &format!("programs that the model writes run in a sandbox, with Python {python}; memory is limited for each process"),
    );
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
