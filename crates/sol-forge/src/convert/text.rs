//! Tokenizer and chat template from one format to the other.

use serde_json::Value as Json;
use sol_model::DecoderSpec;
use sol_text::{ChatTemplate, GgufVocab};
use sol_weights::HfMetadata;
use sol_weights::gguf::{self, Array, Value};

use super::config::generation_config;
use super::pretty;
use crate::Result;

/// The keys under `tokenizer.`.
pub(super) fn to_gguf(hf: &HfMetadata, spec: &DecoderSpec, notes: &mut Vec<String>) -> Result<Vec<(String, Value)>> {
    if !["tokenizer.json", "tokenizer.model"].iter().any(|name| hf.dir.join(name).exists()) {
        notes.push("the directory has no tokenizer (tokenizer.json, tokenizer.model): the file will take ids only".into());
        // Without tokens, readers have no other way to know how many there are.
        let mut keys = vec![key("model", Value::String("none".into()))];
        if !matches!(spec.architecture, "llama" | "solar") {
            keys.push((format!("{}.vocab_size", spec.architecture), Value::U32(spec.vocab as u32)));
        }
        return Ok(keys);
    }
    let vocab = GgufVocab::from_dir(&hf.dir, spec.vocab)?;
    let id = |name: &str, id: Option<u32>| id.map(|id| key(&format!("{name}_token_id"), Value::U32(id)));
    let flag = |name: &str, flag: Option<bool>| flag.map(|flag| key(name, Value::Bool(flag)));
    let mut keys = vec![key("model", Value::String(vocab.model))];
    keys.extend(vocab.pre.map(|pre| key("pre", Value::String(pre))));
    keys.push(key("tokens", Value::Array(Array::String(vocab.tokens))));
    keys.extend(vocab.scores.map(|scores| key("scores", Value::Array(Array::F32(scores)))));
    keys.extend(vocab.token_types.map(|types| key("token_type", Value::Array(Array::I32(types)))));
    keys.extend(vocab.merges.map(|merges| key("merges", Value::Array(Array::String(merges)))));
    keys.extend(id("bos", vocab.bos));
    keys.extend(id("eos", vocab.eos));
    keys.extend(id("unknown", vocab.unk));
    keys.extend(id("padding", vocab.pad));
    keys.extend(flag("add_bos_token", vocab.add_bos));
    keys.extend(flag("add_eos_token", vocab.add_eos));
    keys.extend(flag("add_space_prefix", vocab.add_space_prefix));
    if let Some(template) = ChatTemplate::from_dir(&hf.dir)? {
        keys.push(("tokenizer.chat_template".into(), Value::String(template.source().into())));
    }
    Ok(keys)
}

fn key(name: &str, value: Value) -> (String, Value) {
    (format!("tokenizer.ggml.{name}"), value)
}

/// The files beside `config.json`.
pub(super) fn to_hf(meta: &gguf::Metadata, context: usize, notes: &mut Vec<String>) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(vocab) = vocabulary(meta) else {
        notes.push("the file has no tokenizer: the directory will take ids only".into());
        return Ok(Vec::new());
    };
    let files: Vec<(&str, Json)> = vocab.to_files(meta.str("tokenizer.chat_template"), context)?;
    let mut files: Vec<(String, Vec<u8>)> = files.into_iter().map(|(name, json)| (name.to_owned(), pretty(&json))).collect();
    if let Some(generation) = generation_config(meta, &vocab.turn_ends()) {
        files.push(("generation_config.json".into(), pretty(&generation)));
    }
    Ok(files)
}

/// The keys of a GGUF file's tokenizer; `None` where it has none.
fn vocabulary(meta: &gguf::Metadata) -> Option<GgufVocab> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| meta.u64(&key(name)).and_then(|id| u32::try_from(id).ok());
    let model = meta.str(&key("model")).filter(|model| !["none", "no_vocab"].contains(model))?;
    Some(GgufVocab {
        model: model.to_owned(),
        pre: meta.str(&key("pre")).map(str::to_owned),
        tokens: meta.strings(&key("tokens")).unwrap_or_default().to_vec(),
        scores: meta.f32s(&key("scores")),
        token_types: meta.i32s(&key("token_type")),
        merges: meta.strings(&key("merges")).map(<[String]>::to_vec),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        eot: id("eot_token_id"),
        add_bos: meta.bool(&key("add_bos_token")),
        add_eos: meta.bool(&key("add_eos_token")),
        add_space_prefix: meta.bool(&key("add_space_prefix")),
    })
}
