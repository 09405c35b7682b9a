//! The key-value metadata of a GGUF file.

use std::collections::HashMap;
use std::fmt;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the format")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array: all elements are of one type, which may again be arrays.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the format")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

/// Evaluates `$body` with `$items` bound to the vector of whichever variant.
macro_rules! for_any_array {
    ($array:expr, $items:ident => $body:expr) => {
        match $array {
            Array::U8($items) => $body,
            Array::I8($items) => $body,
            Array::U16($items) => $body,
            Array::I16($items) => $body,
            Array::U32($items) => $body,
            Array::I32($items) => $body,
            Array::U64($items) => $body,
            Array::I64($items) => $body,
            Array::F32($items) => $body,
            Array::F64($items) => $body,
            Array::Bool($items) => $body,
            Array::String($items) => $body,
            Array::Array($items) => $body,
        }
    };
}

impl Array {
    /// The number of elements.
    pub fn len(&self) -> usize {
        for_any_array!(self, items => items.len())
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements, as GGUF tools name it.
    pub fn element_type(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
        }
    }

    /// All elements as integers of one type: `None` unless they are integers that fit it.
    fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn all<S: Copy + Into<i128>, T: TryFrom<i128>>(items: &[S]) -> Option<Vec<T>> {
            items.iter().map(|&item| T::try_from(item.into()).ok()).collect()
        }
        match self {
            Self::U8(items) => all(items),
            Self::I8(items) => all(items),
            Self::U16(items) => all(items),
            Self::I16(items) => all(items),
            Self::U32(items) => all(items),
            Self::I32(items) => all(items),
            Self::U64(items) => all(items),
            Self::I64(items) => all(items),
            _ => None,
        }
    }
}

impl Value {
    /// Any integer, widened.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    fn array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// Prints scalars in full and of an array its first elements and its length.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(f),
            Self::I8(value) => value.fmt(f),
            Self::U16(value) => value.fmt(f),
            Self::I16(value) => value.fmt(f),
            Self::U32(value) => value.fmt(f),
            Self::I32(value) => value.fmt(f),
            Self::U64(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(value) => value.fmt(f),
            Self::Array(array) => array.fmt(f),
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        match self {
            Self::Array(items) => {
                write!(f, "[")?;
                for (i, item) in items.iter().take(SHOWN).enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
            }
            _ => for_any_array!(self, items => {
                let first = format!("{:?}", &items[..items.len().min(SHOWN)]);
                write!(f, "{}", first.trim_end_matches(']'))?;
            }),
        }
        match self.len() {
            0..=SHOWN => write!(f, "]"),
            len => write!(f, ", ... {len} of {}]", self.element_type()),
        }
    }
}

/// The metadata of a GGUF checkpoint, in file order. Of a split set, that of its first file.
///
/// The typed getters widen between integer types and between float types, and answer `None` both for a key that is absent
/// and for a value of another kind; [`Metadata::get`] tells these apart.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    version: u32,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub(super) fn new(version: u32) -> Self {
        Self { version, ..Self::default() }
    }

    /// Adds an entry; false when the key is already there.
    pub(super) fn insert(&mut self, key: String, value: Value) -> bool {
        if self.index.contains_key(&key) {
            return false;
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// The version of the file format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    /// An integer of any type that is not negative.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.integer()?.try_into().ok()
    }

    /// An integer of any type that fits.
    pub fn i64(&self, key: &str) -> Option<i64> {
        self.get(key)?.integer()?.try_into().ok()
    }

    /// A float of either type, or an integer (some writers store `1` for `1.0`).
    pub fn f32(&self, key: &str) -> Option<f32> {
        match self.get(key)? {
            Value::F32(value) => Some(*value),
            Value::F64(value) => Some(*value as f32),
            other => other.integer().map(|value| value as f32),
        }
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)?.array()? {
            Array::String(items) => Some(items),
            _ => None,
        }
    }

    /// An array of floats of either type.
    pub fn f32s(&self, key: &str) -> Option<Vec<f32>> {
        match self.get(key)?.array()? {
            Array::F32(items) => Some(items.clone()),
            Array::F64(items) => Some(items.iter().map(|&item| item as f32).collect()),
            _ => None,
        }
    }

    /// An array of integers of any type that all fit.
    pub fn i32s(&self, key: &str) -> Option<Vec<i32>> {
        self.get(key)?.array()?.integers()
    }

    /// An array of integers of any type, none of them negative.
    pub fn u64s(&self, key: &str) -> Option<Vec<u64>> {
        self.get(key)?.array()?.integers()
    }

    /// An array of booleans.
    pub fn bools(&self, key: &str) -> Option<&[bool]> {
        match self.get(key)?.array()? {
            Array::Bool(items) => Some(items),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(entries: &[(&str, Value)]) -> Metadata {
        let mut metadata = Metadata::new(3);
        for (key, value) in entries {
            assert!(metadata.insert((*key).into(), value.clone()));
        }
        metadata
    }

    #[test]
    fn getters_widen_but_never_wrap() {
        let m = metadata(&[
            ("small", Value::U8(7)),
            ("negative", Value::I32(-7)),
            ("huge", Value::U64(u64::MAX)),
            ("double", Value::F64(0.5)),
            ("levels", Value::Array(Array::U16(vec![1, 65535]))),
            ("signed", Value::Array(Array::I64(vec![-1]))),
        ]);
        assert_eq!((m.u64("small"), m.i64("small"), m.f32("small")), (Some(7), Some(7), Some(7.0)));
        assert_eq!((m.u64("negative"), m.i64("negative")), (None, Some(-7)));
        assert_eq!((m.u64("huge"), m.i64("huge")), (Some(u64::MAX), None));
        assert_eq!((m.f32("double"), m.u64("double"), m.str("double")), (Some(0.5), None, None));
        assert_eq!((m.i32s("levels"), m.u64s("levels")), (Some(vec![1, 65535]), Some(vec![1, 65535])));
        assert_eq!((m.i32s("signed"), m.u64s("signed")), (Some(vec![-1]), None));
        assert_eq!(m.u64("absent"), None);
    }

    #[test]
    fn long_arrays_print_short() {
        let nested = Array::Array(vec![Array::U8(vec![1]), Array::String(vec![])]);
        assert_eq!(Value::Array(nested).to_string(), "[[1], []]");
        assert_eq!(Value::Array(Array::I32((0..9).collect())).to_string(), "[0, 1, 2, 3, ... 9 of i32]");
    }
}
