//! [`LanguageModel`]: a checkpoint with all that belongs to it.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sol_compute::KvType;
use sol_cpu::Cpu;
use sol_hub::{Hub, ModelRef, Silent};
use sol_model::memory::kv_bytes_per_token;
use sol_model::{BLOCK_LEN, DecoderSpec, LoadOptions, Model, RopeFactors};
use sol_text::{ChatTemplate, GgufVocab, Message, RenderOptions, TURN_ENDS, Tokenizer};
use sol_weights::{Checkpoint, HfMetadata, Metadata, gguf};

use crate::constraint::Constrainer;
use crate::engine::{Engine, Sequence, check_sequences};
use crate::limits::{Fit, Limits, Need, Size};
use crate::sampling::Sampling;
use crate::speculate::{Drafter, Track};
use crate::text::Text;
use crate::{Error, Result};

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads; default: one for each core.
    pub threads: Option<usize>,
    /// Longest sequence; default: the model's context, or as much of it as fits in memory.
    pub context: Option<usize>,
    /// Sequences that the KV cache has room for and that [`Engine::step`] can advance together; default: 1.
    pub sequences: Option<usize>,
    /// Bytes of the KV cache, for all sequences together; default: as many as the context of each takes.
    pub kv_memory: Option<u64>,
    /// Number format of the KV cache; default: f32 for unquantised weights, else f16.
    pub kv_type: Option<KvType>,
    /// Ignore sliding windows.
    pub no_window: bool,
    /// Longrope's set of factors; default: by the context.
    pub rope_factors: Option<RopeFactors>,
    /// Put system messages in front of the first user message.
    pub system_as_user: bool,
}

impl Options {
    /// The same for one of `models` models of a server, with room in the cache for the context of every sequence, or for as many
    /// tokens as there is memory for; a draft's cache, of as many tokens, takes its part of it. No context is longer than that room.
    pub fn for_serving(mut self, path: &Path, models: usize, draft: Option<&Path>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let spec = sol_model::describe(&checkpoint)?.spec;
        let context = self.context.unwrap_or(spec.context);
        let kv_type = self.kv_type.unwrap_or_else(|| sol_model::natural_kv_type(&checkpoint));
        let token = kv_bytes_per_token(&spec, kv_type);
        let mut need = Need::new(&checkpoint, &spec, context, 1, kv_type);
        if let Some(draft) = draft {
            let checkpoint = Checkpoint::open(draft)?;
            let spec = sol_model::describe(&checkpoint)?.spec;
            let more = Need::new(&checkpoint, &spec, spec.context, 1, sol_model::natural_kv_type(&checkpoint));
            need.token = need.token.saturating_add(more.token);
            need.copied = need.copied.saturating_add(more.copied);
            need.memory.weights = need.memory.weights.saturating_add(more.memory.weights);
            need.memory.work = need.memory.work.saturating_add(more.memory.work);
        }
        let room = match self.kv_memory {
            Some(bytes) => tokens_in(bytes, need.token),
            None => {
                let fits = Limits::now().comfortable_context(&need) / models.max(1);
                context.saturating_mul(self.sequences.unwrap_or(1)).min(fits.max(LEAST_CONTEXT))
            }
        };
        if let Some(bytes) = self.kv_memory
            && (room == 0 || self.context.is_some_and(|asked| room < asked))
        {
            let least = need.token.saturating_mul(self.context.unwrap_or(BLOCK_LEN).next_multiple_of(BLOCK_LEN) as u64);
            return Err(Error::LittleKvMemory { given: Size(bytes), tokens: room, asked: self.context, least: Size(least) });
        }
        self.kv_memory = Some(token.saturating_mul(room.next_multiple_of(BLOCK_LEN) as u64));
        if self.context.is_none() && room < context {
            self.rope_factors = self.rope_factors.or(Some(spec.rope.factors_for(spec.context)));
            self.context = Some(room.max(1));
        }
        Ok(self)
    }

    /// The same for a draft of a model: for its sequences and the tokens of its cache.
    pub fn for_draft_of(mut self, model: &LanguageModel, path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let spec = sol_model::describe(&checkpoint)?.spec;
        let kv_type = self.kv_type.unwrap_or_else(|| sol_model::natural_kv_type(&checkpoint));
        let need = Need::new(&checkpoint, &spec, spec.context, 1, kv_type);
        let fits = Limits::now().comfortable_context(&need).max(LEAST_CONTEXT);
        let (sequences, context) = (model.engine.sequences(), spec.context.min(model.context()).min(fits));
        let tokens = context.next_multiple_of(BLOCK_LEN).saturating_mul(sequences).min(model.kv_room().0).min(fits);
        self.sequences = Some(sequences);
        self.rope_factors = self.rope_factors.or(Some(spec.rope.factors_for(spec.context)));
        self.context = Some(context);
        self.kv_memory = Some(need.token.saturating_mul(tokens as u64));
        Ok(self)
    }

    /// Tokens that the KV cache has room for, where it is bounded.
    fn kv_tokens(&self, spec: &DecoderSpec, kv_type: KvType) -> Option<usize> {
        self.kv_memory.map(|bytes| tokens_in(bytes, kv_bytes_per_token(spec, kv_type)).max(BLOCK_LEN))
    }
}

/// Tokens, in whole blocks, whose keys and values these bytes hold.
fn tokens_in(bytes: u64, token: u64) -> usize {
    usize::try_from(bytes / token.max(1)).unwrap_or(usize::MAX) / BLOCK_LEN * BLOCK_LEN
}

/// A model that can be talked to.
pub struct LanguageModel {
    pub(crate) engine: Engine<Cpu>,
    pub(crate) text: Text,
    /// What the cache holds: the last conversation.
    pub(crate) sequence: Sequence,
    pub(crate) end_of_turn: Vec<u32>,
    pub(crate) drafter: Option<Drafter>,
    /// What the drafter knows of the last conversation.
    pub(crate) track: Track,
    sampling: Sampling,
    warnings: Vec<String>,
}

impl LanguageModel {
    /// Finds a model by path, alias or hub reference (without a progress bar) and opens it.
    pub fn load(reference: &str, options: Options) -> Result<Self> {
        let path = Hub::from_env()?.resolve(&ModelRef::parse(reference)?, &Silent)?;
        Self::open(&path, options)
    }

    /// Opens a file or a directory.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let spec = sol_model::describe(&checkpoint)?.spec;
        if let Some(asked) = options.context {
            if asked == 0 {
                return Err(Error::BadOption { option: "--ctx", value: "0".into(), problem: "must be at least 1" });
            }
            if asked > spec.context {
                return Err(Error::ContextTooLong { asked, context: spec.context });
            }
        }
        check_sequences(options.sequences.unwrap_or(1))?;
        let mut warnings = Vec::new();
        let context = fitting_context(&checkpoint, &spec, &options, &Limits::now(), &mut warnings)?;
        let backend = Arc::new(Cpu::new(options.threads)?);
        warnings.extend(backend.notices());
        let LoadedText { tokenizer, template } = load_text(&checkpoint, spec.architecture)?;
        let (end_of_turn, sampling) = generation_defaults(&checkpoint, tokenizer.as_ref());
        // A context that was cut for want of memory is another length, not another function.
        let factors = options.rope_factors.unwrap_or_else(|| spec.rope.factors_for(options.context.unwrap_or(spec.context)));
        let load = LoadOptions { no_window: options.no_window, context: Some(context), rope_factors: Some(factors) };
        let model = Model::load(backend, Arc::clone(&checkpoint), load)?;
        checkpoint.fetch_cached();
        warnings.extend(model.warnings().iter().cloned());
        if let Some(tokenizer) = &tokenizer {
            warnings.extend(tokenizer.notes().iter().cloned());
            if tokenizer.vocab_size() > model.spec().vocab {
                warnings.push(format!(
                    "the tokenizer has {} tokens, the model only {}: text that needs the others is refused",
                    tokenizer.vocab_size(),
                    model.spec().vocab
                ));
            }
        }
        let kv_type = options.kv_type.unwrap_or_else(|| model.natural_kv_type());
        let kv_tokens = options.kv_tokens(model.spec(), kv_type);
        Ok(Self {
            engine: Engine::new(model, Some(kv_type), options.sequences.unwrap_or(1), kv_tokens)?,
            text: Text { tokenizer, template, system_as_user: options.system_as_user, context, path: path.to_owned() },
            sequence: Sequence::default(),
            end_of_turn,
            drafter: None,
            track: Track::default(),
            sampling,
            warnings,
        })
    }

    /// The engine, for ids without text. The conversation that was cached is forgotten: it would take the room of a sequence.
    pub fn engine(&mut self) -> &mut Engine<Cpu> {
        let conversation = std::mem::take(&mut self.sequence);
        self.engine.release(conversation);
        &mut self.engine
    }

    /// The decoder's description.
    pub fn spec(&self) -> &sol_model::DecoderSpec {
        self.engine.model().spec()
    }

    /// Longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.engine.context()
    }

    /// Number format of the KV cache.
    pub fn kv_type(&self) -> KvType {
        self.engine.kv_type()
    }

    /// Tokens that the KV cache has room for, and the bytes that they take.
    pub fn kv_room(&self) -> (usize, u64) {
        let tokens = self.engine.blocks.len() * BLOCK_LEN;
        (tokens, kv_bytes_per_token(self.spec(), self.kv_type()).saturating_mul(tokens as u64))
    }

    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.text.tokenizer()
    }

    /// What `generation_config.json` asks for; greedy where it asks for nothing.
    pub fn default_sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Tokens that end a turn.
    pub fn end_of_turn(&self) -> &[u32] {
        &self.end_of_turn
    }

    /// What the user should know about this checkpoint.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What gives answers of this model a form, if it has a tokenizer. Takes some 100 ms.
    pub fn constrainer(&self) -> Result<Constrainer> {
        Constrainer::new(self.tokenizer()?, self.spec().vocab, &self.end_of_turn)
    }

    /// What turns text into its token ids and back; a copy of it can be used while the model is busy elsewhere.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// [`Text::chat_prompt`].
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.text.chat_prompt(messages)
    }

    /// [`Text::chat_template`].
    pub fn chat_template(&self) -> Result<(&ChatTemplate, RenderOptions)> {
        self.text.chat_template()
    }

    /// [`Text::text_prompt`].
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.text.text_prompt(text)
    }

    /// [`Text::check_length`].
    pub fn check_length(&self, text: &str) -> Result<()> {
        self.text.check_length(text)
    }
}

/// A context that nobody asked for is not cut below this many tokens for the sake of weights.
const LEAST_CONTEXT: usize = 4096;

/// The context to run with: the one that was asked for, else as much of the model's as fits. Refuses what does not.
fn fitting_context(
    checkpoint: &Checkpoint,
    spec: &DecoderSpec,
    options: &Options,
    limits: &Limits,
    warnings: &mut Vec<String>,
) -> Result<usize> {
    let kv_type = options.kv_type.unwrap_or_else(|| sol_model::natural_kv_type(checkpoint));
    let sequences = options.sequences.unwrap_or(1);
    let need = |context| {
        let mut need = Need::new(checkpoint, spec, context, sequences, kv_type);
        if let Some(tokens) = options.kv_tokens(spec, kv_type) {
            need.memory.kv = kv_bytes_per_token(spec, kv_type).saturating_mul(tokens as u64);
        }
        need
    };
    let mut context = options.context.unwrap_or(spec.context);
    if options.context.is_none()
        && let Fit::Rereads(bound) | Fit::No(bound) = limits.fit(&need(context))
    {
        let cut = limits.comfortable_context(&need(context)).max(LEAST_CONTEXT).min(context);
        if cut < context {
            warnings.push(format!(
                "the context is cut to {cut} of {context} tokens: all of it would take {} beside weights of {}, but only {bound}; \
                 --ctx asks for another",
                Size(need(context).kept()),
                Size(need(context).mapped()),
            ));
        }
        context = cut;
    }
    let need = need(context);
    match limits.fit(&need) {
        Fit::Whole => {}
        Fit::Rereads(bound) => {
            let at_once = need.mapped().saturating_add(need.rest()) > bound.free;
            warnings.push(format!(
                "weights of {} and {} beside them are needed, but only {bound}: {}weights are read from disk again for every pass, \
                 which is slow; use a smaller quantisation (`sol inspect --fit` shows which fit)",
                Size(need.mapped()),
                Size(need.kept()),
                if at_once { "" } else { "once the context is nearly full, " },
            ));
        }
        Fit::No(bound) => {
            let half = match kv_type {
                KvType::F32 => ", or use --kv f16",
                KvType::F16 => ", or use --kv q8_0",
                KvType::Q8_0 => "",
            };
            let advice = match limits.longest_context(&need) {
                0 if need.copied > 0 => {
                    format!("{} of it are F8 weights, which loading converts: use a quantised file", Size(need.copied))
                }
                0 => "free memory, or use a smaller model".into(),
                fits => {
                    let fewer = if sequences > 1 { ", take fewer sequences" } else { "" };
                    format!("lower --ctx ({fits} tokens fit){fewer}{half}")
                }
            };
            let (kept, kv) = (Size(need.kept()), Size(need.memory.kv));
            return Err(Error::TooLittleMemory { sequences, context, kept, kv, bound: bound.clone(), advice });
        }
    }
    Ok(context)
}

/// The tokenizer of a model file or directory, which need not hold weights.
pub fn open_tokenizer(path: &Path) -> Result<Tokenizer> {
    if path.is_dir() && (path.join("tokenizer.json").exists() || path.join("tokenizer.model").exists()) {
        return Ok(Tokenizer::from_dir(path)?);
    }
    let checkpoint = Checkpoint::open(path)?;
    load_text(&checkpoint, "")?.tokenizer.ok_or_else(|| Error::NoTokenizer { path: path.to_owned() })
}

struct LoadedText {
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
}

fn load_text(checkpoint: &Checkpoint, architecture: &str) -> Result<LoadedText> {
    let (tokenizer, template) = match checkpoint.metadata() {
        Metadata::Gguf(meta) => {
            let tokenizer = gguf_vocab(meta).map(Tokenizer::from_gguf).transpose()?;
            (tokenizer, meta.str("tokenizer.chat_template").map(ChatTemplate::new).transpose()?)
        }
        Metadata::Hf(HfMetadata { dir, .. }) => {
            let has = ["tokenizer.json", "tokenizer.model"].iter().any(|name| dir.join(name).exists());
            let tokenizer = if has { Some(Tokenizer::from_dir(dir)?) } else { None };
            let template = if has { ChatTemplate::from_dir(dir)? } else { None };
            (tokenizer, template)
        }
    };
    // Solar Pro Preview was trained on ChatML without system prompts, which its template does not say.
    let template = match (architecture, template) {
        ("solar", Some(template)) => Some(template.without_system()),
        ("solar", None) => Some(chatml(tokenizer.as_ref())?.without_system()),
        (_, template) => template,
    };
    Ok(LoadedText { tokenizer, template })
}

/// ChatML for a file that brings no template, with `<s>` in front where the tokenizer puts one in front of texts.
fn chatml(tokenizer: Option<&Tokenizer>) -> Result<ChatTemplate> {
    let plain = ChatTemplate::chatml();
    if tokenizer.is_some_and(Tokenizer::adds_bos) {
        return Ok(ChatTemplate::new(&format!("{{{{ bos_token }}}}{}", plain.source()))?);
    }
    Ok(plain)
}

fn gguf_vocab(meta: &gguf::Metadata) -> Option<GgufVocab> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| meta.u64(&key(name)).and_then(|id| u32::try_from(id).ok());
    let model = meta.str(&key("model")).filter(|m| !["none", "no_vocab"].contains(m))?;
    Some(GgufVocab {
        model: model.to_owned(),
        pre: meta.str(&key("pre")).map(str::to_owned),
        tokens: meta.strings(&key("tokens")).unwrap_or_default().to_vec(),
        scores: meta.f32s(&key("scores")),
        token_types: meta.i32s(&key("token_type")),
        merges: meta.strings(&key("merges")).map(<[String]>::to_vec),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        eot: id("eot_token_id"),
        add_bos: meta.bool(&key("add_bos_token")),
        add_eos: meta.bool(&key("add_eos_token")),
        add_space_prefix: meta.bool(&key("add_space_prefix")),
    })
}

/// The tokens that end a turn, and how the model wants to be sampled.
fn generation_defaults(checkpoint: &Checkpoint, tokenizer: Option<&Tokenizer>) -> (Vec<u32>, Sampling) {
    let (mut ends, sampling) = match checkpoint.metadata() {
        Metadata::Gguf(meta) => (gguf_ends(meta, tokenizer), Sampling::default()),
        Metadata::Hf(hf) => (hf_ends(hf, tokenizer), hf.generation_config.as_ref().map(hf_sampling).unwrap_or_default()),
    };
    ends.sort_unstable();
    ends.dedup();
    (ends, sampling)
}

fn gguf_ends(meta: &gguf::Metadata, tokenizer: Option<&Tokenizer>) -> Vec<u32> {
    let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
    let mut ends: Vec<u32> = keys.iter().filter_map(|key| u32::try_from(meta.u64(key)?).ok()).collect();
    if let Some(t) = tokenizer {
        ends.extend(TURN_ENDS.iter().filter_map(|name| t.id(name)).filter(|id| t.is_special(*id)));
    }
    ends
}

fn hf_ends(hf: &HfMetadata, tokenizer: Option<&Tokenizer>) -> Vec<u32> {
    let token_id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let configs = [hf.generation_config.as_ref(), Some(&hf.config)];
    let listed = configs.into_iter().flatten().map(|c| &c["eos_token_id"]).find(|v| !v.is_null());
    let mut ends: Vec<u32> = match listed {
        Some(Value::Array(ids)) => ids.iter().filter_map(token_id).collect(),
        Some(id) => token_id(id).into_iter().collect(),
        None => Vec::new(),
    };
    if hf.generation_config.is_none() {
        ends.extend(tokenizer.and_then(Tokenizer::eos));
    }
    ends
}

/// `generation_config.json` with transformers' defaults.
fn hf_sampling(config: &Value) -> Sampling {
    let number = |key: &str, default: f32| config[key].as_f64().map_or(default, |v| v as f32);
    let greedy = Sampling { repetition_penalty: number("repetition_penalty", 1.0), ..Sampling::default() };
    if config["do_sample"] != true {
        return greedy;
    }
    Sampling {
        temperature: number("temperature", 1.0),
        top_k: config["top_k"].as_u64().map_or(50, |k| k as usize),
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        typical_p: number("typical_p", 1.0),
        ..greedy
    }
}
