//! `ast.literal_eval` of what data sets hold: strings, numbers, lists and dictionaries of them.

use serde_json::{Map, Number, Value};

/// The value of a Python literal; `None` where it is none.
pub fn literal_eval(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value(0)?;
    parser.rest.trim().is_empty().then_some(value)
}

/// Deeper than any row; a limit because rows are foreign.
const DEPTH: usize = 64;

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        for (word, value) in [("None", Value::Null), ("True", Value::Bool(true)), ("False", Value::Bool(false))] {
            if self.skip(word) {
                return Some(value);
            }
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if self.skip(open) {
                let mut items = Vec::new();
                while !self.skip(close) {
                    items.push(self.value(depth + 1)?);
                    if !self.skip(",") {
                        return self.skip(close).then_some(Value::Array(items));
                    }
                }
                return Some(Value::Array(items));
            }
        }
        if self.skip("{") {
            let mut map = Map::new();
            while !self.skip("}") {
                let Value::String(key) = self.value(depth + 1)? else { return None };
                if !self.skip(":") {
                    return None;
                }
                map.insert(key, self.value(depth + 1)?);
                if !self.skip(",") {
                    return self.skip("}").then_some(Value::Object(map));
                }
            }
            return Some(Value::Object(map));
        }
        match self.rest.chars().next()? {
            quote @ ('\'' | '"') => self.string(quote).map(Value::String),
            _ => self.number(),
        }
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        let number = number.replace('_', "");
        match number.parse::<i64>() {
            Ok(whole) => Some(whole.into()),
            Err(_) => number.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number),
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next()? {
                '\\' => {
                    let (digits, radix) = match chars.next()? {
                        'n' => {
                            text.push('\n');
                            continue;
                        }
                        't' => {
                            text.push('\t');
                            continue;
                        }
                        'r' => {
                            text.push('\r');
                            continue;
                        }
                        c @ ('\\' | '\'' | '"') => {
                            text.push(c);
                            continue;
                        }
                        'x' => (2, 16),
                        'u' => (4, 16),
                        'U' => (8, 16),
                        // Python keeps what it does not know.
                        c => {
                            text.extend(['\\', c]);
                            continue;
                        }
                    };
                    let code: String = chars.by_ref().take(digits).collect();
                    text.push(char::from_u32(u32::from_str_radix(&code, radix).ok()?)?);
                }
                c if c == quote => break,
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals() {
        assert_eq!(literal_eval(r#"['It\'s', "a", 'b\x41\n']"#), Some(json!(["It's", "a", "bA\n"])));
        assert_eq!(literal_eval("{'a': 1, 'b': -2.5, 'c': (None, True,)}"), Some(json!({"a": 1, "b": -2.5, "c": [null, true]})));
        for broken in ["[1", "'a", "foo", "[1] 2", "{1: 2}", "", &"[".repeat(1000)] {
            assert_eq!(literal_eval(broken), None, "{broken}");
        }
    }
}
