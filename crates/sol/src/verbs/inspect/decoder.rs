//! A [`DecoderSpec`] for people and as JSON.

use serde_json::{Value, json};
use sol_compute::{Activation, NormKind, RopePairing, Routing};
use sol_model::{DecoderSpec, FeedForward, LayerSpec, NormSpec, RopeScaling};

/// A label and what is behind it; several lines where layers differ.
type Row = (&'static str, Vec<String>);

const SLOTS: [&str; 2] = ["A", "B"];

/// Every hyper-parameter.
pub(super) fn rows(spec: &DecoderSpec) -> Vec<Row> {
    let one = |text: String| vec![text];
    let mut rows = vec![
        ("architecture", one(spec.architecture.to_owned())),
        ("layers", one(spec.layers.len().to_string())),
        ("hidden size", one(spec.hidden.to_string())),
        ("vocabulary", one(format!("{} tokens", spec.vocab))),
        ("context", one(format!("{} tokens", spec.context))),
        ("attention", by_layer(spec, attention)),
        ("window", by_layer(spec, |l| l.attention.core.window.map_or("none".into(), |w| format!("{w} tokens")))),
        ("feed-forward", by_layer(spec, feed_forward)),
        ("norms", by_layer(spec, norms)),
        ("final norm", one(norm(&spec.final_norm))),
        ("biases", by_layer(spec, biases)),
        ("rope", rope(spec)),
        ("embedding", one(embedding(spec))),
        ("head", one(head(spec))),
    ];
    if spec.has_skips() {
        rows.push(("skip links", one(skips(spec))));
    }
    rows
}

/// What `text` says of the layers, once if they all agree.
fn by_layer(spec: &DecoderSpec, text: impl Fn(&LayerSpec) -> String) -> Vec<String> {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, layer) in spec.layers.iter().enumerate() {
        let text = text(layer);
        match groups.iter_mut().find(|group| group.0 == text) {
            Some(group) => group.1.push(i),
            None => groups.push((text, vec![i])),
        }
    }
    match &mut groups[..] {
        [(text, _)] => vec![std::mem::take(text)],
        groups => groups.iter().map(|(text, layers)| format!("{text} (layers {})", layer_list(layers))).collect(),
    }
}

/// "0-3, 7" or "0, 2, ... 44".
fn layer_list(layers: &[usize]) -> String {
    if let [first, second, third, .., last] = layers
        && second - first > 1
        && layers.windows(2).all(|pair| pair[1] - pair[0] == second - first)
    {
        return if third == last { format!("{first}, {second}, {last}") } else { format!("{first}, {second}, ... {last}") };
    }
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

fn attention(layer: &LayerSpec) -> String {
    let core = layer.attention.core;
    let cap = core.softcap.map_or(String::new(), |cap| format!(", capped at {cap}"));
    let kv_heads = if core.kv_heads == 1 { "1 kv head".into() } else { format!("{} kv heads", core.kv_heads) };
    format!("{} heads, {kv_heads}, {} values a head; scores * {}{cap}", core.heads, core.head_dim, core.scale)
}

fn feed_forward(layer: &LayerSpec) -> String {
    match layer.ffn {
        FeedForward::Dense { ffn, activation, .. } => format!("{ffn} wide, {}", activation_name(activation)),
        FeedForward::Experts { ffn, experts, used, activation, routing } => {
            let Routing::SparseMixer { jitter } = routing;
            let name = activation_name(activation);
            format!("{experts} experts, {used} used; {ffn} wide, {name}; routed by sparsemixer (jitter {jitter})")
        }
    }
}

fn norms(layer: &LayerSpec) -> String {
    let before = match layer.attention_norm == layer.ffn_norm {
        true => norm(&layer.attention_norm),
        false => format!("{} before attention, {} before feed-forward", norm(&layer.attention_norm), norm(&layer.ffn_norm)),
    };
    match (layer.post_attention_norm.is_some(), layer.post_ffn_norm.is_some()) {
        (false, false) => before,
        (true, true) => format!("{before}; also after attention and feed-forward"),
        (true, false) => format!("{before}; also after attention"),
        (false, true) => format!("{before}; also after feed-forward"),
    }
}

fn norm(norm: &NormSpec) -> String {
    let kind = match norm.kind {
        NormKind::Rms => "RMS",
        NormKind::Layer => "LayerNorm",
    };
    let bias = if norm.bias { ", bias" } else { "" };
    let offset = if norm.weight_offset == 0.0 { String::new() } else { format!(", weight + {}", norm.weight_offset) };
    format!("{kind}, eps {:e}{bias}{offset}", norm.eps)
}

fn biases(layer: &LayerSpec) -> String {
    let ffn = matches!(layer.ffn, FeedForward::Dense { bias: true, .. });
    let parts = [(layer.attention.qkv_bias, "q, k, v"), (layer.attention.output_bias, "attention output"), (ffn, "feed-forward")];
    let there: Vec<_> = parts.iter().filter(|p| p.0).map(|p| p.1).collect();
    if there.is_empty() { "none".into() } else { there.join(", ") }
}

fn rope(spec: &DecoderSpec) -> Vec<String> {
    let pairs = match spec.rope.pairing {
        RopePairing::Halves => "i with i + d/2",
        RopePairing::Adjacent => "2i with 2i + 1",
    };
    let mut lines = vec![format!("theta {}, {} values a head, {pairs}", spec.rope.theta, spec.rope.dim)];
    match &spec.rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => lines.push(format!("linear scaling by {factor}")),
        RopeScaling::Llama3 { factor, low, high, original } => {
            lines.push(format!("llama3 scaling by {factor}, low {low}, high {high}, original context {original}"))
        }
        RopeScaling::Divisors(divisors) => lines.push(format!("{} divisors from the file", divisors.len())),
        RopeScaling::LongRope { short_mscale, long_mscale, original, .. } => {
            lines.push(format!(
                "longrope: short factors up to {original} tokens (magnitude {short_mscale}), long ones beyond ({long_mscale})"
            ));
        }
    }
    lines
}

fn embedding(spec: &DecoderSpec) -> String {
    let tied = if spec.head.tied { "tied with the head" } else { "not tied" };
    if spec.embedding_scale == 1.0 { tied.into() } else { format!("{tied}, * {}", spec.embedding_scale) }
}

fn head(spec: &DecoderSpec) -> String {
    let head = spec.head;
    let mut parts = vec![if head.bias { "with bias" } else { "no bias" }.to_owned()];
    if head.scale != 1.0 {
        parts.push(format!("logits * {}", head.scale));
    }
    parts.extend(head.softcap.map(|cap| format!("logits capped at {cap}")));
    parts.join(", ")
}

fn skips(spec: &DecoderSpec) -> String {
    let link = |(from, to, slot): (usize, usize, usize)| format!("{from} -> {to} ({})", SLOTS[slot]);
    let links: Vec<_> = spec.skip_links().into_iter().map(link).collect();
    format!("{}; the old state's share is {}", links.join(", "), spec.skip_blend)
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu (tanh)",
    }
}

/// The same as JSON, layer by layer.
pub(super) fn json(spec: &DecoderSpec) -> Value {
    let scaling = match &spec.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low, high, original } => {
            json!({ "type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high, "original_context": original })
        }
        RopeScaling::Divisors(divisors) => json!({ "type": "divisors", "divisors": divisors }),
        RopeScaling::LongRope { short, long, short_mscale, long_mscale, original } => json!({
            "type": "longrope", "short_factor": short, "long_factor": long, "short_mscale": short_mscale,
            "long_mscale": long_mscale, "original_context": original,
        }),
    };
    let links = spec.skip_links().into_iter().map(|(from, to, slot)| json!({ "from": from, "to": to, "slot": SLOTS[slot] }));
    json!({
        "architecture": spec.architecture,
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "context": spec.context,
        "embedding_scale": spec.embedding_scale,
        "tied_embeddings": spec.head.tied,
        "head": { "bias": spec.head.bias, "scale": spec.head.scale, "softcap": spec.head.softcap },
        "final_norm": norm_json(&spec.final_norm),
        "rope": {
            "theta": spec.rope.theta,
            "dim": spec.rope.dim,
            "pairing": match spec.rope.pairing { RopePairing::Halves => "halves", RopePairing::Adjacent => "adjacent" },
            "scaling": scaling,
        },
        "skip_links": links.collect::<Vec<_>>(),
        "skip_blend": spec.has_skips().then_some(spec.skip_blend),
        "layers": spec.layers.iter().map(layer_json).collect::<Vec<_>>(),
    })
}

fn layer_json(layer: &LayerSpec) -> Value {
    let core = layer.attention.core;
    let ffn = match layer.ffn {
        FeedForward::Dense { ffn, activation, bias } => {
            json!({ "intermediate_size": ffn, "activation": activation_name(activation), "bias": bias })
        }
        FeedForward::Experts { ffn, experts, used, activation, routing } => {
            let Routing::SparseMixer { jitter } = routing;
            json!({
                "intermediate_size": ffn, "activation": activation_name(activation), "experts": experts, "experts_used": used,
                "routing": "sparsemixer", "jitter": jitter,
            })
        }
    };
    json!({
        "heads": core.heads,
        "kv_heads": core.kv_heads,
        "head_dim": core.head_dim,
        "score_scale": core.scale,
        "score_softcap": core.softcap,
        "window": core.window,
        "qkv_bias": layer.attention.qkv_bias,
        "output_bias": layer.attention.output_bias,
        "attention_norm": norm_json(&layer.attention_norm),
        "post_attention_norm": layer.post_attention_norm.as_ref().map(norm_json),
        "ffn_norm": norm_json(&layer.ffn_norm),
        "post_ffn_norm": layer.post_ffn_norm.as_ref().map(norm_json),
        "feed_forward": ffn,
    })
}

fn norm_json(norm: &NormSpec) -> Value {
    let kind = match norm.kind {
        NormKind::Rms => "rms",
        NormKind::Layer => "layer",
    };
    json!({ "type": kind, "eps": norm.eps, "bias": norm.bias, "weight_offset": norm.weight_offset })
}

#[cfg(test)]
mod tests {
    use super::layer_list;

    #[test]
    fn layers_are_listed_short() {
        assert_eq!(layer_list(&[0, 1, 2, 3]), "0-3");
        assert_eq!(layer_list(&[0, 2, 4, 6]), "0, 2, ... 6");
        assert_eq!(layer_list(&[1, 3, 5]), "1, 3, 5");
        assert_eq!(layer_list(&[0, 1, 2, 7, 9, 10]), "0-2, 7, 9-10");
        assert_eq!(layer_list(&[4]), "4");
    }
}
