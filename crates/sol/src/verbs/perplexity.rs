//! `sol perplexity`: how well a model foretells a text, as llama-perplexity defines it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;
use sol_engine::{Interrupt, Options, Perplexity};
use sol_text::Encode;

use crate::common::{Meter, Output, RunOptions, open, print};
use crate::ctrl_c::{CtrlC, Patience};

/// Tokens a chunk where neither the user nor a smaller context says so: llama-perplexity's.
const CHUNK: usize = 512;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "The text is cut into chunks of --ctx tokens (default 512), each read on its own; the second half of each \
    is scored. Figures for different --ctx can not be compared, nor can those of models with different tokenizers."
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    /// The text, UTF-8
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Stop after this many chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    chunks: Option<u64>,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let text = read(&args.file)?;
    let path = args.run.model.resolve(output)?;
    let ctrl_c = CtrlC::install(Patience::None)?;
    let (result, chunk) = measure(&path, &text, args.run.options(), args.chunks, ctrl_c.interrupt(), output)?;
    if output.json {
        print(&serde_json::to_string(&json!({
            "model": path,
            "file": args.file,
            "perplexity": result.value,
            "error": result.error,
            "ctx": chunk,
            "chunks": result.chunks,
            "tokens": result.tokens,
        }))?)?;
    } else {
        print(&format!("PPL = {:.4} +/- {:.4}", result.value, result.error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of a file.
pub(crate) fn read(file: &Path) -> Result<String> {
    let shown = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("can not read {shown}"))?;
    String::from_utf8(bytes)
        .map_err(|e| anyhow::anyhow!("{shown}: the text is not UTF-8 (at byte {})", e.utf8_error().valid_up_to()))
}

/// The perplexity of a text, in chunks as long as the second number says: as `options` do, else [`CHUNK`] tokens.
pub(crate) fn measure(
    path: &Path,
    text: &str,
    mut options: Options,
    chunks: Option<u64>,
    stop: &Interrupt,
    output: &Output,
) -> Result<(Perplexity, usize)> {
    if options.context.is_none() {
        let checkpoint = sol_weights::Checkpoint::open(path)?;
        options.context = Some(CHUNK.min(sol_model::describe(&checkpoint)?.spec.context));
    }
    let mut model = open(path, options, output)?;
    let chunk = model.engine().context();
    let tokenizer = model.tokenizer()?;
    let mut tokens = tokenizer.encode(text, Encode { add_bos: true, parse_special: false })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    if let Some(chunks) = chunks {
        tokens.truncate(usize::try_from(chunks).unwrap_or(usize::MAX).saturating_mul(chunk));
    }
    let mut meter = Meter::new(output, (tokens.len() / chunk) as u64, "chunks");
    let result = sol_engine::perplexity(model.engine(), &tokens, bos, chunk, &|| stop.is_set(), &mut |so_far| {
        tracing::info!("chunk {} of {}: PPL {:.4}", so_far.chunk, so_far.chunks, so_far.value);
        meter.say(format!("PPL {:.4}", so_far.value));
        meter.step();
    })?;
    Ok((result, chunk))
}
