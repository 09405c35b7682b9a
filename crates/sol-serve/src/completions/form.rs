//! How plain completions say what the engine says.

use serde_json::{Map, Value, json};
use sol_engine::{Event, TokenLogprob};
use sol_text::{TokenStream, Tokenizer};

use crate::answer::Form;
use crate::ask::{Usage, reason};
use crate::chat::finite;
use crate::params::Settings;
use crate::{created, new_id};

/// A prompt that is given back in front of its answer.
pub(crate) struct Echo {
    pub(super) text: String,
    /// Tokens in front that stand for nothing in the text.
    pub(super) added: usize,
}

/// A choice as it grows.
struct Answer {
    text: String,
    logprobs: Logprobs,
    finish: &'static str,
    /// Where the next token's text begins, in characters.
    offset: usize,
    /// Tells how long tokens are as text.
    stream: TokenStream,
}

/// The four lists.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<Value>,
    own: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl Logprobs {
    fn json(self) -> Value {
        json!({"tokens": self.tokens, "token_logprobs": self.own, "top_logprobs": self.top, "text_offset": self.offsets})
    }
}

pub(super) struct CompletionForm {
    id: String,
    created: u64,
    model: String,
    n: usize,
    include_usage: bool,
    tokenizer: Tokenizer,
    logprobs: bool,
    echoes: Option<Vec<Echo>>,
    answers: Vec<Answer>,
}

impl CompletionForm {
    pub(super) fn new(
        model: String,
        settings: &Settings,
        tokenizer: Tokenizer,
        logprobs: bool,
        echoes: Option<Vec<Echo>>,
        choices: usize,
    ) -> Self {
        let answer = || Answer {
            text: String::new(),
            logprobs: Logprobs::default(),
            finish: "",
            offset: 0,
            stream: tokenizer.stream(false).continuing(),
        };
        let answers = (0..choices).map(|_| answer()).collect();
        let (id, created) = (new_id("cmpl"), created());
        Self { id, created, model, n: settings.n, include_usage: settings.include_usage, tokenizer, logprobs, echoes, answers }
    }

    fn head(&self) -> Value {
        json!({"id": self.id, "object": "text_completion", "created": self.created, "model": self.model})
    }

    /// Takes an event; its text, its log-probabilities, and the reason if it is the end.
    fn take(&mut self, choice: usize, event: Event) -> (String, Option<Logprobs>, Option<&'static str>) {
        match event {
            Event::Read { logprobs, .. } => {
                let Some(echo) = self.echoes.as_ref().map(|echoes| &echoes[choice / self.n]) else {
                    return (String::new(), None, None);
                };
                let (text, added) = (echo.text.clone(), echo.added);
                // A text begins as the tokenizer's texts do.
                self.answers[choice].stream = self.tokenizer.stream(false);
                let mut lists = Logprobs::default();
                for (i, logprob) in logprobs.iter().enumerate() {
                    self.add(choice, logprob, i < added, &mut lists);
                }
                self.answers[choice].offset = text.chars().count();
                self.answers[choice].stream = self.tokenizer.stream(false).continuing();
                (text, self.logprobs.then_some(lists), None)
            }
            Event::Token { text, logprob, .. } => {
                let lists = logprob.map(|logprob| {
                    let mut lists = Logprobs::default();
                    self.add(choice, &logprob, false, &mut lists);
                    lists
                });
                (text, lists, None)
            }
            Event::Done { text, finish } => (text, None, Some(reason(finish))),
            Event::Failed(_) => (String::new(), None, None),
        }
    }

    /// One token more; `silent` where the text does not have it.
    fn add(&mut self, choice: usize, logprob: &TokenLogprob, silent: bool, lists: &mut Logprobs) {
        let token = |id: u32| String::from_utf8_lossy(&self.tokenizer.token_bytes(id)).into_owned();
        let answer = &mut self.answers[choice];
        lists.tokens.push(token(logprob.id).into());
        lists.own.push(finite(logprob.logprob).into());
        lists.top.push(match logprob.logprob {
            None => Value::Null,
            // The token itself is always among them.
            own => {
                let mut top: Map<String, Value> = Map::new();
                let all = logprob.top.iter().map(|(id, logprob)| (*id, Some(*logprob))).chain([(logprob.id, own)]);
                for (id, logprob) in all {
                    top.entry(token(id)).or_insert(finite(logprob).into());
                }
                top.into()
            }
        });
        lists.offsets.push(answer.offset.into());
        if !silent {
            answer.offset += answer.stream.push(logprob.id).chars().count();
        }
    }

    fn chunk(&self, choice: usize, text: String, logprobs: Option<Logprobs>, finish: Option<&str>) -> Value {
        let mut chunk = self.head();
        let logprobs = logprobs.map(Logprobs::json);
        chunk["choices"] = json!([{"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish}]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl Form for CompletionForm {
    fn chunks(&mut self, choice: usize, event: Event) -> Vec<Value> {
        let (text, logprobs, finish) = self.take(choice, event);
        if text.is_empty() && logprobs.is_none() && finish.is_none() {
            return Vec::new();
        }
        vec![self.chunk(choice, text, logprobs, finish)]
    }

    fn collect(&mut self, choice: usize, event: Event) {
        let (text, lists, finish) = self.take(choice, event);
        let answer = &mut self.answers[choice];
        answer.text += &text;
        if let Some(lists) = lists {
            answer.logprobs.tokens.extend(lists.tokens);
            answer.logprobs.own.extend(lists.own);
            answer.logprobs.top.extend(lists.top);
            answer.logprobs.offsets.extend(lists.offsets);
        }
        answer.finish = finish.unwrap_or(answer.finish);
    }

    fn whole(&mut self, usage: Usage) -> Value {
        let with_logprobs = self.logprobs;
        let choice = |(i, answer): (usize, Answer)| {
            let logprobs = with_logprobs.then(|| answer.logprobs.json());
            json!({"index": i, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish})
        };
        let choices: Vec<Value> = std::mem::take(&mut self.answers).into_iter().enumerate().map(choice).collect();
        let mut whole = self.head();
        whole["choices"] = choices.into();
        whole["usage"] = usage.json();
        whole
    }

    fn usage(&self, usage: Usage) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.head();
            chunk["choices"] = json!([]);
            chunk["usage"] = usage.json();
            chunk
        })
    }
}
