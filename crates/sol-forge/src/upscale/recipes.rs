//! The recipes that have names.

use super::plan::{Layer, PUBLISHED_TV, Plan, PlanError};

/// How a deeper model is made of a base of any depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recipe {
    /// SOLAR 10.7B's depth up-scaling (arXiv 2312.15166): two copies, the first without its last `drop` layers, the second
    /// without its first.
    Dus {
        /// Layers dropped from each copy; default: a quarter.
        drop: Option<usize>,
    },
    /// What Solar Pro Preview is believed to be: blocks of middle layers repeated, and around every repeated block a skip
    /// connection back to where the base was before it. With a `tv` of 1 the result computes what the base does.
    SolarPro {
        /// `bskcn_tv`: the share of the old state where a skip ends, while training and for inference.
        tv: [f32; 2],
    },
    /// Middle layers repeated in place.
    Interleave {
        /// Layers of the result; default: 1.6 times the base's.
        layers: Option<usize>,
        /// Layers that are repeated together.
        block: usize,
        /// Factor on `o_proj` and `down_proj` of both copies; default: a half, so that together they add about what one did.
        scale: Option<f32>,
    },
    /// LLaMA-Pro's block expansion (arXiv 2401.02415): copies among the layers that add nothing to the stream, as their
    /// `o_proj` and `down_proj` are zero. The result computes what the base does.
    Identity {
        /// Layers of the result; default: 1.6 times the base's.
        layers: Option<usize>,
    },
    /// Whole copies on top of each other.
    Stack {
        /// How many.
        times: usize,
    },
}

/// Solar Pro: where blocks of its base's 40 layers end, and how often each block is repeated.
const SOLAR_PRO: [(usize, usize); 6] = [(12, 1), (16, 2), (20, 3), (24, 3), (28, 2), (40, 1)];
const SOLAR_PRO_BASE: usize = 40;

impl Recipe {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dus { .. } => "dus",
            Self::SolarPro { .. } => "solar-pro",
            Self::Interleave { .. } => "interleave",
            Self::Identity { .. } => "identity",
            Self::Stack { .. } => "stack",
        }
    }

    /// The plan for a base of `n` layers.
    pub fn plan(&self, n: usize) -> Result<Plan, PlanError> {
        let plain = |sources: Vec<usize>| sources.into_iter().map(Layer::of).collect::<Vec<_>>();
        let name = self.name();
        match *self {
            Self::Dus { drop } => {
                let drop = drop.unwrap_or(n / 4);
                if drop >= n {
                    return Err(PlanError::Drop { drop, layers: n });
                }
                Plan::new(name, n, plain((0..n - drop).chain(drop..n).collect()), &[], PUBLISHED_TV)
            }
            Self::SolarPro { tv } => solar_pro(n, tv),
            Self::Interleave { layers, block, scale } => {
                let block = block.max(1);
                let added = self.added(n, layers, n / block * block)?;
                // Whole blocks, the same number of layers before and behind them.
                let repeated = added.div_ceil(block) * block;
                let first = n.saturating_sub(repeated) / 2;
                let scale = scale.unwrap_or(0.5);
                let twice = (first..first + repeated).step_by(block).flat_map(|start| {
                    let block = start..start + block;
                    block.clone().chain(block).map(|source| Layer::weighted(source, scale))
                });
                let before = (0..first).map(Layer::of);
                let all = before.chain(twice).chain((first + repeated..n).map(Layer::of)).collect();
                Plan::new(name, n, all, &[], PUBLISHED_TV)
            }
            Self::Identity { layers } => {
                let added = self.added(n, layers, n)?;
                // Evenly: the k-th copy behind layer (k + 1) n / added - 1, so the last one is behind the last layer.
                let copied = |source: usize| (source + 1) * added / n > source * added / n;
                let layers = (0..n).flat_map(|source| {
                    [Some(Layer::of(source)), copied(source).then(|| Layer::weighted(source, 0.0))].into_iter().flatten()
                });
                Plan::new(name, n, layers.collect(), &[], PUBLISHED_TV)
            }
            Self::Stack { times } => {
                let all = n.saturating_mul(times);
                // Asked before they are made.
                if all > super::plan::MAX_LAYERS {
                    return Err(PlanError::Layers(all));
                }
                Plan::new(name, n, plain((0..times).flat_map(|_| 0..n).collect()), &[], PUBLISHED_TV)
            }
        }
    }

    /// Layers added to `n`, of which there are at most `most`.
    fn added(&self, n: usize, layers: Option<usize>, most: usize) -> Result<usize, PlanError> {
        let asked = layers.unwrap_or(n + (n * 3 / 5).clamp(1, most.max(1)));
        let added = asked.checked_sub(n).filter(|added| (1..=most).contains(added));
        added.ok_or(PlanError::Unreachable { recipe: self.name(), layers: n, least: n + 1, most: n + most, asked })
    }
}

/// The published positions for 40 layers, and what is in proportion to them for others: blocks are scaled, and skips join
/// the same layers of the base.
fn solar_pro(n: usize, tv: [f32; 2]) -> Result<Plan, PlanError> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut links = Vec::new();
    let mut start = 0;
    for (end, copies) in SOLAR_PRO {
        let end = (end * n + SOLAR_PRO_BASE / 2) / SOLAR_PRO_BASE;
        let first = layers.len();
        layers.extend((0..copies).flat_map(|_| start..end).map(Layer::of));
        // A block that rounds to nothing has no skips.
        links.extend((1..copies).filter(|_| end > start).map(|copy| (first, first + copy * (end - start))));
        start = end;
    }
    if links.is_empty() {
        return Err(PlanError::TooShallow { recipe: "solar-pro", layers: n, least: 3 });
    }
    Plan::new("solar-pro", n, layers, &links, tv)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TV_1: [f32; 2] = [1.0, 1.0];

    fn sources(plan: &Plan) -> Vec<usize> {
        plan.layers().iter().map(|layer| layer.source).collect()
    }

    #[test]
    fn solar_pro_is_as_published() {
        let plan = Recipe::SolarPro { tv: PUBLISHED_TV }.plan(40).unwrap();
        let lists = [vec![12, 20, 32, 44], vec![20, 32], vec![16, 24, 36, 48], vec![28, 40]];
        assert_eq!(plan.lists(), lists);
        let blocks = [0..16, 12..20, 16..20, 16..24, 20..24, 20..28, 24..40];
        assert_eq!(sources(&plan), blocks.into_iter().flatten().collect::<Vec<_>>());
        assert_eq!(plan.layers().len(), 64);
        assert!(!plan.keeps_function());
    }

    /// With the whole old state every depth is its base.
    #[test]
    fn solar_pro_with_tv_1_is_the_base() {
        for n in 3..130 {
            let plan = Recipe::SolarPro { tv: TV_1 }.plan(n).unwrap();
            assert!(plan.keeps_function(), "{n}");
            assert!(!Recipe::SolarPro { tv: PUBLISHED_TV }.plan(n).unwrap().keeps_function());
        }
        assert!(matches!(Recipe::SolarPro { tv: TV_1 }.plan(2), Err(PlanError::TooShallow { .. })));
        let plan = Recipe::SolarPro { tv: TV_1 }.plan(30).unwrap();
        let ends: Vec<_> = plan.skips().iter().map(|skip| (skip.from, skip.to)).collect();
        assert_eq!(ends, [(9, 12), (15, 18), (15, 21), (24, 27), (24, 30), (33, 36)]);
        assert_eq!(plan.layers().len(), 48);
    }

    #[test]
    fn dus_drops_a_quarter() {
        let plan = Recipe::Dus { drop: None }.plan(32).unwrap();
        assert_eq!(sources(&plan), (0..24).chain(8..32).collect::<Vec<_>>());
        assert_eq!(Recipe::Dus { drop: Some(6) }.plan(30).unwrap().layers().len(), 48);
        assert_eq!(sources(&Recipe::Dus { drop: Some(2) }.plan(3).unwrap()), [0, 2]);
        assert!(matches!(Recipe::Dus { drop: Some(3) }.plan(3), Err(PlanError::Drop { drop: 3, layers: 3 })));
        let stack = Recipe::Stack { times: 2 }.plan(3).unwrap();
        assert_eq!(stack.layers(), Recipe::Dus { drop: Some(0) }.plan(3).unwrap().layers());
    }

    #[test]
    fn interleave_repeats_the_middle_and_halves_it() {
        let plan = Recipe::Interleave { layers: None, block: 1, scale: None }.plan(30).unwrap();
        assert_eq!(plan.layers().len(), 48);
        assert_eq!(sources(&plan)[5..9], [5, 6, 6, 7]);
        let halved: Vec<usize> = (0..48).filter(|&i| plan.layers()[i].scale(super::super::Part::O_PROJ) == 0.5).collect();
        assert_eq!(halved, (6..42).collect::<Vec<_>>());
        let plan = Recipe::Interleave { layers: Some(10), block: 2, scale: Some(1.0) }.plan(6).unwrap();
        assert_eq!(sources(&plan), [0, 1, 2, 1, 2, 3, 4, 3, 4, 5]);
        assert!(!plan.scales());
        for asked in [6, 13] {
            let recipe = Recipe::Interleave { layers: Some(asked), block: 1, scale: None };
            assert!(matches!(recipe.plan(6), Err(PlanError::Unreachable { .. })));
        }
    }

    #[test]
    fn identity_keeps_the_function_at_every_depth() {
        for n in 1..50 {
            for layers in n + 1..=2 * n {
                let plan = Recipe::Identity { layers: Some(layers) }.plan(n).unwrap();
                assert_eq!(plan.layers().len(), layers);
                assert!(plan.keeps_function());
            }
        }
        let plan = Recipe::Identity { layers: Some(40) }.plan(32).unwrap();
        let copies: Vec<usize> = (0..40).filter(|&i| plan.layers()[i].is_silent()).collect();
        assert_eq!(copies, [4, 9, 14, 19, 24, 29, 34, 39]);
        assert_eq!(Recipe::Identity { layers: None }.plan(30).unwrap().layers().len(), 48);
    }
}
