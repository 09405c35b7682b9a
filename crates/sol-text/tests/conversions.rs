//! Tokenizers taken from one format to the other give the ids and texts that transformers gives.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{cases, disagreement, gguf_vocab};
use sol_text::{GgufVocab, Tokenizer};

const SENTENCEPIECE: [&str; 5] = ["spm-llama", "spm-llama-metaspace", "spm-phi3", "spm-solar", "spm-gemma"];
const BYTE_LEVEL: [&str; 4] = ["bpe-gpt2", "bpe-smollm", "bpe-llama3", "bpe-qwen2"];

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// What GGUF can not say: that a space is put before the first stretch only, and that text is normalised to NFC.
fn unsaid(name: &str, text: &str) -> bool {
    match name {
        "spm-llama-metaspace" => text.contains("<s>") || text.starts_with(['▁', ' ']) || text.contains("<unk>"),
        "bpe-qwen2" => text.contains(['\u{301}', '\u{303}', '\u{30a}']),
        _ => false,
    }
}

fn check(name: &str, source: &str, tokenizer: &Tokenizer) {
    let wrong: Vec<String> = cases(&data(name))
        .iter()
        .filter(|case| !unsaid(name, &case.text))
        .filter_map(|case| disagreement(tokenizer, case))
        .collect();
    assert!(wrong.is_empty(), "{name} from {source}: {} wrong:\n{}", wrong.len(), wrong[0]);
}

fn put(vocab: &GgufVocab, dir: &Path) {
    for (file, json) in vocab.to_files(Some("{{ bos_token }}"), 512).unwrap() {
        fs::write(dir.join(file), json.to_string()).unwrap();
    }
}

#[test]
fn from_a_directory_to_gguf_and_back() {
    for name in SENTENCEPIECE.iter().chain(&BYTE_LEVEL) {
        for files in
            [&["tokenizer.json", "tokenizer_config.json"][..], &["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]]
        {
            let dir = tempfile::tempdir().unwrap();
            for file in files.iter().filter(|file| data(name).join(file).exists()) {
                fs::copy(data(name).join(file), dir.path().join(file)).unwrap();
            }
            let size = Tokenizer::from_dir(dir.path()).unwrap().vocab_size();
            // A model with more embeddings than tokens.
            let vocab = GgufVocab::from_dir(dir.path(), size + 3).unwrap();
            assert_eq!((vocab.tokens.len(), vocab.tokens[size + 2].clone()), (size + 3, format!("[PAD{}]", size + 2)));
            let what = files.join(" + ");
            check(name, &what, &Tokenizer::from_gguf(vocab.clone()).unwrap());
            let back = tempfile::tempdir().unwrap();
            put(&vocab, back.path());
            let tokenizer = Tokenizer::from_dir(back.path()).unwrap();
            assert_eq!(tokenizer.vocab_size(), size, "{name}");
            check(name, &format!("{what} and back"), &tokenizer);
        }
    }
}

#[test]
fn from_gguf_to_a_directory() {
    for name in SENTENCEPIECE.iter().chain(&BYTE_LEVEL) {
        let dir = tempfile::tempdir().unwrap();
        put(&gguf_vocab(&data(name)), dir.path());
        check(name, "gguf.json", &Tokenizer::from_dir(dir.path()).unwrap());
    }
}

/// The keys themselves are those that the converter of the fixtures wrote.
#[test]
fn keys_are_those_of_the_converter() {
    for name in SENTENCEPIECE.iter().chain(&BYTE_LEVEL) {
        let theirs = gguf_vocab(&data(name));
        let ours = GgufVocab::from_dir(&data(name), theirs.tokens.len()).unwrap();
        let kinds = |vocab: &GgufVocab| vocab.token_types.clone().unwrap();
        let first = (0..theirs.tokens.len())
            .find(|&id| (&ours.tokens[id], kinds(&ours)[id]) != (&theirs.tokens[id], kinds(&theirs)[id]))
            .map(|id| (id, &ours.tokens[id], kinds(&ours)[id], &theirs.tokens[id], kinds(&theirs)[id]));
        assert_eq!(first, None, "{name}");
        assert_eq!((&ours.model, &ours.pre, &ours.merges), (&theirs.model, &theirs.pre, &theirs.merges), "{name}");
        assert_eq!((ours.bos, ours.eos, ours.unk, ours.pad), (theirs.bos, theirs.eos, theirs.unk, theirs.pad), "{name}");
    }
}
