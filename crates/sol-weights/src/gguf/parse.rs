//! One GGUF file: header, metadata, tensor list.
//!
//! Nothing that the header claims is trusted: counts are never used to reserve memory, lengths and offsets are checked
//! against the file before use, and the header as a whole may not exceed [`HEADER_LIMIT`].

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::{Array, Metadata, Value};
use crate::error::shown;
use crate::tensor::element_count;
use crate::{Bytes, DType, Error, Result, Tensor};

/// No header comes near (a vocabulary of 256 k tokens with merges is about 15 MB); a file that claims more wants to
/// fill the memory of its reader.
const HEADER_LIMIT: usize = 64 << 20;
/// Models have some 40 keys and, with every expert's matrices apart, some 100,000 tensors.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
/// Strings and arrays in arrays, all together. Each takes more memory than it takes of the file; a vocabulary with its
/// merges has less than a million.
const MAX_ITEMS: u64 = 1 << 21;
/// Arrays of arrays of ...: the format sets no limit, the stack does.
pub(super) const MAX_NESTING: usize = 8;
/// GGML has no tensors of more dimensions.
pub(super) const MAX_DIMENSIONS: u32 = 4;
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// One GGUF file: a whole checkpoint or one part of a split set.
#[derive(Debug)]
pub struct File {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tensors in file order.
    pub tensors: Vec<Tensor>,
}

impl File {
    /// Reads the header of a file given as bytes; `path` is used in messages.
    pub fn parse(path: &Path, bytes: &Bytes) -> Result<Self> {
        let mut reader = Reader { path, all: bytes, at: 0, items_left: MAX_ITEMS, place: "the header".into() };
        let version = reader.version()?;
        let tensor_count = reader.count("tensors", MAX_TENSORS)?;
        let entry_count = reader.count("metadata entries", MAX_ENTRIES)?;
        let mut metadata = Metadata::new(version);
        for number in 0..entry_count {
            reader.place = format!("metadata entry {} of {entry_count}", number + 1);
            let key = reader.name()?;
            reader.place = format!("metadata key `{}`", shown(&key));
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            if !metadata.insert(key, value) {
                return Err(reader.malformed("it is there twice; the file was written by a faulty tool"));
            }
        }
        let entries = reader.tensor_entries(tensor_count)?;
        let alignment = alignment(path, &metadata)?;
        let data = (reader.at as u64).next_multiple_of(alignment);
        let tensors = place_tensors(path, bytes, data, alignment, entries)?;
        Ok(Self { metadata, tensors })
    }
}

fn alignment(path: &Path, metadata: &Metadata) -> Result<u64> {
    const KEY: &str = "general.alignment";
    if metadata.get(KEY).is_none() {
        return Ok(DEFAULT_ALIGNMENT);
    }
    match metadata.u64(KEY) {
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 31 => Ok(alignment),
        _ => Err(Error::malformed(
            path,
            format!("metadata key `{KEY}`"),
            "it must be a power of two (usually 32); the file was written by a faulty tool",
        )),
    }
}

/// A tensor's description, its size checked, its place not yet.
struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// `None` for types of unknown size.
    bytes: Option<u64>,
    /// From the start of the data section.
    offset: u64,
}

/// Checks that the tensors lie in the file, aligned and apart, and makes views of their bytes.
fn place_tensors(path: &Path, file: &Bytes, data: u64, alignment: u64, entries: Vec<Entry>) -> Result<Vec<Tensor>> {
    let end_of_file = file.len() as u64;
    let mut starts = Vec::with_capacity(entries.len());
    for entry in &entries {
        if !entry.offset.is_multiple_of(alignment) {
            let problem = format!("its offset {} is not a multiple of the alignment {alignment}", entry.offset);
            return Err(Error::tensor(path, &entry.name, problem));
        }
        let start = data.checked_add(entry.offset);
        let end = start.and_then(|start| start.checked_add(entry.bytes.unwrap_or(0)));
        match (start, end) {
            (Some(start), Some(end)) if end <= end_of_file => starts.push(start),
            _ => {
                return Err(Error::Truncated {
                    path: path.to_owned(),
                    what: format!("tensor `{}`", shown(&entry.name)),
                    need: end.unwrap_or(u64::MAX),
                    have: end_of_file,
                });
            }
        }
    }

    // In order of their starts, each must end before the next begins. Empty tensors take no place.
    let mut order: Vec<usize> = (0..entries.len()).filter(|&i| entries[i].bytes != Some(0)).collect();
    order.sort_by_key(|&i| starts[i]);
    let mut ends: Vec<u64> = starts.clone();
    for (rank, &i) in order.iter().enumerate() {
        let next = order.get(rank + 1);
        let limit = next.map_or(end_of_file, |&next| starts[next]);
        ends[i] = match entries[i].bytes {
            Some(bytes) => starts[i] + bytes,
            None => limit,
        };
        if let Some(&next) = next
            && (ends[i] > limit || starts[i] == limit)
        {
            let problem = format!("its data overlaps that of tensor `{}`; the file is damaged", shown(&entries[next].name));
            return Err(Error::tensor(path, &entries[i].name, problem));
        }
    }

    let path: Arc<Path> = path.into();
    let views = starts.into_iter().zip(ends);
    Ok(entries
        .into_iter()
        .zip(views)
        .map(|(entry, (start, end))| {
            // Both are at most the length of the mapping, so they fit a usize.
            let bytes = file.slice(start as usize..end as usize);
            Tensor::new(entry.name, entry.dtype, entry.shape, bytes, path.clone())
        })
        .collect())
}

/// Reads a header front to back and knows what it is reading, for messages.
struct Reader<'a> {
    path: &'a Path,
    all: &'a [u8],
    at: usize,
    items_left: u64,
    place: String,
}

impl<'a> Reader<'a> {
    fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, &self.place, problem)
    }

    /// The next bytes, which `len` was read from the file.
    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let need = (self.at as u64).saturating_add(len);
        if need > self.all.len() as u64 {
            let (path, what, have) = (self.path.to_owned(), self.place.clone(), self.all.len() as u64);
            return Err(Error::Truncated { path, what, need, have });
        }
        if need > HEADER_LIMIT as u64 {
            return Err(self.malformed(format!("the header goes on past {} MiB; the file is damaged", HEADER_LIMIT >> 20)));
        }
        let taken = &self.all[self.at..need as usize];
        self.at = need as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N as u64)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, limit: u64) -> Result<u64> {
        match self.u64()? {
            count if count <= limit => Ok(count),
            count => Err(self.malformed(format!("{count} {what} are more than any model has; the file is damaged"))),
        }
    }

    fn version(&mut self) -> Result<u32> {
        if self.all.is_empty() {
            let problem = "the file is empty; download or copy it again".into();
            return Err(Error::NotACheckpoint { path: self.path.to_owned(), problem });
        }
        if !self.all.starts_with(b"GGUF") {
            let problem = "a GGUF file begins with the letters GGUF, this one does not".into();
            return Err(Error::NotACheckpoint { path: self.path.to_owned(), problem });
        }
        self.take(4)?;
        match self.u32()? {
            version @ (2 | 3) => Ok(version),
            version if version.swap_bytes() <= 0xFFFF => {
                Err(self.malformed("the file is big endian; convert it to little endian with gguf-py's gguf-convert-endian"))
            }
            1 => Err(self.malformed("GGUF version 1 is obsolete; convert the model again or download a newer file")),
            version => Err(self.malformed(format!("GGUF version {version} is not known (2 and 3 are)"))),
        }
    }

    fn bytes_with_length(&mut self) -> Result<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    /// A key or a tensor's name.
    fn name(&mut self) -> Result<String> {
        let bytes = self.bytes_with_length()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.malformed("its name is not UTF-8; the file is damaged"))
    }

    /// A value. Writers have cut descriptions in the middle of a character: that is no reason to refuse the model.
    fn string(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.bytes_with_length()?).into_owned())
    }

    fn bool(&self, byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.malformed(format!("a boolean must be 0 or 1, not {other}; the file is damaged"))),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(u32::from_le_bytes(self.array()?)),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => {
                let [byte] = self.array()?;
                Value::Bool(self.bool(byte)?)
            }
            8 => Value::String(self.string()?),
            9 => Value::Array(self.value_array(0)?),
            10 => Value::U64(u64::from_le_bytes(self.array()?)),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.unknown_kind(other)),
        })
    }

    fn unknown_kind(&self, kind: u32) -> Error {
        self.malformed(format!("value type {kind} is not known; the file is damaged or newer than this program"))
    }

    fn value_array(&mut self, depth: usize) -> Result<Array> {
        if depth == MAX_NESTING {
            return Err(self.malformed(format!("arrays are nested more than {MAX_NESTING} deep")));
        }
        let kind = self.u32()?;
        let count = self.u64()?;
        Ok(match kind {
            0 => Array::U8(self.numbers(count, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(count, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(count, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(count, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(count, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(count, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(count, f32::from_le_bytes)?),
            7 => Array::Bool(self.take(count)?.iter().map(|&byte| self.bool(byte)).collect::<Result<_>>()?),
            8 => Array::String(self.items(count, 8, Self::string)?),
            9 => Array::Array(self.items(count, 12, |reader| reader.value_array(depth + 1))?),
            10 => Array::U64(self.numbers(count, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(count, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(count, f64::from_le_bytes)?),
            other => return Err(self.unknown_kind(other)),
        })
    }

    fn numbers<T, const N: usize>(&mut self, count: u64, number: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let bytes = self.take(count.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks().0.iter().map(|chunk| number(*chunk)).collect())
    }

    /// Elements of varying size, each at least `min_bytes`: so many are refused at once if the file can not hold them.
    fn items<T>(&mut self, count: u64, min_bytes: u64, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let start = self.at;
        self.take(count.saturating_mul(min_bytes))?;
        self.at = start;
        self.items_left = self.items_left.checked_sub(count).ok_or_else(|| {
            self.malformed(format!("with its {count} elements the metadata has more than any model's; the file is damaged"))
        })?;
        (0..count).map(|_| item(self)).collect()
    }

    fn tensor_entries(&mut self, count: u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        for number in 0..count {
            self.place = format!("tensor entry {} of {count}", number + 1);
            let name = self.name()?;
            self.place = format!("tensor `{}`", shown(&name));
            if !names.insert(name.clone()) {
                return Err(Error::tensor(self.path, &name, "it is there twice; the file was written by a faulty tool"));
            }
            entries.push(self.tensor_entry(name)?);
        }
        Ok(entries)
    }

    fn tensor_entry(&mut self, name: String) -> Result<Entry> {
        let path = self.path;
        let bad = |problem: String| Error::tensor(path, &name, problem);
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(bad(format!("{dimensions} dimensions are more than {MAX_DIMENSIONS}; the file is damaged")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        let dtype = DType::from_ggml(self.u32()?);
        let offset = self.u64()?;
        let too_big = || bad(format!("its shape {shape:?} is too big for any file; the file is damaged"));

        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_len() as u64) {
            let problem = format!("its rows of {row} elements do not fill blocks of {} ({dtype})", dtype.block_len());
            return Err(bad(problem));
        }
        let shape: Option<Vec<usize>> = shape.iter().rev().map(|&n| usize::try_from(n).ok()).collect();
        let (shape, elements) = shape.and_then(|shape| element_count(&shape).map(|n| (shape, n))).ok_or_else(too_big)?;
        let bytes = match dtype.block_bytes() {
            0 => None,
            _ => Some(dtype.bytes_for(elements).ok_or_else(too_big)? as u64),
        };
        Ok(Entry { name, dtype, shape, bytes, offset })
    }
}
