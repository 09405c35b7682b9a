//! Why a checkpoint was not made.

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
    /// The caller wanted it to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// The checkpoint can not be converted.
    #[error(transparent)]
    Convert(#[from] crate::convert::ConvertError),
    /// The source's config or tensors make no model.
    #[error(transparent)]
    Model(#[from] sol_model::ModelError),
    /// The source's tokenizer can not be read or written.
    #[error(transparent)]
    Text(#[from] sol_text::Error),
    /// The file could not be written.
    #[error(transparent)]
    Weights(#[from] sol_weights::Error),
}
