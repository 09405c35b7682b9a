//! Questions and answers as the OpenAI API writes them, and as the servers that imitate it do.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sol_text::Message;

use super::client::shown;

/// Texts that end an answer: the API takes no more of them.
const STOPS: usize = 4;
/// Tokens that a server may have put in front of a prompt.
const ADDED: usize = 2;

/// What a server that does not echo is told.
pub(super) const NO_ECHO: &str = "this server gives no log-likelihoods of a prompt; multiple-choice and perplexity tasks need \
                                  /v1/completions with echo and logprobs";

/// A prompt, as text, as tokens, or as a conversation that the server renders.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Messages(Vec<Message>),
}

/// How likely is the end of a prompt?
pub(super) struct Score {
    pub(super) prompt: Prompt,
    /// First byte, or token, of that end.
    pub(super) from: usize,
    /// Nothing is in front of it: the first token, of which no likelihood is known, counts nothing.
    pub(super) whole: bool,
}

impl Score {
    pub(super) fn body(&self, model: &str) -> Value {
        // Some servers make no less than one token.
        json!({
            "model": model, "prompt": self.prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true,
        })
    }

    /// Log-likelihood, and whether every token is the likeliest.
    pub(super) fn read(&self, reply: &Reply) -> Result<(f64, bool), String> {
        let choice = reply.choices.first().ok_or(NO_ECHO)?;
        let logprobs = choice.logprobs.as_ref().ok_or(NO_ECHO)?;
        let scores = &logprobs.token_logprobs;
        let range = match &self.prompt {
            Prompt::Messages(_) => return Err(NO_ECHO.into()),
            Prompt::Text(text) => {
                let echoed = choice.text.as_ref().is_some_and(|echo| echo.contains(text.trim()));
                logprobs.span(text, self.from, echoed)?
            }
            Prompt::Tokens(tokens) => {
                // With or without the token that was made.
                if scores.len() < tokens.len() {
                    return Err(NO_ECHO.into());
                }
                if scores.len() > tokens.len() + 1 {
                    let counts = format!("{} tokens were sent and {} came back", tokens.len(), scores.len());
                    return Err(format!("{counts}: this server changes prompts made of tokens; leave out --tokenizer"));
                }
                self.from..tokens.len()
            }
        };
        if range.is_empty() || range.end > scores.len() {
            return Err(NO_ECHO.into());
        }
        let (mut sum, mut greedy) = (0.0, true);
        for i in range {
            match scores[i] {
                Some(score) => sum += score,
                None if i == 0 && self.whole => continue,
                None if i == 0 => {
                    return Err("nothing is in front of the continuation, so its first token has no log-likelihood; \
                                with --tokenizer DIR the token that begins texts is put there"
                        .into());
                }
                None => return Err(format!("the log-likelihood of token {i} is null")),
            }
            greedy &= scores[i].is_some_and(|score| logprobs.is_top(i, score));
        }
        Ok((sum, greedy))
    }
}

/// What comes after a prompt?
pub(super) struct Generate {
    pub(super) prompt: Prompt,
    pub(super) max_tokens: usize,
    pub(super) temperature: f64,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<u64>,
    pub(super) until: Vec<String>,
    pub(super) eos: Option<String>,
    /// Of the first text.
    pub(super) seed: u64,
    pub(super) samples: usize,
}

impl Generate {
    fn chat(&self) -> bool {
        matches!(self.prompt, Prompt::Messages(_))
    }

    pub(super) fn path(&self) -> &'static str {
        if self.chat() { "chat/completions" } else { "completions" }
    }

    /// Asks for `n` texts from the `first` on.
    pub(super) fn body(&self, model: &str, first: usize, n: usize) -> Value {
        let mut body = json!({
            "model": model, "max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed + first as u64,
        });
        body[if self.chat() { "messages" } else { "prompt" }] = json!(self.prompt);
        if !self.until.is_empty() {
            body["stop"] = json!(&self.until[..self.until.len().min(STOPS)]);
        }
        if n > 1 {
            body["n"] = n.into();
        }
        if self.temperature > 0.0 {
            // What is not said is not sent: not every server knows top_k.
            if let Some(top_p) = self.top_p {
                body["top_p"] = top_p.into();
            }
            if let Some(top_k) = self.top_k {
                body["top_k"] = top_k.into();
            }
        }
        body
    }

    /// The texts, each up to its end.
    pub(super) fn read(&self, reply: Reply) -> Result<Vec<String>, String> {
        let mut choices = reply.choices;
        choices.sort_by_key(|choice| choice.index);
        let texts = choices.into_iter().map(|choice| {
            let text = match choice.message {
                // A model that only thought, or called a tool, has said nothing.
                Some(message) => message.content.unwrap_or_default(),
                None => choice.text.ok_or("the answer holds no text")?,
            };
            Ok(self.cut(text))
        });
        texts.collect()
    }

    /// Servers stop at four texts at most, and some leave the one they stopped at.
    fn cut(&self, mut text: String) -> String {
        for end in self.until.iter().chain(&self.eos) {
            if let Some(at) = text.find(end.as_str()) {
                text.truncate(at);
            }
        }
        text
    }
}

/// An answer.
/// What is null is as good as missing.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

#[derive(Deserialize)]
pub(super) struct Reply {
    #[serde(default, deserialize_with = "or_default")]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, deserialize_with = "or_default")]
    index: usize,
    text: Option<String>,
    message: Option<Said>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default, deserialize_with = "or_default")]
    prompt_tokens: u64,
    #[serde(default, deserialize_with = "or_default")]
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Reply {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let reply: Self = serde_json::from_slice(text).map_err(|e| {
            let begins = shown(&String::from_utf8_lossy(&text[..text.len().min(80)]));
            format!("the answer is not what the OpenAI API says: {e}; it begins '{begins}'")
        })?;
        match (&reply.error, reply.choices.is_empty()) {
            (Some(error), true) if !error.is_null() => {
                let message = error.get("message").and_then(Value::as_str);
                Err(format!("it answers with an error: {}", shown(message.unwrap_or(&error.to_string()))))
            }
            (_, true) => Err("the answer is empty: it has no choices".into()),
            _ => Ok(reply),
        }
    }

    /// Tokens of the prompt, those of them that the server knew already, and tokens made.
    pub(super) fn usage(&self) -> (u64, u64, u64) {
        self.usage.as_ref().map_or((0, 0, 0), |usage| {
            let cached = usage.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens).unwrap_or(0);
            (usage.prompt_tokens, cached.min(usage.prompt_tokens), usage.completion_tokens)
        })
    }
}

/// The likeliest tokens at a place.
type Top = HashMap<String, Option<f64>>;

#[derive(Deserialize)]
struct Logprobs {
    #[serde(default, deserialize_with = "or_default")]
    tokens: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Option<Vec<Option<Top>>>,
    text_offset: Option<Vec<i64>>,
}

impl Logprobs {
    /// Which tokens are the prompt's end from byte `from` on. A token that begins before it belongs to what is before, unless it is
    /// all there is. `echoed` says whether the answer's text holds the prompt.
    fn span(&self, prompt: &str, from: usize, echoed: bool) -> Result<Range<usize>, String> {
        let (starts, from, end) = match self.starts(prompt) {
            Some(starts) => (starts, from as i64, prompt.len() as i64),
            // As the API has it: in characters, and a text that it is hard to say of tokens.
            // Of a server that echoes nothing, the tokens would be others.
            None if !echoed => return Err(NO_ECHO.into()),
            None => {
                let starts = self.text_offset.clone().filter(|offsets| offsets.len() == self.tokens.len()).ok_or(NO_ECHO)?;
                let added = self.tokens.first().filter(|first| is_mark(first) && !prompt.starts_with(first.as_str()));
                let added = added.and(starts.get(1)).copied().unwrap_or(0);
                let chars = |text: &str| text.chars().count() as i64;
                let starts: Vec<i64> = starts.iter().map(|start| start - added).collect();
                if starts.first().is_none_or(|first| *first > 0) {
                    return Err(NO_ECHO.into());
                }
                (starts, chars(&prompt[..from]), chars(prompt))
            }
        };
        let begin = starts.iter().position(|start| *start >= from).unwrap_or(starts.len());
        let end = starts.iter().position(|start| *start >= end).unwrap_or(starts.len());
        Ok(if begin == end { begin.saturating_sub(1)..end } else { begin..end })
    }

    /// Where each token begins in the prompt, in bytes; `None` where their texts do not make it up (as those of halves of a letter).
    fn starts(&self, prompt: &str) -> Option<Vec<i64>> {
        (0..=ADDED.min(self.tokens.len())).find_map(|added| {
            let text = self.tokens[added..].concat();
            // Tokenizers of SentencePiece's kind put a space in front.
            let space = i64::from(!text.starts_with(prompt));
            if space == 1 && !text.strip_prefix(' ').is_some_and(|text| text.starts_with(prompt)) {
                return None;
            }
            let mut next = -space;
            let starts = self.tokens[added..].iter().map(|token| {
                let start = next.max(0);
                next += token.len() as i64;
                start
            });
            Some(std::iter::repeat_n(-1, added).chain(starts).collect())
        })
    }

    fn is_top(&self, i: usize, score: f64) -> bool {
        let top = self.top_logprobs.as_ref().and_then(|tops| tops.get(i)).and_then(Option::as_ref);
        top.is_some_and(|top| !top.is_empty() && top.values().flatten().all(|other| score >= *other))
    }
}

/// `<s>`, `<|begin_of_text|>` and the like.
fn is_mark(token: &str) -> bool {
    token.starts_with('<') && token.ends_with('>')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(context: &str, continuation: &str, logprobs: &Value) -> Result<(f64, bool), String> {
        let reply = json!({"choices": [{"text": format!("{context}{continuation}!"), "logprobs": logprobs}]});
        let reply = Reply::parse(reply.to_string().as_bytes())?;
        let prompt = Prompt::Text(format!("{context}{continuation}"));
        Score { prompt, from: crate::python::text::rstrip(context).len(), whole: false }.read(&reply)
    }

    #[test]
    fn a_continuation_begins_where_the_space_before_it_does() {
        let plain = json!({"tokens": ["A", ":", " b", "c", "!"], "token_logprobs": [null, -1, -2, -4, -8],
            "top_logprobs": [null, {":": -1}, {" b": -2, "x": -3}, {"c": -4}, {"?": -0.5}], "text_offset": [0, 1, 2, 4, 5]});
        assert_eq!(score("A:", " bc", &plain), Ok((-6.0, true)));
        assert_eq!(score("A: ", "bc", &plain), Ok((-6.0, true)));
        assert_eq!(score("A: b", "c", &plain), Ok((-4.0, true)));
        // The token made is left out though it is part of the echo, and a token on the border belongs to the context.
        assert_eq!(score("A", ": bc!", &plain), Ok((-15.0, false)));
        assert_eq!(score("A: bc", "!", &plain), Ok((-8.0, false)));
    }

    #[test]
    fn marks_and_spaces_that_servers_put_in_front() {
        let scores = json!([null, -1, -2, -4, -8]);
        let marked = json!({"tokens": ["<s>", " A", ":", " b", "!"], "token_logprobs": scores});
        assert_eq!(score("A:", " b", &marked), Ok((-4.0, false)));
        assert_eq!(score("", "A: b", &marked), Ok((-7.0, false)));
        // Halves of letters have no text of their own, so offsets in characters are all there is.
        let halves = json!({"tokens": ["<s>", "\u{fffd}", "\u{fffd}", " b", "!"], "token_logprobs": scores,
            "text_offset": [0, 3, 3, 4, 6]});
        assert_eq!(score("한", " b", &halves), Ok((-4.0, false)));
        let openai = json!({"tokens": ["bytes:\\xed", "bytes:\\x95\\x9c", "?", " b", "!"], "token_logprobs": scores,
            "text_offset": [0, 0, 1, 2, 4]});
        assert_eq!(score("한?", " b", &openai), Ok((-4.0, false)));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let nulls = json!({"tokens": ["A", " b", " c"], "token_logprobs": [null, -1, null], "text_offset": [0, 1, 3]});
        assert_eq!(score("A b", " c", &nulls).unwrap_err(), "the log-likelihood of token 2 is null");
        assert!(score("", "A b", &nulls).unwrap_err().contains("--tokenizer"));
        assert!(score("A", " z", &json!(null)).unwrap_err().contains("echo"));
        assert!(score("A", " z", &json!({"tokens": [" z"], "token_logprobs": [-1], "text_offset": [2]})).is_err());
        assert!(score("A", " z", &json!({"content": [{"token": "x", "logprob": -1}]})).unwrap_err().contains("echo"));
        for text in ["", "[1", "{\"choices\": []}", "{\"choices\": [{\"logprobs\": {\"token_logprobs\": [NaN]}}]}", "null"] {
            assert!(Reply::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_come_back_as_many_as_were_sent() {
        let sent = Score { prompt: Prompt::Tokens(vec![5, 6, 7]), from: 2, whole: false };
        let read = |scores: Value| {
            let reply =
                json!({"choices": [{"logprobs": {"token_logprobs": scores, "top_logprobs": [null, {"x": -1}, {"x": -2}]}}]});
            sent.read(&Reply::parse(reply.to_string().as_bytes()).unwrap())
        };
        assert_eq!(read(json!([null, -1, -2])), Ok((-2.0, true)));
        assert_eq!(read(json!([null, -1, -3, -4])), Ok((-3.0, false)));
        assert!(read(json!([null, -1, -2, -3, -4])).unwrap_err().contains("3 tokens were sent and 5 came back"));
        assert!(read(json!([-1])).unwrap_err().contains("echo"));
    }
}
