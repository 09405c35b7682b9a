//! [`DecoderSpec`]: a decoder as pure data. Nothing in it is about inference alone; training reads the same description.

use sol_compute::{Activation, Attention, NormKind, RopePairing, Routing};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Name of the architecture, as GGUF writes it.
    pub architecture: &'static str,
    /// Token ids `0..vocab`.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Factor on embeddings.
    pub embedding_scale: f32,
    /// Rotary embedding, the same in every layer.
    pub rope: RopeSpec,
    /// Layers in order.
    pub layers: Vec<LayerSpec>,
    /// Share of the old state where a skip connection ends: `x <- t * saved + (1 - t) * x`.
    pub skip_blend: f32,
    /// Norm before the head.
    pub final_norm: NormSpec,
    /// From the stream to logits.
    pub head: HeadSpec,
}

/// One layer: `x += post(attention(norm(x)))`, then `x += post(ffn(norm(x)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Block skip connections that start or end before this layer.
    pub skips: Skips,
    /// Norm of what attention reads.
    pub attention_norm: NormSpec,
    /// Attention.
    pub attention: AttentionSpec,
    /// Norm of what attention returns (Gemma 2).
    pub post_attention_norm: Option<NormSpec>,
    /// Norm of what the feed-forward reads.
    pub ffn_norm: NormSpec,
    /// Feed-forward.
    pub ffn: FeedForward,
    /// Norm of what the feed-forward returns (Gemma 2).
    pub post_ffn_norm: Option<NormSpec>,
}

/// Solar's block skip connections: two slots, A and B. Before the layer, the stream is first saved to every slot of `save`,
/// then blended with slot A, then with slot B, where `blend` says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skips {
    /// Slots A and B take the stream.
    pub save: [bool; 2],
    /// Slots A and B are blended into the stream.
    pub blend: [bool; 2],
}

/// Attention and its projections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Heads, scale, cap, window.
    pub core: Attention,
    /// q, k and v projections have biases.
    pub qkv_bias: bool,
    /// The output projection has one.
    pub output_bias: bool,
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// RMS or mean and variance.
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
    /// Has a bias.
    pub bias: bool,
    /// Added to the stored weight (1 for Gemma's HF checkpoints).
    pub weight_offset: f32,
}

impl NormSpec {
    /// The plain RMS norm.
    pub const fn rms(eps: f32) -> Self {
        Self { kind: NormKind::Rms, eps, bias: false, weight_offset: 0.0 }
    }

    /// LayerNorm with bias.
    pub const fn layer(eps: f32) -> Self {
        Self { kind: NormKind::Layer, eps, bias: true, weight_offset: 0.0 }
    }
}

/// `down(act(gate(x)) * up(x))`, once or by experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FeedForward {
    /// One for all tokens.
    Dense {
        /// Width.
        ffn: usize,
        /// Of the gate.
        activation: Activation,
        /// gate, up and down have biases.
        bias: bool,
    },
    /// Some of many.
    Experts {
        /// Width of one expert.
        ffn: usize,
        /// How many there are.
        experts: usize,
        /// How many a token uses.
        used: usize,
        /// Of the gate.
        activation: Activation,
        /// How they are chosen.
        routing: Routing,
    },
}

/// From the final norm to logits: `cap(scale * (W x + b))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSpec {
    /// The embedding table is the head.
    pub tied: bool,
    /// Has a bias.
    pub bias: bool,
    /// `logit_scale`.
    pub scale: f32,
    /// `cap * tanh(l / cap)`.
    pub softcap: Option<f32>,
}

/// Rotary position embedding as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Dimensions that turn: the head's.
    pub dim: usize,
    /// Base of the geometric frequencies.
    pub theta: f32,
    /// Which dimensions pair up, a matter of the checkpoint's layout.
    pub pairing: RopePairing,
    /// What is done to the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// Changes to `inv_freq_i = theta^(-2i/d)`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All divided by a factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, between them a ramp.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original / low` are divided.
        low: f32,
        /// Wavelengths below `original / high` are kept.
        high: f32,
        /// Context before scaling.
        original: f32,
    },
    /// A divisor for every frequency, from the file (GGUF's `rope_freqs`).
    Divisors(Vec<f32>),
    /// Phi-3's longrope (arXiv 2402.13753): two sets of divisors, one of which holds for an engine's whole life.
    LongRope {
        /// Divisors for sequences up to `original`.
        short: Vec<f32>,
        /// Divisors beyond.
        long: Vec<f32>,
        /// Magnitude with the short ones.
        short_mscale: f32,
        /// Magnitude with the long ones.
        long_mscale: f32,
        /// Context before scaling.
        original: usize,
    },
}

impl DecoderSpec {
    /// Lets every layer see the whole sequence.
    pub fn disable_windows(&mut self) {
        for layer in &mut self.layers {
            layer.attention.core.window = None;
        }
    }

    /// Smallest window of any layer.
    pub fn window(&self) -> Option<usize> {
        self.layers.iter().filter_map(|l| l.attention.core.window).min()
    }

    /// Whether any layer saves or blends.
    pub fn has_skips(&self) -> bool {
        self.layers.iter().any(|l| l.skips != Skips::default())
    }

    /// Block skip connections as links: the layer before which the stream is saved, the one before which it is blended, and
    /// the slot between them.
    pub fn skip_links(&self) -> Vec<(usize, usize, usize)> {
        let mut links = Vec::new();
        let mut saved = [None, None];
        for (i, layer) in self.layers.iter().enumerate() {
            for (slot, saved) in saved.iter_mut().enumerate() {
                if layer.skips.save[slot] {
                    *saved = Some(i);
                }
                let from = saved.filter(|_| layer.skips.blend[slot]);
                links.extend(from.map(|from| (from, i, slot)));
            }
        }
        links
    }

    /// The first layer that blends a slot which no layer before it has saved to, and the slot.
    pub(crate) fn blend_from_nowhere(&self) -> Option<(usize, usize)> {
        let mut saved = [false, false];
        self.layers.iter().enumerate().find_map(|(i, layer)| {
            (0..2).find_map(|slot| {
                saved[slot] |= layer.skips.save[slot];
                (layer.skips.blend[slot] && !saved[slot]).then_some((i, slot))
            })
        })
    }
}
