//! `sol inspect`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Machine, Outcome, fixture};

fn json_of(args: &[&str]) -> Value {
    let stdout = Machine::new().run(&[&["inspect", "--json"], args].concat()).ok();
    serde_json::from_str(&stdout).unwrap()
}

/// The text for a fixture, without the place it lies at and what this machine has.
fn text_of(name: &str, args: &[&str]) -> String {
    let path = fixture(name);
    let text = Machine::new().run(&[&["inspect", &path], args].concat()).ok().replace(&path, "[PATH]");
    text.lines().filter(|line| !line.contains("available here")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_hyper_parameter_is_shown() {
    insta::assert_snapshot!("solar", text_of("models/solar", &[]));
    insta::assert_snapshot!("gemma2", text_of("models/gemma2", &[]));
    insta::assert_snapshot!("phimoe", text_of("models/phimoe", &["--ctx", "100", "--batch", "3"]));
    insta::assert_snapshot!("llama3-tensors", text_of("models/llama3", &["--tensors"]));
    insta::assert_snapshot!("chat-tiny-gguf", text_of("chat-tiny.gguf", &["--fit", "9850kB", "-v"]));
    insta::assert_snapshot!("solar-tiny", text_of("solar-tiny", &[]));
}

#[test]
fn every_fixture_is_described() {
    for kind in ["models", "gguf"] {
        for entry in fs::read_dir(fixture(kind)).unwrap() {
            let mut path = entry.unwrap().path();
            if kind == "gguf" {
                path.push("model.gguf");
            }
            let value = json_of(&[path.to_str().unwrap(), "--tensors"]);
            assert_eq!(value["error"], Value::Null, "{path:?}");
            let layers = value["decoder"]["layers"].as_array().unwrap().len();
            let tensors = value["tensors"].as_array().unwrap();
            let elements = |t: &Value| t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
            assert_eq!(value["elements"], tensors.iter().map(elements).sum::<u64>());
            assert_eq!(value["weight_bytes"], tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum::<u64>());
            if kind == "models" {
                let config: Value = serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
                assert_eq!(config["num_hidden_layers"], layers);
                assert_eq!(value["metadata"], config);
                // A decoder uses all that its checkpoint holds.
                assert_eq!(value["parameters"], value["elements"], "{path:?}");
            }
        }
    }
}

#[test]
fn memory_grows_with_context_and_sequences() {
    let path = fixture("chat-tiny");
    let memory = |args: &[&str]| json_of(&[&["-m", &path][..], args].concat())["memory"].clone();
    let one = memory(&["--ctx", "64"]);
    let four = memory(&["--ctx", "128", "--batch", "2"]);
    // 2 layers, 1 kv head of 16, keys and values, 4 bytes.
    assert_eq!(one["kv_cache"], 64 * 2 * 16 * 2 * 4);
    assert_eq!(four["kv_cache"], 4 * 64 * 2 * 16 * 2 * 4);
    assert_eq!(memory(&["--ctx", "64", "--kv", "f16"])["kv_cache"], 64 * 2 * 16 * 2 * 2);
    assert_eq!(memory(&["--ctx", "64", "--kv", "q8_0"])["kv_cache"], 64 * 2 * (16 + 2) * 2);
    for memory in [one, four] {
        let parts: u64 = ["weights", "kv_cache", "work", "program"].iter().map(|k| memory[k].as_u64().unwrap()).sum();
        assert_eq!(memory["total"], parts);
    }
    let error = Machine::new().run(&["inspect", &path, "--ctx", "513"]).error();
    assert!(error.contains("513") && error.contains("512"), "{error}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let path = fixture("chat-tiny");
    for args in
        [&["--fit", "huge"][..], &["--fit", "24QB"], &["--fit", "0"], &["--ctx", "0"], &["--batch", "0"], &["-m", "other"]]
    {
        let outcome = Machine::new().run(&[&["inspect", &path], args].concat());
        assert_eq!(outcome.code, Some(2), "{args:?}");
    }
}

/// What the header of Solar Pro Preview in BF16 says, and a file of its size that takes no room on the disk.
fn sparse_solar(dir: &Path) -> Option<u64> {
    let (hidden, kv, ffn, vocab) = (5120u64, 1280u64, 17920u64, 32128u64);
    let config = json!({
        "architectures": ["SolarForCausalLM"], "hidden_size": hidden, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 10, "intermediate_size": ffn, "vocab_size": vocab, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bskcn_1": [12, 20, 32, 44], "bskcn_2": [20, 32],
        "bskcn_3": [16, 24, 36, 48], "bskcn_4": [28, 40], "bskcn_tv": [0.9, 0.8],
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![
        ("model.embed_tokens".to_owned(), vec![vocab, hidden]),
        ("model.norm".to_owned(), vec![hidden]),
        ("lm_head".to_owned(), vec![vocab, hidden]),
    ];
    for layer in 0..64 {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let shapes = [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![ffn, hidden]),
            ("mlp.up_proj", vec![ffn, hidden]),
            ("mlp.down_proj", vec![hidden, ffn]),
        ];
        tensors.extend(shapes.map(|(part, shape)| (name(part), shape)));
    }
    let mut header = serde_json::Map::new();
    let mut start = 0;
    for (name, shape) in tensors {
        let end = start + 2 * shape.iter().product::<u64>();
        header.insert(format!("{name}.weight"), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
        start = end;
    }
    let header = Value::from(header).to_string();
    let mut file = File::create(dir.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Not every file system has files with holes, or such large ones.
    file.set_len(8 + header.len() as u64 + start).ok().map(|()| start)
}

#[test]
fn forty_four_gigabytes_are_inspected_at_once() {
    let machine = Machine::new();
    let Some(bytes) = sparse_solar(machine.dir.path()) else {
        eprintln!("skipped: no file of 44 GB can be made here");
        return;
    };
    assert_eq!(bytes, 44_280_064_000);
    let start = Instant::now();
    let stdout = machine.run(&["inspect", ".", "--json", "--fit", "24GB"]).ok();
    let took = start.elapsed();
    // A hundredth of this for a release build on an idle machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(value["parameters"], 22_140_032_000u64);
    assert_eq!(value["weight_bytes"], bytes);
    assert_eq!(value["bits_per_weight"], 16.0);
    assert_eq!(value["kv_bytes_per_token"], json!({ "q8_0": 174_080, "f16": 327_680, "f32": 655_360 }));
    let links = json!([[12, 16, "A"], [20, 24, "A"], [20, 28, "B"], [32, 36, "A"], [32, 40, "B"], [44, 48, "A"]]);
    let shown = value["decoder"]["skip_links"].as_array().unwrap().iter();
    assert_eq!(shown.map(|l| json!([l["from"], l["to"], l["slot"]])).collect::<Value>(), links);
    assert_eq!(value["fit"]["as_it_is"], false);
    let verdicts = value["fit"]["quantised"].as_array().unwrap().iter().map(|q| (q["name"].as_str().unwrap(), q["fits"] == true));
    assert_eq!(verdicts.filter(|(_, fits)| *fits).map(|(name, _)| name).next(), Some("Q6_K"));
    assert_eq!(json_of(&[machine.dir.path().to_str().unwrap(), "--fit", "80GB"])["fit"]["as_it_is"], true);
}

/// A copy of a fixture's directory with changes to its config.
fn changed(machine: &Machine, name: &str, changes: Value) -> String {
    let dir = machine.dir.path().join("changed");
    fs::create_dir(&dir).unwrap();
    fs::copy(Path::new(&fixture(name)).join("model.safetensors"), dir.join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(Path::new(&fixture(name)).join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    dir.to_str().unwrap().to_owned()
}

/// Asserts that a run failed at once, and that its message has all of these words.
fn assert_refused(outcome: Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "'{word}' is not in: {}", outcome.stderr);
    }
}

#[test]
fn what_can_not_run_is_shown_and_then_refused() {
    for (name, changes, words) in [
        (
            "models/llama",
            json!({ "architectures": ["MambaForCausalLM"] }),
            &["MambaForCausalLM", "not supported", "solar, llama"][..],
        ),
        ("models/llama", json!({ "hidden_size": 48 }), &["shape", "48", "config"]),
        ("models/llama", json!({ "num_hidden_layers": 9 }), &["model.layers.", "is missing"]),
        ("models/llama", json!({ "num_key_value_heads": 4 }), &["num_key_value_heads", "4", "6 heads"]),
        ("models/llama", json!({ "rms_norm_eps": null }), &["rms_norm_eps"]),
        ("models/solar", json!({ "bskcn_1": [] }), &["bskcn_3", "saved"]),
        ("models/solar", json!({ "bskcn_tv": null }), &["bskcn_tv"]),
    ] {
        let machine = Machine::new();
        let dir = changed(&machine, name, changes.clone());
        let outcome = machine.run(&["inspect", &dir]);
        assert!(outcome.stdout.contains("F32"), "{changes}: {}", outcome.stdout);
        assert_refused(outcome, words);
        let outcome = machine.run(&["inspect", &dir, "--json"]);
        let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(outcome.stderr.trim_end(), format!("sol: {}", value["error"].as_str().unwrap()));
    }
}

#[test]
fn broken_files_are_refused_by_name() {
    let machine = Machine::new();
    let whole = fs::read(fixture("chat-tiny.gguf")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(machine.dir.path().join(name), bytes).unwrap();
        machine.run(&["inspect", name])
    };
    assert_refused(file("empty.gguf", b""), &["empty.gguf"]);
    assert_refused(file("text.gguf", b"this is not a model, only some text that is long enough"), &["text.gguf", "GGUF"]);
    assert_refused(file("text.bin", b"neither is this one"), &["text.bin"]);
    assert_refused(file("half.gguf", &whole[..whole.len() / 2]), &["half.gguf", "ends inside"]);
    assert_refused(file("header.gguf", &whole[..100]), &["header.gguf"]);
    assert_refused(file("empty.safetensors", b""), &["empty.safetensors"]);
    assert_refused(machine.run(&["inspect", "none.gguf"]), &["none.gguf"]);
    fs::create_dir(machine.dir.path().join("nothing")).unwrap();
    assert_refused(machine.run(&["inspect", "nothing"]), &["nothing", "no .safetensors"]);
}

#[test]
fn a_hub_that_is_not_there_is_said() {
    let machine = Machine::new();
    let mut command = machine.sol(&["inspect", "solar-pro"]);
    let output = command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("solar-pro is not on this machine") && stderr.contains("cannot be reached"), "{stderr}");
    assert!(machine.run(&["inspect", "solar-pro"]).stderr.contains("sol pull"), "offline");
}

/// A hub with one repository: answers are the files of a directory.
fn hub(dir: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).unwrap() > 0 {}
            let (method, path) = head.split_once(' ').unwrap();
            let path = path.split(' ').next().unwrap();
            let body = if path.starts_with("/api/models/") {
                let names = ["config.json", "model.safetensors"].map(|name| json!({ "rfilename": name }));
                json!({ "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": names }).to_string().into_bytes()
            } else {
                fs::read(Path::new(&dir).join(path.rsplit('/').next().unwrap())).unwrap()
            };
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            // The client goes away once it has the header.
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(if method == "HEAD" { &[] } else { &body });
        }
    });
    endpoint
}

#[test]
fn a_model_at_the_hub_is_inspected_without_its_weights() {
    let machine = Machine::new();
    let path = fixture("models/solar");
    let mut command = machine.sol(&["inspect", "org/tiny", "--json"]);
    let output = command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", hub(path.clone())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let there: Value = serde_json::from_slice(&output.stdout).unwrap();
    let here = json_of(&[&path]);
    for key in ["decoder", "weight_bytes", "types", "memory", "metadata", "error"] {
        assert_eq!(there[key], here[key], "{key}");
    }
    assert_eq!((&there["model"], &there["here"]), (&json!("org/tiny"), &json!(false)));
    assert_eq!(there["files"], json!(["model.safetensors"]));
}
