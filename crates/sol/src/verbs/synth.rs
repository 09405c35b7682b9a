//! `sol synth`: a checkpoint with the shapes of a published model and random weights.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use sol_forge::Types;
use sol_forge::synth::{Order, PUBLISHED, Published};
use sol_weights::gguf::Existing;

use crate::common::{Output, bytes, count, print, write_checkpoint};
use crate::ctrl_c;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "The weights are random but sane: activations neither explode nor vanish. Speed and memory are those of the \
    real model; its answers mean nothing. The same seed gives the same weights.

Fewer layers are the model's first ones: of Solar Pro's skip connections those are kept that end within them, from \
--layers 17 on.

Examples:
  sol synth --like solar-pro -o solar.gguf                       # 22B in Q4_K_M, 13.3 GB
  sol synth --like solar-pro --as llama -o llama.gguf            # the same weights, for llama.cpp
  sol synth --like solar-pro --layers 4 --type bf16 -o four.gguf"
)]
pub(crate) struct Args {
    /// The file to write
    #[arg(short, long, value_name = "FILE.gguf")]
    out: PathBuf,
    /// Whose shapes: solar-pro, llama-3.1-8b, llama-3.1-70b, phi-3-medium, gemma-2-27b, smollm2
    #[arg(long, value_name = "MODEL", default_value = "solar-pro", value_parser = published)]
    like: &'static Published,
    /// Layers; default: the model's
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Types of the matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl, iq4_xs, q2_k to q6_k, or one of
    /// llama.cpp's mixtures q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m", value_parser = types)]
    types: Types,
    /// Other weights for another number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Another architecture for the same weights, without skip connections
    #[arg(long = "as", value_enum, value_name = "ARCHITECTURE")]
    architecture: Option<Architecture>,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Threads; default: one for each core
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// `--as`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Architecture {
    Llama,
}

fn published(name: &str) -> Result<&'static Published, String> {
    Published::named(name).ok_or_else(|| unknown(name, PUBLISHED.iter().map(|model| model.name)))
}

/// The types of a name, or what might have been meant.
pub(crate) fn types(name: &str) -> Result<Types, String> {
    Types::named(name).ok_or_else(|| unknown(name, Types::names()))
}

/// What might have been meant, and all that could be.
fn unknown(name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let known: Vec<&str> = known.collect();
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), other);
    let near = known.iter().min_by_key(|other| distance(other)).filter(|other| distance(other) <= 3.min(other.len() / 2));
    let meant = near.map_or_else(String::new, |near| format!("did you mean {near}? "));
    format!("{meant}known are {}", known.join(", "))
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let as_llama = matches!(args.architecture, Some(Architecture::Llama));
    let order = Order { like: args.like, layers: args.layers, types: args.types, seed: args.seed, as_llama };
    let plan = order.plan()?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);

    let written =
        write_checkpoint(output, plan.weight_bytes(), |stop, progress| plan.write(&args.out, existing, threads, stop, progress));
    let Some((file_bytes, seconds)) = written? else {
        return Ok(ExitCode::from(ctrl_c::EXIT_CODE));
    };

    let parameters: u64 = plan.tensors().map(|tensor| tensor.shape.iter().map(|&n| n as u64).product::<u64>()).sum();
    let speed = file_bytes as f64 / seconds;
    if output.json {
        print(&serde_json::to_string_pretty(&json!({
            "path": args.out,
            "like": args.like.name,
            "architecture": plan.architecture(),
            "layers": plan.layers(),
            "type": args.types.name(),
            "seed": args.seed,
            "parameters": parameters,
            "tensors": plan.tensors().len(),
            "bytes": file_bytes,
            "seconds": seconds,
            "bytes_per_second": speed,
        }))?)?;
    } else {
        let (path, layers) = (args.out.display(), plan.layers());
        let plural = if layers == 1 { "" } else { "s" };
        print(&format!(
            "{path}: {}, {layers} layer{plural}, {} parameters in {}; {} in {seconds:.1} s ({}/s)",
            plan.architecture(),
            count(parameters),
            args.types.name(),
            bytes(file_bytes),
            bytes(speed as u64),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right_are_told() {
        assert!(published("Solar-Pro").is_ok());
        assert!(published("solr-pro").unwrap_err().starts_with("did you mean solar-pro?"));
        assert!(published("gpt-4").unwrap_err().starts_with("known are solar-pro, "));
        assert!(types("q4_k_n").unwrap_err().starts_with("did you mean q4_k"));
        assert!(types("float").unwrap_err().starts_with("known are f32, "));
    }
}
