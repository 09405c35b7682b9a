//! One safetensors file: its header, checked, and views of its tensors.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::shown;
use crate::tensor::element_count;
use crate::{Bytes, DType, Error, Result, Tensor};

/// The limit of the reference implementation.
const HEADER_LIMIT: u64 = 100_000_000;

/// Maps a file and lists its tensors in header order. Knows nothing of a `config.json` beside it, so that it also reads
/// files of token ids or logits.
pub fn read(path: &Path) -> Result<Vec<Tensor>> {
    Bytes::map_and(path, |bytes| parse(path, bytes))
}

/// Lists the tensors of a file given as bytes; `path` is used in messages.
pub fn parse(path: &Path, file: &Bytes) -> Result<Vec<Tensor>> {
    let (header, data) = split(path, file)?;
    let header: Header = serde_json::from_slice(&header).map_err(|cause| {
        let problem = format!("it is not what safetensors writes ({cause}); download the file again");
        Error::malformed(path, "the JSON header", problem)
    })?;
    let shared: Arc<Path> = path.into();
    let mut names = HashSet::new();
    let mut spans = Vec::new();
    let mut tensors = Vec::new();
    for (name, entry) in header.0 {
        if !names.insert(name.clone()) {
            return Err(Error::tensor(path, &name, "it is there twice; the file was written by a faulty tool"));
        }
        let (dtype, shape, start, end) = entry.check(path, &name, file.len() - data.len(), data.len())?;
        if start < end {
            spans.push((start, end, tensors.len()));
        }
        tensors.push(Tensor::new(name, dtype, shape, data.slice(start..end), shared.clone()));
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let [(_, end, this), (next_start, _, next)] = [pair[0], pair[1]];
        if end > next_start {
            let problem = format!("its data overlaps that of tensor `{}`; the file is damaged", shown(&tensors[next].name));
            return Err(Error::tensor(path, &tensors[this].name, problem));
        }
    }
    Ok(tensors)
}

/// The header's JSON and the data section.
fn split(path: &Path, file: &Bytes) -> Result<(Bytes, Bytes)> {
    if file.is_empty() {
        let problem = "the file is empty; download or copy it again".into();
        return Err(Error::NotACheckpoint { path: path.to_owned(), problem });
    }
    let truncated = |need: u64| Error::Truncated {
        path: path.to_owned(),
        what: "the safetensors header".into(),
        need,
        have: file.len() as u64,
    };
    let len = file.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| truncated(8))?;
    // A foreign file gives itself away by an absurd length or by its first character.
    if len > HEADER_LIMIT || file.get(8).is_some_and(|&byte| byte != b'{') {
        let problem = "a safetensors file begins with a length and a JSON object, this one does not".into();
        return Err(Error::NotACheckpoint { path: path.to_owned(), problem });
    }
    let data_start = 8 + len as usize;
    if data_start > file.len() {
        return Err(truncated(data_start as u64));
    }
    Ok((file.slice(8..data_start), file.slice(data_start..file.len())))
}

/// The entries in file order, duplicates included: the caller reports them.
struct Header(Vec<(String, Entry)>);

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    /// Type, shape and place in the data section, all checked.
    fn check(self, path: &Path, name: &str, header_len: usize, data_len: usize) -> Result<(DType, Vec<usize>, usize, usize)> {
        let bad = |problem: String| Error::tensor(path, name, problem);
        let Self { dtype: dtype_name, shape, data_offsets: (start, end) } = self;
        let dtype = DType::from_safetensors(&dtype_name).ok_or_else(|| {
            bad(format!("its type {} is not one this program reads; convert it to BF16 or F32", shown(&dtype_name)))
        })?;
        if start > end {
            return Err(bad(format!("its data_offsets {start}, {end} are out of order; the file is damaged")));
        }
        if end > data_len as u64 {
            return Err(Error::Truncated {
                path: path.to_owned(),
                what: format!("tensor `{}`", shown(name)),
                need: end.saturating_add(header_len as u64),
                have: (header_len + data_len) as u64,
            });
        }
        let narrow: Option<Vec<usize>> = shape.iter().map(|&n| usize::try_from(n).ok()).collect();
        let narrow = narrow.and_then(|shape| Some((dtype.bytes_for(element_count(&shape)?)?, shape)));
        match narrow {
            Some((bytes, shape)) if bytes as u64 == end - start => Ok((dtype, shape, start as usize, end as usize)),
            _ => Err(bad(format!(
                "its shape {shape:?} of {dtype} does not take the {} bytes it has; the file is damaged",
                end - start
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match map.next_value() {
                        Ok(entry) => entries.push((name, entry)),
                        Err(cause) => return Err(A::Error::custom(format!("tensor `{}`: {cause}", shown(&name)))),
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
