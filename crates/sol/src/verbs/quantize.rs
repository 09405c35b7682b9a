//! `sol quantize`: a GGUF checkpoint in fewer bits.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use sol_forge::Types;
use sol_forge::quantize::{Importance, Order, Outcome};
use sol_weights::Checkpoint;
use sol_weights::gguf::Existing;

use crate::common::{ModelArg, Output, bytes, print, write_checkpoint};
use crate::ctrl_c;
use crate::verbs::synth;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "The source is a GGUF file with F32, F16, BF16 or Q8_0 weights. A TYPE means what it means to llama-quantize: \
    q4_k_m and its like are mixtures, and where a block format is named the head has more bits; with --pure every matrix \
    has the type. Norms, biases and routers stay as they are.

An importance matrix (of sol imatrix or llama-imatrix, GGUF or the older .dat) says which columns of a matrix matter most; it makes \
the low types much better.

Examples:
  sol quantize -m model-f16.gguf -o model-q4_k_m.gguf q4_k_m
  sol imatrix -m model-f16.gguf -f text.txt -o imatrix.gguf
  sol quantize -m model-f16.gguf -o model-q2_k.gguf q2_k --imatrix imatrix.gguf"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The file to write
    #[arg(short, long, value_name = "FILE.gguf")]
    out: PathBuf,
    /// q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, iq4_xs, f16,
    /// bf16 or f32
    #[arg(value_name = "TYPE", value_parser = synth::types)]
    types: Types,
    /// Which columns matter
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The same type for every matrix
    #[arg(long)]
    pure: bool,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Threads; default: one for each core
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let name = args.types.name();
    let types = if args.pure { args.types } else { Types::mostly(name).unwrap_or(args.types) };
    let path = args.model.resolve(output)?;
    let source = Checkpoint::open(&path)?;
    let importance = args.imatrix.as_deref().map(Importance::read).transpose()?;
    let plan = Order { source: &source, types, importance: importance.as_ref() }.plan()?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);

    let written =
        write_checkpoint(output, plan.source_bytes(), |stop, progress| plan.write(&args.out, existing, threads, stop, progress));
    let Some((report, seconds)) = written? else {
        return Ok(ExitCode::from(ctrl_c::EXIT_CODE));
    };

    let changed: Vec<&Outcome> = report.tensors.iter().filter(|tensor| tensor.from != tensor.to).collect();
    let sum = |of: fn(&Outcome) -> f64| changed.iter().map(|tensor| of(tensor)).sum::<f64>();
    let squared = sum(|tensor| tensor.squared);
    let error = if squared > 0.0 { (sum(|tensor| tensor.squared_error) / squared).sqrt() } else { 0.0 };
    let before: u64 = report.tensors.iter().map(|tensor| tensor.bytes_before).sum();
    let after: u64 = report.tensors.iter().map(|tensor| tensor.bytes_after).sum();
    let elements: usize = report.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    let bits = 8.0 * after as f64 / elements.max(1) as f64;
    if output.json {
        let tensor = |tensor: &&Outcome| {
            json!({
                "name": tensor.name,
                "shape": tensor.shape,
                "from": tensor.from.name(),
                "to": tensor.to.name(),
                "bytes_before": tensor.bytes_before,
                "bytes_after": tensor.bytes_after,
                "mean_squared_error": tensor.mean_squared_error(),
                "relative_error": tensor.relative_error(),
                "weighed": tensor.weighed,
            })
        };
        print(&serde_json::to_string_pretty(&json!({
            "path": args.out,
            "source": path,
            "type": name,
            "bytes": report.file_bytes,
            "bits_per_weight": bits,
            "relative_error": error,
            "seconds": seconds,
            "source_bytes_per_second": before as f64 / seconds,
            "tensors": changed.iter().map(tensor).collect::<Vec<_>>(),
            "copied": report.tensors.len() - changed.len(),
        }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !output.quiet {
        print_table(&changed)?;
    }
    print(&format!(
        "{}: {name}, {} ({bits:.2} bits a weight) from {}; error {:.2} %; {seconds:.1} s ({}/s)",
        args.out.display(),
        bytes(report.file_bytes),
        bytes(before),
        100.0 * error,
        bytes((before as f64 / seconds) as u64),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each tensor whose type has changed.
fn print_table(tensors: &[&Outcome]) -> Result<()> {
    let width = tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0).max(6);
    print(&format!(
        "{:width$}  {:>14}  {:>4}    {:6}  {:>9}  {:>9}  {:>7}",
        "tensor", "shape", "from", "to", "before", "after", "error"
    ))?;
    for tensor in tensors {
        let shape = tensor.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        print(&format!(
            "{:width$}  {shape:>14}  {:>4} -> {:6}  {:>9}  {:>9}  {:>5.2} %{}",
            tensor.name,
            tensor.from,
            tensor.to,
            bytes(tensor.bytes_before),
            bytes(tensor.bytes_after),
            100.0 * tensor.relative_error(),
            if tensor.weighed { " weighed" } else { "" },
        ))?;
    }
    Ok(())
}
