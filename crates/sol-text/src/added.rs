//! Tokens that are found in the text before anything else happens to it: special tokens, and words
//! that a vocabulary's owner added.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex::Regex;

use crate::{Error, Result};

/// How one added token is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Structure rather than text: skipped in decoding, and not found in text that may not hold it.
    pub(crate) special: bool,
    /// Counts only where no letter or digit stands beside it.
    pub(crate) single_word: bool,
    /// Swallows white space to its left.
    pub(crate) lstrip: bool,
    /// Swallows white space to its right.
    pub(crate) rstrip: bool,
}

/// A stretch of text as the added tokens cut it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'t> {
    /// Ordinary text.
    Text(&'t str),
    /// An added token.
    Token(u32),
}

/// Finds added tokens, the longest of those that begin first, as the `tokenizers` crate does.
#[derive(Debug)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    automaton: Option<AhoCorasick>,
}

impl AddedTokens {
    pub(crate) fn new(origin: &str, tokens: Vec<AddedToken>) -> Result<Self> {
        let mut tokens = tokens;
        tokens.retain(|token| !token.content.is_empty());
        let automaton = if tokens.is_empty() {
            None
        } else {
            Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(tokens.iter().map(|token| &token.content))
                    .map_err(|e| Error::vocabulary(origin, format!("added tokens: {e}")))?,
            )
        };
        Ok(Self { tokens, automaton })
    }

    /// Cuts `text` and hands over each piece with its byte offset; with `special` off, special tokens
    /// are ordinary text.
    pub(crate) fn cut<'t>(
        &self,
        text: &'t str,
        special: bool,
        piece: &mut dyn FnMut(Piece<'t>, usize) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        for found in self.automaton.iter().flat_map(|a| a.find_iter(text)) {
            let token = &self.tokens[found.pattern().as_usize()];
            if token.special && !special {
                continue;
            }
            let mut start = found.start();
            let mut end = found.end();
            if token.single_word
                && (text[..start].chars().next_back().is_some_and(is_word) || text[end..].chars().next().is_some_and(is_word))
            {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(at);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if start > at {
                piece(Piece::Text(&text[at..start]), at)?;
            }
            piece(Piece::Token(token.id), start)?;
            at = end.max(at);
        }
        if at < text.len() {
            piece(Piece::Text(&text[at..]), at)?;
        }
        Ok(())
    }

    /// Every place in `text` where a special token begins, also inside another one, as byte offsets.
    pub(crate) fn special_starts(&self, text: &str) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut at = 0;
        let next = |at: usize| self.automaton.as_ref()?.find(Input::new(text).range(at..));
        while let Some(found) = next(at) {
            if self.tokens[found.pattern().as_usize()].special {
                starts.push(found.start());
            }
            at = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
        }
        starts
    }
}

fn is_word(c: char) -> bool {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w$").expect("a valid pattern"));
    WORD.is_match(c.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> AddedToken {
        AddedToken { id, content: content.into(), special: true, single_word: false, lstrip: false, rstrip: false }
    }

    fn cut<'t>(tokens: Vec<AddedToken>, text: &'t str, special: bool) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        AddedTokens::new("test", tokens)
            .unwrap()
            .cut(text, special, &mut |p, _| {
                pieces.push(p);
                Ok(())
            })
            .unwrap();
        pieces
    }

    #[test]
    fn longest_of_the_leftmost() {
        let tokens = vec![token(1, "<a>"), token(2, "<a><b>"), token(3, "<b>")];
        assert_eq!(cut(tokens, "x<a><b><b>y", true), [Piece::Text("x"), Piece::Token(2), Piece::Token(3), Piece::Text("y")]);
    }

    #[test]
    fn stripping_swallows_white_space() {
        let mut left = token(1, "<l>");
        left.lstrip = true;
        let mut right = token(2, "<r>");
        right.rstrip = true;
        assert_eq!(
            cut(vec![left, right], "a \n<l> b<r> \n<l>c", true),
            [Piece::Text("a"), Piece::Token(1), Piece::Text(" b"), Piece::Token(2), Piece::Token(1), Piece::Text("c")]
        );
    }

    #[test]
    fn special_tokens_begin_inside_others() {
        let tokens = vec![token(1, "<a><b>"), token(2, "<b>"), token(3, "<<")];
        let added = AddedTokens::new("test", tokens).unwrap();
        assert_eq!(added.special_starts("é<a><b><<<"), [2, 5, 8, 9]);
    }

    #[test]
    fn single_words_stand_alone() {
        let mut day = token(1, "day");
        day.single_word = true;
        assert_eq!(cut(vec![day], "monday day, days", true), [Piece::Text("monday "), Piece::Token(1), Piece::Text(", days")]);
    }

    #[test]
    fn special_tokens_are_text_when_not_parsed() {
        let mut plain = token(2, "word");
        plain.special = false;
        assert_eq!(
            cut(vec![token(1, "<s>"), plain], "<s>word<s>", false),
            [Piece::Text("<s>"), Piece::Token(2), Piece::Text("<s>")]
        );
    }
}
