//! Prompts equal to transformers' `apply_chat_template` for the templates of the six models.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use sol_text::{ChatTemplate, DateTime, Error, Message, RenderOptions};

#[derive(Deserialize)]
struct Case {
    conversation: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    prompt: Option<String>,
    refusal: Option<String>,
}

fn load(name: &str) -> (ChatTemplate, Vec<Case>) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates");
    let source = fs::read_to_string(dir.join(format!("{name}.jinja"))).unwrap();
    let cases = fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
    (ChatTemplate::new(&source).unwrap(), serde_json::from_str(&cases).unwrap())
}

fn options(case: &Case) -> RenderOptions {
    RenderOptions {
        add_generation_prompt: case.add_generation_prompt,
        bos_token: "<bos>".into(),
        eos_token: "<eos>".into(),
        now: Some(DateTime::new(2024, 9, 10, 7, 8, 9, 0).unwrap()),
        ..RenderOptions::default()
    }
}

fn check(name: &str, supports_system: bool) {
    let (template, cases) = load(name);
    assert_eq!(template.supports_system(), supports_system, "{name}");
    for case in &cases {
        let where_ = format!("{name}, {}, add_generation_prompt {}", case.conversation, case.add_generation_prompt);
        let found = template.render(&case.messages, &options(case));
        if !supports_system && case.messages.iter().any(|m| m.role == "system") {
            assert!(matches!(found, Err(Error::NoSystemPrompt)), "{where_}: {found:?}");
            continue;
        }
        match (&case.prompt, &case.refusal, found) {
            (Some(prompt), _, Ok(found)) => assert_eq!(&found, prompt, "{where_}"),
            (_, Some(refusal), Err(Error::TemplateRefused(found))) => assert_eq!(&found, refusal, "{where_}"),
            (_, _, found) => panic!("{where_}: {found:?}, expected {:?} {:?}", case.prompt, case.refusal),
        }
    }
}

#[test]
fn templates_with_system_prompt() {
    for name in ["phi3.5-moe", "llama3.1", "smollm2", "solar", "features"] {
        check(name, true);
    }
}

#[test]
fn templates_without_system_prompt() {
    for name in ["phi3-medium", "gemma2"] {
        check(name, false);
    }
}

#[test]
fn chatml_is_what_solar_uses() {
    let (solar, cases) = load("solar");
    let chatml = ChatTemplate::chatml();
    for case in &cases {
        let options = options(case);
        assert_eq!(chatml.render(&case.messages, &options).unwrap(), solar.render(&case.messages, &options).unwrap());
    }
}

#[test]
fn a_model_without_system_prompts_says_so() {
    let solar = ChatTemplate::chatml().without_system();
    assert!(!solar.supports_system());
    let error = solar.render(&[Message::system("Be brief."), Message::user("Hi")], &RenderOptions::default()).unwrap_err();
    assert!(error.to_string().contains("--system-as-user"), "{error}");
    assert!(solar.render(&[Message::user("Hi")], &RenderOptions::default()).is_ok());
}
