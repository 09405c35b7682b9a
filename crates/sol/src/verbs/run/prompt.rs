//! Where the text of a single prompt comes from: the argument, stdin, or both.

use std::ffi::OsStr;
use std::io::{BufRead, IsTerminal, Read};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::common::{Output, note};

/// More than any context holds; an endless pipe must not fill the memory.
const LONGEST: u64 = 64 << 20;

/// How long a pipe beside an argument may take to say its first word.
const SILENCE: Duration = Duration::from_secs(2);

/// The argument, then what was piped in, with an empty line between. One newline at the end of piped text is not part of it,
/// as in a shell's `$(...)`.
pub(super) fn read(argument: Option<&OsStr>, output: &Output) -> Result<String> {
    let argument = argument.map(|text| text.to_str().context("the prompt is not UTF-8")).transpose()?;
    let piped = if argument.is_none() || is_piped() { stdin(argument.is_some(), output)? } else { String::new() };
    Ok(match argument {
        Some(text) if piped.trim().is_empty() => text.to_owned(),
        Some(text) => format!("{text}\n\n{piped}"),
        None => piped,
    })
}

/// Reads on a thread, so that a pipe in which nothing comes is no trap: many programs start others with an open pipe that they
/// never write to. Beside an argument such a pipe is left alone; a prompt that must come from it is waited for.
fn stdin(has_argument: bool, output: &Output) -> Result<String> {
    if std::io::stdin().is_terminal() {
        note(output, "reading the prompt from the terminal; Ctrl-D ends it");
    }
    let (began, beginning) = mpsc::channel();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        // An error shows again in the read below.
        let _ = began.send(stdin.fill_buf().map(<[u8]>::len).unwrap_or(0));
        let mut bytes = Vec::new();
        let done = stdin.take(LONGEST + 1).read_to_end(&mut bytes);
        let _ = sender.send(done.map(|_| bytes));
    });
    if has_argument && beginning.recv_timeout(SILENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        note(
            output,
            "nothing came on stdin: the prompt is the argument alone (text that comes later can be piped in without one)",
        );
        return Ok(String::new());
    }
    text(receiver.recv()?.context("can not read stdin")?)
}

fn text(bytes: Vec<u8>) -> Result<String> {
    if bytes.len() as u64 > LONGEST {
        bail!("the prompt on stdin is longer than {} MiB, which no model's context holds", LONGEST >> 20);
    }
    let mut text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            bail!(
                "the prompt on stdin is not UTF-8: byte {at} is 0x{:02x}; convert it, for example with iconv",
                error.as_bytes()[at]
            );
        }
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Whether stdin holds something that was meant for this command: a pipe or a file, not a terminal or `/dev/null`.
#[cfg(unix)]
fn is_piped() -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;
    let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned() else { return false };
    std::fs::File::from(stdin).metadata().is_ok_and(|m| m.is_file() || m.file_type().is_fifo() || m.file_type().is_socket())
}

#[cfg(not(unix))]
fn is_piped() -> bool {
    !std::io::stdin().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_prompt() {
        for (piped, expected) in [("a", "a"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), ("", ""), ("\n", "")] {
            assert_eq!(text(piped.into()).unwrap(), expected, "{piped:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_located() {
        let error = text(b"ab\xffc".to_vec()).unwrap_err().to_string();
        assert!(error.contains("byte 2 is 0xff"), "{error}");
    }
}
