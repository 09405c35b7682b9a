//! The tiny models of `sol-model` with what transformers makes of them (`chat.json`; see the README beside them).
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sol_engine::{Answer, Generation, LanguageModel, Message, Options};

/// Two models, each as a Hugging Face directory and as a GGUF file.
pub(crate) const MODELS: [&str; 4] = ["chat-tiny", "chat-tiny.gguf", "solar-tiny", "solar-tiny.gguf"];

pub(crate) fn path(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sol-model/tests/data").join(model)
}

pub(crate) fn open(model: &str) -> LanguageModel {
    open_with(model, Options::default())
}

pub(crate) fn open_with(model: &str, options: Options) -> LanguageModel {
    LanguageModel::open(&path(model), Options { threads: options.threads.or(Some(1)), ..options }).unwrap()
}

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) stop_ids: Vec<u32>,
    pub(crate) cases: Vec<Case>,
    pub(crate) texts: Vec<Text>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) messages: Vec<Message>,
    pub(crate) prompt_ids: Vec<u32>,
    /// 32 tokens, ends of turn ignored.
    pub(crate) greedy_ids: Vec<u32>,
    pub(crate) answer: String,
    pub(crate) answer_tokens: usize,
    pub(crate) stops: bool,
}

#[derive(Deserialize)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
}

pub(crate) fn expected(model: &str) -> Expected {
    let file = path(model.trim_end_matches(".gguf")).join("chat.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Greedy, 32 tokens at most.
pub(crate) fn greedy() -> Generation {
    Generation { max_tokens: Some(32), ..Generation::default() }
}

/// Greedy, on and on.
pub(crate) fn endless(max_tokens: usize) -> Generation {
    Generation { max_tokens: Some(max_tokens), ignore_eos: true, ..Generation::default() }
}

/// Answers, and checks that what was shown is the text.
pub(crate) fn generate(model: &mut LanguageModel, prompt: &[u32], options: &Generation) -> Answer {
    let mut shown = String::new();
    let answer = model.generate(prompt, options, &mut |text| shown.push_str(text)).unwrap();
    assert_eq!(shown, answer.text);
    answer
}
