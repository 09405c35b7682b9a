//! The paged KV cache. A block of one layer holds, head after head, keys turned on their side (`[head_dim][block_len]`, so that
//! scores of neighbouring keys are computed together) and then values (`[block_len][padded head_dim]`). Memory is reserved at
//! once and taken from the system when a block is first written.
//!
//! [`q8`] says how 8-bit numbers lie there with their scales.

use half::f16;
use memmap2::{MmapMut, MmapOptions};
use sol_compute::{Batch, CacheShape, ComputeError, KvShape, KvType};

use crate::pool::Pool;
use crate::q8;
use crate::shared::SharedMut;

/// Values are read in whole tiles of this many.
pub(crate) const TILE: usize = 32;

/// Keys and values of every layer.
pub struct Cache {
    memory: MmapMut,
    shape: CacheShape,
    /// Offset of each layer, in bytes.
    layers: Vec<usize>,
}

impl Cache {
    pub(crate) fn new(shape: &CacheShape) -> Result<Self, ComputeError> {
        assert_eq!(shape.block_len, TILE, "the kernels score a whole block at a time");
        let mut layers = Vec::with_capacity(shape.layers.len());
        let mut bytes = 0usize;
        let refused = |source| ComputeError::OutOfMemory { what: "the KV cache", bytes: shape.bytes(), source };
        for layer in &shape.layers {
            layers.push(bytes);
            let block = layer.kv_heads * head_bytes(layer, shape.dtype);
            bytes = shape.blocks.checked_mul(block).and_then(|n| n.checked_add(bytes)).ok_or_else(|| refused(too_large()))?;
        }
        let memory = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon().map_err(refused)?;
        Ok(Self { memory, shape: shape.clone(), layers })
    }

    fn offset(&self, layer: usize, block: u32, head: usize) -> usize {
        let shape = &self.shape.layers[layer];
        assert!((block as usize) < self.shape.blocks && head < shape.kv_heads);
        self.layers[layer] + (block as usize * shape.kv_heads + head) * head_bytes(shape, self.shape.dtype)
    }

    /// Number format.
    pub(crate) fn dtype(&self) -> KvType {
        self.shape.dtype
    }

    /// Keys and values of one head of one block, in this format.
    pub(crate) fn head(&self, layer: usize, block: u32, head: usize) -> (&[u8], &[u8]) {
        let (start, shape) = (self.offset(layer, block, head), &self.shape.layers[layer]);
        let bytes = &self.memory[start..start + head_bytes(shape, self.shape.dtype)];
        bytes.split_at(key_bytes(shape.head_dim, self.shape.dtype))
    }

    /// Writes keys and values (`[rows, kv_heads * head_dim]`) of every row of a batch.
    pub(crate) fn write(&mut self, pool: &Pool, layer: usize, batch: &Batch<'_>, k: &[f32], v: &[f32]) {
        let KvShape { kv_heads, head_dim } = self.shape.layers[layer];
        let dtype = self.shape.dtype;
        let (n, keys) = (head_bytes(&self.shape.layers[layer], dtype), key_bytes(head_dim, dtype));
        let (pointer, len) = (self.memory.as_mut_ptr(), self.memory.len());
        let offsets = |row: usize, head: usize| {
            let position = batch.positions[row] as usize;
            let block = batch.tables[batch.sequences[row] as usize][position / TILE];
            (self.offset(layer, block, head), position % TILE)
        };
        // Heads are the unit of work: rows of one block lie in the same lines of memory.
        let memory = SharedMut::new(
            // SAFETY: `self` is borrowed mutably; `offsets` reads its other fields only.
            unsafe { std::slice::from_raw_parts_mut(pointer, len) },
        );
        let one_head = |head: usize| {
            for row in 0..batch.len() {
                let (start, slot) = offsets(row, head);
                // SAFETY: blocks of different heads are disjoint, and a head is one thread's.
                let block = unsafe { memory.slice(start..start + n) };
                let (keys, values) = block.split_at_mut(keys);
                let at = (row * kv_heads + head) * head_dim;
                let (key, value) = (&k[at..at + head_dim], &v[at..at + head_dim]);
                match dtype {
                    KvType::F32 => put::<f32>(keys, values, slot, key, value, |x| x),
                    KvType::F16 => put::<f16>(keys, values, slot, key, value, f16::from_f32),
                    KvType::Q8_0 => q8::put(keys, values, slot, key, value),
                }
            }
        };
        if batch.len() * kv_heads * head_dim < INLINE_VALUES {
            (0..kv_heads).for_each(one_head);
        } else {
            pool.run(|thread| (thread..kv_heads).step_by(pool.threads()).for_each(one_head));
        }
    }
}

/// Fewer values than this are not worth waking another thread for.
const INLINE_VALUES: usize = 8192;

fn put<T: bytemuck::Pod>(
    keys: &mut [u8],
    values: &mut [u8],
    slot: usize,
    key: &[f32],
    value: &[f32],
    convert: impl Fn(f32) -> T,
) {
    let (keys, values): (&mut [T], &mut [T]) = (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
    key.iter().zip(keys[slot..].iter_mut().step_by(TILE)).for_each(|(k, o)| *o = convert(*k));
    value.iter().zip(&mut values[slot * padded(value.len())..]).for_each(|(v, o)| *o = convert(*v));
}

/// Values of a head are padded to whole tiles.
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(TILE)
}

/// Bytes of the keys of one head of one block.
fn key_bytes(head_dim: usize, dtype: KvType) -> usize {
    match dtype {
        KvType::F32 => 4 * head_dim * TILE,
        KvType::F16 => 2 * head_dim * TILE,
        KvType::Q8_0 => q8::part_bytes(head_dim),
    }
}

/// Bytes of keys and values of one head of one block.
fn head_bytes(shape: &KvShape, dtype: KvType) -> usize {
    key_bytes(shape.head_dim, dtype) + key_bytes(padded(shape.head_dim), dtype)
}

fn too_large() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::OutOfMemory, "larger than the address space")
}
