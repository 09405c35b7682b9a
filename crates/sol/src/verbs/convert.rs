//! `sol convert`: a checkpoint in the other format, adapters merged on the way.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use sol_forge::convert::{Order, SHARD_BYTES, TYPES};
use sol_weights::gguf::Existing;
use sol_weights::{DType, Format};

use crate::common::{ModelArg, Output, bytes, count, note, print, write_checkpoint};
use crate::ctrl_c;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "The output's name says the direction: one that ends in .gguf is a GGUF file with the keys that llama.cpp's \
    converter writes, any other a Hugging Face directory. Tensors that keep their type keep their bytes. A LoRA or DoRA adapter, as PEFT \
    saves it, can also be merged from directory to directory. `sol quantize` makes smaller types than q8_0.

Examples:
  sol convert -m ./solar-pro -o solar-pro.gguf                   # types as they are
  sol convert -m ./solar-pro -o solar-pro-q8.gguf --type q8_0
  sol convert -m model-f16.gguf -o ./model                       # for transformers or vLLM
  sol convert -m ./base --lora ./adapter -o merged.gguf
  sol convert -m model-q4.gguf -o ./model --type bf16            # decodes; nothing that was lost comes back"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The file (NAME.gguf) or directory to write
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// Type of the matrices: f32, f16, bf16, or q8_0 in a .gguf; default: what each is stored in
    #[arg(long = "type", value_name = "TYPE", value_parser = dtype)]
    dtype: Option<DType>,
    /// Merge a LoRA adapter: a directory with adapter_config.json and adapter_model.safetensors. Again for another
    #[arg(long, value_name = "DIR")]
    lora: Vec<PathBuf>,
    /// Replace the output if it is there
    #[arg(long)]
    force: bool,
    /// Threads; default: one for each core
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

fn dtype(name: &str) -> Result<DType, String> {
    let found = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    found.map(|(_, dtype)| *dtype).ok_or_else(|| format!("known are {}; `sol quantize` makes others", names.join(", ")))
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let source = args.model.resolve(output)?;
    let order = Order { source: &source, out: &args.out, dtype: args.dtype, lora: &args.lora, shard_bytes: SHARD_BYTES };
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let plan = order.plan()?;
    for text in plan.notes() {
        note(output, &format!("note: {text}"));
    }
    let written = write_checkpoint(output, plan.weight_bytes(), |stop, progress| plan.write(existing, threads, stop, progress));
    let Some(((), seconds)) = written? else {
        return Ok(ExitCode::from(ctrl_c::EXIT_CODE));
    };

    let (format, what) = match plan.target() {
        Format::Gguf => ("gguf", "a GGUF file"),
        Format::Safetensors => ("safetensors", "a Hugging Face directory"),
    };
    let dtype = plan.main_type().name().to_lowercase();
    let weights = plan.weight_bytes();
    let speed = weights as f64 / seconds.max(1e-9);
    if output.json {
        print(&serde_json::to_string_pretty(&json!({
            "path": args.out,
            "format": format,
            "architecture": plan.architecture(),
            "type": dtype,
            "parameters": plan.parameters(),
            "tensors": plan.tensors().len(),
            "merged": plan.merged(),
            "weight_bytes": weights,
            "notes": plan.notes(),
            "seconds": seconds,
            "bytes_per_second": speed,
        }))?)?;
    } else {
        let merged = match plan.merged() {
            0 => String::new(),
            n => format!(", {n} modules changed by adapters"),
        };
        print(&format!(
            "{}: {what}, {}, {} parameters in {dtype}{merged}; {} in {seconds:.1} s ({}/s)",
            args.out.display(),
            plan.architecture(),
            count(plan.parameters()),
            bytes(weights),
            bytes(speed as u64),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
