//! How many tokens of prompts a pass may read in which others are answered: as many as leave it short enough that no stream stalls.

/// Time that pieces of prompts may add to a pass, in passes without such.
const PROMPT_SHARE: f64 = 0.7;
/// Seconds that such a pass may take in any case: 50 tokens a second are more than anybody reads, and small models' prompts would
/// be read in crumbs.
const SHORT: f64 = 0.02;
/// Tokens of prompts that such a pass reads at least, and while nothing is known of its times.
const LEAST_PIECE: usize = 4;
/// What the newest pass weighs in what is known.
const WEIGHT: f64 = 0.2;

/// How long passes take.
#[derive(Default)]
pub(super) struct Pace {
    /// Requests answered, and seconds, of the last passes that did nothing else.
    answering: Option<(usize, f64)>,
    /// Seconds of one more row.
    row: Option<f64>,
}

impl Pace {
    /// Takes the time of a pass that answered `decoding` requests and read `prompt` tokens.
    pub(super) fn learn(&mut self, seconds: f64, decoding: usize, prompt: usize) {
        let blend = |old: f64, new: f64| old + WEIGHT * (new - old);
        if prompt == 0 {
            let known = self.answering.filter(|(requests, _)| *requests == decoding);
            self.answering = Some((decoding, known.map_or(seconds, |(_, old)| blend(old, seconds))));
        } else if let Some(answering) = self.answering(decoding) {
            let row = (seconds - answering).max(0.1 * seconds) / prompt as f64;
            self.row = Some(self.row.map_or(row, |old| blend(old, row)));
        }
    }

    /// Seconds of a pass that only answers so many.
    fn answering(&self, decoding: usize) -> Option<f64> {
        if decoding == 0 {
            return Some(0.0);
        }
        let (requests, seconds) = self.answering?;
        let more = (decoding as f64 - requests as f64) * self.row.unwrap_or(0.0);
        Some((seconds + more).max(seconds * (decoding as f64 / requests as f64).min(1.0)))
    }

    /// Tokens of prompts for a pass in which so many are answered.
    pub(super) fn piece(&self, decoding: usize) -> usize {
        match (self.answering(decoding), self.row) {
            (Some(answering), Some(row)) if row > 0.0 => {
                let room = (PROMPT_SHARE * answering).max(SHORT - answering);
                ((room / row) as usize).max(LEAST_PIECE)
            }
            _ => LEAST_PIECE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of a machine that takes `first` seconds for one row and `row` for each further one.
    fn settled(first: f64, row: f64, decoding: usize) -> (Pace, f64) {
        let seconds = |rows: usize| first + row * (rows as f64 - 1.0);
        let mut pace = Pace::default();
        pace.learn(seconds(500), 0, 500);
        pace.learn(seconds(1), 1, 0);
        let mut last = 0.0;
        for _ in 0..100 {
            let prompt = pace.piece(decoding);
            last = seconds(decoding + prompt);
            pace.learn(last, decoding, prompt);
        }
        (pace, last / seconds(decoding))
    }

    #[test]
    fn large_models_streams_are_slowed_by_the_share() {
        // The times of one are known, those of eight are derived.
        for decoding in [1, 8, 16] {
            let (pace, ratio) = settled(0.2, 0.01, decoding);
            assert!((1.5..1.75).contains(&ratio), "{decoding}: {ratio}");
            assert!(pace.piece(decoding) > LEAST_PIECE);
        }
    }

    #[test]
    fn small_models_read_prompts_as_fast_as_nobody_notices() {
        let (pace, ratio) = settled(0.003, 0.0005, 1);
        assert!((0.019..0.021).contains(&(0.003 * ratio)), "{ratio}");
        assert_eq!(Pace::default().piece(3), LEAST_PIECE);
        assert!(pace.piece(1) > 30);
    }
}
