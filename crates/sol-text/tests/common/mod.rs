//! Reading the fixtures that `xtools/make_text_fixtures.py` and `xtools/check_text.py` write.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use sol_text::{Encode, GgufVocab, Tokenizer};

/// One text and what the reference implementation makes of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// With special tokens as text.
    pub(crate) plain: Vec<u32>,
    /// What stands before the text when the model's configuration is followed.
    pub(crate) before: Vec<u32>,
    pub(crate) decoded: String,
    pub(crate) decoded_without_special: String,
}

#[derive(Deserialize)]
struct StoredVocab {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    scores: Option<Vec<f32>>,
    token_types: Option<Vec<i32>>,
    merges: Option<Vec<String>>,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
}

pub(crate) fn cases(dir: &Path) -> Vec<Case> {
    serde_json::from_str(&fs::read_to_string(dir.join("cases.json")).unwrap()).unwrap()
}

pub(crate) fn gguf_vocab(dir: &Path) -> GgufVocab {
    let stored: StoredVocab = serde_json::from_str(&fs::read_to_string(dir.join("gguf.json")).unwrap()).unwrap();
    GgufVocab {
        model: stored.model,
        pre: stored.pre,
        tokens: stored.tokens,
        scores: stored.scores,
        token_types: stored.token_types,
        merges: stored.merges,
        bos: stored.bos,
        eos: stored.eos,
        unk: stored.unk,
        pad: stored.pad,
        eot: None,
        add_bos: stored.add_bos,
        add_eos: stored.add_eos,
        add_space_prefix: stored.add_space_prefix,
    }
}

/// The first disagreement between a tokenizer and the reference, as a message.
pub(crate) fn disagreement(tokenizer: &Tokenizer, case: &Case) -> Option<String> {
    let encode =
        |add_bos, parse_special| tokenizer.encode(&case.text, Encode { add_bos, parse_special }).map_err(|e| e.to_string());
    let name = |ids: &[u32]| ids.iter().map(|&id| tokenizer.token(id).unwrap_or("?").to_owned()).collect::<Vec<_>>();
    for (what, found, expected) in [
        ("special tokens parsed", encode(false, true), &case.ids),
        ("special tokens as text", encode(false, false), &case.plain),
        ("with bos", encode(true, true), &[&*case.before, &*case.ids].concat()),
    ] {
        let found = match found {
            Ok(found) => found,
            Err(e) => return Some(format!("{:?}, {what}: {e}", case.text)),
        };
        if found != *expected {
            return Some(format!("{:?}, {what}:\n  found    {:?}\n  expected {:?}", case.text, name(&found), name(expected)));
        }
    }
    for (skip, expected) in [(false, &case.decoded), (true, &case.decoded_without_special)] {
        let found = tokenizer.decode(&case.ids, skip);
        if found != *expected {
            return Some(format!("decoding (skip special: {skip}): found {found:?}, expected {expected:?}"));
        }
        let mut stream = tokenizer.stream(skip);
        let mut streamed: String = case.ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        if streamed != found {
            return Some(format!("streaming {streamed:?}, decoding {found:?}"));
        }
    }
    None
}
