//! Writing one safetensors file, whole or not at all.

use std::path::Path;

use crate::tensor::element_count;
use crate::unfinished::{Unfinished, outline};
use crate::{DType, Error, Result};

/// Writes tensors (name, type, shape, little-endian bytes) to a file.
///
/// The file appears complete or not at all (see [`Writer`]). Tensors are laid out by falling element size, so that each is
/// aligned for its type, and else in the given order.
pub fn write(path: &Path, tensors: &[(&str, DType, &[usize], &[u8])]) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, dtype, ..)| std::cmp::Reverse(dtype.block_bytes()));
    for (_, dtype, shape, bytes) in &order {
        let elements = element_count(shape).unwrap_or(usize::MAX);
        if dtype.bytes_for(elements) != Some(bytes.len()) {
            return Err(Error::Length { dtype: *dtype, elements, bytes: bytes.len() });
        }
    }
    let header: Vec<_> = order.iter().map(|(name, dtype, shape, _)| (*name, *dtype, *shape)).collect();
    let mut writer = Writer::create(path, &header)?;
    for (_, _, _, bytes) in order {
        writer.write(bytes)?;
    }
    writer.finish()
}

/// A file that is written as its contents come, for more than memory holds. It is written beside its place under another
/// name and renamed by [`finish`](Self::finish); without that, nothing is left of it.
#[derive(Debug)]
pub struct Writer {
    out: Unfinished,
    /// Bytes that the header promises and that have not come.
    missing: usize,
}

impl Writer {
    /// Begins a file of tensors (name, type, shape), whose bytes are to come in this order.
    pub fn create(path: &Path, tensors: &[(&str, DType, &[usize])]) -> Result<Self> {
        let (header, missing) = header(path, tensors)?;
        let mut out = Unfinished::create(path)?;
        out.put(&(header.len() as u64).to_le_bytes())?;
        out.put(header.as_bytes())?;
        Ok(Self { out, missing })
    }

    /// Appends bytes of the tensors.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let problem = || format!("more bytes were written than its tensors have, by {}", bytes.len() - self.missing);
        self.missing =
            self.missing.checked_sub(bytes.len()).ok_or_else(|| Error::malformed(self.out.path(), "the file", problem()))?;
        self.out.put(bytes)
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        if self.missing > 0 {
            let problem = format!("{} bytes of its tensors were not written", self.missing);
            return Err(Error::malformed(self.out.path(), "the file", problem));
        }
        self.out.finish()
    }
}

/// A file with the header of these tensors and nothing in them: the system takes no space for it. For who makes tensors only
/// when they are asked for.
pub fn write_outline(path: &Path, tensors: &[(&str, DType, &[usize])]) -> Result<()> {
    let (header, data) = header(path, tensors)?;
    let head = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    outline(path, &[(0, &head)], (head.len() + data) as u64)
}

/// The header and the number of bytes that follow it.
fn header(path: &Path, tensors: &[(&str, DType, &[usize])]) -> Result<(String, usize)> {
    let mut entries = serde_json::Map::new();
    // transformers refuses files that do not say which framework's layout they hold.
    entries.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut start = 0usize;
    for (name, dtype, shape) in tensors {
        if DType::from_safetensors(dtype.name()).is_none() {
            return Err(Error::tensor(path, name, format!("safetensors files can not hold {dtype}")));
        }
        let end = element_count(shape).and_then(|n| dtype.bytes_for(n)).and_then(|bytes| start.checked_add(bytes));
        let end = end.ok_or_else(|| Error::tensor(path, name, format!("no file can hold {dtype} in the shape {shape:?}")))?;
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
    Ok((header, start))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_written_in_pieces_appears_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let shape: &[usize] = &[2, 3];
        let mut writer = Writer::create(&path, &[("x", DType::F32, shape)]).unwrap();
        for value in 0..6 {
            assert!(!path.exists());
            writer.write(&(value as f32).to_le_bytes()).unwrap();
        }
        assert!(writer.write(&[0]).is_err());
        writer.finish().unwrap();
        let read = super::super::read(&path).unwrap();
        assert_eq!(read[0].to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_a_file_that_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let shape: &[usize] = &[4];
        let mut writer = Writer::create(&path, &[("x", DType::U8, shape)]).unwrap();
        writer.write(&[1, 2]).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("2 bytes"), "{error}");
        drop(Writer::create(&path, &[("x", DType::U8, shape)]).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn shapes_without_a_size_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let huge: &[usize] = &[usize::MAX, 8];
        let most: &[usize] = &[usize::MAX / 4];
        for tensors in [&[("x", DType::F32, huge)][..], &[("x", DType::U8, most), ("y", DType::F64, most)]] {
            assert!(Writer::create(&path, tensors).is_err());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
