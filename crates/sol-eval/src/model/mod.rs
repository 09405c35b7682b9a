//! Who answers: this process's engine, a server, a file of recorded answers.

use crate::Result;
use crate::document::{Answer, Document};
use crate::results::Cost;

/// A model under test.
pub trait Model {
    /// Answers documents, each kind of [`Ask`](crate::document::Ask) among them; `each(index, answer)` is called once for every
    /// one, in any order, as soon as it is known. When `stop` turns true or `each` fails, it ends with that error soon; what was
    /// delivered stays delivered.
    fn answer(
        &mut self,
        documents: &[Document],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()>;

    /// What answering took so far: tokens only; the rest is the run's to count.
    fn cost(&self) -> Cost;

    /// What tells this model from others, in an answer log: weights, tokenizer, settings that change answers.
    fn fingerprint(&self) -> String;
}
