//! Building the `tokenizers` crate's byte pair encoder from parts that may be wrong.

use tokenizers::models::bpe::{BPE, Vocab};

use crate::{Error, Result};

/// What varies between byte pair encoders.
#[derive(Debug, Default, Clone)]
pub(crate) struct BpeOptions {
    pub(crate) unk_token: Option<String>,
    pub(crate) fuse_unk: bool,
    pub(crate) byte_fallback: bool,
    pub(crate) ignore_merges: bool,
}

/// A byte pair encoder; `origin` names the file or key in errors.
pub(crate) fn build(origin: &str, vocab: Vocab, merges: Vec<(String, String)>, options: BpeOptions) -> Result<BPE> {
    // The crate's builder copies each merged pair into a buffer as long as the longest entry.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    if let Some((left, right)) = merges.iter().find(|(left, right)| left.len() + right.len() > longest) {
        return Err(Error::vocabulary(
            origin,
            format!("the merge of {left:?} and {right:?} gives a token that is not in the vocabulary"),
        ));
    }
    if let Some(unk) = &options.unk_token
        && !vocab.contains_key(unk)
    {
        return Err(Error::vocabulary(origin, format!("the unknown token {unk:?} is not in the vocabulary")));
    }
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(options.fuse_unk)
        .byte_fallback(options.byte_fallback)
        .ignore_merges(options.ignore_merges);
    if let Some(unk) = options.unk_token {
        builder = builder.unk_token(unk);
    }
    builder.build().map_err(|e| Error::vocabulary(origin, format!("merges: {e}")))
}
