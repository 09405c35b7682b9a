//! `sol bench`: prefill and decode speed, in the words and columns of llama-bench.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use sol_compute::Backend;
use sol_cpu::Cpu;
use sol_engine::{Engine, Error, Interrupt, LanguageModel, Sequence};
use sol_model::memory;

use crate::common::{Output, RunOptions, bytes, count, print};
use crate::ctrl_c::{self, CtrlC, Patience};

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Tests: ppN reads a prompt of N tokens in one piece, tgN makes N tokens one after another, each after the \
    depths of -d tokens that are cached already (@ dN). tgN x P decodes P sequences together, one token of each in a pass, \
    each after its own -d tokens. Speeds are tokens per second (of all sequences), mean and standard deviation of -r \
    repetitions after one for warming up. Lists are written 0,2048.\n\nExamples:\n  sol bench -p 512 -n 128 -d 0,2048 --json\n  \
    sol bench -p 0 -n 32 -d 16 -b 1,4,8,16,32"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    /// Tokens of the prompt; 0: do not measure this
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512", value_name = "N,...")]
    n_prompt: Vec<usize>,
    /// Tokens to make; 0: do not measure this
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128", value_name = "N,...")]
    n_gen: Vec<usize>,
    /// Tokens that are in the cache before
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0", value_name = "N,...")]
    n_depth: Vec<usize>,
    /// Sequences that -n makes tokens for together
    #[arg(short = 'b', long, visible_alias = "batch", value_delimiter = ',', default_value = "1", value_name = "P,...")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    parallel: Vec<u16>,
    /// Prompt and answer in one test: tokens of each
    #[arg(long, value_name = "P,G", value_parser = pair)]
    pg: Vec<(usize, usize)>,
    /// Repetitions
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once(',').and_then(|(p, g)| Some((p.trim().parse().ok()?, g.trim().parse().ok()?)));
    numbers.filter(|pair| *pair != (0, 0)).ok_or_else(|| "two numbers are needed, such as 512,128".to_owned())
}

/// What is measured: a prompt, an answer, or one after the other.
#[derive(Clone, Copy)]
struct Test {
    prompt: usize,
    /// Of each sequence.
    generate: usize,
    depth: usize,
    /// Sequences that are decoded together.
    parallel: usize,
}

impl Test {
    /// Tokens of all sequences.
    fn tokens(&self) -> usize {
        self.length().saturating_mul(self.parallel)
    }

    /// Tokens of one sequence, without those before.
    fn length(&self) -> usize {
        self.prompt.saturating_add(self.generate)
    }

    fn name(&self) -> String {
        let name = match (self.prompt, self.generate) {
            (p, 0) => format!("pp{p}"),
            (0, g) if self.parallel > 1 => format!("tg{g} x {}", self.parallel),
            (0, g) => format!("tg{g}"),
            (p, g) => format!("pp{p}+tg{g}"),
        };
        if self.depth == 0 { name } else { format!("{name} @ d{}", self.depth) }
    }
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let tests = plan(&args);
    let Some(needed) = tests.iter().map(|t| t.depth.saturating_add(t.length())).max() else {
        bail!("there is nothing to measure: -p, -n and --pg are all 0");
    };
    let mut options = args.run.options();
    options.sequences = tests.iter().map(|t| t.parallel).max();
    options.context = options.context.or(Some(needed));
    let mut model = match args.run.open(options, output) {
        Err(error) => match error.downcast_ref() {
            Some(Error::ContextTooLong { context, .. }) if args.run.how.ctx.is_none() => {
                bail!("the longest test needs {needed} tokens, but the model's context is {context}; lower -p, -n or -d")
            }
            _ => return Err(error),
        },
        model => model?,
    };
    if needed > model.engine().context() {
        bail!("the longest test needs {needed} tokens, but --ctx is {}", model.engine().context());
    }

    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let about = About::new(&mut model);
    let mut entries = Vec::new();
    if !output.json {
        print(&about.table_head())?;
    }
    for test in tests {
        let samples = measure(model.engine(), test, args.repetitions, stop)?;
        if !samples.is_empty() {
            let speed = Speed { test, samples };
            if output.json { entries.push(about.json(&speed)) } else { print(&about.table_row(&speed))? }
        }
        if stop.is_set() {
            break;
        }
    }
    if output.json {
        print(&serde_json::to_string_pretty(&entries)?)?;
    }
    Ok(if stop.is_set() { ExitCode::from(ctrl_c::EXIT_CODE) } else { ExitCode::SUCCESS })
}

/// The tests in llama-bench's order.
fn plan(args: &Args) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &args.n_depth {
        tests.extend(args.n_prompt.iter().map(|&prompt| Test { prompt, generate: 0, depth, parallel: 1 }));
        for &generate in &args.n_gen {
            tests.extend(args.parallel.iter().map(|&p| Test { prompt: 0, generate, depth, parallel: p.into() }));
        }
        tests.extend(args.pg.iter().map(|&(prompt, generate)| Test { prompt, generate, depth, parallel: 1 }));
    }
    tests.retain(|t| t.length() > 0);
    tests
}

/// The times of as many repetitions as were done before an interrupt.
fn measure(engine: &mut Engine<Cpu>, test: Test, repetitions: u32, stop: &Interrupt) -> Result<Vec<Duration>> {
    let mut sequences: Vec<Sequence> = (0..test.parallel).map(|_| Sequence::default()).collect();
    let measured = (|| {
        let stop = || stop.is_set();
        let mut ids = Ids::new(engine.model().spec().vocab);
        if test.depth > 0 {
            for sequence in &mut sequences {
                engine.extend(sequence, &ids.take(test.depth), &stop)?;
            }
        }
        // To warm up, one token shows what a hundred would.
        let warm_up = Test { generate: test.generate.min(1), ..test };
        once(engine, &mut sequences, warm_up, &mut ids, &stop)?;
        let mut samples = Vec::new();
        for _ in 0..repetitions {
            match once(engine, &mut sequences, test, &mut ids, &stop) {
                Err(Error::Interrupted) => break,
                time => samples.push(time?),
            }
        }
        Ok(samples)
    })();
    sequences.into_iter().for_each(|sequence| engine.release(sequence));
    match measured {
        Err(Error::Interrupted) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

fn once(
    engine: &mut Engine<Cpu>,
    sequences: &mut [Sequence],
    test: Test,
    ids: &mut Ids,
    stop: &dyn Fn() -> bool,
) -> Result<Duration, Error> {
    for sequence in sequences.iter_mut() {
        engine.truncate(sequence, test.depth);
    }
    let prompt = ids.take(test.prompt);
    let answers = ids.take(test.generate * test.parallel);
    let start = Instant::now();
    if let [sequence, ..] = &mut *sequences
        && !prompt.is_empty()
    {
        engine.extend(sequence, &prompt, stop)?;
    }
    for tokens in answers.chunks(test.parallel) {
        if stop() {
            return Err(Error::Interrupted);
        }
        let mut steps: Vec<(&mut Sequence, u32)> = sequences.iter_mut().zip(tokens.iter().copied()).collect();
        engine.step(&mut steps, |_, _| {})?;
    }
    Ok(start.elapsed())
}

/// Token ids without meaning, the same in every run.
struct Ids {
    state: u64,
    vocab: u64,
}

impl Ids {
    fn new(vocab: usize) -> Self {
        Self { state: 0, vocab: vocab as u64 }
    }

    /// A linear congruential generator (Knuth's MMIX) does for this.
    fn take(&mut self, n: usize) -> Vec<u32> {
        let mut next = || {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % self.vocab) as u32
        };
        (0..n).map(|_| next()).collect()
    }
}

/// A test's times.
struct Speed {
    test: Test,
    samples: Vec<Duration>,
}

impl Speed {
    fn nanoseconds(&self) -> Vec<f64> {
        self.samples.iter().map(|s| s.as_nanos() as f64).collect()
    }

    fn tokens_per_second(&self) -> Vec<f64> {
        self.samples.iter().map(|s| self.test.tokens() as f64 / s.as_secs_f64()).collect()
    }
}

/// Mean and standard deviation (of a sample).
fn statistics(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() })
}

/// What was measured on what.
struct About {
    path: String,
    /// As llama-bench writes it: "llama 135M Q4_1".
    model: String,
    size: u64,
    parameters: u64,
    backend: String,
    threads: usize,
    kv_type: &'static str,
}

impl About {
    fn new(model: &mut LanguageModel) -> Self {
        let parameters = memory::parameters(model.spec());
        let engine = model.engine();
        let checkpoint = engine.model().checkpoint();
        let kind = memory::weights_by_type(checkpoint).first().map_or(String::new(), |most| format!(" {}", most.dtype));
        Self {
            path: checkpoint.path().display().to_string(),
            model: format!("{} {}{kind}", engine.model().spec().architecture, count(parameters)),
            size: memory::weight_bytes(checkpoint),
            parameters,
            backend: engine.model().backend().describe(),
            threads: engine.model().backend().threads(),
            kv_type: engine.kv_type().name(),
        }
    }

    fn table_head(&self) -> String {
        let widths = self.widths();
        let rule: Vec<String> = widths.iter().enumerate().map(|(i, w)| rule(*w, i != 0 && i != 3)).collect();
        let names = ["model", "size", "params", "backend", "threads", "test", "t/s"].map(str::to_owned);
        format!("{}\n| {} |", row(&names, &widths), rule.join(" | "))
    }

    fn table_row(&self, speed: &Speed) -> String {
        let (mean, deviation) = statistics(&speed.tokens_per_second());
        let cells = [
            self.model.clone(),
            bytes(self.size),
            count(self.parameters),
            self.backend.clone(),
            self.threads.to_string(),
            speed.test.name(),
            format!("{mean:.2} ± {deviation:.2}"),
        ];
        row(&cells, &self.widths())
    }

    fn widths(&self) -> [usize; 7] {
        [self.model.len().max(24), 10, 10, self.backend.len().max(10), 7, 18, 20]
    }

    /// llama-bench's keys, so that what reads its output reads this.
    fn json(&self, speed: &Speed) -> Value {
        let (nanoseconds, rates) = (speed.nanoseconds(), speed.tokens_per_second());
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (statistics(&nanoseconds), statistics(&rates));
        json!({
            "build": concat!("sol ", env!("CARGO_PKG_VERSION")),
            "test": speed.test.name(),
            "model_filename": self.path,
            "model_type": self.model,
            "model_size": self.size,
            "model_n_params": self.parameters,
            "backends": self.backend,
            "n_threads": self.threads,
            "type_k": self.kv_type,
            "type_v": self.kv_type,
            "n_prompt": speed.test.prompt,
            "n_gen": speed.test.generate,
            "n_depth": speed.test.depth,
            "n_parallel": speed.test.parallel,
            "avg_ns": avg_ns.round() as u64,
            "stddev_ns": stddev_ns.round() as u64,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "samples_ns": nanoseconds.iter().map(|ns| *ns as u64).collect::<Vec<_>>(),
            "samples_ts": rates,
        })
    }
}

fn row(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
        0 | 3 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

fn rule(width: usize, right: bool) -> String {
    format!("{}{}", "-".repeat(width - 1), if right { ':' } else { '-' })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_a_sample() {
        assert_eq!(statistics(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), (5.0, (32.0f64 / 7.0).sqrt()));
        assert_eq!(statistics(&[3.0]), (3.0, 0.0));
    }

    #[test]
    fn ids_are_in_the_vocabulary_and_differ() {
        let mut ids = Ids::new(101).take(1000);
        assert!(ids.iter().all(|id| *id < 101));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 101);
    }
}
