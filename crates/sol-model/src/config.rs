//! Reading a checkpoint's config with errors that name the key. An absurd value is refused here, before anything is sized by it.

use std::path::Path;

use serde_json::Value;
use sol_compute::Activation;
use sol_weights::gguf;

use crate::error::ModelError;

/// No decoder comes near these; a larger number is of a broken file. Products of them fit 64 bits, which the arithmetic of
/// [`crate::memory`] relies on.
pub(crate) const MAX_VOCAB: u64 = 1 << 24;
const MAX_CONTEXT: u64 = 1 << 24;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_EXPERTS: u64 = 1 << 10;
const MAX_LAYERS: u64 = 1 << 12;

type Result<T> = std::result::Result<T, ModelError>;

/// One source of hyper-parameters: `config.json` or GGUF metadata under an architecture's prefix.
pub(crate) trait Config {
    fn path(&self) -> &Path;
    /// The key as the file spells it.
    fn full_key(&self, key: &str) -> String;
    /// A whole number; `None` if absent or null.
    fn integer(&self, key: &str) -> Option<std::result::Result<u64, String>>;
    /// A number.
    fn number(&self, key: &str) -> Option<std::result::Result<f64, String>>;
    /// Whether the key is there and not null.
    fn has(&self, key: &str) -> bool;

    fn missing(&self, key: &str) -> ModelError {
        ModelError::MissingKey { path: self.path().into(), key: self.full_key(key) }
    }

    fn bad(&self, key: &str, value: impl ToString, problem: impl Into<String>) -> ModelError {
        ModelError::BadValue {
            path: self.path().into(),
            key: self.full_key(key),
            value: shorten(&value.to_string()),
            problem: problem.into(),
        }
    }

    /// A whole number from 1 to `most`.
    fn optional_count(&self, key: &str, most: u64) -> Result<Option<usize>> {
        match self.integer(key) {
            None => Ok(None),
            Some(Err(value)) => Err(self.bad(key, value, "not a whole number")),
            Some(Ok(0)) => Err(self.bad(key, 0, "must be at least 1")),
            Some(Ok(n)) if n > most => Err(self.bad(key, n, format!("no decoder has more than {most}"))),
            Some(Ok(n)) => Ok(Some(n as usize)),
        }
    }

    fn count(&self, key: &str, most: u64) -> Result<usize> {
        self.optional_count(key, most)?.ok_or_else(|| self.missing(key))
    }

    /// Numbers in a row: the stream's or the feed-forward's.
    fn width(&self, key: &str) -> Result<usize> {
        self.count(key, MAX_WIDTH)
    }

    fn layers(&self, key: &str) -> Result<usize> {
        self.count(key, MAX_LAYERS)
    }

    fn vocab(&self, key: &str) -> Result<usize> {
        self.count(key, MAX_VOCAB)
    }

    fn experts(&self, key: &str) -> Result<usize> {
        self.count(key, MAX_EXPERTS)
    }

    /// A number of tokens.
    fn tokens(&self, key: &str) -> Result<usize> {
        self.count(key, MAX_CONTEXT)
    }

    fn optional_tokens(&self, key: &str) -> Result<Option<usize>> {
        self.optional_count(key, MAX_CONTEXT)
    }

    fn optional_float(&self, key: &str) -> Result<Option<f32>> {
        match self.number(key) {
            None => Ok(None),
            Some(Err(value)) => Err(self.bad(key, value, "not a number")),
            Some(Ok(x)) if !(x as f32).is_finite() => Err(self.bad(key, x, "not a finite number")),
            Some(Ok(x)) => Ok(Some(x as f32)),
        }
    }

    /// A number above zero.
    fn positive(&self, key: &str) -> Result<Option<f32>> {
        match self.optional_float(key)? {
            Some(x) if x <= 0.0 => Err(self.bad(key, x, "must be above 0")),
            other => Ok(other),
        }
    }

    fn required_positive(&self, key: &str) -> Result<f32> {
        self.positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// Heads, kv heads and head size, checked against each other.
    fn heads(&self, keys: [&str; 3], hidden: usize) -> Result<(usize, usize, usize)> {
        let [heads_key, kv_key, dim_key] = keys;
        let heads = self.width(heads_key)?;
        let kv_heads = self.optional_count(kv_key, MAX_WIDTH)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.bad(kv_key, kv_heads, format!("does not divide the {heads} heads")));
        }
        let head_dim = match self.optional_count(dim_key, MAX_WIDTH)? {
            Some(d) => d,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(self.bad(heads_key, heads, format!("does not divide the hidden size {hidden}"))),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(self.bad(dim_key, head_dim, "rotary embedding needs an even head size"));
        }
        if (heads * head_dim) as u64 > MAX_WIDTH {
            return Err(self.bad(heads_key, heads, format!("no decoder has so many heads of {head_dim}")));
        }
        Ok((heads, kv_heads, head_dim))
    }
}

/// A value from a file, fit for a message.
pub(crate) fn shorten(value: &str) -> String {
    const MOST: usize = 80;
    match value.char_indices().nth(MOST) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}...", &value[..end]),
    }
}

/// `config.json`, or an object in it.
pub(crate) struct Hf<'a> {
    path: &'a Path,
    json: &'a Value,
    /// The object's key, with a dot.
    prefix: String,
}

impl<'a> Hf<'a> {
    pub(crate) fn new(path: &'a Path, json: &'a Value) -> Self {
        Self { path, json, prefix: String::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, if only with null: transformers' classes have defaults for absent keys alone.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let text = |v: &'a Value| v.as_str().ok_or_else(|| self.bad(key, v, "not a text"));
        self.get(key).map(text).transpose()
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(key, v, "neither true nor false")),
        }
    }

    /// A sub-object read with the same methods.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Hf<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(json) if json.is_object() => Ok(Some(Hf { path: self.path, json, prefix: format!("{}{key}.", self.prefix) })),
            Some(other) => Err(self.bad(key, other, "not an object")),
        }
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| self.bad(key, value, "not a list"))?;
        let floats: Option<Vec<f32>> = list.iter().map(|v| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite())).collect();
        floats.ok_or_else(|| self.bad(key, value, "not a list of finite numbers")).map(Some)
    }

    /// Layer numbers, each below `layers`.
    pub(crate) fn layer_list(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| self.bad(key, value, "not a list"))?;
        let indices: Option<Vec<usize>> = list.iter().map(|v| v.as_u64().map(|i| i as usize).filter(|&i| i < layers)).collect();
        indices.ok_or_else(|| self.bad(key, value, format!("not a list of layers below {layers}"))).map(Some)
    }

    /// The gate's activation under any of its names.
    pub(crate) fn activation(&self, key: &str) -> Result<Option<Activation>> {
        match self.text(key)? {
            None => Ok(None),
            Some("silu" | "swish") => Ok(Some(Activation::Silu)),
            Some("gelu_pytorch_tanh" | "gelu_tanh" | "gelu_new") => Ok(Some(Activation::GeluTanh)),
            Some(other) => Err(self.bad(key, other, "this activation is not supported (silu, gelu_pytorch_tanh)")),
        }
    }
}

impl Config for Hf<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn integer(&self, key: &str) -> Option<std::result::Result<u64, String>> {
        self.get(key).map(|v| v.as_u64().ok_or_else(|| v.to_string()))
    }

    fn number(&self, key: &str) -> Option<std::result::Result<f64, String>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| v.to_string()))
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

impl<'a> Gguf<'a> {
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let full = self.full_key(key);
        let Some(value) = self.meta.get(&full) else { return Ok(None) };
        self.meta.str(&full).ok_or_else(|| self.bad(key, value, "not a text")).map(Some)
    }
}

/// GGUF metadata; keys are taken under the architecture's prefix.
pub(crate) struct Gguf<'a> {
    pub(crate) path: &'a Path,
    pub(crate) meta: &'a gguf::Metadata,
    pub(crate) architecture: &'a str,
}

impl Config for Gguf<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn integer(&self, key: &str) -> Option<std::result::Result<u64, String>> {
        let full = self.full_key(key);
        let value = self.meta.get(&full)?;
        Some(self.meta.u64(&full).ok_or_else(|| value.to_string()))
    }

    fn number(&self, key: &str) -> Option<std::result::Result<f64, String>> {
        let full = self.full_key(key);
        let value = self.meta.get(&full)?;
        Some(self.meta.f32(&full).map(f64::from).ok_or_else(|| value.to_string()))
    }

    fn has(&self, key: &str) -> bool {
        self.meta.get(&self.full_key(key)).is_some()
    }
}
