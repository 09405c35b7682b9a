//! A tensor of the output, row by row, from wherever its rows are stored. Only the rows that are asked for are in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::thread;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use sol_weights::gguf::TensorInfo;
use sol_weights::{Checkpoint, DType, Tensor, dequantize};

use super::lora::Delta;
use crate::{Error, Result};

/// Rows of a stored tensor. A vector is a column: each of its elements is a row.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) tensor: Tensor,
    pub(super) first: usize,
    pub(super) rows: usize,
}

impl Part {
    pub(super) fn whole(tensor: &Tensor) -> Self {
        let rows = match tensor.shape[..] {
            [.., _] if tensor.shape.len() > 1 => tensor.shape[..tensor.shape.len() - 1].iter().product(),
            _ => tensor.elements(),
        };
        Self { tensor: tensor.clone(), first: 0, rows }
    }
}

/// A tensor as a Hugging Face file has it.
#[derive(Clone, Debug)]
pub(super) struct HfTensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Where its rows are, in order.
    pub(super) parts: Vec<Part>,
    /// The source has the two halves of each head of so many rows interleaved.
    pub(super) interleaved: Option<usize>,
    /// Added to what is stored.
    pub(super) add: f32,
    /// What adapters add.
    pub(super) deltas: Vec<Delta>,
}

impl HfTensor {
    pub(super) fn new(name: String, shape: Vec<usize>, parts: Vec<Part>) -> Self {
        Self { name, shape, parts, interleaved: None, add: 0.0, deltas: Vec::new() }
    }

    pub(super) fn rows(&self) -> usize {
        self.shape[0]
    }

    pub(super) fn cols(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }

    /// The stored row of a row.
    fn place(&self, row: usize) -> (&Tensor, usize) {
        let mut row = self.interleaved.map_or(row, |dim| interleaved_place(row, dim));
        for part in &self.parts {
            if row < part.rows {
                return (&part.tensor, part.first + row);
            }
            row -= part.rows;
        }
        // Rows beyond the shape are never asked for.
        let last = &self.parts[self.parts.len() - 1];
        (&last.tensor, last.first + last.rows - 1)
    }
}

/// Where a row of rotary halves is when the halves of each head are interleaved: row i of the first half becomes 2i, of the
/// second 2i + 1.
fn interleaved_place(row: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    head * head_dim + 2 * (at % (head_dim / 2)) + at / (head_dim / 2)
}

/// The inverse: which row of halves an interleaved one is.
fn halves_place(row: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    head * head_dim + at % 2 * (head_dim / 2) + at / 2
}

/// A tensor of the output.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) info: TensorInfo,
    pub(super) content: Content,
}

/// What is in it.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Numbers of the config.
    Exactly(Vec<f32>),
    /// Tensors of the same shape, one below the other.
    Rows {
        /// The tensors.
        from: Vec<HfTensor>,
        /// Each head of so many rows is written with its halves interleaved.
        interleave: Option<usize>,
        /// Added to every element.
        add: f32,
    },
}

/// Bytes that are made at once, about.
const CHUNK: usize = 16 << 20;

impl Output {
    /// Its bytes, a piece at a time.
    pub(super) fn each_piece(
        &self,
        checkpoint: &Checkpoint,
        threads: usize,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let maker = self.maker(checkpoint)?;
        let (rows, row_bytes) = match &self.content {
            Content::Exactly(values) => (values.len(), 4),
            Content::Rows { from, .. } => (from[0].rows() * from.len(), (4 * from[0].cols()).max(1)),
        };
        let rows_at_once = (CHUNK / row_bytes).max(1);
        for start in (0..rows).step_by(rows_at_once) {
            put(&maker.make(start..(start + rows_at_once).min(rows), threads)?)?;
        }
        Ok(())
    }

    /// What makes its rows.
    pub(super) fn maker<'a>(&'a self, checkpoint: &'a Checkpoint) -> Result<Maker<'a>> {
        let reader = match &self.content {
            Content::Exactly(values) => Err(values.as_slice()),
            Content::Rows { from, interleave, add } => {
                let decoded = decode_scaled(checkpoint, from)?;
                Ok(Reader { from, interleave: *interleave, add: *add, dtype: self.info.dtype, decoded })
            }
        };
        Ok(Maker { checkpoint, reader })
    }
}

/// Makes rows of a tensor of the output.
pub(crate) struct Maker<'a> {
    checkpoint: &'a Checkpoint,
    /// Of what is stored, or these numbers.
    reader: Result<Reader<'a>, &'a [f32]>,
}

impl Maker<'_> {
    /// The bytes of these rows (a vector is a column), with so many threads where numbers are converted.
    pub(crate) fn make(&self, rows: Range<usize>, threads: usize) -> Result<Vec<u8>> {
        let reader = match &self.reader {
            Ok(reader) => reader,
            Err(values) => return Ok(values[rows].iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        let bytes = reader.read(rows, threads)?;
        // Before anything of it is used: parts may be an adapter's, scales are no parts.
        self.checkpoint.intact()?;
        for part in reader.from.iter().flat_map(|tensor| &tensor.parts) {
            let stored = part.tensor.bytes();
            stored.intact()?;
            // What has been read may go: a checkpoint is larger than memory.
            stored.release();
        }
        Ok(bytes)
    }
}

/// F8 tensors have scales that no row knows of: they are decoded whole.
fn decode_scaled(checkpoint: &Checkpoint, from: &[HfTensor]) -> Result<HashMap<String, Vec<f32>>> {
    let tensors = from.iter().flat_map(|t| &t.parts).map(|part| &part.tensor).filter(|t| t.dtype == DType::F8E4M3);
    let mut decoded = HashMap::new();
    for tensor in tensors {
        if !decoded.contains_key(&tensor.name) {
            decoded.insert(tensor.name.clone(), checkpoint.to_f32(tensor)?);
        }
    }
    Ok(decoded)
}

struct Reader<'a> {
    from: &'a [HfTensor],
    interleave: Option<usize>,
    add: f32,
    dtype: DType,
    decoded: HashMap<String, Vec<f32>>,
}

impl Reader<'_> {
    fn read(&self, rows: Range<usize>, threads: usize) -> Result<Vec<u8>> {
        let share = rows.len().div_ceil(threads.max(1)).max(1);
        let small = rows.len() * self.from[0].cols() < 1 << 16;
        if share == rows.len() || small || self.from.iter().all(|tensor| self.is_copied(tensor)) {
            return self.some(rows);
        }
        let pieces: Vec<Result<Vec<u8>>> = thread::scope(|scope| {
            let ranges = rows.clone().step_by(share).map(|start| start..(start + share).min(rows.end));
            let handles: Vec<_> = ranges.map(|range| scope.spawn(|| self.some(range))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.append(&mut piece?);
        }
        Ok(bytes)
    }

    /// Whether the stored bytes are the written ones.
    fn is_copied(&self, tensor: &HfTensor) -> bool {
        let same = tensor.parts.iter().all(|part| part.tensor.dtype == self.dtype);
        same && self.dtype != DType::F8E4M3 && tensor.deltas.is_empty() && tensor.add == 0.0 && self.add == 0.0
    }

    fn some(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let cols = self.from[0].cols();
        // Rows that do not fill blocks were refused by the writer.
        let mut bytes = Vec::with_capacity(self.dtype.bytes_for(rows.len() * cols).unwrap_or(0));
        let mut values = vec![0.0; cols];
        for row in rows {
            let row = self.interleave.map_or(row, |dim| halves_place(row, dim));
            let tensor = &self.from[row / self.from[0].rows()];
            let row = row % self.from[0].rows();
            let (stored, at) = tensor.place(row);
            let len = stored.dtype.bytes_for(cols).unwrap_or(0);
            let raw = stored.bytes().slice(at * len..(at + 1) * len);
            if self.is_copied(tensor) {
                bytes.extend_from_slice(&raw);
                continue;
            }
            match self.decoded.get(&stored.name) {
                Some(all) => values.copy_from_slice(&all[at * cols..(at + 1) * cols]),
                None => dequantize(stored.dtype, &raw, &mut values)?,
            }
            for delta in &tensor.deltas {
                delta.add_to(row, &mut values);
            }
            for add in [tensor.add, self.add].into_iter().filter(|add| *add != 0.0) {
                values.iter_mut().for_each(|value| *value += add);
            }
            Error::check_numbers(stored, at, cols, &values, self.dtype)?;
            encode(self.dtype, &values, &mut bytes)?;
        }
        Ok(bytes)
    }
}

/// Appends values in one of the types that a conversion writes.
pub(super) fn encode(dtype: DType, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    match dtype {
        DType::F32 => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        DType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            halves.iter().for_each(|half| out.extend(half.to_le_bytes()));
        }
        DType::BF16 => values.iter().for_each(|value| out.extend(bf16::from_f32(*value).to_le_bytes())),
        DType::Q8_0 => values.as_chunks().0.iter().for_each(|block| q8_0(block, out)),
        other => return Err(super::ConvertError::NoSuchType(other).into()),
    }
    Ok(())
}

/// A block of Q8_0: the largest magnitude is 127 steps, halves are rounded away from zero, the step is kept in 16 bits.
fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0f32, |most, value| most.max(value.abs()));
    let step = largest / 127.0;
    let per_step = if step == 0.0 { 0.0 } else { 1.0 / step };
    out.extend(f16::from_f32(step).to_le_bytes());
    out.extend(block.iter().map(|value| ((value * per_step).round() as i8).to_le_bytes()[0]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_pairs_are_inverse() {
        let there: Vec<usize> = (0..12).map(|row| interleaved_place(row, 6)).collect();
        assert_eq!(there, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert!((0..12).all(|row| halves_place(there[row], 6) == row));
    }

    /// As the `gguf` package quantises.
    #[test]
    fn q8_0_rounds_halves_away_from_zero() {
        let mut block = [0.0; 32];
        (block[0], block[1], block[2], block[3]) = (127.0, 2.5, -2.5, -127.0);
        let mut bytes = Vec::new();
        encode(DType::Q8_0, &block, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 34);
        assert_eq!(bytes[..6], [0x00, 0x3c, 127, 3, 253, 129]);
        bytes.clear();
        encode(DType::Q8_0, &[0.0; 32], &mut bytes).unwrap();
        assert_eq!(bytes, [0; 34]);
    }
}
