//! `sol convert`: what comes out runs as what went in; what can not be is refused and leaves nothing.

use std::fs;

use serde_json::Value;

use crate::support::{Machine, fixture};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// All but what a machine has from the start.
fn made(machine: &Machine) -> Vec<String> {
    let names = fs::read_dir(machine.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains("out") || name.contains("gguf")).collect();
    names.sort();
    names
}

/// Conversations are answered by the file, and by the directory that is made of it, with the very tokens of the source.
#[test]
fn converted_models_answer_as_the_source() {
    for model in ["chat-tiny", "solar-tiny"] {
        let machine = Machine::new();
        let source = fixture(model);
        let report = json(&machine.run(&["convert", "-m", &source, "-o", "a.gguf", "--json"]).ok());
        assert_eq!((&report["format"], &report["notes"]), (&"gguf".into(), &Value::Array(vec![])));
        let line = machine.run(&["convert", "-m", "a.gguf", "-o", "out"]).ok();
        assert!(line.starts_with("out: a Hugging Face directory, "), "{line}");
        let cases = json(&fs::read_to_string(format!("{source}/chat.json")).unwrap());
        let single = |case: &&Value| case["messages"].as_array().unwrap().len() == 1;
        for case in cases["cases"].as_array().unwrap().iter().filter(single) {
            for made in ["a.gguf", "out"] {
                let question = case["messages"][0]["content"].as_str().unwrap();
                let answer = json(&machine.run(&["run", "-m", made, "-n", "32", "--json", question]).ok());
                let ids = answer["ids"].as_array().unwrap();
                assert_eq!(ids[..], case["greedy_ids"].as_array().unwrap()[..ids.len()], "{model} as {made}");
                assert_eq!(answer["prompt_tokens"], case["prompt_ids"].as_array().unwrap().len(), "{model} as {made}");
            }
        }
    }
}

/// The logits of every tiny model: the same bits where rows keep their order, the last digits apart where GGUF has the
/// halves of heads
/// interleaved, and the same bits again from the way back.
#[test]
fn converted_models_compute_the_same() {
    let machine = Machine::new();
    for model in ["gemma2", "llama", "llama3", "phi3", "phi3-longrope", "phimoe", "solar", "solar-window"] {
        let source = fixture(&format!("models/{model}"));
        let ids = format!("{source}/expected.safetensors");
        machine.run(&["convert", "-q", "-m", &source, "-o", "a.gguf", "--force"]).ok();
        machine.run(&["convert", "-q", "-m", "a.gguf", "-o", "out", "--force"]).ok();
        let logits = [&source, "a.gguf", "out"].map(|m| {
            machine.run(&["logits", "-m", m, "--ids", &ids, "--out", "logits.safetensors"]).ok();
            let bytes = fs::read(machine.dir.path().join("logits.safetensors")).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let data = tensors.tensor("logits").unwrap().data().to_vec();
            data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>()
        });
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let interleaved = model.starts_with("llama") || model.starts_with("solar");
        let file = worst(&logits[0], &logits[1]);
        assert!(file <= if interleaved { 1e-4 } else { 0.0 }, "{model}: {file}");
        let back = worst(&logits[0], &logits[2]);
        // Llama 3's divisors say what the config said to the last digits of a frequency only.
        assert!(back <= if model == "llama3" { 1e-4 } else { 0.0 }, "{model}: {back}");
    }
}

#[test]
fn what_is_there_is_replaced_only_by_force() {
    let machine = Machine::new();
    let source = fixture("models/llama");
    let path = |name: &str| machine.dir.path().join(name);
    fs::write(path("a.gguf"), "mine").unwrap();
    let error = machine.run(&["convert", "-q", "-m", &source, "-o", "a.gguf"]).error();
    assert!(error.contains("a.gguf is there already and is not overwritten; --force replaces it"), "{error}");
    assert_eq!(fs::read(path("a.gguf")).unwrap(), b"mine");
    machine.run(&["convert", "-m", &source, "-o", "a.gguf", "--force"]).ok();

    machine.run(&["convert", "-m", "a.gguf", "-o", "out"]).ok();
    fs::write(path("out/mine.txt"), "mine").unwrap();
    let error = machine.run(&["convert", "-q", "-m", "a.gguf", "-o", "out"]).error();
    assert!(error.contains("out is there already and is not overwritten; --force replaces it"), "{error}");
    machine.run(&["convert", "-m", "a.gguf", "-o", "out", "--force"]).ok();
    assert!(path("out/config.json").exists() && !path("out/mine.txt").exists());

    // Never a directory that is something else.
    fs::create_dir(path("out2")).unwrap();
    fs::write(path("out2/thesis.txt"), "mine").unwrap();
    let error = machine.run(&["convert", "-q", "-m", "a.gguf", "-o", "out2", "--force"]).error();
    assert!(error.contains("does not look like a checkpoint (it has no config.json)"), "{error}");
    fs::create_dir_all(path("out3/work")).unwrap();
    fs::write(path("out3/config.json"), "{}").unwrap();
    let error = machine.run(&["convert", "-q", "-m", "a.gguf", "-o", "out3", "--force"]).error();
    assert!(error.contains("it holds a directory, work"), "{error}");
    let error = machine.run(&["convert", "-q", "-m", "a.gguf", "-o", ".", "--force"]).error();
    assert!(error.contains(". is, or holds, what the result is made of"), "{error}");
    assert!(path("out2/thesis.txt").exists() && path("out3/work").exists());
    assert_eq!(made(&machine), ["a.gguf", "out", "out2", "out3"]);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let machine = Machine::new();
    let (hf, gguf) = (fixture("models/llama"), fixture("gguf/llama-q4_0/model.gguf"));
    let error = |args: &[&str]| machine.run(&[&["convert", "-q"], args].concat()).error();
    let e = error(&["-m", &gguf, "-o", "out.gguf"]);
    assert!(e.contains("is a GGUF file already; `sol quantize` changes its types"), "{e}");
    let e = error(&["-m", &hf, "-o", "out"]);
    assert!(e.contains("is in the Hugging Face format already; name an output that ends in .gguf"), "{e}");
    let e = error(&["-m", &gguf, "-o", "out"]);
    assert!(e.contains("is stored as Q4_0, which the output can not hold: say --type f32, f16 or bf16"), "{e}");
    let e = error(&["-m", &gguf, "-o", "out", "--type", "q8_0"]);
    assert!(e.contains("a Hugging Face directory can not hold Q8_0"), "{e}");
    let e = error(&["-m", &hf, "-o", "nowhere/out.gguf"]);
    assert!(e.contains("can not write nowhere/out.gguf"), "{e}");
    let e = error(&["-m", &gguf, "-o", "nowhere/out", "--type", "f16"]);
    assert!(e.contains("can not write nowhere/out"), "{e}");
    let e = error(&["-m", &hf, "-o", "out.gguf", "--lora", "nowhere"]);
    assert!(e.contains("LoRA adapter nowhere/adapter_config.json: can not be read"), "{e}");
    let outcome = machine.run(&["convert", "-m", &hf, "-o", "out.gguf", "--type", "q4_k"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("known are f32, f16, bf16, q8_0; `sol quantize` makes others"), "{}", outcome.stderr);
    assert_eq!(made(&machine), [""; 0]);
}
