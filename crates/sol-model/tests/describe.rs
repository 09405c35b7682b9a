//! What configs mean: keys that are optional, have two names or say nothing, and what the user is told.

mod spoilt;

use std::fs::File;
use std::io::Write;

use serde_json::{Value, json};
use sol_model::{RopeFactors, RopeScaling, describe, memory};
use sol_weights::{Checkpoint, DType, gguf};
use spoilt::{Gguf, Hf, Spoilt, Stored};

const LLAMA: &str = "gguf/llama/model.gguf";

fn scaling(model: &impl Spoilt) -> RopeScaling {
    model.describe().unwrap().spec.rope.scaling
}

fn windows(model: &impl Spoilt) -> Vec<Option<usize>> {
    model.describe().unwrap().spec.layers.iter().map(|l| l.attention.core.window).collect()
}

/// Both formats of one model agree on everything but the layout of q and k.
#[test]
fn hf_and_gguf_describe_the_same_decoder() {
    for name in ["llama", "llama3", "phi3", "phi3-longrope", "gemma2", "solar"] {
        let hf = Hf::of(name).describe().unwrap().spec;
        let mut gguf = Gguf::of(&format!("gguf/{name}/model.gguf")).describe().unwrap().spec;
        let tables = [&hf, &gguf].map(|spec| spec.rope.table(RopeFactors::Long));
        for (a, b) in tables[0].inv_freq.iter().zip(&tables[1].inv_freq) {
            assert!((a - b).abs() <= 1e-6 * a, "{name}: {a} {b}");
        }
        assert!((tables[0].mscale - tables[1].mscale).abs() < 1e-6, "{name}");
        gguf.rope = hf.rope.clone();
        for (theirs, ours) in gguf.layers.iter_mut().zip(&hf.layers) {
            // GGUF's norms have Gemma's one added, its windows are not always written, and Gemma's score scale never is.
            for (theirs, ours) in [
                (Some(&mut theirs.attention_norm), Some(&ours.attention_norm)),
                (Some(&mut theirs.ffn_norm), Some(&ours.ffn_norm)),
                (theirs.post_attention_norm.as_mut(), ours.post_attention_norm.as_ref()),
                (theirs.post_ffn_norm.as_mut(), ours.post_ffn_norm.as_ref()),
            ] {
                theirs.into_iter().zip(ours).for_each(|(theirs, ours)| theirs.weight_offset = ours.weight_offset);
            }
            if name == "gemma2" {
                theirs.attention.core.scale = ours.attention.core.scale;
            }
            if name == "solar" {
                theirs.attention.core.window = ours.attention.core.window;
            }
        }
        gguf.final_norm.weight_offset = hf.final_norm.weight_offset;
        assert_eq!(gguf, hf, "{name}");
    }
}

#[test]
fn linear_scaling_in_gguf_has_two_names_and_needs_no_type() {
    let factor = |key: &str| Gguf::of(LLAMA).with(key, gguf::Value::F32(4.0));
    let kind = |model: Gguf, kind: &str| model.with("llama.rope.scaling.type", gguf::Value::String(kind.into()));
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(scaling(&factor("llama.rope.scaling.factor")), linear);
    assert_eq!(scaling(&factor("llama.rope.scale_linear")), linear);
    assert_eq!(scaling(&kind(factor("llama.rope.scaling.factor"), "linear")), linear);
    assert_eq!(scaling(&kind(factor("llama.rope.scaling.factor"), "none")), RopeScaling::None);
    assert_eq!(scaling(&Gguf::of(LLAMA)), RopeScaling::None);
    assert_eq!(scaling(&Hf::of("llama").with("rope_scaling", json!({ "type": "linear", "factor": 4 }))), linear);

    let table = |model: &Gguf| model.describe().unwrap().spec.rope.table(RopeFactors::Short).inv_freq;
    let (plain, scaled) = (table(&Gguf::of(LLAMA)), table(&factor("llama.rope.scaling.factor")));
    assert!(plain.iter().zip(&scaled).all(|(p, s)| p / 4.0 == *s));
}

#[test]
fn transformers_5_has_one_object_for_rope() {
    let five = |parameters: Value| {
        let spec = Hf::of("llama").without("rope_theta").with("rope_parameters", parameters).describe().unwrap().spec;
        (spec.rope.theta, spec.rope.scaling)
    };
    assert_eq!(five(json!({ "rope_theta": 5000.0, "rope_type": "default" })), (5000.0, RopeScaling::None));
    let linear = json!({ "rope_theta": 5000.0, "rope_type": "linear", "factor": 2.0 });
    assert_eq!(five(linear), (5000.0, RopeScaling::Linear { factor: 2.0 }));
}

#[test]
fn rope_of_gguf_may_leave_out_what_follows_from_the_heads() {
    let whole = Gguf::of("gguf/llama3/model.gguf").describe().unwrap().spec;
    assert_eq!(whole.rope.dim, 12, "key_length, which is not hidden / heads here");
    let without = Gguf::of("gguf/llama3/model.gguf").without("llama.rope.dimension_count").describe().unwrap().spec;
    assert_eq!(whole, without);
    let divided = Gguf::of(LLAMA).describe().unwrap().spec;
    let more = Gguf::of(LLAMA).with("llama.attention.key_length", gguf::Value::U32(6)).describe().unwrap().spec;
    assert_eq!(divided, more);
    let part = Gguf::of(LLAMA).with("llama.rope.dimension_count", gguf::Value::U32(4)).refusal();
    assert!(part.contains("llama.rope.dimension_count") && part.contains("whole heads"), "{part}");
}

#[test]
fn longrope_magnitude_is_given_or_computed() {
    let magnitudes = |model: &dyn Fn() -> RopeScaling| match model() {
        RopeScaling::LongRope { short_mscale, long_mscale, .. } => (short_mscale, long_mscale),
        other => panic!("{other:?}"),
    };
    let key = "phi3.rope.scaling.attn_factor";
    let file = || Gguf::of("gguf/phi3-longrope/model.gguf");
    let computed = magnitudes(&|| scaling(&Hf::of("phi3-longrope")));
    assert!(computed.0 > 1.0 && computed.0 == computed.1);
    assert_eq!(magnitudes(&|| scaling(&file().with(key, gguf::Value::F32(1.5)))), (1.5, 1.5));
    assert_eq!(magnitudes(&|| scaling(&file().without(key))), computed);
    let given = || scaling(&Hf::of("phi3-longrope").with("rope_scaling.attention_factor", 1.5));
    assert_eq!(magnitudes(&given), (1.5, 1.5));
    // Phi-3.5-MoE's own, which GGUF files lack.
    assert_eq!(magnitudes(&|| scaling(&Gguf::of("gguf/phimoe/model.gguf"))), (1.243_163_1, 1.243_163_1));
}

#[test]
fn gemma_has_defaults_for_absent_keys_and_null_switches_off() {
    let spec = |model: Hf| model.describe().unwrap().spec;
    let bare = Hf::of("gemma2").without("attn_logit_softcapping").without("final_logit_softcapping");
    let bare = spec(bare.without("query_pre_attn_scalar").without("sliding_window").without("tie_word_embeddings"));
    let core = bare.layers[0].attention.core;
    assert_eq!((core.softcap, core.scale, core.window), (Some(50.0), 1.0 / 16.0, Some(4096)));
    assert_eq!((bare.head.softcap, bare.head.tied), (Some(30.0), true));
    // The first GGUF files, as llama.cpp reads them.
    let mut first = Gguf::of("gguf/gemma2/model.gguf");
    first.entries.retain(|(key, _)| !key.contains("softcapping") && !key.contains("sliding_window"));
    let first = first.describe().unwrap().spec;
    let core = first.layers[0].attention.core;
    assert_eq!((core.softcap, core.window, first.head.softcap), (Some(50.0), Some(4096), Some(30.0)));
    assert_eq!(first.layers[1].attention.core.window, None);
    let null = Value::Null;
    let off = Hf::of("gemma2").with("attn_logit_softcapping", null.clone()).with("final_logit_softcapping", null.clone());
    let off = spec(off.with("sliding_window", null));
    assert_eq!((off.layers[0].attention.core.softcap, off.head.softcap), (None, None));
    assert_eq!(off.window(), None);
}

#[test]
fn windows_are_where_the_config_says() {
    assert_eq!(windows(&Hf::of("gemma2")), [Some(8), None, Some(8), None]);
    let types = json!(["full_attention", "full_attention", "sliding_attention", "full_attention"]);
    assert_eq!(windows(&Hf::of("gemma2").with("layer_types", types)), [None, None, Some(8), None]);
    assert!(windows(&Hf::of("phi3")).iter().all(|w| *w == Some(9)));
    let zero = Gguf::of("gguf/phi3/model.gguf").with("phi3.attention.sliding_window", gguf::Value::U32(0));
    assert!(windows(&zero).iter().all(Option::is_none));
    // Solar's class has a default, its GGUF files no key.
    assert!(windows(&Hf::of("solar").without("sliding_window")).iter().all(|w| *w == Some(2047)));
    assert!(windows(&Hf::of("solar").with("sliding_window", Value::Null)).iter().all(Option::is_none));
    assert!(windows(&Gguf::of("gguf/solar/model.gguf")).iter().all(Option::is_none));
}

#[test]
fn skips_of_a_gguf_file_may_be_one_number_for_all_layers() {
    let key = |list: usize| format!("solar.attention.block_skip_connection.{list}");
    let all = Gguf::of("gguf/solar/model.gguf").with(&key(0), gguf::Value::U32(1)).with(&key(3), gguf::Value::U32(0));
    let spec = all.with(&key(2), gguf::Value::I32(1)).describe().unwrap().spec;
    assert!(spec.layers.iter().all(|l| l.skips.save[0] && l.skips.blend[0] && !l.skips.blend[1]));
    let array = gguf::Value::Array(gguf::Array::I32(vec![1; spec.layers.len()]));
    let listed = Gguf::of("gguf/solar/model.gguf").with(&key(0), array.clone()).with(&key(2), array);
    let listed = listed.with(&key(3), gguf::Value::U32(0)).describe().unwrap().spec;
    assert_eq!(listed, spec);
}

#[test]
fn a_solar_that_lost_its_skips_is_told() {
    let mut plain = Gguf::of("gguf/solar/model.gguf");
    plain.entries.retain(|(key, _)| !key.contains("block_skip_connection"));
    plain.drop_tensor("bskcn_tv.weight");
    let description = plain.describe().unwrap();
    assert!(!description.spec.has_skips());
    assert!(description.warnings[0].contains("no block skip connections"), "{:?}", description.warnings);

    let llama = Hf::of("solar").with("architectures", json!(["LlamaForCausalLM"])).describe().unwrap();
    assert!(llama.warnings[0].contains("bskcn_1"), "{:?}", llama.warnings);
    assert!(Hf::of("solar").describe().unwrap().warnings.is_empty());
    assert!(Gguf::of("gguf/solar/model.gguf").describe().unwrap().warnings.is_empty());
}

/// The file has holes where its 22 billion weights would be.
#[test]
fn a_llama_of_solars_shape_is_told() {
    let number = |key: &str, n: u32| (format!("llama.{key}"), gguf::Value::U32(n));
    let shaped = |layers: u32| Gguf {
        entries: vec![
            ("general.architecture".into(), gguf::Value::String("llama".into())),
            number("embedding_length", 5120),
            number("block_count", layers),
            number("attention.head_count", 40),
            number("attention.head_count_kv", 10),
            number("feed_forward_length", 17920),
            number("context_length", 4096),
            ("llama.attention.layer_norm_rms_epsilon".into(), gguf::Value::F32(1e-5)),
        ],
        tensors: vec![Stored { name: "token_embd.weight".into(), dtype: DType::Q8_0, shape: vec![32128, 5120], bytes: vec![] }],
    };
    let warnings = |layers: u32| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("solar.gguf");
        let (header, model) = (shaped(layers).header(), shaped(layers));
        let mut file = File::create(&path).unwrap();
        file.write_all(&header).unwrap();
        let table = DType::Q8_0.bytes_for(model.tensors[0].shape.iter().product()).unwrap();
        file.set_len((header.len() + table) as u64).unwrap();
        describe(&Checkpoint::open(&path).unwrap()).unwrap().warnings
    };
    let told = warnings(64);
    assert!(told.len() == 1 && told[0].contains("Solar Pro") && told[0].contains("skip connections"), "{told:?}");
    assert!(warnings(40).is_empty());
}

/// GGUF has q and k rows in another order, and so their biases.
#[test]
fn biases_of_llama_are_found_in_both_formats() {
    let (mut hf, mut gguf) = (Hf::of("llama").with("attention_bias", true).with("mlp_bias", true), Gguf::of(LLAMA));
    let spec = hf.describe().unwrap().spec;
    let dim = spec.layers[0].attention.core.head_dim;
    let value = |seed: usize, i: usize| ((seed * 31 + i * 17) % 23) as f32 / 10.0 - 1.1;
    for layer in 0..spec.layers.len() {
        let names = [
            ("self_attn.q_proj", "attn_q", true),
            ("self_attn.k_proj", "attn_k", true),
            ("self_attn.v_proj", "attn_v", false),
            ("self_attn.o_proj", "attn_output", false),
            ("mlp.gate_proj", "ffn_gate", false),
            ("mlp.up_proj", "ffn_up", false),
            ("mlp.down_proj", "ffn_down", false),
        ];
        for (seed, (ours, theirs, rotated)) in names.into_iter().enumerate() {
            let (ours, theirs) = (format!("model.layers.{layer}.{ours}"), format!("blk.{layer}.{theirs}"));
            let rows = hf.tensor(&format!("{ours}.weight")).shape[0];
            let bias: Vec<f32> = (0..rows).map(|i| value(seed + layer, i)).collect();
            // [first half | second half] of a head become neighbours.
            let mixed = |i: usize| bias[i / dim * dim + i % dim / 2 + i % 2 * (dim / 2)];
            let permuted: Vec<f32> = if rotated { (0..rows).map(mixed).collect() } else { bias.clone() };
            hf.tensors.push(Stored::f32s(&format!("{ours}.bias"), &[rows], &bias));
            gguf.tensors.push(Stored::f32s(&format!("{theirs}.bias"), &[rows], &permuted));
        }
    }
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let [biased, same, plain] = [hf.load(), gguf.load(), Hf::of("llama").load()].map(|m| m.unwrap().logits(&tokens).concat());
    let apart = |other: &[f32]| biased.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&same) < 1e-4, "{}", apart(&same));
    assert!(apart(&plain) > 0.1, "the biases do something");
    gguf.drop_tensor("blk.1.attn_k.bias");
    assert!(gguf.refusal().contains("blk.1.attn_k.bias"));
}

/// F8 weights with each kind of scale are the BF16 weights that they stand for.
#[test]
fn f8_weights_are_multiplied_by_their_scales() {
    let mut f8 = Hf::of("phi3");
    let mut scales = Vec::new();
    for (number, t) in f8.tensors.iter_mut().filter(|t| t.name.contains("_proj.")).enumerate() {
        let [rows, cols] = t.shape[..] else { unreachable!() };
        t.dtype = DType::F8E4M3;
        // Every number but NaN.
        t.bytes = (0..rows * cols).map(|i| ((i * 37 + number * 11) % 251) as u8).map(|b| if b == 0x7f { 0 } else { b }).collect();
        let scale = |suffix: &str, shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| 0.001 + 0.0001 * (i % 7) as f32).collect();
            Stored::f32s(&format!("{}{suffix}", t.name), shape, &values)
        };
        scales.push(match number % 4 {
            0 => scale("_scale", &[1]),
            1 => scale("_scale", &[rows, 1]),
            2 => scale("_scale_inv", &[rows.div_ceil(128), cols.div_ceil(128)]),
            _ => continue,
        });
    }
    f8.tensors.extend(scales);

    let mut wide = f8.clone();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&f8.write(dir.path())).unwrap();
    for t in wide.tensors.iter_mut().filter(|t| t.dtype == DType::F8E4M3) {
        let values = checkpoint.to_f32(checkpoint.tensor(&t.name).unwrap()).unwrap();
        t.bytes = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        t.dtype = DType::BF16;
    }
    let bytes = |model: &Hf, count: fn(&Checkpoint) -> u64| {
        let dir = tempfile::tempdir().unwrap();
        count(&Checkpoint::open(&model.write(dir.path())).unwrap())
    };
    assert_eq!(bytes(&f8, memory::loaded_bytes), bytes(&wide, memory::weight_bytes));
    assert!(bytes(&f8, memory::weight_bytes) < bytes(&wide, memory::weight_bytes));

    let [f8, wide] = [f8, wide].map(|m| m.load().unwrap().logits(&[1, 2, 3, 4, 5]));
    assert_eq!(f8, wide);
    assert!(f8.concat().iter().all(|l| l.is_finite()));
}
