//! Routing and running experts.

use sol_compute::{Backend, Experts, Routing};

use crate::backend::Cpu;
use crate::tensor::Tensor;

/// Two chosen experts and their weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) expert: [usize; 2],
    pub(crate) weight: [f32; 2],
}

/// Phi-3.5-MoE's sparsemixer in its inference form: each of two picks is weighted by a softmax over the rivals within
/// `2 * jitter` of it, and the two weights are not normalised together.
pub(crate) fn sparse_mixer(scores: &[f32], jitter: f32) -> Choice {
    let pick = |taken: Option<usize>| {
        let open = || scores.iter().enumerate().filter(move |(i, _)| Some(*i) != taken);
        // The first of equals, as argmax picks it. NaN never wins, so that where all are NaN two experts are still two; the
        // result is then NaN through the products.
        let first = usize::from(taken == Some(0));
        let (best, max) = open().fold((first, f32::NEG_INFINITY), |best, (i, s)| if *s > best.1 { (i, *s) } else { best });
        let kept = open().filter(|(_, s)| (max - **s) / s.abs().max(max) <= 2.0 * jitter);
        let sum: f32 = kept.map(|(_, s)| (s - max).exp()).sum();
        (best, 1.0 / sum)
    };
    let (a, weight_a) = pick(None);
    let (b, weight_b) = pick(Some(a));
    Choice { expert: [a, b], weight: [weight_a, weight_b] }
}

/// Buffers of a routed feed-forward.
pub(crate) struct ExpertScratch {
    scores: Tensor,
    input: Tensor,
    gate: Tensor,
    up: Tensor,
    result: Tensor,
    /// Each row's two results, weighted, in order of choice.
    parts: Vec<f32>,
    choices: Vec<Choice>,
}

impl ExpertScratch {
    fn new(rows: usize, hidden: usize, ffn: usize, experts: usize) -> Self {
        Self {
            scores: Tensor::new(rows, experts),
            input: Tensor::new(rows, hidden),
            gate: Tensor::new(rows, ffn),
            up: Tensor::new(rows, ffn),
            result: Tensor::new(rows, hidden),
            parts: vec![0.0; rows * 2 * hidden],
            choices: Vec::with_capacity(rows),
        }
    }

    fn holds(&self, rows: usize, hidden: usize, ffn: usize, experts: usize) -> bool {
        self.parts.len() >= rows * 2 * hidden
            && (self.input.cols(), self.gate.cols(), self.scores.cols()) == (hidden, ffn, experts)
    }
}

/// Runs every expert once, on the rows that chose it.
pub(crate) fn run(cpu: &Cpu, scratch: &mut Option<ExpertScratch>, experts: &Experts<Cpu>, x: &Tensor, out: &mut Tensor) {
    let (rows, hidden) = (x.rows(), x.cols());
    let (ffn, count) = (experts.experts[0].gate.weight.rows(), experts.experts.len());
    let scratch = match scratch.take_if(|s| s.holds(rows, hidden, ffn, count)) {
        Some(fits) => scratch.insert(fits),
        None => scratch.insert(ExpertScratch::new(rows, hidden, ffn, count)),
    };
    cpu.linear(x, &mut [(&experts.router, &mut scratch.scores)]);
    let Routing::SparseMixer { jitter } = experts.routing;
    scratch.choices.clear();
    scratch.choices.extend((0..rows).map(|row| sparse_mixer(scratch.scores.row(row), jitter)));

    for (e, expert) in experts.experts.iter().enumerate() {
        let chosen = || {
            let slots = scratch.choices.iter().enumerate().flat_map(|(row, c)| [(row, 0, c), (row, 1, c)]);
            slots.filter(|(_, slot, c)| c.expert[*slot] == e)
        };
        let n = chosen().count();
        if n == 0 {
            continue;
        }
        let input = scratch.input.begin(n);
        for (to, (row, ..)) in input.chunks_exact_mut(hidden).zip(chosen()) {
            to.copy_from_slice(x.row(row));
        }
        cpu.linear(&scratch.input, &mut [(&expert.gate, &mut scratch.gate), (&expert.up, &mut scratch.up)]);
        cpu.gated(experts.activation, &mut scratch.gate, &scratch.up);
        cpu.linear(&scratch.gate, &mut [(&expert.down, &mut scratch.result)]);
        for (from, (row, slot, choice)) in scratch.result.live().chunks_exact(hidden).zip(chosen()) {
            let to = &mut scratch.parts[(row * 2 + slot) * hidden..][..hidden];
            to.iter_mut().zip(from).for_each(|(t, f)| *t = choice.weight[slot] * f);
        }
    }
    for (row, to) in out.begin(rows).chunks_exact_mut(hidden).enumerate() {
        let (first, second) = scratch.parts[row * 2 * hidden..][..2 * hidden].split_at(hidden);
        to.iter_mut().zip(first).zip(second).for_each(|((t, a), b)| *t = a + b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_winners_get_weight_one_each() {
        let choice = sparse_mixer(&[0.1, 3.0, -1.0, 2.0], 0.01);
        assert_eq!(choice, Choice { expert: [1, 3], weight: [1.0, 1.0] });
    }

    #[test]
    fn rivals_within_two_percent_share() {
        let choice = sparse_mixer(&[3.0, 2.99, 1.0], 0.01);
        assert_eq!(choice.expert, [0, 1]);
        assert!((choice.weight[0] - 1.0 / (1.0 + (-0.01f32).exp())).abs() < 1e-6);
        assert_eq!(choice.weight[1], 1.0);
    }

    #[test]
    fn all_negative_scores_use_the_rivals_own_size() {
        // (m - s) / max(|s|, m): (-1 + 1.01) / 1.01 < 0.02 keeps the second.
        let choice = sparse_mixer(&[-1.0, -1.01, -5.0], 0.01);
        assert!(choice.weight[0] < 0.51 && choice.weight[1] == 1.0);
    }

    #[test]
    fn nan_scores_still_choose_two_experts() {
        assert_eq!(sparse_mixer(&[f32::NAN, f32::NAN, f32::NAN], 0.01).expert, [0, 1]);
        assert_eq!(sparse_mixer(&[f32::NEG_INFINITY; 2], 0.01).expert, [0, 1]);
    }
}
