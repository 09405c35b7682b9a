//! Configs that contradict themselves or their tensors: each is refused at once, in words that name what is wrong.

mod spoilt;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use sol_weights::{DType, gguf};
use spoilt::{Gguf, Hf, Spoilt, Stored};

/// The refusal names all of these.
#[track_caller]
fn refused(model: &impl Spoilt, words: &[&str]) {
    let start = Instant::now();
    let message = model.refusal();
    assert!(start.elapsed() < Duration::from_secs(5), "slow: {message}");
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
    assert!(message.len() < 600, "{message}");
}

const HUGE: u64 = 1 << 40;

#[test]
fn a_hidden_size_that_is_none() {
    let with = |value: Value| Hf::of("llama").with("hidden_size", value);
    for bad in [json!(0), json!(-64), json!("64"), json!(HUGE), json!(36.5), json!([36]), json!({}), json!(u64::MAX)] {
        refused(&with(bad.clone()), &["'hidden_size'", &bad.to_string().replace('"', "")]);
    }
    refused(&with(Value::Null), &["no 'hidden_size'"]);
}

#[test]
fn sizes_that_are_absurd_or_missing() {
    for key in ["vocab_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"] {
        refused(&Hf::of("llama").with(key, HUGE), &[key, "1099511627776"]);
        refused(&Hf::of("llama").with(key, 0), &[key, "at least 1"]);
        refused(&Hf::of("llama").without(key), &["no", key]);
    }
    refused(&Hf::of("llama").without("rms_norm_eps"), &["no 'rms_norm_eps'"]);
    refused(&Hf::of("llama").with("rms_norm_eps", -1e-5), &["rms_norm_eps", "above 0"]);
    refused(&Hf::of("llama").with("rms_norm_eps", 1e300), &["rms_norm_eps", "finite"]);
    refused(&Hf::of("llama").with("rope_theta", 0), &["rope_theta", "above 0"]);
    // The most that is believed: still nothing is allocated, because the first tensor does not fit.
    let most = Hf::of("llama").with("hidden_size", 1 << 20).with("num_hidden_layers", 4096).with("num_attention_heads", 64);
    refused(&most.with("num_key_value_heads", 64), &["model.embed_tokens.weight", "1048576"]);
    refused(&Hf::of("llama").with("num_hidden_layers", 4096), &["missing", "model.layers.3."]);
}

#[test]
fn heads_that_do_not_divide() {
    refused(&Hf::of("llama").with("num_key_value_heads", 4), &["num_key_value_heads", "4", "does not divide the 6 heads"]);
    refused(&Hf::of("llama").with("num_attention_heads", 5).with("num_key_value_heads", 5), &["num_attention_heads", "36"]);
    refused(&Hf::of("llama").with("head_dim", 7), &["head_dim", "7", "even"]);
    refused(&Hf::of("llama").with("head_dim", 8), &["q_proj.weight", "[48, 36]"]);
    refused(&Hf::of("llama").with("head_dim", 1 << 20), &["num_attention_heads", "so many heads"]);
    refused(&Gguf::of("gguf/llama/model.gguf").with("llama.attention.head_count", gguf::Value::U32(7)), &["head_count"]);
}

#[test]
fn architectures_that_nobody_knows() {
    refused(&Hf::of("llama").with("architectures", json!(["MambaForCausalLM"])), &["'MambaForCausalLM'", "solar, llama, phi3"]);
    refused(&Hf::of("llama").without("architectures").without("model_type"), &["architectures"]);
    refused(&Hf::of("llama").without("architectures").with("model_type", 7), &["model_type", "not a text"]);
    assert!(Hf::of("llama").without("architectures").load().is_ok(), "model_type is enough");
    refused(&Hf::of("llama").with("architectures", "x".repeat(9999)).with("model_type", "y".repeat(9999)), &["yyy..."]);
    refused(&Hf { config: Value::Null, ..Hf::of("llama") }, &["config.json"]);
    let named = |name: &str| Gguf::of("gguf/llama/model.gguf").with("general.architecture", gguf::Value::String(name.into()));
    refused(&named("rwkv"), &["'rwkv'", "gemma2"]);
    refused(&named(""), &["''"]);
    refused(&Gguf::of("gguf/llama/model.gguf").without("general.architecture"), &["general.architecture"]);
    let packed = json!({ "quant_method": "gptq", "bits": 4 });
    refused(&Hf::of("llama").with("quantization_config", packed), &["quantization_config.quant_method", "gptq", "GGUF"]);
}

#[test]
fn skips_that_lead_nowhere() {
    refused(&Hf::of("solar").with("bskcn_1", json!([99])), &["bskcn_1", "99", "layers below"]);
    refused(&Hf::of("solar").with("bskcn_2", json!([-1])), &["bskcn_2"]);
    refused(&Hf::of("solar").with("bskcn_3", json!("1")), &["bskcn_3", "not a list"]);
    refused(&Hf::of("solar").with("bskcn_3", json!([0])), &["bskcn_3", "nothing is saved"]);
    refused(&Hf::of("solar").without("bskcn_4"), &["no 'bskcn_4'"]);
    refused(&Hf::of("solar").with("bskcn_tv", json!([0.9])), &["bskcn_tv", "two numbers"]);
    refused(&Hf::of("solar").with("bskcn_tv", json!([0.9, 1e300])), &["bskcn_tv", "finite"]);
    refused(&Hf::of("solar").without("bskcn_tv"), &["no 'bskcn_tv'"]);

    let mut no_share = Gguf::of("gguf/solar/model.gguf");
    no_share.drop_tensor("bskcn_tv.weight");
    refused(&no_share, &["bskcn_tv.weight", "missing"]);
    let mut three = Gguf::of("gguf/solar/model.gguf");
    *three.tensor("bskcn_tv.weight") = Stored::f32s("bskcn_tv.weight", &[3], &[0.8, 0.2, 0.0]);
    refused(&three, &["bskcn_tv.weight", "[3]", "[2]"]);
    let key = "solar.attention.block_skip_connection.0";
    let short = gguf::Value::Array(gguf::Array::I32(vec![1, 0]));
    refused(&Gguf::of("gguf/solar/model.gguf").with(key, short), &[key, "[1, 0]"]);
    refused(&Gguf::of("gguf/solar/model.gguf").with(key, gguf::Value::String("all".into())), &[key, "all"]);
}

#[test]
fn rope_scaling_that_is_none() {
    let scaled = |value: Value| Hf::of("llama").with("rope_scaling", value);
    refused(&scaled(json!({ "rope_type": "yarn", "factor": 4.0 })), &["rope_scaling.rope_type", "yarn", "longrope"]);
    refused(&scaled(json!({ "factor": 4.0 })), &["rope_scaling.rope_type"]);
    refused(&scaled(json!("linear")), &["rope_scaling", "not an object"]);
    refused(&scaled(json!({ "type": 3 })), &["rope_scaling.type", "not a text"]);
    refused(&scaled(json!({ "type": "linear" })), &["no 'rope_scaling.factor'"]);
    refused(&scaled(json!({ "type": "linear", "factor": 0 })), &["rope_scaling.factor", "above 0"]);
    refused(&Hf::of("llama3").with("rope_scaling.high_freq_factor", 0.5), &["rope_scaling.high_freq_factor"]);

    let long = |key: &str, value: Value| Hf::of("phi3-longrope").with(key, value);
    for key in ["rope_scaling.short_factor", "rope_scaling.long_factor"] {
        refused(&long(key, json!([1.0, 2.0])), &[key, "2 numbers"]);
        refused(&long(key, json!(1.0)), &[key, "not a list"]);
        let factors = Hf::of("phi3-longrope").config["rope_scaling"]["short_factor"].as_array().unwrap().len();
        let mut list = vec![json!(1.0); factors];
        for (bad, words) in [(json!(0.0), "above 0"), (json!(-1), "above 0"), (json!("1"), "numbers"), (Value::Null, "numbers")] {
            list[1] = bad;
            refused(&long(key, json!(list)), &[key, words]);
        }
        refused(&Hf::of("phi3-longrope").without(key), &["no", key]);
    }
    refused(&long("original_max_position_embeddings", json!(1)), &["original_max_position_embeddings", "at least 2"]);
    refused(&Hf::of("phi3").with("partial_rotary_factor", 0.75), &["partial_rotary_factor", "0.75"]);

    let kind = |kind: &str| Gguf::of("gguf/llama/model.gguf").with("llama.rope.scaling.type", gguf::Value::String(kind.into()));
    refused(&kind("yarn"), &["llama.rope.scaling.type", "yarn"]);
    refused(&kind("linear"), &["no 'llama.rope.scaling.factor'"]);
    let file = "gguf/phi3-longrope/model.gguf";
    for name in ["rope_factors_short.weight", "rope_factors_long.weight"] {
        let mut lost = Gguf::of(file);
        lost.drop_tensor(name);
        refused(&lost, &[name, "missing"]);
        let pairs = Gguf::of(file).tensor(name).shape[0];
        for (bad, words) in [(f32::NAN, "NaN"), (0.0, "above 0"), (f32::INFINITY, "inf")] {
            let mut spoilt = Gguf::of(file);
            *spoilt.tensor(name) = Stored::f32s(name, &[pairs], &vec![bad; pairs]);
            refused(&spoilt, &[name, words]);
        }
        let mut short = Gguf::of(file);
        *short.tensor(name) = Stored::f32s(name, &[1], &[1.0]);
        refused(&short, &[name, "1 numbers"]);
    }
    refused(
        &Gguf::of(file).without("phi3.rope.scaling.original_context_length"),
        &["no 'phi3.rope.scaling.original_context_length'"],
    );
}

#[test]
fn layer_types_of_gemma() {
    for bad in [json!("sliding_attention"), json!(["sliding_attention"]), json!(3), json!({})] {
        refused(&Hf::of("gemma2").with("layer_types", bad), &["layer_types", "one for each layer"]);
    }
    refused(&Hf::of("gemma2").with("layer_types", json!([1, 2, 3, 4])), &["layer_types", "neither"]);
    refused(&Hf::of("gemma2").with("layer_types", json!(vec!["chunked_attention"; 4])), &["layer_types", "chunked_attention"]);
    refused(&Hf::of("gemma2").with("sliding_window", 0), &["sliding_window"]);
    refused(&Hf::of("gemma2").with("attn_logit_softcapping", -1.0), &["attn_logit_softcapping"]);
}

#[test]
fn experts_that_do_not_add_up() {
    refused(&Hf::of("phimoe").with("num_experts_per_tok", 3), &["num_experts_per_tok", "3", "exactly 2"]);
    refused(&Hf::of("phimoe").with("num_local_experts", 17), &["block_sparse_moe.gate.weight", "[16, 40]", "[17, 40]"]);
    refused(&Hf::of("phimoe").with("num_local_experts", 15), &["block_sparse_moe.gate.weight", "[15, 40]"]);
    refused(&Hf::of("phimoe").with("num_local_experts", HUGE), &["num_local_experts"]);
    refused(&Hf::of("phimoe").with("num_local_experts", 1), &["num_local_experts", "chooses 2"]);
    refused(&Hf::of("phimoe").with("router_jitter_noise", -0.01), &["router_jitter_noise"]);
    let mut lost = Hf::of("phimoe");
    lost.drop_tensor("model.layers.1.block_sparse_moe.experts.15.w2.weight");
    refused(&lost, &["model.layers.1.block_sparse_moe.experts.15.w2.weight", "missing", "an expert's down projection"]);
    let file = "gguf/phimoe/model.gguf";
    refused(&Gguf::of(file).with("phimoe.expert_used_count", gguf::Value::U32(1)), &["phimoe.expert_used_count"]);
    refused(&Gguf::of(file).with("phimoe.expert_count", gguf::Value::U32(8)), &["ffn_gate_inp.weight", "[8, 40]"]);
    refused(&Gguf::of("gguf/llama/model.gguf").with("llama.expert_count", gguf::Value::U32(8)), &["llama.expert_count", "8"]);
}

#[test]
fn every_tensor_is_needed_and_named_when_it_is_missing() {
    for name in ["llama", "phi3", "phimoe", "gemma2", "solar"] {
        let whole = Hf::of(name);
        for lost in whole.tensors.iter().map(|t| t.name.clone()).filter(|n| !n.contains("experts.")) {
            let mut spoilt = whole.clone();
            spoilt.drop_tensor(&lost);
            refused(&spoilt, &[&lost, "missing"]);
        }
        let whole = Gguf::of(&format!("gguf/{name}/model.gguf"));
        for lost in whole.tensors.iter().map(|t| t.name.clone()) {
            let mut spoilt = whole.clone();
            spoilt.drop_tensor(&lost);
            match lost.as_str() {
                // Without a head the embedding is the head, and its bias is optional.
                "output.weight" | "output.bias" => assert!(spoilt.load().is_ok()),
                _ => refused(&spoilt, &[&lost, "missing"]),
            }
        }
    }
}

#[test]
fn every_tensor_has_the_shape_of_the_config() {
    for name in ["llama", "phi3", "phimoe", "gemma2", "solar"] {
        let whole = Hf::of(name);
        for i in (0..whole.tensors.len()).step_by(3) {
            let mut spoilt = whole.clone();
            let tensor = &mut spoilt.tensors[i];
            let bytes_of_a_row = tensor.bytes.len() / tensor.shape[0];
            tensor.shape[0] += 1;
            tensor.bytes.extend(vec![0; bytes_of_a_row]);
            let (name, got) = (tensor.name.clone(), format!("{:?}", tensor.shape));
            refused(&spoilt, &[&name, &got, "asks for"]);
        }
    }
    // The embedding table and the head must agree.
    for (other, rows) in [("lm_head.weight", 87), ("model.embed_tokens.weight", 89)] {
        let mut spoilt = Hf::of("phi3");
        *spoilt.tensor(other) = Stored::zeros(other, DType::F32, &[rows, 40]);
        refused(&spoilt, &[other, &format!("[{rows}, 40]"), "[88, 40]"]);
    }
    let mut flat = Gguf::of("gguf/llama/model.gguf");
    let table = flat.tensor("token_embd.weight");
    table.shape = vec![table.shape.iter().product()];
    refused(&flat, &["token_embd.weight", "embedding table"]);
}

#[test]
fn layers_beyond_the_config_are_not_left_out_silently() {
    refused(&Hf::of("llama").with("num_hidden_layers", 1), &["model.layers.1.input_layernorm.weight", "has 1"]);
    refused(&Gguf::of("gguf/llama/model.gguf").with("llama.block_count", gguf::Value::U32(1)), &["blk.1.attn_norm.weight"]);
}

#[test]
fn rows_that_are_no_whole_blocks() {
    let mut odd = Gguf::of("gguf/llama/model.gguf");
    // 101 rows of 36 are not whole blocks, 128 of 36 are 144 of them that begin in the middle of rows.
    *odd.tensor("token_embd.weight") = Stored::zeros("token_embd.weight", DType::Q4_0, &[128, 36]);
    refused(&odd, &["token_embd.weight"]);
    let mut experts = Gguf::of("gguf/phimoe/model.gguf");
    let name = "blk.0.ffn_gate_exps.weight";
    let shape = experts.tensor(name).shape.clone();
    assert_eq!(shape[2] % 32, 8);
    *experts.tensor(name) = Stored::zeros(name, DType::Q8_0, &shape);
    refused(&experts, &[name]);
    let mut unknown = Gguf::of("gguf/llama/model.gguf");
    let name = "blk.0.attn_q.weight";
    *unknown.tensor(name) = Stored { dtype: DType::Other(77), ..unknown.tensor(name).clone() };
    refused(&unknown, &[name]);
    let mut integers = Hf::of("llama");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let shape = integers.tensor(name).shape.clone();
    *integers.tensor(name) = Stored::zeros(name, DType::I32, &shape);
    refused(&integers, &[name, "I32"]);
}

#[test]
fn the_tensor_that_holds_no_numbers_is_found() {
    let mut spoilt = Hf::of("llama");
    let bytes = &mut spoilt.tensor("model.layers.1.mlp.up_proj.weight").bytes;
    bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    let loaded = spoilt.load().unwrap();
    assert!(loaded.logits(&[1, 2, 3])[0].iter().any(|l| l.is_nan()));
    assert_eq!(loaded.model.first_non_finite(), Some("model.layers.1.mlp.up_proj.weight"));
    assert_eq!(Hf::of("llama").load().unwrap().model.first_non_finite(), None);

    // A router of NaN must still choose experts.
    let mut spoilt = Hf::of("phimoe");
    let router = "model.layers.0.block_sparse_moe.gate.weight";
    *spoilt.tensor(router) = Stored::f32s(router, &[16, 40], &[f32::NAN; 640]);
    let loaded = spoilt.load().unwrap();
    assert!(loaded.logits(&[1, 2, 3])[0].iter().all(|l| l.is_nan()));
    assert_eq!(loaded.model.first_non_finite(), Some(router));
}

/// What a broken or malicious config may hold instead of a value.
fn garbage() -> impl Strategy<Value = Value> {
    let numbers = prop_oneof![
        (0i64..40).prop_map(Value::from),
        prop::sample::select(vec![-1, i64::MIN, 1 << 12, 1 << 20, (1 << 20) + 2, 1 << 24, 1 << 31, 1 << 40, i64::MAX])
            .prop_map(Value::from),
        prop::sample::select(vec![1e300, -0.5, 1e-300, 0.5, 1e30]).prop_map(Value::from),
        Just(json!(u64::MAX)),
    ];
    let others = prop::sample::select(vec![
        Value::Null,
        json!(true),
        json!(""),
        json!("linear"),
        json!("longrope"),
        json!("x"),
        json!([]),
        json!([0]),
        json!([[0]]),
        json!([null]),
        json!([1.0, 1.0, 1.0, 1.0]),
        json!([0, 1, 2, 3, 4, 5]),
        json!({}),
        json!({ "type": "longrope" }),
    ]);
    prop_oneof![2 => numbers, 1 => others]
}

/// All places of a JSON value, as pointers.
fn places(value: &Value, at: String, out: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => return,
    };
    for (key, child) in children {
        let place = format!("{at}/{key}");
        places(child, place.clone(), out);
        out.push(place);
    }
}

const FIXTURES: [&str; 8] = ["llama", "llama3", "phi3", "phi3-longrope", "phimoe", "gemma2", "solar", "solar-window"];

/// Nothing panics or takes long, and what loads can be run.
fn survives(model: &impl Spoilt) {
    let start = Instant::now();
    if let Ok(loaded) = model.load() {
        loaded.logits(&[0, 1, 0]);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn random_configs_never_panic() {
    let models = FIXTURES.map(Hf::of);
    let all_places = models.each_ref().map(|m| {
        let mut out = Vec::new();
        places(&m.config, String::new(), &mut out);
        out
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), garbage()), 1..4);
    let case = (0..FIXTURES.len(), changes);
    runner(600)
        .run(&case, |(which, changes)| {
            let mut model = models[which].clone();
            for (index, value) in changes {
                if let Some(place) = model.config.pointer_mut(&all_places[which][index.index(all_places[which].len())]) {
                    *place = value;
                }
            }
            survives(&model);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_gguf_metadata_never_panics() {
    let models = ["llama", "llama3", "phi3", "phi3-longrope", "phimoe", "gemma2", "solar"]
        .map(|name| Gguf::of(&format!("gguf/{name}/model.gguf")));
    let value = prop_oneof![
        (0u32..40).prop_map(gguf::Value::U32),
        any::<u64>().prop_map(gguf::Value::U64),
        any::<i32>().prop_map(gguf::Value::I32),
        any::<f32>().prop_map(gguf::Value::F32),
        any::<f64>().prop_map(gguf::Value::F64),
        any::<bool>().prop_map(gguf::Value::Bool),
        prop::sample::select(vec!["", "llama", "solar", "longrope", "linear", "none"])
            .prop_map(|s| gguf::Value::String(s.into())),
        prop::collection::vec(-1..2, 0..9).prop_map(|v| gguf::Value::Array(gguf::Array::I32(v))),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(|v| gguf::Value::Array(gguf::Array::F32(v))),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), value), 1..4);
    runner(400)
        .run(&(0..models.len(), changes), |(which, changes)| {
            let mut model = models[which].clone();
            let entries = model.entries.len();
            for (index, value) in changes {
                model.entries[index.index(entries)].1 = value;
            }
            survives(&model);
            Ok(())
        })
        .unwrap();
}
