//! Perplexity against float32 PyTorch (`xtools/make_perplexity_fixtures.py`).

mod common;

use common::{open, open_with};
use serde::Deserialize;
use sol_engine::{Error, Options, perplexity};
use sol_text::Encode;

#[derive(Deserialize)]
struct Golden {
    text: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    chunk: usize,
    bos: Option<u32>,
    value: f64,
    error: f64,
    tokens: usize,
}

#[test]
fn perplexity_is_that_of_pytorch() {
    let golden: Golden = serde_json::from_str(include_str!("data/perplexity.json")).unwrap();
    for case in &golden.cases {
        for file in ["", ".gguf"] {
            let mut model = open(&format!("{}{file}", case.model));
            let tokenizer = model.tokenizer().unwrap().clone();
            let tokens = tokenizer.encode(&golden.text, Encode { add_bos: true, parse_special: false }).unwrap();
            assert_eq!(tokenizer.bos().filter(|_| tokenizer.adds_bos()), case.bos);
            let mut chunks = 0;
            let got = perplexity(model.engine(), &tokens, case.bos, case.chunk, &|| false, &mut |p| chunks = p.chunk).unwrap();
            let place = format!("{}{file}, chunks of {}", case.model, case.chunk);
            assert_eq!((got.tokens, chunks), (case.tokens, tokens.len() / case.chunk), "{place}");
            assert!((got.value / case.value - 1.0).abs() < 1e-4, "{place}: {} {}", got.value, case.value);
            assert!((got.error / case.error - 1.0).abs() < 1e-4, "{place}: {} {}", got.error, case.error);
        }
    }
}

#[test]
fn chunks_that_can_not_be_scored_are_refused() {
    let mut model = open_with("chat-tiny", Options { context: Some(64), ..Options::default() });
    let mut score = |tokens: usize, chunk| perplexity(model.engine(), &vec![7; tokens], None, chunk, &|| false, &mut |_| {});
    for chunk in [0, 1, 2] {
        assert!(matches!(score(64, chunk), Err(Error::BadOption { .. })), "{chunk}");
    }
    assert!(matches!(score(9, 10), Err(Error::TextTooShort { tokens: 9, chunk: 10 })));
    assert!(matches!(score(0, 10), Err(Error::TextTooShort { .. })));
    assert!(matches!(score(70, 66), Err(Error::ContextOverflow { .. })));
    assert!(score(64, 64).is_ok());
    let stopped = perplexity(model.engine(), &[7; 64], None, 16, &|| true, &mut |_| {});
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert!(
        perplexity(model.engine(), &[7; 64], None, 64, &|| false, &mut |_| {}).is_ok(),
        "the stopped chunk's blocks are free"
    );
}
