//! `sol run`: one answer, or a conversation in the terminal.
//!
//! Read in this order: this file (what is wanted, and the single answer), `prompt` (where its text comes from), `sampling`
//! (flags over the model's own defaults), `answer` (showing it), then `chat` with its `editor` and `save`.

mod answer;
mod chat;
mod editor;
mod prompt;
mod sampling;
mod save;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use sol_engine::{Constraint, Generation, Grammar, LanguageModel, Message};

use crate::common::{DraftArgs, Output, RunOptions, note, print};
use crate::ctrl_c;

const EXAMPLES: &str = "Examples:
  sol run \"Please, introduce yourself.\"
  sol run                                          # a conversation; /help lists its commands
  git diff | sol run \"Write a commit message for this.\"
  sol run -m solar-pro --system \"Answer in French.\" --system-as-user \"Why is the sky blue?\"
  sol run --draft lookup \"Correct the spelling of this text: ..\"   # guesses what is repeated, same answer
  sol run --raw --temperature 0.8 --seed 1 -n 64 \"Once upon a time\"
  sol run --json-schema person.json \"Who wrote Faust?\"   # the answer is JSON of that schema
  sol run -m model.gguf --ids 1,2,3 -n 8 --ignore-eos --json";

/// Where `--help` lists a flag.
const PROMPT: &str = "Prompt";
const ANSWER: &str = "Answer";

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to answer; text on stdin is put behind it, after an empty line. Without either: a conversation
    prompt: Option<OsString>,

    #[command(flatten)]
    run: RunOptions,

    /// Continue the text as it is, without the model's chat template
    #[arg(long, help_heading = PROMPT)]
    raw: bool,
    /// Instructions that stand above the conversation
    #[arg(long, value_name = "TEXT", help_heading = PROMPT, conflicts_with_all = ["raw", "ids"])]
    system: Option<String>,
    /// Put the system text in front of the first user message, for models without a system prompt
    #[arg(long, help_heading = PROMPT, requires = "system")]
    system_as_user: bool,
    /// Token ids instead of a text, as 1,2,3; prints ids. Needs no tokenizer
    #[arg(long, value_name = "IDS", help_heading = PROMPT, conflicts_with_all = ["prompt", "raw"])]
    ids: Option<Ids>,

    /// Most new tokens [default: 512, or what is left of the context]
    #[arg(short = 'n', long, value_name = "N", help_heading = ANSWER)]
    max_tokens: Option<usize>,
    /// A text that ends the answer and is not part of it; can be given more than once
    #[arg(long, value_name = "TEXT", help_heading = ANSWER)]
    stop: Vec<String>,
    /// Go on after end-of-turn tokens
    #[arg(long, help_heading = ANSWER)]
    ignore_eos: bool,
    /// Answer in JSON of the schema in this file
    #[arg(long, value_name = "FILE", help_heading = ANSWER, conflicts_with = "grammar")]
    json_schema: Option<PathBuf>,
    /// Answer as the grammar in this file has it (llguidance's variant of Lark)
    #[arg(long, value_name = "FILE", help_heading = ANSWER)]
    grammar: Option<PathBuf>,
    /// When the context is full, forget the older half of it and go on, instead of an error
    #[arg(long, help_heading = ANSWER)]
    shift: bool,

    #[command(flatten, next_help_heading = ANSWER)]
    draft: DraftArgs,

    #[command(flatten)]
    sampling: sampling::SamplingArgs,
}

/// `--ids`: separated by commas or spaces; brackets around them, as `sol tokenize` prints them, do no harm.
#[derive(Clone, Debug, PartialEq)]
struct Ids(Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
        let ids = inner.split([',', ' ', '\n']).filter(|word| !word.is_empty());
        ids.map(|word| word.parse().map_err(|_| format!("'{word}' is no token id"))).collect::<Result<_, _>>().map(Self)
    }
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    if let Some(ids) = &args.ids {
        let mut model = args.open(output)?;
        let generation = args.generation(&model, output)?;
        return one_answer(&mut model, &ids.0, &generation, &args, output);
    }
    let interactive = args.prompt.is_none() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if interactive {
        for (given, flag) in [(args.raw, "--raw"), (output.json, "--json")] {
            if given {
                bail!("{flag} needs a prompt: give one as an argument, or pipe it in");
            }
        }
        let model = args.open(output)?;
        let generation = args.generation(&model, output)?;
        return chat::converse(model, generation, args.system, short_name(&args.run.model.model), output);
    }
    let text = prompt::read(args.prompt.as_deref(), output)?;
    let empty = if args.raw { text.is_empty() } else { text.trim().is_empty() };
    if empty {
        bail!("the prompt is empty: give some text, as in sol run \"Please, introduce yourself.\"");
    }
    let mut model = args.open(output)?;
    let generation = args.generation(&model, output)?;
    if !args.shift {
        model.check_length(&text)?;
    }
    let prompt = if args.raw {
        model.text_prompt(&text)?
    } else {
        let system = args.system.iter().map(Message::system);
        model.chat_prompt(&system.chain([Message::user(text)]).collect::<Vec<_>>())?
    };
    one_answer(&mut model, &prompt, &generation, &args, output)
}

impl Args {
    fn open(&self, output: &Output) -> Result<LanguageModel> {
        let options = sol_engine::Options { system_as_user: self.system_as_user, ..self.run.options() };
        let draft = self.draft.find(output)?;
        let mut model = self.run.open(options, output)?;
        if let Some(draft) = draft {
            draft.help(&mut model, self.run.how.threads)?;
        }
        Ok(model)
    }

    fn generation(&self, model: &LanguageModel, output: &Output) -> Result<Generation> {
        let (sampling, remark) = self.sampling.over(model.default_sampling());
        sampling.check(model.spec().vocab)?;
        if let Some(remark) = remark {
            note(output, &remark);
        }
        Ok(Generation {
            sampling,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            shift: self.shift,
            constraint: self.constraint(model)?,
            ..Generation::default()
        })
    }

    fn constraint(&self, model: &LanguageModel) -> Result<Option<Constraint>> {
        let Some(path) = self.json_schema.as_ref().or(self.grammar.as_ref()) else { return Ok(None) };
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown} can not be read"))?;
        let grammar = if self.json_schema.is_some() {
            Grammar::JsonSchema(serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?)
        } else {
            Grammar::Lark(text)
        };
        Ok(Some(model.constrainer()?.constraint(&grammar).with_context(|| shown.to_string())?))
    }
}

/// The last part of a path; other names are short already.
pub(super) fn short_name(model: &str) -> &str {
    let path = Path::new(model);
    path.file_name().and_then(|name| name.to_str()).filter(|_| path.exists()).unwrap_or(model)
}

/// Answers once. Ctrl-C ends the answer; what was shown of it stays.
fn one_answer(
    model: &mut LanguageModel,
    prompt: &[u32],
    generation: &Generation,
    args: &Args,
    output: &Output,
) -> Result<ExitCode> {
    let ctrl_c = ctrl_c::CtrlC::install(ctrl_c::Patience::None)?;
    let generation = Generation { interrupt: ctrl_c.interrupt().clone(), ..generation.clone() };
    let text_wanted = args.ids.is_none() && !output.json;
    let answer = answer::show(model, prompt, &generation, text_wanted, output)?;
    if output.json {
        let report = answer::Report::new(&args.run.model.model, &answer, &generation, model.tokenizer().is_ok());
        print(&serde_json::to_string(&report)?)?;
    } else if args.ids.is_some() {
        print(&answer.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))?;
    } else if !answer::interrupted_early(&answer) {
        print("")?;
    }
    answer::remarks(&answer, &generation, model, output);
    Ok(if ctrl_c.interrupt().is_set() { ExitCode::from(ctrl_c::EXIT_CODE) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_as_people_and_programs_write_them() {
        for text in ["1,2,30", " 1, 2, 30 ", "[1, 2, 30]", "1 2 30", "[\n1,\n2,\n30\n]"] {
            assert_eq!(text.parse(), Ok(Ids(vec![1, 2, 30])), "{text:?}");
        }
        for text in ["1,x", "-1", "4294967296", "[1", "1.5"] {
            assert!(text.parse::<Ids>().is_err(), "{text:?}");
        }
    }
}
