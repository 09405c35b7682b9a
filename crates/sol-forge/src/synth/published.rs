//! The shapes of published models.

/// A published model's hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Its alias.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Its form.
    pub family: Family,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward.
    pub ffn: usize,
    /// Token ids.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Of the norms.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub theta: f32,
    /// The embedding table is the head.
    pub tied: bool,
}

/// What distinguishes the forms of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama's layers joined by block skip connections.
    Solar,
    /// Llama; `scaled`: with the rotary frequencies of Llama 3.1.
    Llama {
        /// A divisor for each frequency.
        scaled: bool,
    },
    /// Fused projections and a window.
    Phi3,
    /// Norms also behind attention and feed-forward, soft-caps, a window on every other layer.
    Gemma2,
}

impl Family {
    /// GGUF's `general.architecture`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Solar => "solar",
            Self::Llama { .. } => "llama",
            Self::Phi3 => "phi3",
            Self::Gemma2 => "gemma2",
        }
    }
}

/// Solar Pro's skip connections: the layer before which the stream is saved, the one before which it is blended, and the slot.
pub(super) const SOLAR_LINKS: [(usize, usize, usize); 6] =
    [(12, 16, 0), (20, 24, 0), (20, 28, 1), (32, 36, 0), (32, 40, 1), (44, 48, 0)];

/// The share of the saved stream where a skip connection ends.
pub(super) const SOLAR_BLEND: f32 = 0.8;

const LLAMA_8B: Published = Published {
    name: "llama-3.1-8b",
    title: "Llama 3.1 8B",
    family: Family::Llama { scaled: true },
    layers: 32,
    hidden: 4096,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    ffn: 14_336,
    vocab: 128_256,
    context: 131_072,
    eps: 1e-5,
    theta: 500_000.0,
    tied: false,
};

const PHI_3_MEDIUM: Published = Published {
    name: "phi-3-medium",
    // Without the hyphen: by "phi-3" in a file's name llama.cpp knows that its vocabulary is Phi-3's.
    title: "Phi 3 Medium 14B",
    family: Family::Phi3,
    layers: 40,
    hidden: 5120,
    heads: 40,
    kv_heads: 10,
    head_dim: 128,
    ffn: 17_920,
    vocab: 32_064,
    context: 4096,
    eps: 1e-5,
    theta: 10_000.0,
    tied: false,
};

/// The models whose shapes are known.
pub const PUBLISHED: [Published; 6] = [
    Published {
        name: "solar-pro",
        title: "Solar Pro Preview 22B",
        family: Family::Solar,
        layers: 64,
        vocab: 32_128,
        // Grown from Phi-3 Medium, whose shapes it has.
        ..PHI_3_MEDIUM
    },
    LLAMA_8B,
    Published { name: "llama-3.1-70b", title: "Llama 3.1 70B", layers: 80, hidden: 8192, heads: 64, ffn: 28_672, ..LLAMA_8B },
    PHI_3_MEDIUM,
    Published {
        name: "gemma-2-27b",
        title: "Gemma 2 27B",
        family: Family::Gemma2,
        layers: 46,
        hidden: 4608,
        heads: 32,
        kv_heads: 16,
        head_dim: 128,
        ffn: 36_864,
        vocab: 256_000,
        context: 8192,
        eps: 1e-6,
        theta: 10_000.0,
        tied: true,
    },
    Published {
        name: "smollm2",
        title: "SmolLM2 135M",
        family: Family::Llama { scaled: false },
        layers: 30,
        hidden: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        vocab: 49_152,
        context: 8192,
        eps: 1e-5,
        theta: 100_000.0,
        tied: true,
    },
];

impl Published {
    /// The model of this name, in any case.
    pub fn named(name: &str) -> Option<&'static Self> {
        PUBLISHED.iter().find(|known| known.name.eq_ignore_ascii_case(name))
    }
}
