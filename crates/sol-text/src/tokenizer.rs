//! The tokenizer that everyone else uses.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::gguf::{self, GgufVocab};
use crate::hf;
use crate::pipeline::{Pipeline, Scan};
use crate::stream::TokenStream;
use crate::vocab::{Kind, Vocabulary};
use crate::{Error, Result};

/// How to encode a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encode {
    /// Put the tokens around the text that the model's configuration asks for, as a rule `<s>` in
    /// front or nothing at all. Off: never.
    pub add_bos: bool,
    /// Read `<|im_end|>` and its like as the special tokens that they name. Off: they are text, as
    /// anything a user wrote should be.
    pub parse_special: bool,
}

/// Text to ids and back. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pipeline: Pipeline,
    vocabulary: Arc<Vocabulary>,
    ends: Ends,
    notes: Vec<String>,
    /// Ids by entry, made when first asked for.
    ids: OnceLock<HashMap<Box<str>, u32>>,
}

/// The tokens at the ends of texts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ends {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    /// Put before the text when asked to.
    pub(crate) before: Vec<u32>,
    /// Put behind the text when asked to.
    pub(crate) after: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face directory: tokenizer.json, else tokenizer.model, with what
    /// tokenizer_config.json, special_tokens_map.json and added_tokens.json say beside it.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        hf::load(dir)
    }

    /// The tokenizer of a GGUF file.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self> {
        gguf::load(vocab)
    }

    pub(crate) fn new(pipeline: Pipeline, vocabulary: Vocabulary, ends: Ends, notes: Vec<String>) -> Self {
        Self { inner: Arc::new(Inner { pipeline, vocabulary: Arc::new(vocabulary), ends, notes, ids: OnceLock::new() }) }
    }

    /// The ids of `text`.
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<u32>> {
        let scan = Scan { special: options.parse_special, guard: None };
        let mut ids = Vec::new();
        if options.add_bos {
            ids.extend(&self.inner.ends.before);
        }
        self.inner.pipeline.encode(text, scan, &mut ids)?;
        if options.add_bos {
            ids.extend(&self.inner.ends.after);
        }
        Ok(ids)
    }

    /// The ids of a rendered conversation in which `guard` breaks up whatever looked like a special
    /// token in a message.
    pub(crate) fn encode_guarded(&self, text: &str, guard: Option<char>) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let scan = Scan { special: true, guard };
        self.inner.pipeline.encode(text, scan, &mut ids)?;
        Ok(ids)
    }

    /// Where special tokens begin in `text`, as byte offsets.
    pub(crate) fn special_starts(&self, text: &str) -> Vec<usize> {
        self.inner.pipeline.special_starts(text)
    }

    /// The text of `ids`; bytes that form no character come out as U+FFFD. Ids outside the vocabulary
    /// have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream(skip_special);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// A detokeniser for ids that come one at a time.
    pub fn stream(&self, skip_special: bool) -> TokenStream {
        TokenStream::new(Arc::clone(&self.inner.vocabulary), skip_special)
    }

    /// One more than the largest id. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.inner.ends.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.inner.ends.eos
    }

    /// Whether the model's configuration asks for a token before each text.
    pub fn adds_bos(&self) -> bool {
        !self.inner.ends.before.is_empty()
    }

    /// The vocabulary's entry for `id`, as the vocabulary writes it (`▁Hello`, `Ġworld`, `<0x0A>`).
    pub fn token(&self, id: u32) -> Option<&str> {
        Some(self.inner.vocabulary.entry(id)?.0)
    }

    /// The id of a vocabulary entry, as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        let ids = self.inner.ids.get_or_init(|| {
            let entries = self.inner.vocabulary.index(|_| true);
            entries.into_iter().map(|(k, v)| (k.into(), v)).collect()
        });
        ids.get(token).copied()
    }

    /// Whether `id` is structure rather than text, such as `</s>` or `<|im_end|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.vocabulary.is_special(id)
    }

    /// The bytes that `id` adds to a text, which need not be whole characters. A special token's are
    /// its name.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.inner.vocabulary.push_bytes(id, &mut bytes);
        bytes
    }

    /// What was assumed while loading and the user may want to know.
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }
}

/// The special tokens of a vocabulary, as added tokens find them.
pub(crate) fn require(origin: &str, what: &str, id: u32, len: usize) -> Result<u32> {
    if (id as usize) < len {
        Ok(id)
    } else {
        Err(Error::vocabulary(origin, format!("{what} is {id}, but the vocabulary has {len} tokens")))
    }
}

/// The kind of a token that was added to a vocabulary.
pub(crate) fn added_kind(special: bool) -> Kind {
    if special { Kind::Special } else { Kind::Added }
}
