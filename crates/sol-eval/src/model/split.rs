//! Texts to tokens, where the harness splits and cuts them: the same for every model whose tokenizer is at hand.

use sha2::{Digest, Sha256};
use sol_engine::Scoring;
use sol_text::{Encode, Tokenizer};

use crate::document::{Document, GenKwargs};
use crate::python::text::rstrip;
use crate::{Error, Result};

/// A tokenizer and how it is used.
pub(super) struct Splitter<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) add_bos: bool,
    /// Most tokens of a scored text, its last one, which nothing follows, included.
    pub(super) longest: usize,
}

impl Splitter<'_> {
    fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, Encode { add_bos, parse_special: true })?)
    }

    /// Each continuation after the document's context, and whether one of them lost its beginning.
    pub(super) fn choices(&self, document: &Document, choices: &[String]) -> Result<(Vec<Scoring>, bool)> {
        // The same for all choices: tokenising is not free.
        let context = self.encode(rstrip(&document.context), self.add_bos)?.len();
        let mut truncated = false;
        let scorings = choices.iter().map(|choice| self.split(document, context, choice, &mut truncated));
        Ok((scorings.collect::<Result<_>>()?, truncated))
    }

    /// A context's and a continuation's tokens as the harness splits them: spaces that end the context go to the continuation, both
    /// are tokenised as one text, and the length of the context alone, in tokens, says where the continuation begins.
    fn split(&self, document: &Document, context: usize, continuation: &str, truncated: &mut bool) -> Result<Scoring> {
        let problem = |problem: &str| Error::Document {
            task: document.task.to_string(),
            doc_id: document.doc_id,
            problem: format!("{problem}, continuation '{continuation}'"),
        };
        let (mut tokens, length) = if document.context.is_empty() {
            let first = self.prefix(document)?;
            let tokens = self.encode(continuation, self.add_bos)?;
            let length = tokens.len();
            ([&[first], &tokens[..]].concat(), length)
        } else {
            let whole = self.encode(&(document.context.clone() + continuation), self.add_bos)?;
            let length = whole.len().saturating_sub(context);
            (whole, length)
        };
        if length == 0 || tokens.len() <= length {
            return Err(problem("nothing is left of the context or the continuation once both are tokens"));
        }
        if tokens.len() > self.longest {
            if length >= self.longest {
                return Err(problem("the continuation does not fit the context"));
            }
            *truncated = true;
            tokens.drain(..tokens.len() - self.longest);
        }
        Ok(Scoring { tokens, continuation: length })
    }

    /// The document's context in windows that fill the model's and do not overlap in what they score, the first after the token that
    /// begins a text.
    pub(super) fn windows(&self, document: &Document) -> Result<Vec<Scoring>> {
        let tokens = [&[self.prefix(document)?][..], &self.encode(&document.context, self.add_bos)?].concat();
        let mut windows = Vec::new();
        let mut end = 1;
        while end < tokens.len() {
            let scored = (tokens.len() - end).min(self.longest - 1);
            end += scored;
            windows.push(Scoring { tokens: tokens[end.saturating_sub(self.longest)..end].to_vec(), continuation: scored });
        }
        Ok(windows)
    }

    /// The document's context as a prompt to be continued in a context of so many tokens, most new tokens, and whether the prompt
    /// lost its beginning.
    pub(super) fn prompt(&self, document: &Document, kwargs: &GenKwargs, context: usize) -> Result<(Vec<u32>, usize, bool)> {
        // A tokenizer that begins texts with a token says so where programs are wanted.
        let mut tokens = self.encode(&document.context, self.add_bos || kwargs.programs())?;
        let max_tokens = kwargs.max_tokens(tokens.len());
        let longest = context.saturating_sub(max_tokens);
        if longest == 0 {
            return Err(Error::Document {
                task: document.task.to_string(),
                doc_id: document.doc_id,
                problem: format!(
                    "an answer may have {max_tokens} tokens, and the context is {context}: --ctx asks for a longer one, \
                     --gen-kwargs max_gen_toks=N for shorter answers"
                ),
            });
        }
        let truncated = tokens.len() > longest;
        if truncated {
            tokens.drain(..tokens.len() - longest);
        }
        Ok((tokens, max_tokens, truncated))
    }

    /// The token in front of a text that has nothing in front of it.
    fn prefix(&self, document: &Document) -> Result<u32> {
        self.tokenizer.bos().or(self.tokenizer.eos()).ok_or_else(|| Error::Document {
            task: document.task.to_string(),
            doc_id: document.doc_id,
            problem: "an empty context, and the tokenizer has no token that begins a text".into(),
        })
    }
}

/// Adds a tokenizer to a fingerprint: its tokens, and what it makes of a text, on which its merges and rules work.
pub(super) fn hash_tokens(tokenizer: &Tokenizer, hash: &mut Sha256) {
    let tokens = (0..tokenizer.vocab_size() as u32).filter_map(|id| tokenizer.token(id));
    tokens.for_each(|token| hash.update(format!("{token}\n")));
    for text in [include_str!("../../tasks/bbh.toml"), "Größe\t 12345 — 한국어, 日本語; naïve…  x\u{301} 😀\r\n<|im_end|>"]
    {
        let tokens = tokenizer.encode(text, Encode { add_bos: true, parse_special: true });
        hash.update(format!("{:?}", tokens.unwrap_or_default()));
    }
}

/// The text of the token that ends a text.
pub(super) fn eos(tokenizer: &Tokenizer) -> Option<String> {
    tokenizer.token(tokenizer.eos()?).map(str::to_owned)
}
