//! Copies of the fixtures that tests can change before they load them.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use sol_compute::{Batch, KvType};
use sol_cpu::Cpu;
use sol_model::{Description, LoadOptions, Model, ModelError, describe, memory};
use sol_weights::{Checkpoint, DType, Metadata, gguf};
use tempfile::TempDir;

/// A tensor that can be changed.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    fn of(checkpoint: &Checkpoint) -> Vec<Self> {
        let stored = |t: &sol_weights::Tensor| Self {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            bytes: t.bytes().to_vec(),
        };
        checkpoint.tensors().map(stored).collect()
    }

    pub(crate) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), dtype: DType::F32, shape: shape.into(), bytes }
    }

    /// Zeros of any type.
    pub(crate) fn zeros(name: &str, dtype: DType, shape: &[usize]) -> Self {
        let bytes = vec![0; dtype.bytes_for(shape.iter().product()).unwrap()];
        Self { name: name.into(), dtype, shape: shape.into(), bytes }
    }
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sol-model/tests/data").join(path)
}

/// What the two formats have in common.
pub(crate) trait Spoilt {
    fn tensors(&mut self) -> &mut Vec<Stored>;

    /// Writes the files; the path to open.
    fn write(&self, dir: &Path) -> PathBuf;

    fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors().iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    fn drop_tensor(&mut self, name: &str) {
        self.tensor(name);
        self.tensors().retain(|t| t.name != name);
    }

    fn describe(&self) -> Result<Description, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        describe(&Checkpoint::open(&self.write(dir.path()))?)
    }

    /// Opens, describes and loads, and where that succeeds computes the sizes and one pass.
    fn load(&self) -> Result<Loaded, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Arc::new(Checkpoint::open(&self.write(dir.path()))?);
        let description = describe(&checkpoint)?;
        let spec = &description.spec;
        memory::active_parameters(spec);
        memory::needed(spec, memory::weight_bytes(&checkpoint), spec.context, 4, KvType::F32).total();
        let model = Model::load(Arc::new(Cpu::new(Some(1)).unwrap()), checkpoint, LoadOptions::default())?;
        Ok(Loaded { model, _dir: dir })
    }

    /// The message of a refusal.
    fn refusal(&self) -> String {
        match self.load() {
            Ok(_) => panic!("this should have been refused"),
            Err(error) => error.to_string(),
        }
    }
}

pub(crate) struct Loaded {
    pub(crate) model: Model<Cpu>,
    _dir: TempDir,
}

impl Loaded {
    /// Logits after each token.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let (mut workspace, mut cache) = (self.model.workspace(16, 16), self.model.cache(1, KvType::F32).unwrap());
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let batch = Batch { tokens, positions: &positions, sequences: &vec![0; tokens.len()], tables: &[&[0]] };
        let outputs: Vec<usize> = (0..tokens.len()).collect();
        self.model.forward(&batch, &outputs, &mut workspace, &mut cache);
        let row = |row: &usize| {
            let mut out = vec![0.0; self.model.spec().vocab];
            sol_compute::Backend::read(self.model.backend(), &workspace.logits, *row, &mut out);
            out
        };
        outputs.iter().map(row).collect()
    }
}

/// A Hugging Face directory.
#[derive(Clone)]
pub(crate) struct Hf {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Stored>,
}

impl Hf {
    /// A copy of `tests/data/models/NAME`.
    pub(crate) fn of(name: &str) -> Self {
        let checkpoint = Checkpoint::open(&fixture("models").join(name)).unwrap();
        let Metadata::Hf(hf) = checkpoint.metadata() else { unreachable!() };
        Self { config: hf.config.clone(), tensors: Stored::of(&checkpoint) }
    }

    /// With another value at a key; `a.b` is key `b` of the object `a`.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let place = key.split('.').fold(&mut self.config, |at, key| &mut at[key]);
        *place = value.into();
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        let object = match key.rsplit_once('.') {
            Some((object, _)) => &mut self.config[object],
            None => &mut self.config,
        };
        let key = key.rsplit('.').next().unwrap();
        assert!(object.as_object_mut().unwrap().remove(key).is_some(), "the fixture has no {key}");
        self
    }
}

impl Spoilt for Hf {
    fn tensors(&mut self) -> &mut Vec<Stored> {
        &mut self.tensors
    }

    fn write(&self, dir: &Path) -> PathBuf {
        // By hand, because `safetensors::write` waits for the disk, and there are a thousand files to write.
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for t in &self.tensors {
            let place = [data.len(), data.len() + t.bytes.len()];
            let entry = json!({ "dtype": t.dtype.name(), "shape": t.shape, "data_offsets": place });
            header.insert(t.name.clone(), entry);
            data.extend(&t.bytes);
        }
        let header = Value::Object(header).to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat();
        std::fs::write(dir.join("model.safetensors"), file).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        dir.into()
    }
}

/// A GGUF file.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) entries: Vec<(String, gguf::Value)>,
    pub(crate) tensors: Vec<Stored>,
}

impl Gguf {
    /// A copy of a file of `tests/data`.
    pub(crate) fn of(path: &str) -> Self {
        let checkpoint = Checkpoint::open(&fixture(path)).unwrap();
        let Metadata::Gguf(meta) = checkpoint.metadata() else { unreachable!() };
        let entries = meta.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        Self { entries, tensors: Stored::of(&checkpoint) }
    }

    pub(crate) fn with(mut self, key: &str, value: gguf::Value) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self.entries.push((key.into(), value));
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        assert!(self.entries.iter().any(|(k, _)| k == key), "the fixture has no {key}");
        self.entries.retain(|(k, _)| k != key);
        self
    }

    /// Everything before the tensors' bytes, padded.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            put_text(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for t in &self.tensors {
            put_text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
            out.extend(type_number(t.dtype).to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += t.bytes.len().next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out
    }
}

impl Spoilt for Gguf {
    fn tensors(&mut self) -> &mut Vec<Stored> {
        &mut self.tensors
    }

    fn write(&self, dir: &Path) -> PathBuf {
        let mut out = self.header();
        for t in &self.tensors {
            out.extend(&t.bytes);
            out.resize(out.len().next_multiple_of(32), 0);
        }
        let path = dir.join("model.gguf");
        std::fs::write(&path, out).unwrap();
        path
    }
}

fn type_number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q8_0 => 8,
        DType::BF16 => 30,
        DType::Other(n) => n,
        other => panic!("the writer of the tests knows no {other}"),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &gguf::Value) {
    use gguf::{Array, Value};
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
        Value::String(v) => {
            put(8, &[]);
            put_text(out, v);
        }
        Value::Array(array) => {
            put(9, &[]);
            let mut head = |kind: u32| {
                out.extend(kind.to_le_bytes());
                out.extend((array.len() as u64).to_le_bytes());
            };
            match array {
                Array::I32(items) => {
                    head(5);
                    items.iter().for_each(|v| out.extend(v.to_le_bytes()));
                }
                Array::F32(items) => {
                    head(6);
                    items.iter().for_each(|v| out.extend(v.to_le_bytes()));
                }
                Array::String(items) => {
                    head(8);
                    items.iter().for_each(|v| put_text(out, v));
                }
                other => panic!("the writer of the tests knows no array of {}", other.element_type()),
            }
        }
    }
}
