//! Any text as a chat template, rendered with one message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sol_text::{ChatTemplate, Message, RenderOptions};

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::new(source) {
        let _ = template.render(&[Message::user("Hello")], &RenderOptions::default());
    }
});
