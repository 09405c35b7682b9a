//! A model behind an OpenAI-compatible server.
//!
//! Log-likelihoods are those of an echoed prompt (`/completions` with `echo` and `logprobs`), texts come from `/completions` or
//! `/chat/completions`. With the model's tokenizer at hand prompts are sent as tokens, cut and split as the harness does it; without
//! one as text, and the server's tokens are found in the text by where they begin.
//!
//! Read in this order: this file (what is asked, where answers go), `crew` (who asks), `wire` (how a question and an answer are
//! written), `client` (requests, retries, refusals).

mod client;
mod crew;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use sol_text::{Message, Tokenizer};

use self::client::{Client, server};
use self::crew::{Came, Crew, Job, Part, Shared, Work};
use self::wire::{Generate, Prompt, Score};
use super::split::{Splitter, eos, hash_tokens};
use super::{Cost, Model};
use crate::document::{Answer, Ask, Document, GenKwargs};
use crate::hash::digits;
use crate::python::text::rstrip;
use crate::{Error, Result};

/// The harness's for servers that do not say.
const MAX_LENGTH: usize = 2048;
/// How often the caller is asked whether to stop.
const POLL: Duration = Duration::from_millis(50);
/// Retries of the first request: whoever mistyped an address should not wait for long.
const FIRST_RETRIES: u32 = 2;

/// Where a server is and how it is asked.
pub struct RemoteOptions {
    /// Address up to and with `/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Requests in flight.
    pub concurrency: usize,
    /// Tries after the first one, of each request.
    pub retries: u32,
    /// Pause before the first of these; it doubles.
    pub backoff: Duration,
    /// For a whole request with its answer.
    pub timeout: Duration,
    /// Where the server counts them.
    pub requests_per_minute: Option<u32>,
    /// The model's tokenizer: prompts are then sent as tokens.
    pub tokenizer: Option<Tokenizer>,
    /// Whether tokenised prompts begin with BOS. The harness's do not.
    pub add_bos: bool,
    /// Most tokens of a prompt and its answer; only counted with a tokenizer. `None`: what the server says, or 2048.
    pub max_length: Option<usize>,
}

impl RemoteOptions {
    /// The usual ones.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key: None,
            concurrency: 16,
            retries: 6,
            backoff: Duration::from_millis(500),
            timeout: Duration::from_secs(600),
            requests_per_minute: None,
            tokenizer: None,
            add_bos: false,
            max_length: None,
        }
    }
}

/// A model behind an OpenAI-compatible server.
pub struct Remote {
    shared: Arc<Shared>,
    concurrency: usize,
    tokenizer: Option<Tokenizer>,
    add_bos: bool,
    max_length: usize,
    /// What the server says of the model, wherever it stands.
    listed: Vec<Value>,
    cost: Cost,
}

/// A conversation as a context, for the server to render: what lm-evaluation-harness gives chat endpoints.
pub fn conversation(messages: &[Message]) -> String {
    serde_json::to_string(messages).unwrap_or_default()
}

/// The conversation that a document's context is, if it is one.
fn messages(document: &Document) -> Option<Vec<Message>> {
    document.conversation.then(|| serde_json::from_str(&document.context).ok())?
}

/// A document's answer as it grows.
#[derive(Default)]
struct Growing {
    parts: Vec<Option<Part>>,
    missing: usize,
}

impl Remote {
    /// Greets the server: a wrong address or key is known at once. (A server that lists no models is fine.)
    pub fn new(options: RemoteOptions) -> Result<Self> {
        let client = Client::new(&options)?;
        let listed =
            match client.ask("models", None, options.retries.min(FIRST_RETRIES), &AtomicBool::new(false), &|_| String::new()) {
                Ok(text) => describe(&text, &options.model),
                Err(Error::Refused { status: 400 | 403 | 404 | 405 | 501, .. }) => Vec::new(),
                Err(e) => return Err(e),
            };
        let longest = listed.iter().filter_map(|fact| fact.get("max_model_len")).find_map(Value::as_u64);
        let max_length = options.max_length.or(longest.map(|n| n as usize)).unwrap_or(MAX_LENGTH);
        if max_length < 4 {
            return Err(server(&options.base_url, format!("a context of {max_length} tokens holds no question")));
        }
        let shared = Shared { client, model: options.model, retries: options.retries, takes_n: AtomicBool::new(true) };
        Ok(Self {
            shared: Arc::new(shared),
            concurrency: options.concurrency.max(1),
            tokenizer: options.tokenizer,
            add_bos: options.add_bos,
            max_length,
            listed,
            cost: Cost::default(),
        })
    }

    /// What to ask the server about a document.
    fn plan(&self, document: &Document, cost: &mut Cost) -> Result<Vec<Work>> {
        // One token is made, and it must fit too.
        let longest = self.max_length - 1;
        let splitter = self.tokenizer.as_ref().map(|tokenizer| Splitter { tokenizer, add_bos: self.add_bos, longest });
        let scored = |scorings: Vec<sol_engine::Scoring>| {
            let work = |s: sol_engine::Scoring| {
                let from = s.tokens.len() - s.continuation;
                Work::Score(Score { prompt: Prompt::Tokens(s.tokens), from, whole: false })
            };
            scorings.into_iter().map(work).collect()
        };
        if document.conversation && !matches!(document.ask, Ask::Generate(_)) {
            return Err(Error::Document {
                task: document.task.to_string(),
                doc_id: document.doc_id,
                problem: "log-likelihoods need the prompt's text, which the server's own chat template does not give; \
                          --apply-chat-template=chatml, or =FILE, renders it here"
                    .into(),
            });
        }
        Ok(match (&document.ask, &splitter) {
            (Ask::Choices(choices), Some(splitter)) => {
                let (scorings, truncated) = splitter.choices(document, choices)?;
                cost.truncated += u64::from(truncated);
                scored(scorings)
            }
            (Ask::Rolling, Some(splitter)) => scored(splitter.windows(document)?),
            (Ask::Choices(choices), None) => {
                let from = rstrip(&document.context).len();
                let prompt = |choice: &String| Prompt::Text(document.context.clone() + choice);
                choices.iter().map(|choice| Work::Score(Score { prompt: prompt(choice), from, whole: false })).collect()
            }
            (Ask::Rolling, None) if document.context.is_empty() => Vec::new(),
            (Ask::Rolling, None) => {
                vec![Work::Score(Score { prompt: Prompt::Text(document.context.clone()), from: 0, whole: true })]
            }
            (Ask::Generate(kwargs), splitter) => {
                vec![Work::Generate(self.generate(document, kwargs, splitter.as_ref(), cost)?)]
            }
        })
    }

    fn generate(
        &self,
        document: &Document,
        kwargs: &GenKwargs,
        splitter: Option<&Splitter<'_>>,
        cost: &mut Cost,
    ) -> Result<Generate> {
        let (prompt, max_tokens) = match (messages(document), splitter) {
            (Some(messages), _) => (Prompt::Messages(messages), kwargs.max_tokens(0)),
            (None, Some(splitter)) => {
                let (tokens, max_tokens, truncated) = splitter.prompt(document, kwargs, self.max_length)?;
                cost.truncated += u64::from(truncated);
                (Prompt::Tokens(tokens), max_tokens)
            }
            // Where the whole is limited, the answer is by as much: the prompt's tokens are the server's secret.
            (None, None) => (Prompt::Text(document.context.clone()), kwargs.max_tokens(0)),
        };
        let samples = kwargs.samples();
        Ok(Generate {
            prompt,
            max_tokens,
            temperature: kwargs.temperature(),
            top_p: kwargs.number("top_p"),
            top_k: kwargs.number("top_k").map(|k| k as u64).filter(|k| *k > 0),
            until: kwargs.until().map(str::to_owned).collect(),
            eos: self.eos().filter(|_| !kwargs.programs()),
            seed: kwargs.number("seed").unwrap_or(0.0) as u64 + (document.doc_id * samples) as u64,
            samples,
        })
    }

    fn deliver(
        &mut self,
        documents: &[Document],
        growing: &mut [Growing],
        (job, (part, cost)): (&Job, (Part, Cost)),
        each: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        self.cost.computed += cost.computed;
        self.cost.naive += cost.naive;
        self.cost.generated += cost.generated;
        let answer = &mut growing[job.document];
        answer.parts[job.part] = Some(part);
        answer.missing -= 1;
        if answer.missing > 0 {
            return Ok(());
        }
        each(job.document, std::mem::take(answer).answer(&documents[job.document].ask))
    }
}

impl Growing {
    fn answer(self, ask: &Ask) -> Answer {
        let (mut scores, mut texts) = (Vec::new(), Vec::new());
        for part in self.parts.into_iter().flatten() {
            match part {
                Part::Score(score, greedy) => scores.push((score, greedy)),
                Part::Texts(some) => texts.extend(some),
            }
        }
        match ask {
            Ask::Choices(_) => Answer::Choices(scores),
            Ask::Generate(_) => Answer::Texts(texts),
            // In the text's order, whatever order windows came in.
            Ask::Rolling => Answer::Rolling(scores.iter().fold(0.0, |sum, (score, _)| sum + score)),
        }
    }
}

impl Model for Remote {
    /// A hash of the model's name, of what the server says of it, of the tokens, and of the settings that change answers. The
    /// server's address is none: the same model may move.
    fn fingerprint(&mut self) -> String {
        let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
        if let Some(tokenizer) = &self.tokenizer {
            hash_tokens(tokenizer, &mut hash);
        }
        let length = self.tokenizer.as_ref().map(|_| (self.max_length, self.add_bos));
        hash.update(format!("server {:?} {:?}, {length:?}", self.shared.model, self.listed));
        digits(hash)
    }

    fn eos(&self) -> Option<String> {
        eos(self.tokenizer.as_ref()?)
    }

    fn cost(&self) -> Cost {
        self.cost
    }

    fn answer(
        &mut self,
        documents: &[Document],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        let mut growing = Vec::with_capacity(documents.len());
        let mut jobs = Vec::new();
        let mut cost = self.cost;
        for (document, asked) in documents.iter().enumerate() {
            let work = self.plan(asked, &mut cost)?;
            let parts = work.len();
            jobs.extend(work.into_iter().enumerate().map(|(part, work)| Job { document, part, work }));
            growing.push(Growing { parts: (0..parts).map(|_| None).collect(), missing: parts });
            if parts == 0 {
                each(document, Growing::default().answer(&asked.ask))?;
            }
        }
        self.cost = cost;
        let mut open = jobs.len();
        let crew = Crew::start(&self.shared, jobs, self.concurrency)?;
        let mut end = None;
        while open > 0 {
            let came: Option<Came> = match &end {
                None => match crew.answers.recv_timeout(POLL) {
                    Ok(came) => Some(came),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                // What has come is delivered; nothing is waited for.
                Some(_) => match crew.answers.try_recv() {
                    Ok(came) => Some(came),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                },
            };
            match came {
                Some((at, Ok(part))) => {
                    open -= 1;
                    self.deliver(documents, &mut growing, (crew.job(at), part), each)?;
                }
                Some((_, Err(e))) => end = end.or(Some(e)),
                None => {}
            }
            if end.is_none() && open > 0 && stop() {
                end = Some(Error::Interrupted);
            }
        }
        match end {
            Some(e) => Err(e),
            None if open > 0 => Err(server(&self.shared.client.url(""), "a thread that asked it died".into())),
            None => Ok(()),
        }
    }
}

/// What `/models` says of a model and stays the same from day to day.
fn describe(text: &[u8], model: &str) -> Vec<Value> {
    let list: Value = serde_json::from_slice(text).unwrap_or_default();
    let models = list.get("data").and_then(Value::as_array);
    let mut found = models.into_iter().flatten().filter(|entry| entry.get("id").and_then(Value::as_str) == Some(model));
    let facts = |entry: &Value| {
        let known = ["root", "owned_by", "max_model_len"].into_iter().filter_map(|key| {
            let value = entry.get(key).filter(|value| !value.is_null())?;
            Some(serde_json::json!({ key: value }))
        });
        known.collect()
    };
    found.next().map(facts).unwrap_or_default()
}
