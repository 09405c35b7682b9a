//! Figures for Prometheus, under names of our own and, where it has the same thing, vLLM's.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sol_engine::Figures;

/// Upper bounds in seconds.
const BOUNDS: [f64; 16] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// How often something took how long.
#[derive(Default)]
pub(crate) struct Histogram {
    /// One more than bounds: what is above all of them.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, time: Duration) {
        let at = BOUNDS.partition_point(|bound| *bound < time.as_secs_f64());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, model: &str) {
        let _ = writeln!(out, "# TYPE {name} histogram");
        let mut sum = 0;
        for (i, count) in self.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let bound = BOUNDS.get(i).map_or("+Inf".into(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{model_name=\"{model}\",le=\"{bound}\"}} {sum}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{model_name=\"{model}\"}} {seconds}\n{name}_count{{model_name=\"{model}\"}} {sum}");
    }
}

/// What the server counts beside the engine.
#[derive(Default)]
pub(crate) struct Metrics {
    /// From a request's arrival to each first token.
    pub(crate) first_token: Histogram,
    /// Between tokens of an answer.
    pub(crate) between_tokens: Histogram,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) new_tokens: AtomicU64,
    pub(crate) done: AtomicU64,
    /// Requests that had no answer: refused ones and those whose client went.
    pub(crate) refused: AtomicU64,
    pub(crate) abandoned: AtomicU64,
}

impl Metrics {
    /// Prometheus' text format.
    pub(crate) fn text(&self, figures: &Figures, model: &str) -> String {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let mut out = String::new();
        let mut one = |kind: &str, value: f64, names: &[&str]| {
            for name in names {
                let _ = writeln!(out, "# TYPE {name} {kind}\n{name}{{model_name=\"{model}\"}} {value}");
            }
        };
        let size = |n: &std::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed) as f64;
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let (blocks, running) = (size(&figures.blocks), size(&figures.blocks_running));
        one("gauge", size(&figures.running), &["solarium_requests_running", "vllm:num_requests_running"]);
        one("gauge", size(&figures.waiting), &["solarium_requests_waiting", "vllm:num_requests_waiting"]);
        one("gauge", blocks, &["solarium_kv_blocks"]);
        one("gauge", running, &["solarium_kv_blocks_running"]);
        one("gauge", size(&figures.blocks_kept), &["solarium_kv_blocks_kept"]);
        let names = ["solarium_kv_usage_ratio", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];
        one("gauge", running / blocks.max(1.0), &names);
        one(
            "counter",
            count(&self.prompt_tokens),
            &["solarium_prompt_tokens_total", "vllm:prompt_tokens_total", "vllm:prefix_cache_queries_total"],
        );
        one("counter", count(&self.cached_tokens), &["solarium_prefix_hit_tokens_total", "vllm:prefix_cache_hits_total"]);
        one("counter", count(&self.new_tokens), &["solarium_generated_tokens_total", "vllm:generation_tokens_total"]);
        one("counter", count(&figures.preemptions), &["solarium_preemptions_total", "vllm:num_preemptions_total"]);
        let names = ["solarium_draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"];
        one("counter", count(&figures.guessed_tokens), &names);
        let names = ["solarium_draft_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"];
        one("counter", count(&figures.accepted_tokens), &names);
        one("counter", count(&figures.passes), &["solarium_passes_total"]);
        one("counter", count(&self.done), &["solarium_requests_done_total", "vllm:request_success_total"]);
        one("counter", count(&self.refused), &["solarium_requests_refused_total"]);
        one("counter", count(&self.abandoned), &["solarium_requests_abandoned_total"]);
        for name in ["solarium_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"] {
            self.first_token.write(&mut out, name, &model);
        }
        for name in ["solarium_inter_token_seconds", "vllm:inter_token_latency_seconds"] {
            self.between_tokens.write(&mut out, name, &model);
        }
        out
    }
}
