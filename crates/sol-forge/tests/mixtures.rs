//! The types of every matrix of every model in every mixture, against llama.cpp's quantiser
//! (`xtools/make_mixture_fixtures.py`).

use std::collections::BTreeMap;

use serde_json::Value;
use sol_forge::Types;
use sol_forge::synth::{Order, Published};

#[test]
fn types_are_those_that_llama_cpp_chooses() {
    let expected: Value = serde_json::from_str(include_str!("data/mixtures.json")).unwrap();
    for (model, mixtures) in expected.as_object().unwrap() {
        for (mixture, kinds) in mixtures.as_object().unwrap() {
            assert_eq!(types(model, mixture), *kinds, "{model} in {mixture}");
        }
    }
}

/// For each kind of matrix its types, each with the layers that have it.
fn types(model: &str, mixture: &str) -> Value {
    let like = Published::named(model).unwrap();
    let types = Types::mostly(mixture).unwrap();
    let plan = Order { like, layers: None, types, seed: 0, as_llama: model == "solar-pro" }.plan().unwrap();
    let mut kinds: BTreeMap<&str, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for tensor in plan.tensors().filter(|tensor| tensor.shape.len() == 2) {
        let name = tensor.name.strip_suffix(".weight").unwrap();
        let (layer, kind) = name.strip_prefix("blk.").and_then(|name| name.split_once('.')).unwrap_or(("0", name));
        let layers = kinds.entry(kind).or_default().entry(tensor.dtype.to_string()).or_default();
        layers.push(layer.parse().unwrap());
    }
    let kinds = kinds
        .into_iter()
        .map(|(kind, types)| (kind, types.into_iter().map(|(dtype, layers)| (dtype, runs(&layers))).collect::<BTreeMap<_, _>>()));
    serde_json::to_value(kinds.collect::<BTreeMap<_, _>>()).unwrap()
}

/// 0 1 2 5 as 0-2 5.
fn runs(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(" ")
}
