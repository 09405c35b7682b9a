//! LoRA adapters: merged where they belong, refused where they do not.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sol_forge::convert::{Order, SHARD_BYTES};
use sol_weights::gguf::Existing;
use sol_weights::{Checkpoint, DType, safetensors};

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", "models", name].iter().collect()
}

/// Numbers that look random enough.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * 7919 % 1009) as f32 - 504.0) / 2000.0).collect()
}

/// An adapter of these tensors (name after `base_model.model.`, shape; of a vector `[n, 1]`).
fn adapter(dir: &Path, config: Value, tensors: &[(&str, [usize; 2])]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let made: Vec<(String, [usize; 2], Vec<u8>)> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let values = numbers(shape[0] * shape[1], 31 * i);
            (format!("base_model.model.{name}"), *shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect();
    let list: Vec<(&str, DType, &[usize], &[u8])> = made
        .iter()
        .map(|(name, shape, bytes)| {
            (name.as_str(), DType::F32, &shape[..if name.ends_with("vector") { 1 } else { 2 }], &bytes[..])
        })
        .collect();
    safetensors::write(&dir.join("adapter_model.safetensors"), &list).unwrap();
}

fn merge(source: &Path, out: &Path, lora: &Path) -> sol_forge::Result<usize> {
    let lora = [lora.to_owned()];
    let order = Order { source, out, dtype: None, lora: &lora, shard_bytes: SHARD_BYTES };
    let plan = order.plan()?;
    plan.write(Existing::Refuse, 2, &|| false, &mut |_| {})?;
    Ok(plan.merged())
}

fn values(path: &Path, name: &str) -> Vec<f32> {
    Checkpoint::open(path).unwrap().tensor(name).unwrap().to_f32().unwrap()
}

/// `scale * B @ A`
fn product(b: &[f32], a: &[f32], rank: usize, scale: f64) -> Vec<f64> {
    let cols = a.len() / rank;
    let cell = |row: usize, col: usize| -> f64 {
        (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * cols + col])).sum::<f64>() * scale
    };
    (0..b.len() / rank).flat_map(|row| (0..cols).map(move |col| (row, col))).map(|(row, col)| cell(row, col)).collect()
}

fn assert_changed_by(before: &[f32], after: &[f32], delta: &[f64]) {
    assert_eq!((before.len(), after.len()), (delta.len(), delta.len()));
    let worst = before.iter().zip(after).zip(delta).map(|((b, a), d)| (f64::from(*a) - f64::from(*b) - d).abs());
    assert!(worst.fold(0.0, f64::max) < 1e-6);
    assert!(delta.iter().any(|d| d.abs() > 1e-3));
}

const Q: &str = "model.layers.1.self_attn.q_proj";
const DOWN: &str = "model.layers.0.mlp.down_proj";

/// To a directory and to a file, whose queries are interleaved: both are the same model. alpha / r, a pattern, and alpha /
/// sqrt(r).
#[test]
fn deltas_are_added_to_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [
        (&*format!("{Q}.lora_A.weight"), [4, 36]),
        (&*format!("{Q}.lora_B.weight"), [36, 4]),
        (&*format!("{DOWN}.lora_A.weight"), [2, 52]),
        (&*format!("{DOWN}.lora_B.weight"), [36, 2]),
    ];
    let configs = [
        (json!({ "peft_type": "LORA", "lora_alpha": 6, "r": 4 }), [1.5, 3.0]),
        (json!({ "peft_type": "LORA", "lora_alpha": 6, "r": 4, "alpha_pattern": { "down_proj": 1 } }), [1.5, 0.5]),
        (json!({ "peft_type": "LORA", "lora_alpha": 6, "r": 4, "use_rslora": true }), [3.0, 6.0 / 2f64.sqrt()]),
    ];
    for (i, (config, scales)) in configs.into_iter().enumerate() {
        let path = |name: &str| dir.path().join(format!("{i}{name}"));
        adapter(&path("lora"), config, &tensors);
        assert_eq!(merge(&data("llama"), &path("out"), &path("lora")).unwrap(), 2);
        for (n, module, a, b, rank) in [(0, Q, 4 * 36, 36 * 4, 4), (1, DOWN, 2 * 52, 36 * 2, 2)] {
            let name = format!("{module}.weight");
            let delta = product(&numbers(b, 31 * (2 * n + 1)), &numbers(a, 31 * 2 * n), rank, scales[n]);
            assert_changed_by(&values(&data("llama"), &name), &values(&path("out"), &name), &delta);
        }
        let other = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(values(&data("llama"), other), values(&path("out"), other));

        merge(&data("llama"), &path("a.gguf"), &path("lora")).unwrap();
        let order = Order { source: &path("a.gguf"), out: &path("back"), dtype: None, lora: &[], shard_bytes: SHARD_BYTES };
        order.plan().unwrap().write(Existing::Refuse, 1, &|| false, &mut |_| {}).unwrap();
        for module in [Q, DOWN] {
            let name = format!("{module}.weight");
            assert_eq!(values(&path("back"), &name), values(&path("out"), &name));
        }
        // Merged into the file's tensors on their way back.
        merge(&plain_gguf(dir.path()), &path("from-gguf"), &path("lora")).unwrap();
        let name = format!("{Q}.weight");
        assert_eq!(values(&path("from-gguf"), &name), values(&path("out"), &name));
    }
}

/// DoRA: the direction of the row with the delta, the length that the adapter says. In Phi-3's fused rows, too.
#[test]
fn rows_get_the_lengths_of_dora() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = json!({ "peft_type": "LORA", "lora_alpha": 2, "r": 2, "use_dora": true });
    for (model, module, tensor, first, [rows, cols]) in [
        ("llama", Q, format!("{Q}.weight"), 0, [36, 36]),
        ("phi3", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.qkv_proj.weight".into(), 40, [8, 40]),
    ] {
        let names = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map(|name| format!("{module}.{name}"));
        adapter(&path(model), config.clone(), &[(&names[0], [2, cols]), (&names[1], [rows, 2]), (&names[2], [rows, 1])]);
        let out = path(&format!("{model}-out"));
        merge(&data(model), &out, &path(model)).unwrap();
        let delta = product(&numbers(rows * 2, 31), &numbers(2 * cols, 0), 2, 1.0);
        let lengths = numbers(rows, 62);
        let [before, after] = [data(model), out].map(|dir| values(&dir, &tensor)[first * cols..][..rows * cols].to_vec());
        for (row, wanted) in lengths.into_iter().enumerate() {
            let at = row * cols..(row + 1) * cols;
            let sum: Vec<f64> = before[at.clone()].iter().zip(&delta[at.clone()]).map(|(w, d)| f64::from(*w) + d).collect();
            let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            for (expected, found) in sum.iter().zip(&after[at]) {
                assert!((expected * f64::from(wanted) / length - f64::from(*found)).abs() < 1e-6, "{model}");
            }
        }
    }
}

fn plain_gguf(dir: &Path) -> PathBuf {
    let out = dir.join("plain.gguf");
    if !out.exists() {
        let source = data("llama");
        let order = Order { source: &source, out: &out, dtype: None, lora: &[], shard_bytes: SHARD_BYTES };
        order.plan().unwrap().write(Existing::Refuse, 1, &|| false, &mut |_| {}).unwrap();
    }
    out
}

/// An adapter of separate projections for fused ones, and an expert's.
#[test]
fn fused_projections_and_experts_take_their_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = || json!({ "peft_type": "LORA", "lora_alpha": 2, "r": 2 });
    let k = "model.layers.0.self_attn.k_proj";
    adapter(&path("k"), config(), &[(&format!("{k}.lora_A.weight"), [2, 40]), (&format!("{k}.lora_B.weight"), [8, 2])]);
    merge(&data("phi3"), &path("phi3"), &path("k")).unwrap();
    let name = "model.layers.0.self_attn.qkv_proj.weight";
    let (before, after) = (values(&data("phi3"), name), values(&path("phi3"), name));
    // 5 heads of 8 are the queries'.
    let rows = 40 * 40..48 * 40;
    let delta = product(&numbers(16, 31), &numbers(80, 0), 2, 1.0);
    assert_changed_by(&before[rows.clone()], &after[rows.clone()], &delta);
    assert_eq!((&before[..rows.start], &before[rows.end..]), (&after[..rows.start], &after[rows.end..]));

    let expert = "model.layers.1.block_sparse_moe.experts.3.w2";
    adapter(
        &path("w2"),
        config(),
        &[(&format!("{expert}.lora_A.weight"), [2, 6]), (&format!("{expert}.lora_B.weight"), [40, 2])],
    );
    merge(&data("phimoe"), &path("phimoe.gguf"), &path("w2")).unwrap();
    let delta = product(&numbers(80, 31), &numbers(12, 0), 2, 1.0);
    let all = values(&path("phimoe.gguf"), "blk.1.ffn_down_exps.weight");
    assert_changed_by(&values(&data("phimoe"), &format!("{expert}.weight")), &all[3 * 240..4 * 240], &delta);
    let next = "model.layers.1.block_sparse_moe.experts.4.w2.weight";
    assert_eq!(values(&data("phimoe"), next), all[4 * 240..5 * 240]);
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lora = json!({ "peft_type": "LORA", "lora_alpha": 2, "r": 2 });
    let error = |config: &Value, tensors: &[(&str, [usize; 2])]| {
        let path = dir.path().join("lora");
        adapter(&path, config.clone(), tensors);
        let error = merge(&data("llama"), &dir.path().join("out"), &path).unwrap_err().to_string();
        assert!(error.starts_with("LoRA adapter "), "{error}");
        error
    };
    let pair = |module: &str, out: usize, cols: usize| -> [(String, [usize; 2]); 2] {
        [(format!("{module}.lora_A.weight"), [2, cols]), (format!("{module}.lora_B.weight"), [out, 2])]
    };
    let of = |config: &Value, pair: [(String, [usize; 2]); 2]| error(config, &[(&pair[0].0, pair[0].1), (&pair[1].0, pair[1].1)]);
    let e = of(&lora, pair(Q, 48, 36));
    assert!(e.contains("a matrix of 48 x 36") && e.contains("has 36 x 36: it is of another model"), "{e}");
    assert!(of(&lora, pair(Q, 36, 40)).contains("a matrix of 36 x 40"));
    assert!(of(&lora, pair("model.layers.7.self_attn.q_proj", 36, 36)).contains("which the model does not have"));
    assert!(of(&lora, pair("lm_head", 101, 36)).contains("shares with its embedding table"));
    assert!(error(&lora, &[(&pair(Q, 36, 36)[0].0, [2, 36])]).contains("has only one of lora_A and lora_B"));
    assert!(error(&lora, &[("model.extra.weight", [2, 36])]).contains("the model has no tensor `model.extra.weight`"));
    assert!(error(&lora, &[("model.embed_tokens.weight", [103, 36])]).contains("[103, 36], the model's has [101, 36]"));
    let dora = json!({ "peft_type": "LORA", "lora_alpha": 2, "use_dora": true });
    assert!(of(&dora, pair(Q, 36, 36)).contains("has no lora_magnitude_vector, which use_dora asks for"));
    let [(a, a_shape), (b, b_shape)] = pair(Q, 36, 36);
    let lengths = format!("{Q}.lora_magnitude_vector");
    let e = error(&dora, &[(&a, a_shape), (&b, b_shape), (&lengths, [35, 1])]);
    assert!(e.contains("has the shape [35]; 36 lengths are needed"), "{e}");
    assert!(error(&lora, &[(&a, a_shape), (&b, b_shape), (&lengths, [36, 1])]).contains("a kind of LoRA that is not supported"));
    let table = ["A", "B"].map(|which| format!("model.embed_tokens.lora_embedding_{which}"));
    assert!(error(&dora, &[(&table[0], [2, 101]), (&table[1], [36, 2])]).contains("DoRA (use_dora) on the embedding table"));
    assert!(of(&json!({ "peft_type": "IA3" }), pair(Q, 36, 36)).contains("only LORA can be merged"));
    let pattern = json!({ "peft_type": "LORA", "lora_alpha": 2, "alpha_pattern": { "v_.*": 3 } });
    assert!(of(&pattern, pair(Q, 36, 36)).contains("alpha_pattern `v_.*`"));
    fs::remove_file(dir.path().join("lora/adapter_model.safetensors")).unwrap();
    let e = merge(&data("llama"), &dir.path().join("out"), &dir.path().join("lora")).unwrap_err().to_string();
    assert!(e.contains("no adapter_model.safetensors"), "{e}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// The adapter is not replaced by what it is merged into, nor a directory that it is in.
#[test]
fn an_adapter_is_spared() {
    let dir = tempfile::tempdir().unwrap();
    let lora = dir.path().join("run/adapter");
    let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
    adapter(&lora, json!({ "peft_type": "LORA", "lora_alpha": 8 }), &[(&*a, [4, 36]), (&*b, [36, 4])]);
    for out in [&lora, &dir.path().join("run")] {
        let refused = merge(&data("llama"), out, &lora);
        assert!(matches!(refused, Err(sol_forge::Error::OverBase { .. })), "{refused:?}");
    }
}

/// Tensors that an adapter brings whole are read while the result is written: they may not change meanwhile.
#[test]
fn an_adapter_that_changes_makes_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let (lora, out) = (dir.path().join("adapter"), dir.path().join("out"));
    let whole = "model.layers.1.mlp.up_proj.modules_to_save.weight";
    let name = whole.replace("modules_to_save.", "");
    let shape = Checkpoint::open(&data("llama")).unwrap().tensor(&name).map(|tensor| tensor.shape.clone());
    let [rows, cols] = shape.unwrap()[..] else { panic!() };
    adapter(&lora, json!({ "peft_type": "LORA", "lora_alpha": 8 }), &[(whole, [rows, cols])]);
    let adapters = [lora.clone()];
    let order = Order { source: &data("llama"), out: &out, dtype: None, lora: &adapters, shard_bytes: SHARD_BYTES };
    let plan = order.plan().unwrap();
    fs::OpenOptions::new().write(true).open(lora.join("adapter_model.safetensors")).unwrap().set_len(500).unwrap();
    let error = plan.write(Existing::Refuse, 2, &|| false, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: the file changed while it was in use") && !out.exists(), "{error}");
}
