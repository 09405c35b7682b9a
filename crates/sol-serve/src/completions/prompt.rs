//! The four ways to write prompts: a text, texts, tokens, lists of tokens.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// One prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum One {
    Text(String),
    Tokens(Vec<u32>),
}

impl One {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Tokens(tokens) => tokens.is_empty(),
        }
    }
}

/// The prompts of a request; at least one.
#[derive(Debug, PartialEq)]
pub(crate) struct Prompts(pub(crate) Vec<One>);

/// What a list holds.
enum Item {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        u32::try_from(id).map(Item::Token).map_err(|_| E::custom(format!("{id} is no token id")))
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Item, E> {
        Err(E::custom(format!("{id} is no token id")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            ids.push(id);
        }
        Ok(Item::Tokens(ids))
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Items)
    }
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = Prompts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompts, E> {
        Ok(Prompts(vec![One::Text(text.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
        let (mut prompts, mut ids) = (Vec::new(), Vec::new());
        while let Some(item) = list.next_element()? {
            match item {
                Item::Text(text) => prompts.push(One::Text(text)),
                Item::Tokens(tokens) => prompts.push(One::Tokens(tokens)),
                Item::Token(id) => ids.push(id),
            }
        }
        match (prompts.is_empty(), ids.is_empty()) {
            (true, true) => Err(A::Error::custom("the list is empty: give at least one prompt or token")),
            (false, false) => Err(A::Error::custom(format!("the list mixes kinds: give {EXPECTED}"))),
            (true, false) => Ok(Prompts(vec![One::Tokens(ids)])),
            (false, true) => Ok(Prompts(prompts)),
        }
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_ways() {
        let read = |json: &str| serde_json::from_str::<Prompts>(json).map(|prompts| prompts.0).map_err(|e| e.to_string());
        let text = |text: &str| One::Text(text.into());
        assert_eq!(read(r#""a""#).unwrap(), [text("a")]);
        assert_eq!(read(r#"["a", "b"]"#).unwrap(), [text("a"), text("b")]);
        assert_eq!(read("[1, 2]").unwrap(), [One::Tokens(vec![1, 2])]);
        assert_eq!(read("[[1], [2, 3]]").unwrap(), [One::Tokens(vec![1]), One::Tokens(vec![2, 3])]);
        for (json, part) in [
            ("[]", "empty"),
            ("[1, \"a\"]", "mixes"),
            ("-1", "expected a string"),
            ("[-1]", "-1 is no token id"),
            ("[4294967296]", "no token id"),
            ("[1.5]", "floating point"),
            ("{}", "expected a string"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
