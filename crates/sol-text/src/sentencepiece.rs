//! Reading a sentencepiece tokenizer.model: a protocol buffer, of which only the fields that matter
//! here are declared.

use prost::Message;

use crate::spm::PieceKind;
use crate::{Error, Result};

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    /// 1 unigram, 2 byte pair encoding, 3 word, 4 character.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bytes, optional, tag = "2")]
    charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
}

/// What a tokenizer.model says.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pub(crate) pieces: Vec<String>,
    pub(crate) scores: Vec<f32>,
    pub(crate) kinds: Vec<PieceKind>,
    pub(crate) unk: Option<u32>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) add_dummy_prefix: bool,
}

pub(crate) fn parse(origin: &str, bytes: &[u8]) -> Result<SentencePiece> {
    let model = ModelProto::decode(bytes).map_err(|e| Error::vocabulary(origin, format!("not a sentencepiece model: {e}")))?;
    if model.pieces.is_empty() {
        return Err(Error::vocabulary(origin, "not a sentencepiece model: it has no pieces"));
    }
    let trainer = model.trainer.unwrap_or_default();
    if trainer.model_type != Some(2) {
        let kind = match trainer.model_type {
            None | Some(1) => "unigram",
            Some(3) => "word",
            Some(4) => "char",
            _ => "unknown",
        };
        return Err(Error::unsupported(
            origin,
            format!("a sentencepiece model of type {kind}"),
            "type bpe is; or add the model's tokenizer.json",
        ));
    }
    let normalizer = model.normalizer.unwrap_or_default();
    let identity = normalizer.charsmap.is_none_or(|map| map.is_empty());
    if !identity || normalizer.remove_extra_whitespaces.unwrap_or(true) {
        return Err(Error::unsupported(
            origin,
            "a sentencepiece model that normalises its text",
            "models that leave text as it is are; or add the model's tokenizer.json",
        ));
    }
    let len = model.pieces.len();
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < len);
    let mut parsed = SentencePiece {
        pieces: Vec::with_capacity(len),
        scores: Vec::with_capacity(len),
        kinds: Vec::with_capacity(len),
        unk: id(trainer.unk_id.unwrap_or(0)),
        bos: id(trainer.bos_id.unwrap_or(1)),
        eos: id(trainer.eos_id.unwrap_or(2)),
        add_dummy_prefix: normalizer.add_dummy_prefix.unwrap_or(true),
    };
    for piece in model.pieces {
        parsed.pieces.push(piece.piece.unwrap_or_default());
        parsed.scores.push(piece.score.unwrap_or(0.0));
        parsed.kinds.push(PieceKind::from_number(piece.kind.unwrap_or(1)));
    }
    Ok(parsed)
}
