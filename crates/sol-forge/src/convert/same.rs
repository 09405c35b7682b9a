//! Whether the config that was made says what the source's says: readers will take the result for the same decoder.
//!
//! The made config is written without weights and read by the reader that every model is loaded with.

use std::fs;
use std::path::Path;

use sol_model::{DecoderSpec, RopeFactors, RopeScaling, describe};
use sol_weights::gguf::{Existing, TensorInfo, Value, Writer};
use sol_weights::{Checkpoint, DType, safetensors};

use super::ConvertError;
use super::rows::{Content, Output};
use crate::Result;

/// Refuses a GGUF header that readers would take for another decoder ([`ConvertError::Unsayable`]).
pub(super) fn check_gguf(spec: &DecoderSpec, metadata: &[(String, Value)], outputs: &[Output]) -> Result<()> {
    let dir = scratch()?;
    let path = dir.path().join("probe.gguf");
    let is_key = |key: &str| key == "general.architecture" || key.starts_with(&format!("{}.", spec.architecture));
    let metadata: Vec<_> = metadata.iter().filter(|(key, _)| is_key(key)).cloned().collect();
    // A reader of the config looks at names, at the table's rows, and at tensors that hold hyper-parameters.
    let infos: Vec<TensorInfo> = outputs
        .iter()
        .map(|output| match (&output.content, output.info.name.as_str()) {
            (Content::Exactly(_), _) => output.info.clone(),
            (_, "token_embd.weight") => TensorInfo { dtype: DType::F32, shape: vec![spec.vocab, 1], ..output.info.clone() },
            _ => TensorInfo { dtype: DType::F32, shape: vec![1], ..output.info.clone() },
        })
        .collect();
    let mut writer = Writer::create(&path, &metadata, &infos, Existing::Refuse)?;
    for (info, output) in infos.iter().zip(outputs) {
        match &output.content {
            Content::Exactly(values) => values.iter().try_for_each(|value| writer.write(&value.to_le_bytes()))?,
            Content::Rows { .. } => writer.write(&vec![0; info.byte_len().unwrap_or(0)])?,
        }
    }
    writer.finish()?;
    compare("GGUF", spec, &path)
}

/// The same of a `config.json`.
pub(super) fn check_config(spec: &DecoderSpec, config: &serde_json::Value) -> Result<()> {
    let dir = scratch()?;
    let path = dir.path().join("config.json");
    fs::write(&path, config.to_string()).map_err(ConvertError::io("write", &path))?;
    safetensors::write(&dir.path().join("model.safetensors"), &[])?;
    compare("Hugging Face", spec, dir.path())
}

fn scratch() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(ConvertError::io("make a directory in", &std::env::temp_dir()))
}

fn compare(format: &'static str, spec: &DecoderSpec, path: &Path) -> Result<()> {
    let read = describe(&Checkpoint::open(path)?)?.spec;
    match difference(spec, &read) {
        None => Ok(()),
        Some(what) => Err(ConvertError::Unsayable { format, architecture: spec.architecture, what }.into()),
    }
}

/// The first thing that two decoders differ in, layout apart.
fn difference(ours: &DecoderSpec, theirs: &DecoderSpec) -> Option<String> {
    /// `name` and both values unless they are equal.
    macro_rules! same {
        ($what:expr, $ours:expr, $theirs:expr) => {
            if $ours != $theirs {
                return Some(format!("{} is {:?}, readers would take {:?}", $what, $ours, $theirs));
            }
        };
    }
    same!("the architecture", ours.architecture, theirs.architecture);
    same!("the vocabulary", ours.vocab, theirs.vocab);
    same!("the hidden size", ours.hidden, theirs.hidden);
    same!("the context", ours.context, theirs.context);
    same!("the factor on embeddings", ours.embedding_scale, theirs.embedding_scale);
    same!("the number of layers", ours.layers.len(), theirs.layers.len());
    for (i, (a, b)) in ours.layers.iter().zip(&theirs.layers).enumerate() {
        let of = |what: &str| format!("layer {i}'s {what}");
        same!(of("skip connections"), a.skips, b.skips);
        same!(of("attention"), a.attention, b.attention);
        same!(of("feed-forward"), a.ffn, b.ffn);
        for (a, b) in [(Some(a.attention_norm), Some(b.attention_norm)), (a.post_attention_norm, b.post_attention_norm)] {
            same!(of("norm"), a.map(|n| (n.kind, n.eps, n.bias)), b.map(|n| (n.kind, n.eps, n.bias)));
        }
    }
    same!("the share of skip connections", ours.skip_blend, theirs.skip_blend);
    same!("the head", ours.head, theirs.head);
    same!("the rotary base", ours.rope.theta, theirs.rope.theta);
    let original = |spec: &DecoderSpec| match spec.rope.scaling {
        RopeScaling::LongRope { original, .. } => Some(original),
        _ => None,
    };
    same!("the context before longrope", original(ours), original(theirs));
    for factors in [RopeFactors::Short, RopeFactors::Long] {
        let (a, b) = (ours.rope.table(factors), theirs.rope.table(factors));
        same!("the rotary magnitude", a.mscale, b.mscale);
        if let Some((x, y)) = a.inv_freq.iter().zip(&b.inv_freq).find(|(x, y)| (*x - *y).abs() > 2e-6 * x.abs()) {
            same!("a rotary frequency", x, y);
        }
    }
    None
}
