//! Recipes in files of our own: slices of layers with factors on their parts, and skip connections.
//!
//! ```toml
//! tv = [0.9, 0.8]                 # share of the old state where a skip ends: training, inference
//! skips = [[9, 12], [15, 18]]     # before layer 9 of the result the stream is saved, before layer 12 it is blended
//!
//! [[slices]]
//! layers = [0, 12]                # layers 0 to 11 of the base
//! [[slices]]
//! layers = [9, 30]
//! scale = { o_proj = 0.5, down_proj = 0.5 }
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::plan::MAX_LAYERS;
use super::{Layer, PUBLISHED_TV, Part, Plan, PlanError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Layers of the base that it is for.
    base_layers: Option<usize>,
    tv: Option<[f32; 2]>,
    #[serde(default)]
    skips: Vec<[usize; 2]>,
    slices: Vec<Slice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slice {
    layers: [usize; 2],
    #[serde(default)]
    scale: BTreeMap<String, f32>,
}

/// Reads the recipe `text`, called `name`, for a base of so many layers.
pub fn read(text: &str, name: &str, base_layers: usize) -> Result<Plan, PlanError> {
    let file: File =
        ::toml::from_str(text).map_err(|error| PlanError::File(format!("{name}: {}", error.to_string().trim_end())))?;
    if let Some(meant) = file.base_layers.filter(|meant| *meant != base_layers) {
        return Err(PlanError::File(format!("{name}: the recipe is for a base of {meant} layers; this one has {base_layers}")));
    }
    let mut layers = Vec::new();
    for slice in &file.slices {
        let [start, end] = slice.layers;
        let parts = slice.scale.iter().map(|(part, factor)| match Part::named(part) {
            Some(part) => Ok((part, *factor)),
            None => {
                let known: Vec<&str> = Part::all().map(Part::name).collect();
                Err(PlanError::File(format!("{name}: no part of a layer is called {part}; known are {}", known.join(", "))))
            }
        });
        let scales: Vec<(Part, f32)> = parts.collect::<Result<_, _>>()?;
        push(&mut layers, start, end, &scales, name)?;
    }
    let links: Vec<(usize, usize)> = file.skips.iter().map(|[from, to]| (*from, *to)).collect();
    Plan::new(name, base_layers, layers, &links, file.tv.unwrap_or(PUBLISHED_TV))
}

/// Appends the layers `start..end`.
pub(super) fn push(
    layers: &mut Vec<Layer>,
    start: usize,
    end: usize,
    scales: &[(Part, f32)],
    name: &str,
) -> Result<(), PlanError> {
    if start >= end {
        return Err(PlanError::File(format!(
            "{name}: the slice [{start}, {end}] has no layers; the second number is one past its last"
        )));
    }
    // Asked before they are made.
    let all = layers.len().saturating_add(end - start);
    if all > MAX_LAYERS {
        return Err(PlanError::Layers(all));
    }
    layers.extend((start..end).map(|source| Layer { source, scales: scales.to_vec() }));
    Ok(())
}

/// The plan as such a file.
pub fn write(plan: &Plan) -> String {
    let mut text = format!("# {plan}\nbase_layers = {}\n", plan.base_layers());
    if !plan.skips().is_empty() {
        let [training, inference] = plan.tv();
        let skips: Vec<String> = plan.skips().iter().map(|skip| format!("[{}, {}]", skip.from, skip.to)).collect();
        let _ = writeln!(text, "tv = [{training:?}, {inference:?}]\nskips = [{}]", skips.join(", "));
    }
    for (first, count) in plan.runs() {
        let Layer { source, scales } = &plan.layers()[first];
        let _ = writeln!(text, "\n[[slices]]\nlayers = [{source}, {}]", source + count);
        if !scales.is_empty() {
            let factors: Vec<String> = scales.iter().map(|(part, factor)| format!("{} = {factor:?}", part.name())).collect();
            let _ = writeln!(text, "scale = {{ {} }}", factors.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upscale::Recipe;

    #[test]
    fn recipes_survive_their_files() {
        for recipe in [
            Recipe::Dus { drop: None },
            Recipe::SolarPro { tv: [0.95, 0.7] },
            Recipe::Interleave { layers: None, block: 3, scale: Some(0.3) },
            Recipe::Identity { layers: None },
        ] {
            let plan = recipe.plan(30).unwrap();
            assert_eq!(read(&write(&plan), recipe.name(), 30).unwrap(), plan);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| read(text, "my.toml", 4).unwrap_err().to_string();
        assert!(error("slices = [{ layers = [0, 9] }]").contains("layer 4 of the result is to be layer 4 of the base"));
        assert!(error("slices = [{ layers = [2, 2] }]").contains("my.toml: the slice [2, 2] has no layers"));
        assert!(error("base_layers = 5\nslices = []").contains("for a base of 5 layers; this one has 4"));
        assert!(error("slices = [{ layers = [0, 4], scale = { oproj = 1 } }]").contains("known are input_layernorm, q_proj"));
        assert!(error("skip = []\nslices = []").contains("unknown field `skip`"));
        assert!(error("slices = [{ layers = [0, 9223372036854775807] }]").contains("a model has 1 to 4096"));
    }
}
