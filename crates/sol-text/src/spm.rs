//! Sentencepiece vocabularies, wherever they were stored: a tokenizer.model or a GGUF file.
//!
//! Sentencepiece keeps a score per piece and merges, of all neighbours that form a piece, the pair
//! with the highest score first. The `tokenizers` crate wants a ranked list of merges instead; the list
//! here is the one that Hugging Face's converters write, so ids agree with theirs.

use tokenizers::models::bpe::Vocab;

use crate::Result;
use crate::bpe::{self, BpeOptions};

/// What a piece is, numbered as sentencepiece's protocol buffer and GGUF both do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// Ordinary text.
    Normal,
    /// Stands for what no piece covers.
    Unknown,
    /// Structure, such as `<s>`.
    Control,
    /// Found in the text before all else, and text itself.
    UserDefined,
    /// Never produced.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

impl PieceKind {
    /// The kind with this number; unknown numbers are ordinary text, as in llama.cpp.
    pub(crate) fn from_number(number: i32) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// The byte that a piece such as `<0x0A>` stands for.
pub(crate) fn byte_piece(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && !hex.starts_with('+')).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// A byte pair encoder that merges as the scores say, and whether no piece joins the end of one word
/// to the space mark of the next, so that words may be encoded one at a time.
pub(crate) fn build(
    origin: &str,
    pieces: &[String],
    scores: &[f32],
    kinds: &[PieceKind],
    unk: Option<u32>,
) -> Result<(tokenizers::models::bpe::BPE, bool)> {
    let mut vocab = Vocab::with_capacity(pieces.len());
    for (id, piece) in pieces.iter().enumerate() {
        vocab.entry(piece.clone()).or_insert(id as u32);
    }
    let merges = merges_from_scores(&vocab, pieces, scores, kinds);
    let words_apart = merges.iter().all(|(left, right)| left.ends_with('▁') || !right.starts_with('▁'));
    let byte_fallback = kinds.contains(&PieceKind::Byte);
    let options = BpeOptions {
        unk_token: unk.and_then(|id| pieces.get(id as usize)).filter(|piece| vocab.contains_key(*piece)).cloned(),
        fuse_unk: true,
        byte_fallback,
        ignore_merges: false,
    };
    Ok((bpe::build(origin, vocab, merges, options)?, words_apart))
}

/// The ranked merges of a vocabulary.
pub(crate) fn merges(pieces: &[String], scores: &[f32], kinds: &[PieceKind]) -> Vec<(String, String)> {
    let mut vocab = Vocab::with_capacity(pieces.len());
    for (id, piece) in pieces.iter().enumerate() {
        vocab.entry(piece.clone()).or_insert(id as u32);
    }
    merges_from_scores(&vocab, pieces, scores, kinds)
}

/// Every way to make a piece out of two, best first.
///
/// Order: score of the piece, then length of the left and of the right part in characters, all
/// descending; then the order of the pieces. Control, unknown and byte pieces are never made, so text
/// that merely looks like `<s>` stays text.
fn merges_from_scores(vocab: &Vocab, pieces: &[String], scores: &[f32], kinds: &[PieceKind]) -> Vec<(String, String)> {
    struct Merge<'a> {
        score: f32,
        left: &'a str,
        right: &'a str,
        left_chars: u32,
        right_chars: u32,
        order: (u32, u32, u32),
    }

    let made = |kind: &PieceKind| matches!(kind, PieceKind::Normal | PieceKind::UserDefined);
    let part = |text: &str| {
        let id = *vocab.get(text)?;
        made(&kinds[id as usize]).then_some(id)
    };

    let mut merges = Vec::with_capacity(pieces.len() * 2);
    for (((piece, &score), id), kind) in pieces.iter().zip(scores).zip(0u32..).zip(kinds) {
        if !made(kind) {
            continue;
        }
        let chars = piece.chars().count() as u32;
        for (left_chars, (cut, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(cut);
            if let (Some(left_id), Some(right_id)) = (part(left), part(right)) {
                merges.push(Merge {
                    score,
                    left,
                    right,
                    left_chars: left_chars as u32,
                    right_chars: chars - left_chars as u32,
                    order: (id, left_id, right_id),
                });
            }
        }
    }
    merges.sort_unstable_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then(b.left_chars.cmp(&a.left_chars))
            .then(b.right_chars.cmp(&a.right_chars))
            .then(a.order.cmp(&b.order))
    });
    merges.into_iter().map(|m| (m.left.to_owned(), m.right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merges(pieces: &[(&str, f32, PieceKind)]) -> Vec<(String, String)> {
        let texts: Vec<String> = pieces.iter().map(|p| p.0.to_owned()).collect();
        let scores: Vec<f32> = pieces.iter().map(|p| p.1).collect();
        let kinds: Vec<PieceKind> = pieces.iter().map(|p| p.2).collect();
        let vocab = (texts.iter().cloned()).zip(0..).collect::<Vocab>();
        merges_from_scores(&vocab, &texts, &scores, &kinds)
    }

    fn pair(left: &str, right: &str) -> (String, String) {
        (left.into(), right.into())
    }

    #[test]
    fn merges_are_ordered_by_score_then_length() {
        use PieceKind::Normal;
        let found = merges(&[
            ("a", -9.0, Normal),
            ("b", -9.0, Normal),
            ("ab", -1.0, Normal),
            ("ba", -2.0, Normal),
            ("aba", -1.0, Normal),
        ]);
        assert_eq!(found, [pair("ab", "a"), pair("a", "ba"), pair("a", "b"), pair("b", "a")]);
    }

    #[test]
    fn text_never_merges_into_structure() {
        use PieceKind::{Control, Normal};
        assert_eq!(merges(&[("<s>", 0.0, Control), ("<", -1.0, Normal), ("s>", -2.0, Normal)]), []);
    }

    #[test]
    fn byte_pieces() {
        assert_eq!(byte_piece("<0x0A>"), Some(10));
        assert_eq!(byte_piece("<0xZZ>"), None);
        assert_eq!(byte_piece("<0x0>"), None);
        assert_eq!(byte_piece("<0x+A>"), None);
    }
}
