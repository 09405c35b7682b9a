//! The tokenizer of a GGUF file as the files of a Hugging Face directory.

use serde_json::{Map, Value, json};

use crate::gguf::{self, GgufVocab};
use crate::spm::PieceKind;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, byte_level, spm};

const ORIGIN: &str = "the GGUF file's tokenizer";

/// Names of tokens that end a turn, for GGUF files, which have no list of them.
pub const TURN_ENDS: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>"];

impl GgufVocab {
    /// `tokenizer.json` and `tokenizer_config.json` by name. `template` is the chat template, `context` the longest
    /// sequence that the
    /// model takes.
    ///
    /// The vocabulary is checked as [`Tokenizer::from_gguf`] does.
    pub fn to_files(&self, template: Option<&str>, context: usize) -> Result<Vec<(&'static str, Value)>> {
        let tokenizer = Tokenizer::from_gguf(self.clone())?;
        let kinds = gguf::piece_kinds(self)?;
        let tokens: Vec<(u32, &str, PieceKind)> = (0..)
            .zip(&self.tokens)
            .zip(&kinds)
            .map(|((id, token), kind)| (id, token.as_str(), *kind))
            // Made up by a converter for ids without a token.
            .filter(|(id, token, kind)| !(*kind == PieceKind::Unused && *token == format!("[PAD{id}]")))
            .collect();
        let unk = gguf::unknown(self, &kinds);
        let added: Vec<Value> = gguf::added_for(self, &kinds, unk)
            .iter()
            .map(|token| {
                json!({
                    "id": token.id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
                    "rstrip": token.rstrip, "normalized": false, "special": token.special,
                })
            })
            .collect();
        let mut json = match self.model.as_str() {
            "llama" => self.marked(&tokens, unk)?,
            _ => self.byte_levelled(&tokens)?,
        };
        json["added_tokens"] = json!(added);
        json["post_processor"] = self.post_processor(&tokenizer);
        let config = self.config(&tokenizer, &added, unk, template, context);
        Ok(vec![("tokenizer.json", json), ("tokenizer_config.json", config)])
    }

    /// Ids of tokens that end a turn: those that the file names, and special tokens of known names.
    pub fn turn_ends(&self) -> Vec<u32> {
        let control = |id: usize| self.token_types.as_ref().is_none_or(|types| types.get(id) == Some(&3));
        let named = (0..).zip(&self.tokens).filter(|(id, token)| TURN_ENDS.contains(&token.as_str()) && control(*id as usize));
        let mut ends: Vec<u32> = self.eos.into_iter().chain(self.eot).chain(named.map(|(id, _)| id)).collect();
        // The end of texts first, as published files have it.
        let mut seen = std::collections::HashSet::new();
        ends.retain(|id| seen.insert(*id));
        ends
    }

    fn marked(&self, tokens: &[(u32, &str, PieceKind)], unk: Option<u32>) -> Result<Value> {
        let scores = self.scores.as_ref().ok_or_else(|| Error::vocabulary(ORIGIN, "tokenizer.ggml.scores is missing"))?;
        // The merges need user-defined spaces as marks, like all others.
        let pieces: Vec<String> = tokens
            .iter()
            .map(|(_, token, kind)| if *kind == PieceKind::UserDefined { token.replace(' ', "▁") } else { (*token).to_owned() })
            .collect();
        let kinds: Vec<PieceKind> = tokens.iter().map(|(_, _, kind)| *kind).collect();
        let scores: Vec<f32> = tokens.iter().map(|(id, ..)| scores[*id as usize]).collect();
        let merges: Vec<Value> = spm::merges(&pieces, &scores, &kinds).into_iter().map(|(a, b)| json!([a, b])).collect();
        let vocab: Map<String, Value> = pieces.into_iter().zip(tokens).map(|(piece, (id, ..))| (piece, json!(id))).collect();
        let unk_token = unk.and_then(|id| self.tokens.get(id as usize));
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let prefix = self.add_space_prefix.unwrap_or(true);
        let normalizers = if prefix { vec![json!({ "type": "Prepend", "prepend": "▁" }), replace] } else { vec![replace] };
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": bpe(unk_token, true, kinds.contains(&PieceKind::Byte), false, vocab, merges),
        }))
    }

    fn byte_levelled(&self, tokens: &[(u32, &str, PieceKind)]) -> Result<Value> {
        let merges = self.merges.iter().flatten().enumerate();
        let merges: Vec<Value> =
            merges.map(|(rank, merge)| gguf::split_merge(rank, merge).map(|(a, b)| json!([a, b]))).collect::<Result<_>>()?;
        // Added tokens are in the vocabulary too where transformers looks first; elsewhere they do no harm.
        let vocab: Map<String, Value> = tokens.iter().map(|(id, token, _)| ((*token).to_owned(), json!(id))).collect();
        let prefix = self.add_space_prefix.unwrap_or(false);
        let level =
            |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex });
        let split =
            |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let mut notes = Vec::new();
        let pre = gguf::PreTokenizer::named(self.pre.as_deref(), &mut notes)?;
        let before: Vec<Value> = match pre.patterns {
            [only] if *only == byte_level::GPT2 => Vec::new(),
            [first, _] if *first == byte_level::DIGIT => vec![json!({ "type": "Digits", "individual_digits": true })],
            patterns => patterns.iter().map(|pattern| split(pattern)).collect(),
        };
        // GPT-2's own way is ByteLevel's.
        let last = level(pre.patterns.last() == Some(&byte_level::GPT2));
        let mut steps = before;
        steps.push(last);
        let pre_tokenizer = match &steps[..] {
            [only] => only.clone(),
            several => json!({ "type": "Sequence", "pretokenizers": several }),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": bpe(None, false, false, pre.ignore_merges, vocab, merges),
        }))
    }

    /// Tokens around each text.
    fn post_processor(&self, tokenizer: &Tokenizer) -> Value {
        let name = |id: Option<u32>| id.and_then(|id| self.tokens.get(id as usize)).cloned();
        let before = name(self.bos).filter(|_| tokenizer.adds_bos());
        let after = name(self.eos).filter(|_| self.add_eos == Some(true));
        if before.is_none() && after.is_none() {
            return Value::Null;
        }
        let special = |name: &String| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
        let around = |texts: &[&str]| -> Value {
            let mut steps = Vec::new();
            for text in texts {
                steps.extend(before.iter().map(special));
                steps.push(json!({ "Sequence": { "id": text, "type_id": 0 } }));
                steps.extend(after.iter().map(special));
            }
            json!(steps)
        };
        let ids: Map<String, Value> = [(&before, self.bos), (&after, self.eos)]
            .into_iter()
            .filter_map(|(name, id)| {
                let name = name.clone()?;
                Some((name.clone(), json!({ "id": name, "ids": [id], "tokens": [name] })))
            })
            .collect();
        json!({ "type": "TemplateProcessing", "single": around(&["A"]), "pair": around(&["A", "B"]), "special_tokens": ids })
    }

    fn config(&self, tokenizer: &Tokenizer, added: &[Value], unk: Option<u32>, template: Option<&str>, context: usize) -> Value {
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| {
            config.insert(key.to_owned(), value);
        };
        let gemma = self.tokens.iter().any(|token| token == "<start_of_turn>");
        let class = match self.model.as_str() {
            "llama" if gemma => "GemmaTokenizer",
            "llama" => "LlamaTokenizer",
            _ => "PreTrainedTokenizerFast",
        };
        if self.model == "llama" {
            set("add_bos_token", json!(tokenizer.adds_bos()));
            set("add_eos_token", json!(self.add_eos.unwrap_or(false)));
            set("legacy", json!(true));
        }
        if self.model != "llama" {
            // Llama's class would take it for an order to convert a tokenizer.model, which is not there.
            set("add_prefix_space", json!(self.add_space_prefix.unwrap_or(false)));
        }
        let decoder: Map<String, Value> = added
            .iter()
            .map(|token| {
                let mut token = token.clone();
                let id = token.as_object_mut().and_then(|fields| fields.shift_remove("id")).unwrap_or_default();
                (id.to_string(), token)
            })
            .collect();
        set("added_tokens_decoder", Value::Object(decoder));
        for (key, id) in [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", unk), ("pad_token", self.pad)] {
            set(key, json!(id.and_then(|id| self.tokens.get(id as usize))));
        }
        if let Some(template) = template {
            set("chat_template", json!(template));
        }
        set("clean_up_tokenization_spaces", json!(false));
        set("model_max_length", json!(context));
        set("tokenizer_class", json!(class));
        Value::Object(config)
    }
}

fn bpe(
    unk: Option<&String>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Map<String, Value>,
    merges: Vec<Value>,
) -> Value {
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unk,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    })
}
