//! How tokens are chosen: the model's own defaults, with what the command line says over them.

use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

use sol_engine::Sampling;

/// Flags; the library says what each means and checks their values.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling (defaults: the model's own; greedy where it has none)")]
pub(super) struct SamplingArgs {
    /// 0 takes the likeliest token (greedy); higher is more varied
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Only the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Only the likeliest tokens that together reach the probability P; 1 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest; 0 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Only tokens whose surprise is near the expected, up to the probability P; 1 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Divides logits of tokens that prompt or answer have already; 1 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Taken from a token's logit for each time the answer has it; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Taken once from the logit of each token the answer has; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Added to a token's logit, as 42=-3.5 (-inf forbids it); can be given more than once
    #[arg(long, value_name = "ID=BIAS")]
    logit_bias: Vec<Bias>,
    /// Same seed, same text [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// `ID=BIAS`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bias(u32, f32);

impl FromStr for Bias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, bias) = text.split_once(['=', ':']).ok_or("write it as ID=BIAS, for example 42=-3.5")?;
        let id = id.trim().parse().map_err(|_| format!("'{id}' is no token id"))?;
        Ok(Self(id, bias.trim().parse().map_err(|_| format!("'{bias}' is no number"))?))
    }
}

/// The temperature where a flag asks for sampling and nobody says how warm.
const PLAIN: f32 = 1.0;

impl SamplingArgs {
    /// These flags over a model's defaults, and what the user should know about the outcome.
    pub(super) fn over(&self, defaults: &Sampling) -> (Sampling, Option<String>) {
        let mut sampling = Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical_p.unwrap_or(defaults.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            logit_bias: defaults.logit_bias.iter().copied().chain(self.logit_bias.iter().map(|b| (b.0, b.1))).collect(),
            seed: self.seed.unwrap_or_else(any_seed),
        };
        let mut remark = None;
        if sampling.temperature == 0.0 {
            match (self.filter(), self.temperature) {
                (Some(flag), None) => {
                    sampling.temperature = PLAIN;
                    remark = Some(format!("{flag} asks for sampling: the temperature is {PLAIN} (--temperature sets another)"));
                }
                (Some(flag), Some(_)) => remark = Some(format!("{flag} has no effect at temperature 0")),
                (None, None) if self.seed.is_some() => {
                    remark =
                        Some("--seed has no effect on greedy answers; --temperature 0.8, for example, makes them vary".into());
                }
                _ => {}
            }
        }
        (sampling, remark)
    }

    /// A flag that means something only if tokens are drawn.
    fn filter(&self) -> Option<&'static str> {
        let flags = [
            ("--top-k", self.top_k.is_some_and(|k| k != 0)),
            ("--top-p", self.top_p.is_some_and(|p| p != 1.0)),
            ("--min-p", self.min_p.is_some_and(|p| p != 0.0)),
            ("--typical-p", self.typical_p.is_some_and(|p| p != 1.0)),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// A seed that differs from run to run; short enough to type again.
pub(super) fn any_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_over_the_models_defaults() {
        let defaults = Sampling { temperature: 0.6, top_p: 0.9, ..Sampling::default() };
        let args = SamplingArgs { top_p: Some(0.5), seed: Some(3), ..SamplingArgs::default() };
        let expected = Sampling { top_p: 0.5, seed: 3, ..defaults.clone() };
        assert_eq!(args.over(&defaults), (expected, None));
    }

    #[test]
    fn a_filter_alone_turns_sampling_on_and_says_so() {
        let args = SamplingArgs { min_p: Some(0.1), ..SamplingArgs::default() };
        let (sampling, remark) = args.over(&Sampling::default());
        assert_eq!(sampling.temperature, 1.0);
        assert!(remark.unwrap().contains("--min-p"));
        let greedy = SamplingArgs { temperature: Some(0.0), ..args };
        let (sampling, remark) = greedy.over(&Sampling::default());
        assert_eq!(sampling.temperature, 0.0);
        assert!(remark.unwrap().contains("no effect"));
        let off = SamplingArgs { top_k: Some(0), ..SamplingArgs::default() };
        assert_eq!(off.over(&Sampling::default()).0.temperature, 0.0);
    }

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!("7=-1.5".parse(), Ok(Bias(7, -1.5)));
        assert_eq!("7:2".parse(), Ok(Bias(7, 2.0)));
        assert_eq!("7=-inf".parse(), Ok(Bias(7, f32::NEG_INFINITY)));
        for bad in ["7", "x=1", "7=x", "=", "-1=2"] {
            assert!(bad.parse::<Bias>().is_err(), "{bad}");
        }
    }
}
