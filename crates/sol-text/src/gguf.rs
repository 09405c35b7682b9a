//! Tokenizers from the `tokenizer.ggml.*` keys of a GGUF file.
//!
//! Facts from llama.cpp's vocabulary reader: token types are sentencepiece's numbers; control tokens
//! are found only where special tokens are parsed, user-defined ones always; sentencepiece
//! vocabularies put a space before the text and after each special token unless the file says otherwise.

use tokenizers::models::bpe::Vocab;

use crate::added::{AddedToken, AddedTokens};
use crate::bpe::{self, BpeOptions};
use crate::byte_level::{self, Splitter};
use crate::pipeline::{OwnPipeline, Pipeline, Prefix, Words};
use crate::spm::{self, PieceKind};
use crate::tokenizer::{Ends, Tokenizer, added_kind, require};
use crate::vocab::{Alphabet, Kind, Vocabulary};
use crate::{Error, Result};

const ORIGIN: &str = "the GGUF file's tokenizer";

/// The keys of a GGUF file that describe its tokenizer, each named after `tokenizer.ggml.…`.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `model`: the family, `llama` (sentencepiece) or `gpt2` (byte-level).
    pub model: String,
    /// `pre`: how byte-level text is cut into words.
    pub pre: Option<String>,
    /// `tokens`: the entries, in order of their ids.
    pub tokens: Vec<String>,
    /// `scores`: sentencepiece's.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: sentencepiece's numbers, 1 normal to 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: byte-level, each two entries with a space between.
    pub merges: Option<Vec<String>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

pub(crate) fn load(vocab: GgufVocab) -> Result<Tokenizer> {
    if vocab.tokens.is_empty() {
        return Err(Error::vocabulary(ORIGIN, "it has no tokens"));
    }
    match vocab.model.as_str() {
        "llama" => sentencepiece(vocab),
        "gpt2" => byte_level(vocab),
        other => Err(Error::unsupported(
            ORIGIN,
            format!("tokenizer.ggml.model {other:?}"),
            "the models that are: llama (sentencepiece) and gpt2 (byte-level)",
        )),
    }
}

fn sentencepiece(mut vocab: GgufVocab) -> Result<Tokenizer> {
    let kinds = piece_kinds(&vocab)?;
    let scores = vocab.scores.take().ok_or_else(|| Error::vocabulary(ORIGIN, "tokenizer.ggml.scores is missing"))?;
    same_length("scores", scores.len(), &vocab)?;
    let unk = unknown(&vocab, &kinds);
    let added = added_for(&vocab, &kinds, unk);
    // Converters write the spaces of user-defined pieces as spaces, since those are found in the text as
    // it is; the merges need them as marks, like all others.
    for (token, _) in (vocab.tokens.iter_mut().zip(&kinds)).filter(|(_, kind)| **kind == PieceKind::UserDefined) {
        *token = token.replace(' ', "▁");
    }
    let (model, apart) = spm::build(ORIGIN, &vocab.tokens, &scores, &kinds, unk)?;
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let ends = ends(&vocab, true)?;
    let mut vocabulary = Vocabulary::new(Alphabet::SpaceMarks, usize::from(prefix));
    fill(&mut vocabulary, vocab.tokens, &kinds, &added);
    let pipeline = Pipeline::Own(Box::new(OwnPipeline {
        added: AddedTokens::new(ORIGIN, added)?,
        words: Words::SpaceMarks { prefix: if prefix { Prefix::Always } else { Prefix::Never }, apart },
        model: model.into(),
    }));
    Ok(Tokenizer::new(pipeline, vocabulary, ends, Vec::new()))
}

fn byte_level(mut vocab: GgufVocab) -> Result<Tokenizer> {
    let kinds = piece_kinds(&vocab)?;
    let mut notes = Vec::new();
    let pre = PreTokenizer::named(vocab.pre.as_deref(), &mut notes)?;
    let merges = vocab
        .merges
        .take()
        .ok_or_else(|| Error::vocabulary(ORIGIN, "tokenizer.ggml.merges is missing"))?
        .into_iter()
        .enumerate()
        .map(|(rank, merge)| split_merge(rank, &merge))
        .collect::<Result<Vec<_>>>()?;
    let mut ids = Vocab::with_capacity(vocab.tokens.len());
    for (id, token) in vocab.tokens.iter().enumerate() {
        ids.entry(token.clone()).or_insert(id as u32);
    }
    let options = BpeOptions { ignore_merges: pre.ignore_merges, ..BpeOptions::default() };
    let model = bpe::build(ORIGIN, ids, merges, options)?;
    let added = added_for(&vocab, &kinds, vocab.unk);
    let ends = ends(&vocab, pre.adds_bos)?;
    let mut vocabulary = Vocabulary::new(Alphabet::ByteLevel, 0);
    fill(&mut vocabulary, vocab.tokens, &kinds, &added);
    let pipeline = Pipeline::Own(Box::new(OwnPipeline {
        added: AddedTokens::new(ORIGIN, added)?,
        words: Words::ByteLevel {
            splitters: pre.patterns.iter().map(|p| Splitter::known(p)).collect(),
            prefix: vocab.add_space_prefix.unwrap_or(false),
        },
        model: model.into(),
    }));
    Ok(Tokenizer::new(pipeline, vocabulary, ends, notes))
}

/// How a byte-level vocabulary's text is cut into words.
pub(crate) struct PreTokenizer {
    pub(crate) patterns: &'static [&'static str],
    /// A word that is an entry is that entry, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// Whether a file without `add_bos_token` means yes.
    adds_bos: bool,
}

impl PreTokenizer {
    pub(crate) fn named(name: Option<&str>, notes: &mut Vec<String>) -> Result<Self> {
        let plain = |patterns| Self { patterns, ignore_merges: false, adds_bos: false };
        Ok(match name {
            Some("gpt-2" | "phi-2" | "mpt" | "olmo" | "jais") => plain(&[byte_level::GPT2]),
            Some("smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone") => {
                plain(&[byte_level::DIGIT, byte_level::GPT2])
            }
            Some("llama-bpe" | "llama3" | "llama-v3") => {
                Self { patterns: &[byte_level::LLAMA3], ignore_merges: true, adds_bos: true }
            }
            Some("qwen2" | "stablelm2") => plain(&[byte_level::QWEN2]),
            Some("default") | None => {
                notes.push(format!(
                    "the GGUF file {} its pre-tokenizer: text is cut into words as GPT-2 does, \
                     which may give other ids than the model was trained on; convert the model again \
                     with a current converter",
                    if name.is_some() { "calls \"default\"" } else { "does not name" }
                ));
                plain(&[byte_level::GPT2])
            }
            Some(other) => {
                return Err(Error::unsupported(
                    ORIGIN,
                    format!("tokenizer.ggml.pre {other:?}"),
                    "the pre-tokenizers that are: gpt-2, smollm, starcoder, refact, llama-bpe, qwen2",
                ));
            }
        })
    }
}

pub(crate) fn split_merge(rank: usize, merge: &str) -> Result<(String, String)> {
    // The first part is never empty, but may itself be a space in old files.
    let first = merge.chars().next().map_or(0, char::len_utf8);
    match merge[first..].split_once(' ') {
        Some((rest, right)) => Ok((format!("{}{rest}", &merge[..first]), right.to_owned())),
        None => Err(Error::vocabulary(ORIGIN, format!("merge {rank} is {merge:?}: expected two entries with a space between"))),
    }
}

fn same_length(key: &str, len: usize, vocab: &GgufVocab) -> Result<()> {
    if len == vocab.tokens.len() {
        Ok(())
    } else {
        Err(Error::vocabulary(ORIGIN, format!("tokenizer.ggml.{key} has {len} entries for {} tokens", vocab.tokens.len())))
    }
}

pub(crate) fn piece_kinds(vocab: &GgufVocab) -> Result<Vec<PieceKind>> {
    let Some(types) = &vocab.token_types else {
        return Ok(vec![PieceKind::Normal; vocab.tokens.len()]);
    };
    same_length("token_type", types.len(), vocab)?;
    Ok(types.iter().map(|&t| PieceKind::from_number(t)).collect())
}

/// The unknown token: the one named, else the first of its kind.
pub(crate) fn unknown(vocab: &GgufVocab, kinds: &[PieceKind]) -> Option<u32> {
    let first = || kinds.iter().position(|kind| *kind == PieceKind::Unknown);
    vocab.unk.or_else(|| first().map(|id| id as u32))
}

/// The added tokens of a vocabulary of either kind.
pub(crate) fn added_for(vocab: &GgufVocab, kinds: &[PieceKind], unk: Option<u32>) -> Vec<AddedToken> {
    let mut added = added_tokens(vocab, kinds, unk);
    if vocab.model == "llama" {
        strip_as_phi3(&mut added);
    }
    added
}

/// Control tokens as special ones, user-defined tokens as ordinary ones, and the ids that the file
/// names as special whatever their type. Padding that a converter made up (`[PAD32011]`, of unknown
/// type) is never found in text.
fn added_tokens(vocab: &GgufVocab, kinds: &[PieceKind], unk: Option<u32>) -> Vec<AddedToken> {
    let named = [vocab.bos, vocab.eos, unk, vocab.pad, vocab.eot];
    let mut tokens = Vec::new();
    for ((content, kind), id) in vocab.tokens.iter().zip(kinds).zip(0..) {
        let special = match kind {
            PieceKind::Control => true,
            PieceKind::UserDefined => named.contains(&Some(id)) || is_marker(content),
            PieceKind::Unknown => {
                if unk != Some(id) {
                    continue;
                }
                true
            }
            _ => continue,
        };
        tokens.push(AddedToken { id, content: content.clone(), special, single_word: false, lstrip: false, rstrip: false });
    }
    tokens
}

/// Turn markers that some converters store as user-defined tokens, which would let a user's text
/// end their own turn.
fn is_marker(content: &str) -> bool {
    (content.starts_with("<|") && content.ends_with("|>")) || matches!(content, "<start_of_turn>" | "<end_of_turn>")
}

/// Phi-3's added tokens swallow the white space to their right, which GGUF can not say. They are known
/// by their names, as Phi-3's, Phi-3.5's and Phi-3.5-MoE's vocabularies share them.
fn strip_as_phi3(tokens: &mut [AddedToken]) {
    let has = |name: &str| tokens.iter().any(|token| token.content == name);
    if !["<|user|>", "<|assistant|>", "<|end|>", "<|placeholder1|>"].iter().all(|name| has(name)) {
        return;
    }
    for token in tokens {
        token.rstrip = !matches!(token.content.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
    }
}

fn ends(vocab: &GgufVocab, adds_bos: bool) -> Result<Ends> {
    let id = |key: &str, id: Option<u32>| {
        id.map(|id| require(ORIGIN, &format!("tokenizer.ggml.{key}_token_id"), id, vocab.tokens.len())).transpose()
    };
    let bos = id("bos", vocab.bos)?;
    let eos = id("eos", vocab.eos)?;
    Ok(Ends {
        bos,
        eos,
        before: bos.filter(|_| vocab.add_bos.unwrap_or(adds_bos)).into_iter().collect(),
        after: eos.filter(|_| vocab.add_eos.unwrap_or(false)).into_iter().collect(),
    })
}

fn fill(vocabulary: &mut Vocabulary, tokens: Vec<String>, kinds: &[PieceKind], added: &[AddedToken]) {
    vocabulary.reserve(tokens.len());
    for ((token, kind), id) in tokens.into_iter().zip(kinds).zip(0..) {
        let kind = match kind {
            PieceKind::Byte => spm::byte_piece(&token).map_or(Kind::Text, Kind::Byte),
            PieceKind::Control | PieceKind::Unknown => Kind::Special,
            PieceKind::UserDefined => Kind::Added,
            PieceKind::Normal | PieceKind::Unused => Kind::Text,
        };
        vocabulary.insert(id, token, kind);
    }
    for token in added {
        vocabulary.insert(token.id, token.content.as_str(), added_kind(token.special));
    }
}
