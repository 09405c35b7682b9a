//! Reading a checkpoint's config with errors that name the key. An absurd value is refused here, before anything is sized by it.

use std::path::Path;

use serde_json::Value;
use sol_compute::Activation;
use sol_weights::gguf;

use crate::error::ModelError;

/// No dimension of a decoder comes near this; a larger one is a broken file.
const MAX_DIMENSION: u64 = 1 << 24;
const MAX_LAYERS: u64 = 4096;

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
            value: value.to_string(),
            problem: problem.into(),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        match self.integer(key) {
            None => Ok(None),
            Some(Err(value)) => Err(self.bad(key, value, "not a whole number")),
            Some(Ok(0)) => Err(self.bad(key, 0, "must be at least 1")),
            Some(Ok(n)) if n > MAX_DIMENSION => Err(self.bad(key, n, "absurdly large")),
            Some(Ok(n)) => Ok(Some(n as usize)),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    fn layers(&self, key: &str) -> Result<usize> {
        let n = self.size(key)?;
        if n as u64 > MAX_LAYERS { Err(self.bad(key, n, format!("more than {MAX_LAYERS} layers"))) } else { Ok(n) }
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
        let heads = self.size(heads_key)?;
        let kv_heads = self.optional_size(kv_key)?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(self.bad(kv_key, kv_heads, format!("does not divide the {heads} heads")));
        }
        let head_dim = match self.optional_size(dim_key)? {
            Some(d) => d,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(self.bad(heads_key, heads, format!("does not divide the hidden size {hidden}"))),
        };
        if head_dim % 2 != 0 {
            return Err(self.bad(dim_key, head_dim, "rotary embedding needs an even head size"));
        }
        Ok((heads, kv_heads, head_dim))
    }
}

/// `config.json`.
pub(crate) struct Hf<'a> {
    pub(crate) path: &'a Path,
    pub(crate) json: &'a Value,
}

impl<'a> Hf<'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(key, v, "neither true nor false")),
        }
    }

    /// A sub-object read with the same methods.
    pub(crate) fn object(&self, key: &str) -> Option<Hf<'a>> {
        self.get(key).filter(|v| v.is_object()).map(|json| Hf { path: self.path, json })
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| self.bad(key, value, "not a list"))?;
        let floats: Option<Vec<f32>> = list.iter().map(|v| v.as_f64().map(|x| x as f32)).collect();
        floats.ok_or_else(|| self.bad(key, value, "not a list of numbers")).map(Some)
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
        match self.text(key) {
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
        key.to_owned()
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
        Some(self.meta.u64(&full).ok_or_else(|| format!("{value:?}")))
    }

    fn number(&self, key: &str) -> Option<std::result::Result<f64, String>> {
        let full = self.full_key(key);
        let value = self.meta.get(&full)?;
        let number = self.meta.f32(&full).map(f64::from).or_else(|| self.meta.u64(&full).map(|n| n as f64));
        Some(number.ok_or_else(|| format!("{value:?}")))
    }

    fn has(&self, key: &str) -> bool {
        self.meta.get(&self.full_key(key)).is_some()
    }
}
