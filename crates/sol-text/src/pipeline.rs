//! From text to ids: cut out added tokens, cut the rest into words, encode each word.
//!
//! Tokenizers of the two common families, byte-level and sentencepiece, run here, in time linear in
//! the text. Any other tokenizer.json runs through the `tokenizers` crate's own stages
//! ([`HfPipeline`]), which do more bookkeeping per character.

use std::borrow::Cow;

use tokenizers::{Model, ModelWrapper};

use crate::added::{AddedTokens, Piece};
use crate::byte_level::{self, Splitter};
use crate::hf_pipeline::HfPipeline;
use crate::{Error, Result};

/// How a stretch of ordinary text becomes the words that the model encodes.
#[derive(Debug)]
pub(crate) enum Words {
    /// Sentencepiece: spaces become `▁`, perhaps with another one in front. Words are encoded
    /// one at a time if `apart`, else a stretch at a time.
    SpaceMarks { prefix: Prefix, apart: bool },
    /// GPT-2 and after: each splitter cuts the words of the one before, then bytes become characters.
    ByteLevel { splitters: Vec<Splitter>, prefix: bool },
}

/// Where a space mark is put before a stretch of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    Never,
    /// Before every stretch, so also after each added token.
    Always,
    /// Before every stretch that does not begin with a space.
    UnlessSpace,
    /// Before the first stretch of a text, if nothing precedes it and it does not begin with a space.
    FirstUnlessSpace,
}

impl Prefix {
    fn applies(self, text: &str, first: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::UnlessSpace => !text.starts_with([' ', '▁']),
            Self::FirstUnlessSpace => first && !text.starts_with([' ', '▁']),
        }
    }
}

/// The stages of a tokenizer.
#[derive(Debug)]
pub(crate) enum Pipeline {
    /// Linear-time stages of this crate.
    Own(Box<OwnPipeline>),
    /// The stages of the `tokenizers` crate.
    Hf(Box<HfPipeline>),
}

/// The stages of a byte-level or sentencepiece tokenizer.
#[derive(Debug)]
pub(crate) struct OwnPipeline {
    pub(crate) added: AddedTokens,
    pub(crate) words: Words,
    pub(crate) model: ModelWrapper,
}

/// What to look for in the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scan {
    /// Special tokens count as such.
    pub(crate) special: bool,
    /// A character that is not part of the text: it keeps the words around it from forming a
    /// special token.
    pub(crate) guard: Option<char>,
}

impl Pipeline {
    /// Appends the ids of `text`.
    pub(crate) fn encode(&self, text: &str, scan: Scan, ids: &mut Vec<u32>) -> Result<()> {
        match self {
            Self::Own(pipeline) => pipeline.encode(text, scan, ids),
            Self::Hf(pipeline) => pipeline.encode(text, scan, ids),
        }
    }

    /// Every place in `text` where a special token begins, as byte offsets.
    pub(crate) fn special_starts(&self, text: &str) -> Vec<usize> {
        match self {
            Self::Own(pipeline) => pipeline.added.special_starts(text),
            Self::Hf(pipeline) => pipeline.special.special_starts(text),
        }
    }
}

impl OwnPipeline {
    fn encode(&self, text: &str, scan: Scan, ids: &mut Vec<u32>) -> Result<()> {
        self.added.cut(text, scan.special, &mut |piece, at| {
            let text = match piece {
                Piece::Token(id) => {
                    ids.push(id);
                    return Ok(());
                }
                Piece::Text(text) => match scan.guard {
                    Some(guard) if text.contains(guard) => Cow::Owned(text.replace(guard, "")),
                    _ => Cow::Borrowed(text),
                },
            };
            self.words.each(&text, at == 0, &mut |word| {
                let tokens = self.model.tokenize(word).map_err(|e| Error::Encode(e.to_string()))?;
                ids.extend(tokens.iter().map(|token| token.id));
                Ok(())
            })
        })
    }
}

impl Words {
    /// Hands each word of `text` to `word`, as the model's vocabulary writes it.
    fn each(&self, text: &str, first: bool, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match self {
            Self::SpaceMarks { prefix, apart } => {
                let mut marked = String::with_capacity(text.len() + text.len() / 2 + 3);
                if prefix.applies(text, first) {
                    marked.push('▁');
                }
                for (i, part) in text.split(' ').enumerate() {
                    if i > 0 {
                        marked.push('▁');
                    }
                    marked.push_str(part);
                }
                if *apart { each_marked_word(&marked, word) } else { word(&marked) }
            }
            Self::ByteLevel { splitters, prefix } => {
                let text = if *prefix && !text.starts_with(' ') { Cow::Owned(format!(" {text}")) } else { Cow::Borrowed(text) };
                let mut bytes = String::new();
                split_by(splitters, &text, &mut |part| {
                    bytes.clear();
                    byte_level::push_encoded(part, &mut bytes);
                    word(&bytes)
                })
            }
        }
    }
}

/// Cuts where a space mark follows something that is not one.
fn each_marked_word(marked: &str, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let mut start = 0;
    for (at, mark) in marked.match_indices('▁') {
        if at > start && !marked[start..at].ends_with(mark) {
            word(&marked[start..at])?;
            start = at;
        }
    }
    word(&marked[start..])
}

fn split_by(splitters: &[Splitter], text: &str, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    match splitters {
        [] => word(text),
        [last] => last.split(text, word),
        [first, rest @ ..] => first.split(text, &mut |part| split_by(rest, part, word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &Words, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        words
            .each(text, true, &mut |w| {
                found.push(w.to_owned());
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn space_marks() {
        let prefixed = Words::SpaceMarks { prefix: Prefix::Always, apart: true };
        assert_eq!(words(&prefixed, "Hello  big\nworld "), ["▁Hello", "▁▁big\nworld", "▁"]);
        assert_eq!(words(&prefixed, " a"), ["▁▁a"]);
        assert_eq!(words(&prefixed, ""), [""; 0]);
        let whole = Words::SpaceMarks { prefix: Prefix::Never, apart: false };
        assert_eq!(words(&whole, "a b"), ["a▁b"]);
    }

    #[test]
    fn byte_level() {
        let smollm = Words::ByteLevel {
            splitters: vec![Splitter::known(byte_level::DIGIT), Splitter::known(byte_level::GPT2)],
            prefix: false,
        };
        assert_eq!(words(&smollm, "it's 42é"), ["it", "'s", "Ġ", "4", "2", "Ã©"]);
    }
}
