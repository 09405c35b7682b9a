//! What can be wrong with a model.

use std::path::PathBuf;

use sol_compute::ComputeError;
use thiserror::Error;

/// Errors of describing and loading a model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The config names an architecture that has no file here.
    #[error("{path}: architecture '{name}' is not supported; supported are {supported}")]
    UnknownArchitecture {
        /// The checkpoint.
        path: PathBuf,
        /// What its config says.
        name: String,
        /// What there is.
        supported: String,
    },
    /// A key the decoder can not do without.
    #[error("{path}: the config has no '{key}'; it can not be guessed, add it to the config")]
    MissingKey {
        /// The checkpoint.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key whose value makes no sense.
    #[error("{path}: the config's '{key}' is {value}: {problem}")]
    BadValue {
        /// The checkpoint.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it holds.
        value: String,
        /// Why that can not be.
        problem: String,
    },
    /// No config at all.
    #[error("{}: there is no config.json beside the weights; download it too", dir.display())]
    NoConfig {
        /// The directory.
        dir: PathBuf,
    },
    /// A tensor that should be there is not.
    #[error("{path}: tensor '{tensor}' is missing ({role}); the checkpoint is incomplete or its config is of another model")]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name or names looked for.
        tensor: String,
        /// What it is for.
        role: String,
    },
    /// A tensor's shape is not what the config says.
    #[error("{path}: tensor '{tensor}' has shape {got:?}, but the config asks for {expected:?}")]
    WrongShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the file has.
        got: Vec<usize>,
        /// What the config asks for.
        expected: Vec<usize>,
    },
    /// A tensor whose contents make no sense.
    #[error("{path}: tensor '{tensor}': {problem}")]
    BadTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why that can not be.
        problem: String,
    },
    /// The checkpoint has more layers than its config.
    #[error(
        "{path}: tensor '{tensor}' is of a layer that the config does not have, which has {layers}; the config is of another model"
    )]
    ExtraLayer {
        /// The checkpoint.
        path: PathBuf,
        /// A tensor of the first layer too many.
        tensor: String,
        /// Layers of the config.
        layers: usize,
    },
    /// A tensor the backend can not take.
    #[error("tensor '{tensor}': {source}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What the backend said.
        source: ComputeError,
    },
    /// The file itself.
    #[error(transparent)]
    Weights(#[from] sol_weights::Error),
    /// The backend.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}
