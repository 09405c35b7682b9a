//! Programs that a model wrote, by running them against tests, as bigcode-evaluation-harness (0f3e95f) does.

/// A program from a generated text: the prompt and what comes before the earliest of `until`, with its tests behind it.
pub(super) fn program<'a>(prompt: &str, text: &str, until: impl Iterator<Item = &'a str>, tests: &str) -> String {
    let end = until.filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
    format!("{prompt}{}\n{tests}", &text[..end])
}

/// Unbiased estimate of the probability that one of `k` programs is right, when `right` of `samples` are (Chen et al., arXiv
/// 2107.03374, section 2.1); the terms multiplied in ascending order.
pub(super) fn pass_at(k: usize, samples: usize, right: usize) -> f64 {
    if samples - right < k {
        return 1.0;
    }
    1.0 - (samples - right + 1..=samples).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the harness's estimator.
    #[test]
    fn estimates() {
        for (samples, right, k, value) in [
            (1, 0, 1, 0.0),
            (3, 1, 1, 0.333_333_333_333_333_26),
            (10, 1, 1, 0.099_999_999_999_999_98),
            (15, 7, 10, 1.0),
            (20, 10, 10, 0.999_994_587_455_887_8),
            (200, 100, 1, 0.499_999_999_999_999_56),
            (200, 100, 10, 0.999_228_973_937_282_2),
            (200, 1, 100, 0.5),
        ] {
            assert!((pass_at(k, samples, right) - value).abs() < 1e-12, "{k} of {samples}, {right} right");
        }
    }

    #[test]
    fn a_text_ends_at_the_earliest_stop() {
        let until = ["\nprint", "\nclass"];
        assert_eq!(program("# p\n", "x = 1\nclass A: 1\nprint(1)", until.into_iter(), "assert x"), "# p\nx = 1\nassert x");
        assert_eq!(program("", "x", until.into_iter(), "t"), "x\nt");
    }
}
