//! Threads that ask a server what is to be asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::Value;

use super::client::{Client, server};
use super::wire::{Generate, NO_ECHO, Prompt, Reply, Score};
use crate::model::Cost;
use crate::{Error, Result};

/// What every thread that asks needs.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) model: String,
    pub(super) retries: u32,
    /// The server takes `n`, as far as known.
    pub(super) takes_n: AtomicBool,
}

/// A question to the server: one part of a document's answer.
pub(super) struct Job {
    pub(super) document: usize,
    pub(super) part: usize,
    pub(super) work: Work,
}

pub(super) enum Work {
    Score(Score),
    Generate(Generate),
}

/// What a question earned.
pub(super) enum Part {
    Score(f64, bool),
    Texts(Vec<String>),
}

/// Which job, and what became of it.
pub(super) type Came = (usize, Result<(Part, Cost)>);

impl Shared {
    fn run(&self, work: &Work, halt: &AtomicBool) -> Result<(Part, Cost)> {
        let mut cost = Cost::default();
        let part = match work {
            Work::Score(score) => {
                let hint = |status: u16| match (status, &score.prompt) {
                    (400 | 422, Prompt::Text(_) | Prompt::Messages(_)) => format!("; {NO_ECHO}"),
                    (400 | 422, Prompt::Tokens(_)) => {
                        format!("; {NO_ECHO}, and prompts of tokens where --tokenizer is given")
                    }
                    _ => String::new(),
                };
                let reply = self.post("completions", &score.body(&self.model), halt, &hint, &mut cost)?;
                cost.generated = 0;
                let (sum, greedy) = score.read(&reply).map_err(|problem| server(&self.client.url("completions"), problem))?;
                Part::Score(sum, greedy)
            }
            Work::Generate(generate) => Part::Texts(self.texts(generate, halt, &mut cost)?),
        };
        Ok((part, cost))
    }

    /// As many as are wanted: in one request where the server does that, else one by one, with other seeds.
    fn texts(&self, generate: &Generate, halt: &AtomicBool, cost: &mut Cost) -> Result<Vec<String>> {
        let mut texts: Vec<String> = Vec::new();
        while texts.len() < generate.samples {
            let missing = generate.samples - texts.len();
            let n = if self.takes_n.load(Ordering::Relaxed) { missing } else { 1 };
            let body = generate.body(&self.model, texts.len(), n);
            let hint = |_| match generate.prompt {
                Prompt::Tokens(_) => "; a server that takes no prompts of tokens is asked without --tokenizer".to_owned(),
                Prompt::Text(_) | Prompt::Messages(_) => String::new(),
            };
            let reply = match self.post(generate.path(), &body, halt, &hint, cost) {
                Err(Error::Refused { status: 400 | 422, .. }) if n > 1 => {
                    self.takes_n.store(false, Ordering::Relaxed);
                    continue;
                }
                reply => reply?,
            };
            let come = generate.read(reply).map_err(|problem| server(&self.client.url(generate.path()), problem))?;
            if come.len() < n {
                self.takes_n.store(false, Ordering::Relaxed);
            }
            texts.extend(come.into_iter().take(missing));
        }
        Ok(texts)
    }

    fn post(&self, path: &str, body: &Value, halt: &AtomicBool, hint: &dyn Fn(u16) -> String, cost: &mut Cost) -> Result<Reply> {
        let text = self.client.ask(path, Some(body), self.retries, halt, hint)?;
        let reply = Reply::parse(&text).map_err(|problem| server(&self.client.url(path), problem))?;
        let (prompt, cached, made) = reply.usage();
        cost.computed += prompt - cached;
        cost.naive += prompt;
        cost.generated += made;
        Ok(reply)
    }
}

/// Threads that ask. They are not waited for: a slow server must not hold up whoever wants to stop. Once this is dropped they ask
/// nothing more.
pub(super) struct Crew {
    plan: Arc<Plan>,
    /// What came of the jobs, in any order. A thread whose job failed is gone.
    pub(super) answers: Receiver<Came>,
}

struct Plan {
    jobs: Vec<Job>,
    next: AtomicUsize,
    halt: AtomicBool,
}

impl Crew {
    pub(super) fn start(shared: &Arc<Shared>, jobs: Vec<Job>, threads: usize) -> Result<Self> {
        let threads = threads.min(jobs.len());
        // Room for all: no thread ever waits to hand over.
        let (sender, answers) = sync_channel(jobs.len());
        let plan = Arc::new(Plan { jobs, next: AtomicUsize::new(0), halt: AtomicBool::new(false) });
        let crew = Self { plan, answers };
        let url = shared.client.url("");
        for _ in 0..threads {
            let (plan, shared, sender) = (Arc::clone(&crew.plan), Arc::clone(shared), sender.clone());
            let thread = std::thread::Builder::new().name("sol-eval-ask".into());
            let failed = |e| server(&url, format!("no thread to ask it: {e}; --concurrency asks for fewer"));
            thread.spawn(move || plan.work(&shared, &sender)).map_err(failed)?;
        }
        Ok(crew)
    }

    pub(super) fn job(&self, at: usize) -> &Job {
        &self.plan.jobs[at]
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.plan.halt.store(true, Ordering::Relaxed);
    }
}

impl Plan {
    fn work(&self, shared: &Shared, came: &SyncSender<Came>) {
        while !self.halt.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(at) else { return };
            let result = shared.run(&job.work, &self.halt);
            let failed = result.is_err();
            if came.send((at, result)).is_err() || failed {
                return;
            }
        }
    }
}
