//! Files that change under a model that is in use: an error for it, and nothing for the models beside it.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use common::{endless, expected, generate, open, path};
use sol_engine::{Error, LanguageModel, Options, Sequence};

/// A copy of chat-tiny, opened.
struct Copy {
    dir: tempfile::TempDir,
    model: LanguageModel,
}

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in fs::read_dir(path("chat-tiny")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        // Time stamps of files are a few milliseconds coarse.
        std::thread::sleep(Duration::from_millis(30));
        let model = LanguageModel::open(dir.path(), Options { threads: Some(2), ..Options::default() }).unwrap();
        Self { dir, model }
    }

    fn weights(&self) -> PathBuf {
        self.dir.path().join("model.safetensors")
    }
}

fn cut(path: &PathBuf) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
}

fn assert_changed<T>(result: Result<T, Error>, words: &str) {
    let error = result.err().expect("the file has changed");
    assert!(matches!(error, Error::Weights(sol_weights::Error::ChangedInUse { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains(words) && text.contains("model.safetensors"), "{text}");
}

fn prompt() -> Vec<u32> {
    expected("chat-tiny").cases[0].prompt_ids.clone()
}

#[test]
fn a_file_cut_between_requests_spoils_its_model_only() {
    let (mut one, mut other) = (Copy::new(), Copy::new());
    let truth = generate(&mut one.model, &prompt(), &endless(20)).ids;
    cut(&one.weights());
    for _ in 0..2 {
        let silent = &mut |text: &str| panic!("shown: {text}");
        assert_changed(one.model.generate(&prompt(), &endless(20), silent), "4096 of 142608 bytes are left");
    }
    assert_eq!(generate(&mut other.model, &prompt(), &endless(20)).ids, truth);
}

#[test]
fn a_file_cut_during_an_answer_ends_it() {
    let (mut one, mut other) = (Copy::new(), Copy::new());
    let (file, truth) = (one.weights(), generate(&mut other.model, &prompt(), &endless(200)).text);
    let mut shown = String::new();
    let answer = one.model.generate(&prompt(), &endless(200), &mut |text| {
        shown.push_str(text);
        cut(&file);
    });
    assert_changed(answer, "shorter");
    assert!(!shown.is_empty() && shown.len() < truth.len() && truth.starts_with(&shown), "{shown:?}");
    assert_eq!(generate(&mut other.model, &prompt(), &endless(200)).text, truth);
}

#[test]
fn a_file_cut_during_a_pass_gives_no_logits_and_no_tokens() {
    let mut copy = Copy::new();
    let file = copy.weights();
    let engine = copy.model.engine();
    let mut sequence = Sequence::default();
    // `stop` is asked after the file was looked at and before the pass.
    let extended = engine.extend(&mut sequence, &prompt(), &|| {
        cut(&file);
        false
    });
    assert_changed(extended, "shorter");
    assert_eq!(sequence.tokens().len(), 0);
    // One token alone does not look at the file, but it can not read it either.
    assert_changed(engine.extend(&mut sequence, &[5], &|| false), "shorter");
    assert_changed(engine.score(&mut sequence, &prompt(), 0, &|| false, |_, _| panic!("scored")), "shorter");
}

#[test]
fn a_file_that_is_written_to_is_refused_at_the_next_request() {
    let mut copy = Copy::new();
    generate(&mut copy.model, &prompt(), &endless(3));
    let file = OpenOptions::new().write(true).open(copy.weights()).unwrap();
    file.write_all_at(&[0; 64], 100_000).unwrap();
    assert_changed(copy.model.generate(&prompt(), &endless(3), &mut |_| {}), "written to");
    let engine = copy.model.engine();
    assert_changed(engine.extend(&mut Sequence::default(), &prompt(), &|| false), "written to");
}

#[test]
fn a_file_that_is_deleted_or_replaced_stays_in_use() {
    let mut copy = Copy::new();
    let truth = generate(&mut open("chat-tiny"), &prompt(), &endless(20)).ids;
    let (file, new) = (copy.weights(), copy.dir.path().join("new"));
    fs::write(&new, b"another model").unwrap();
    fs::rename(&new, &file).unwrap();
    assert_eq!(generate(&mut copy.model, &prompt(), &endless(20)).ids, truth);
    fs::remove_file(&file).unwrap();
    let again = copy.model.engine().extend(&mut Sequence::default(), &prompt(), &|| false);
    assert!(again.is_ok());
}
