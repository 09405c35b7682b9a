//! Requests in, tokens out.
//!
//! Read in this order: [`LanguageModel`] (`load`) opens a checkpoint with its tokenizer and chat template (`text`); [`Engine`] runs
//! token ids through the decoder and keeps each [`Sequence`]'s keys and values in blocks; `sampling` turns logits into a
//! token; `generate` is the loop that answers, `batch` the one that answers many; `scoring` gives log-likelihoods of many
//! continuations, `perplexity` that of a text; `serving` answers requests as they come; `constraint` gives answers a form,
//! `speculate` guesses tokens ahead; `limits` knows what memory there is.
//!
//! **Invariant.** A request's result is a function of the request alone: same weights, ids, options and seed, same tokens,
//! whatever ran before and however many threads there are.
//!
//! This crate knows no terminal and no HTTP.
//!
//! ```no_run
//! use sol_engine::{Generation, LanguageModel, Message, Options};
//!
//! let mut model = LanguageModel::load("smollm2", Options::default())?;
//! let prompt = model.chat_prompt(&[Message::user("Please, introduce yourself.")])?;
//! let answer = model.generate(&prompt, &Generation::default(), &mut |text| print!("{text}"))?;
//! # let _ = answer;
//! # Ok::<(), sol_engine::Error>(())
//! ```

mod batch;
mod blocks;
mod constraint;
mod engine;
mod error;
mod generate;
mod inputs;
mod limits;
mod load;
mod perplexity;
mod sampling;
mod scoring;
mod serving;
mod speculate;
mod stop;
mod text;

pub use batch::{Prompt, Reply, Tally};
pub use constraint::{Constrainer, Constraint, Grammar};
pub use engine::{Engine, Sequence, Work};
pub use error::Error;
pub use generate::{Answer, Finish, Generation, Interrupt};
pub use inputs::{InputSums, input_sums};
pub use limits::{Bound, Fit, Limits, Need, Size};
pub use load::{LanguageModel, Options, open_tokenizer};
pub use perplexity::{Perplexity, perplexity};
pub use sampling::{Sampler, Sampling};
pub use scoring::{Score, Scorer, Scoring};
pub use serving::{Event, Figures, Refusal, Request, Serving, ServingOptions, Sink, TokenLogprob};
pub use sol_model::BLOCK_LEN;
pub use sol_text::Message;
pub use speculate::{Guesses, Speculation, same_vocabulary};
pub use text::Text;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
