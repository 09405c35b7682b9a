//! Everything that can go wrong between text and ids, said for people.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{origin} is not valid: {source}")]
    Json {
        /// The file, or the part of it.
        origin: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A directory holds no tokenizer.
    #[error("no tokenizer in {}: expected tokenizer.json or tokenizer.model", dir.display())]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },
    /// A vocabulary contradicts itself or lacks something.
    #[error("{origin}: {what}")]
    Vocabulary {
        /// The file or the set of keys the vocabulary came from.
        origin: String,
        /// What is wrong with it.
        what: String,
    },
    /// A vocabulary is sound but of a kind that this crate does not implement.
    #[error("{origin}: {what} is not supported; {hint}")]
    Unsupported {
        /// The file or key.
        origin: String,
        /// The kind that was found.
        what: String,
        /// What would work.
        hint: String,
    },
    /// Text could not be tokenised.
    #[error("the text could not be tokenised: {0}")]
    Encode(String),
    /// A chat template does not parse or failed while rendering.
    #[error("chat template: {0}")]
    Template(String),
    /// A chat template refused the conversation: its own words, from `raise_exception`.
    #[error("the model's chat template refuses this conversation: {0}")]
    TemplateRefused(String),
    /// A conversation has a system message and the template has no place for one.
    #[error(
        "this model has no system prompt: its chat template drops or refuses system messages; \
         use --system-as-user to put the text in front of the first user message instead"
    )]
    NoSystemPrompt,
}

impl Error {
    pub(crate) fn vocabulary(origin: &str, what: impl Into<String>) -> Self {
        Self::Vocabulary { origin: origin.to_owned(), what: what.into() }
    }

    pub(crate) fn unsupported(origin: &str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { origin: origin.to_owned(), what: what.into(), hint: hint.into() }
    }
}
