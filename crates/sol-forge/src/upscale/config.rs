//! What the result says about itself: `config.json`, or the metadata of a GGUF file.

use serde_json::{Map, Value as Json, json};
use sol_model::RopeScaling;
use sol_weights::DType;
use sol_weights::gguf::{Array, Metadata, Value};

use super::base::Base;
use super::tensors::becomes_solar;
use super::{Plan, toml};

/// Keys of Phi-3's config that a Solar's has no use for. `auto_map` names the base's own code.
const NOT_SOLAR: [&str; 6] =
    ["auto_map", "embd_pdrop", "resid_pdrop", "original_max_position_embeddings", "partial_rotary_factor", "layer_types"];

/// The base's `config.json`, changed.
pub(super) fn hf(base: &Base, config: &Json, plan: &Plan, float: Option<DType>) -> Json {
    let mut config: Map<String, Json> = config.as_object().cloned().unwrap_or_default();
    config.insert("num_hidden_layers".into(), plan.layers().len().into());
    if let Some(Json::Array(kinds)) = config.get("layer_types")
        && kinds.len() == base.layers()
    {
        let kinds = plan.layers().iter().map(|layer| kinds[layer.source].clone()).collect();
        config.insert("layer_types".into(), Json::Array(kinds));
    } else if windows_differ(base) {
        // Where the base says nothing, it is every other layer; in the result it is those that have such a source.
        let windowed = |layer: usize| base.spec().layers[layer].attention.core.window.is_some();
        let kind = |layer: usize| if windowed(layer) { "sliding_attention" } else { "full_attention" };
        config.insert("layer_types".into(), plan.layers().iter().map(|layer| kind(layer.source)).collect());
    }
    if let Some(float) = float {
        let name = match float {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), name.into());
    }
    if becomes_solar(plan) {
        let long = config.get("rope_scaling").is_some_and(|scaling| !scaling.is_null());
        NOT_SOLAR.iter().filter(|key| !(long && **key == "original_max_position_embeddings")).for_each(|key| {
            config.shift_remove(*key);
        });
        config.insert("architectures".into(), json!(["SolarForCausalLM"]));
        config.insert("model_type".into(), "solar".into());
        for (at, list) in plan.lists().into_iter().enumerate() {
            config.insert(format!("bskcn_{}", at + 1), list.into());
        }
        config.insert("bskcn_tv".into(), plan.tv().map(decimal).to_vec().into());
        // What the base's class takes for granted, Solar's does not: it has a window, another epsilon, another context.
        let (spec, core) = (base.spec(), &base.spec().layers[0].attention.core);
        config.insert("sliding_window".into(), spec.window().map_or(Json::Null, Json::from));
        config.insert("rope_theta".into(), decimal(spec.rope.theta));
        if let RopeScaling::Linear { factor } = spec.rope.scaling {
            config.insert("rope_scaling".into(), json!({ "type": "linear", "factor": decimal(factor) }));
        }
        for (key, value) in [
            ("vocab_size", json!(spec.vocab)),
            ("num_key_value_heads", json!(core.kv_heads)),
            ("hidden_act", json!("silu")),
            ("max_position_embeddings", json!(spec.context)),
            ("rms_norm_eps", decimal(spec.final_norm.eps)),
            ("tie_word_embeddings", json!(spec.head.tied)),
        ] {
            config.entry(key).or_insert(value);
        }
    }
    Json::Object(config)
}

/// Some layers have a window and some have none, or another.
pub(super) fn windows_differ(base: &Base) -> bool {
    let mut windows = base.spec().layers.iter().map(|layer| layer.attention.core.window);
    let first = windows.next();
    windows.any(|window| Some(window) != first)
}

/// 0.9, not 0.8999999761581421.
fn decimal(number: f32) -> Json {
    number.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// The base's metadata, changed.
pub(super) fn gguf(base: &Base, meta: &Metadata, plan: &Plan, float: Option<DType>) -> Vec<(String, Value)> {
    let solar = becomes_solar(plan);
    let old = base.spec().architecture;
    let new = if solar { "solar" } else { old };
    let layers = plan.layers().len();
    let mut keys: Vec<(String, Value)> = Vec::new();
    for (key, value) in meta.iter() {
        // Of the base's parts, its size, and its own story.
        if ["split.", "general.base_model."].iter().any(|own| key.starts_with(own)) || key == "general.size_label" {
            continue;
        }
        let Some(own) = key.strip_prefix(old).and_then(|rest| rest.strip_prefix('.')) else {
            keys.push((key.into(), value.clone()));
            continue;
        };
        let value = match value {
            _ if own == "block_count" => Value::U32(u32::try_from(layers).unwrap_or(u32::MAX)),
            Value::Array(array)
                if array.len() == base.layers() && (own.starts_with("attention.") || own.starts_with("feed_")) =>
            {
                Value::Array(of_layers(array, plan))
            }
            other => other.clone(),
        };
        keys.push((format!("{new}.{own}"), value));
    }
    let mut set = |key: &str, value: Value| match keys.iter_mut().find(|(known, _)| known == key) {
        Some((_, old)) => *old = value,
        None => keys.push((key.into(), value)),
    };
    let name = meta.str("general.name").unwrap_or("Model").to_owned();
    set("general.architecture", Value::String(new.into()));
    set("general.name", Value::String(format!("{name}, {layers} layers ({})", plan.name())));
    set("general.description", Value::String(format!("Made by sol upscale from {name}. The recipe:\n{}", toml::write(plan))));
    set("general.base_model.count", Value::U32(1));
    set("general.base_model.0.name", Value::String(name));
    if let Some(float) = float {
        let number = match float {
            DType::F16 => 1,
            DType::BF16 => 32,
            _ => 0,
        };
        set("general.file_type", Value::U32(number));
    }
    if solar {
        for (at, list) in plan.lists().iter().enumerate() {
            let flags = (0..layers).map(|layer| i32::from(list.contains(&layer))).collect();
            set(&format!("solar.attention.block_skip_connection.{at}"), Value::Array(Array::I32(flags)));
        }
    }
    keys
}

/// One number for each layer of the base becomes one for each of the result.
fn of_layers(array: &Array, plan: &Plan) -> Array {
    fn pick<T: Clone>(items: &[T], plan: &Plan) -> Vec<T> {
        plan.layers().iter().map(|layer| items[layer.source].clone()).collect()
    }
    match array {
        Array::U32(items) => Array::U32(pick(items, plan)),
        Array::I32(items) => Array::I32(pick(items, plan)),
        Array::F32(items) => Array::F32(pick(items, plan)),
        Array::Bool(items) => Array::Bool(pick(items, plan)),
        other => other.clone(),
    }
}
