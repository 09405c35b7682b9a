//! Why a checkpoint was not made.

use std::path::PathBuf;

use sol_weights::{DType, Tensor};

/// Why a checkpoint was not made. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such number of layers.
    #[error("a model has 1 to {most} layers, not {asked}")]
    Layers {
        /// What was asked for.
        asked: usize,
        /// The most that is written.
        most: usize,
    },
    /// The model is not of Llama's form.
    #[error("{model} can not be written as architecture llama: its layers are of another form ({architecture})")]
    NoLlama {
        /// The model's name.
        model: &'static str,
        /// Its architecture.
        architecture: &'static str,
    },
    /// No weights of this type can be made.
    #[error("random weights of type {0} can not be made")]
    Type(DType),
    /// Only GGUF files are quantised.
    #[error("{}: only GGUF files are quantised; make one of it first: sol convert -m {} -o model.gguf", path.display(), path.display())]
    NotGguf {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Floats are needed.
    #[error("{}: `{tensor}` is quantised already ({dtype}); quantising needs F32, F16, BF16 or Q8_0 weights, as errors add up", path.display())]
    Quantised {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// A number that nothing can be made of.
    #[error("{}: `{tensor}` has {value} in row {row}, column {column}: the checkpoint is damaged", path.display())]
    NotFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The number.
        value: f32,
    },
    /// A number that the result has no place for.
    #[error("{}: `{tensor}` has {value} in row {row}, column {column}, which is too large for {dtype}; take a type of more range (bf16, f32)", path.display())]
    TooLarge {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The number.
        value: f32,
        /// The type that it was to be stored in.
        dtype: DType,
    },
    /// The importance matrix is none, or that of another model.
    #[error("{}: {problem}", path.display())]
    Importance {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A thread ended before its work did.
    #[error("a thread failed; nothing was written")]
    Thread,
    /// The caller wanted it to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// There is no such up-scaled model.
    #[error(transparent)]
    Plan(#[from] crate::upscale::PlanError),
    /// The base is no model that is known.
    #[error(transparent)]
    Model(#[from] sol_model::ModelError),
    /// The plan can not be carried out on this base.
    #[error("{}: {problem}", path.display())]
    Base {
        /// The base.
        path: PathBuf,
        /// What stands against it.
        problem: String,
    },
    /// Numbers in blocks can not be multiplied.
    #[error("{}: tensor `{tensor}` is stored as {dtype}, which can not be scaled; take an F32, F16 or BF16 base, or have the weights stored as such (--type bf16)", path.display())]
    Quantized {
        /// The base.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// How it is stored.
        dtype: DType,
    },
    /// F8 weights and their scales stay as they are.
    #[error("{}: tensor `{tensor}` {problem}; decode the weights first: sol convert -m {} -o DIRECTORY --type bf16", path.display(), path.display())]
    Scaled {
        /// The base.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why it can not be kept.
        problem: String,
    },
    /// The base is of one format and the result would be of the other.
    #[error("{}: the base is {base}, so the result must {needs}; `sol convert` makes one of the other", out.display())]
    OtherFormat {
        /// The result.
        out: PathBuf,
        /// The base's format.
        base: &'static str,
        /// What the result's path must do.
        needs: &'static str,
    },
    /// The result would replace what it is made of.
    #[error("{} is, or holds, what the result is made of; write it elsewhere", path.display())]
    OverBase {
        /// Both.
        path: PathBuf,
    },
    /// What was written is not what was meant.
    #[error("{}: the check of what was written failed: {problem}", path.display())]
    Check {
        /// The result.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
    /// The system refused.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The checkpoint can not be converted.
    #[error(transparent)]
    Convert(#[from] crate::convert::ConvertError),
    /// The source's tokenizer can not be read or written.
    #[error(transparent)]
    Text(#[from] sol_text::Error),
    /// The file could not be written.
    #[error(transparent)]
    Weights(#[from] sol_weights::Error),
}

/// The least magnitude that the types which conversions write have no finite number for. A step of Q8_0 is 1/127 of the largest
/// number of its block, in F16.
fn limit(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 65520.0,
        DType::BF16 => f32::from_bits(0x7f7f_8000),
        DType::Q8_0 => 127.0 * 65520.0,
        _ => f32::INFINITY,
    }
}

impl Error {
    /// Of a tensor's number at a row and column that can not be stored as `dtype`.
    pub(crate) fn of_number(tensor: &Tensor, [row, column]: [usize; 2], value: f32, dtype: DType) -> Self {
        let (path, tensor) = (tensor.path().to_owned(), tensor.name.clone());
        match value.is_finite() {
            true => Self::TooLarge { path, tensor, row, column, value, dtype },
            false => Self::NotFinite { path, tensor, row, column, value },
        }
    }

    /// Refuses numbers, those of a tensor from a row on, that would not be finite as `dtype`. F32 takes any.
    pub(crate) fn check_numbers(
        tensor: &Tensor,
        first_row: usize,
        columns: usize,
        values: &[f32],
        dtype: DType,
    ) -> crate::Result<()> {
        let limit = limit(dtype);
        // Without an early end, so that it is fast.
        let fits = values.iter().fold(true, |fits, value| fits & (value.abs() < limit));
        if fits || dtype == DType::F32 {
            return Ok(());
        }
        let at = values.iter().position(|value| value.is_nan() || value.abs() >= limit).unwrap_or(0);
        let columns = columns.max(1);
        Err(Self::of_number(tensor, [first_row + at / columns, at % columns], values[at], dtype))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_where_numbers_become_infinite() {
        let largest = |dtype| f32::from_bits(limit(dtype).to_bits() - 1);
        let f16 = |x| half::f16::from_f32(x).is_finite();
        assert!(f16(largest(DType::F16)) && !f16(limit(DType::F16)));
        let bf16 = |x| half::bf16::from_f32(x).is_finite();
        assert!(bf16(largest(DType::BF16)) && !bf16(limit(DType::BF16)));
        assert!(f16(largest(DType::Q8_0) / 127.0) && !f16(limit(DType::Q8_0) / 127.0));
    }
}
