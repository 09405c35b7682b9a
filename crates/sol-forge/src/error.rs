//! Why a checkpoint was not made.

use std::path::PathBuf;

use sol_weights::DType;

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
    /// Weights of 8 bits with scales beside them go only where both can go.
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
