//! The paged KV cache. A block of one layer holds, head after head, keys turned on their side (`[head_dim][block_len]`, so that
//! scores of neighbouring keys are computed together) and then values (`[block_len][padded head_dim]`). Memory is reserved at
//! once and taken from the system when a block is first written.

use half::f16;
use memmap2::{MmapMut, MmapOptions};
use sol_compute::{CacheShape, ComputeError, KvShape, KvType};

/// Values are read in whole tiles of this many.
pub(crate) const TILE: usize = 32;

/// Keys and values of every layer.
pub struct Cache {
    memory: MmapMut,
    shape: CacheShape,
    /// Offset of each layer, in values.
    layers: Vec<usize>,
}

/// One head of one block: keys, then values.
#[derive(Clone, Copy)]
pub(crate) enum BlockHead<'a> {
    F32(&'a [f32], &'a [f32]),
    F16(&'a [f16], &'a [f16]),
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

    pub(crate) fn dtype(&self) -> KvType {
        self.shape.dtype
    }

    fn offset(&self, layer: usize, block: u32, head: usize) -> usize {
        let shape = &self.shape.layers[layer];
        assert!((block as usize) < self.shape.blocks && head < shape.kv_heads);
        self.layers[layer] + (block as usize * shape.kv_heads + head) * head_values(shape)
    }

    /// Keys and values of one head of one block.
    pub(crate) fn head(&self, layer: usize, block: u32, head: usize) -> BlockHead<'_> {
        let shape = &self.shape.layers[layer];
        let (start, n) = (self.offset(layer, block, head), head_values(shape));
        let keys = shape.head_dim * TILE;
        match self.shape.dtype {
            KvType::F32 => {
                let (k, v) = bytemuck::cast_slice(&self.memory[start * 4..(start + n) * 4]).split_at(keys);
                BlockHead::F32(k, v)
            }
            KvType::F16 => {
                let (k, v) = bytemuck::cast_slice(&self.memory[start * 2..(start + n) * 2]).split_at(keys);
                BlockHead::F16(k, v)
            }
        }
    }

    /// Writes key and value of one head at one slot of a block.
    pub(crate) fn write(&mut self, layer: usize, block: u32, slot: usize, head: usize, key: &[f32], value: &[f32]) {
        let shape = self.shape.layers[layer];
        let (start, n) = (self.offset(layer, block, head), head_values(&shape));
        let keys = shape.head_dim * TILE;
        let values = keys + slot * padded(shape.head_dim);
        match self.shape.dtype {
            KvType::F32 => {
                let out: &mut [f32] = bytemuck::cast_slice_mut(&mut self.memory[start * 4..(start + n) * 4]);
                key.iter().zip(out[slot..keys].iter_mut().step_by(TILE)).for_each(|(k, o)| *o = *k);
                out[values..values + value.len()].copy_from_slice(value);
            }
            KvType::F16 => {
                let out: &mut [f16] = bytemuck::cast_slice_mut(&mut self.memory[start * 2..(start + n) * 2]);
                key.iter().zip(out[slot..keys].iter_mut().step_by(TILE)).for_each(|(k, o)| *o = f16::from_f32(*k));
                value.iter().zip(&mut out[values..]).for_each(|(v, o)| *o = f16::from_f32(*v));
            }
        }
    }
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
