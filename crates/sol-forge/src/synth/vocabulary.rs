//! A sentencepiece vocabulary of any size: enough of it to encode every text, the rest fillers that no text makes.

use sol_weights::gguf::{Array, Value};

/// Llama 2's ids of the tokens at the ends of texts, and Solar Pro's of those at the ends of turns.
const UNKNOWN: usize = 0;
const BOS: usize = 1;
const EOS: usize = 2;
const BYTES: usize = 3;
const LETTERS: usize = BYTES + 256;
const TURN_START: usize = 32_006;
const TURN_END: usize = 32_007;

/// ChatML, `<s>` before it.
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
                        message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
                        {{ '<|im_start|>assistant\\n' }}{% endif %}";

// Sentencepiece's numbers of kinds.
const NORMAL: i32 = 1;
const KIND_UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// The `tokenizer.*` keys for `size` tokens: every byte, the letters of ASCII, and fillers ` t259` and so on, which no merges
/// lead to.
pub(super) fn keys(size: usize) -> Vec<(String, Value)> {
    let letters: Vec<char> = std::iter::once('▁').chain('!'..='~').collect();
    let mut tokens = Vec::with_capacity(size);
    let mut kinds = Vec::with_capacity(size);
    for id in 0..size {
        let (token, kind) = match id {
            UNKNOWN => ("<unk>".to_owned(), KIND_UNKNOWN),
            BOS => ("<s>".to_owned(), CONTROL),
            EOS => ("</s>".to_owned(), CONTROL),
            TURN_START => ("<|im_start|>".to_owned(), CONTROL),
            TURN_END => ("<|im_end|>".to_owned(), CONTROL),
            BYTES..LETTERS => (format!("<0x{:02X}>", id - BYTES), BYTE),
            _ => (letters.get(id - LETTERS).map_or_else(|| format!("▁t{id}"), char::to_string), NORMAL),
        };
        tokens.push(token);
        kinds.push(kind);
    }
    let scores = kinds.iter().zip(0..).map(|(&kind, id)| if kind == NORMAL { -(id as f32) } else { 0.0 }).collect();
    let eos = if size > TURN_END { TURN_END } else { EOS };
    let id = |id: usize| Value::U32(id as u32);
    [
        ("ggml.model", Value::String("llama".into())),
        ("ggml.pre", Value::String("default".into())),
        ("ggml.tokens", Value::Array(Array::String(tokens))),
        ("ggml.scores", Value::Array(Array::F32(scores))),
        ("ggml.token_type", Value::Array(Array::I32(kinds))),
        ("ggml.bos_token_id", id(BOS)),
        ("ggml.eos_token_id", id(eos)),
        ("ggml.unknown_token_id", id(UNKNOWN)),
        ("ggml.add_bos_token", Value::Bool(true)),
        ("ggml.add_eos_token", Value::Bool(false)),
        ("chat_template", Value::String(TEMPLATE.into())),
    ]
    .map(|(key, value)| (format!("tokenizer.{key}"), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_all_different() {
        for size in [300, 32_128] {
            let keys = keys(size);
            let Value::Array(Array::String(tokens)) = &keys[2].1 else { panic!("{:?}", keys[2]) };
            assert_eq!(tokens.len(), size);
            assert_eq!((&tokens[3][..], &tokens[258][..], &tokens[259][..], &tokens[260][..]), ("<0x00>", "<0xFF>", "▁", "!"));
            let mut sorted = tokens.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), size);
        }
    }
}
