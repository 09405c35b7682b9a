//! Writing one GGUF file (version 3), as its tensors come, whole or not at all.
//!
//! The header holds every tensor's place, so all tensors are named before the first byte of one is written.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::parse::{DEFAULT_ALIGNMENT, MAX_DIMENSIONS, MAX_NESTING};
use super::{Array, Value};
use crate::tensor::element_count;
use crate::unfinished::{Unfinished, free_space, outline};
use crate::{DType, Error, Result};

/// GGML keeps names in 64 bytes, the last of them 0.
const MAX_NAME: usize = 63;

/// What a header says of a tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its dimensions, outermost first: a matrix is `[out, in]`. (The file lists them innermost first.)
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of storage: `None` where rows do not fill whole blocks, or where no file could hold them.
    pub fn byte_len(&self) -> Option<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        let whole = row.is_multiple_of(self.dtype.block_len());
        element_count(&self.shape).filter(|_| whole).and_then(|elements| self.dtype.bytes_for(elements))
    }
}

/// What to do where the file is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to begin.
    Refuse,
    /// Put the new file in its place once that is whole. Only a file is replaced, never a directory or a device.
    Replace,
}

/// A file that is written as its contents come, for more than memory holds. It is written beside its place under another
/// name and renamed by [`finish`](Self::finish); without that, nothing is left of it.
#[derive(Debug)]
pub struct Writer {
    out: Unfinished,
    existing: Existing,
    /// Of each tensor, in order: its bytes and those of the padding behind it.
    parts: Vec<(usize, usize)>,
    /// The tensor whose bytes come next, and how many of them have come.
    at: usize,
    have: usize,
    file_len: u64,
}

impl Writer {
    /// Begins a file of this metadata and these tensors, whose bytes are to come in this order. Tensors are aligned to
    /// `general.alignment` (a [`Value::U32`]) where the metadata has it, else to 32 bytes.
    ///
    /// Fails before anything is written when the header would contradict itself or the format ([`Error::Malformed`],
    /// [`Error::BadTensor`]), when a file is there that is to stay ([`Error::Exists`]), and when the disk can not hold the
    /// whole file ([`Error::NoSpace`]).
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[TensorInfo], existing: Existing) -> Result<Self> {
        let Layout { header, parts } = layout(path, metadata, tensors)?;
        check_place(path, existing)?;
        let data: u64 = parts.iter().map(|&(bytes, padding)| (bytes + padding) as u64).sum();
        let file_len = header.len() as u64 + data;
        if let Some(free) = free_space(path).filter(|free| *free < file_len) {
            return Err(Error::NoSpace { path: path.to_owned(), need: file_len, free });
        }
        let mut out = Unfinished::create(path)?;
        out.put(&header)?;
        let mut writer = Self { out, existing, parts, at: 0, have: 0, file_len };
        writer.pass_whole_tensors()?;
        Ok(writer)
    }

    /// Bytes of the file once it is whole.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Appends bytes of the tensors: any number, also across the end of one. Padding is none of the caller's business.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(&(len, _)) = self.parts.get(self.at) else {
                let problem = format!("{} bytes more were written than its tensors have", bytes.len());
                return Err(Error::malformed(self.out.path(), "the file", problem));
            };
            let (now, later) = bytes.split_at(bytes.len().min(len - self.have));
            self.out.put(now)?;
            self.have += now.len();
            bytes = later;
            self.pass_whole_tensors()?;
        }
        Ok(())
    }

    /// Puts the file in its place, once all its bytes are there.
    pub fn finish(self) -> Result<()> {
        let missing = self.parts[self.at..].iter().map(|&(len, _)| len as u64).sum::<u64>() - self.have as u64;
        if missing > 0 {
            return Err(Error::malformed(
                self.out.path(),
                "the file",
                format!("{missing} bytes of its tensors were not written"),
            ));
        }
        // Somebody else may have been faster.
        check_place(self.out.path(), self.existing)?;
        self.out.finish()
    }

    /// Pads behind tensors that have all their bytes (empty ones have them at once).
    fn pass_whole_tensors(&mut self) -> Result<()> {
        while let Some(&(len, padding)) = self.parts.get(self.at)
            && self.have == len
        {
            self.out.put(&vec![0; padding])?;
            self.at += 1;
            self.have = 0;
        }
        Ok(())
    }
}

/// A file with the header of these tensors and nothing in them but these `contents` (by name; hyper-parameters are tensors too):
/// the system takes no space for the rest. For who makes tensors only when they are asked for. Fails as [`Writer::create`] does.
pub fn write_outline(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorInfo],
    contents: &[(&str, Vec<u8>)],
) -> Result<()> {
    let Layout { header, parts } = layout(path, metadata, tensors)?;
    let mut end = header.len() as u64;
    let mut written = vec![(0, header.as_slice())];
    for (info, (bytes, padding)) in tensors.iter().zip(parts) {
        written.extend(contents.iter().filter(|(name, _)| *name == info.name).map(|(_, bytes)| (end, bytes.as_slice())));
        end += (bytes + padding) as u64;
    }
    outline(path, &written, end)
}

fn check_place(path: &Path, existing: Existing) -> Result<()> {
    // A link counts as what it leads to; where that is a file, the new one takes the place of the link.
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(Error::io("write", path))?,
    };
    match existing {
        // Also where nobody asked for that: an error that says how to replace it would mislead.
        _ if !found.is_file() => Err(Error::io("replace", path)(io::Error::other("it is no file"))),
        Existing::Refuse => Err(Error::Exists { path: path.to_owned() }),
        Existing::Replace => Ok(()),
    }
}

/// A header with the padding behind it, and each tensor's bytes and padding.
struct Layout {
    header: Vec<u8>,
    parts: Vec<(usize, usize)>,
}

fn layout(path: &Path, metadata: &[(String, Value)], tensors: &[TensorInfo]) -> Result<Layout> {
    let mut header = Header(b"GGUF".to_vec());
    header.u32(3);
    header.u64(tensors.len() as u64);
    header.u64(metadata.len() as u64);
    let mut keys = HashSet::new();
    for (key, value) in metadata {
        let refused = |problem: String| Error::malformed(path, format!("metadata key `{key}`"), problem);
        if !keys.insert(key) {
            return Err(refused("a key can not be there twice".into()));
        }
        header.string(key);
        header.value(value).map_err(refused)?;
    }
    let alignment = alignment(path, metadata)?;
    let mut names = HashSet::new();
    let mut parts = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for tensor in tensors {
        let refused = |problem: String| Error::tensor(path, &tensor.name, problem);
        if !names.insert(&tensor.name) {
            return Err(refused("two tensors can not have the same name".into()));
        }
        if tensor.name.len() > MAX_NAME {
            return Err(refused(format!("a name has at most {MAX_NAME} bytes")));
        }
        if tensor.shape.len() > MAX_DIMENSIONS as usize {
            return Err(refused(format!("a tensor has at most {MAX_DIMENSIONS} dimensions, not {}", tensor.shape.len())));
        }
        let kind = tensor.dtype.to_ggml().ok_or_else(|| refused(format!("GGUF files can not hold {}", tensor.dtype)))?;
        let unfit = || refused(format!("no file can hold {} in the shape {:?}", tensor.dtype, tensor.shape));
        let bytes = tensor.byte_len().ok_or_else(unfit)?;
        let padding = (bytes as u64).next_multiple_of(alignment) - bytes as u64;
        header.string(&tensor.name);
        header.u32(tensor.shape.len() as u32);
        for &dimension in tensor.shape.iter().rev() {
            header.u64(dimension as u64);
        }
        header.u32(kind);
        header.u64(offset);
        parts.push((bytes, padding as usize));
        // Half of what a u64 counts leaves room for the header.
        offset = (offset.checked_add(bytes as u64 + padding)).filter(|end| *end <= u64::MAX / 2).ok_or_else(unfit)?;
    }
    let Header(mut header) = header;
    header.resize(header.len().next_multiple_of(alignment as usize), 0);
    Ok(Layout { header, parts })
}

fn alignment(path: &Path, metadata: &[(String, Value)]) -> Result<u64> {
    const KEY: &str = "general.alignment";
    match metadata.iter().find(|(key, _)| key == KEY).map(|(_, value)| value) {
        None => Ok(DEFAULT_ALIGNMENT),
        // More than a page serves nobody, and every tensor is padded to it.
        Some(Value::U32(alignment)) if alignment.is_power_of_two() && *alignment <= 1 << 20 => Ok(u64::from(*alignment)),
        Some(other) => Err(Error::malformed(
            path,
            format!("metadata key `{KEY}`"),
            format!("it must be a u32 and a power of two up to 1,048,576, not {other}"),
        )),
    }
}

/// A header as it grows. Lengths are written as they are: whatever a program holds in memory, a u64 counts.
struct Header(Vec<u8>);

/// Appends every number of `$items`.
macro_rules! numbers {
    ($header:expr, $items:expr) => {
        $items.iter().for_each(|item| $header.0.extend(item.to_le_bytes()))
    };
}

impl Header {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn value(&mut self, value: &Value) -> Result<(), String> {
        self.u32(match value {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::String(_) => 8,
            Value::Array(_) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        });
        match value {
            Value::U8(value) => numbers!(self, [value]),
            Value::I8(value) => numbers!(self, [value]),
            Value::U16(value) => numbers!(self, [value]),
            Value::I16(value) => numbers!(self, [value]),
            Value::U32(value) => numbers!(self, [value]),
            Value::I32(value) => numbers!(self, [value]),
            Value::U64(value) => numbers!(self, [value]),
            Value::I64(value) => numbers!(self, [value]),
            Value::F32(value) => numbers!(self, [value]),
            Value::F64(value) => numbers!(self, [value]),
            Value::Bool(value) => self.0.push(u8::from(*value)),
            Value::String(text) => self.string(text),
            Value::Array(array) => return self.array(array, 0),
        }
        Ok(())
    }

    fn array(&mut self, array: &Array, depth: usize) -> Result<(), String> {
        if depth == MAX_NESTING {
            return Err(format!("arrays can not be nested more than {MAX_NESTING} deep"));
        }
        self.u32(match array {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::String(_) => 8,
            Array::Array(_) => 9,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        });
        self.u64(array.len() as u64);
        match array {
            Array::U8(items) => self.0.extend(items),
            Array::I8(items) => numbers!(self, items),
            Array::U16(items) => numbers!(self, items),
            Array::I16(items) => numbers!(self, items),
            Array::U32(items) => numbers!(self, items),
            Array::I32(items) => numbers!(self, items),
            Array::U64(items) => numbers!(self, items),
            Array::I64(items) => numbers!(self, items),
            Array::F32(items) => numbers!(self, items),
            Array::F64(items) => numbers!(self, items),
            Array::Bool(items) => self.0.extend(items.iter().map(|&item| u8::from(item))),
            Array::String(items) => items.iter().for_each(|item| self.string(item)),
            Array::Array(items) => {
                for item in items {
                    self.array(item, depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{Bytes, gguf::File};

    fn info(name: &str, dtype: DType, shape: &[usize]) -> TensorInfo {
        TensorInfo { name: name.into(), dtype, shape: shape.into() }
    }

    fn key(key: &str, value: Value) -> (String, Value) {
        (key.into(), value)
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let metadata = [key("general.alignment", Value::U32(64)), key("x", Value::Bool(true))];
        let tensors = [info("empty", DType::F32, &[0, 3]), info("a", DType::F32, &[2, 3]), info("b", DType::Q8_0, &[1, 32])];
        let mut writer = Writer::create(&path, &metadata, &tensors, Existing::Refuse).unwrap();
        let bytes: Vec<u8> = (0..24 + 34).collect();
        for piece in bytes.chunks(5) {
            assert!(!path.exists());
            writer.write(piece).unwrap();
        }
        assert!(writer.write(&[0]).is_err());
        let promised = writer.file_len();
        writer.finish().unwrap();
        assert_eq!((files(dir.path()), fs::metadata(&path).unwrap().len()), (1, promised));
        let read = File::parse(&path, &Bytes::map(&path).unwrap()).unwrap();
        assert_eq!(read.metadata.bool("x"), Some(true));
        assert_eq!((&read.tensors[1].shape[..], &read.tensors[1].bytes()[..]), (&[2, 3][..], &bytes[..24]));
        assert_eq!(read.tensors[2].bytes()[..], bytes[24..]);
    }

    #[test]
    fn nothing_is_left_of_a_file_that_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let tensors = [info("a", DType::F32, &[4])];
        let mut writer = Writer::create(&path, &[], &tensors, Existing::Refuse).unwrap();
        writer.write(&[1, 2]).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("14 bytes"), "{error}");
        drop(Writer::create(&path, &[], &tensors, Existing::Refuse).unwrap());
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn what_is_there_stays_until_the_new_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        fs::write(&path, "old").unwrap();
        assert!(matches!(Writer::create(&path, &[], &[], Existing::Refuse), Err(Error::Exists { .. })));
        let writer = Writer::create(&path, &[], &[], Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        writer.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 32);
        // A directory and a device are no files to be replaced.
        for path in [dir.path(), Path::new("/dev/null")] {
            for existing in [Existing::Refuse, Existing::Replace] {
                assert!(matches!(Writer::create(path, &[], &[], existing), Err(Error::Io { .. })));
            }
        }
        // Somebody else was faster.
        let path = dir.path().join("b.gguf");
        let writer = Writer::create(&path, &[], &[], Existing::Refuse).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(writer.finish().is_err());
        assert_eq!((fs::read(&path).unwrap(), files(dir.path())), (b"theirs".to_vec(), 2));
    }

    #[test]
    fn a_header_that_no_reader_would_take_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let long = "x".repeat(64);
        for tensors in [
            &[info("a", DType::F32, &[usize::MAX, 8])][..],
            &[info("a", DType::Q4K, &[256, 100])],
            &[info("a", DType::U16, &[2])],
            &[info("a", DType::Other(99), &[2])],
            &[info("a", DType::F32, &[1, 1, 1, 1, 1])],
            &[info(&long, DType::F32, &[1])],
            &[info("a", DType::F32, &[1]), info("a", DType::F32, &[1])],
        ] {
            assert!(matches!(Writer::create(&path, &[], tensors, Existing::Refuse), Err(Error::BadTensor { .. })), "{tensors:?}");
        }
        let nested = (0..8).fold(Array::U8(vec![]), |inner, _| Array::Array(vec![inner]));
        for metadata in [
            &[key("a", Value::U8(1)), key("a", Value::U8(2))][..],
            &[key("general.alignment", Value::U32(12))],
            &[key("general.alignment", Value::U64(32))],
            &[key("a", Value::Array(nested))],
        ] {
            assert!(
                matches!(Writer::create(&path, metadata, &[], Existing::Refuse), Err(Error::Malformed { .. })),
                "{metadata:?}"
            );
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_the_disk_can_not_hold_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let error = Writer::create(&path, &[], &[info("a", DType::F32, &[1 << 50])], Existing::Refuse).unwrap_err();
        assert!(matches!(error, Error::NoSpace { need, .. } if need > 1 << 52), "{error}");
        assert!(error.to_string().contains("a.gguf: the file takes 4503599.63 GB, but only "), "{error}");
        assert_eq!(files(dir.path()), 0);
    }

    fn any_array() -> impl Strategy<Value = Array> {
        let leaf = prop_oneof![
            vec(any::<u8>(), 0..5).prop_map(Array::U8),
            vec(any::<i8>(), 0..5).prop_map(Array::I8),
            vec(any::<u16>(), 0..5).prop_map(Array::U16),
            vec(any::<i16>(), 0..5).prop_map(Array::I16),
            vec(any::<u32>(), 0..5).prop_map(Array::U32),
            vec(any::<i32>(), 0..5).prop_map(Array::I32),
            vec(any::<u64>(), 0..5).prop_map(Array::U64),
            vec(any::<i64>(), 0..5).prop_map(Array::I64),
            vec(any::<f32>(), 0..5).prop_map(Array::F32),
            vec(any::<f64>(), 0..5).prop_map(Array::F64),
            vec(any::<bool>(), 0..5).prop_map(Array::Bool),
            vec(".{0,9}", 0..5).prop_map(Array::String),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| vec(inner, 0..3).prop_map(Array::Array))
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u8>().prop_map(Value::U8),
            any::<i8>().prop_map(Value::I8),
            any::<u16>().prop_map(Value::U16),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i32>().prop_map(Value::I32),
            any::<u64>().prop_map(Value::U64),
            any::<i64>().prop_map(Value::I64),
            any::<f32>().prop_map(Value::F32),
            any::<f64>().prop_map(Value::F64),
            any::<bool>().prop_map(Value::Bool),
            ".{0,20}".prop_map(Value::String),
            any_array().prop_map(Value::Array),
        ]
    }

    fn any_tensor() -> impl Strategy<Value = (DType, Vec<usize>)> {
        let dtypes = [DType::F32, DType::F64, DType::I8, DType::BF16, DType::Q4_0, DType::Q5_1, DType::Q6K, DType::IQ4XS];
        (prop::sample::select(dtypes.to_vec()), vec(0usize..4, 0..4)).prop_map(|(dtype, mut shape)| {
            match shape.last_mut() {
                Some(row) => *row *= dtype.block_len(),
                None => shape.push(dtype.block_len()),
            }
            (dtype, shape)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What was written is what is read.
        #[test]
        fn round_trip(
            values in vec(any_value(), 0..6),
            tensors in vec(any_tensor(), 0..6),
            alignment in 0u32..9,
            piece in 1usize..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.gguf");
            let mut metadata: Vec<_> = (0..).zip(values).map(|(i, value)| (format!("key.{i}"), value)).collect();
            metadata.push(("general.alignment".into(), Value::U32(1 << alignment)));
            let tensors: Vec<_> =
                (0..).zip(tensors).map(|(i, (dtype, shape))| TensorInfo { name: format!("t{i}"), dtype, shape }).collect();
            let lengths: Vec<usize> = tensors.iter().map(|t| t.byte_len().unwrap()).collect();
            let data: Vec<u8> = (0..lengths.iter().sum()).map(|i: usize| (i * 7 % 251) as u8).collect();

            let mut writer = Writer::create(&path, &metadata, &tensors, Existing::Refuse).unwrap();
            for piece in data.chunks(piece) {
                writer.write(piece).unwrap();
            }
            let promised = writer.file_len();
            writer.finish().unwrap();

            let bytes = Bytes::map(&path).unwrap();
            prop_assert_eq!(bytes.len() as u64, promised);
            let read = File::parse(&path, &bytes).unwrap();
            // As text, in which a NaN equals itself.
            prop_assert_eq!(format!("{:?}", read.metadata.iter().collect::<Vec<_>>()),
                format!("{:?}", metadata.iter().map(|(k, v)| (k.as_str(), v)).collect::<Vec<_>>()));
            prop_assert_eq!(read.tensors.len(), tensors.len());
            let mut rest = &data[..];
            for (read, (info, len)) in read.tensors.iter().zip(tensors.iter().zip(lengths)) {
                prop_assert_eq!((&read.name, read.dtype, &read.shape), (&info.name, info.dtype, &info.shape));
                let (expected, later) = rest.split_at(len);
                prop_assert_eq!(&read.bytes()[..], expected);
                rest = later;
            }
        }
    }
}
