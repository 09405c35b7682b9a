//! The conversation in the terminal.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use sol_engine::{Generation, LanguageModel, Message};

use super::editor::{Editor, Input};
use super::{answer, save};
use crate::common::{Output, note, print, say, sentence};
use crate::ctrl_c::{CtrlC, Patience};

/// What can be typed beside messages: command, argument, what it does.
const COMMANDS: [(&str, &str, &str); 6] = [
    ("/help", "", "show this"),
    ("/regen", "", "another answer to the last message"),
    ("/reset", "", "forget the conversation and begin anew"),
    ("/save", "FILE", "write the conversation: Markdown to .md, else JSON; /save! replaces a file that exists"),
    ("/quit", "", "leave; Ctrl-D does the same"),
    ("/save!", "FILE", ""),
];

/// The temperature of `/regen` where answers are greedy: the same answer once more is not what was asked for.
const REGEN_TEMPERATURE: f32 = 0.8;

/// What to do after a line.
enum Next {
    GoOn,
    Leave,
}

/// A conversation and what it is held with.
struct Chat<'a> {
    model: LanguageModel,
    name: &'a str,
    generation: Generation,
    ctrl_c: CtrlC,
    output: &'a Output,
    messages: Vec<Message>,
    /// Answers that `/regen` asked for: each has a seed of its own.
    regenerated: u64,
    /// The file that `/save` wrote before, which may be written again.
    saved: Option<PathBuf>,
}

/// Talks until the user leaves.
pub(super) fn converse(
    model: LanguageModel,
    generation: Generation,
    system: Option<String>,
    name: &str,
    output: &Output,
) -> Result<ExitCode> {
    let messages: Vec<Message> = system.into_iter().map(Message::system).collect();
    // A model that can not hold a conversation says so now and not after the first message.
    model.chat_prompt(&[messages.as_slice(), &[Message::user("?")]].concat())?;
    let ctrl_c = CtrlC::install(Patience::WarnOnce)?;
    let generation = Generation { interrupt: ctrl_c.interrupt().clone(), ..generation };
    let mut chat = Chat { model, name, generation, ctrl_c, output, messages, regenerated: 0, saved: None };
    let mut editor = Editor::new(COMMANDS.iter().map(|c| c.0).collect(), coloured())?;
    note(output, &format!("{name}, context of {} tokens. /help shows what can be typed.", chat.model.context()));
    loop {
        match editor.read("> ")? {
            Input::Text(line) if line.trim().is_empty() => {}
            Input::Text(line) => {
                let next = match line.strip_prefix('/') {
                    Some(_) => chat.command(line.trim_end())?,
                    None => chat.message(&line)?,
                };
                if let Next::Leave = next {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Input::Cancelled => note(output, "(Ctrl-D or /quit leaves)"),
            Input::End => return Ok(ExitCode::SUCCESS),
        }
    }
}

impl Chat<'_> {
    fn message(&mut self, text: &str) -> Result<Next> {
        if let Err(error) = self.model.check_length(text) {
            say(&format!("sol: {error}"));
            return Ok(Next::GoOn);
        }
        self.messages.push(Message::user(text));
        if !self.answer(self.generation.clone())? {
            self.messages.pop();
        }
        Ok(Next::GoOn)
    }

    /// Answers the last message; says whether there is an answer now. Only a terminal that is gone is an error.
    fn answer(&mut self, generation: Generation) -> Result<bool> {
        self.ctrl_c.reset();
        let prompt = self.prompt();
        let answer = match prompt.and_then(|ids| answer::show(&mut self.model, &ids, &generation, true, self.output)) {
            Ok(answer) => answer,
            Err(error) => {
                let Some(known) = error.downcast_ref::<sol_engine::Error>() else { return Err(error) };
                let overflow = matches!(known, sol_engine::Error::ContextOverflow { .. });
                let advice = if overflow { "; /reset begins anew" } else { "" };
                say(&format!("sol: {}\n(the conversation is as it was before{advice})", sentence(&error)));
                return Ok(false);
            }
        };
        print("")?;
        answer::remarks(&answer, &generation, &self.model, self.output);
        if answer::interrupted_early(&answer) {
            note(self.output, "(the conversation is as it was before)");
            return Ok(false);
        }
        self.messages.push(Message::assistant(answer.text));
        Ok(true)
    }

    /// The conversation as ids. With `--shift`, whole exchanges are forgotten before the engine has to cut through one.
    fn prompt(&mut self) -> Result<Vec<u32>> {
        loop {
            let ids = self.model.chat_prompt(&self.messages)?;
            if !self.generation.shift || ids.len() < self.model.context() || !forget_oldest(&mut self.messages) {
                return Ok(ids);
            }
            note(self.output, "(the oldest exchange is forgotten: the context is full)");
        }
    }

    fn command(&mut self, line: &str) -> Result<Next> {
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "/help" => print(&help())?,
            "/quit" | "/exit" => return Ok(Next::Leave),
            "/reset" => {
                self.messages.retain(|m| m.role == "system");
                note(self.output, "(a new conversation)");
            }
            "/regen" | "/regenerate" => self.regenerate()?,
            "/save" | "/save!" => self.save(argument.trim(), command == "/save!"),
            unknown => say(&did_you_mean(unknown)),
        }
        Ok(Next::GoOn)
    }

    fn regenerate(&mut self) -> Result<()> {
        if self.messages.last().is_none_or(|m| m.role != "assistant") {
            note(self.output, "there is no answer yet that could be made again");
            return Ok(());
        }
        self.regenerated += 1;
        let mut generation = self.generation.clone();
        generation.sampling.seed = generation.sampling.seed.wrapping_add(self.regenerated);
        if generation.sampling.temperature == 0.0 {
            generation.sampling.temperature = REGEN_TEMPERATURE;
            note(self.output, &format!("(at temperature {REGEN_TEMPERATURE}: greedy would say the same again)"));
        }
        let before = self.messages.clone();
        self.messages.pop();
        if !self.answer(generation)? {
            self.messages = before;
        }
        Ok(())
    }

    fn save(&mut self, file: &str, overwrite: bool) {
        if file.is_empty() {
            return say("where to? /save FILE");
        }
        let path = save::expand_home(file);
        let overwrite = overwrite || self.saved.as_ref() == Some(&path);
        match save::save(&path, self.name, &self.messages, overwrite) {
            Ok(()) => {
                note(self.output, &format!("(saved to {})", path.display()));
                self.saved = Some(path);
            }
            Err(error) => say(&format!("sol: {}", sentence(&error))),
        }
    }
}

/// Takes the first exchange out of a conversation that has more than one.
fn forget_oldest(messages: &mut Vec<Message>) -> bool {
    let Some(first) = messages.iter().position(|m| m.role != "system") else { return false };
    let Some(next) = messages.iter().skip(first + 1).position(|m| m.role == "user") else { return false };
    messages.drain(first..=first + next);
    true
}

fn help() -> String {
    let shown = COMMANDS.iter().filter(|c| !c.2.is_empty());
    let lines = shown.map(|(command, argument, about)| format!("{:<12} {about}\n", format!("{command} {argument}")));
    let keys = "Ctrl-C stops an answer. A line that ends with \\ goes on in the next one, as after Alt-Enter.\n\
                Up and Down go through earlier lines, Ctrl-R searches them.";
    lines.collect::<String>() + keys
}

fn did_you_mean(unknown: &str) -> String {
    let near = COMMANDS.iter().map(|c| c.0).min_by_key(|c| strsim::damerau_levenshtein(unknown, c));
    let near = near.filter(|c| strsim::damerau_levenshtein(unknown, c) <= 3).unwrap_or("/help");
    format!("there is no command {unknown}; perhaps {near}? A message that begins with / needs a space in front")
}

/// Whether the terminal wants colours: <https://no-color.org>.
fn coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_command_is_offered() {
        for (typed, near) in [("/sav", "/save?"), ("/rest", "/reset?"), ("/regne", "/regen?"), ("/usr/bin/env", "/help?")] {
            let hint = did_you_mean(typed);
            assert!(hint.contains(near), "{hint}");
        }
    }

    #[test]
    fn the_oldest_exchange_goes_first_and_the_system_prompt_stays() {
        let mut messages = vec![
            Message::system("s"),
            Message::user("1"),
            Message::assistant("a"),
            Message::user("2"),
            Message::assistant("b"),
            Message::user("3"),
        ];
        assert!(forget_oldest(&mut messages));
        assert_eq!(messages, [Message::system("s"), Message::user("2"), Message::assistant("b"), Message::user("3")]);
        assert!(forget_oldest(&mut messages));
        assert!(!forget_oldest(&mut messages));
        assert_eq!(messages, [Message::system("s"), Message::user("3")]);
        assert!(!forget_oldest(&mut vec![]));
    }
}
