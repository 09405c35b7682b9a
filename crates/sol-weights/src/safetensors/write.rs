//! Writing one safetensors file, whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::tensor::element_count;
use crate::{DType, Error, Result};

/// Writes tensors (name, type, shape, little-endian bytes) to a file.
///
/// The file appears complete or not at all: it is written beside its place under another name and then renamed.
/// Tensors are laid out by falling element size, so that each is aligned for its type, and else in the given order.
pub fn write(path: &Path, tensors: &[(&str, DType, &[usize], &[u8])]) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, dtype, ..)| std::cmp::Reverse(dtype.block_bytes()));
    let header = header(path, &order)?;

    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let serial = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{file_name}.{}-{serial}.tmp", process::id()));
    let put = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create_new(&unfinished)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for (_, _, _, bytes) in order {
            out.write_all(bytes)?;
        }
        out.into_inner().map_err(|refused| refused.into_error())?.sync_all()?;
        fs::rename(&unfinished, path)
    };
    put().map_err(|cause| {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(&unfinished);
        Error::io("write", path)(cause)
    })
}

fn header(path: &Path, tensors: &[&(&str, DType, &[usize], &[u8])]) -> Result<String> {
    let mut entries = serde_json::Map::new();
    // transformers refuses files that do not say which framework's layout they hold.
    entries.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut start = 0usize;
    for (name, dtype, shape, bytes) in tensors {
        if DType::from_safetensors(dtype.name()).is_none() {
            return Err(Error::tensor(path, name, format!("safetensors files can not hold {dtype}")));
        }
        let elements = element_count(shape).unwrap_or(usize::MAX);
        if dtype.bytes_for(elements) != Some(bytes.len()) {
            return Err(Error::Length { dtype: *dtype, elements, bytes: bytes.len() });
        }
        let end = start + bytes.len();
        let entry = serde_json::json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [start, end] });
        if entries.insert((*name).to_owned(), entry).is_some() {
            return Err(Error::tensor(path, name, "two tensors can not have the same name"));
        }
        start = end;
    }
    let mut header = serde_json::Value::Object(entries).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    Ok(header)
}
