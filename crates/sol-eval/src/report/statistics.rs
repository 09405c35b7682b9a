//! How sure a difference is: two sets of figures for the same items.

use serde::Serialize;
use statrs::function::beta::checked_beta_reg;

/// A pair of values that one item earned in two runs, and of how many parts each is the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) a: f64,
    pub(super) b: f64,
    pub(super) parts: f64,
}

/// How a p value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Test {
    /// Exact McNemar test, two-sided: among the items that only one run got right, is either run ahead by more than chance?
    #[serde(rename = "mcnemar")]
    McNemar,
    /// Student's t test of the paired differences, two-sided.
    #[serde(rename = "paired-t")]
    PairedT,
}

/// What pairs tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) items: usize,
    pub(super) a: f64,
    pub(super) b: f64,
    pub(super) difference: f64,
    pub(super) stderr: Option<f64>,
    pub(super) a_higher: usize,
    pub(super) b_higher: usize,
    pub(super) p: f64,
    pub(super) test: Test,
}

/// `None` of no pairs. `a_higher` and `b_higher` count the larger values.
pub(super) fn summarize(pairs: &[Pair]) -> Option<Summary> {
    if pairs.is_empty() {
        return None;
    }
    let parts: f64 = pairs.iter().map(|p| p.parts).sum();
    let mean = |value: fn(&Pair) -> f64| pairs.iter().map(value).sum::<f64>() / parts;
    let (a, b, difference) = (mean(|p| p.a), mean(|p| p.b), mean(|p| p.b - p.a));
    let n = pairs.len() as f64;
    // Of a ratio of sums, in which items are drawn whole; with one part each, the error of a mean.
    let squares: f64 = pairs.iter().map(|p| (p.b - p.a - difference * p.parts).powi(2)).sum();
    let stderr = (pairs.len() > 1).then(|| (squares * n / (n - 1.0)).sqrt() / parts);
    let a_higher = pairs.iter().filter(|p| p.a > p.b).count();
    let b_higher = pairs.iter().filter(|p| p.b > p.a).count();
    let binary = pairs.iter().all(|p| p.parts == 1.0 && [p.a, p.b].iter().all(|v| *v == 0.0 || *v == 1.0));
    let (p, test) = match binary {
        true => (sign_test(a_higher, b_higher), Test::McNemar),
        false => (t_test(difference, stderr, n - 1.0), Test::PairedT),
    };
    Some(Summary { items: pairs.len(), a, b, difference, stderr, a_higher, b_higher, p, test })
}

/// Twice the chance that a fair coin thrown `a + b` times shows the rarer side at most as often as it did.
fn sign_test(a: usize, b: usize) -> f64 {
    let (rare, n) = (a.min(b) as f64, (a + b) as f64);
    if a == b {
        return 1.0;
    }
    checked_beta_reg(n - rare, rare + 1.0, 0.5).map_or(1.0, |tail| (2.0 * tail).min(1.0))
}

fn t_test(difference: f64, stderr: Option<f64>, freedom: f64) -> f64 {
    match stderr {
        _ if difference == 0.0 => 1.0,
        None => 1.0,
        Some(0.0) => 0.0,
        Some(stderr) => {
            let t = difference / stderr;
            checked_beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t)).unwrap_or(1.0)
        }
    }
}

/// Holm's correction: p values under which the chance of even one false alarm among all of them is what it says.
pub(super) fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|i, j| p[*i].total_cmp(&p[*j]));
    let mut corrected = vec![1.0; p.len()];
    let mut floor: f64 = 0.0;
    for (rank, i) in order.into_iter().enumerate() {
        floor = floor.max((p[i] * (p.len() - rank) as f64).min(1.0));
        corrected[i] = floor;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * b.abs().max(1e-6)
    }

    /// `scipy.stats.binomtest(min(a, b), a + b).pvalue` of SciPy 1.17.1; the first two are 2·(1 + 3)/8 and 2/2⁵ by hand.
    #[test]
    fn exact_mcnemar() {
        assert_eq!(sign_test(0, 0), 1.0);
        for (a, b, p) in SIGN {
            assert!(close(sign_test(a, b), p) && close(sign_test(b, a), p), "{a} {b}: {}", sign_test(a, b));
        }
    }

    const SIGN: [(usize, usize, f64); 5] =
        [(1, 2, 1.0), (0, 5, 0.0625), (3, 12, 0.03515625), (40, 70, 0.005447429511444476), (1200, 1000, 2.1817026407914194e-05)];

    /// `scipy.stats.ttest_rel(b, a)` of SciPy 1.17.1.
    #[test]
    fn paired_t() {
        let (a, b) = ([1.0, 2.5, 3.0, 4.0, 7.0], [1.5, 2.0, 4.5, 5.0, 9.0]);
        let pairs: Vec<Pair> = a.iter().zip(b).map(|(a, b)| Pair { a: *a, b, parts: 1.0 }).collect();
        let s = summarize(&pairs).unwrap();
        assert_eq!((s.items, s.a_higher, s.b_higher, s.test), (5, 1, 4, Test::PairedT));
        assert!(
            close(s.difference, 0.9) && close(s.stderr.unwrap(), 0.43011626335213127) && close(s.p, 0.10453999977837544),
            "{s:?}"
        );
    }

    /// Ten instructions of three prompts; the error is that of `(n / (n - 1) · Σ (d - r·m)²)½ / Σ m`, by hand.
    #[test]
    fn parts_are_averaged_together() {
        let pairs = [(1.0, 2.0, 2.0), (3.0, 3.0, 5.0), (0.0, 1.0, 3.0)].map(|(a, b, parts)| Pair { a, b, parts });
        let s = summarize(&pairs).unwrap();
        assert!(close(s.a, 0.4) && close(s.b, 0.6) && close(s.difference, 0.2) && s.test == Test::PairedT);
        assert!(close(s.stderr.unwrap(), (1.5 * (0.36 + 1.0 + 0.16_f64)).sqrt() / 10.0), "{s:?}");
    }

    #[test]
    fn without_any_spread() {
        let pair = |a, b| Pair { a, b, parts: 1.0 };
        assert_eq!(summarize(&[]), None);
        let one = summarize(&[pair(0.5, 0.7)]).unwrap();
        assert_eq!((one.stderr, one.p), (None, 1.0));
        assert_eq!(summarize(&[pair(0.5, 0.5), pair(0.7, 0.7)]).unwrap().p, 1.0);
    }

    /// By hand: 0.01·3, then 0.02·2, then 0.04·1 raised to what precedes it.
    #[test]
    fn holm_by_hand() {
        let corrected = holm(&[0.04, 0.01, 0.02]);
        assert!(corrected.iter().zip([0.04, 0.03, 0.04]).all(|(a, b)| close(*a, b)), "{corrected:?}");
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
