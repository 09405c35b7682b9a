//! Templates and vocabularies that nobody means well with: an error, in bounded time and memory.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sol_text::{ChatTemplate, Encode, Error, GgufVocab, Message, RenderOptions, Tokenizer};

/// Renders one user message; never longer than a few seconds, whatever the template.
fn render(source: &str) -> Result<String, Error> {
    let start = Instant::now();
    let result = ChatTemplate::new(source).and_then(|t| t.render(&[Message::user("Hi")], &RenderOptions::default()));
    assert!(start.elapsed() < Duration::from_secs(20), "{source:?} took {:?}", start.elapsed());
    result
}

#[test]
fn endless_templates_end() {
    for source in [
        // Work without end.
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        // Text without end.
        "{% set ns = namespace(s='ab') %}{% for a in range(9999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(9999) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s.replace('b', 'bb' * 999) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = (ns.s ~ ns.s).upper() %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s.join([ns.s, ns.s]) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = '%s%s' | format(ns.s, ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s | tojson | tojson %}{% endfor %}",
        "{{ '%999999999999s' | format('x') }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '{:>9999999999}'.format('x') }}",
        "{{ 'x' | indent(9999999999) }}",
        "{{ strftime_now('%9999999999Y') }}",
        "{{ [1] | tojson(indent=9999999999999) * 99999 }}",
        // Lists without end.
        "{{ (range(99999) | list) * 99999 }}",
        "{{ 'x' | batch(99999999999) }}{{ [1] | batch(99999999999, 'x') | list }}",
        "{{ [1] | slice(99999999999, 'x') | list }}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s == ns.s.copy() }}",
        "{{ 2 ** 999999999 }}",
    ] {
        if let Ok(prompt) = render(source) {
            assert!(prompt.len() < 1 << 26, "{source:?} gave {} bytes", prompt.len());
        }
    }
}

#[test]
fn deep_templates_do_not_exhaust_the_stack() {
    for source in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% macro m(c) %}{{ caller() }}{% call m() %}x{% endcall %}{% endmacro %}{% call m() %}y{% endcall %}".to_owned(),
        "{% include 'chat template' %}".to_owned(),
        "{% extends 'chat template' %}".to_owned(),
        "{% import 'chat template' as x %}{{ x }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.s = ns %}{{ ns }}{{ ns | tojson }}{{ ns == ns }}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}".to_owned(),
        "{% set ns = namespace(s={}) %}{% for a in range(99999) %}{% set ns.s = {'a': ns.s} %}{% endfor %}{{ ns.s == ns.s }}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(99999) %}{% set ns.s = ns.s | map('upper') %}{% endfor %}{{ ns.s | list }}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(99999) %}{% set ns.s = ns.s | reverse %}{% endfor %}{{ ns.s | list }}".to_owned(),
        "{% set ns = namespace(s=[1]) %}{% for a in range(99999) %}{% set ns.s = ns.s[0:] %}{% endfor %}{{ ns.s | list }}".to_owned(),
        "{% set ns = namespace(s=[1]) %}{% for a in range(99999) %}{% set ns.s = ns.s | chain([2]) %}{% endfor %}{{ ns.s | list }}".to_owned(),
        "x".repeat(100_000),
    ] {
        let _ = render(&source);
    }
    // Every way to nest, as deep as the longest template allows.
    let deep = |part: &str, end: &str| {
        part.repeat(64_000 / (part.len() + end.len())) + "1" + &end.repeat(64_000 / (part.len() + end.len()))
    };
    for expression in [
        deep("(", ")"),
        deep("[", "]"),
        deep("{1:", "}"),
        deep("-", ""),
        deep("not ", ""),
        deep("", "+1"),
        deep("", "~1"),
        "1".to_owned() + &"~1".repeat(4000),
        "'a'".to_owned() + &"+'a'".repeat(4000),
        "1".to_owned() + &"/0".repeat(8000),
        deep("", "**1"),
        deep("", ".x"),
        deep("", "[0]"),
        deep("", "()"),
        deep("", "|upper"),
        deep("", " and 1"),
        deep("", " if 1 else 1"),
        deep("x(", ")"),
    ] {
        let _ = render(&format!("{{{{ {expression} }}}}"));
    }
    for blocks in [
        deep("{% if 1 %}", "{% endif %}"),
        deep("{% for a in [1] %}", "{% endfor %}"),
        deep("{% macro m() %}", "{% endmacro %}"),
        deep("{% set x %}", "{% endset %}"),
        deep("{% elif 1 %}", ""),
        deep("{% filter upper %}", "{% endfilter %}"),
    ] {
        let _ = render(&format!("{{% if 1 %}}{blocks}{{% endif %}}"));
        let _ = render(&blocks);
    }
}

#[test]
fn a_template_that_does_not_parse_says_where() {
    let error = ChatTemplate::new("line one\n{% if %}\n").unwrap_err().to_string();
    assert!(error.contains("chat template") && error.contains('2'), "{error}");
    assert!(ChatTemplate::new("{% generation %}").is_err());
    let error = render("a\nb\n{{ messages[0].content.nothing() }}").unwrap_err().to_string();
    assert!(error.contains('3'), "{error}");
}

#[test]
fn deep_values_paid_for_by_a_long_message() {
    let long = "x".repeat(10_000_000);
    for nest in ["[ns.s]", "{'a': ns.s}", "ns.s | map('upper')", "ns.s | reverse"] {
        let source = format!(
            "{{% set ns = namespace(s=[1]) %}}{{% for a in range(99) %}}{{% for b in range(99999) %}}\
             {{% set ns.s = {nest} %}}{{% endfor %}}{{% endfor %}}"
        );
        let template = ChatTemplate::new(&source).unwrap();
        let error = template.render(&[Message::user(&long)], &RenderOptions::default()).unwrap_err();
        assert!(error.to_string().contains("too much work"), "{error}");
    }
}

#[test]
fn a_long_message_fits() {
    let long = "All work and no play. 🙂\n".repeat(400_000);
    let template = ChatTemplate::new(
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '</' ~ m['role'] ~ '>' }}{% endfor %}",
    );
    let prompt = template.unwrap().render(&[Message::user(&long)], &RenderOptions::default()).unwrap();
    assert_eq!(prompt.len(), long.trim().len() + "<user></user>".len());
}

fn vocab() -> impl Strategy<Value = GgufVocab> {
    let text = "[a-c▁ Ġ<>0x]{0,4}|<0x0[0-9A-F]>|<\\|im_end\\|>|<s>";
    let id = || prop::option::of(0..12u32);
    let entries = (
        prop_oneof!["llama", "gpt2", "t5"],
        prop::option::of(prop_oneof!["gpt-2", "default", "llama-bpe", "smollm", "nonsense"]),
        prop::collection::vec(text, 0..12),
        prop::option::of(prop::collection::vec(prop::num::f32::ANY, 0..12)),
        prop::option::of(prop::collection::vec(-1..9i32, 0..12)),
        prop::option::of(prop::collection::vec("[a-cĠ]{0,3} ?[a-cĠ]{0,3}", 0..6)),
        (id(), id(), id()),
        any::<(Option<bool>, bool)>(),
    );
    entries.prop_map(|(model, pre, tokens, scores, types, merges, (bos, eos, unk), (flag, fit))| {
        let n = tokens.len();
        // Half of them with lists as long as the tokens', to get further.
        let fitted = |mut list: Vec<f32>| {
            list.resize(n, -1.0);
            list
        };
        GgufVocab {
            model,
            pre,
            tokens,
            scores: if fit { scores.map(fitted) } else { scores },
            token_types: types.map(|mut t| {
                t.resize(if fit { n } else { t.len() }, 1);
                t
            }),
            merges,
            bos,
            eos,
            unk,
            add_bos: flag,
            add_space_prefix: flag,
            ..GgufVocab::default()
        }
    })
}

/// Loads a directory with this one file.
fn load(file: &str, content: &[u8]) -> Result<Tokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), content).unwrap();
    Tokenizer::from_dir(dir.path())
}

fn fixture(path: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)).unwrap()
}

#[test]
fn errors_say_what_and_where() {
    let json = |model: &str, rest: &str| format!(r#"{{"model": {model}{rest}}}"#).into_bytes();
    let bpe = |vocab: &str, merges: &str| format!(r#"{{"type": "BPE", "vocab": {vocab}, "merges": {merges}}}"#);
    for (content, words) in [
        (b"".to_vec(), &["tokenizer.json", "not valid"][..]),
        (b"{}".to_vec(), &["tokenizer.json", "missing field"]),
        (b"\xff".to_vec(), &["tokenizer.json", "UTF-8"]),
        (json(r#"{"type": "Nonsense"}"#, ""), &["tokenizer.json, model"]),
        (json(&bpe(r#"{"a": 0, "b": 1}"#, r#"["a b"]"#), ""), &["\"a\" and \"b\"", "not in the vocabulary"]),
        (json(&bpe(r#"{"a": 0}"#, r#"["a b c"]"#), ""), &["a merge"]),
        (json(&bpe(r#"{"a": 4000000000}"#, "[]"), ""), &["id 4000000000 in a vocabulary of 1"]),
        (json(&bpe(r#"{"a": -1}"#, "[]"), ""), &["model"]),
        (json(&bpe(r#"{"a": 0}"#, "[]"), r#", "added_tokens": [{"id": 4294967295, "content": "x"}]"#), &["id 4294967295"]),
        (
            json(&bpe(r#"{"a": 0}"#, "[]"), r#", "added_tokens": [{"id": 1, "content": "x"}, {"id": 1, "content": "y"}]"#),
            &["\"x\" and \"y\" share the id 1"],
        ),
        (json(&bpe(r#"{"a": 0}"#, "[]"), r#", "decoder": {"type": "CTC"}"#), &["CTC", "not supported"]),
    ] {
        let error = load("tokenizer.json", &content).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} should say {word:?}");
        }
    }
    let error = Tokenizer::from_dir(tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(matches!(error, Error::NoTokenizer { .. }));
    assert!(load("tokenizer.model", b"nonsense").unwrap_err().to_string().contains("sentencepiece"));
    assert!(load("tokenizer.model", b"").unwrap_err().to_string().contains("no pieces"));
    let gguf = GgufVocab { model: "bert".into(), tokens: vec!["a".into()], ..GgufVocab::default() };
    assert!(Tokenizer::from_gguf(gguf).unwrap_err().to_string().contains("\"bert\""));
    let gguf = GgufVocab {
        model: "gpt2".into(),
        pre: Some("tekken".into()),
        tokens: vec!["a".into()],
        merges: Some(vec![]),
        ..GgufVocab::default()
    };
    assert!(Tokenizer::from_gguf(gguf).unwrap_err().to_string().contains("tokenizer.ggml.pre \"tekken\""));
}

#[test]
fn a_vocabulary_without_a_pre_tokenizer_loads_with_a_note() {
    let gguf = GgufVocab { model: "gpt2".into(), tokens: vec!["a".into()], merges: Some(vec![]), ..GgufVocab::default() };
    let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
    assert!(tokenizer.notes()[0].contains("GPT-2"), "{:?}", tokenizer.notes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_to_a_file_is_an_error_or_another_tokenizer(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        text in "[a-z <|>s]{0,20}",
    ) {
        for (path, file) in [
            ("spm-llama/tokenizer.model", "tokenizer.model"),
            ("spm-phi3/tokenizer.json", "tokenizer.json"),
            ("bpe-qwen2/tokenizer.json", "tokenizer.json"),
        ] {
            let mut content = fixture(path);
            for (at, byte) in &damage {
                let at = at.index(content.len());
                content[at] = *byte;
            }
            if let Some(cut) = cut {
                content.truncate(cut.index(content.len()));
            }
            if let Ok(tokenizer) = load(file, &content)
                && let Ok(ids) = tokenizer.encode(&text, Encode { add_bos: true, parse_special: true })
            {
                tokenizer.decode(&ids, false);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_vocabulary_loads_or_says_why(vocab in vocab(), text in "[a-d ▁<>|s_im\n🙂]{0,20}") {
        let size = vocab.tokens.len() as u32;
        if let Ok(tokenizer) = Tokenizer::from_gguf(vocab) {
            for (add_bos, parse_special) in [(false, false), (true, true)] {
                if let Ok(ids) = tokenizer.encode(&text, Encode { add_bos, parse_special }) {
                    prop_assert!(ids.iter().all(|&id| id < size));
                    tokenizer.decode(&ids, true);
                }
            }
            tokenizer.decode(&[0, 1, 2, 3, 99, u32::MAX], false);
        }
    }

    #[test]
    fn any_template_ends(
        source in r"(\{\{ ?|\{% ?|\}\}|%\}|for m in messages|endfor|if|endif|set x = |namespace\(\)|messages|range\(9999999\)|\[0\]|\.content|\|tojson|\|list|\*99999|~|x| |macro m\(\)|endmacro|m\(\)|generation|break|continue|strftime_now\('%Y%q'\)|raise_exception\('no'\)){0,14}"
    ) {
        let _ = render(&source);
    }

    #[test]
    fn any_text_is_a_template_or_an_error(source in any::<String>()) {
        let _ = render(&source);
    }
}
