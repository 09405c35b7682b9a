//! Text in, token ids out, and back: tokenizers, chat templates, incremental detokenisation.
//!
//! Read in this order:
//! 1. [`Tokenizer`]: text to ids and ids to text, loaded from a Hugging Face directory
//!    ([`Tokenizer::from_dir`]) or from the vocabulary of a GGUF file ([`Tokenizer::from_gguf`]).
//! 2. [`TokenStream`]: ids one at a time to complete characters, for printing while generating.
//! 3. [`ChatTemplate`]: a conversation to the prompt text that a model was trained on, and
//!    [`ChatTemplate::encode`], which goes straight to ids and never lets the words of a message
//!    act as special tokens.
//!
//! This crate must not know what a tensor, a checkpoint format or a model is: whoever reads a GGUF
//! file fills in [`GgufVocab`]. Byte pair encoding itself is the `tokenizers` crate's; around it
//! stand readers that check what they read, and splitting code whose time grows linearly with the text.

mod added;
mod bpe;
mod byte_level;
mod chat;
mod error;
mod gguf;
mod hf;
mod hf_pipeline;
mod jinja;
mod json;
mod message;
mod pipeline;
mod sentencepiece;
mod spm;
mod stream;
mod template;
mod to_gguf;
mod to_hf;
mod tokenizer;
mod tokenizer_json;
mod vocab;

pub use error::Error;
pub use gguf::GgufVocab;
pub use jiff::civil::DateTime;
pub use message::{Message, fold_system_into_user};
pub use stream::TokenStream;
pub use template::{ChatTemplate, RenderOptions};
pub use to_hf::TURN_ENDS;
pub use tokenizer::{Encode, Tokenizer};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
