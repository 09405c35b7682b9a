//! From logits to a token. The order of steps and their meaning are those of transformers' `generate`: logit bias and
//! penalties, then temperature, top-k, top-p, min-p and typical, each on what the one before left.

use crate::constraint::Allowed;
use crate::{Error, Result};

/// How to choose the next token. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest; higher is more varied.
    pub temperature: f32,
    /// Only the `k` likeliest; 0 is off.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability; 1 is off.
    pub top_p: f32,
    /// Only those at least this likely relative to the likeliest; 0 is off.
    pub min_p: f32,
    /// Only those whose surprise is closest to the expected, up to this probability (arXiv 2202.00666); 1 is off.
    pub typical_p: f32,
    /// Divides (or multiplies, where negative) logits of tokens in the prompt and the answer (arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time the answer has it; 0 is off.
    pub frequency_penalty: f32,
    /// Taken once from the logit of each token the answer has; 0 is off.
    pub presence_penalty: f32,
    /// Added to single tokens' logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Refuses values that have no meaning.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let bad = |option, value: f32, problem| Err(Error::BadOption { option, value: value.to_string(), problem });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("--temperature", self.temperature, "must be 0 (greedy) or above");
        }
        for (option, p) in [("--top-p", self.top_p), ("--typical-p", self.typical_p)] {
            if !(p > 0.0 && p <= 1.0) {
                return bad(option, p, "must be above 0 and at most 1");
            }
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("--min-p", self.min_p, "must be from 0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("--repetition-penalty", self.repetition_penalty, "must be above 0");
        }
        for (option, p) in [("--frequency-penalty", self.frequency_penalty), ("--presence-penalty", self.presence_penalty)] {
            if !p.is_finite() {
                return bad(option, p, "must be a finite number");
            }
        }
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(Error::UnknownToken { id: *id, vocab });
        }
        if let Some((_, bias)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            return bad("--logit-bias", *bias, "must be a number, or -inf to forbid the token");
        }
        Ok(())
    }
}

/// Chooses the tokens of one answer; its buffers are reused from token to token.
pub struct Sampler {
    options: Sampling,
    /// What is left after each step: `(token, logit or probability)`.
    candidates: Vec<(u32, f32)>,
    surprise: Vec<(f32, u32, f32)>,
    logits: Vec<f32>,
    /// How often the prompt or the answer, and the answer alone, have each token.
    seen: Vec<(u32, u32)>,
    step: u64,
}

impl Sampler {
    /// A sampler for an answer to `prompt`.
    pub fn new(options: Sampling, vocab: usize, prompt: &[u32]) -> Result<Self> {
        options.check(vocab)?;
        let mut seen = vec![(0, 0); vocab];
        for id in prompt {
            if let Some(seen) = seen.get_mut(*id as usize) {
                seen.0 += 1;
            }
        }
        Ok(Self { options, candidates: Vec::new(), surprise: Vec::new(), logits: Vec::new(), seen, step: 0 })
    }

    /// The next token.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        self.sample_among(logits, None)
    }

    /// The next token, one of those that are allowed.
    pub(crate) fn sample_among(&mut self, logits: &[f32], allowed: Option<&Allowed>) -> u32 {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.bias_and_penalties();
        if let Some(allowed) = allowed {
            allowed.apply(&mut self.logits);
            // Where a bias forbids all that is allowed, it is the bias that gives way.
            if self.logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
                self.logits.copy_from_slice(logits);
                allowed.apply(&mut self.logits);
            }
        }
        let id = if self.options.temperature == 0.0 { argmax(&self.logits) } else { self.draw() };
        self.step += 1;
        self.seen[id as usize].0 += 1;
        self.seen[id as usize].1 += 1;
        id
    }

    fn bias_and_penalties(&mut self) {
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, .. } = self.options;
        for (id, bias) in &self.options.logit_bias {
            self.logits[*id as usize] += bias;
        }
        if (repetition_penalty, frequency_penalty, presence_penalty) == (1.0, 0.0, 0.0) {
            return;
        }
        for (logit, (anywhere, answer)) in self.logits.iter_mut().zip(&self.seen) {
            if *anywhere > 0 {
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
            if *answer > 0 {
                *logit -= frequency_penalty * *answer as f32 + presence_penalty;
            }
        }
    }

    fn draw(&mut self) -> u32 {
        let mut rest = uniform(self.options.seed, self.step);
        let candidates = self.distribution();
        for (id, p) in candidates {
            rest -= p;
            if rest < 0.0 {
                return *id;
            }
        }
        // Rounding left a crumb: the likeliest.
        candidates.iter().copied().min_by(likelier).map_or(0, |x| x.0)
    }

    /// The tokens that can come, with their probabilities, by id.
    fn distribution(&mut self) -> &[(u32, f32)] {
        let Sampling { temperature, top_k, top_p, min_p, typical_p, .. } = self.options;
        let c = &mut self.candidates;
        c.clear();
        // Relative to the greatest, so that no temperature is too low to divide by.
        let max = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        c.extend(self.logits.iter().enumerate().map(|(id, logit)| (id as u32, (logit - max) / temperature)));
        if top_k > 0 && top_k < c.len() {
            let least = c.select_nth_unstable_by(top_k - 1, likelier).1.1;
            // Equals of the last stay too.
            c.retain(|x| x.1 >= least);
        }
        c.iter_mut().for_each(|x| x.1 = x.1.exp());
        normalise(c);
        if top_p < 1.0 {
            // All tokens below this share together fall short of 1 - top_p: the nucleus is among the others.
            let floor = (1.0 - top_p) / c.len() as f32;
            let best = c.iter().map(|x| x.1).fold(0.0, f32::max);
            c.retain(|x| x.1 >= floor.min(best));
            c.sort_unstable_by(likelier);
            let kept = reaching(c.iter().map(|x| x.1), top_p);
            c.truncate(kept);
            normalise(c);
        }
        if min_p > 0.0 {
            let best = c.iter().map(|x| x.1).fold(0.0, f32::max);
            c.retain(|x| x.1 >= min_p * best);
            normalise(c);
        }
        if typical_p < 1.0 {
            keep_typical(c, &mut self.surprise, typical_p);
            normalise(c);
        }
        // An order that no step before leaves to chance.
        c.sort_unstable_by_key(|x| x.0);
        c
    }
}

/// The first of the greatest.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, v)| if *v > best.1 { (i, *v) } else { best });
    best.0 as u32
}

/// Greater first, then by id.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn normalise(c: &mut [(u32, f32)]) {
    let sum: f64 = c.iter().map(|x| f64::from(x.1)).sum();
    c.iter_mut().for_each(|x| x.1 = (f64::from(x.1) / sum) as f32);
}

/// How many of the first probabilities it takes to reach `mass`; at least one.
fn reaching(probabilities: impl Iterator<Item = f32>, mass: f32) -> usize {
    let mut sum = 0.0f64;
    let before = probabilities.map(|p| {
        let before = sum;
        sum += f64::from(p);
        before
    });
    before.take_while(|before| *before < f64::from(mass)).count().max(1)
}

fn keep_typical(c: &mut Vec<(u32, f32)>, surprise: &mut Vec<(f32, u32, f32)>, mass: f32) {
    // What has become impossible surprises beyond measure.
    c.retain(|x| x.1 > 0.0);
    let entropy: f64 = c.iter().map(|x| -f64::from(x.1) * f64::from(x.1.ln())).sum();
    surprise.clear();
    surprise.extend(c.iter().map(|x| ((-x.1.ln() - entropy as f32).abs(), x.0, x.1)));
    surprise.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let kept = reaching(surprise.iter().map(|x| x.2), mass);
    c.clear();
    c.extend(surprise.iter().take(kept).map(|x| (x.1, x.2)));
}

/// Uniform in [0, 1), a function of seed and step alone (SplitMix64, Steele et al. 2014).
fn uniform(seed: u64, step: u64) -> f32 {
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    (mix(mix(seed) ^ step) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, 0.5, -1.0, 2.5];

    impl Sampler {
        /// A draw that leaves no trace in the penalties.
        fn draw_next(&mut self, logits: &[f32]) -> u32 {
            let id = self.sample(logits);
            self.seen.iter_mut().for_each(|s| *s = (0, 0));
            id
        }

        fn distribution_of(&mut self, logits: &[f32]) -> &[(u32, f32)] {
            self.logits = logits.to_vec();
            self.bias_and_penalties();
            self.distribution()
        }
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        vectors: HashMap<String, Vec<f32>>,
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        vector: String,
        prompt: Vec<u32>,
        setting: serde_json::Value,
        ids: Vec<u32>,
        probabilities: Vec<f32>,
    }

    /// Options by the names that transformers has for them.
    fn options(setting: &serde_json::Value) -> Sampling {
        let number = |key: &str, default: f32| setting[key].as_f64().map_or(default, |x| x as f32);
        let bias = setting["sequence_bias"].as_array().into_iter().flatten();
        Sampling {
            temperature: number("temperature", 1.0),
            top_k: number("top_k", 0.0) as usize,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
            typical_p: number("typical_p", 1.0),
            repetition_penalty: number("repetition_penalty", 1.0),
            logit_bias: bias.map(|b| (b[0][0].as_u64().unwrap() as u32, b[1].as_f64().unwrap() as f32)).collect(),
            ..Sampling::default()
        }
    }

    /// The golden is made by `xtools/make_sampling_fixtures.py`.
    #[test]
    fn what_is_left_and_how_likely_is_what_transformers_leaves() {
        let golden: Golden = serde_json::from_str(include_str!("../tests/data/sampling.json")).unwrap();
        assert!(golden.cases.len() > 100);
        for case in golden.cases {
            let logits = &golden.vectors[&case.vector];
            let mut sampler = Sampler::new(options(&case.setting), logits.len(), &case.prompt).unwrap();
            let got = sampler.distribution_of(logits);
            let place = format!("{}: {}", case.vector, case.setting);
            assert_eq!(got.iter().map(|x| x.0).collect::<Vec<_>>(), case.ids, "{place}");
            for ((id, p), expected) in got.iter().zip(&case.probabilities) {
                assert!((p - expected).abs() < 1e-6, "{place}: token {id} {p}, not {expected}");
            }
        }
    }

    #[test]
    fn extreme_settings_leave_the_likeliest() {
        let off = Sampling { temperature: 1.0, ..Sampling::default() };
        for extreme in [
            Sampling { temperature: f32::from_bits(1), ..off.clone() },
            Sampling { top_p: f32::MIN_POSITIVE, ..off.clone() },
            Sampling { temperature: 1e-30, typical_p: 0.5, ..off.clone() },
            Sampling { min_p: 1.0, ..off.clone() },
            Sampling { top_k: 1, top_p: 0.1, min_p: 1.0, typical_p: 0.1, ..off.clone() },
            Sampling { logit_bias: [0, 2, 3, 4, 5].map(|id| (id, f32::NEG_INFINITY)).to_vec(), ..off },
        ] {
            let mut sampler = Sampler::new(extreme.clone(), LOGITS.len(), &[]).unwrap();
            assert!((0..20).all(|_| sampler.draw_next(&LOGITS) == 1), "{extreme:?}");
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }, 6, &[]).unwrap();
        let expected = sampler.distribution_of(&LOGITS).to_vec();
        let n = 20_000;
        let mut counts = [0; 6];
        (0..n).for_each(|_| counts[sampler.draw_next(&LOGITS) as usize] += 1);
        for (id, p) in expected {
            let share = counts[id as usize] as f32 / n as f32;
            assert!((share - p).abs() < 0.015, "{id}: {share}, not {p}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_gives_others() {
        let draw = |seed| {
            let mut s = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() }, 6, &[]).unwrap();
            (0..50).map(|_| s.sample(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn penalties_and_bias_change_the_greedy_choice() {
        let greedy = |options: Sampling, prompt: &[u32]| {
            let mut s = Sampler::new(options, 6, prompt).unwrap();
            [s.sample(&LOGITS), s.sample(&LOGITS), s.sample(&LOGITS)]
        };
        let off = Sampling::default();
        assert_eq!(greedy(off.clone(), &[]), [1, 1, 1]);
        assert_eq!(greedy(Sampling { repetition_penalty: 2.0, ..off.clone() }, &[1])[0], 5);
        assert_eq!(greedy(Sampling { presence_penalty: 0.6, ..off.clone() }, &[1]), [1, 5, 1]);
        assert_eq!(greedy(Sampling { frequency_penalty: 0.6, ..off.clone() }, &[]), [1, 5, 1]);
        assert_eq!(greedy(Sampling { logit_bias: vec![(4, 100.0)], ..off }, &[]), [4, 4, 4]);
    }

    #[test]
    fn senseless_options_are_refused() {
        let off = Sampling::default();
        for bad in [
            Sampling { temperature: -1.0, ..off.clone() },
            Sampling { temperature: f32::NAN, ..off.clone() },
            Sampling { top_p: 0.0, ..off.clone() },
            Sampling { top_p: 7.0, ..off.clone() },
            Sampling { min_p: -0.1, ..off.clone() },
            Sampling { repetition_penalty: 0.0, ..off.clone() },
            Sampling { logit_bias: vec![(6, 1.0)], ..off },
        ] {
            assert!(bad.check(6).is_err(), "{bad:?}");
        }
    }
}
