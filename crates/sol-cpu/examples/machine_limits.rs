//! What this machine can do at most: `cargo run --release -p sol-cpu --example machine_limits [-- --help]`.
//!
//! Read bandwidth bounds the making of tokens (every weight is read once a token), multiply-adds bound the reading of
//! prompts. Each figure is measured with one thread and with all, as the median and the best of several passes. Threads keep to
//! a processor each and start together at a barrier; each takes its own times: a pass lasts from the first start to the last
//! end.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "machine_limits/avx2.rs"]
mod avx2;

use std::process::ExitCode;

const HELP: &str = "Options:
  --threads N    compare one thread with N (default: one for each core)
  --passes N     passes of each measurement (default 9)
  --file FILE    also read this file through a mapping (its pages are in the page cache by then)
  --json         for programs";

/// What is asked for.
struct Options {
    threads: usize,
    passes: usize,
    file: Option<String>,
    json: bool,
}

/// One figure with one number of threads.
struct Limit {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    threads: usize,
    /// One a pass, in `unit`.
    samples: Vec<f64>,
}

/// All figures, and the share of the memory meant for 2 MB pages that lies in such.
struct Limits {
    figures: Vec<Limit>,
    huge: f64,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match measure(&options) {
        Ok(limits) => {
            println!("{}", if options.json { json(&limits) } else { table(&limits) });
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("machine_limits: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn measure(options: &Options) -> Result<Limits, String> {
    avx2::measure(options)
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn measure(_: &Options) -> Result<Limits, String> {
    Err("measurements are for Linux on x86-64 only".into())
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut options = Options { threads, passes: 9, file: None, json: false };
    while let Some(arg) = args.next() {
        let number = |value: Option<String>| {
            let number = value.as_deref().and_then(|v| v.parse().ok()).filter(|n| (1..=1024).contains(n));
            number.ok_or_else(|| format!("{arg} needs a number from 1 to 1024"))
        };
        match arg.as_str() {
            "--threads" => options.threads = number(args.next())?,
            "--passes" => options.passes = number(args.next())?,
            "--file" => options.file = Some(args.next().ok_or("--file needs a path")?),
            "--json" => options.json = true,
            "--help" => return Err("The limits of this machine.".into()),
            _ => return Err(format!("{arg} is no option")),
        }
    }
    Ok(options)
}

impl Limit {
    fn sorted(&self) -> Vec<f64> {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        samples
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
    }

    fn best(&self) -> f64 {
        self.samples.iter().copied().fold(0.0, f64::max)
    }
}

fn table(limits: &Limits) -> String {
    let mut out = format!("{}\n{:<58} {:>7} {:>8} {:>8}\n", cpu(), "", "threads", "median", "best");
    for limit in &limits.figures {
        let what = format!("{}, {}", limit.what, limit.unit);
        out += &format!("{what:<58} {:>7} {:>8.1} {:>8.1}\n", limit.threads, limit.median(), limit.best());
    }
    if limits.huge < 0.9 {
        out += &format!("note: only {:.0} % of that memory lies in 2 MB pages: the system gave no more\n", 100.0 * limits.huge);
    }
    out.trim_end().to_owned()
}

fn json(limits: &Limits) -> String {
    let figure = |l: &Limit| {
        let samples: Vec<String> = l.samples.iter().map(|s| format!("{s:.3}")).collect();
        format!(
            "    {{ \"name\": \"{}\", \"unit\": \"{}\", \"threads\": {}, \"median\": {:.3}, \"best\": {:.3}, \"samples\": [{}] }}",
            l.name,
            l.unit,
            l.threads,
            l.median(),
            l.best(),
            samples.join(", ")
        )
    };
    let figures: Vec<String> = limits.figures.iter().map(figure).collect();
    // Processor names have been seen with neither quotes nor backslashes.
    let cpu = cpu().replace(['"', '\\'], "");
    format!(
        "{{\n  \"cpu\": \"{cpu}\",\n  \"huge_page_share\": {:.3},\n  \"limits\": [\n{}\n  ]\n}}",
        limits.huge,
        figures.join(",\n")
    )
}

/// The processor's name, where Linux tells it.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown processor", |(_, name)| name.trim()).to_owned()
}
