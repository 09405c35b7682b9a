//! Tokenizer and chat template from one format to the other.

use sol_model::DecoderSpec;
use sol_weights::HfMetadata;
use sol_weights::gguf::{self, Value};

use crate::Result;

/// The keys under `tokenizer.`.
pub(super) fn to_gguf(_hf: &HfMetadata, _spec: &DecoderSpec, notes: &mut Vec<String>) -> Result<Vec<(String, Value)>> {
    notes.push("no tokenizer".into());
    Ok(vec![("tokenizer.ggml.model".into(), Value::String("none".into()))])
}

/// The files beside `config.json`.
pub(super) fn to_hf(_meta: &gguf::Metadata, _context: usize, _notes: &mut Vec<String>) -> Result<Vec<(String, Vec<u8>)>> {
    Ok(Vec::new())
}
