//! From a conversation to ids, with no way for a message to forge structure.
//!
//! Rendering and then encoding would read `<|im_end|>` inside a message as the end of the turn. Here
//! every special token's name that occurs in a message is broken up by a character that no message
//! contains, and that is taken out again after special tokens have been found. Everything else, also
//! what a template makes of a message, stays as it is: a conversation without such names gives the
//! same ids as transformers' `apply_chat_template`.

use serde_json::{Map, Value};

use crate::message::Message;
use crate::template::{ChatTemplate, RenderOptions};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

impl ChatTemplate {
    /// The ids of a conversation. As in transformers, the template alone decides about `<s>`.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        let mut forged = false;
        each(messages, &options.extra, &mut |text| forged |= !tokenizer.special_starts(text).is_empty());
        if !forged {
            return tokenizer.encode_guarded(&self.render(messages, options)?, None);
        }
        let guard = unused_character(messages, &options.extra)?;
        let broken = |text: &str| break_up(text, &tokenizer.special_starts(text), guard);
        let guarded: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: broken(&message.role),
                content: broken(&message.content),
                more: changed_map(&message.more, &broken),
            })
            .collect();
        let options = RenderOptions { extra: changed_map(&options.extra, &broken), ..options.clone() };
        tokenizer.encode_guarded(&self.render(&guarded, &options)?, Some(guard))
    }
}

/// Calls `work` with every text that a conversation brings.
fn each(messages: &[Message], extra: &Map<String, Value>, work: &mut dyn FnMut(&str)) {
    for message in messages {
        work(&message.role);
        work(&message.content);
        each_in_map(&message.more, work);
    }
    each_in_map(extra, work);
}

fn each_in_map(map: &Map<String, Value>, work: &mut dyn FnMut(&str)) {
    for (key, value) in map {
        work(key);
        each_in(value, work);
    }
}

fn each_in(value: &Value, work: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => work(text),
        Value::Array(items) => items.iter().for_each(|item| each_in(item, work)),
        Value::Object(map) => each_in_map(map, work),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn changed_map(map: &Map<String, Value>, change: &dyn Fn(&str) -> String) -> Map<String, Value> {
    map.iter().map(|(key, value)| (change(key), changed(value, change))).collect()
}

fn changed(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(text).into(),
        Value::Array(items) => items.iter().map(|item| changed(item, change)).collect(),
        Value::Object(map) => changed_map(map, change).into(),
        other => other.clone(),
    }
}

/// One of the 32 code points that Unicode keeps free of characters for such uses.
fn unused_character(messages: &[Message], extra: &Map<String, Value>) -> Result<char> {
    let mut free: Vec<char> = ('\u{fdd0}'..='\u{fdef}').collect();
    each(messages, extra, &mut |text| free.retain(|&c| !text.contains(c)));
    free.first()
        .copied()
        .ok_or_else(|| Error::Encode("a message contains all of Unicode's noncharacters U+FDD0 to U+FDEF; remove them".into()))
}

/// Puts `guard` behind the first character of each special token's name.
fn break_up(content: &str, starts: &[usize], guard: char) -> String {
    let mut out = String::with_capacity(content.len() + 3 * starts.len());
    let mut at = 0;
    for &start in starts {
        let first = content[start..].chars().next().map_or(0, char::len_utf8);
        out.push_str(&content[at..start + first]);
        out.push(guard);
        at = start + first;
    }
    out.push_str(&content[at..]);
    out
}
