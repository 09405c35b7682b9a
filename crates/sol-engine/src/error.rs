//! What can go wrong between a request and its answer.

use std::path::PathBuf;

use thiserror::Error as ThisError;

use crate::limits::{Bound, Size};

/// An error of this crate.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The sequence does not fit.
    #[error(
        "{needed} tokens are needed ({prompt} of the prompt and {max_tokens} to generate), but the context holds {context}; {hint}"
    )]
    ContextOverflow {
        /// Tokens in all.
        needed: usize,
        /// Of the prompt.
        prompt: usize,
        /// Asked for.
        max_tokens: usize,
        /// What fits.
        context: usize,
        /// What to do.
        hint: &'static str,
    },
    /// A text so long that counting its tokens would waste time.
    #[error(
        "the prompt of {bytes} bytes is much too long: its first {sample} have {tokens} tokens already, but the context holds \
         {context}; shorten it, or use --shift to forget its beginning"
    )]
    PromptTooLong {
        /// Length of the text.
        bytes: usize,
        /// Length of what was looked at.
        sample: usize,
        /// Tokens of that.
        tokens: usize,
        /// What fits.
        context: usize,
    },
    /// A context beyond what the model was made for.
    #[error("a context of {asked} tokens was asked for, but the model's is {context}; lower --ctx")]
    ContextTooLong {
        /// `--ctx`.
        asked: usize,
        /// The model's.
        context: usize,
    },
    /// The engine's thread could not be started.
    #[error("a thread can not be started: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// Nothing to go on from.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// No such token.
    #[error("token id {id} is not in the vocabulary of {vocab} tokens (0 to {})", vocab - 1)]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The blocks of the cache are used up.
    #[error(
        "the KV cache is full: its {blocks} blocks hold {tokens} tokens; release a sequence or raise --ctx (of a server: --kv-memory)"
    )]
    CacheFull {
        /// Blocks in all.
        blocks: usize,
        /// Tokens they hold.
        tokens: usize,
    },
    /// A cache that does not hold one sequence.
    #[error(
        "--kv-memory {given} holds {tokens} tokens{}; raise it to {least} at least{}",
        asked.map_or(String::new(), |asked| format!(", but --ctx asks for {asked}")),
        if asked.is_some() { ", or lower --ctx" } else { "" }
    )]
    LittleKvMemory {
        /// Bytes it may take.
        given: Size,
        /// Tokens that they hold.
        tokens: usize,
        /// `--ctx`.
        asked: Option<usize>,
        /// Bytes that it must take.
        least: Size,
    },
    /// Memory that must stay does not fit what this process may use.
    #[error(
        "a context of {context} tokens{} takes {kept} beside the mapped weights ({kv} of it keys and values), but only {bound}; {advice}",
        if *sequences > 1 { format!(" for each of {sequences} sequences") } else { String::new() }
    )]
    TooLittleMemory {
        /// Sequences.
        sequences: usize,
        /// Tokens of each.
        context: usize,
        /// All but weights in their files.
        kept: Size,
        /// Keys and values.
        kv: Size,
        /// What is in the way.
        bound: Bound,
        /// What to do.
        advice: String,
    },
    /// More sequences than the engine has buffers for.
    #[error("{asked} sequences can not be advanced together: the engine was made for {most}; raise `Options::sequences`")]
    TooManySequences {
        /// Sequences of the step.
        asked: usize,
        /// What fits.
        most: usize,
    },
    /// More in one pass than the engine has buffers for.
    #[error("a pass of {rows} tokens with {outputs} logits is too large: at most {} tokens and {} logits", most[0], most[1])]
    PassTooLarge {
        /// Tokens of all sequences.
        rows: usize,
        /// Logits wanted.
        outputs: usize,
        /// What fits of each.
        most: [usize; 2],
    },
    /// The weights give no numbers.
    #[error("the model gives logits that are not numbers: {cause}")]
    NotFinite {
        /// Which tensor, if one was found.
        cause: String,
    },
    /// The checkpoint has no tokenizer, so only ids can go in and out.
    #[error("{}: no tokenizer beside the weights (tokenizer.json or tokenizer.model); give token ids with --ids", path.display())]
    NoTokenizer {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The checkpoint has no chat template.
    #[error("this model has no chat template, so it can not hold a conversation; use --raw to continue a text")]
    NoChatTemplate,
    /// An option that makes no sense.
    #[error("{option} is {value}: {problem}")]
    BadOption {
        /// The option as the command line spells it.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A draft model whose tokens are others.
    #[error(
        "--draft {}: its vocabulary is another ({}): a draft must have the model's own tokenizer",
        path.display(),
        match differs {
            Some((id, model, draft)) => format!("token {id} is '{draft}', but '{model}' of the model"),
            None => format!("{} tokens, but {} of the model", sizes[1], sizes[0]),
        }
    )]
    DraftVocabulary {
        /// The draft.
        path: PathBuf,
        /// Tokens of the model and of the draft.
        sizes: [usize; 2],
        /// The first that differs: its id, and what it is to each.
        differs: Option<(u32, String, String)>,
    },
    /// Text that is too short to be scored.
    #[error(
        "the text has {tokens} tokens, but perplexity over chunks of {chunk} needs at least {chunk}; lower --ctx or give more text"
    )]
    TextTooShort {
        /// Tokens there are.
        tokens: usize,
        /// Tokens a chunk has.
        chunk: usize,
    },
    /// A form for the answer that can not be enforced.
    #[error("the answer can not be constrained like that: {problem}")]
    Grammar {
        /// What is wrong with the grammar.
        problem: String,
    },
    /// The engine's thread is gone, and what it was asked for with it.
    #[error("the engine has ended before the answer did; ask again")]
    EngineEnded,
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Where the model should have come from.
    #[error(transparent)]
    Hub(#[from] sol_hub::Error),
    /// The file.
    #[error(transparent)]
    Weights(#[from] sol_weights::Error),
    /// The decoder.
    #[error(transparent)]
    Model(#[from] sol_model::ModelError),
    /// The backend.
    #[error(transparent)]
    Compute(#[from] sol_compute::ComputeError),
    /// Tokenizer or template.
    #[error(transparent)]
    Text(#[from] sol_text::Error),
}
