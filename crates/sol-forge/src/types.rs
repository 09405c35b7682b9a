//! Which block format each matrix of a quantised checkpoint has: the same for all, or one of llama.cpp's mixtures.
//!
//! The mixtures give more bits to the matrices that suffer most from few: values, down projections and the head. They are
//! facts about the files that people have (read off llama.cpp's quantiser), not choices of this program.

use sol_model::Role;
use sol_weights::DType;

/// The types of a checkpoint's matrices. Vectors, such as norms, are F32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// One for every matrix.
    All(DType),
    /// By the matrix.
    Mixed(Mixture),
}

/// llama.cpp's mixtures: of K formats small (`S`), medium (`M`) and large (`L`), and what its files of one type are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the mixtures")]
pub enum Mixture {
    Q2K,
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
    /// One type but for the head and, in some types, a few matrices.
    Mostly(DType),
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// What it is for. A tied embedding table is a [`Role::Head`].
    pub role: Role,
    /// Its layer (0 where it is in none), of how many.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Query heads that share a head of values.
    pub heads_per_value: usize,
    /// Experts of a layer, 0 where there are none.
    pub experts: usize,
    /// Whether it is known which columns matter (an importance matrix).
    pub weighed: bool,
}

/// Name, types, and the number of `general.file_type`.
const KNOWN: [(&str, Types, u32); 22] = [
    ("f32", Types::All(DType::F32), 0),
    ("f16", Types::All(DType::F16), 1),
    ("bf16", Types::All(DType::BF16), 32),
    ("q8_0", Types::All(DType::Q8_0), 7),
    ("q4_0", Types::All(DType::Q4_0), 2),
    ("q4_1", Types::All(DType::Q4_1), 3),
    ("q5_0", Types::All(DType::Q5_0), 8),
    ("q5_1", Types::All(DType::Q5_1), 9),
    ("iq4_nl", Types::All(DType::IQ4NL), 25),
    ("iq4_xs", Types::All(DType::IQ4XS), 30),
    ("q2_k", Types::All(DType::Q2K), 10),
    ("q3_k", Types::All(DType::Q3K), 11),
    ("q4_k", Types::All(DType::Q4K), 14),
    ("q5_k", Types::All(DType::Q5K), 16),
    ("q6_k", Types::All(DType::Q6K), 18),
    ("q3_k_s", Types::Mixed(Mixture::Q3KS), 11),
    ("q3_k_m", Types::Mixed(Mixture::Q3KM), 12),
    ("q3_k_l", Types::Mixed(Mixture::Q3KL), 13),
    ("q4_k_s", Types::Mixed(Mixture::Q4KS), 14),
    ("q4_k_m", Types::Mixed(Mixture::Q4KM), 15),
    ("q5_k_s", Types::Mixed(Mixture::Q5KS), 16),
    ("q5_k_m", Types::Mixed(Mixture::Q5KM), 17),
];

impl Types {
    /// The names of all, as [`Types::named`] takes them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, ..)| *name)
    }

    /// The types of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        KNOWN.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)).map(|(_, types, _)| *types)
    }

    /// The types that `llama-quantize` means by a name: where that is a block format's, the head (and here and there a matrix)
    /// has another; `q3_k`, `q4_k` and `q5_k` are the medium mixtures.
    pub fn mostly(name: &str) -> Option<Self> {
        Some(match Self::named(name)? {
            Self::All(DType::Q2K) => Self::Mixed(Mixture::Q2K),
            Self::All(DType::Q3K) => Self::Mixed(Mixture::Q3KM),
            Self::All(DType::Q4K) => Self::Mixed(Mixture::Q4KM),
            Self::All(DType::Q5K) => Self::Mixed(Mixture::Q5KM),
            Self::All(dtype) if dtype.is_quantized() => Self::Mixed(Mixture::Mostly(dtype)),
            other => other,
        })
    }

    /// Their name.
    pub fn name(self) -> &'static str {
        self.known().0
    }

    /// GGUF's `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.known().1
    }

    fn known(self) -> (&'static str, u32) {
        match self {
            Self::Mixed(Mixture::Q2K) => return Self::All(DType::Q2K).known(),
            Self::Mixed(Mixture::Mostly(dtype)) => return Self::All(dtype).known(),
            _ => {}
        }
        // A type of the caller's own has no name; 1024 is how GGUF says "guessed from the tensors".
        KNOWN.iter().find(|(_, types, _)| *types == self).map_or(("mixed", 1024), |(name, _, number)| (*name, *number))
    }

    /// The type of a matrix.
    pub fn of(self, matrix: Matrix) -> DType {
        fitting(
            match self {
                Self::All(dtype) => dtype,
                Self::Mixed(mixture) => mixture.of(matrix),
            },
            matrix,
        )
    }
}

impl Mixture {
    /// The type of most matrices.
    fn base(self) -> DType {
        match self {
            Self::Q2K => DType::Q2K,
            Self::Q3KS | Self::Q3KM | Self::Q3KL => DType::Q3K,
            Self::Q4KS | Self::Q4KM => DType::Q4K,
            Self::Q5KS | Self::Q5KM => DType::Q5K,
            Self::Mostly(dtype) => dtype,
        }
    }

    fn of(self, matrix: Matrix) -> DType {
        let Matrix { role, layer, layers, heads_per_value, experts, weighed, .. } = matrix;
        let base = self.base();
        // Errors of the first and last layers do most harm; of those between every third is spared too.
        let first = layer < layers / 8;
        let spared = first || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
        let uneven = matches!(self, Self::Mostly(DType::IQ4NL | DType::IQ4XS));
        match role {
            Role::Head if base == DType::Q8_0 => DType::Q8_0,
            Role::Head => DType::Q6K,
            Role::Value | Role::FusedQkv | Role::Key if experts == 8 => DType::Q8_0,
            Role::Value | Role::FusedQkv => {
                let dtype = match self {
                    Self::Q2K if heads_per_value >= 4 => DType::Q4K,
                    Self::Q2K => DType::Q3K,
                    Self::Q3KM if layer < 2 => DType::Q5K,
                    Self::Q3KM => DType::Q4K,
                    Self::Q3KL => DType::Q5K,
                    Self::Q4KM | Self::Q5KM if spared => DType::Q6K,
                    Self::Q4KS if layer < 4 => DType::Q5K,
                    _ if uneven && heads_per_value >= 4 => DType::Q5K,
                    _ => base,
                };
                // Llama's 70B: where so few values serve so many heads, more bits for them cost next to nothing.
                let few = layers == 80 && heads_per_value > 1 && role == Role::Value;
                if few && matches!(dtype, DType::Q3K | DType::Q4K) { DType::Q5K } else { dtype }
            }
            Role::Down | Role::ExpertDown => match self {
                Self::Q2K => DType::Q3K,
                Self::Q3KM if layer < layers / 16 => DType::Q5K,
                Self::Q3KM => DType::Q4K,
                Self::Q3KL => DType::Q5K,
                Self::Q4KM | Self::Q5KM if spared => DType::Q6K,
                Self::Q4KS if first => DType::Q5K,
                _ if uneven && first && !weighed => DType::Q5K,
                Self::Mostly(DType::Q4_0) if first && weighed => DType::Q4_1,
                Self::Mostly(DType::Q5_0) if first && weighed => DType::Q5_1,
                _ => base,
            },
            Role::AttentionOutput if experts == 8 => match self {
                Self::Q3KL | Self::Q5KS | Self::Q5KM => base,
                Self::Mostly(_) if !uneven => base,
                _ => DType::Q5K,
            },
            Role::AttentionOutput => match self {
                Self::Q2K => DType::Q3K,
                Self::Q3KM => DType::Q4K,
                Self::Q3KL => DType::Q5K,
                _ => base,
            },
            _ => base,
        }
    }
}

/// The type itself where it fits the row, else the nearest that llama.cpp puts in its place.
fn fitting(dtype: DType, matrix: Matrix) -> DType {
    let fits = |dtype: DType| matrix.cols.is_multiple_of(dtype.block_len());
    if fits(dtype) {
        return dtype;
    }
    let smaller = match dtype {
        DType::IQ4XS => DType::IQ4NL,
        DType::Q2K | DType::Q3K => DType::Q4_0,
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { DType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(role: Role, layer: usize, layers: usize) -> Matrix {
        Matrix { role, layer, layers, cols: 5120, heads_per_value: 4, experts: 0, weighed: false }
    }

    /// The layers whose matrix is of a type.
    fn layers_of(types: Types, role: Role, layers: usize, dtype: DType) -> Vec<usize> {
        (0..layers).filter(|&layer| types.of(matrix(role, layer, layers)) == dtype).collect()
    }

    #[test]
    fn names_go_there_and_back() {
        for name in Types::names() {
            assert_eq!(Types::named(name).map(Types::name), Some(name));
        }
        assert_eq!(Types::named("Q4_K_M"), Some(Types::Mixed(Mixture::Q4KM)));
        assert_eq!(Types::named("q4"), None);
    }

    /// Expected: what llama-quantize wrote for a model of 32 layers (every published Llama 8B in Q4_K_M).
    #[test]
    fn q4_k_m_spares_what_llama_cpp_spares() {
        let types = Types::Mixed(Mixture::Q4KM);
        let expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        for role in [Role::Value, Role::Down] {
            assert_eq!(layers_of(types, role, 32, DType::Q6K), expected);
        }
        assert_eq!(layers_of(types, Role::Query, 32, DType::Q4K).len(), 32);
        assert_eq!(types.of(matrix(Role::Head, 0, 32)), DType::Q6K);
        assert_eq!(types.of(matrix(Role::Embedding, 0, 32)), DType::Q4K);
        assert_eq!(layers_of(types, Role::Value, 80, DType::Q4K), [0; 0]);
    }

    #[test]
    fn q4_k_s_spares_the_first_layers() {
        let types = Types::Mixed(Mixture::Q4KS);
        assert_eq!(layers_of(types, Role::Value, 64, DType::Q5K), [0, 1, 2, 3]);
        assert_eq!(layers_of(types, Role::Down, 64, DType::Q5K), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(layers_of(types, Role::Up, 64, DType::Q4K).len(), 64);
    }

    #[test]
    fn rows_that_do_not_fill_blocks_get_a_type_that_they_fill() {
        let of = |dtype, cols| Types::All(dtype).of(Matrix { cols, ..matrix(Role::Up, 0, 1) });
        for (dtype, expected) in [
            (DType::Q2K, DType::Q4_0),
            (DType::Q3K, DType::Q4_0),
            (DType::Q4K, DType::Q5_0),
            (DType::Q5K, DType::Q5_1),
            (DType::Q6K, DType::Q8_0),
            (DType::IQ4XS, DType::IQ4NL),
        ] {
            assert_eq!((of(dtype, 576), of(dtype, 512), of(dtype, 100)), (expected, dtype, DType::F16));
        }
        assert_eq!(of(DType::F32, 100), DType::F32);
    }
}
