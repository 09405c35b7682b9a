//! `sol logits`: logits at every position of given token ids, for comparison with other implementations.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sol_engine::{Error, Sequence};
use sol_weights::{DType, safetensors};

use crate::common::{Meter, Output, RunOptions, note, print};
use crate::ctrl_c::{CtrlC, Patience};

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Without --ctx the context is the length T of the sequences: a longrope model then uses the factors that \
    transformers uses for sequences of this length.\n\nExample:\n  \
    sol logits -m DIR --ids ids.safetensors --out logits.safetensors"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    /// A safetensors file with `input_ids`, [B,T] in I64
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// Where to write `logits`, [B,T,V] in F32
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Run one token at a time instead of a sequence in one piece: the result must be the same
    #[arg(long)]
    token_by_token: bool,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let ids = Ids::read(&args.ids)?;
    check_place(&args.out)?;
    let mut options = args.run.options();
    options.context = options.context.or(Some(ids.length));
    let mut model = match args.run.open(options, output) {
        Err(error) => match error.downcast_ref() {
            Some(Error::ContextTooLong { context, .. }) if args.run.how.ctx.is_none() => {
                bail!("{}: its sequences have {} tokens, but the model's context is {context}", args.ids.display(), ids.length)
            }
            _ => return Err(error),
        },
        model => model?,
    };
    let vocab = model.spec().vocab;
    ids.check(vocab, &args.ids)?;

    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let shape = [ids.sequences.len(), ids.length, vocab];
    let mut file = safetensors::Writer::create(&args.out, &[("logits", DType::F32, shape.as_slice())])?;
    let mut meter = Meter::new(output, (shape[0] * shape[1]) as u64, "tokens");
    let engine = model.engine();
    for tokens in &ids.sequences {
        let mut sequence = Sequence::default();
        let mut written = Ok(());
        let mut put = |logits: &[f32]| {
            if written.is_ok() {
                written = file.write(bytemuck::cast_slice(logits));
            }
            meter.step();
        };
        if args.token_by_token {
            for token in tokens {
                put(engine.extend(&mut sequence, &[*token], &|| stop.is_set())?);
            }
        } else {
            engine.score(&mut sequence, tokens, 0, &|| stop.is_set(), |_, logits| put(logits))?;
        }
        written?;
        engine.release(sequence);
    }
    file.finish()?;
    drop(meter);
    if output.json {
        print(&json!({ "out": args.out, "dtype": "F32", "shape": shape }).to_string())?;
    } else {
        note(output, &format!("{}: logits, F32 {shape:?}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// `input_ids`.
struct Ids {
    sequences: Vec<Vec<u32>>,
    length: usize,
}

impl Ids {
    fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let tensors = safetensors::read(path)?;
        let names = || tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
        let tensor = tensors
            .iter()
            .find(|t| t.name == "input_ids")
            .with_context(|| format!("{shown}: it has no tensor 'input_ids' (it has: {})", names()))?;
        let [count, length] = tensor.shape[..] else {
            bail!("{shown}: 'input_ids' has shape {:?}; [B,T] is needed, B sequences of T ids", tensor.shape);
        };
        if tensor.dtype != DType::I64 {
            bail!("{shown}: 'input_ids' is {}; I64 is needed", tensor.dtype);
        }
        if count == 0 || length == 0 {
            bail!("{shown}: 'input_ids' has shape {:?}: there are no tokens in it", tensor.shape);
        }
        let mut sequences = Vec::new();
        for (b, row) in tensor.to_i64()?.chunks(length).enumerate() {
            let id = |(t, id): (usize, &i64)| {
                u32::try_from(*id).map_err(|_| anyhow::anyhow!("{shown}: input_ids[{b}, {t}] is {id}, which is no token id"))
            };
            sequences.push(row.iter().enumerate().map(id).collect::<Result<_>>()?);
        }
        Ok(Self { sequences, length })
    }

    /// Before anything is computed.
    fn check(&self, vocab: usize, path: &Path) -> Result<()> {
        for (b, row) in self.sequences.iter().enumerate() {
            if let Some(t) = row.iter().position(|id| *id as usize >= vocab) {
                let range = format!("the vocabulary has {vocab} tokens (0 to {})", vocab - 1);
                bail!("{}: input_ids[{b}, {t}] is {}, but {range}", path.display(), row[t]);
            }
        }
        Ok(())
    }
}

/// A directory that is missing is better noticed before an hour of work than after it.
fn check_place(out: &Path) -> Result<()> {
    let dir = out.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        bail!("{}: there is no directory {} to write to", out.display(), dir.display());
    }
    if out.is_dir() {
        bail!("{}: it is a directory; --out takes the name of a file", out.display());
    }
    Ok(())
}
