//! Calls in what a model says, as it says them.

use serde_json::Value;

use super::Dialect;

/// What an answer consists of.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// Text for the user.
    Text(String),
    /// A call begins.
    Call {
        /// The function.
        name: String,
    },
    /// More of the arguments of the call that began last.
    Arguments(String),
}

#[derive(Clone)]
enum State {
    /// In text for the user.
    Text,
    /// Between calls.
    Between,
    /// At the object of a call whose function is not known yet, of which so many bytes were looked at for its end.
    Body(Balance, usize),
    /// In the arguments of a call.
    Arguments(Balance),
    /// Behind the arguments, before the end of the object.
    Tail(Balance),
}

/// Finds calls. What can still become one is held back; what is none after all is text.
#[derive(Clone)]
pub(crate) struct CallParser {
    dialect: Dialect,
    names: Vec<String>,
    several: bool,
    state: State,
    held: String,
    /// Brackets and commas before an object that may be no call.
    skipped: String,
    /// Whether text was given: where calls have no marks, none comes behind it.
    text: bool,
    calls: usize,
}

impl CallParser {
    /// For calls of `names`, one or `several` in an answer: what comes behind the one is dropped.
    pub(super) fn new(dialect: Dialect, names: Vec<String>, several: bool) -> Self {
        let state = State::Text;
        Self { dialect, names, several, state, held: String::new(), skipped: String::new(), text: false, calls: 0 }
    }

    /// Calls that began.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Takes what the model said next.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// What is left when the model has ended.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        match self.state {
            // White space behind text, and brackets behind the last call, are nothing.
            State::Text if rest.trim().is_empty() => {}
            State::Between if self.calls > 0 && rest.trim_matches(is_between).is_empty() => {}
            State::Text => self.say(rest, &mut pieces),
            State::Between => self.say(format!("{}{rest}", self.dialect.open), &mut pieces),
            State::Body(..) => self.say(format!("{}{}{rest}", self.dialect.open, self.skipped), &mut pieces),
            State::Arguments(_) | State::Tail(_) => {}
        }
        pieces
    }

    fn say(&mut self, text: String, pieces: &mut Vec<Piece>) {
        let dropped = self.calls > 0 && !self.several;
        if !text.is_empty() && !dropped {
            self.text = true;
            pieces.push(Piece::Text(text));
        }
    }

    /// Whether there may be more to do with what is held.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match &mut self.state {
            State::Text if self.dialect.open.is_empty() => self.bare(pieces),
            State::Text => self.marked(pieces),
            State::Between => self.between(pieces),
            State::Body(balance, seen) => {
                let end = balance.end(&self.held[*seen..]).map(|end| *seen + end);
                *seen = self.held.len();
                self.body(end, pieces)
            }
            State::Arguments(balance) => match balance.end(&self.held) {
                Some(end) => {
                    let rest = self.held.split_off(end);
                    self.argue(rest, pieces);
                    self.state = State::Tail(Balance { depth: 1, ..Balance::default() });
                    true
                }
                None => {
                    self.argue(String::new(), pieces);
                    false
                }
            },
            State::Tail(balance) => match balance.end(&self.held) {
                Some(end) => {
                    self.held.drain(..end);
                    self.state = State::Between;
                    true
                }
                None => {
                    self.held.clear();
                    false
                }
            },
        }
    }

    /// Gives what is held as arguments, and holds `rest`.
    fn argue(&mut self, rest: String, pieces: &mut Vec<Piece>) {
        let arguments = std::mem::replace(&mut self.held, rest);
        if !arguments.is_empty() && (self.several || self.calls == 1) {
            pieces.push(Piece::Arguments(arguments));
        }
    }

    fn call(&mut self, name: String, pieces: &mut Vec<Piece>) {
        if self.several || self.calls == 0 {
            pieces.push(Piece::Call { name });
        }
        // Those that are dropped count, so that nothing of them is given.
        self.calls += 1;
    }

    /// Without marks, an answer that begins as JSON may be a call.
    fn bare(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let begins = self.held.trim_start().chars().next();
        match begins {
            None if !self.text => false,
            Some('{' | '[') if !self.text => {
                self.state = State::Between;
                true
            }
            _ => {
                let text = std::mem::take(&mut self.held);
                self.say(text, pieces);
                false
            }
        }
    }

    fn marked(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let open = self.dialect.open;
        if let Some(at) = self.held.find(open) {
            let rest = self.held.split_off(at + open.len());
            self.held.truncate(self.held[..at].trim_end().len());
            let text = std::mem::replace(&mut self.held, rest);
            self.say(text, pieces);
            self.state = State::Between;
            return true;
        }
        // White space before a mark is none of the text, and an end may be the beginning of a mark.
        let beginning = open.char_indices().map(|(i, _)| i).filter(|&i| self.held.ends_with(&open[..i])).max().unwrap_or(0);
        let safe = self.held[..self.held.len() - beginning].trim_end().len();
        let rest = self.held.split_off(safe);
        let text = std::mem::replace(&mut self.held, rest);
        self.say(text, pieces);
        false
    }

    fn between(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let rest = self.held.trim_start_matches(is_between);
        let close = self.dialect.close;
        if rest.is_empty() {
            return false;
        }
        if rest.starts_with('{') {
            let object = self.held.len() - rest.len();
            let object = self.held.split_off(object);
            self.skipped = std::mem::replace(&mut self.held, object);
            self.state = State::Body(Balance::default(), 0);
            return true;
        }
        if !close.is_empty() {
            if let Some(behind) = rest.strip_prefix(close) {
                self.held = behind.to_owned();
                self.state = State::Text;
                return true;
            }
            if close.starts_with(rest) {
                return false;
            }
        }
        // What else comes is no call.
        let text = std::mem::take(&mut self.held);
        let open = if self.calls == 0 { self.dialect.open } else { "" };
        self.say(format!("{open}{text}"), pieces);
        self.state = State::Text;
        false
    }

    /// `end` is where the object ends, if it is whole.
    fn body(&mut self, end: Option<usize>, pieces: &mut Vec<Piece>) -> bool {
        match head(&self.held) {
            Head::Partial => return false,
            Head::Call { name, arguments } if self.is_known(&name) => {
                self.call(name, pieces);
                self.held.drain(..arguments);
                self.state = State::Arguments(Balance::default());
                return true;
            }
            // Another order of keys, or another object.
            Head::Call { .. } | Head::Other => {}
        }
        let Some(end) = end else { return false };
        let rest = self.held.split_off(end);
        let object = std::mem::replace(&mut self.held, rest);
        match whole(&object).filter(|(name, _)| self.is_known(name)) {
            Some((name, arguments)) => {
                self.call(name, pieces);
                let rest = std::mem::replace(&mut self.held, arguments);
                self.argue(rest, pieces);
                self.state = State::Between;
            }
            None => {
                self.say(format!("{}{}{object}", self.dialect.open, self.skipped), pieces);
                self.state = State::Text;
            }
        }
        true
    }

    /// Whether an object with such a name is a call: behind marks any is.
    fn is_known(&self, name: &str) -> bool {
        !self.dialect.open.is_empty() || self.names.iter().any(|known| known == name)
    }
}

/// What may stand between calls.
fn is_between(c: char) -> bool {
    c.is_whitespace() || [',', ';', '[', ']'].contains(&c)
}

/// Brackets that are open.
#[derive(Clone, Default)]
struct Balance {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Balance {
    /// Goes on through `json`; the place behind the bracket that closes the first one.
    fn end(&mut self, json: &str) -> Option<usize> {
        for (i, byte) in json.bytes().enumerate() {
            match byte {
                _ if std::mem::take(&mut self.escaped) => {}
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(i + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// The keys under which models write arguments.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

/// What an object begins with.
enum Head {
    /// It ends too soon to say.
    Partial,
    /// A call's name, and where its arguments begin.
    Call { name: String, arguments: usize },
    /// Something else.
    Other,
}

/// Reads `{"name": "f", "arguments": {`.
fn head(text: &str) -> Head {
    /// A part that must come, in one of these ways; without any, a string.
    type Part = &'static [&'static str];
    const PARTS: [Part; 7] = [&["{"], &["\"name\""], &[":"], &[], &[","], &["\"arguments\"", "\"parameters\""], &[":"]];
    let (mut rest, mut name) = (text.trim_start(), None);
    for part in PARTS {
        if part.is_empty() {
            let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            match strings.next() {
                Some(Ok(string)) => name = Some(string),
                Some(Err(error)) if !error.is_eof() => return Head::Other,
                _ => return Head::Partial,
            }
            rest = &rest[strings.byte_offset()..];
        } else {
            match part.iter().find_map(|way| rest.strip_prefix(way)) {
                Some(behind) => rest = behind,
                None if part.iter().any(|way| way.starts_with(rest)) => return Head::Partial,
                None => return Head::Other,
            }
        }
        rest = rest.trim_start();
    }
    match (name, rest.chars().next()) {
        (Some(name), Some('{')) => Head::Call { name, arguments: text.len() - rest.len() },
        (_, None) => Head::Partial,
        _ => Head::Other,
    }
}

/// A call that is written in another way: its name and its arguments.
fn whole(object: &str) -> Option<(String, String)> {
    let call: Value = serde_json::from_str(object).ok()?;
    let name = call["name"].as_str()?.to_owned();
    let arguments = ARGUMENTS.iter().find_map(|key| call.get(key))?;
    match arguments {
        Value::String(text) => Some((name, text.clone())),
        other => Some((name, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use sol_text::ChatTemplate;

    use super::*;

    /// Names and arguments.
    type Calls = Vec<(String, String)>;

    /// An answer cut into pieces of so many characters: its text, and its calls.
    fn parse(template: &str, several: bool, answer: &str, cut: usize) -> (String, Calls) {
        let template = ChatTemplate::new(&format!("{template}{{{{ tools }}}}")).unwrap();
        let mut parser = CallParser::new(Dialect::of(&template), vec!["add".into(), "now".into()], several);
        let (mut text, mut calls) = (String::new(), Calls::new());
        let characters: Vec<char> = answer.chars().collect();
        let mut pieces: Vec<Piece> = Vec::new();
        for piece in characters.chunks(cut) {
            pieces.extend(parser.push(&piece.iter().collect::<String>()));
        }
        pieces.extend(parser.finish());
        for piece in pieces {
            match piece {
                Piece::Text(more) => text += &more,
                Piece::Call { name } => calls.push((name, String::new())),
                Piece::Arguments(more) => calls.last_mut().unwrap().1 += &more,
            }
        }
        (text, calls)
    }

    const MARKED: &str = "{# <tool_call> #}";
    const LISTED: &str = "{# [TOOL_CALLS] #}";
    const BARE: &str = "{# \"parameters\" #}";

    #[test]
    fn calls_are_found_however_they_are_cut() {
        let add = ("add".to_owned(), "{\"a\": [1, {}], \"b\": \"}\\\"]\"}".to_owned());
        let now = ("now".to_owned(), "{}".to_owned());
        let object =
            |(name, arguments): &(String, String), key: &str| format!("{{\"name\": \"{name}\", \"{key}\": {arguments}}}");
        let (a, n) = (object(&add, "arguments"), object(&now, "arguments"));
        let both = vec![add.clone(), now.clone()];
        let cases: Vec<(&str, String, &str, Calls)> = vec![
            (MARKED, format!("<tool_call>\n{a}\n</tool_call>\n<tool_call>\n{n}\n</tool_call>"), "", both.clone()),
            (MARKED, format!("Let me see.\n\n<tool_call>{a}</tool_call>\n"), "Let me see.", vec![add.clone()]),
            (MARKED, "a < b <tool_ \n".into(), "a < b <tool_", vec![]),
            (MARKED, format!("<tool_call>\n{}\n</tool_call>", object(&now, "parameters")), "", vec![now.clone()]),
            (MARKED, "<tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>".into(), "", vec![now.clone()]),
            (MARKED, "<tool_call>now</tool_call>".into(), "<tool_call>now</tool_call>", vec![]),
            (MARKED, "<tool_call>{\"name\": \"no".into(), "<tool_call>{\"name\": \"no", vec![]),
            (MARKED, "<tool_call>{\"name\": \"now\", \"arguments\": {\"x".into(), "", vec![("now".into(), "{\"x".into())]),
            (LISTED, format!("[TOOL_CALLS] [{a}, {n}]"), "", both.clone()),
            (LISTED, format!("[TOOL_CALLS][{n}]"), "", vec![now.clone()]),
            (LISTED, "Hello [you]".into(), "Hello [you]", vec![]),
            (BARE, object(&add, "parameters"), "", vec![add.clone()]),
            (BARE, format!(" {}; {}", object(&add, "parameters"), object(&now, "parameters")), "", both.clone()),
            (BARE, "{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}".into(), "", vec![now.clone()]),
            (
                BARE,
                "{\"name\": \"Bob\", \"parameters\": {}} there".into(),
                "{\"name\": \"Bob\", \"parameters\": {}} there",
                vec![],
            ),
            (BARE, "[{\"x\": 1}]".into(), "[{\"x\": 1}]", vec![]),
            (BARE, "No {\"name\": \"now\", \"parameters\": {}}".into(), "No {\"name\": \"now\", \"parameters\": {}}", vec![]),
            ("", n.clone(), "", vec![now.clone()]),
        ];
        for (template, answer, text, calls) in cases {
            for cut in [1, 2, 3, 7, 1000] {
                assert_eq!(parse(template, true, &answer, cut), (text.to_owned(), calls.clone()), "{answer}, by {cut}");
            }
            let first: Vec<_> = calls.first().cloned().into_iter().collect();
            assert_eq!(parse(template, false, &answer, 2).1, first, "{answer}");
        }
    }
}
