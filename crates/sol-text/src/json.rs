//! JSON as Python's `json.dumps` writes it, from the values of a template.
//!
//! A template may build values of any depth and size, so depth is limited and every node is paid for
//! from the template's fuel before more is written.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

const DEPTH_LIMIT: usize = 64;

/// How many values may be written out as one text. A list that holds another twice, which holds another
/// twice, and so on, is small in memory and endless on paper.
const SIZE_LIMIT: usize = 100_000;

/// Makes sure that a value can be written out: neither too deep nor too large.
pub(crate) fn check(value: &Value) -> Result<(), Error> {
    fn count(value: &Value, depth: usize, left: &mut usize) -> bool {
        let items = match value.kind() {
            ValueKind::Seq | ValueKind::Map => value.try_iter(),
            ValueKind::Iterable if value.len().is_some() => value.try_iter(),
            _ => return true,
        };
        let is_map = value.kind() == ValueKind::Map;
        items.into_iter().flatten().all(|item| {
            let Some(rest) = left.checked_sub(1) else { return false };
            *left = rest;
            let item = if is_map { value.get_item(&item).unwrap_or_default() } else { item };
            depth < DEPTH_LIMIT && count(&item, depth + 1, left)
        })
    }
    if count(value, 0, &mut { SIZE_LIMIT }) {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::InvalidOperation, "a value is too deep or too large to be written out"))
    }
}

/// Writes one value.
pub(crate) struct Writer<'a> {
    pub(crate) state: &'a State<'a, 'a>,
    /// Between items.
    pub(crate) item: &'a str,
    /// Between a key and its value.
    pub(crate) key: &'a str,
    pub(crate) indent: Option<usize>,
    pub(crate) sort_keys: bool,
    pub(crate) ensure_ascii: bool,
    pub(crate) out: String,
}

impl Writer<'_> {
    pub(crate) fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let before = self.out.len();
        if depth > DEPTH_LIMIT {
            return Err(bad(format!("values nest more than {DEPTH_LIMIT} deep")));
        }
        match value.kind() {
            ValueKind::Undefined => return Err(bad("the value is undefined".into())),
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => {
                let word = if value.is_true() { "true" } else { "false" };
                self.out.push_str(word);
            }
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item));
                self.container(['[', ']'], items, depth)?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::with_capacity(value.len().unwrap_or(0).min(1024));
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    pairs.push((Some(key.to_string()), item));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container(['{', '}'], pairs.into_iter(), depth)?;
            }
            kind => return Err(bad(format!("a {kind} has no JSON form"))),
        }
        self.state.consume_fuel(1 + (self.out.len() - before) as u64 / 64)
    }

    fn container(
        &mut self,
        [open, close]: [char; 2],
        items: impl Iterator<Item = (Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for (key, value) in items {
            if !empty {
                self.out.push_str(self.item);
            }
            empty = false;
            self.line(depth + 1);
            if let Some(key) = key {
                self.string(&key);
                self.out.push_str(self.key);
            }
            self.write(&value, depth + 1)?;
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    /// Begins a line, when the value is spread over lines.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            let spaces = indent.min(64) * depth;
            self.out.extend(std::iter::repeat_n(' ', spaces));
        }
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() => {
                if number.is_nan() {
                    self.out.push_str("NaN");
                } else if number.is_infinite() {
                    self.out.push_str(if number > 0.0 { "Infinity" } else { "-Infinity" });
                } else {
                    // Python and Rust both write the shortest digits that read back the same.
                    let _ = write!(self.out, "{number:?}");
                }
            }
            _ => {
                let _ = write!(self.out, "{value}");
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => {
                    let _ = write!(self.out, "\\u{:04x}", c as u32);
                }
                c if self.ensure_ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn bad(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"))
}
