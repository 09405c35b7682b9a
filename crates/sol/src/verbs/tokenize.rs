//! `sol tokenize`: text to ids and back, exactly, for comparison with other implementations and as a co-process.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use sol_text::{Encode, Tokenizer};

use crate::common::{ModelArg, Output, note};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "The text is taken as it is: a newline at its end is part of it.\n\nExamples:\n  \
    printf 'Hello' | sol tokenize\n  echo '[19556]' | sol tokenize --decode\n  \
    echo '\"Hello\\n\"' | sol tokenize --lines          # one JSON string a line in, one array a line out")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Leave out the token that the model wants before each text
    #[arg(long)]
    no_bos: bool,
    /// Read special tokens in the text, such as <|im_end|>, as such
    #[arg(long)]
    parse_special: bool,
    /// From ids (a JSON array) back to text; the token before it is dropped again, unless --no-bos
    #[arg(long)]
    decode: bool,
    /// One JSON string a line in, one JSON array a line out, or with --decode the other way round
    #[arg(long)]
    lines: bool,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let tokenizer = sol_engine::open_tokenizer(&args.model.resolve(output)?)?;
    tokenizer.notes().iter().for_each(|n| note(output, &format!("warning: {n}")));
    let converter = Converter { tokenizer, add_bos: !args.no_bos, special: args.parse_special };
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    if args.lines {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if input.read_until(b'\n', &mut line).context("can not read stdin")? == 0 {
                break;
            }
            let converted = converter.line(&line, args.decode).with_context(|| format!("line {number} of stdin"))?;
            // Whoever wrote the line may be waiting for the answer before the next.
            writeln!(out, "{converted}").and_then(|()| out.flush()).context("can not write to stdout")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut all = Vec::new();
    input.read_to_end(&mut all).context("can not read stdin")?;
    let result = match args.decode {
        true => {
            let text = converter.decode(&all).context("stdin")?;
            if output.json { serde_json::to_string(&text)? + "\n" } else { text }
        }
        false => converter.encode(as_text(&all).context("stdin")?)? + "\n",
    };
    out.write_all(result.as_bytes()).and_then(|()| out.flush()).context("can not write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

struct Converter {
    tokenizer: Tokenizer,
    add_bos: bool,
    special: bool,
}

impl Converter {
    /// One line of `--lines`.
    fn line(&self, line: &[u8], decode: bool) -> Result<String> {
        if decode {
            return Ok(serde_json::to_string(&self.decode(line)?)?);
        }
        let text: String = serde_json::from_str(as_text(line)?).context("not a JSON string (\"...\")")?;
        self.encode(&text)
    }

    fn encode(&self, text: &str) -> Result<String> {
        let ids = self.tokenizer.encode(text, Encode { add_bos: self.add_bos, parse_special: self.special })?;
        Ok(serde_json::to_string(&ids)?)
    }

    /// What `encode` made these ids of.
    fn decode(&self, json: &[u8]) -> Result<String> {
        let ids: Vec<i64> = serde_json::from_slice(json).context("not a JSON array of token ids ([1, 2, 3])")?;
        let size = self.tokenizer.vocab_size();
        let known = |id: i64| u32::try_from(id).ok().filter(|id| (*id as usize) < size);
        let mut known_ids = Vec::with_capacity(ids.len());
        for (at, id) in ids.into_iter().enumerate() {
            let Some(id) = known(id) else {
                bail!("id {id} (number {} of the array) is not in the vocabulary of {size} tokens (0 to {})", at + 1, size - 1);
            };
            known_ids.push(id);
        }
        let with_bos = self.add_bos && self.tokenizer.adds_bos() && known_ids.first().copied() == self.tokenizer.bos();
        Ok(self.tokenizer.decode(&known_ids[usize::from(with_bos)..], false))
    }
}

fn as_text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = bytes[..at].iter().filter(|b| **b == b'\n').count() + 1;
        anyhow::anyhow!("the text is not UTF-8: byte {:#04x} at offset {at} (line {line}) starts no character", bytes[at])
    })
}
