//! The line that one types: editing, history, several lines, completion of commands.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, ColorMode, Config, Context, Editor as Rustyline, Helper, KeyCode, KeyEvent, Modifiers};

/// What came of reading a line.
pub(super) enum Input {
    Text(String),
    /// Ctrl-C.
    Cancelled,
    /// Ctrl-D.
    End,
}

/// A line editor with a history that outlives the program.
pub(super) struct Editor {
    rustyline: Rustyline<Assistant, DefaultHistory>,
    history: Option<PathBuf>,
}

/// Lines that are kept.
const HISTORY: usize = 1000;

impl Editor {
    /// An editor that completes `commands`.
    pub(super) fn new(commands: Vec<&'static str>, coloured: bool) -> Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_space(true)
            .color_mode(if coloured { ColorMode::Enabled } else { ColorMode::Disabled })
            .build();
        let mut rustyline = Rustyline::with_config(config).context("can not use this terminal")?;
        rustyline.set_helper(Some(Assistant { commands }));
        for key in [KeyEvent(KeyCode::Enter, Modifiers::ALT), KeyEvent::ctrl('J')] {
            rustyline.bind_sequence(key, Cmd::Newline);
        }
        let mut editor = Self { rustyline, history: history_path() };
        if let Some(path) = &editor.history
            && path.exists()
            && let Err(error) = editor.rustyline.load_history(path)
        {
            tracing::debug!(%error, "no history from {}", path.display());
        }
        Ok(editor)
    }

    /// Reads until Enter; a line that ends with `\` goes on in the next one.
    pub(super) fn read(&mut self, prompt: &str) -> Result<Input> {
        match self.rustyline.readline(prompt) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    self.remember(&line);
                }
                Ok(Input::Text(line.replace("\\\n", "\n")))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Cancelled),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(error).context("can not read from the terminal"),
        }
    }

    /// Kept at once, so that nothing ends with the program. A place that can not be written is no reason to stop.
    fn remember(&mut self, line: &str) {
        let added = self.rustyline.add_history_entry(line);
        let Some(path) = &self.history else { return };
        let kept = added.and_then(|_| {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            self.rustyline.append_history(path)
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "history not kept in {}", path.display());
        }
    }
}

/// Where this platform's programs keep such things.
fn history_path() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::home_dir();
    let dir = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home.map(|home| home.join("Library/Application Support"))
    } else {
        var("XDG_STATE_HOME").or_else(|| home.map(|home| home.join(".local/state")))
    };
    dir.map(|dir: PathBuf| dir.join("solarium").join(Path::new("history")))
}

/// What rustyline asks while a line is typed.
struct Assistant {
    commands: Vec<&'static str>,
}

impl Helper for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let candidates = self.commands.iter().filter(|c| typed.starts_with('/') && c.starts_with(typed));
        Ok((0, candidates.map(|c| (*c).to_owned()).collect()))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let goes_on = context.input().ends_with('\\');
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(format!("\x1b[1;36m{prompt}\x1b[0m"))
    }
}
