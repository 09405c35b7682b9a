//! Figures for Prometheus, under names of our own and, where it has the same thing, vLLM's.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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

/// What the server counts of a model beside the engine.
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
    /// Requests whose client went.
    pub(crate) abandoned: AtomicU64,
}

/// Figures of a model; those of the engine where it is in memory.
pub(crate) struct Row<'a> {
    pub(crate) model: &'a str,
    pub(crate) metrics: &'a Metrics,
    pub(crate) figures: Option<&'a Figures>,
}

/// Prometheus' text format. Refused requests are counted with the first model: they need not have named any.
pub(crate) fn text(rows: &[Row<'_>], refused: u64) -> String {
    let escape = |model: &str| model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let rows: Vec<(String, &Metrics, Option<&Figures>)> =
        rows.iter().map(|row| (escape(row.model), row.metrics, row.figures)).collect();
    let mut out = String::new();
    let mut all = |kind: &str, names: &[&str], value: &dyn Fn(&Metrics, Option<&Figures>) -> Option<f64>| {
        for name in names {
            let _ = writeln!(out, "# TYPE {name} {kind}");
            for (model, metrics, figures) in &rows {
                if let Some(value) = value(metrics, *figures) {
                    let _ = writeln!(out, "{name}{{model_name=\"{model}\"}} {value}");
                }
            }
        }
    };
    type Size = fn(&Figures) -> &AtomicUsize;
    type Count = fn(&Figures) -> &AtomicU64;
    type Own = fn(&Metrics) -> &AtomicU64;
    let size = |n: &AtomicUsize| n.load(Ordering::Relaxed) as f64;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
    all("gauge", &["solarium_model_loaded"], &|_, figures| Some(f64::from(u8::from(figures.is_some()))));
    let sizes: [(&[&str], Size); 5] = [
        (&["solarium_requests_running", "vllm:num_requests_running"], |f| &f.running),
        (&["solarium_requests_waiting", "vllm:num_requests_waiting"], |f| &f.waiting),
        (&["solarium_kv_blocks"], |f| &f.blocks),
        (&["solarium_kv_blocks_running"], |f| &f.blocks_running),
        (&["solarium_kv_blocks_kept"], |f| &f.blocks_kept),
    ];
    for (names, figure) in sizes {
        all("gauge", names, &|_, figures| figures.map(|figures| size(figure(figures))));
    }
    let names = ["solarium_kv_usage_ratio", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];
    all("gauge", &names, &|_, figures| figures.map(|f| size(&f.blocks_running) / size(&f.blocks).max(1.0)));
    let own: [(&[&str], Own); 5] = [
        (&["solarium_prompt_tokens_total", "vllm:prompt_tokens_total", "vllm:prefix_cache_queries_total"], |m| &m.prompt_tokens),
        (&["solarium_prefix_hit_tokens_total", "vllm:prefix_cache_hits_total"], |m| &m.cached_tokens),
        (&["solarium_generated_tokens_total", "vllm:generation_tokens_total"], |m| &m.new_tokens),
        (&["solarium_requests_done_total", "vllm:request_success_total"], |m| &m.done),
        (&["solarium_requests_abandoned_total"], |m| &m.abandoned),
    ];
    for (names, figure) in own {
        all("counter", names, &|metrics, _| Some(count(figure(metrics))));
    }
    let counts: [(&[&str], Count); 4] = [
        (&["solarium_preemptions_total", "vllm:num_preemptions_total"], |f| &f.preemptions),
        (&["solarium_passes_total"], |f| &f.passes),
        (&["solarium_draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"], |f| &f.guessed_tokens),
        (&["solarium_draft_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"], |f| &f.accepted_tokens),
    ];
    for (names, figure) in counts {
        all("counter", names, &|_, figures| figures.map(|figures| count(figure(figures))));
    }
    if let Some((model, ..)) = rows.first() {
        let name = "solarium_requests_refused_total";
        let _ = writeln!(out, "# TYPE {name} counter\n{name}{{model_name=\"{model}\"}} {refused}");
    }
    type Times = fn(&Metrics) -> &Histogram;
    let histograms: [([&str; 2], Times); 2] = [
        (["solarium_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"], |m| &m.first_token),
        (["solarium_inter_token_seconds", "vllm:inter_token_latency_seconds"], |m| &m.between_tokens),
    ];
    for (names, histogram) in histograms {
        for name in names {
            let _ = writeln!(out, "# TYPE {name} histogram");
            rows.iter().for_each(|(model, metrics, _)| histogram(metrics).write(&mut out, name, model));
        }
    }
    out
}
