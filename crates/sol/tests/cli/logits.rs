//! `sol logits` against float32 PyTorch.

use std::fs;
use std::path::Path;

use sol_weights::{DType, Tensor, safetensors};

use crate::support::{Machine, Outcome, fixture, outcome};

fn tensor(path: &Path, name: &str) -> Tensor {
    safetensors::read(path).unwrap().into_iter().find(|t| t.name == name).unwrap()
}

fn write_ids(machine: &Machine, dtype: DType, shape: &[usize], bytes: &[u8]) {
    safetensors::write(&machine.dir.path().join("ids.safetensors"), &[("input_ids", dtype, shape, bytes)]).unwrap();
}

fn write_i64(machine: &Machine, shape: &[usize], ids: &[i64]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    write_ids(machine, DType::I64, shape, &bytes);
}

fn run(machine: &Machine, model: &str, args: &[&str]) -> Outcome {
    machine.run(&[&["logits", "-m", model, "--ids", "ids.safetensors", "--out", "out.safetensors"], args].concat())
}

/// Logits for the ids `prefix`input_ids of a fixture.
fn logits(fixture_name: &str, model: &str, prefix: &str, args: &[&str]) -> Tensor {
    let machine = Machine::new();
    let ids = tensor(&Path::new(&fixture(fixture_name)).join("expected.safetensors"), &format!("{prefix}input_ids"));
    write_ids(&machine, ids.dtype, &ids.shape, &ids.bytes());
    run(&machine, model, args).ok();
    let logits = tensor(&machine.dir.path().join("out.safetensors"), "logits");
    assert_eq!(logits.shape[..2], ids.shape);
    logits
}

fn assert_close(got: &Tensor, fixture_name: &str, expected: &str) {
    let expected = tensor(&Path::new(&fixture(fixture_name)).join("expected.safetensors"), expected);
    assert_eq!((got.dtype, &got.shape), (DType::F32, &expected.shape));
    let (got, expected) = (got.to_f32().unwrap(), expected.to_f32().unwrap());
    let worst = got.iter().zip(&expected).map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{fixture_name}: {worst}");
}

#[test]
fn logits_are_pytorchs() {
    for name in ["llama", "llama3", "phi3", "phimoe", "gemma2", "solar", "solar-window"].map(|n| format!("models/{n}")) {
        assert_close(&logits(&name, &fixture(&name), "", &[]), &name, "logits");
    }
    assert_close(&logits("gguf/solar", &fixture("gguf/solar/model.gguf"), "", &[]), "gguf/solar", "logits");
}

#[test]
fn longrope_follows_the_length_of_the_sequences() {
    let name = "models/phi3-longrope";
    assert_close(&logits(name, &fixture(name), "", &[]), name, "logits");
    assert_close(&logits(name, &fixture(name), "short.", &[]), name, "short.logits");
    // A context that is asked for holds for short sequences too, as in engines with one cache for all.
    let long = logits(name, &fixture(name), "short.", &["--ctx", "256"]).to_f32().unwrap();
    let forced = logits(name, &fixture(name), "short.", &["--rope-factors", "long"]).to_f32().unwrap();
    assert_eq!(long, forced);
    assert_ne!(long, logits(name, &fixture(name), "short.", &[]).to_f32().unwrap());
}

#[test]
fn windows_can_be_switched_off() {
    for name in ["models/phi3", "models/solar-window"] {
        assert_close(&logits(name, &fixture(name), "", &["--no-window"]), name, "logits.no_window");
    }
}

#[test]
fn the_bits_are_the_same_token_by_token_and_for_any_number_of_threads() {
    for name in ["models/solar", "models/phimoe"] {
        let bits = |args: &[&str]| logits(name, &fixture(name), "", args).bytes().to_vec();
        let whole = bits(&[]);
        assert!(whole == bits(&["--token-by-token"]), "{name}");
        assert!(whole == bits(&["--threads", "3"]), "{name}");
    }
}

/// Attention, experts, caps, and products in every block format.
#[test]
fn the_bits_are_the_same_without_avx2() {
    let machine = Machine::new();
    let gguf = fs::read_dir(fixture("gguf")).unwrap().map(|e| format!("gguf/{}", e.unwrap().file_name().to_str().unwrap()));
    let models = ["llama", "phi3-longrope", "phimoe", "gemma2", "solar-window"].map(|name| format!("models/{name}"));
    for name in gguf.chain(models) {
        let ids = tensor(&Path::new(&fixture(&name)).join("expected.safetensors"), "input_ids");
        write_ids(&machine, ids.dtype, &ids.shape, &ids.bytes());
        let model = fixture(&if name.starts_with("gguf") { format!("{name}/model.gguf") } else { name.clone() });
        let bits = |isa: &str| {
            let args = ["logits", "-q", "-m", &model, "--ids", "ids.safetensors", "--out", "out.safetensors"];
            outcome(machine.sol(&args).env("SOL_ISA", isa).output().unwrap()).ok();
            tensor(&machine.dir.path().join("out.safetensors"), "logits").bytes().to_vec()
        };
        assert!(bits("portable") == bits(""), "{name}");
    }
}

#[test]
fn ids_that_make_no_sense_are_refused_and_nothing_is_written() {
    let model = fixture("models/llama");
    let refused = |write: &dyn Fn(&Machine), words: &[&str]| {
        let machine = Machine::new();
        write(&machine);
        let error = run(&machine, &model, &[]).error();
        for word in words {
            assert!(error.contains(word), "'{word}' is not in: {error}");
        }
        let left = fs::read_dir(machine.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(left.into_iter().all(|name| !name.contains("out.safetensors")), "{words:?}");
    };
    refused(&|_| {}, &["ids.safetensors"]);
    refused(&|m| write_i64(m, &[1, 3], &[1, -2, 3]), &["input_ids[0, 1]", "-2"]);
    refused(&|m| write_i64(m, &[2, 2], &[1, 2, 3, 101]), &["input_ids[1, 1]", "101", "0 to 100"]);
    refused(&|m| write_i64(m, &[1, 2], &[1, 1 << 40]), &["input_ids[0, 1]"]);
    refused(&|m| write_i64(m, &[3], &[1, 2, 3]), &["[B,T]"]);
    refused(&|m| write_i64(m, &[2, 0], &[]), &["no tokens"]);
    refused(&|m| write_i64(m, &[1, 600], &[1; 600]), &["600 tokens", "512"]);
    refused(&|m| write_ids(m, DType::I32, &[1, 1], &[1, 0, 0, 0]), &["I32", "I64"]);
    refused(&|m| fs::write(m.dir.path().join("ids.safetensors"), b"").unwrap(), &["ids.safetensors"]);
    let other = |m: &Machine| {
        safetensors::write(&m.dir.path().join("ids.safetensors"), &[("tokens", DType::I64, &[1, 1], &[0; 8])]).unwrap();
    };
    refused(&other, &["input_ids", "tokens"]);
}

#[test]
fn the_place_for_the_result_is_looked_at_first() {
    let machine = Machine::new();
    write_i64(&machine, &[1, 2], &[1, 2]);
    let model = fixture("models/llama");
    let to = |out: &str| machine.run(&["logits", "-m", &model, "--ids", "ids.safetensors", "--out", out]).error();
    assert!(to("none/out.safetensors").contains("no directory none"));
    assert!(to(".").contains("directory"));
}

#[test]
fn a_result_replaces_an_older_one() {
    let machine = Machine::new();
    write_i64(&machine, &[1, 2], &[1, 2]);
    fs::write(machine.dir.path().join("out.safetensors"), b"old").unwrap();
    let stdout = run(&machine, &fixture("models/llama"), &["--json"]).ok();
    assert_eq!(stdout, "{\"out\":\"out.safetensors\",\"dtype\":\"F32\",\"shape\":[1,2,101]}\n");
    assert_eq!(tensor(&machine.dir.path().join("out.safetensors"), "logits").shape, [1, 2, 101]);
}
