//! Showing an answer as it comes, and saying afterwards what there is to say about it.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sol_engine::{Answer, Finish, Generation, LanguageModel};

use crate::common::{Output, note};

/// Answers; the text goes to stdout piece by piece if it is `wanted` there. A reader that went away ends the answer.
pub(super) fn show(
    model: &mut LanguageModel,
    prompt: &[u32],
    generation: &Generation,
    wanted: bool,
    output: &Output,
) -> Result<Answer> {
    let mut out = std::io::stdout();
    let to_terminal = out.is_terminal();
    let mut failure = None;
    let mut waiting = Waiting::start(prompt.len(), output);
    let answer = model.generate(prompt, generation, &mut |text| {
        waiting.take();
        if !wanted || failure.is_some() {
            return;
        }
        let shown = if to_terminal { harmless(text) } else { text.to_owned() };
        if let Err(error) = out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            failure = Some(error);
            generation.interrupt.set();
        }
    });
    drop(waiting);
    match failure {
        Some(error) => Err(error).context("can not write to stdout"),
        None => Ok(answer?),
    }
}

/// A model can write any character, and some of them would command the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Tells on stderr that an answer was cut, and with `-v` how long it took.
pub(super) fn remarks(answer: &Answer, generation: &Generation, model: &LanguageModel, output: &Output) {
    let limit = answer.ids.len();
    match answer.finish {
        // In a JSON object there is a field for it.
        _ if output.json => {}
        Finish::MaxTokens if generation.max_tokens.is_some() => {
            note(output, &format!("(cut after {limit} tokens, as --max-tokens says)"))
        }
        Finish::MaxTokens => note(output, &format!("(cut after {limit} tokens; --max-tokens allows more)")),
        Finish::ContextFull => {
            let context = model.context();
            note(output, &format!("(cut: the context of {context} tokens is full; --shift goes on and forgets the beginning)"));
        }
        Finish::Interrupted => note(output, "(interrupted)"),
        Finish::EndOfTurn | Finish::StopString => {}
    }
    if output.verbose > 0 && !interrupted_early(answer) {
        let speed = Speed::of(answer);
        let cached =
            if answer.cached_tokens > 0 { format!(" ({} more were cached)", answer.cached_tokens) } else { String::new() };
        let guessed = match answer.guessed {
            [0, _] => String::new(),
            [guessed, accepted] => format!(" ({accepted} of {guessed} guesses came true)"),
        };
        note(
            output,
            &format!(
                "prompt: {} tokens in {:.2} s, {:.1} tokens/s{cached}\nanswer: {} tokens in {:.2} s, {:.1} tokens/s{guessed}",
                speed.read,
                answer.prefill.as_secs_f64(),
                speed.prefill,
                answer.ids.len(),
                answer.decode.as_secs_f64(),
                speed.decode,
            ),
        );
        if generation.sampling.temperature > 0.0 {
            note(output, &format!("seed: {}", generation.sampling.seed));
        }
    }
}

/// Before the prompt was read to its end.
pub(super) fn interrupted_early(answer: &Answer) -> bool {
    answer.finish == Finish::Interrupted && answer.ids.is_empty()
}

/// Tokens per second.
struct Speed {
    /// Tokens of the prompt that were not cached.
    read: usize,
    prefill: f64,
    decode: f64,
}

impl Speed {
    fn of(answer: &Answer) -> Self {
        // A prompt that was not read to its end has no speed.
        let read = if interrupted_early(answer) { 0 } else { answer.prompt_tokens - answer.cached_tokens };
        // The first token comes out of the prompt's pass. One that ends the turn is made, but not part of the answer.
        let made = answer.ids.len() + usize::from(answer.finish == Finish::EndOfTurn);
        Self { read, prefill: rate(read, answer.prefill), decode: rate(made.saturating_sub(1), answer.decode) }
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 || time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// `--json`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    model: &'a str,
    /// Absent for models without a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    ids: &'a [u32],
    finish: &'static str,
    prompt_tokens: usize,
    cached_tokens: usize,
    answer_tokens: usize,
    /// Absent where nothing was guessed (`--draft`).
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_accepted_tokens: Option<usize>,
    /// Absent for greedy answers, which have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    prefill_seconds: f64,
    decode_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

impl<'a> Report<'a> {
    pub(super) fn new(model: &'a str, answer: &'a Answer, generation: &Generation, has_text: bool) -> Self {
        let speed = Speed::of(answer);
        Self {
            model,
            text: has_text.then_some(answer.text.as_str()),
            ids: &answer.ids,
            finish: match answer.finish {
                Finish::EndOfTurn => "end_of_turn",
                Finish::StopString => "stop_string",
                Finish::MaxTokens => "max_tokens",
                Finish::ContextFull => "context_full",
                Finish::Interrupted => "interrupted",
            },
            prompt_tokens: answer.prompt_tokens,
            cached_tokens: answer.cached_tokens,
            answer_tokens: answer.ids.len(),
            draft_tokens: (answer.guessed[0] > 0).then_some(answer.guessed[0]),
            draft_accepted_tokens: (answer.guessed[0] > 0).then_some(answer.guessed[1]),
            seed: (generation.sampling.temperature > 0.0).then_some(generation.sampling.seed),
            prefill_seconds: answer.prefill.as_secs_f64(),
            decode_seconds: answer.decode.as_secs_f64(),
            prefill_tokens_per_second: speed.prefill,
            decode_tokens_per_second: speed.decode,
        }
    }
}

/// A spinner on a terminal while nothing is to be seen for more than a second. Ends when dropped.
struct Waiting {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    fn start(tokens: usize, output: &Output) -> Option<Self> {
        if output.quiet || !std::io::stderr().is_terminal() {
            return None;
        }
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(1)) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            let spinner = ProgressBar::new_spinner().with_elapsed(Duration::from_secs(1));
            spinner.set_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}").expect("a valid template"));
            spinner.set_message(format!("reading {tokens} tokens"));
            while ended.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                spinner.tick();
            }
            spinner.finish_and_clear();
        });
        Some(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_gets_text_and_no_commands() {
        assert_eq!(harmless("a\tb\nç\u{1b}[2J\u{7}\r"), "a\tb\nç\u{fffd}[2J\u{fffd}\u{fffd}");
    }

    #[test]
    fn speeds_count_the_tokens_that_were_made() {
        let answer = Answer {
            ids: vec![1, 2, 3, 4],
            text: String::new(),
            finish: Finish::EndOfTurn,
            prompt_tokens: 30,
            cached_tokens: 10,
            guessed: [0, 0],
            prefill: Duration::from_secs(2),
            decode: Duration::from_secs(4),
        };
        let speed = Speed::of(&answer);
        assert_eq!((speed.read, speed.prefill, speed.decode), (20, 10.0, 1.0));
    }
}
