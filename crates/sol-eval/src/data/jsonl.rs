//! JSON Lines, plain or compressed, and files that are one JSON array: read line by line, so that what is wrong has a line.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::Value;

use super::{CONFIG, Row, unreadable};
use crate::{Error, Result};

/// A line beyond this is no row, bytes.
const MAX_LINE: u64 = 256 << 20;
const BUFFER: usize = 64 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Gives each row with its 1-based line.
pub(super) fn rows(file: &Path, each: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let mut lines = Lines::open(file)?;
    while let Some((number, text)) = lines.next()? {
        if number == 1 && text.starts_with('[') {
            return array(lines, each);
        }
        each(number, row(text, file, number)?)?;
    }
    Ok(())
}

/// A file that is an array of rows, whose first line has been read.
fn array(mut lines: Lines, each: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let file = lines.file.clone();
    let mut text = std::mem::take(&mut lines.buffer);
    lines.reader.read_to_end(&mut text).map_err(|error| lines.failed(&error, 0))?;
    let rows: Vec<Value> = serde_json::from_slice(&text).map_err(|error| broken(&file, error.line(), what_is_wrong(&error)))?;
    for (at, row) in rows.into_iter().enumerate() {
        match row {
            Value::Object(row) => each(at + 1, row)?,
            _ => return Err(broken(&file, at + 1, "this element of the array is no object".to_owned())),
        }
    }
    Ok(())
}

fn row(text: &str, file: &Path, line: usize) -> Result<Row> {
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(_) => Err(broken(file, line, "this is JSON, but no object".to_owned())),
        Err(error) => Err(broken(file, line, what_is_wrong(&error))),
    }
}

/// The message without the place, which is ours to tell.
fn what_is_wrong(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    format!("no valid JSON: {message} (column {})", error.column())
}

fn broken(file: &Path, line: usize, problem: String) -> Error {
    Error::Data { file: file.to_owned(), line: Some(line), problem }
}

/// The lines of a file that are not blank.
struct Lines {
    reader: Box<dyn BufRead>,
    file: PathBuf,
    buffer: Vec<u8>,
    /// Lines read so far.
    number: usize,
}

impl Lines {
    fn open(file: &Path) -> Result<Self> {
        let opened = File::open(file).map_err(|error| unreadable(file, error))?;
        let plain = BufReader::with_capacity(BUFFER, opened);
        let reader: Box<dyn BufRead> = match file.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(plain))),
            Some("zst") => {
                let decoder = zstd::Decoder::with_buffer(plain).map_err(|error| unreadable(file, error))?;
                Box::new(BufReader::with_capacity(BUFFER, decoder))
            }
            _ => Box::new(plain),
        };
        Ok(Self { reader, file: file.to_owned(), buffer: Vec::new(), number: 0 })
    }

    /// The next line that is not blank, without its end, and its 1-based number.
    fn next(&mut self) -> Result<Option<(usize, &str)>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.buffer);
            let count = read.map_err(|error| self.failed(&error, 1))?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if count as u64 == MAX_LINE {
                return Err(broken(&self.file, self.number, format!("this line is longer than {MAX_LINE} bytes")));
            }
            if self.number == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
                self.buffer.drain(..BYTE_ORDER_MARK.len());
            }
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some((self.number, text.trim_ascii()))),
            Err(error) => {
                let problem = format!("this is not UTF-8 (byte {} of the line)", error.valid_up_to() + 1);
                Err(broken(&self.file, self.number, problem))
            }
        }
    }

    /// Compressed contents that end early or make no sense; the line is the one that was being read.
    fn failed(&self, error: &std::io::Error, ahead: usize) -> Error {
        let problem = match error.kind() {
            ErrorKind::UnexpectedEof => "the compressed file ends too early: it was cut".to_owned(),
            _ => format!("the file can not be read on: {error}"),
        };
        broken(&self.file, self.number + ahead, problem)
    }
}

/// A file whose rows are of several configs, kept as text: the next config's rows are then at hand.
pub(super) struct Shelf {
    text: String,
    /// Begin, end and number of each config's lines.
    lines: HashMap<String, Vec<(usize, usize, usize)>>,
}

/// A row as far as it is looked at to put it on the shelf; all of it is checked to be JSON.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    config: Option<Cow<'a, str>>,
}

impl Shelf {
    /// `None` where the first row does not begin with a column `config`.
    pub(super) fn read(file: &Path) -> Result<Option<Self>> {
        let mut lines = Lines::open(file)?;
        let mut shelf = Self { text: String::new(), lines: HashMap::new() };
        while let Some((number, text)) = lines.next()? {
            if shelf.lines.is_empty() {
                if text.starts_with('[') {
                    return Ok(None);
                }
                let first = row(text, file, number)?;
                if first.keys().next().is_none_or(|key| key != CONFIG) {
                    return Ok(None);
                }
            }
            let begin = shelf.text.len();
            shelf.text.push_str(text);
            let peek: Peek<'_> = match serde_json::from_str(&shelf.text[begin..]) {
                Ok(peek) => peek,
                // Told as for any other row.
                Err(error) => {
                    row(&shelf.text[begin..], file, number)?;
                    return Err(broken(file, number, what_is_wrong(&error)));
                }
            };
            let Some(config) = peek.config else {
                return Err(broken(file, number, format!("there is no column '{CONFIG}', which the first row has")));
            };
            let place = (begin, shelf.text.len(), number);
            match shelf.lines.get_mut(config.as_ref()) {
                Some(lines) => lines.push(place),
                None => {
                    shelf.lines.insert(config.into_owned(), vec![place]);
                }
            }
        }
        Ok(Some(shelf))
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(super) fn configs(&self) -> impl Iterator<Item = &str> {
        self.lines.keys().map(String::as_str)
    }

    /// Gives each row of a config with its 1-based line.
    pub(super) fn rows(&self, file: &Path, config: &str, each: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
        for &(begin, end, number) in self.lines.get(config).into_iter().flatten() {
            each(number, row(&self.text[begin..end], file, number)?)?;
        }
        Ok(())
    }
}
