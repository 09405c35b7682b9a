//! The fields that chat and plain completions share, and what they mean to the engine.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use sol_engine::Sampling;

use crate::error::{Refused, Result};
use crate::guided::{Guided, ResponseFormat, Shape, shape};

/// Most answers of one request.
pub(crate) const CHOICES: usize = 128;
/// Most stop strings, and bytes of each.
const STOPS: usize = 64;
const STOP_BYTES: usize = 1024;
/// Most alternatives of a token with log-probabilities.
pub(crate) const TOP_LOGPROBS: usize = 20;

/// As clients write them. Fields that are not here are ignored, as OpenAI's server does.
#[derive(Deserialize)]
pub(crate) struct Params {
    pub(crate) model: Option<String>,
    pub(crate) max_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    n: Option<i64>,
    best_of: Option<i64>,
    stop: Option<OneOrMany>,
    seed: Option<i64>,
    logit_bias: Option<BTreeMap<String, f64>>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(rename = "user")]
    _user: Option<String>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    ignore_eos: Option<bool>,
    response_format: Option<ResponseFormat>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
    structured_outputs: Option<Guided>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// `"a"` or `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// What they mean.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) sampling: Sampling,
    /// Answers to each prompt.
    pub(crate) n: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

impl Params {
    /// Checks them. What is not given is as the model's authors ask for; greedy where they ask for nothing.
    pub(crate) fn settings(&self, defaults: &Sampling, vocab: usize) -> Result<Settings> {
        let n = self.n.unwrap_or(1);
        let n = usize::try_from(n).ok().filter(|n| (1..=CHOICES).contains(n));
        let n = n.ok_or_else(|| out_of_range("n", self.n, format!("from 1 to {CHOICES}")))?;
        if self.best_of.is_some_and(|best| best != n as i64) {
            return Err(Refused::unsupported("best_of", "choosing the best of more answers than are returned is"));
        }
        let include_usage = self.stream_options.as_ref().and_then(|options| options.include_usage);
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(Refused::field("stream_options", "'stream_options' is only allowed with 'stream': true"));
        }
        Ok(Settings {
            sampling: self.sampling(defaults, vocab)?,
            n,
            stop: self.stops()?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            stream: self.stream.unwrap_or(false),
            include_usage: include_usage.unwrap_or(false),
        })
    }

    /// The form that the answer must have.
    pub(crate) fn shape(&mut self) -> Result<Option<Shape>> {
        let guided =
            Guided::new(self.guided_json.take(), self.guided_regex.take(), self.guided_choice.take(), self.guided_grammar.take());
        shape(self.response_format.take(), guided, self.structured_outputs.take())
    }

    fn sampling(&self, defaults: &Sampling, vocab: usize) -> Result<Sampling> {
        let number = |name: &str, given: Option<f64>, default: f32, valid: &dyn Fn(f64) -> bool, range: &str| match given {
            Some(value) if !valid(value) => Err(out_of_range(name, given, range)),
            given => Ok(given.map_or(default, |value| value as f32)),
        };
        let within = |from: f64, to: f64| move |value: f64| (from..=to).contains(&value);
        let penalty = within(-2.0, 2.0);
        let top_k = match self.top_k {
            None => defaults.top_k,
            Some(k) => usize::try_from(k.max(0)).unwrap_or(usize::MAX),
        };
        if self.top_k.is_some_and(|k| k < -1) {
            return Err(out_of_range("top_k", self.top_k, "at least 1, or 0 or -1 for no limit"));
        }
        let mut sampling = Sampling {
            temperature: number("temperature", self.temperature, defaults.temperature, &within(0.0, 2.0), "from 0 to 2")?,
            top_p: number("top_p", self.top_p, defaults.top_p, &within(0.0, 1.0), "from 0 to 1")?,
            min_p: number("min_p", self.min_p, defaults.min_p, &within(0.0, 1.0), "from 0 to 1")?,
            top_k,
            typical_p: defaults.typical_p,
            repetition_penalty: number(
                "repetition_penalty",
                self.repetition_penalty,
                defaults.repetition_penalty,
                &within(0.01, 100.0),
                "from 0.01 to 100",
            )?,
            presence_penalty: number("presence_penalty", self.presence_penalty, 0.0, &penalty, "from -2 to 2")?,
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, 0.0, &penalty, "from -2 to 2")?,
            logit_bias: self.bias(vocab)?,
            seed: self.seed.map_or_else(|| fastrand::u64(..), |seed| seed as u64),
        };
        // The likeliest alone.
        sampling.top_p = sampling.top_p.max(f32::MIN_POSITIVE);
        let draws = self.top_p.is_some_and(|p| p < 1.0)
            || self.min_p.is_some_and(|p| p > 0.0)
            || self.top_k.is_some_and(|k| k > 0)
            || self.n.is_some_and(|n| n > 1);
        if self.temperature.is_none() && sampling.temperature == 0.0 && draws {
            sampling.temperature = 1.0;
        }
        Ok(sampling)
    }

    fn bias(&self, vocab: usize) -> Result<Vec<(u32, f32)>> {
        let entry = |(id, bias): (&String, &f64)| {
            let name = format!("logit_bias.{id}");
            if !(-100.0..=100.0).contains(bias) {
                return Err(out_of_range(&name, Some(*bias), "from -100 to 100"));
            }
            match id.parse::<u32>() {
                Ok(token) if (token as usize) < vocab => Ok((token, *bias as f32)),
                _ => Err(Refused::field(name, format!("'logit_bias': '{id}' is not a token id (0 to {})", vocab - 1))),
            }
        };
        self.logit_bias.iter().flatten().map(entry).collect()
    }

    fn stops(&self) -> Result<Vec<String>> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop.clone()],
            Some(OneOrMany::Many(stops)) => stops.clone(),
        };
        if stops.len() > STOPS {
            let message = format!("'stop' has {} strings; at most {STOPS} are allowed", stops.len());
            return Err(Refused::field("stop", message));
        }
        if stops.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES) {
            return Err(Refused::field("stop", format!("'stop': each string must have from 1 to {STOP_BYTES} bytes")));
        }
        Ok(stops)
    }
}

/// The refusal of a number.
pub(crate) fn out_of_range(name: &str, given: Option<impl std::fmt::Display>, range: impl std::fmt::Display) -> Refused {
    let given = given.map_or("null".into(), |value| value.to_string());
    Refused::field(name, format!("'{name}' is {given}: it must be {range}"))
}

/// A number of new tokens, at least `least`.
pub(crate) fn new_tokens(name: &str, given: Option<i64>, least: usize) -> Result<Option<usize>> {
    let valid = |n: i64| usize::try_from(n).ok().filter(|n| *n >= least);
    given.map(|n| valid(n).ok_or_else(|| out_of_range(name, given, format!("at least {least}")))).transpose()
}
