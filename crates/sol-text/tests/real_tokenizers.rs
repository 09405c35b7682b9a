//! The same comparison on real tokenizers, which are too large or licensed too narrowly to be
//! committed: `xtools/check_text.py` prepares a folder, `SOLARIUM_TOKENIZERS` names it. Also measures.

mod common;

use std::path::PathBuf;
use std::time::Instant;

use common::{cases, disagreement, gguf_vocab};
use serde::Deserialize;
use sol_text::{Encode, Tokenizer};

#[derive(Deserialize)]
struct Pair {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn real_tokenizers() {
    let Some(root) = std::env::var_os("SOLARIUM_TOKENIZERS").map(PathBuf::from) else {
        eprintln!("skipped: SOLARIUM_TOKENIZERS names no folder made by xtools/check_text.py");
        return;
    };
    let mut folders: Vec<PathBuf> = root.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut wrong = Vec::new();
    for folder in folders.iter().filter(|folder| folder.join("cases.json").exists()) {
        let gguf = folder.join("gguf.json").exists().then(|| gguf_vocab(folder));
        let start = Instant::now();
        let tokenizer = match gguf {
            Some(vocab) => Tokenizer::from_gguf(vocab),
            None => Tokenizer::from_dir(folder),
        }
        .unwrap();
        let loaded = start.elapsed();
        let name = folder.file_name().unwrap().display();
        let cases = cases(folder);
        let mut count = cases.len();
        wrong.extend(cases.iter().filter_map(|case| disagreement(&tokenizer, case)).map(|w| format!("{name}: {w}")));
        if let Ok(pairs) = std::fs::read_to_string(folder.join("inp_out.json")) {
            let pairs: Vec<Pair> = serde_json::from_str(&pairs).unwrap();
            count += pairs.len();
            for pair in pairs {
                let found = tokenizer.encode(&pair.text, Encode { add_bos: false, parse_special: false }).unwrap();
                if found != pair.ids {
                    wrong.push(format!("{name}, inp/out: {:?}\n  found    {found:?}\n  expected {:?}", pair.text, pair.ids));
                }
            }
        }
        eprintln!("{name}: {} tokens loaded in {loaded:.0?}, {count} texts compared", tokenizer.vocab_size());
        for (what, text) in large_texts() {
            let start = Instant::now();
            let ids = tokenizer.encode(&text, Encode { add_bos: false, parse_special: true }).unwrap();
            let encoded = start.elapsed();
            let start = Instant::now();
            let decoded = tokenizer.decode(&ids, false);
            eprintln!("  10 MB {what}: {} ids in {encoded:.1?}, decoded in {:.1?}", ids.len(), start.elapsed());
            assert!(decoded == text, "{name}: {what} did not come back");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn large_texts() -> Vec<(&'static str, String)> {
    if std::env::var_os("SOLARIUM_LARGE").is_none() {
        return Vec::new();
    }
    let prose =
        "It was the best of times, it was the worst of times; 1859 was a year. Ünïcödé 漢字 🙂\n\n    def f(x): return x\n";
    let size = 10_000_000;
    [
        ("prose", prose),
        ("letters", "a"),
        ("spaces", " "),
        ("line breaks", "\n"),
        ("digits", "1234567890"),
        ("emoji", "🙂"),
        ("letters, no spaces", "abcdefghijklmnopqrstuvwxyz"),
    ]
    .map(|(what, part)| (what, part.repeat(size / part.len())))
    .into()
}
