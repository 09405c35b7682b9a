//! Tokenizers from a Hugging Face directory.
//!
//! What transformers does with these files, in its order: tokenizer.json (or a converted
//! tokenizer.model), then the added tokens of tokenizer_config.json where they differ, then the named
//! special tokens that are not added tokens yet. Whether a text begins with `<s>` is the
//! post-processor's business, except for the Llama and Gemma classes, whose `add_bos_token` decides.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedVocabulary;

use crate::added::{AddedToken, AddedTokens};
use crate::hf_pipeline::HfPipeline;
use crate::pipeline::{OwnPipeline, Pipeline, Prefix, Words};
use crate::sentencepiece;
use crate::spm::{self, PieceKind};
use crate::tokenizer::{Ends, Tokenizer, added_kind, require};
use crate::tokenizer_json::{self, StoredToken, TokenizerJson};
use crate::vocab::{Alphabet, Kind, Vocabulary};
use crate::{Error, Result};

pub(crate) fn load(dir: &Path) -> Result<Tokenizer> {
    let config = Config::read(dir)?;
    if let Some(json) = read_optional(&dir.join("tokenizer.json"))? {
        let origin = dir.join("tokenizer.json").display().to_string();
        let json = text(&origin, json)?;
        return assemble(&origin, tokenizer_json::parse(&origin, &json)?, &config);
    }
    if let Some(bytes) = read_optional(&dir.join("tokenizer.model"))? {
        let origin = dir.join("tokenizer.model").display().to_string();
        return assemble(&origin, from_sentencepiece(&origin, &bytes, &config)?, &config);
    }
    Err(Error::NoTokenizer { dir: dir.to_owned() })
}

/// A file's bytes, or nothing when there is no such file.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

pub(crate) fn text(origin: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::vocabulary(origin, "it is not UTF-8 text"))
}

/// A JSON file, or null when there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let Some(bytes) = read_optional(path)? else {
        return Ok(Value::Null);
    };
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { origin: path.display().to_string(), source })
}

/// tokenizer_config.json and its older companions.
struct Config {
    main: Value,
    special: Value,
    /// Contents and ids of tokens added in the way of old releases.
    added: BTreeMap<u32, String>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self> {
        let added = read_json(&dir.join("added_tokens.json"))?;
        Ok(Self {
            main: read_json(&dir.join("tokenizer_config.json"))?,
            special: read_json(&dir.join("special_tokens_map.json"))?,
            added: (added.as_object().into_iter().flatten())
                .filter_map(|(content, id)| Some((id.as_u64()?.try_into().ok()?, content.clone())))
                .collect(),
        })
    }

    /// The class, without `Fast`.
    fn class(&self) -> &str {
        let class = self.main["tokenizer_class"].as_str().unwrap_or_default();
        class.strip_suffix("Fast").unwrap_or(class)
    }

    /// A named special token, such as `bos_token`; its class may have a default.
    fn special(&self, name: &str) -> Option<&str> {
        for source in [&self.main, &self.special] {
            let value = &source[name];
            if let Some(content) = value.as_str().or_else(|| value["content"].as_str()) {
                return Some(content);
            }
            if source.get(name).is_some() {
                // An explicit null: the model has none.
                return None;
            }
        }
        match (self.class(), name) {
            ("LlamaTokenizer" | "CodeLlamaTokenizer", "bos_token") => Some("<s>"),
            ("LlamaTokenizer" | "CodeLlamaTokenizer", "eos_token") => Some("</s>"),
            ("LlamaTokenizer" | "CodeLlamaTokenizer", "unk_token") => Some("<unk>"),
            ("GemmaTokenizer", "bos_token") => Some("<bos>"),
            ("GemmaTokenizer", "eos_token") => Some("<eos>"),
            _ => None,
        }
    }

    /// All named special tokens.
    fn specials(&self) -> Vec<&str> {
        let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let more = [&self.main, &self.special].into_iter().flat_map(|source| {
            let list = source["additional_special_tokens"].as_array();
            list.into_iter().flatten().filter_map(|value| value.as_str().or_else(|| value["content"].as_str()))
        });
        names.into_iter().filter_map(|name| self.special(name)).chain(more).collect()
    }

    /// Whether `add_bos_token` and its like decide what surrounds a text.
    fn surrounds(&self) -> bool {
        matches!(self.class(), "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer")
    }
}

fn from_sentencepiece(origin: &str, bytes: &[u8], config: &Config) -> Result<TokenizerJson> {
    let model = sentencepiece::parse(origin, bytes)?;
    let (bpe, apart) = spm::build(origin, &model.pieces, &model.scores, &model.kinds, model.unk)?;
    let prefix = match (model.add_dummy_prefix, config.main["legacy"].as_bool()) {
        (false, _) => Prefix::Never,
        (true, Some(false)) => Prefix::FirstUnlessSpace,
        (true, _) => Prefix::Always,
    };
    let added = model
        .pieces
        .iter()
        .zip(&model.kinds)
        .zip(0..)
        .filter_map(|((piece, kind), id)| {
            let special = match kind {
                PieceKind::Control | PieceKind::Unknown => true,
                PieceKind::UserDefined => {
                    matches!(piece.as_str(), "<start_of_turn>" | "<end_of_turn>")
                }
                _ => return None,
            };
            Some(StoredToken::new(id, piece.clone(), special))
        })
        .collect();
    Ok(TokenizerJson {
        added,
        model: bpe.into(),
        vocab: model.pieces.into_iter().zip(0..).collect(),
        words: Some(Words::SpaceMarks { prefix, apart }),
        normalizer: None,
        pre_tokenizer: None,
        alphabet: Alphabet::SpaceMarks,
        byte_pieces: true,
        leading_spaces: usize::from(model.add_dummy_prefix),
        before: model.bos.into_iter().collect(),
        after: Vec::new(),
        bos: model.bos,
        eos: model.eos,
    })
}

impl StoredToken {
    fn new(id: u32, content: String, special: bool) -> Self {
        Self { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }

    fn to_crate(&self) -> tokenizers::AddedToken {
        tokenizers::AddedToken::from(self.content.as_str(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

fn assemble(origin: &str, mut parts: TokenizerJson, config: &Config) -> Result<Tokenizer> {
    let vocabulary = {
        let added = added_tokens(origin, &parts, config)?;
        parts.added = added;
        vocabulary(origin, &mut parts)?
    };
    let ends = ends(origin, &mut parts, config, &vocabulary)?;
    let pipeline = pipeline(origin, parts)?;
    Ok(Tokenizer::new(pipeline, vocabulary, ends, Vec::new()))
}

/// The tokenizer's added tokens, overridden and extended by the configuration's.
fn added_tokens(origin: &str, parts: &TokenizerJson, config: &Config) -> Result<Vec<StoredToken>> {
    let mut by_content: BTreeMap<String, StoredToken> =
        (parts.added.iter().cloned()).map(|token| (token.content.clone(), token)).collect();
    for (id, content) in &config.added {
        by_content.entry(content.clone()).or_insert_with(|| StoredToken::new(*id, content.clone(), false));
    }
    let decoder = config.main["added_tokens_decoder"].as_object();
    for (id, token) in decoder.into_iter().flatten() {
        let invalid = |what: String| Error::vocabulary("tokenizer_config.json", format!("added_tokens_decoder {id}: {what}"));
        let mut token: StoredToken = StoredToken::deserialize(token).map_err(|e| invalid(e.to_string()))?;
        token.id = id.parse().map_err(|_| invalid("the key is not an id".into()))?;
        if let Some(known) = by_content.get(&token.content) {
            // The tokenizer's own id stays, as in transformers.
            token.id = known.id;
        }
        by_content.insert(token.content.clone(), token);
    }
    let wanted = config.specials();
    let missing: Vec<&str> = (wanted.iter().copied()).filter(|name| !by_content.contains_key(*name)).collect();
    if !missing.is_empty() {
        for (entry, id) in &parts.vocab {
            if missing.contains(&entry.as_str()) {
                let token = StoredToken::new(*id, entry.clone(), true);
                by_content.insert(entry.clone(), token);
            }
        }
    }
    for name in wanted {
        if let Some(token) = by_content.get_mut(name) {
            token.special = true;
        }
    }
    let mut tokens: Vec<StoredToken> = by_content.into_values().collect();
    tokens.sort_by_key(|token| token.id);
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(Error::vocabulary(
            origin,
            format!("the added tokens {:?} and {:?} share the id {}", pair[0].content, pair[1].content, pair[0].id),
        ));
    }
    Ok(tokens)
}

fn vocabulary(origin: &str, parts: &mut TokenizerJson) -> Result<Vocabulary> {
    let count = parts.vocab.len() + parts.added.len();
    // Ids are dense in every sound file; a hole may be a reserved range, a chasm is an attack.
    let limit = 2 * count as u32 + 65_536;
    let ids = parts.vocab.iter().map(|(_, id)| *id);
    if let Some(id) = ids.chain(parts.added.iter().map(|t| t.id)).find(|id| *id > limit) {
        return Err(Error::vocabulary(origin, format!("id {id} in a vocabulary of {count} entries")));
    }
    let mut vocabulary = Vocabulary::new(parts.alphabet, parts.leading_spaces);
    vocabulary.reserve(count);
    for (entry, id) in std::mem::take(&mut parts.vocab) {
        let byte = spm::byte_piece(&entry).filter(|_| parts.byte_pieces);
        vocabulary.insert(id, entry, byte.map_or(Kind::Text, Kind::Byte));
    }
    for token in &parts.added {
        vocabulary.insert(token.id, token.content.as_str(), added_kind(token.special));
    }
    Ok(vocabulary)
}

fn ends(origin: &str, parts: &mut TokenizerJson, config: &Config, vocabulary: &Vocabulary) -> Result<Ends> {
    let id = |name: &str| {
        let content = config.special(name)?;
        let token = parts.added.iter().find(|token| token.content == content)?;
        Some(token.id)
    };
    let bos = id("bos_token").or(parts.bos);
    let eos = id("eos_token").or(parts.eos);
    let mut ends = Ends { bos, eos, before: std::mem::take(&mut parts.before), after: std::mem::take(&mut parts.after) };
    if config.surrounds() {
        let flag = |name: &str, default| config.main[name].as_bool().unwrap_or(default);
        ends.before = bos.filter(|_| flag("add_bos_token", true)).into_iter().collect();
        ends.after = eos.filter(|_| flag("add_eos_token", false)).into_iter().collect();
    }
    for &id in ends.before.iter().chain(&ends.after) {
        require(origin, "a token around the text", id, vocabulary.len())?;
    }
    Ok(ends)
}

fn pipeline(origin: &str, parts: TokenizerJson) -> Result<Pipeline> {
    let added = |wanted: fn(&StoredToken) -> bool| {
        let tokens = parts.added.iter().filter(|token| wanted(token)).map(|token| AddedToken {
            id: token.id,
            content: token.content.clone(),
            special: token.special,
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        });
        AddedTokens::new(origin, tokens.collect())
    };
    // Some added tokens are looked for in the text as the normalizer leaves it.
    let own = parts.normalizer.is_none() || !parts.added.iter().any(|token| token.normalized);
    if own && let Some(words) = parts.words {
        let added = added(|_| true)?;
        return Ok(Pipeline::Own(Box::new(OwnPipeline { added, words, model: parts.model })));
    }
    let mut all = AddedVocabulary::new();
    all.add_tokens(parts.added.iter().map(StoredToken::to_crate), &parts.model, parts.normalizer.as_ref())
        .map_err(|e| Error::vocabulary(origin, format!("added tokens: {e}")))?;
    for token in &parts.added {
        if all.token_to_id(&token.content, &parts.model) != Some(token.id) {
            return Err(Error::vocabulary(
                origin,
                format!("the added token {:?} can not have the id {}", token.content, token.id),
            ));
        }
    }
    let mut ordinary = all.clone();
    ordinary.set_encode_special_tokens(true);
    Ok(Pipeline::Hf(Box::new(HfPipeline {
        special: added(|token| token.special)?,
        normalizer: parts.normalizer,
        pre_tokenizer: parts.pre_tokenizer,
        model: parts.model,
        all,
        ordinary,
    })))
}
