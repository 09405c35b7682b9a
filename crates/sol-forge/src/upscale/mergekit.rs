//! mergekit's `passthrough` recipes (YAML), as people have them: slices of one model's layers, with scales by filters.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{Layer, PUBLISHED_TV, Part, Plan, PlanError, toml};

#[derive(Deserialize)]
struct File {
    merge_method: Option<String>,
    slices: Vec<Slice>,
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Slice {
    sources: Vec<Source>,
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Source {
    model: serde_json::Value,
    layer_range: [usize; 2],
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    scale: Option<Scale>,
}

/// A number for all tensors, or a list of which the first that fits holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scale {
    All(f32),
    Filtered(Vec<Filtered>),
}

#[derive(Deserialize)]
struct Filtered {
    filter: Option<String>,
    value: serde_json::Value,
}

/// Reads the recipe `text`, called `name`, for a base of so many layers.
pub fn read(text: &str, name: &str, base_layers: usize) -> Result<Plan, PlanError> {
    let refused = |problem: String| PlanError::File(format!("{name}: {problem}"));
    let file: File = serde_saphyr::from_str(text).map_err(|error| refused(error.to_string().trim_end().into()))?;
    match file.merge_method.as_deref() {
        Some("passthrough") => {}
        Some(other) => {
            return Err(refused(format!("merge_method {other} merges models; only passthrough takes layers as they are")));
        }
        None => return Err(refused("there is no merge_method; mergekit's for up-scaling is passthrough".into())),
    }
    let mut layers = Vec::new();
    let mut model = None;
    for (at, slice) in file.slices.iter().enumerate() {
        let [source] = &slice.sources[..] else {
            return Err(refused(format!("slice {at} has {} sources; passthrough takes one", slice.sources.len())));
        };
        if **model.get_or_insert(&source.model) != source.model {
            return Err(refused(format!("slice {at} is of another model than those before; all layers must be of one base")));
        }
        // The nearest that says something holds.
        let scale =
            [&source.parameters, &slice.parameters, &file.parameters].into_iter().flatten().find_map(|p| p.scale.as_ref());
        let scales = match scale {
            None => Vec::new(),
            Some(scale) => factors(scale).map_err(refused)?,
        };
        let [start, end] = source.layer_range;
        toml::push(&mut layers, start, end, &scales, name)?;
    }
    Plan::new(name, base_layers, layers, &[], PUBLISHED_TV)
}

fn factors(scale: &Scale) -> Result<Vec<(Part, f32)>, String> {
    let list = match scale {
        Scale::All(factor) => return Ok(Part::all().map(|part| (part, *factor)).filter(|(_, factor)| *factor != 1.0).collect()),
        Scale::Filtered(list) => list,
    };
    let mut factors = Vec::new();
    for part in Part::all() {
        let fits = |filter: &str| filter == "*" || part.full_name().contains(filter);
        let Some(first) = list.iter().find(|item| item.filter.as_deref().is_none_or(fits)) else { continue };
        let factor =
            first.value.as_f64().ok_or_else(|| format!("scale {} is no number; gradients are not supported", first.value))?;
        if factor != 1.0 {
            factors.push((part, factor as f32));
        }
    }
    Ok(factors)
}

/// The plan as such a file for the base `model` (a path or a repository). Fails for plans with skip connections, which mergekit
/// can not express.
pub fn write(plan: &Plan, model: &str) -> Result<String, PlanError> {
    if !plan.skips().is_empty() {
        return Err(PlanError::File("mergekit's recipes have no skip connections; write it as .toml".into()));
    }
    // A JSON string is a YAML string.
    let model = serde_json::Value::from(model);
    let mut text = format!("# {plan}\nmerge_method: passthrough\nslices:\n");
    for (first, count) in plan.runs() {
        let Layer { source, scales } = &plan.layers()[first];
        let _ = writeln!(text, "  - sources:\n      - model: {model}\n        layer_range: [{source}, {}]", source + count);
        if !scales.is_empty() {
            text.push_str("        parameters:\n          scale:\n");
            for (part, factor) in scales {
                let _ = writeln!(text, "            - filter: {}\n              value: {factor:?}", part.name());
            }
            text.push_str("            - value: 1.0\n");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upscale::Recipe;

    #[test]
    fn recipes_survive_their_files() {
        for recipe in [
            Recipe::Dus { drop: None },
            Recipe::Interleave { layers: None, block: 1, scale: None },
            Recipe::Identity { layers: None },
        ] {
            let plan = recipe.plan(30).unwrap();
            let text = write(&plan, "./a \"model\": #1").unwrap();
            assert_eq!(read(&text, recipe.name(), 30).unwrap(), plan, "{text}");
        }
        assert!(write(&Recipe::SolarPro { tv: PUBLISHED_TV }.plan(30).unwrap(), "x").is_err());
    }

    /// As published for a SOLAR of Starling, and LLaMA-Pro in mergekit's words.
    #[test]
    fn recipes_that_people_have_are_read() {
        let text = "dtype: bfloat16\nmerge_method: passthrough\nslices:\n- sources:\n  - layer_range: [0, 24]\n    model: S\n\
                    - sources:\n  - layer_range: [8, 32]\n    model: S\n";
        assert_eq!(read(text, "dus", 32).unwrap(), Recipe::Dus { drop: Some(8) }.plan(32).unwrap());
        let text = "merge_method: passthrough\nslices:\n  - sources:\n    - model: a\n      layer_range: [0, 1]\n  - sources:\n    \
                    - model: a\n      layer_range: [0, 1]\n      parameters:\n        scale:\n          - filter: o_proj\n            \
                    value: 0.0\n          - filter: down_proj\n            value: 0.0\n          - value: 1.0\n";
        assert_eq!(read(text, "identity", 1).unwrap(), Recipe::Identity { layers: Some(2) }.plan(1).unwrap());
    }

    #[test]
    fn what_is_no_passthrough_of_one_model_is_refused() {
        let error = |text: &str| read(text, "a.yml", 4).unwrap_err().to_string();
        assert!(error("merge_method: slerp\nslices: []").contains("a.yml: merge_method slerp merges models"));
        assert!(error("slices: []").contains("no merge_method"));
        assert!(error("merge_method: passthrough\nslices: []").contains("the result would have 0 layers"));
        let two = "merge_method: passthrough\nslices:\n- sources:\n  - {model: a, layer_range: [0, 1]}\n\
                   - sources:\n  - {model: b, layer_range: [0, 1]}\n";
        assert!(error(two).contains("slice 1 is of another model"));
        let gradient = "merge_method: passthrough\nslices:\n- sources:\n  - model: a\n    layer_range: [0, 4]\n    \
                        parameters: {scale: [{value: [0, 1]}]}\n";
        assert!(error(gradient).contains("gradients are not supported"));
        assert!(error("{").starts_with("a.yml: "));
    }
}
