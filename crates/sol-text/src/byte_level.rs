//! The byte-level alphabet of GPT-2's vocabularies, and the cutting of text into words before byte
//! pair encoding.
//!
//! The published patterns end in `\s+(?!\S)|\s+`, a look-ahead that needs a backtracking engine, which
//! is slow and gives up on long runs of spaces. Its meaning is simple: a run of white space in front of
//! a word leaves its last character to that word. [`Splitter`] runs the rest of the pattern on the
//! linear-time `regex` crate and does that by hand.

use std::sync::LazyLock;

use regex::Regex;

use crate::{Error, Result};

/// GPT-2's pattern, also the one behind `ByteLevel { use_regex: true }` in a tokenizer.json.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's pattern.
pub(crate) const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's pattern: Llama 3's with digits one by one.
pub(crate) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Each digit a word of its own.
pub(crate) const DIGIT: &str = r"\p{N}";

/// The printable character that stands for each byte.
static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(b),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("0x100 to 0x143 are characters")
        }
    })
});

/// The byte behind each of the characters up to the last one in use, U+0143.
static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    for (byte, &char) in CHARS.iter().enumerate() {
        bytes[char as usize] = Some(byte as u8);
    }
    bytes
});

/// Writes `text` in the byte-level alphabet, one character per byte.
pub(crate) fn push_encoded(text: &str, out: &mut String) {
    out.extend(text.bytes().map(|byte| CHARS[usize::from(byte)]));
}

/// The bytes behind a vocabulary entry, or nothing when it is not written in the byte-level alphabet.
pub(crate) fn decode(entry: &str) -> Option<Vec<u8>> {
    entry.chars().map(|c| BYTES.get(c as usize).copied().flatten()).collect()
}

/// Cuts text into words: every match of a pattern, and every stretch between matches.
#[derive(Debug)]
pub(crate) struct Splitter {
    pattern: Regex,
    white_space: WhiteSpace,
}

/// What the pattern says about white space in front of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhiteSpace {
    /// Nothing in particular.
    Plain,
    /// Ends in `\s+(?!\S)|\s+`: a run leaves its last character to the word behind it. With
    /// `lines`, an earlier alternative already takes every run that ends in a line break whole.
    GivesBack { lines: bool },
}

impl Splitter {
    /// A splitter for a published pattern, or nothing when it needs what linear time can not do.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let Some(rest) = pattern.strip_suffix(r"|\s+(?!\S)|\s+") else {
            return Some(Self { pattern: Regex::new(pattern).ok()?, white_space: WhiteSpace::Plain });
        };
        let whole = Regex::new(&format!("^(?:{rest})$")).ok()?;
        // Only patterns whose other alternatives leave white space alone, but for line breaks.
        if [" ", "  ", "\t", "\u{3000}", "\n "].iter().any(|s| whole.is_match(s)) {
            return None;
        }
        let lines = whole.is_match("\n");
        if lines != whole.is_match(" \t\r\n\n") {
            return None;
        }
        Some(Self { pattern: Regex::new(&format!(r"{rest}|\s+")).ok()?, white_space: WhiteSpace::GivesBack { lines } })
    }

    /// A splitter for one of the constants above.
    pub(crate) fn known(pattern: &'static str) -> Self {
        Self::new(pattern).expect("the patterns of this module are linear")
    }

    /// Hands each word of `text` to `word`, in order.
    pub(crate) fn split(&self, text: &str, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while let Some(found) = self.pattern.find_at(text, at) {
            if found.start() > at {
                word(&text[at..found.start()])?;
            }
            let mut end = found.end();
            if let WhiteSpace::GivesBack { lines } = self.white_space
                && end < text.len()
            {
                end -= given_back(found.as_str(), lines);
            }
            if end == found.start() {
                // An empty match would repeat for ever; no published pattern has one.
                return Err(Error::Encode("the pre-tokenizer's pattern matches nothing".into()));
            }
            word(&text[found.start()..end])?;
            at = end;
        }
        if at < text.len() {
            word(&text[at..])?;
        }
        Ok(())
    }
}

/// How many bytes at the end of a match belong to the word behind it.
fn given_back(run: &str, lines: bool) -> usize {
    let last = run.chars().next_back().unwrap_or('x');
    let keeps = !last.is_whitespace()
        || (lines && matches!(last, '\r' | '\n'))
        || run.len() == last.len_utf8()
        || !run.chars().all(char::is_whitespace);
    if keeps { 0 } else { last.len_utf8() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    fn words(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        splitter
            .split(text, &mut |word| {
                words.push(word.to_owned());
                Ok(())
            })
            .unwrap();
        words
    }

    /// The `tokenizers` crate's splitter, a backtracking engine, for the same pattern.
    fn reference(pattern: &str) -> Split {
        Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false).unwrap()
    }

    fn reference_words(split: &Split, text: &str) -> Vec<String> {
        let mut text = PreTokenizedString::from(text);
        split.pre_tokenize(&mut text).unwrap();
        let words = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words.into_iter().map(|(word, _, _)| word.to_owned()).collect()
    }

    #[test]
    fn alphabet_is_a_bijection() {
        let all: Vec<u8> = (0..=255).collect();
        let written: String = all.iter().map(|&b| CHARS[usize::from(b)]).collect();
        assert_eq!(decode(&written), Some(all));
        assert_eq!(written.chars().nth(b' '.into()), Some('Ġ'));
        assert_eq!(written.chars().nth(b'\n'.into()), Some('Ċ'));
        assert_eq!(decode("▁a"), None);
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_word() {
        assert_eq!(words(&Splitter::known(GPT2), "a   b"), ["a", "  ", " b"]);
        assert_eq!(words(&Splitter::known(GPT2), "a \n\n1  "), ["a", " \n", "\n", "1", "  "]);
        assert_eq!(words(&Splitter::known(LLAMA3), "a \n\n  1234"), ["a", " \n\n", " ", " ", "123", "4"]);
    }

    #[test]
    fn a_pattern_with_other_look_arounds_is_left_to_the_crate() {
        assert!(Splitter::new(r"\p{L}+(?=x)|\s+").is_none());
        assert!(Splitter::new(r"\s{4}(?!\S)|\s+(?!\S)|\s+").is_none());
        assert!(Splitter::new(r" +|\s+(?!\S)|\s+").is_none());
    }

    proptest! {
        #[test]
        fn splits_like_the_backtracking_engine(
            text in r"(?:[ \t\n\r\u{a0}\u{3000}]{0,4}|[a-zA-Z'’]{1,4}|[0-9१]{1,5}|[.,;/<|>é漢🙂\u{301}]{1,3}|'S|'LL){0,12}"
        ) {
            static PAIRS: LazyLock<Vec<(Splitter, Split)>> = LazyLock::new(|| {
                [GPT2, LLAMA3, QWEN2, DIGIT].map(|pattern| (Splitter::known(pattern), reference(pattern))).into()
            });
            for (splitter, split) in PAIRS.iter() {
                prop_assert_eq!(words(splitter, &text), reference_words(split, &text));
            }
        }
    }
}
