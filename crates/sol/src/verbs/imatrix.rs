//! `sol imatrix`: which columns of a model's matrices matter on a text, for `sol quantize` and llama-quantize.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sol_forge::quantize::{Importance, InputSums};
use sol_text::Encode;
use sol_weights::gguf::Existing;
use sol_weights::{Checkpoint, Format};

use crate::common::{Meter, Output, RunOptions, open, print};
use crate::ctrl_c::{CtrlC, Patience};

/// Tokens of a chunk where neither the user nor a smaller context says so: llama-imatrix's.
const CHUNK: usize = 512;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "The text is read in chunks of --ctx tokens (default 512), each on its own, and the squares of what every matrix \
    is multiplied with are summed up. A hundred chunks of the kind of text that the model will be used for are plenty. The \
    head is left out, as in llama-imatrix.

Examples:
  sol imatrix -m model-f16.gguf -f text.txt -o imatrix.gguf
  sol quantize -m model-f16.gguf -o model-q2_k.gguf q2_k --imatrix imatrix.gguf"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    /// The text, UTF-8
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE.gguf")]
    out: PathBuf,
    /// Stop after this many chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let shown = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("can not read {shown}"))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| anyhow::anyhow!("{shown}: the text is not UTF-8 (at byte {})", e.utf8_error().valid_up_to()))?;
    if args.out.exists() && !args.force {
        bail!("{} is there already and is not overwritten; --force replaces it", args.out.display());
    }

    let mut options = args.run.options();
    let path = args.run.model.resolve(output)?;
    let checkpoint = Checkpoint::open(&path)?;
    if checkpoint.format() != Format::Gguf {
        bail!(
            "{0}: importance matrices are made of GGUF files, whose names they use: sol convert -m {0} makes one",
            path.display()
        );
    }
    sol_forge::spare(checkpoint.files().iter().chain([&args.file]), &args.out)?;
    if options.context.is_none() {
        options.context = Some(CHUNK.min(sol_model::describe(&checkpoint)?.spec.context));
    }
    let mut model = open(&path, options, output)?;
    let chunk = model.engine().context();
    let tokenizer = model.tokenizer()?;
    let mut tokens = tokenizer.encode(&text, Encode { add_bos: true, parse_special: false })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    if let Some(chunks) = args.chunks {
        tokens.truncate((chunks as usize).saturating_mul(chunk));
    }
    let chunks = tokens.len() / chunk;

    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let mut meter = Meter::new(output, chunks as u64, "chunks");
    let sums =
        sol_engine::input_sums(model.engine(), &tokens, bos, chunk, &|| stop.is_set(), &mut |done| meter.reach(done as u64))?;
    drop(meter);

    let inputs = sums.into_iter().map(|(name, sums)| {
        let squares = sums.squares.iter().map(|&x| x as f32).collect();
        let counts = sums.counts.iter().map(|&n| n as f32).collect();
        (name, InputSums { squares, counts })
    });
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let dataset = args.file.display().to_string();
    let importance = Importance::new(vec![dataset], number(chunk), number(chunks), inputs.collect());
    let matrices = importance.inputs.len();
    importance.write(&args.out, if args.force { Existing::Replace } else { Existing::Refuse })?;
    if output.json {
        print(&serde_json::to_string_pretty(&json!({
            "path": args.out,
            "model": path,
            "file": args.file,
            "ctx": chunk,
            "chunks": chunks,
            "matrices": matrices,
        }))?)?;
    } else {
        print(&format!("{}: inputs of {matrices} matrices over {chunks} chunks of {chunk} tokens", args.out.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
