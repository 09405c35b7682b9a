//! Reading a tokenizer.json.
//!
//! The byte pair encoder inside is read here, not by the `tokenizers` crate, whose reader goes through
//! a tree of the whole file and trusts what it finds.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::Vocab;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::bpe::{self, BpeOptions};
use crate::byte_level::{self, Splitter};
use crate::pipeline::{Prefix, Words};
use crate::vocab::Alphabet;
use crate::{Error, Result};

/// A tokenizer.json as it is stored.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<StoredToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    #[serde(borrow)]
    model: &'a RawValue,
}

/// An added token as tokenizer.json and tokenizer_config.json store it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct StoredToken {
    /// Absent in tokenizer_config.json, where it is the key.
    #[serde(default)]
    pub(crate) id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) normalized: bool,
    #[serde(default)]
    pub(crate) special: bool,
}

/// Entries and their ids, in no order.
type Entries = Vec<(String, u32)>;

/// What a tokenizer.json says, with the common families recognised.
pub(crate) struct TokenizerJson {
    pub(crate) added: Vec<StoredToken>,
    pub(crate) model: ModelWrapper,
    /// Entries and ids of the model's vocabulary.
    pub(crate) vocab: Entries,
    /// The stages before the model, if this crate has them.
    pub(crate) words: Option<Words>,
    /// The same stages as the `tokenizers` crate's.
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(crate) alphabet: Alphabet,
    /// Entries such as `<0x0A>` are bytes.
    pub(crate) byte_pieces: bool,
    pub(crate) leading_spaces: usize,
    /// Ids around a text.
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
    /// Ends of a text that the file itself names.
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
}

pub(crate) fn parse(origin: &str, json: &str) -> Result<TokenizerJson> {
    let invalid = |source| Error::Json { origin: origin.to_owned(), source };
    let file: File<'_> = serde_json::from_str(json).map_err(invalid)?;
    let (model, vocab) = model(origin, file.model.get())?;
    let words = match &model {
        ModelWrapper::BPE(_) => words(file.normalizer.as_ref(), file.pre_tokenizer.as_ref(), &vocab),
        _ => None,
    };
    let decoder = Decoder::read(origin, file.decoder.as_ref())?;
    let (before, after) = surroundings(file.post_processor.as_ref());
    let stage = |what: &str, source| Error::Json { origin: format!("{origin}, {what}"), source };
    Ok(TokenizerJson {
        added: file.added_tokens,
        vocab,
        model,
        words,
        normalizer: (file.normalizer.map(serde_json::from_value).transpose()).map_err(|e| stage("normalizer", e))?,
        pre_tokenizer: (file.pre_tokenizer.map(serde_json::from_value).transpose()).map_err(|e| stage("pre_tokenizer", e))?,
        alphabet: decoder.alphabet,
        byte_pieces: decoder.byte_pieces,
        leading_spaces: decoder.leading_spaces,
        before,
        after,
        bos: None,
        eos: None,
    })
}

#[derive(Deserialize)]
struct StoredModel<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
}

/// The model, and the entries and ids of its vocabulary.
fn model(origin: &str, json: &str) -> Result<(ModelWrapper, Entries)> {
    let invalid = |source| Error::Json { origin: format!("{origin}, model"), source };
    let stored: StoredModel<'_> = serde_json::from_str(json).map_err(invalid)?;
    let bpe = match stored.kind.as_deref() {
        Some(kind) => kind == "BPE",
        // Files from before the type was written.
        None => stored.merges.is_some(),
    };
    if !bpe {
        let model: ModelWrapper = serde_json::from_str(json).map_err(invalid)?;
        let vocab = model.get_vocab().into_iter().collect();
        return Ok((model, vocab));
    }
    let some = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    if stored.dropout.is_some_and(|p| p != 0.0) || some(&stored.continuing_subword_prefix) || some(&stored.end_of_word_suffix) {
        return Err(Error::unsupported(
            origin,
            "byte pair encoding with dropout, a subword prefix or a word suffix",
            "plain byte pair encoding is",
        ));
    }
    let (Some(vocab), Some(merges)) = (stored.vocab, stored.merges) else {
        return Err(Error::vocabulary(origin, "the model lacks its vocab or its merges"));
    };
    let vocab: Vocab = serde_json::from_str(vocab.get()).map_err(invalid)?;
    let merges: Vec<Merge> = serde_json::from_str(merges.get()).map_err(invalid)?;
    let options = BpeOptions {
        unk_token: stored.unk_token,
        fuse_unk: stored.fuse_unk,
        byte_fallback: stored.byte_fallback,
        ignore_merges: stored.ignore_merges,
    };
    let merges = merges.into_iter().map(|merge| merge.0).collect();
    let entries = vocab.iter().map(|(entry, id)| (entry.clone(), *id)).collect();
    Ok((bpe::build(origin, vocab, merges, options)?.into(), entries))
}

/// A merge, stored as two strings or as one with a space between.
struct Merge((String, String));

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two strings, or one with a space between")
            }

            fn visit_str<E: de::Error>(self, merge: &str) -> Result<Merge, E> {
                match merge.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => Ok(Merge((left.to_owned(), right.to_owned()))),
                    _ => Err(E::invalid_value(de::Unexpected::Str(merge), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let left = seq.next_element()?;
                let right = seq.next_element()?;
                match (left, right, seq.next_element::<de::IgnoredAny>()?) {
                    (Some(left), Some(right), None) => Ok(Merge((left, right))),
                    _ => Err(de::Error::invalid_length(2, &self)),
                }
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}

/// The stages before the model, where they are of a family that this crate runs itself.
fn words(normalizer: Option<&Value>, pre: Option<&Value>, vocab: &[(String, u32)]) -> Option<Words> {
    match (normalizer, pre) {
        (None, Some(pre)) if kind(pre) == "Metaspace" => {
            if pre["replacement"] != "▁" || pre["split"] != false {
                return None;
            }
            let prefix = match pre["prepend_scheme"].as_str() {
                Some("never") => Prefix::Never,
                Some("first") => Prefix::FirstUnlessSpace,
                Some("always") => Prefix::UnlessSpace,
                _ => return None,
            };
            Some(space_marks(prefix, vocab))
        }
        (None, Some(pre)) => byte_level_words(pre),
        (Some(normalizer), pre) => {
            let marks = |n: &Value| kind(n) == "Replace" && n["pattern"]["String"] == " " && n["content"] == "▁";
            // Gemma's splits at spaces, of which the normalizer has left none.
            let splits_nothing =
                pre.is_none_or(|pre| kind(pre) == "Split" && pre["pattern"]["String"] == " " && pre["invert"] != true);
            let prefix = match normalizer["normalizers"].as_array().map(Vec::as_slice) {
                None if marks(normalizer) => Prefix::Never,
                Some([only]) if marks(only) => Prefix::Never,
                Some([first, second]) if kind(first) == "Prepend" && first["prepend"] == "▁" && marks(second) => Prefix::Always,
                _ => return None,
            };
            splits_nothing.then(|| space_marks(prefix, vocab))
        }
        (None, None) => None,
    }
}

fn space_marks(prefix: Prefix, vocab: &[(String, u32)]) -> Words {
    // An entry such as `,▁` can only come about across words.
    let joins = |entry: &str| entry.match_indices('▁').any(|(at, mark)| at > 0 && !entry[..at].ends_with(mark));
    Words::SpaceMarks { prefix, apart: !vocab.iter().any(|(entry, _)| joins(entry)) }
}

fn byte_level_words(pre: &Value) -> Option<Words> {
    let steps = match kind(pre) {
        "Sequence" => pre["pretokenizers"].as_array()?.as_slice(),
        _ => std::slice::from_ref(pre),
    };
    let (last, before) = steps.split_last()?;
    if kind(last) != "ByteLevel" {
        return None;
    }
    let mut splitters = Vec::new();
    for step in before {
        splitters.push(match kind(step) {
            "Split" if step["behavior"] == "Isolated" && step["invert"] != true => {
                Splitter::new(step["pattern"]["Regex"].as_str()?)?
            }
            "Digits" if step["individual_digits"] == true => Splitter::known(byte_level::DIGIT),
            _ => return None,
        });
    }
    // Absent means yes.
    if last["use_regex"] != false {
        splitters.push(Splitter::known(byte_level::GPT2));
    }
    let prefix = last["add_prefix_space"] != false;
    // A space before each part of a text that was split already is nobody's intention.
    (!prefix || before.is_empty()).then_some(Words::ByteLevel { splitters, prefix })
}

fn kind(stage: &Value) -> &str {
    stage["type"].as_str().unwrap_or_default()
}

/// How ids become text.
struct Decoder {
    alphabet: Alphabet,
    byte_pieces: bool,
    leading_spaces: usize,
}

impl Decoder {
    fn read(origin: &str, stored: Option<&Value>) -> Result<Self> {
        let mut decoder = Self { alphabet: Alphabet::Plain, byte_pieces: false, leading_spaces: 0 };
        let steps = match stored {
            None => &[],
            Some(stored) => match stored["decoders"].as_array() {
                Some(steps) => steps.as_slice(),
                None => std::slice::from_ref(stored),
            },
        };
        for step in steps {
            match kind(step) {
                "ByteLevel" => decoder.alphabet = Alphabet::ByteLevel,
                "Metaspace" if step["replacement"] == "▁" => {
                    decoder.alphabet = Alphabet::SpaceMarks;
                    decoder.leading_spaces = usize::from(step["prepend_scheme"] != "never");
                }
                "Replace" if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                    decoder.alphabet = Alphabet::SpaceMarks;
                }
                "ByteFallback" => decoder.byte_pieces = true,
                "Fuse" => {}
                "Strip" if step["content"] == " " && step["stop"] == 0 => {
                    decoder.leading_spaces = step["start"].as_u64().unwrap_or(0) as usize;
                }
                other => {
                    return Err(Error::unsupported(
                        origin,
                        format!("the decoder {other:?}"),
                        "ByteLevel, Metaspace, and sentencepiece's Replace, ByteFallback, Fuse and Strip are",
                    ));
                }
            }
        }
        Ok(decoder)
    }
}

/// The ids that the post-processor puts before and behind a text.
fn surroundings(stored: Option<&Value>) -> (Vec<u32>, Vec<u32>) {
    let mut before = Vec::new();
    let mut after = Vec::new();
    let Some(stored) = stored else {
        return (before, after);
    };
    let steps = match stored["processors"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(stored),
    };
    for step in steps {
        match kind(step) {
            "TemplateProcessing" => {
                let mut side = &mut before;
                for piece in step["single"].as_array().into_iter().flatten() {
                    if piece.get("Sequence").is_some() {
                        side = &mut after;
                    } else if let Some(name) = piece["SpecialToken"]["id"].as_str() {
                        let ids = step["special_tokens"][name]["ids"].as_array();
                        side.extend(ids.into_iter().flatten().filter_map(as_id));
                    }
                }
            }
            "BertProcessing" | "RobertaProcessing" => {
                before.extend(as_id(&step["cls"][1]));
                after.extend(as_id(&step["sep"][1]));
            }
            _ => {}
        }
    }
    (before, after)
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}
