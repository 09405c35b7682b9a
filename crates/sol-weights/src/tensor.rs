//! A tensor as a checkpoint describes it, with a view of its bytes.

use std::path::Path;
use std::sync::Arc;

use crate::{Bytes, DType, Error, Result, dequantize};

/// A tensor of a checkpoint: its description and a view of its bytes, which stay in the mapped file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its dimensions, outermost first: a matrix is `[out, in]`. (GGUF lists them innermost first; they are reversed here.)
    pub shape: Vec<usize>,
    bytes: Bytes,
    path: Arc<Path>,
}

impl Tensor {
    /// The readers make tensors only after checking the shape with [`element_count`] and that the bytes fit it.
    pub(crate) fn new(name: String, dtype: DType, shape: Vec<usize>, bytes: Bytes, path: Arc<Path>) -> Self {
        Self { name, dtype, shape, bytes, path }
    }

    /// The stored bytes; ask [`Bytes::intact`] after using them. For a [`DType::Other`] of unknown size these reach to the next
    /// tensor.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Bytes of storage.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All elements as floats; integers are refused. A scaled F8 tensor comes without its scale
    /// (see [`crate::Checkpoint::to_f32`]).
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        if self.dtype.bytes_for(self.elements()) != Some(self.bytes.len()) {
            return Err(self.unsupported("floats"));
        }
        let mut out = vec![0.0; self.elements()];
        match dequantize(self.dtype, &self.bytes, &mut out) {
            Ok(()) => self.bytes.intact().map(|()| out),
            Err(Error::NoDecoder(_)) => Err(self.unsupported("floats")),
            Err(other) => Err(other),
        }
    }

    /// All elements of a tensor of integers that fit an `i64`, such as token ids.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        fn each<const N: usize>(bytes: &[u8], number: fn([u8; N]) -> i64) -> Vec<i64> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
        }
        let numbers = match self.dtype {
            DType::Bool | DType::U8 => each(&self.bytes, |b: [u8; 1]| b[0].into()),
            DType::I8 => each(&self.bytes, |b| i8::from_le_bytes(b).into()),
            DType::I16 => each(&self.bytes, |b| i16::from_le_bytes(b).into()),
            DType::U16 => each(&self.bytes, |b| u16::from_le_bytes(b).into()),
            DType::I32 => each(&self.bytes, |b| i32::from_le_bytes(b).into()),
            DType::U32 => each(&self.bytes, |b| u32::from_le_bytes(b).into()),
            DType::I64 => each(&self.bytes, i64::from_le_bytes),
            _ => return Err(self.unsupported("integers")),
        };
        self.bytes.intact().map(|()| numbers)
    }

    fn unsupported(&self, wanted: &'static str) -> Error {
        Error::UnsupportedType { path: self.path.to_path_buf(), tensor: self.name.clone(), dtype: self.dtype, wanted }
    }
}

/// The number of elements of a shape; `None` when the dimensions other than 0 have no product, so that the product of a
/// shape that passes does not overflow in any order.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().filter(|&&n| n != 0).try_fold(1usize, |product, &n| product.checked_mul(n))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_does_not_excuse_dimensions_without_a_product() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[3, 0, 5]), Some(0));
        assert_eq!(element_count(&[usize::MAX, 2]), None);
        for shape in [[0, usize::MAX, 2], [usize::MAX, 0, 2], [usize::MAX, 2, 0]] {
            assert_eq!(element_count(&shape), None);
        }
    }
}
