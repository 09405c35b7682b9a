//! Who answers: the engine of this process ([`Local`]), a server somewhere ([`Remote`]), or whatever else is a [`Model`].

mod local;
mod remote;
mod split;

pub use self::local::Local;
pub use self::remote::{Remote, RemoteOptions, conversation};

use crate::Result;
use crate::document::{Answer, Document};

/// What answering took, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// That went through the decoder.
    pub computed: u64,
    /// That would have if no two different inputs shared anything. (One input for several one-token continuations counts once, as
    /// the harness runs it once.)
    pub naive: u64,
    /// Made.
    pub generated: u64,
    /// Prompts that lost their beginning because they did not fit the context.
    pub truncated: u64,
}

/// A model that can be asked.
pub trait Model {
    /// Tells this model's answers from another's.
    fn fingerprint(&mut self) -> String;

    /// The text of the token that ends a text, at which generated answers are cut; `None` where it is not known.
    fn eos(&self) -> Option<String>;

    /// What answering took so far.
    fn cost(&self) -> Cost;

    /// Answers documents; `each(index, answer)` is called as soon as one is known, in any order. When `stop` turns true, answers
    /// that are known have been given, and the error is [`Error::Interrupted`](crate::Error::Interrupted).
    fn answer(
        &mut self,
        documents: &[Document],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()>;
}
