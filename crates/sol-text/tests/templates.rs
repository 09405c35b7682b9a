//! Prompts equal to transformers' `apply_chat_template` for the templates of the six models.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sol_text::{ChatTemplate, DateTime, Error, Message, RenderOptions};

#[derive(Deserialize)]
struct Case {
    conversation: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    prompt: Option<String>,
    /// The template's own words against the conversation; neither this nor a prompt where Python failed.
    refusal: Option<String>,
}

fn load(name: &str) -> (ChatTemplate, Vec<Case>) {
    load_from(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates"), name)
}

fn load_from(dir: &Path, name: &str) -> (ChatTemplate, Vec<Case>) {
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
    compare(name, &template, &cases);
}

fn compare(name: &str, template: &ChatTemplate, cases: &[Case]) {
    let supports_system = template.supports_system();
    for case in cases {
        let where_ = format!("{name}, {}, add_generation_prompt {}", case.conversation, case.add_generation_prompt);
        let found = template.render(&case.messages, &options(case));
        if !supports_system && case.messages.iter().any(|m| m.role == "system") {
            assert!(matches!(found, Err(Error::NoSystemPrompt)), "{where_}: {found:?}");
            continue;
        }
        match (&case.prompt, &case.refusal, found) {
            (Some(prompt), _, Ok(found)) => assert_eq!(&found, prompt, "{where_}"),
            (_, Some(refusal), Err(Error::TemplateRefused(found))) => assert_eq!(&found, refusal, "{where_}"),
            (None, None, _) => {}
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
fn published_templates() {
    let Some(root) = std::env::var_os("SOLARIUM_TOKENIZERS").map(PathBuf::from) else {
        eprintln!("skipped: SOLARIUM_TOKENIZERS names no folder made by xtools/check_text.py");
        return;
    };
    let mut failed = Vec::new();
    for entry in root.join("templates").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jinja") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let compared = std::panic::catch_unwind(|| {
                let (template, cases) = load_from(&root.join("templates"), name);
                compare(name, &template, &cases);
            });
            match compared {
                Ok(()) => eprintln!("{name}: equal"),
                Err(_) => failed.push(name.to_owned()),
            }
        }
    }
    assert!(failed.is_empty(), "different: {failed:?}");
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

#[test]
fn which_templates_know_tools() {
    for name in ["llama3.1", "smollm2", "solar", "phi3.5-moe", "gemma2"] {
        assert!(!load(name).0.supports_tools(), "{name}");
    }
    let knows = |source: &str| ChatTemplate::new(source).unwrap().supports_tools();
    assert!(knows("{% for tool in tools or [] %}{{ tool.function | tojson }}{% endfor %}{{ messages[0].content }}"));
    assert!(!knows("{% if tools %}I have {{ tools | length }} tools.{% endif %}{{ messages[0].content }}"));
}
