//! Up-scaled checkpoints, tensor by tensor, and what is left of runs that ended early.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use sol_forge::Error;
use sol_forge::upscale::{Base, Order, Plan, Recipe, Report};
use sol_weights::gguf::Existing;
use sol_weights::{Checkpoint, DType, Tensor, safetensors};

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", name].iter().collect()
}

fn order<'a>(base: &'a Base, plan: &'a Plan) -> Order<'a> {
    Order { base, base_name: "base", plan, float: None, shard_bytes: 5_000_000_000 }
}

fn write(order: Order<'_>, out: &Path) -> Report {
    order.job().unwrap().write(out, Existing::Refuse, &|| false, &mut |_| {}).unwrap()
}

fn tensor<'a>(checkpoint: &'a Checkpoint, name: &str) -> &'a Tensor {
    checkpoint.tensor(name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn layers_are_copied_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::open(&fixture("models/llama")).unwrap();
    let plan = Recipe::Dus { drop: Some(1) }.plan(3).unwrap();
    let report = write(order(&base, &plan), &dir.path().join("a"));
    assert_eq!((report.copied, report.files), (report.tensors, 1));
    let result = Checkpoint::open(&dir.path().join("a")).unwrap();
    assert_eq!(result.tensors().len(), report.tensors);
    for tensor_of_result in result.tensors() {
        let source = match tensor_of_result.name.strip_prefix("model.layers.") {
            None => tensor_of_result.name.clone(),
            Some(rest) => {
                let (layer, rest) = rest.split_once('.').unwrap();
                format!("model.layers.{}.{rest}", [0, 1, 1, 2][layer.parse::<usize>().unwrap()])
            }
        };
        let source = tensor(base.checkpoint(), &source);
        assert_eq!((source.dtype, &source.shape), (tensor_of_result.dtype, &tensor_of_result.shape));
        assert_eq!(source.bytes()[..], tensor_of_result.bytes()[..]);
    }
    report.check(&dir.path().join("a"), &|| false, &mut |_| {}).unwrap();
    // One bit of a weight.
    let path = dir.path().join("a/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = report.check(&dir.path().join("a"), &|| false, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("its BLAKE3 differs"), "{error}");
}

/// Output projections times the factor, everything else as it is; in Gemma 2 the norms behind them, which would undo it.
#[test]
fn factors_are_on_what_a_layer_adds() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = |layers| Recipe::Interleave { layers: Some(layers), block: 1, scale: Some(0.25) };
    for (fixture_name, scaled, factor_of) in [
        ("models/llama", ["self_attn.o_proj.weight", "mlp.down_proj.weight"], 0.0),
        ("models/phimoe", ["self_attn.o_proj.bias", "block_sparse_moe.experts.1.w2.weight"], 0.0),
        ("models/gemma2", ["post_attention_layernorm.weight", "post_feedforward_layernorm.weight"], 1.0),
    ] {
        let base = Base::open(&fixture(fixture_name)).unwrap();
        let layers = base.layers();
        let plan = recipe(2 * layers).plan(layers).unwrap();
        let out = dir.path().join(fixture_name.replace('/', "-"));
        write(order(&base, &plan), &out);
        let result = Checkpoint::open(&out).unwrap();
        for name in scaled {
            let before = tensor(base.checkpoint(), &format!("model.layers.1.{name}")).to_f32().unwrap();
            let after = tensor(&result, &format!("model.layers.3.{name}")).to_f32().unwrap();
            for (x, y) in before.iter().zip(&after) {
                assert_eq!(0.25 * (x + factor_of) - factor_of, *y, "{fixture_name} {name}");
            }
        }
        let norm =
            |checkpoint, layer| tensor(checkpoint, &format!("model.layers.{layer}.input_layernorm.weight")).to_f32().unwrap();
        assert_eq!(norm(base.checkpoint(), 1), norm(&result, 3));
    }
}

/// In a Phi-3 that stays one, a factor on values is on a third of a tensor.
#[test]
fn a_part_of_a_fused_projection_is_scaled() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::open(&fixture("models/phi3")).unwrap();
    let text = "slices = [{ layers = [0, 2] }, { layers = [1, 2], scale = { v_proj = 2.0 } }]";
    let plan = sol_forge::upscale::toml::read(text, "r.toml", 2).unwrap();
    write(order(&base, &plan), &dir.path().join("a"));
    let result = Checkpoint::open(&dir.path().join("a")).unwrap();
    let name = |layer: usize| format!("model.layers.{layer}.self_attn.qkv_proj.weight");
    let [before, after] = [tensor(base.checkpoint(), &name(1)), tensor(&result, &name(2))].map(|tensor| tensor.to_f32().unwrap());
    // 5 heads of 8 for queries, 1 for keys, 1 for values; rows of 40.
    let values = 6 * 8 * 40;
    assert_eq!(before[..values], after[..values]);
    assert!(before[values..].iter().zip(&after[values..]).all(|(x, y)| 2.0 * x == *y));
}

/// Blocks are copied where nothing is multiplied; zeros are zeros in every format.
#[test]
fn quantised_blocks_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"] {
        let base = Base::open(&fixture(&format!("gguf/llama-{kind}/model.gguf"))).unwrap();
        let layers = base.layers();
        let out = dir.path().join(format!("{kind}.gguf"));
        let plan = Recipe::Identity { layers: Some(2 * layers) }.plan(layers).unwrap();
        write(order(&base, &plan), &out);
        let result = Checkpoint::open(&out).unwrap();
        for part in ["attn_output", "ffn_down"] {
            let name = |layer: usize| format!("blk.{layer}.{part}.weight");
            assert_eq!(tensor(base.checkpoint(), &name(0)).bytes()[..], tensor(&result, &name(0)).bytes()[..]);
            assert!(tensor(&result, &name(1)).to_f32().unwrap().iter().all(|value| *value == 0.0), "{kind}");
        }
        let halved = Recipe::Interleave { layers: None, block: 1, scale: None }.plan(layers).unwrap();
        assert!(matches!(order(&base, &halved).job(), Err(Error::Quantized { .. })));
        let as_floats = Order { float: Some(DType::F16), ..order(&base, &halved) };
        let out = dir.path().join(format!("{kind}-f16.gguf"));
        write(as_floats, &out);
        let result = Checkpoint::open(&out).unwrap();
        assert_eq!(tensor(&result, "blk.0.attn_q.weight").dtype, DType::F16);
        assert_eq!(tensor(&result, "blk.0.attn_norm.weight").dtype, DType::F32);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_that_was_stopped_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a");
    let base = Base::open(&fixture("models/llama")).unwrap();
    let plan = Recipe::Dus { drop: Some(1) }.plan(3).unwrap();
    let order = Order { shard_bytes: 30_000, ..order(&base, &plan) };
    let job = order.job().unwrap();
    let whole = job.write(&dir.path().join("whole"), Existing::Refuse, &|| false, &mut |_| {}).unwrap();
    assert!(whole.files > 3, "{}", whole.files);

    let written = Cell::new(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = job.write(&out, Existing::Refuse, &|| stop.load(std::sync::atomic::Ordering::Relaxed), &mut |bytes| {
        written.set(bytes);
        stop.store(bytes > 100_000, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert!(!out.exists() && Checkpoint::open(&dir.path().join(".a.unfinished")).is_err());

    // Another order has no use for it, nor has one without a single finished file anything to leave.
    let first = written.get();
    let resumed = job.write(&out, Existing::Refuse, &|| false, &mut |bytes| written.set(bytes)).unwrap();
    assert!(resumed.reused > 0 && resumed.reused < whole.files && first < written.get());
    assert_eq!(names(&out), names(&dir.path().join("whole")));
    for name in names(&out) {
        assert!(fs::read(out.join(&name)).unwrap() == fs::read(dir.path().join("whole").join(&name)).unwrap(), "{name}");
    }
    resumed.check(&out, &|| false, &mut |_| {}).unwrap();

    let stopped = job.write(&dir.path().join("b"), Existing::Refuse, &|| true, &mut |_| {});
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(names(dir.path()), ["a", "whole"]);
}

#[test]
fn a_base_that_changes_meanwhile_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("base");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("models/llama").join(name), copy.join(name)).unwrap();
    }
    let base = Base::open(&copy).unwrap();
    let plan = Recipe::Stack { times: 2 }.plan(3).unwrap();
    let mut once = true;
    let result = order(&base, &plan).job().unwrap().write(&dir.path().join("a"), Existing::Refuse, &|| false, &mut |_| {
        if std::mem::take(&mut once) {
            let file = fs::OpenOptions::new().append(true).open(copy.join("model.safetensors")).unwrap();
            file.set_len(200_000).unwrap();
        }
    });
    assert!(matches!(result, Err(Error::Weights(sol_weights::Error::ChangedInUse { .. }))), "{result:?}");
    assert_eq!(names(dir.path()), ["base"]);
}

/// All tensors by name: type, shape, bytes.
fn contents(path: &Path) -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut all: Vec<_> = checkpoint.tensors().map(|t| (t.name.clone(), t.dtype, t.shape.clone(), t.bytes().to_vec())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// A base of the other format gives what the same base in the result's format gives, to the bit: queries turned or not, norms
/// with 1 more or not, experts stacked or not, Phi-3's projections split in both.
#[test]
fn a_base_may_be_of_the_other_format() {
    let dir = tempfile::tempdir().unwrap();
    let skips = "skips = [[1, 2]]\n[[slices]]\nlayers = [0, 2]\n[[slices]]\nlayers = [1, 2]\n";
    for (model, recipe) in
        [("llama", "stack"), ("llama3", skips), ("phi3", "stack"), ("phi3", skips), ("phimoe", "stack"), ("gemma2", "stack")]
    {
        let path = |what: &str| dir.path().join(format!("{model}{}{what}", recipe.len()));
        let (hf, gguf) = (fixture("models").join(model), path("base.gguf"));
        let order = sol_forge::convert::Order { source: &hf, out: &gguf, dtype: None, lora: &[], shard_bytes: u64::MAX };
        order.plan().unwrap().write(Existing::Refuse, 1, &|| false, &mut |_| {}).unwrap();
        let up = |source: &Path, out: &Path| {
            let base = Base::open_for(source, out, None).unwrap();
            let plan = match recipe {
                "stack" => Recipe::Stack { times: 2 }.plan(base.layers()).unwrap(),
                text => sol_forge::upscale::toml::read(text, "r.toml", base.layers()).unwrap(),
            };
            let report = write(Order { base: &base, base_name: "base", plan: &plan, float: None, shard_bytes: 20_000 }, out);
            report.check(out, &|| false, &mut |_| {}).unwrap();
            assert!(report.sources.iter().all(|file| source.join(&file.name).exists() || source.ends_with(&file.name)));
        };
        let [a, b, c, d] = ["a", "b", "c.gguf", "d.gguf"].map(path);
        up(&hf, &a);
        up(&gguf, &b);
        // A Gemma norm of the file has 1 more, for which it gave up its last digits.
        let but_norms = |path: &Path| {
            let mut all = contents(path);
            all.retain(|(name, ..)| model != "gemma2" || !name.contains("norm"));
            all
        };
        assert!(but_norms(&a) == but_norms(&b), "{model} to a directory");
        up(&hf, &c);
        up(&gguf, &d);
        assert!(contents(&c) == contents(&d), "{model} to a file");
    }
}

/// Blocks are decoded on the way where a float is asked for, else refused.
#[test]
fn a_quantised_base_becomes_a_directory_of_floats() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("gguf/llama-q4_k/model.gguf"), dir.path().join("a"));
    let error = Base::open_for(&source, &out, None).unwrap_err().to_string();
    assert!(error.contains("is stored as Q4_K") && error.contains("--type f32, f16 or bf16"), "{error}");
    let base = Base::open_for(&source, &out, Some(DType::F32)).unwrap();
    let plan = Recipe::Identity { layers: Some(2 * base.layers()) }.plan(base.layers()).unwrap();
    write(Order { float: Some(DType::F32), ..order(&base, &plan) }, &out);
    let (before, after) = (Checkpoint::open(&source).unwrap(), Checkpoint::open(&out).unwrap());
    let [before, after] = [tensor(&before, "blk.0.ffn_down.weight"), tensor(&after, "model.layers.0.mlp.down_proj.weight")];
    assert_eq!(before.to_f32().unwrap(), after.to_f32().unwrap());
    assert_eq!(names(dir.path()), ["a"]);
}

/// A directory with its own base in it is not replaced, not even where that is asked for.
#[test]
fn a_result_does_not_take_the_place_of_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.gguf");
    fs::copy(fixture("gguf/llama/model.gguf"), &source).unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let base = Base::open_for(&source, dir.path(), None).unwrap();
    let plan = Recipe::Stack { times: 2 }.plan(base.layers()).unwrap();
    let result = order(&base, &plan).job().unwrap().write(dir.path(), Existing::Replace, &|| false, &mut |_| {});
    assert!(matches!(result, Err(Error::OverBase { .. })));
    let order = sol_forge::convert::Order { source: &source, out: dir.path(), dtype: None, lora: &[], shard_bytes: u64::MAX };
    assert!(matches!(order.plan(), Err(Error::OverBase { .. })));
    assert_eq!(names(dir.path()), ["config.json", "model.gguf"]);
}

/// A Phi-3 with F8 weights, the scales of which have this shape.
fn f8_phi3(dir: &Path, scale: &[usize], scales_of_qkv: usize) {
    fs::create_dir(dir).unwrap();
    fs::copy(fixture("models/phi3/config.json"), dir.join("config.json")).unwrap();
    let from = Checkpoint::open(&fixture("models/phi3")).unwrap();
    let mut tensors = Vec::new();
    for (at, tensor) in from.tensors().enumerate() {
        if !tensor.name.ends_with("proj.weight") {
            tensors.push((tensor.name.clone(), tensor.dtype, tensor.shape.clone(), tensor.bytes().to_vec()));
            continue;
        }
        let weights = (0..tensor.elements()).map(|i| (i * 37 % 120) as u8).collect();
        tensors.push((tensor.name.clone(), DType::F8E4M3, tensor.shape.clone(), weights));
        let is_qkv = tensor.name.contains("qkv");
        let (shape, count) = if is_qkv { (scale, scales_of_qkv) } else { (&[1][..], 1) };
        let numbers: Vec<u8> = (0..count).flat_map(|i| ((at + i) as f32 / 7.0).to_le_bytes()).collect();
        tensors.push((format!("{}_scale", tensor.name), DType::F32, shape.to_vec(), numbers));
    }
    let list: Vec<_> = tensors.iter().map(|(name, dtype, shape, bytes)| (&**name, *dtype, &shape[..], &bytes[..])).collect();
    safetensors::write(&dir.join("model.safetensors"), &list).unwrap();
}

/// Each part of a projection that comes apart has the scale of its rows: one number for all, one for each row.
#[test]
fn scales_go_with_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    let skips = "skips = [[1, 2]]\n[[slices]]\nlayers = [0, 2]\n[[slices]]\nlayers = [1, 2]\n";
    let plan = sol_forge::upscale::toml::read(skips, "r.toml", 2).unwrap();
    for (at, (shape, count)) in [(&[][..], 1), (&[1], 1), (&[56, 1], 56)].into_iter().enumerate() {
        let [source, out] = ["base", "solar"].map(|name| dir.path().join(format!("{name}{at}")));
        f8_phi3(&source, shape, count);
        let base = Base::open(&source).unwrap();
        write(order(&base, &plan), &out);
        let result = Checkpoint::open(&out).unwrap();
        assert!(!result.tensors().any(|tensor| tensor.name.contains("qkv") || tensor.name.contains("gate_up")));
        let numbers = |from: &Checkpoint, name: &str| from.to_f32(tensor(from, name)).unwrap();
        for (fused, parts) in [("self_attn.qkv", "q k v"), ("mlp.gate_up", "gate up")] {
            let stem = fused.split_once('.').unwrap().0;
            let apart: Vec<f32> = (parts.split(' '))
                .flat_map(|part| numbers(&result, &format!("model.layers.2.{stem}.{part}_proj.weight")))
                .collect();
            assert!(apart == numbers(base.checkpoint(), &format!("model.layers.1.{fused}_proj.weight")), "{fused} {shape:?}");
        }
        for (float, plan) in [
            (Some(DType::BF16), plan.clone()),
            (None, Recipe::Interleave { layers: None, block: 1, scale: None }.plan(2).unwrap()),
        ] {
            let error = Order { float, ..order(&base, &plan) }.job().unwrap_err().to_string();
            assert!(error.contains("F8_E4M3") && error.contains(" -o DIRECTORY --type bf16"), "{error}");
        }
    }
    let source = dir.path().join("other");
    f8_phi3(&source, &[2, 1], 2);
    let error = order(&Base::open(&source).unwrap(), &plan).job().unwrap_err().to_string();
    assert!(
        error.contains("qkv_proj.weight_scale` [2, 1] can not be taken apart") && error.contains("sol convert -m"),
        "{error}"
    );
}

/// Only what is nothing but a checkpoint is replaced, and no directory that the base is somewhere in.
#[test]
fn a_directory_of_directories_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (run, checkpoint) = (dir.path().join("run"), dir.path().join("run/checkpoint-1000"));
    fs::create_dir_all(&checkpoint).unwrap();
    fs::write(run.join("config.json"), "{}").unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("models/llama").join(name), checkpoint.join(name)).unwrap();
    }
    let plan = Recipe::Stack { times: 2 }.plan(3).unwrap();
    let result = |from: &Path| {
        let base = Base::open(from).unwrap();
        order(&base, &plan).job().unwrap().write(&run, Existing::Replace, &|| false, &mut |_| {})
    };
    assert!(matches!(result(&checkpoint), Err(Error::OverBase { .. })));
    let error = result(&fixture("models/llama")).unwrap_err().to_string();
    assert!(error.contains("it holds a directory, checkpoint-1000"), "{error}");
    // What is set aside while another takes its place, where a run was killed then.
    fs::rename(&checkpoint, dir.path().join(".run.replaced")).unwrap();
    assert!(matches!(result(&dir.path().join(".run.replaced")), Err(Error::OverBase { .. })));
    assert_eq!((names(dir.path()), names(&run)), (vec![".run.replaced".into(), "run".into()], vec!["config.json".into()]));
}

/// What a killed run was writing is cleared away when another goes on with its shards.
#[test]
fn unfinished_shards_do_not_come_along() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::open(&fixture("models/llama")).unwrap();
    let plan = Recipe::Stack { times: 2 }.plan(3).unwrap();
    let order = Order { shard_bytes: 30_000, ..order(&base, &plan) };
    let stopped = order.job().unwrap().write(&dir.path().join("a"), Existing::Refuse, &|| false, &mut |bytes| {
        let left = dir.path().join(".a.unfinished/.model-00009-of-00009.safetensors.1-0.tmp");
        if bytes < 100_000 {
            fs::write(left, "left").unwrap();
        }
    });
    stopped.unwrap();
    assert!(!names(&dir.path().join("a")).iter().any(|name| name.starts_with('.')));
}

/// A number that F16 has not: said, not made infinite.
#[test]
fn numbers_that_are_too_large_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("base");
    fs::create_dir(&source).unwrap();
    fs::copy(fixture("models/llama/config.json"), source.join("config.json")).unwrap();
    let from = Checkpoint::open(&fixture("models/llama")).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let tensors: Vec<_> = from
        .tensors()
        .map(|t| {
            let mut values = t.to_f32().unwrap();
            if t.name == name {
                values[3 * t.shape[1] + 5] = 7e6;
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (t.name.clone(), t.shape.clone(), bytes)
        })
        .collect();
    let list: Vec<_> = tensors.iter().map(|(name, shape, bytes)| (&**name, DType::F32, &shape[..], &bytes[..])).collect();
    safetensors::write(&source.join("model.safetensors"), &list).unwrap();
    let base = Base::open(&source).unwrap();
    let plan = Recipe::Stack { times: 2 }.plan(3).unwrap();
    let up = |dtype| {
        let order = Order { float: Some(dtype), ..order(&base, &plan) };
        order.job().unwrap().write(&dir.path().join(format!("{dtype}")), Existing::Refuse, &|| false, &mut |_| {})
    };
    let convert = |dtype: DType| {
        let out = dir.path().join(format!("{dtype}.gguf"));
        let order =
            sol_forge::convert::Order { source: &source, out: &out, dtype: Some(dtype), lora: &[], shard_bytes: u64::MAX };
        order.plan().unwrap().write(Existing::Refuse, 2, &|| false, &mut |_| {})
    };
    let is_found = |error| matches!(error, Err(Error::TooLarge { row: 3, column: 5, value: 7e6, dtype: DType::F16, .. }));
    assert!(is_found(up(DType::F16).map(drop)) && is_found(convert(DType::F16)));
    assert!(up(DType::BF16).is_ok() && convert(DType::BF16).is_ok());
    let quantized = sol_forge::quantize::Order {
        source: &Checkpoint::open(&dir.path().join("BF16.gguf")).unwrap(),
        types: sol_forge::Types::mostly("f16").unwrap(),
        importance: None,
    };
    let result = quantized.plan().unwrap().write(&dir.path().join("q.gguf"), Existing::Refuse, 1, &|| false, &mut |_| {});
    let Err(Error::TooLarge { row: 3, column: 5, tensor, .. }) = result else { panic!("{result:?}") };
    assert_eq!(tensor, "blk.1.ffn_up.weight");
    assert_eq!(names(dir.path()), ["BF16", "BF16.gguf", "base"]);
}
