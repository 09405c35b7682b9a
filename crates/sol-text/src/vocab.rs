//! What each id stands for: its entry in the vocabulary, and the bytes it adds to a text.

use std::collections::HashMap;

use crate::byte_level;

/// How the entries of a vocabulary are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// One printable character per byte.
    ByteLevel,
    /// Text, with `▁` for a space.
    SpaceMarks,
    /// Text as it is.
    Plain,
}

/// What one id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text in the vocabulary's alphabet.
    Text,
    /// One byte.
    Byte(u8),
    /// Added to the vocabulary: text as it is written, whatever the alphabet.
    Added,
    /// Structure, skipped when decoding without special tokens.
    Special,
}

/// The entries of a vocabulary by id.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    alphabet: Alphabet,
    entries: Vec<Option<(Box<str>, Kind)>>,
    /// The number of leading spaces that decoding drops: sentencepiece puts one before all text.
    pub(crate) leading_spaces: usize,
}

impl Vocabulary {
    pub(crate) fn new(alphabet: Alphabet, leading_spaces: usize) -> Self {
        Self { alphabet, entries: Vec::new(), leading_spaces }
    }

    pub(crate) fn reserve(&mut self, entries: usize) {
        self.entries.reserve(entries);
    }

    /// Says what `id` stands for. Ids are dense in sound vocabularies; the caller bounds them.
    pub(crate) fn insert(&mut self, id: u32, entry: impl Into<Box<str>>, kind: Kind) {
        let id = id as usize;
        if id >= self.entries.len() {
            self.entries.resize_with(id + 1, || None);
        }
        self.entries[id] = Some((entry.into(), kind));
    }

    /// One more than the largest id.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entry(&self, id: u32) -> Option<(&str, Kind)> {
        let (entry, kind) = self.entries.get(id as usize)?.as_ref()?;
        Some((entry, *kind))
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        matches!(self.entry(id), Some((_, Kind::Special)))
    }

    /// Appends the bytes that `id` stands for.
    pub(crate) fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let Some((entry, kind)) = self.entry(id) else {
            return;
        };
        match (kind, self.alphabet) {
            (Kind::Byte(byte), _) => out.push(byte),
            (Kind::Text, Alphabet::ByteLevel) => match byte_level::decode(entry) {
                Some(bytes) => out.extend(bytes),
                None => out.extend(entry.bytes()),
            },
            (Kind::Text | Kind::Added, Alphabet::SpaceMarks) => {
                for (i, part) in entry.split('▁').enumerate() {
                    if i > 0 {
                        out.push(b' ');
                    }
                    out.extend(part.bytes());
                }
            }
            _ => out.extend(entry.bytes()),
        }
    }

    /// The ids of entries that satisfy `wanted`.
    pub(crate) fn index(&self, wanted: impl Fn(Kind) -> bool) -> HashMap<&str, u32> {
        self.entries
            .iter()
            .zip(0..)
            .filter_map(|(entry, id)| {
                let (entry, kind) = entry.as_ref()?;
                wanted(*kind).then_some((&**entry, id))
            })
            .collect()
    }
}
