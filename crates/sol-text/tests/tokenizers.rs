//! Ids and texts equal to transformers' for tiny tokenizers of every family, from each source.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{cases, disagreement, gguf_vocab};
use sol_text::{Encode, Tokenizer};

const SENTENCEPIECE: [&str; 5] = ["spm-llama", "spm-llama-metaspace", "spm-phi3", "spm-solar", "spm-gemma"];
const BYTE_LEVEL: [&str; 4] = ["bpe-gpt2", "bpe-smollm", "bpe-llama3", "bpe-qwen2"];

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn check(name: &str, source: &str, tokenizer: &Tokenizer, skip: impl Fn(&str) -> bool) {
    let wrong: Vec<String> =
        cases(&data(name)).iter().filter(|case| !skip(&case.text)).filter_map(|case| disagreement(tokenizer, case)).collect();
    assert!(wrong.is_empty(), "{name} from {source}:\n{}", wrong.join("\n"));
}

#[test]
fn from_tokenizer_json() {
    for name in SENTENCEPIECE.iter().chain(&BYTE_LEVEL) {
        check(name, "tokenizer.json", &Tokenizer::from_dir(&data(name)).unwrap(), |_| false);
    }
}

#[test]
fn from_sentencepiece_model() {
    for name in SENTENCEPIECE {
        let dir = tempfile::tempdir().unwrap();
        for file in ["tokenizer.model", "tokenizer_config.json"] {
            fs::copy(data(name).join(file), dir.path().join(file)).unwrap();
        }
        check(name, "tokenizer.model", &Tokenizer::from_dir(dir.path()).unwrap(), |_| false);
    }
}

#[test]
fn from_gguf() {
    for name in SENTENCEPIECE.iter().chain(&BYTE_LEVEL) {
        let tokenizer = Tokenizer::from_gguf(gguf_vocab(&data(name))).unwrap();
        assert_eq!(tokenizer.notes(), [""; 0]);
        // What GGUF can not say: that a space is put before the first stretch only, and that text is
        // normalised to NFC.
        let unsaid = |text: &str| match *name {
            "spm-llama-metaspace" => text.contains("<s>") || text.starts_with(['▁', ' ']) || text.contains("<unk>"),
            "bpe-qwen2" => text.contains(['\u{301}', '\u{303}', '\u{30a}']),
            _ => false,
        };
        check(name, "gguf.json", &tokenizer, unsaid);
    }
}

#[test]
fn user_text_can_not_forge_special_tokens() {
    for name in SENTENCEPIECE.iter().chain(&BYTE_LEVEL) {
        for tokenizer in [Tokenizer::from_dir(&data(name)).unwrap(), Tokenizer::from_gguf(gguf_vocab(&data(name))).unwrap()] {
            for id in 0..tokenizer.vocab_size() as u32 {
                if !tokenizer.is_special(id) {
                    continue;
                }
                let text = format!("a {} b", tokenizer.token(id).unwrap());
                let ids = tokenizer.encode(&text, Encode { add_bos: false, parse_special: false }).unwrap();
                assert!(!ids.iter().any(|&id| tokenizer.is_special(id)), "{name}: {text:?} gave {ids:?}");
            }
        }
    }
}
