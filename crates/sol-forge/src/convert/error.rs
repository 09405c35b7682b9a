//! Why a checkpoint can not be converted.

use std::io;
use std::path::{Path, PathBuf};

use sol_weights::DType;

/// Why a checkpoint can not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// From GGUF to GGUF.
    #[error("{} is a GGUF file already; `sol quantize` changes its types", path.display())]
    SameFormat {
        /// The source.
        path: PathBuf,
    },
    /// Nothing would change.
    #[error("{} is in the Hugging Face format already; name an output that ends in .gguf, another --type, or a --lora", path.display())]
    NothingToDo {
        /// The source.
        path: PathBuf,
    },
    /// The output can not hold this type.
    #[error("a Hugging Face directory can not hold {0}; choose f32, f16 or bf16, or an output that ends in .gguf")]
    NoSuchType(DType),
    /// Blocks are decoded only when that is asked for.
    #[error(
        "{}: tensor `{tensor}` is stored as {dtype}, which the output can not hold: say --type f32, f16 or bf16 to have it \
         decoded, which adds nothing to what it lost", path.display()
    )]
    Quantised {
        /// The source.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// A tensor that the architecture has is not there.
    #[error("{}: tensor `{tensor}` is missing; the checkpoint is incomplete", path.display())]
    Missing {
        /// The source.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the architecture does not have would be lost.
    #[error("{}: tensor `{tensor}` has no place in the architecture {architecture}; it would be lost", path.display())]
    NoPlace {
        /// The source.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: &'static str,
    },
    /// A tensor's shape is not what the config says.
    #[error("{}: tensor `{tensor}` has the shape {got:?}, the config asks for {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        got: Vec<usize>,
        /// The config's.
        expected: Vec<usize>,
    },
    /// The target format has no words for something that the model's function depends on.
    #[error("{format} files of architecture {architecture} can not say this: {what}; the result would be another model")]
    Unsayable {
        /// The target's format.
        format: &'static str,
        /// The architecture.
        architecture: &'static str,
        /// What differs: "layer 1's window is none, readers would take 4096".
        what: String,
    },
    /// Rotary divisors that come of no published scaling.
    #[error("{}: rope_freqs.weight holds divisors that are not Llama 3's scaling, which a Hugging Face config has no words for", path.display())]
    Divisors {
        /// The source.
        path: PathBuf,
    },
    /// A LoRA adapter does not fit.
    #[error("LoRA adapter {}: {problem}", path.display())]
    Lora {
        /// The adapter's directory or file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something is where the output should be that is no checkpoint.
    #[error("{} is there already and does not look like a checkpoint ({problem}); it is not replaced", path.display())]
    InTheWay {
        /// The output.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A config is beyond reading.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The operating system refused.
    #[error("can not {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl ConvertError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> crate::Error {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }.into()
    }
}
