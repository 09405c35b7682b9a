//! What a checkpoint brings for text: the kind of its tokenizer and its chat template, without loading a vocabulary.

use std::path::Path;

use serde::Deserialize;
use sol_text::ChatTemplate;
use sol_weights::{Checkpoint, HfMetadata, Metadata, gguf};

/// For people.
pub(super) struct Text {
    pub(super) tokenizer: Option<String>,
    pub(super) template: Template,
}

/// The chat template.
pub(super) enum Template {
    None,
    Yes { system: bool },
    Broken(String),
}

impl Text {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let (tokenizer, template) = match checkpoint.metadata() {
            Metadata::Gguf(meta) => {
                (gguf_tokenizer(meta), meta.str("tokenizer.chat_template").map(ChatTemplate::new).transpose())
            }
            Metadata::Hf(HfMetadata { dir, .. }) => (hf_tokenizer(dir), ChatTemplate::from_dir(dir)),
        };
        let template = match template {
            Ok(None) => Template::None,
            Ok(Some(template)) => Template::Yes { system: template.supports_system() },
            Err(error) => Template::Broken(error.to_string()),
        };
        Self { tokenizer, template }
    }
}

impl Template {
    /// "yes", and what is peculiar about it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::None => "no".into(),
            Self::Yes { system: true } => "yes".into(),
            Self::Yes { system: false } => "yes, without system prompt".into(),
            Self::Broken(problem) => format!("yes, but it can not be used: {problem}"),
        }
    }
}

fn gguf_tokenizer(meta: &gguf::Metadata) -> Option<String> {
    let model = meta.str("tokenizer.ggml.model").filter(|m| !["none", "no_vocab"].contains(m))?;
    let kind = match model {
        "llama" => "sentencepiece BPE",
        "gpt2" => "byte-level BPE",
        other => other,
    };
    let pre = meta.str("tokenizer.ggml.pre").map_or(String::new(), |pre| format!(", pre-tokenizer {pre}"));
    let tokens = meta.strings("tokenizer.ggml.tokens").map_or(0, <[String]>::len);
    Some(format!("{kind}, {tokens} tokens{pre}"))
}

/// The part of tokenizer.json that says what it is; the vocabulary is passed over.
#[derive(Deserialize)]
struct TokenizerJson {
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    name: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

fn hf_tokenizer(dir: &Path) -> Option<String> {
    let json = dir.join("tokenizer.json");
    if json.is_file() {
        let parsed = std::fs::read(&json).map_err(|e| e.to_string());
        let parsed = parsed.and_then(|bytes| serde_json::from_slice::<TokenizerJson>(&bytes).map_err(|e| e.to_string()));
        return Some(match parsed {
            Ok(TokenizerJson { model }) => match (model.name.as_deref(), model.byte_fallback) {
                (Some("BPE") | None, true) => "sentencepiece BPE (tokenizer.json)".into(),
                (Some("BPE") | None, false) => "byte-level BPE (tokenizer.json)".into(),
                (Some(other), _) => format!("{other} (tokenizer.json)"),
            },
            Err(problem) => format!("tokenizer.json can not be read: {problem}"),
        });
    }
    dir.join("tokenizer.model").is_file().then(|| "sentencepiece (tokenizer.model)".into())
}
