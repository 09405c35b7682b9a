//! What all verbs share: the words of the command line, finding and opening a model with a progress bar, and how an error is
//! shown.

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sol_compute::KvType;
use sol_engine::{Guesses, LanguageModel, Options, Speculation, open_tokenizer, same_vocabulary};
use sol_hub::{Hub, ModelRef, Progress};
use sol_model::RopeFactors;
use sol_text::Tokenizer;

use crate::ctrl_c::{self, CtrlC, Patience};

/// Options of every verb about what is printed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Output {
    /// Machine-readable output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Only results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// More about what happens; twice for the log
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Which model.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArg {
    /// A directory, a .gguf file, org/repo[@revision][:file], or an alias (see `sol list`)
    #[arg(short, long, default_value = "smollm2")]
    pub(crate) model: String,
}

/// A model, and how to run it.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) how: How,
}

/// How to run models.
#[derive(Args, Clone, Debug)]
pub(crate) struct How {
    /// Threads; default: one for each core
    #[arg(short, long)]
    pub(crate) threads: Option<usize>,
    /// What computes
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
    /// Longest sequence in tokens; default: the model's context, or what fits of it
    #[arg(short, long)]
    pub(crate) ctx: Option<usize>,
    /// Number format of the KV cache; default: f32 for unquantised weights, else f16; q8_0 takes about half of f16's memory
    #[arg(long, value_enum)]
    pub(crate) kv: Option<Kv>,
    /// Ignore sliding windows, as llama.cpp does for Phi-3
    #[arg(long)]
    pub(crate) no_window: bool,
    /// Which longrope factors; default: long iff the context exceeds the original one
    #[arg(long, value_enum)]
    pub(crate) rope_factors: Option<Factors>,
}

/// What computes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Device {
    Cpu,
}

/// `--kv`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kv {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::F32 => Self::F32,
            Kv::F16 => Self::F16,
            Kv::Q8_0 => Self::Q8_0,
        }
    }
}

/// `--rope-factors`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Factors {
    Short,
    Long,
}

/// Whether tokens are guessed ahead.
#[derive(Args, Clone, Debug)]
pub(crate) struct DraftArgs {
    /// Guess tokens ahead, from the text so far (`lookup`) or with a small model of the same vocabulary; answers stay the same
    #[arg(long, value_name = "MODEL|lookup")]
    draft: Option<String>,
    /// Most tokens guessed ahead
    #[arg(long, value_name = "N", default_value_t = 8, requires = "draft", value_parser = clap::value_parser!(u16).range(1..=63))]
    draft_tokens: u16,
}

impl DraftArgs {
    /// How to guess; a draft model is found now, and opened for each model that it is to guess for.
    pub(crate) fn find(&self, output: &Output) -> Result<Option<Draft>> {
        let path = match self.draft.as_deref() {
            None => return Ok(None),
            Some("lookup") => None,
            Some(model) => Some(ModelArg { model: model.to_owned() }.resolve(output)?),
        };
        Ok(Some(Draft { path, tokens: self.draft_tokens.into() }))
    }
}

/// How to guess.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    path: Option<PathBuf>,
    tokens: usize,
}

impl Draft {
    /// The draft model, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Refuses to guess for a model of another vocabulary.
    pub(crate) fn check(&self, tokenizer: &Tokenizer) -> sol_engine::Result<()> {
        let Some(path) = self.path() else { return Ok(()) };
        same_vocabulary(tokenizer, &open_tokenizer(path)?, path)
    }

    /// Makes a model guess.
    pub(crate) fn help(&self, model: &mut LanguageModel, threads: Option<usize>) -> sol_engine::Result<()> {
        let guesses = match &self.path {
            None => Guesses::Lookup,
            Some(path) => {
                let options = Options { threads, ..Options::default() }.for_draft_of(model, path)?;
                Guesses::Model(Box::new(LanguageModel::open(path, options)?))
            }
        };
        model.speculate(Speculation { guesses, tokens: self.tokens })
    }
}

impl How {
    /// For the library.
    pub(crate) fn options(&self) -> Options {
        let Device::Cpu = self.device;
        Options {
            threads: self.threads,
            context: self.ctx,
            sequences: None,
            kv_memory: None,
            kv_type: self.kv.map(Into::into),
            no_window: self.no_window,
            rope_factors: self.rope_factors.map(|f| match f {
                Factors::Short => RopeFactors::Short,
                Factors::Long => RopeFactors::Long,
            }),
            system_as_user: false,
        }
    }
}

impl RunOptions {
    /// For the library.
    pub(crate) fn options(&self) -> Options {
        self.how.options()
    }

    /// Obtains the model if need be, opens it and shows its warnings.
    pub(crate) fn open(&self, options: Options, output: &Output) -> Result<LanguageModel> {
        open(&self.model.resolve(output)?, options, output)
    }
}

impl ModelArg {
    /// The path of the model, fetched if it is not here.
    pub(crate) fn resolve(&self, output: &Output) -> Result<PathBuf> {
        let reference = ModelRef::parse(&self.model)?;
        Ok(Hub::from_env()?.resolve(&reference, &Bars::new(output))?)
    }
}

/// Opens a model that is here and shows its warnings.
pub(crate) fn open(path: &Path, options: Options, output: &Output) -> Result<LanguageModel> {
    let model = LanguageModel::open(path, options)?;
    for warning in model.warnings() {
        note(output, &format!("warning: {warning}"));
    }
    Ok(model)
}

/// A line on stderr, unless quiet.
pub(crate) fn note(output: &Output, text: &str) {
    if !output.quiet {
        say(text);
    }
}

/// Downloads as bars on a terminal, as lines elsewhere.
pub(crate) struct Bars {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bars {
    pub(crate) fn new(output: &Output) -> Self {
        Self { quiet: output.quiet, bar: Mutex::new(None) }
    }

    fn with(&self, f: impl FnOnce(&mut Option<ProgressBar>)) {
        f(&mut self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Bars {
    fn start(&self, file: &str, total: Option<u64>, already: u64) {
        if self.quiet {
            return;
        }
        if !std::io::stderr().is_terminal() {
            let size = total.map_or(String::new(), |n| format!(" ({})", bytes(n)));
            say(&format!("fetching {file}{size}"));
            return;
        }
        let style = match total {
            Some(_) => "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
            None => "{msg} {spinner} {decimal_bytes}, {decimal_bytes_per_sec}",
        };
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template").progress_chars("=> "));
        bar.set_message(file.to_owned());
        bar.set_position(already);
        self.with(|current| {
            if let Some(old) = current.replace(bar) {
                old.finish_and_clear();
            }
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|bar| {
            if let Some(bar) = bar {
                bar.inc(bytes);
            }
        });
    }

    fn finish(&self, _file: &str) {
        self.with(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn note(&self, message: &str) {
        if self.quiet {
            return;
        }
        self.with(|bar| match bar {
            Some(bar) => bar.println(message),
            None => say(message),
        });
    }
}

/// Bytes for people: "98.4 MB".
pub(crate) fn bytes(n: u64) -> String {
    sol_engine::Size(n).to_string()
}

/// A number of parameters for people: "22.14 B".
pub(crate) fn count(parameters: u64) -> String {
    match parameters as f64 {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n => format!("{:.2} K", n / 1e3),
    }
}

/// How a server writes its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Log {
    /// For people
    Text,
    /// An object a line
    Json,
}

/// Sends the libraries' log to stderr: `-v`, `-vv`, or as `SOL_LOG` says. A server's has a line a request, unless quiet.
pub(crate) fn init(output: &Output, server: Option<Log>) {
    let level = match (output.verbose, server) {
        (0, Some(_)) if !output.quiet => "warn,sol_serve=info",
        (0, _) => "off",
        (1, _) => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SOL_LOG").unwrap_or_else(|_| level.into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match server {
        None => log.init(),
        Some(Log::Text) => log.with_ansi(std::io::stderr().is_terminal()).init(),
        Some(Log::Json) => log.json().flatten_event(true).with_current_span(false).init(),
    }
}

/// A bar for work that turns out to take more than a second.
pub(crate) struct Meter {
    bar: ProgressBar,
    shown: bool,
    quiet: bool,
    start: Instant,
}

impl Meter {
    /// For `total` steps called `unit`.
    pub(crate) fn new(output: &Output, total: u64, unit: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = format!("[{{bar:30}}] {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left {{msg}}");
        bar.set_style(ProgressStyle::with_template(&template).expect("a valid template").progress_chars("=> "));
        Self { bar, shown: false, quiet: output.quiet, start: Instant::now() }
    }

    /// One step more.
    pub(crate) fn step(&mut self) {
        self.reach(self.bar.position() + 1);
    }

    /// So many steps are done.
    pub(crate) fn reach(&mut self, position: u64) {
        if !self.shown && !self.quiet && self.start.elapsed() > Duration::from_secs(1) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        self.bar.set_position(position);
    }

    /// What is written behind the bar.
    pub(crate) fn say(&self, text: String) {
        self.bar.set_message(text);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

const MEGABYTE: u64 = 1_000_000;

/// Writes a checkpoint behind a bar of so many bytes; what came of it and how many seconds it took, or nothing where Ctrl-C ended it.
pub(crate) fn write_checkpoint<T>(
    output: &Output,
    bytes: u64,
    write: impl FnOnce(&dyn Fn() -> bool, &mut dyn FnMut(u64)) -> sol_forge::Result<T>,
) -> Result<Option<(T, f64)>> {
    let ctrl_c = CtrlC::install(Patience::None)?;
    let mut meter = Meter::new(output, bytes / MEGABYTE, "MB");
    let start = Instant::now();
    let written = write(&|| ctrl_c.interrupt().is_set(), &mut |done| meter.reach(done / MEGABYTE));
    drop(meter);
    match written {
        Err(error @ sol_forge::Error::Interrupted) => {
            note(output, &format!("sol: {error}"));
            Ok(None)
        }
        Err(sol_forge::Error::Weights(error @ sol_weights::Error::Exists { .. })) => {
            anyhow::bail!("{error}; --force replaces it")
        }
        done => Ok(Some((done?, start.elapsed().as_secs_f64()))),
    }
}

/// Shows an error as one sentence with its causes. A reader that went away (`sol ... | head`) is no error.
pub(crate) fn exit_code(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if error.chain().any(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("sol: {}", sentence(&error)));
            let interrupted = matches!(error.downcast_ref(), Some(sol_engine::Error::Interrupted))
                || matches!(error.downcast_ref(), Some(sol_eval::Error::Interrupted));
            if interrupted { ExitCode::from(ctrl_c::EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

/// An error and its causes. Transparent errors repeat their source: each is said once.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        said if said.contains(&cause) => text,
        said => format!("{said}: {cause}"),
    })
}

/// A line on stderr. Where nobody reads it any more, it is lost; `eprintln!` would panic.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// Prints a line of results; a closed pipe is an error that `exit_code` forgives.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("can not write to stdout")
}
