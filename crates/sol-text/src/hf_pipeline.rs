//! The `tokenizers` crate's own stages, for tokenizer.json files that are neither byte-level nor
//! sentencepiece in the usual form.

use tokenizers::{
    AddedVocabulary, Model, ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizer, PreTokenizerWrapper,
};

use crate::added::AddedTokens;
use crate::pipeline::Scan;
use crate::{Error, Result};

/// A tokenizer.json's stages.
#[derive(Debug)]
pub(crate) struct HfPipeline {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(crate) model: ModelWrapper,
    /// Finds every added token.
    pub(crate) all: AddedVocabulary,
    /// Leaves special tokens alone.
    pub(crate) ordinary: AddedVocabulary,
    /// The special tokens once more, to find where they begin.
    pub(crate) special: AddedTokens,
}

impl HfPipeline {
    pub(crate) fn encode(&self, text: &str, scan: Scan, ids: &mut Vec<u32>) -> Result<()> {
        let added = if scan.special { &self.all } else { &self.ordinary };
        let mut text = added.extract_and_normalize(self.normalizer.as_ref(), text);
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| Error::Encode(e.to_string());
        if let Some(guard) = scan.guard {
            text.normalize(|part| {
                part.filter(|c| c != guard);
                Ok(())
            })
            .map_err(failed)?;
        }
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut text).map_err(failed)?;
        }
        text.tokenize(|word| self.model.tokenize(word.get())).map_err(failed)?;
        for (_, _, tokens) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        Ok(())
    }
}
