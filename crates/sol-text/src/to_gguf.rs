//! The tokenizer of a Hugging Face directory as the keys of a GGUF file, as llama.cpp's converter writes them.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::gguf::GgufVocab;
use crate::hf::{read_json, read_optional};
use crate::sentencepiece::{self, SentencePiece};
use crate::spm::{self, PieceKind};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, byte_level};

/// GGUF's numbers of kinds, which are sentencepiece's.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Scores of tokens that were added to a vocabulary, and of ids that no token has.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10_000.0;

/// One token as it comes together.
#[derive(Clone)]
struct Slot {
    token: String,
    score: f32,
    kind: i32,
}

impl GgufVocab {
    /// The tokenizer of a Hugging Face directory for a model with `size` embeddings: ids without a token become `[PAD…]`, tokens
    /// beyond the embeddings are left out.
    ///
    /// Byte-level and sentencepiece vocabularies are written; others, and byte-level ones whose text is cut into words in
    /// a way that
    /// has no name in GGUF, are refused ([`Error::Unsupported`]).
    pub fn from_dir(dir: &Path, size: usize) -> Result<Self> {
        // What it does to text is asked of the tokenizer itself.
        let tokenizer = Tokenizer::from_dir(dir)?;
        let path = dir.join("tokenizer.json");
        let origin = path.display().to_string();
        let json = read_json(&path)?;
        let config = read_json(&dir.join("tokenizer_config.json"))?;
        let stored = match read_optional(&dir.join("tokenizer.model"))? {
            Some(bytes) if is_marked(&json) || json.is_null() => {
                Some(sentencepiece::parse(&dir.join("tokenizer.model").display().to_string(), &bytes)?)
            }
            _ => None,
        };
        let mut slots: Vec<Option<Slot>> = vec![None; size];
        let mut vocab = match stored {
            Some(model) => marked(&model, &mut slots),
            None if is_marked(&json) => marked_json(&origin, &json, &mut slots)?,
            None => byte_levelled(&origin, &json, &mut slots)?,
        };
        let level = vocab.model == "gpt2";
        added(dir, &json, &config, level, &mut slots)?;
        for (id, slot) in slots.into_iter().enumerate() {
            let slot = slot.unwrap_or_else(|| Slot { token: format!("[PAD{id}]"), score: UNUSED_SCORE, kind: UNUSED });
            vocab.tokens.push(slot.token);
            vocab.scores.iter_mut().for_each(|scores| scores.push(slot.score));
            vocab.token_types.iter_mut().for_each(|types| types.push(slot.kind));
        }
        let inside = |id: Option<u32>| id.filter(|id| (*id as usize) < size);
        let model_config = read_json(&dir.join("config.json"))?;
        let special = read_json(&dir.join("special_tokens_map.json"))?;
        let named = |name: &str| {
            let content = [&config, &special].into_iter().find_map(|source| {
                let value = &source[format!("{name}_token")];
                value.as_str().or_else(|| value["content"].as_str())
            });
            let by_name = content.and_then(|content| tokenizer.id(content));
            inside(by_name.or_else(|| u32::try_from(model_config[format!("{name}_token_id")].as_u64()?).ok()))
        };
        vocab.bos = inside(tokenizer.bos()).or_else(|| named("bos"));
        vocab.eos = inside(tokenizer.eos()).or_else(|| named("eos"));
        vocab.unk = named("unk").or(vocab.unk);
        vocab.pad = named("pad");
        vocab.add_bos = Some(tokenizer.adds_bos());
        vocab.add_eos = config["add_eos_token"].as_bool();
        let configured = config["add_prefix_space"].as_bool();
        // Sentencepiece's is said by what is done to the text.
        vocab.add_space_prefix = if level { configured } else { vocab.add_space_prefix };
        Ok(vocab)
    }
}

/// Whether a tokenizer.json writes spaces as marks, as sentencepiece does.
fn is_marked(json: &Value) -> bool {
    json["model"]["byte_fallback"] == true || json["decoder"].to_string().contains("ByteFallback")
}

fn base(model: &str, scores: bool) -> GgufVocab {
    GgufVocab {
        model: model.into(),
        pre: Some("default".into()),
        scores: scores.then(Vec::new),
        token_types: Some(Vec::new()),
        ..GgufVocab::default()
    }
}

/// A tokenizer.model.
fn marked(model: &SentencePiece, slots: &mut [Option<Slot>]) -> GgufVocab {
    for (slot, ((piece, score), kind)) in slots.iter_mut().zip(model.pieces.iter().zip(&model.scores).zip(&model.kinds)) {
        let kind = match kind {
            PieceKind::Unknown => UNKNOWN,
            PieceKind::Control => CONTROL,
            PieceKind::Unused => UNUSED,
            PieceKind::Byte => BYTE,
            PieceKind::UserDefined => USER_DEFINED,
            PieceKind::Normal => NORMAL,
        };
        // User-defined spaces are looked for in the text as it is.
        let token = if kind == USER_DEFINED { piece.replace('▁', " ") } else { piece.clone() };
        *slot = Some(Slot { token, score: *score, kind });
    }
    let prefix = (!model.add_dummy_prefix).then_some(false);
    GgufVocab { unk: model.unk, add_space_prefix: prefix, ..base("llama", true) }
}

/// Sentencepiece's vocabulary in a tokenizer.json, which has merges for scores: a piece is worth more the earlier it is made.
fn marked_json(origin: &str, json: &Value, slots: &mut [Option<Slot>]) -> Result<GgufVocab> {
    let entries = entries(origin, json)?;
    let mut scores: HashMap<String, f32> = HashMap::new();
    for (left, right) in merges(origin, json)? {
        let rank = scores.len() as f32;
        scores.entry(left + &right).or_insert(-rank);
    }
    // Characters are found in the text, not made.
    let last = -(scores.len() as f32);
    let unknown = json["model"]["unk_token"].as_str();
    let mut unk = None;
    for (token, id) in entries {
        let (score, kind) = if spm::byte_piece(&token).is_some() {
            (0.0, BYTE)
        } else if unknown == Some(token.as_str()) {
            unk = Some(id);
            (0.0, UNKNOWN)
        } else {
            (scores.get(&token).copied().unwrap_or(last), NORMAL)
        };
        if let Some(slot) = slots.get_mut(id as usize) {
            *slot = Some(Slot { token, score, kind });
        }
    }
    let stages = [&json["normalizer"], &json["pre_tokenizer"]];
    let prefixed = stages.iter().any(|stage| {
        let text = stage.to_string();
        text.contains("\"Prepend\"") || (text.contains("Metaspace") && !text.contains("\"never\""))
    });
    Ok(GgufVocab { unk, add_space_prefix: (!prefixed).then_some(false), ..base("llama", true) })
}

fn byte_levelled(origin: &str, json: &Value, slots: &mut [Option<Slot>]) -> Result<GgufVocab> {
    let pre = pre_tokenizer(&json["pre_tokenizer"]).ok_or_else(|| {
        Error::unsupported(
            origin,
            "its way to cut text into words",
            "those that are, by their names in GGUF: gpt-2, smollm, llama-bpe, qwen2",
        )
    })?;
    for (token, id) in entries(origin, json)? {
        if let Some(slot) = slots.get_mut(id as usize) {
            *slot = Some(Slot { token, score: 0.0, kind: NORMAL });
        }
    }
    let mut lines = Vec::new();
    for (left, right) in merges(origin, json)? {
        lines.push(format!("{left} {right}"));
    }
    Ok(GgufVocab { pre: Some(pre.into()), merges: Some(lines), ..base("gpt2", false) })
}

/// GGUF's name of a pre-tokenizer; `None` for one that has none here.
fn pre_tokenizer(pre: &Value) -> Option<&'static str> {
    let steps = match pre["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre),
    };
    let (last, before) = steps.split_last()?;
    if last["type"] != "ByteLevel" {
        return None;
    }
    let words = last["use_regex"] != false;
    match (before, words) {
        ([], true) => Some("gpt-2"),
        ([one], true) if one["type"] == "Digits" && one["individual_digits"] == true => Some("smollm"),
        ([one], false) if one["type"] == "Split" => match one["pattern"]["Regex"].as_str()? {
            byte_level::LLAMA3 => Some("llama-bpe"),
            byte_level::QWEN2 => Some("qwen2"),
            byte_level::GPT2 => Some("gpt-2"),
            _ => None,
        },
        _ => None,
    }
}

fn entries(origin: &str, json: &Value) -> Result<Vec<(String, u32)>> {
    let vocab = json["model"]["vocab"].as_object().filter(|_| json["model"]["merges"].is_array());
    let vocab = vocab.ok_or_else(|| {
        Error::unsupported(origin, "a vocabulary that is not of byte pair encoding", "byte-level and sentencepiece BPE are")
    })?;
    let entry = |(token, id): (&String, &Value)| Some((token.clone(), u32::try_from(id.as_u64()?).ok()?));
    let entries: Option<Vec<_>> = vocab.iter().map(entry).collect();
    entries.ok_or_else(|| Error::vocabulary(origin, "the vocabulary has an id that is none"))
}

fn merges(origin: &str, json: &Value) -> Result<Vec<(String, String)>> {
    let list = json["model"]["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        _ => Some((merge[0].as_str()?.to_owned(), merge[1].as_str()?.to_owned())),
    };
    let pairs: Option<Vec<_>> = list.iter().map(pair).collect();
    pairs.ok_or_else(|| Error::vocabulary(origin, "a merge is not two entries"))
}

/// Added tokens over the vocabulary's: special ones, and those that look it, are control tokens, the others the user's.
fn added(dir: &Path, json: &Value, config: &Value, level: bool, slots: &mut [Option<Slot>]) -> Result<()> {
    let old = read_json(&dir.join("added_tokens.json"))?;
    let mut all: Vec<(usize, String, bool)> = Vec::new();
    for (content, id) in old.as_object().into_iter().flatten() {
        all.extend(id.as_u64().map(|id| (id as usize, content.clone(), false)));
    }
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        if let (Ok(id), Some(content)) = (id.parse(), token["content"].as_str()) {
            all.push((id, content.to_owned(), token["special"] == true));
        }
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        if let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str()) {
            all.push((id as usize, content.to_owned(), token["special"] == true));
        }
    }
    for (id, content, special) in all {
        let Some(slot) = slots.get_mut(id) else { continue };
        // The unknown token of sentencepiece stays what it is.
        if slot.as_ref().is_some_and(|slot| slot.kind == UNKNOWN && slot.token == content) {
            continue;
        }
        let control = special || looks_special(&content);
        let token = if control || level { content } else { content.replace('▁', " ") };
        *slot = Some(Slot { token, score: ADDED_SCORE, kind: if control { CONTROL } else { USER_DEFINED } });
    }
    Ok(())
}

/// Tokens that some models store as if they were text.
fn looks_special(token: &str) -> bool {
    let between = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}
