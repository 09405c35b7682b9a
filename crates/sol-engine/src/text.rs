//! [`Text`]: what stands between text and a model's token ids.

use std::path::PathBuf;

use sol_text::{ChatTemplate, Encode, Message, RenderOptions, Tokenizer, fold_system_into_user};

use crate::{Error, Result};

/// Four times as many as in English.
const SAMPLE_BYTES_PER_TOKEN: usize = 16;

/// The tokenizer and the chat template of a model. Cloning is cheap.
#[derive(Clone)]
pub struct Text {
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) system_as_user: bool,
    /// Longest sequence, in tokens.
    pub(crate) context: usize,
    pub(crate) path: PathBuf,
}

impl Text {
    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::NoTokenizer { path: self.path.clone() })
    }

    /// The ids of a conversation as the model was trained on it, up to where its answer begins.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.chat_prompt_with(messages, serde_json::Map::new())
    }

    /// The same with further variables for the template, such as `tools`.
    pub fn chat_prompt_with(&self, messages: &[Message], extra: serde_json::Map<String, serde_json::Value>) -> Result<Vec<u32>> {
        let (template, options) = self.chat_template()?;
        let options = RenderOptions { extra, ..options };
        let tokenizer = self.tokenizer()?;
        let folded = self.system_as_user.then(|| fold_system_into_user(messages));
        Ok(template.encode(tokenizer, folded.as_deref().unwrap_or(messages), &options)?)
    }

    /// The chat template, and how it is rendered up to where an answer begins.
    pub fn chat_template(&self) -> Result<(&ChatTemplate, RenderOptions)> {
        let tokenizer = self.tokenizer()?;
        let template = self.template.as_ref().ok_or(Error::NoChatTemplate)?;
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default().to_owned();
        let options = RenderOptions {
            add_generation_prompt: true,
            bos_token: token(tokenizer.bos()),
            eos_token: token(tokenizer.eos()),
            ..RenderOptions::default()
        };
        Ok((template, options))
    }

    /// Whether a system message of a conversation reaches the model.
    pub fn has_system_prompt(&self) -> bool {
        self.system_as_user || self.template.as_ref().is_some_and(ChatTemplate::supports_system)
    }

    /// The ids of a text to continue.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer()?.encode(text, Encode { add_bos: true, parse_special: false })?)
    }

    /// Refuses a text that can not fit by far, without reading all of it: tokenising megabytes takes seconds.
    pub fn check_length(&self, text: &str) -> Result<()> {
        let context = self.context;
        let sample = &text[..text.floor_char_boundary(context.saturating_mul(SAMPLE_BYTES_PER_TOKEN))];
        if sample.len() == text.len() {
            return Ok(());
        }
        let tokens = self.text_prompt(sample)?.len();
        // Where the sample was cut, tokens can be others than in the whole text; not half of them.
        if tokens > 2 * context {
            return Err(Error::PromptTooLong { bytes: text.len(), sample: sample.len(), tokens, context });
        }
        Ok(())
    }
}
