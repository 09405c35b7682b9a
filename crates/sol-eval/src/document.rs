//! What crosses every border of this crate: a document with its question, a model's answer, the figures it earns.

use std::sync::Arc;

use serde_json::{Map, Value};

/// A row of a benchmark, made into a question.
#[derive(Clone, Debug)]
pub struct Document {
    /// Name of the leaf task.
    pub task: Arc<str>,
    /// 0-based row of the evaluated split.
    pub doc_id: usize,
    /// The row, with the columns that the task derives.
    pub row: Arc<Value>,
    /// The prompt.
    pub context: String,
    /// Whether that is a conversation, as JSON, which whoever answers is to make a prompt of.
    pub conversation: bool,
    /// What is asked about it.
    pub ask: Ask,
    /// What is right, as the harness logs it: a number or a text.
    pub target: Value,
}

/// What is asked about a context.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The log-likelihood of each of these continuations (with their leading delimiter). `loglikelihood`.
    Choices(Vec<String>),
    /// Continuations: one, or as many as `n_samples` says. `generate_until`.
    Generate(GenKwargs),
    /// The log-likelihood of the context itself, after nothing. `loglikelihood_rolling`.
    Rolling,
}

/// How to generate, in the harnesses' words and their order: `until`, `max_gen_toks` (most new tokens), `do_sample`, `temperature`,
/// `top_p`, `top_k`, …; and `max_length` (most tokens with the prompt's) and `n_samples` (texts wanted) where programs are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenKwargs(pub Map<String, Value>);

/// Most new tokens where a task does not say.
const MAX_GEN_TOKS: usize = 256;

impl GenKwargs {
    /// A number among them.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.0.get(key).and_then(Value::as_f64)
    }

    /// Texts that end an answer; one text may stand for a list of it.
    pub fn until(&self) -> impl Iterator<Item = &str> {
        let until = self.0.get("until");
        let one = until.and_then(Value::as_str);
        let many = until.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        one.into_iter().chain(many).filter(|text| !text.is_empty())
    }

    /// Most new tokens after a prompt of so many.
    pub fn max_tokens(&self, prompt: usize) -> usize {
        match self.number("max_length") {
            Some(whole) => (whole as usize).saturating_sub(prompt).max(1),
            None => self.number("max_gen_toks").map_or(MAX_GEN_TOKS, |n| n as usize),
        }
    }

    /// How many texts are wanted.
    pub fn samples(&self) -> usize {
        self.number("n_samples").map_or(1, |n| (n as usize).max(1))
    }

    /// Seed of sampled texts, spread over all bits.
    pub fn seed(&self) -> u64 {
        (self.number("seed").unwrap_or(0.0) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// 0 where the likeliest token is to be taken.
    pub fn temperature(&self) -> f64 {
        let samples = self.0.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
        if samples { self.number("temperature").unwrap_or(1.0) } else { 0.0 }
    }

    /// Whether these are programs: whole texts with their special tokens, after a prompt that begins as the tokenizer wants it.
    pub fn programs(&self) -> bool {
        self.0.contains_key("max_length")
    }

    /// What comes of a text before each of `until`, and `eos`, in turn.
    pub fn cut<'a>(&self, text: &'a str, eos: Option<&str>) -> &'a str {
        let stops = self.until().chain(eos.filter(|eos| !eos.is_empty()));
        stops.fold(text, |text, stop| text.split(stop).next().unwrap_or_default())
    }

    /// Refuses settings that are not known, or make no sense.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in &self.0 {
            let number = value.as_f64();
            let whole = |least: f64, most: f64| number.is_some_and(|n| n.fract() == 0.0 && (least..=most).contains(&n));
            let (good, wanted) = match key.as_str() {
                "until" => (value.is_string() || value.as_array().is_some_and(|a| a.iter().all(Value::is_string)), "texts"),
                "do_sample" => (value.is_boolean(), "true or false"),
                "temperature" => (number.is_some_and(|t| (0.0..=1000.0).contains(&t)), "a number from 0"),
                "top_p" => (number.is_some_and(|p| p > 0.0 && p <= 1.0), "a number above 0, at most 1"),
                "top_k" => (whole(0.0, 1e9), "a whole number from 0"),
                "max_gen_toks" | "max_length" => (whole(1.0, 1e7), "a whole number from 1"),
                "n_samples" => (whole(1.0, 1000.0), "a whole number from 1 to 1000"),
                "seed" => (whole(0.0, 9e15), "a whole number from 0"),
                _ => {
                    let known = "until, max_gen_toks, do_sample, temperature, top_p, top_k, max_length, n_samples, seed";
                    return Err(format!("there is no setting '{key}' of generation; there are {known}"));
                }
            };
            if !good {
                return Err(format!("'{key}' is {value}, but must be {wanted}"));
            }
        }
        Ok(())
    }
}

/// A model's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Ask::Choices`]: natural log-likelihood, and whether greedy decoding would say just that.
    Choices(Vec<(f64, bool)>),
    /// To [`Ask::Generate`]: each text up to its end.
    Texts(Vec<String>),
    /// To [`Ask::Rolling`]: natural log-likelihood of the whole text.
    Rolling(f64),
}

/// A figure that a document earned.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Name of the filter that the answer went through; `none` where there was none.
    pub filter: String,
    /// The metric's name.
    pub metric: String,
    /// How well.
    pub value: f64,
    /// What `value` counts for in the task's figure.
    pub share: Share,
}

/// What a document's figure counts for in its task's.
#[derive(Clone, Debug, PartialEq)]
pub enum Share {
    /// One of the mean.
    Document,
    /// Each of these flags one of the mean; `value` is how many are true.
    Flags(Vec<bool>),
    /// `value` is a log-likelihood, of so many words or bytes.
    Units(f64),
}

/// What a document earned and what was made of the answer on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// What each filter made of the answer, by its name.
    pub filtered: Vec<(String, String)>,
    /// The figures.
    pub figures: Vec<Figure>,
}
