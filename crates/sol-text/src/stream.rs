//! Detokenisation one id at a time.

use std::sync::Arc;

use crate::vocab::Vocabulary;

/// Turns ids into text as they come, in complete characters only.
///
/// A character may be spread over several ids; its bytes wait here until the last one arrives. Bytes
/// that can no longer become a character come out as U+FFFD. The texts of all pushes and of
/// [`finish`](Self::finish), joined, are what [`Tokenizer::decode`](crate::Tokenizer::decode) gives for
/// all ids at once.
#[derive(Debug, Clone)]
pub struct TokenStream {
    vocabulary: Arc<Vocabulary>,
    skip_special: bool,
    /// Spaces at the beginning that are still to be dropped; none once any text has come.
    leading_spaces: usize,
    /// The beginning of a character whose end has not come yet, at most three bytes between calls.
    pending: Vec<u8>,
}

impl TokenStream {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, skip_special: bool) -> Self {
        Self { leading_spaces: vocabulary.leading_spaces, vocabulary, skip_special, pending: Vec::new() }
    }

    /// The same stream, for ids that continue a text: a space at the beginning is kept.
    ///
    /// Sentencepiece puts a space before all text and decoding drops it again; in the middle of a text
    /// the first space is a real one.
    pub fn continuing(mut self) -> Self {
        self.leading_spaces = 0;
        self
    }

    /// Takes one id; returns the text that is now complete, often a word, sometimes nothing.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.vocabulary.is_special(id) {
            return String::new();
        }
        self.vocabulary.push_bytes(id, &mut self.pending);
        if self.leading_spaces > 0 {
            let spaces = self.pending.iter().take_while(|&&b| b == b' ').count();
            let dropped = spaces.min(self.leading_spaces);
            self.pending.drain(..dropped);
            self.leading_spaces -= dropped;
            if !self.pending.is_empty() {
                self.leading_spaces = 0;
            }
        }
        self.take_complete()
    }

    /// Ends the text: a character that was never completed comes out as U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    /// Takes all bytes whose meaning no later byte can change.
    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut at = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            at += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() || may_continue(&self.pending[at..]) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            at += invalid.len();
        }
        self.pending.drain(..at);
        text
    }
}

/// Whether these bytes are the beginning of a character, so that more bytes could complete it.
fn may_continue(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Alphabet, Kind};

    /// Ids 0 to 255 are bytes, the rest these entries.
    fn stream(entries: &[(&str, Kind)], leading_spaces: usize) -> TokenStream {
        let mut vocabulary = Vocabulary::new(Alphabet::SpaceMarks, leading_spaces);
        for byte in 0..=255 {
            vocabulary.insert(u32::from(byte), format!("<0x{byte:02X}>"), Kind::Byte(byte));
        }
        for ((entry, kind), id) in entries.iter().zip(256..) {
            vocabulary.insert(id, *entry, *kind);
        }
        TokenStream::new(Arc::new(vocabulary), true)
    }

    fn push_all(stream: &mut TokenStream, bytes: &[u8]) -> Vec<String> {
        bytes.iter().map(|&byte| stream.push(byte.into())).collect()
    }

    #[test]
    fn a_character_comes_whole() {
        let mut s = stream(&[], 0);
        assert_eq!(push_all(&mut s, "é🙂".as_bytes()), ["", "é", "", "", "", "🙂"]);
        assert_eq!(s.finish(), "");
    }

    #[test]
    fn what_can_not_become_a_character_is_replaced_as_soon_as_that_is_known() {
        let mut s = stream(&[], 0);
        // The second byte of the character never comes; a lone continuation byte is none at all.
        assert_eq!(push_all(&mut s, b"\xF0\x9Fa\x80b"), ["", "", "\u{fffd}a", "\u{fffd}", "b"]);
        assert_eq!(push_all(&mut s, b"\xE6\xBC"), ["", ""]);
        assert_eq!(s.finish(), "\u{fffd}");
        assert_eq!(s.finish(), "");
    }

    #[test]
    fn special_tokens_between_the_bytes_of_a_character_do_not_matter_when_skipped() {
        let mut s = stream(&[("<s>", Kind::Special)], 0);
        assert_eq!([0xC3, 256, 0xA9].map(|id| s.push(id)), ["", "", "é"]);
    }

    #[test]
    fn the_first_space_is_dropped_only_at_the_beginning_of_a_text() {
        let entries = [("▁Hello", Kind::Text), ("▁", Kind::Text), ("<s>", Kind::Special)];
        assert_eq!([258, 256, 256].map(|id| stream(&entries, 1).push(id)), ["", "Hello", "Hello"]);
        let mut s = stream(&entries, 1);
        assert_eq!([258, 256, 256].map(|id| s.push(id)), ["", "Hello", " Hello"]);
        let mut s = stream(&entries, 1);
        assert_eq!([257, 257, 256].map(|id| s.push(id)), ["", " ", " Hello"]);
        let mut s = stream(&entries, 1).continuing();
        assert_eq!([256, 256].map(|id| s.push(id)), [" Hello", " Hello"]);
    }

    #[test]
    fn ids_outside_the_vocabulary_have_no_text() {
        assert_eq!(stream(&[], 1).push(u32::MAX), "");
    }
}
