//! Element and block formats: their names and sizes.

use std::fmt;

/// How the elements of a tensor are stored: plain numbers, or blocks of quantised numbers with shared scales.
///
/// All multi-byte numbers are little endian. Blocks run along the innermost dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the formats")]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
    /// A GGML type that this crate lists but does not decode, by its number in GGUF files.
    Other(u32),
}

impl DType {
    /// Elements in a block: 1 for plain numbers. (1 for an unknown [`DType::Other`] too; see [`DType::bytes_for`].)
    pub const fn block_len(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block: of one element for plain numbers. 0 where the size is unknown ([`DType::Other`]).
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Bytes that so many elements take: `None` when they do not fill whole blocks, when the number of bytes overflows,
    /// or when the size of the type is not known.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let (_, len, bytes) = self.layout();
        if bytes == 0 || !elements.is_multiple_of(len) {
            return None;
        }
        (elements / len).checked_mul(bytes)
    }

    /// The format's usual name, as GGUF tools (for blocks) and safetensors (for plain numbers) write it.
    pub const fn name(self) -> &'static str {
        self.layout().0
    }

    /// Whether elements are stored in blocks with scales.
    pub const fn is_quantized(self) -> bool {
        match self {
            Self::Other(_) => true,
            _ => self.block_len() > 1,
        }
    }

    /// (name, elements in a block, bytes of a block)
    const fn layout(self) -> (&'static str, usize, usize) {
        match self {
            Self::F64 => ("F64", 1, 8),
            Self::F32 => ("F32", 1, 4),
            Self::F16 => ("F16", 1, 2),
            Self::BF16 => ("BF16", 1, 2),
            Self::F8E4M3 => ("F8_E4M3", 1, 1),
            Self::Bool => ("BOOL", 1, 1),
            Self::I8 => ("I8", 1, 1),
            Self::I16 => ("I16", 1, 2),
            Self::I32 => ("I32", 1, 4),
            Self::I64 => ("I64", 1, 8),
            Self::U8 => ("U8", 1, 1),
            Self::U16 => ("U16", 1, 2),
            Self::U32 => ("U32", 1, 4),
            Self::U64 => ("U64", 1, 8),
            Self::Q4_0 => ("Q4_0", 32, 18),
            Self::Q4_1 => ("Q4_1", 32, 20),
            Self::Q5_0 => ("Q5_0", 32, 22),
            Self::Q5_1 => ("Q5_1", 32, 24),
            Self::Q8_0 => ("Q8_0", 32, 34),
            Self::Q2K => ("Q2_K", 256, 84),
            Self::Q3K => ("Q3_K", 256, 110),
            Self::Q4K => ("Q4_K", 256, 144),
            Self::Q5K => ("Q5_K", 256, 176),
            Self::Q6K => ("Q6_K", 256, 210),
            Self::IQ4NL => ("IQ4_NL", 32, 18),
            Self::IQ4XS => ("IQ4_XS", 256, 136),
            // The other types that GGUF files are known to hold, so that they can at least be listed with their sizes.
            Self::Other(9) => ("Q8_1", 32, 40),
            Self::Other(15) => ("Q8_K", 256, 292),
            Self::Other(16) => ("IQ2_XXS", 256, 66),
            Self::Other(17) => ("IQ2_XS", 256, 74),
            Self::Other(18) => ("IQ3_XXS", 256, 98),
            Self::Other(19) => ("IQ1_S", 256, 50),
            Self::Other(21) => ("IQ3_S", 256, 110),
            Self::Other(22) => ("IQ2_S", 256, 82),
            Self::Other(29) => ("IQ1_M", 256, 56),
            Self::Other(34) => ("TQ1_0", 256, 54),
            Self::Other(35) => ("TQ2_0", 256, 66),
            Self::Other(39) => ("MXFP4", 32, 17),
            Self::Other(40) => ("NVFP4", 64, 36),
            Self::Other(41) => ("Q1_0", 128, 18),
            Self::Other(_) => ("unknown", 1, 0),
        }
    }

    /// The type with this number in a GGUF file.
    pub(crate) const fn from_ggml(id: u32) -> Self {
        match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            20 => Self::IQ4NL,
            23 => Self::IQ4XS,
            24 => Self::I8,
            25 => Self::I16,
            26 => Self::I32,
            27 => Self::I64,
            28 => Self::F64,
            30 => Self::BF16,
            other => Self::Other(other),
        }
    }

    /// Its number in a GGUF file; `None` for types that such files can not hold.
    pub(crate) const fn to_ggml(self) -> Option<u32> {
        Some(match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::IQ4NL => 20,
            Self::IQ4XS => 23,
            Self::I8 => 24,
            Self::I16 => 25,
            Self::I32 => 26,
            Self::I64 => 27,
            Self::F64 => 28,
            Self::BF16 => 30,
            Self::Other(id) => id,
            Self::F8E4M3 | Self::Bool | Self::U8 | Self::U16 | Self::U32 | Self::U64 => return None,
        })
    }

    /// The type with this name in a safetensors header; `None` for one that this crate does not know.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        const KNOWN: [DType; 14] = [
            DType::F64,
            DType::F32,
            DType::F16,
            DType::BF16,
            DType::F8E4M3,
            DType::Bool,
            DType::I8,
            DType::I16,
            DType::I32,
            DType::I64,
            DType::U8,
            DType::U16,
            DType::U32,
            DType::U64,
        ];
        KNOWN.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(id) => write!(f, "{} (GGML type {id})", self.name()),
            _ => f.pad(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        assert_eq!(DType::Q4K.bytes_for(512), Some(288));
        assert_eq!(DType::Q4K.bytes_for(500), None);
        assert_eq!(DType::F64.bytes_for(usize::MAX), None);
        assert_eq!(DType::Other(99).bytes_for(32), None);
        assert_eq!(DType::Other(16).bytes_for(256), Some(66));
    }

    #[test]
    fn numbers_of_types_go_there_and_back() {
        for id in 0..64 {
            assert_eq!(DType::from_ggml(id).to_ggml(), Some(id));
        }
        assert_eq!(DType::F8E4M3.to_ggml(), None);
    }

    #[test]
    fn types_print_their_usual_names() {
        assert_eq!(format!("{:>6}|{}|{}", DType::Q4K, DType::F8E4M3, DType::Other(16)), "  Q4_K|F8_E4M3|IQ2_XXS (GGML type 16)");
    }
}
