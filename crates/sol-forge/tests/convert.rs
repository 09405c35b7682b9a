//! Conversions of the tiny checkpoints: the same bytes after a round trip, the same model to every reader.

use std::fs;
use std::path::{Path, PathBuf};

use sol_forge::convert::{Order, SHARD_BYTES};
use sol_weights::gguf::Existing;
use sol_weights::{Checkpoint, DType};

const MODELS: [&str; 8] = ["gemma2", "llama", "llama3", "phi3", "phi3-longrope", "phimoe", "solar", "solar-window"];

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", name].iter().collect()
}

fn convert(source: &Path, out: &Path, dtype: Option<DType>) -> sol_forge::Result<()> {
    let order = Order { source, out, dtype, lora: &[], shard_bytes: SHARD_BYTES };
    order.plan()?.write(Existing::Refuse, 2, &|| false, &mut |_| {})
}

/// Name, type and bytes of all tensors, by name.
fn tensors(path: &Path) -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut tensors: Vec<_> =
        checkpoint.tensors().map(|t| (t.name.clone(), t.dtype, t.shape.clone(), t.bytes().to_vec())).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// HF to GGUF to HF in three types. A Gemma norm in F32 loses the digits that 1 + w has no room for, and is the same norm.
#[test]
fn a_round_trip_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (model, dtype) in MODELS.iter().flat_map(|m| [DType::F32, DType::F16, DType::BF16].map(|t| (m, t))) {
        let path = |what: &str| dir.path().join(format!("{model}-{dtype}-{what}"));
        let mut source = data("models").join(model);
        if dtype != DType::F32 {
            convert(&source, &path("source"), Some(dtype)).unwrap();
            source = path("source");
        }
        convert(&source, &path("a.gguf"), None).unwrap();
        convert(&path("a.gguf"), &path("back"), None).unwrap();
        let (before, after) = (tensors(&source), tensors(&path("back")));
        assert_eq!(before.len(), after.len(), "{model} {dtype}");
        for (a, b) in before.iter().zip(&after) {
            assert_eq!((&a.0, a.1, &a.2), (&b.0, b.1, &b.2), "{model}");
            if *model == "gemma2" && a.0.contains("norm") && dtype == DType::F32 {
                assert!(floats(&a.3).iter().zip(floats(&b.3)).all(|(a, b)| a + 1.0 == b + 1.0), "{}", a.0);
            } else {
                assert!(a.3 == b.3, "{model} {dtype}: {}", a.0);
            }
        }
        // Once more through GGUF: the very same file.
        convert(&path("back"), &path("b.gguf"), None).unwrap();
        assert_eq!(tensors(&path("a.gguf")), tensors(&path("b.gguf")), "{model}");
        fs::remove_dir_all(path("back")).unwrap();
    }
}

/// The files that the `gguf` package wrote of the same tensors have the same bytes.
#[test]
fn files_are_as_the_gguf_package_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["llama", "llama3", "phi3", "phi3-longrope", "solar", "gemma2", "phimoe"] {
        let out = dir.path().join(format!("{model}.gguf"));
        convert(&data("models").join(model), &out, None).unwrap();
        let (ours, theirs) = (tensors(&out), tensors(&data("gguf").join(model).join("model.gguf")));
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(&theirs) {
            assert_eq!((&a.0, a.1, &a.2), (&b.0, b.1, &b.2), "{model}");
            // Numbers of the config may differ in the last bit; those two have other weights than the directory.
            let near = floats(&a.3).iter().zip(floats(&b.3)).all(|(x, y)| (x - y).abs() <= 1e-6 * x.abs());
            let other = ["gemma2", "phimoe"].contains(&model);
            assert!(
                a.3 == b.3 || other || (near && ["rope_freqs.weight", "bskcn_tv.weight"].contains(&&*a.0)),
                "{model}: {}",
                a.0
            );
        }
    }
}

/// A GGUF file whose projections are apart becomes Phi-3's fused ones: the same tensors as of the file where they are fused.
#[test]
fn separate_projections_become_fused_ones() {
    let dir = tempfile::tempdir().unwrap();
    let [fused, apart] = ["phi3", "phi3-split"].map(|name| {
        let out = dir.path().join(name);
        convert(&data("gguf").join(name).join("model.gguf"), &out, None).unwrap();
        tensors(&out)
    });
    assert_eq!(fused, apart);
    assert_eq!(fused, tensors(&data("models/phi3")));
}

/// Every type of block is decoded where a float is asked for, and only there.
#[test]
fn blocks_are_decoded_only_when_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama-q4_0", "llama-q8_0", "llama-q6_k", "llama-iq4_xs"] {
        let source = data("gguf").join(name).join("model.gguf");
        let error = convert(&source, &dir.path().join("x"), None).unwrap_err().to_string();
        assert!(error.contains("say --type f32, f16 or bf16"), "{error}");
        let out = dir.path().join(name);
        convert(&source, &out, Some(DType::F32)).unwrap();
        let (file, made) = (Checkpoint::open(&source).unwrap(), Checkpoint::open(&out).unwrap());
        let down = |c: &Checkpoint, name: &str| c.tensor(name).unwrap().to_f32().unwrap();
        assert_eq!(down(&file, "blk.0.ffn_down.weight"), down(&made, "model.layers.0.mlp.down_proj.weight"));
        assert_eq!(down(&file, "output_norm.weight"), down(&made, "model.norm.weight"));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn q8_0_is_as_near_as_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.gguf");
    convert(&data("chat-tiny"), &out, Some(DType::Q8_0)).unwrap();
    let (made, source) = (Checkpoint::open(&out).unwrap(), Checkpoint::open(&data("chat-tiny")).unwrap());
    let made = made.tensor("blk.0.ffn_down.weight").unwrap();
    assert_eq!(made.dtype, DType::Q8_0);
    let source = source.tensor("model.layers.0.mlp.down_proj.weight").unwrap().to_f32().unwrap();
    for (a, b) in source.chunks(32).zip(made.to_f32().unwrap().chunks(32)) {
        let step = a.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 0.5 * step + 127.0 * step * 5e-4));
    }
}

/// Several files with an index, each no larger than asked for; the same tensors again.
#[test]
fn large_directories_are_sharded() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a.gguf"), dir.path().join("out"));
    convert(&data("models/solar"), &file, None).unwrap();
    let order = Order { source: &file, out: &out, dtype: None, lora: &[], shard_bytes: 50_000 };
    order.plan().unwrap().write(Existing::Refuse, 1, &|| false, &mut |_| {}).unwrap();
    assert_eq!(tensors(&out), tensors(&data("models/solar")));
    let shards = fs::read_dir(&out).unwrap().map(|e| e.unwrap()).filter(|e| e.path().extension().unwrap() == "safetensors");
    let sizes: Vec<u64> = shards.map(|e| e.metadata().unwrap().len()).collect();
    assert!(sizes.len() > 3 && sizes.iter().all(|size| *size < 60_000), "{sizes:?}");
}

#[test]
fn what_would_be_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let source = dir.path().join(format!("{name}-source"));
        fs::create_dir_all(&source).unwrap();
        fs::copy(data("models").join(name).join("model.safetensors"), source.join("model.safetensors")).unwrap();
        let text = fs::read_to_string(data("models").join(name).join("config.json")).unwrap();
        let mut config = serde_json::from_str(&text).unwrap();
        change(&mut config);
        fs::write(source.join("config.json"), config.to_string()).unwrap();
        convert(&source, &dir.path().join("a.gguf"), None).unwrap_err().to_string()
    };
    let error = changed("gemma2", &|c| c["attn_logit_softcapping"] = serde_json::Value::Null);
    assert!(error.contains("layer 0's attention") && error.contains("another model"), "{error}");
    let error = changed("gemma2", &|c| {
        let full = serde_json::json!("full_attention");
        c["layer_types"] = serde_json::json!([full, "sliding_attention", full, full]);
    });
    assert!(error.contains("layer 0's attention"), "{error}");
    let error = changed("llama", &|c| c["hidden_act"] = "gelu_pytorch_tanh".into());
    assert!(error.contains("layer 0's feed-forward"), "{error}");
    let error = changed("llama", &|c| c["num_hidden_layers"] = 2.into());
    assert!(error.contains("`model.layers.2.") && error.contains("no place"), "{error}");
    let error = changed("llama", &|c| c["num_hidden_layers"] = 4.into());
    assert!(error.contains("tensor `model.layers.3.input_layernorm.weight` is missing"), "{error}");
    let error = changed("llama", &|c| c["vocab_size"] = 102.into());
    assert!(error.contains("`model.embed_tokens.weight` has the shape [101, 36], the config asks for [102, 36]"), "{error}");
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
}

#[test]
fn a_source_that_changes_makes_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data("models/llama").join(file), source.join(file)).unwrap();
    }
    for out in ["a.gguf", "b"] {
        let out = dir.path().join(out);
        let order = Order { source: &source, out: &out, dtype: Some(DType::F16), lora: &[], shard_bytes: SHARD_BYTES };
        let plan = order.plan().unwrap();
        let mut calls = 0;
        let result = plan.write(Existing::Refuse, 1, &|| false, &mut |_| {
            calls += 1;
            if calls == 3 {
                let path = source.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                bytes[5000] ^= 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
                fs::write(&path, bytes).unwrap();
            }
        });
        let error = result.unwrap_err().to_string();
        assert!(error.contains("the file changed while it was in use"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// What the card, the configs and the directory's name say, as llama.cpp's converter writes it.
#[test]
fn a_file_says_what_the_card_says() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tiny-llama-1k-instruct-v1.5");
    fs::create_dir(&source).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data("models/llama").join(file), source.join(file)).unwrap();
    }
    let card = "---\nlicense: other\nlicense_name: mine\nlanguage:\n- en\n- no\ntags:\n- a\n- b\npipeline_tag: text-generation\n\
                base_model: microsoft/Phi-3-medium-4k-instruct\ndatasets: [https://huggingface.co/datasets/x]\n---\n# Tiny\n";
    fs::write(source.join("README.md"), card).unwrap();
    let generation = r#"{ "temperature": 0.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1, "do_sample": true }"#;
    fs::write(source.join("generation_config.json"), generation).unwrap();
    let out = dir.path().join("a.gguf");
    convert(&source, &out, None).unwrap();
    let checkpoint = Checkpoint::open(&out).unwrap();
    let sol_weights::Metadata::Gguf(meta) = checkpoint.metadata() else { panic!() };
    for (key, expected) in [
        ("name", "Tiny Llama 1k Instruct v1.5"),
        ("basename", "tiny-llama"),
        ("finetune", "1k-instruct"),
        ("version", "v1.5"),
        ("license", "other"),
        ("license.name", "mine"),
        ("base_model.0.name", "Phi 3 Medium 4k Instruct"),
        ("base_model.0.organization", "Microsoft"),
        ("base_model.0.repo_url", "https://huggingface.co/microsoft/Phi-3-medium-4k-instruct"),
        ("dataset.0.repo_url", "https://huggingface.co/datasets/x"),
    ] {
        assert_eq!(meta.str(&format!("general.{key}")), Some(expected), "{key}");
    }
    assert_eq!(meta.strings("general.tags").unwrap(), ["a", "b", "text-generation"]);
    assert_eq!(meta.strings("general.languages").unwrap(), ["en", "no"]);
    assert_eq!(meta.u64("general.base_model.count"), Some(1));
    let number = |key: &str| meta.get(&format!("general.sampling.{key}")).map(ToString::to_string);
    assert_eq!((number("temp"), number("top_k")), (Some("0.5".into()), Some("40".into())));
    assert_eq!((number("top_p"), number("penalty_repeat")), (Some("0.9".into()), Some("1.1".into())));

    // What is no YAML costs the card, not the conversion.
    fs::write(source.join("README.md"), "---\nlicense: [\n---\n").unwrap();
    let order = Order { source: &source, out: &dir.path().join("b.gguf"), dtype: None, lora: &[], shard_bytes: SHARD_BYTES };
    assert!(order.plan().unwrap().notes().iter().any(|note| note.contains("front matter")));
}
