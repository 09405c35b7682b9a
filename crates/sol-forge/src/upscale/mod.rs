//! Depth up-scaling: a deeper model from the layers of a base, as SOLAR 10.7B and Solar Pro Preview were made.
//!
//! 1. `plan`: what the result is made of, as data. 2. `recipes`: the plans that have names; `toml` and `mergekit`: those
//!    from files. 3. `print`: a plan as a picture. 4. `tensors`: which tensors the result has and of what each is made.
//! 5. `config`: what the result says about itself; `card`: what is told to people. 6. `write` and
//!    `directory`: writing it.

mod base;
mod card;
mod config;
mod directory;
pub mod mergekit;
mod plan;
mod print;
mod recipes;
mod tensors;
pub mod toml;
mod write;

pub use base::Base;
pub use plan::{Layer, MAX_LAYERS, PUBLISHED_TV, Part, Plan, PlanError, Skip};
pub use print::picture;
pub use recipes::Recipe;
pub use write::{Job, Order, Report, Source};

/// A plan as JSON: of every layer its source and factors, skip connections, Solar's lists.
pub fn json(plan: &Plan) -> serde_json::Value {
    let layers = plan.layers().iter().enumerate().map(|(at, layer)| {
        let scales: serde_json::Map<String, serde_json::Value> =
            layer.scales.iter().map(|(part, factor)| (part.name().to_owned(), (*factor).into())).collect();
        serde_json::json!({ "layer": at, "source": layer.source, "scale": scales })
    });
    let [bskcn_1, bskcn_2, bskcn_3, bskcn_4] = plan.lists();
    serde_json::json!({
        "recipe": plan.name(),
        "base_layers": plan.base_layers(),
        "layers": layers.collect::<Vec<_>>(),
        "skips": plan.skips(),
        "bskcn_1": bskcn_1,
        "bskcn_2": bskcn_2,
        "bskcn_3": bskcn_3,
        "bskcn_4": bskcn_4,
        "tv": plan.tv(),
        "keeps_function": plan.keeps_function(),
    })
}
