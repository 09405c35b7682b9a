//! From a conversation to ids, with no way for a message to forge structure.
//!
//! Rendering and then encoding would read `<|im_end|>` inside a message as the end of the turn. Here
//! every special token's name that occurs in a message is broken up by a character that no message
//! contains, and that is taken out again after special tokens have been found. Everything else, also
//! what a template makes of a message, stays as it is: a conversation without such names gives the
//! same ids as transformers' `apply_chat_template`.

use crate::message::Message;
use crate::template::{ChatTemplate, RenderOptions};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

impl ChatTemplate {
    /// The ids of a conversation. As in transformers, the template alone decides about `<s>`.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        let names = |text: &str| tokenizer.special_starts(text);
        if messages.iter().all(|m| names(&m.role).is_empty() && names(&m.content).is_empty()) {
            return tokenizer.encode_guarded(&self.render(messages, options)?, None);
        }
        let guard = unused_character(messages)?;
        let guarded: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: break_up(&message.role, &names(&message.role), guard),
                content: break_up(&message.content, &names(&message.content), guard),
            })
            .collect();
        tokenizer.encode_guarded(&self.render(&guarded, options)?, Some(guard))
    }
}

/// One of the 32 code points that Unicode keeps free of characters for such uses.
fn unused_character(messages: &[Message]) -> Result<char> {
    ('\u{fdd0}'..='\u{fdef}')
        .find(|&c| !messages.iter().any(|m| m.role.contains(c) || m.content.contains(c)))
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
