//! What a checkpoint brings with it, and what is said where it brings less.

mod common;
#[path = "../../sol-model/tests/spoilt/mod.rs"]
mod spoilt;

use std::fs;
use std::path::Path;

use common::{endless, expected, generate, open, open_with, path};
use serde_json::{Value, json};
use sol_compute::KvType;
use sol_engine::{Error, LanguageModel, Message, Options, Result, Sampling, Sequence, open_tokenizer};
use sol_model::RopeFactors;
use spoilt::{Gguf, Hf, Spoilt};

fn open_spoilt(model: &impl Spoilt) -> (tempfile::TempDir, Result<LanguageModel>) {
    let dir = tempfile::tempdir().unwrap();
    let opened = LanguageModel::open(&model.write(dir.path()), Options { threads: Some(1), ..Options::default() });
    (dir, opened)
}

#[test]
fn a_system_message_never_vanishes() {
    let conversation = [Message::system("Be brief."), Message::user("Hello!")];
    for name in ["solar-tiny", "solar-tiny.gguf"] {
        let error = open(name).chat_prompt(&conversation).unwrap_err().to_string();
        assert!(error.contains("--system-as-user"), "{error}");
        let folding = open_with(name, Options { system_as_user: true, ..Options::default() });
        let folded = folding.chat_prompt(&[Message::user("Be brief.\n\nHello!")]).unwrap();
        assert_eq!(folding.chat_prompt(&conversation).unwrap(), folded);
    }
    assert!(open("chat-tiny").chat_prompt(&conversation).is_ok());
}

#[test]
fn a_solar_file_without_a_template_gets_chatml_without_a_system_prompt() {
    let (_dir, model) = open_spoilt(&Gguf::of("solar-tiny.gguf").without("tokenizer.chat_template"));
    let model = model.unwrap();
    for case in expected("solar-tiny").cases {
        assert_eq!(model.chat_prompt(&case.messages).unwrap(), case.prompt_ids);
    }
    let error = model.chat_prompt(&[Message::system("x"), Message::user("y")]).unwrap_err().to_string();
    assert!(error.contains("--system-as-user"), "{error}");

    let (_dir, other) = open_spoilt(&Gguf::of("chat-tiny.gguf").without("tokenizer.chat_template"));
    let error = other.unwrap().chat_prompt(&[Message::user("y")]).unwrap_err();
    assert!(matches!(error, Error::NoChatTemplate), "{error}");
}

#[test]
fn a_checkpoint_without_a_tokenizer_still_answers_in_ids() {
    for name in ["models/solar", "gguf/solar/model.gguf"] {
        let mut model = open(name);
        let error = model.text_prompt("x").unwrap_err().to_string();
        assert!(error.contains("--ids"), "{error}");
        let answer = generate(&mut model, &[1, 2, 3], &endless(8));
        assert_eq!((answer.ids.len(), answer.text.as_str()), (8, ""));
        assert!(open_tokenizer(&path(name)).is_err());
    }
    for name in ["solar-tiny", "solar-tiny.gguf", "solar-tiny/model.safetensors"] {
        assert_eq!(open_tokenizer(&path(name)).unwrap().vocab_size(), 387, "{name}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for name in ["llama", "phimoe"] {
        let mut spoilt = Hf::of(name);
        let tensor = "model.layers.1.self_attn.v_proj.weight";
        let half = spoilt.tensor(tensor).bytes.len() / 2;
        spoilt.tensor(tensor).bytes[half / 4 * 4..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let (_dir, model) = open_spoilt(&spoilt);
        let error = model.unwrap().generate(&[1, 2, 3], &endless(4), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(tensor), "{error}");
    }
}

#[test]
fn options_reach_the_decoder() {
    let first_logits = |name: &str, options: Options| {
        let mut model = open_with(name, options);
        let tokens: Vec<u32> = (0..30).collect();
        let logits = model.engine().extend(&mut Sequence::default(), &tokens, &|| false).unwrap().to_vec();
        (logits, model.spec().window())
    };
    let (windowed, window) = first_logits("models/solar-window", Options::default());
    let (whole, none) = first_logits("models/solar-window", Options { no_window: true, ..Options::default() });
    assert_eq!((window, none), (Some(7), None));
    assert_ne!(windowed, whole);

    let rope =
        |rope_factors, context| first_logits("models/phi3-longrope", Options { rope_factors, context, ..Options::default() }).0;
    // 24 positions are the original context.
    assert_eq!(rope(None, None), rope(Some(RopeFactors::Long), Some(40)));
    assert_ne!(rope(None, None), rope(Some(RopeFactors::Short), None));
    let kv = |kv_type| first_logits("chat-tiny", Options { kv_type, ..Options::default() }).0;
    assert_eq!(kv(None), kv(Some(KvType::F32)), "unquantised weights");
    assert_ne!(kv(None), kv(Some(KvType::F16)));
}

/// A copy of chat-tiny with another `generation_config.json`.
fn configured(generation: &Value) -> LanguageModel {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(path("chat-tiny")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    fs::write(dir.path().join("generation_config.json"), generation.to_string()).unwrap();
    LanguageModel::open(dir.path(), Options { threads: Some(1), ..Options::default() }).unwrap()
}

#[test]
fn the_generation_config_says_how_to_sample_and_where_to_stop() {
    let greedy = Sampling::default();
    assert_eq!(open("chat-tiny").default_sampling(), &greedy);
    let settings = |generation: Value| configured(&generation).default_sampling().clone();
    assert_eq!(settings(json!({ "do_sample": true })), Sampling { temperature: 1.0, top_k: 50, ..greedy.clone() });
    let all = json!({ "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 0, "min_p": 0.1, "typical_p": 0.8,
        "repetition_penalty": 1.1 });
    let sampling = settings(all);
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.6, 0.9, 0));
    assert_eq!((sampling.min_p, sampling.typical_p, sampling.repetition_penalty), (0.1, 0.8, 1.1));
    // Greedy decoding has a penalty too; temperature is of sampling alone.
    let penalised = settings(json!({ "temperature": 0.6, "repetition_penalty": 1.3 }));
    assert_eq!(penalised, Sampling { repetition_penalty: 1.3, ..greedy });

    let ends = |generation: Value| configured(&generation).end_of_turn().to_vec();
    assert_eq!(ends(json!({ "eos_token_id": 5 })), [5]);
    assert_eq!(ends(json!({ "eos_token_id": [7, 5, 7] })), [5, 7]);
    assert_eq!(ends(json!({})), [2], "the config's own");
    assert_eq!(ends(json!({ "eos_token_id": [4294967298u64, -1, "x", 3] })), [3], "no id is cut to 32 bits");
}

#[test]
fn what_is_no_model_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| LanguageModel::open(path, Options::default()).err().unwrap().to_string();
    assert!(refused(dir.path()).contains("no .safetensors and no .gguf"));
    assert!(refused(&dir.path().join("nothing")).contains("nothing"));
    fs::copy(path("chat-tiny/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert!(refused(dir.path()).contains("config.json"));
    fs::write(dir.path().join("config.json"), "{").unwrap();
    assert!(refused(dir.path()).contains("config.json"));
    assert!(LanguageModel::load("no-such-alias", Options::default()).err().unwrap().to_string().contains("smollm2"));
}
