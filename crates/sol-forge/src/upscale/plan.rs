//! What an up-scaled model is made of, as data: of each of its layers the layer of the base that it repeats and how that is
//! scaled, and the block skip connections between them.

use std::fmt;

use serde::Serialize;
use sol_model::{Role, Skips};

/// No decoder has more layers.
pub const MAX_LAYERS: usize = 1 << 12;

/// What Solar Pro Preview was published with: 0.9 while training, 0.8 for inference.
pub const PUBLISHED_TV: [f32; 2] = [0.9, 0.8];

/// A part of a layer that can be scaled, under the name that its tensors have in Hugging Face checkpoints of Llama's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part(pub(crate) Role);

/// All parts.
const PARTS: [(Role, &str); 9] = [
    (Role::AttentionNorm, "input_layernorm"),
    (Role::Query, "self_attn.q_proj"),
    (Role::Key, "self_attn.k_proj"),
    (Role::Value, "self_attn.v_proj"),
    (Role::AttentionOutput, "self_attn.o_proj"),
    (Role::FfnNorm, "post_attention_layernorm"),
    (Role::Gate, "mlp.gate_proj"),
    (Role::Up, "mlp.up_proj"),
    (Role::Down, "mlp.down_proj"),
];

impl Part {
    /// What attention adds to the stream passes through it.
    pub const O_PROJ: Self = Self(Role::AttentionOutput);
    /// What the feed-forward adds to the stream passes through it.
    pub const DOWN_PROJ: Self = Self(Role::Down);

    /// All parts, in the order of a layer.
    pub fn all() -> impl Iterator<Item = Self> {
        PARTS.iter().map(|(role, _)| Self(*role))
    }

    /// Its name in whole: `self_attn.o_proj`.
    pub fn full_name(self) -> &'static str {
        PARTS.iter().find(|(role, _)| *role == self.0).map_or("", |(_, name)| name)
    }

    /// Its name: `o_proj`.
    pub fn name(self) -> &'static str {
        self.full_name().rsplit('.').next().unwrap_or_default()
    }

    /// The part of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|part| part.name() == name)
    }
}

/// One layer of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The layer of the base, from 0.
    pub source: usize,
    /// Factors on the weights of its parts; parts that are not named stay as they are, to the bit.
    pub scales: Vec<(Part, f32)>,
}

impl Layer {
    /// A layer of the base as it is.
    pub fn of(source: usize) -> Self {
        Self { source, scales: Vec::new() }
    }

    /// A layer whose contribution to the stream has this factor.
    pub fn weighted(source: usize, factor: f32) -> Self {
        let scales = if factor == 1.0 { Vec::new() } else { vec![(Part::O_PROJ, factor), (Part::DOWN_PROJ, factor)] };
        Self { source, scales }
    }

    /// The factor on a part.
    pub fn scale(&self, part: Part) -> f32 {
        self.scales.iter().find(|(scaled, _)| *scaled == part).map_or(1.0, |(_, factor)| *factor)
    }

    /// Adds nothing to the stream.
    pub fn is_silent(&self) -> bool {
        self.scale(Part::O_PROJ) == 0.0 && self.scale(Part::DOWN_PROJ) == 0.0
    }
}

/// A block skip connection: the stream before layer `from` is blended into the one before layer `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// The layer before which the stream is saved.
    pub from: usize,
    /// The layer before which it is blended.
    pub to: usize,
    /// Which of Solar's two slots keeps it between them.
    pub slot: usize,
}

/// Why there is no such plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A number of layers to drop that leaves none.
    #[error("--drop {drop} leaves no layers: the base has {layers}; drop at most {}", layers.saturating_sub(1))]
    Drop {
        /// What was asked for.
        drop: usize,
        /// Layers of the base.
        layers: usize,
    },
    /// No layers, or more than a decoder has.
    #[error("the result would have {0} layers; a model has 1 to {MAX_LAYERS}")]
    Layers(usize),
    /// A number of layers that the recipe can not make.
    #[error("{recipe} makes {least} to {most} layers of {layers}, not {asked}")]
    Unreachable {
        /// The recipe.
        recipe: &'static str,
        /// Layers of the base.
        layers: usize,
        /// The fewest.
        least: usize,
        /// The most.
        most: usize,
        /// What was asked for.
        asked: usize,
    },
    /// The base is too shallow for the recipe.
    #[error("{layers} layers are too few for {recipe}; it needs {least}")]
    TooShallow {
        /// The recipe.
        recipe: &'static str,
        /// Layers of the base.
        layers: usize,
        /// What it needs.
        least: usize,
    },
    /// The recipe names a layer that the base does not have.
    #[error("layer {layer} of the result is to be layer {source_layer} of the base, which has layers 0 to {}", layers.saturating_sub(1))]
    NoSuchLayer {
        /// The layer of the result.
        layer: usize,
        /// The layer that is named.
        source_layer: usize,
        /// Layers of the base.
        layers: usize,
    },
    /// A factor that is no number.
    #[error("the factor on {part} of layer {layer} is {factor}; it must be a finite number")]
    Factor {
        /// The layer of the result.
        layer: usize,
        /// The part.
        part: &'static str,
        /// The factor.
        factor: f32,
    },
    /// A skip that ends before it begins, begins before the first layer or is not within the model.
    #[error("the skip connection from before layer {from} to before layer {to} is none: layers are 1 to {} and it must end later than it begins", layers.saturating_sub(1))]
    Skip {
        /// Where it begins.
        from: usize,
        /// Where it ends.
        to: usize,
        /// Layers of the result.
        layers: usize,
    },
    /// More skips at one place than there are slots.
    #[error("at layer {layer} more than two skip connections are open, but Solar has two slots for them")]
    Slots {
        /// Where the third begins.
        layer: usize,
    },
    /// A blend that is none.
    #[error("--tv {0}: the share of the old state is a number from 0 to 1")]
    Tv(f32),
    /// The recipe's file can not be read as one.
    #[error("{0}")]
    File(String),
}

/// What an up-scaled model is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    name: String,
    base_layers: usize,
    layers: Vec<Layer>,
    skips: Vec<Skip>,
    tv: [f32; 2],
}

impl Plan {
    /// A plan of a name for a base of so many layers. `links` are the skip connections (from, to), for which slots are found;
    /// `tv` is the share of the old state where one ends, while training and for inference (of no effect without links).
    pub fn new(
        name: impl Into<String>,
        base_layers: usize,
        mut layers: Vec<Layer>,
        links: &[(usize, usize)],
        tv: [f32; 2],
    ) -> Result<Self, PlanError> {
        if !(1..=MAX_LAYERS).contains(&layers.len()) {
            return Err(PlanError::Layers(layers.len()));
        }
        for (at, layer) in layers.iter().enumerate() {
            if layer.source >= base_layers {
                return Err(PlanError::NoSuchLayer { layer: at, source_layer: layer.source, layers: base_layers });
            }
            if let Some((part, factor)) = layer.scales.iter().find(|(_, factor)| !factor.is_finite()) {
                return Err(PlanError::Factor { layer: at, part: part.name(), factor: *factor });
            }
        }
        if let Some(tv) = tv.into_iter().find(|tv| !(0.0..=1.0).contains(tv)) {
            return Err(PlanError::Tv(tv));
        }
        let skips = slots(links, layers.len())?;
        // In the order of a layer, so that plans that are the same are equal.
        for layer in &mut layers {
            layer.scales.sort_by_key(|(part, _)| Part::all().position(|other| other == *part));
        }
        Ok(Self { name: name.into(), base_layers, layers, skips, tv })
    }

    /// The same with other shares of the old state.
    pub fn with_tv(self, tv: [f32; 2]) -> Result<Self, PlanError> {
        let links: Vec<(usize, usize)> = self.skips.iter().map(|skip| (skip.from, skip.to)).collect();
        Self::new(self.name, self.base_layers, self.layers, &links, tv)
    }

    /// What it is called: a recipe's name or a file's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Layers of the base.
    pub fn base_layers(&self) -> usize {
        self.base_layers
    }

    /// The layers of the result.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Block skip connections, in the order of their ends; at one end slot 0 first, as it is blended first.
    pub fn skips(&self) -> &[Skip] {
        &self.skips
    }

    /// The share of the old state where a skip ends: while training, for inference.
    pub fn tv(&self) -> [f32; 2] {
        self.tv
    }

    /// Whether any tensor is multiplied by a number other than 1 and 0, which blocks of quantised weights can not be.
    pub fn scales(&self) -> bool {
        self.layers.iter().flat_map(|layer| &layer.scales).any(|(_, factor)| ![0.0, 1.0].contains(factor))
    }

    /// Solar's lists `bskcn_1` to `bskcn_4`: layers before which slot 0 and slot 1 are saved, and blended.
    pub fn lists(&self) -> [Vec<usize>; 4] {
        let list = |slot: usize, layer: fn(&Skip) -> usize| {
            let mut list: Vec<usize> = self.skips.iter().filter(|skip| skip.slot == slot).map(layer).collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        [list(0, |s| s.from), list(1, |s| s.from), list(0, |s| s.to), list(1, |s| s.to)]
    }

    /// What happens before each layer.
    pub(crate) fn skips_of(&self, layer: usize) -> Skips {
        let mut skips = Skips::default();
        for skip in &self.skips {
            skips.save[skip.slot] |= skip.from == layer;
            skips.blend[skip.slot] |= skip.to == layer;
        }
        skips
    }

    /// Whether the result computes what the base does. Followed through the network: of every state, which layers of the base
    /// made it. (Weights that are the same by chance are not known here.)
    pub fn keeps_function(&self) -> bool {
        /// `None`: something that no part of the base computes.
        type State = Option<Vec<usize>>;
        let mut state: State = Some(Vec::new());
        let mut slots: [State; 2] = [None, None];
        for (at, layer) in self.layers.iter().enumerate() {
            let Skips { save, blend } = self.skips_of(at);
            for (saved, _) in slots.iter_mut().zip(save).filter(|(_, saves)| *saves) {
                saved.clone_from(&state);
            }
            for (saved, _) in slots.iter().zip(blend).filter(|(_, blends)| *blends) {
                state = match self.tv[1] {
                    0.0 => state,
                    1.0 => saved.clone(),
                    _ if *saved == state => state,
                    _ => None,
                };
            }
            if !layer.is_silent() {
                let plain = layer.scales.iter().all(|(_, factor)| *factor == 1.0);
                state = state.filter(|_| plain).map(|mut layers| {
                    layers.push(layer.source);
                    layers
                });
            }
        }
        state.is_some_and(|layers| layers.iter().copied().eq(0..self.base_layers))
    }

    /// Layers in a row of which each repeats the base's next one in the same way: (first layer, how many).
    pub fn runs(&self) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            let goes_on = at > 0
                && self.layers[at - 1].source + 1 == layer.source
                && self.layers[at - 1].scales == layer.scales
                && self.skips_of(at) == Skips::default();
            match runs.last_mut().filter(|_| goes_on) {
                Some((_, count)) => *count += 1,
                None => runs.push((at, 1)),
            }
        }
        runs
    }
}

/// Gives every link a slot: the first that no link holds that begins or ends within it, links in the order of their beginnings
/// and then their ends. That is what the published lists are.
fn slots(links: &[(usize, usize)], layers: usize) -> Result<Vec<Skip>, PlanError> {
    let mut links = links.to_vec();
    links.sort_unstable();
    links.dedup();
    let mut skips: Vec<Skip> = Vec::with_capacity(links.len());
    for (from, to) in links {
        // Nothing has been computed before layer 0, and vLLM refuses to save there.
        if from == 0 || from >= to || to >= layers {
            return Err(PlanError::Skip { from, to, layers });
        }
        // Where one ends, another may not begin: it would be saved before the blend.
        let held = |slot: usize| skips.iter().any(|skip| skip.slot == slot && from <= skip.to);
        let shared = |slot: usize| skips.iter().any(|skip| skip.slot == slot && skip.from == from);
        let slot = (0..2).find(|&slot| !held(slot)).or_else(|| (0..2).find(|&slot| shared(slot)));
        skips.push(Skip { from, to, slot: slot.ok_or(PlanError::Slots { layer: from })? });
    }
    skips.sort_unstable_by_key(|skip| (skip.to, skip.slot));
    Ok(skips)
}

/// "solar-pro: 40 layers become 64".
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} layers become {}", self.name, self.base_layers, self.layers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sources: &[usize], links: &[(usize, usize)]) -> Result<Plan, PlanError> {
        Plan::new("test", 4, sources.iter().copied().map(Layer::of).collect(), links, [1.0, 1.0])
    }

    #[test]
    fn slots_hold_one_state_at_a_time() {
        let sources = [0, 1, 1, 1, 2, 3];
        let slots = |links: &[(usize, usize)]| -> Vec<usize> {
            plan(&sources, links).unwrap().skips().iter().map(|skip| skip.slot).collect()
        };
        assert_eq!(slots(&[(1, 2), (3, 4)]), [0, 0]);
        // The second begins where the first ends.
        assert_eq!(slots(&[(1, 2), (2, 3)]), [0, 1]);
        // A third from the same place shares a slot.
        assert_eq!(slots(&[(1, 2), (1, 3), (1, 4)]), [0, 1, 0]);
        assert_eq!(plan(&sources, &[(1, 4), (2, 4), (3, 4)]), Err(PlanError::Slots { layer: 3 }));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        assert_eq!(plan(&[0, 4], &[]), Err(PlanError::NoSuchLayer { layer: 1, source_layer: 4, layers: 4 }));
        assert_eq!(plan(&[], &[]), Err(PlanError::Layers(0)));
        for link in [(0, 1), (2, 2), (2, 1), (1, 4)] {
            assert!(matches!(plan(&[0, 1, 2, 3], &[link]), Err(PlanError::Skip { .. })), "{link:?}");
        }
        let scaled = vec![Layer::weighted(0, f32::NAN)];
        assert!(matches!(Plan::new("", 1, scaled, &[], PUBLISHED_TV), Err(PlanError::Factor { .. })));
        assert!(matches!(Plan::new("", 1, vec![Layer::of(0)], &[], [0.9, 1.1]), Err(PlanError::Tv(_))));
    }

    #[test]
    fn a_plan_knows_whether_it_computes_the_base() {
        assert!(plan(&[0, 1, 2, 3], &[]).unwrap().keeps_function());
        assert!(!plan(&[0, 1, 2], &[]).unwrap().keeps_function());
        assert!(!plan(&[0, 1, 1, 2, 3], &[]).unwrap().keeps_function());
        assert!(plan(&[0, 1, 1, 2, 3], &[(1, 2)]).unwrap().keeps_function());
        // It goes back too far, or not far enough.
        assert!(!plan(&[0, 1, 2, 1, 2, 3], &[(2, 3)]).unwrap().keeps_function());
        let layers = |factor| vec![Layer::of(0), Layer::weighted(0, factor)];
        assert!(Plan::new("", 1, layers(0.0), &[], PUBLISHED_TV).unwrap().keeps_function());
        assert!(!Plan::new("", 1, layers(0.5), &[], PUBLISHED_TV).unwrap().keeps_function());
    }
}
