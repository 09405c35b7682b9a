//! The model card: how the result was made, for people (and, in its front matter, for the hub).

use std::fmt::Write as _;

use super::base::Base;
use super::write::Source;
use super::{Plan, print, toml};

/// README.md of the result. `base_name` is what the base was called by.
pub(super) fn write(base: &Base, base_name: &str, plan: &Plan, sources: &[Source], parameters: [u64; 2]) -> String {
    let [before, after] = parameters;
    let mut text = format!(
        "---\nbase_model: {}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- depth-up-scaling\n- {}\n---\n\n",
        serde_json::Value::from(base_name),
        serde_json::Value::from(plan.name()),
    );
    let _ = writeln!(text, "# {} of {base_name}\n", plan.name());
    let (layers, architecture) = (plan.layers().len(), base.spec().architecture);
    let _ = writeln!(
        text,
        "Made by `sol upscale`: {} layers ({architecture}, {:.3} B parameters) became {layers} ({:.3} B). Nothing was trained.\n",
        base.layers(),
        before as f64 / 1e9,
        after as f64 / 1e9,
    );
    text.push_str(if plan.keeps_function() {
        "It computes what its base computes. Training can begin from there.\n"
    } else {
        "It computes something else than its base, and is worse until it has been trained.\n"
    });
    if !plan.skips().is_empty() {
        text.push_str("\nIts block skip connections (`bskcn_*`) need an engine that knows `SolarForCausalLM`.\n");
    }
    let _ = writeln!(
        text,
        "\n## Layers\n\n```text\n{}```\n\n## Recipe\n\n```toml\n{}```\n",
        print::picture(plan, 80),
        toml::write(plan)
    );
    text.push_str("## Sources\n\n| file | bytes | SHA-256 |\n| --- | --- | --- |\n");
    for source in sources {
        let _ = writeln!(text, "| {} | {} | `{}` |", source.name, source.bytes, source.sha256);
    }
    text.push_str("\n`upscale.json` has the BLAKE3 of every tensor and the tensor of the base that it was made of.\n");
    text
}
