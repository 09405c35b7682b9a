//! The paged KV cache. A block of one layer holds, head after head, keys turned on their side (`[head_dim][block_len]`, so that
//! scores of neighbouring keys are computed together) and then values (`[block_len][padded head_dim]`). Memory is reserved at
//! once and taken from the system when a block is first written.

use half::f16;
use memmap2::{MmapMut, MmapOptions};
use sol_compute::{Batch, CacheShape, ComputeError, KvShape, KvType};

use crate::pool::Pool;
use crate::shared::SharedMut;

/// Values are read in whole tiles of this many.
pub(crate) const TILE: usize = 32;

/// Keys and values of every layer.
pub struct Cache {
    memory: MmapMut,
    shape: CacheShape,
    /// Offset of each layer, in values.
    layers: Vec<usize>,
}

impl Cache {
    pub(crate) fn new(shape: &CacheShape) -> Result<Self, ComputeError> {
        assert_eq!(shape.block_len, TILE, "the kernels score a whole block at a time");
        let mut layers = Vec::with_capacity(shape.layers.len());
        let mut values = 0usize;
        let refused = |source| ComputeError::OutOfMemory { what: "the KV cache", bytes: shape.bytes(), source };
        for layer in &shape.layers {
            layers.push(values);
            let block = layer.kv_heads * head_values(layer);
            values = shape.blocks.checked_mul(block).and_then(|n| n.checked_add(values)).ok_or_else(|| refused(too_large()))?;
        }
        let bytes = values.checked_mul(shape.dtype.bytes()).ok_or_else(|| refused(too_large()))?;
        let memory = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon().map_err(refused)?;
        Ok(Self { memory, shape: shape.clone(), layers })
    }

    fn offset(&self, layer: usize, block: u32, head: usize) -> usize {
        let shape = &self.shape.layers[layer];
        assert!((block as usize) < self.shape.blocks && head < shape.kv_heads);
        self.layers[layer] + (block as usize * shape.kv_heads + head) * head_values(shape)
    }

    /// Number format.
    pub(crate) fn dtype(&self) -> KvType {
        self.shape.dtype
    }

    /// Keys and values of one head of one block; `T` is the number format.
    pub(crate) fn head<T: bytemuck::AnyBitPattern>(&self, layer: usize, block: u32, head: usize) -> (&[T], &[T]) {
        debug_assert_eq!(size_of::<T>(), self.shape.dtype.bytes());
        let (start, n) = (self.offset(layer, block, head), head_values(&self.shape.layers[layer]));
        let keys = self.shape.layers[layer].head_dim * TILE;
        bytemuck::cast_slice(&self.memory[start * size_of::<T>()..(start + n) * size_of::<T>()]).split_at(keys)
    }

    /// Writes keys and values (`[rows, kv_heads * head_dim]`) of every row of a batch.
    pub(crate) fn write(&mut self, pool: &Pool, layer: usize, batch: &Batch<'_>, k: &[f32], v: &[f32]) {
        let KvShape { kv_heads, head_dim } = self.shape.layers[layer];
        let (dtype, n) = (self.shape.dtype, head_values(&self.shape.layers[layer]));
        let (pointer, len) = (self.memory.as_mut_ptr(), self.memory.len());
        let offsets = |row: usize, head: usize| {
            let position = batch.positions[row] as usize;
            let block = batch.tables[batch.sequences[row] as usize][position / TILE];
            (self.offset(layer, block, head), position % TILE)
        };
        // Heads are the unit of work: rows of one block lie in the same lines of memory.
        let size = dtype.bytes();
        let memory = SharedMut::new(
            // SAFETY: `self` is borrowed mutably; `offsets` reads its other fields only.
            unsafe { std::slice::from_raw_parts_mut(pointer, len) },
        );
        let one_head = |head: usize| {
            for row in 0..batch.len() {
                let (start, slot) = offsets(row, head);
                // SAFETY: blocks of different heads are disjoint, and a head is one thread's.
                let block = unsafe { memory.slice(start * size..(start + n) * size) };
                let at = (row * kv_heads + head) * head_dim;
                let (key, value) = (&k[at..at + head_dim], &v[at..at + head_dim]);
                match dtype {
                    KvType::F32 => put(bytemuck::cast_slice_mut::<u8, f32>(block), slot, key, value, |x| x),
                    KvType::F16 => put(bytemuck::cast_slice_mut::<u8, f16>(block), slot, key, value, f16::from_f32),
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

fn put<T>(block: &mut [T], slot: usize, key: &[f32], value: &[f32], convert: impl Fn(f32) -> T) {
    let (keys, values) = block.split_at_mut(key.len() * TILE);
    key.iter().zip(keys[slot..].iter_mut().step_by(TILE)).for_each(|(k, o)| *o = convert(*k));
    value.iter().zip(&mut values[slot * padded(value.len())..]).for_each(|(v, o)| *o = convert(*v));
}

/// Values of a head are padded to whole tiles.
pub(crate) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(TILE)
}

fn head_values(shape: &KvShape) -> usize {
    shape.head_dim * TILE + TILE * padded(shape.head_dim)
}

fn too_large() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::OutOfMemory, "larger than the address space")
}
