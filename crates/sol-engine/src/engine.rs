//! [`Engine`]: token ids through the decoder, keys and values kept in blocks.

use sol_compute::{Backend, Batch, KvType};
use sol_model::{BLOCK_LEN, Model, Workspace, memory};

use crate::{Error, Result};

/// A sequence whose keys and values are in the cache. [`Engine::release`] gives its blocks back; dropping it does not.
#[derive(Debug, Default)]
pub struct Sequence {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
}

impl Sequence {
    /// The tokens that are cached.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// A decoder with its cache and work buffers.
///
/// When a file of its checkpoint changes while it is in use, every request from then on is an error
/// ([`sol_weights::Error::ChangedInUse`]); other engines go on.
pub struct Engine<B: Backend> {
    model: Model<B>,
    cache: B::Cache,
    kv_type: KvType,
    blocks: usize,
    free: Vec<u32>,
    workspace: Workspace<B>,
    logits: Vec<f32>,
}

impl<B: Backend> Engine<B> {
    /// An engine with room for one sequence of the model's context; `kv_type` `None` takes what suits the weights.
    pub fn new(model: Model<B>, kv_type: Option<KvType>) -> Result<Self> {
        let context = model.context();
        let blocks = context.div_ceil(BLOCK_LEN);
        let kv_type = kv_type.unwrap_or_else(|| model.natural_kv_type());
        let rows = memory::prefill_rows(model.spec()).min(context);
        Ok(Self {
            cache: model.cache(blocks, kv_type)?,
            kv_type,
            blocks,
            free: (0..blocks as u32).rev().collect(),
            workspace: model.workspace(rows, 1),
            logits: vec![0.0; model.spec().vocab],
            model,
        })
    }

    /// The decoder.
    pub fn model(&self) -> &Model<B> {
        &self.model
    }

    /// Number format of the cache.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.model.context()
    }

    /// Appends tokens to a sequence; returns the logits after the last. Between passes `stop` is asked whether to give up;
    /// what was appended by then stays.
    pub fn extend(&mut self, sequence: &mut Sequence, tokens: &[u32], stop: &dyn Fn() -> bool) -> Result<&[f32]> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check(sequence, tokens)?;
        if tokens.len() > 1 {
            self.model.checkpoint().unchanged()?;
        }
        let last = tokens.len() - 1;
        for (i, piece) in tokens.chunks(self.workspace.rows()).enumerate() {
            if stop() {
                return Err(Error::Interrupted);
            }
            let first = i * self.workspace.rows();
            let outputs: &[usize] = if first + piece.len() > last { &[piece.len() - 1] } else { &[] };
            self.pass(sequence, piece, outputs)?;
        }
        self.read_logits(0)?;
        Ok(&self.logits)
    }

    /// Appends tokens and calls `each(index, logits)` after every one of them from `first` on.
    pub fn score(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        first: usize,
        stop: &dyn Fn() -> bool,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check(sequence, tokens)?;
        self.model.checkpoint().unchanged()?;
        if self.workspace.outputs() < self.workspace.rows() {
            let rows = self.workspace.rows().min(memory::SCORED_ROWS);
            self.workspace = self.model.workspace(rows, rows);
        }
        let rows = self.workspace.rows();
        for (i, piece) in tokens.chunks(rows).enumerate() {
            if stop() {
                return Err(Error::Interrupted);
            }
            let start = i * rows;
            let outputs: Vec<usize> = (first.saturating_sub(start).min(piece.len())..piece.len()).collect();
            self.pass(sequence, piece, &outputs)?;
            for (output, row) in outputs.iter().enumerate() {
                self.read_logits(output)?;
                each(start + row, &self.logits);
            }
        }
        Ok(())
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        sequence.tokens.truncate(len);
        let keep = sequence.tokens.len().div_ceil(BLOCK_LEN);
        self.free.extend(sequence.blocks.drain(keep..));
    }

    /// Gives a sequence's blocks back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }

    /// Refuses tokens before any of them is computed.
    fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.spec().vocab;
        if let Some(&id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::UnknownToken { id, vocab });
        }
        let end = sequence.tokens.len() + tokens.len();
        if end > self.context() {
            let hint = "shorten the prompt or raise --ctx";
            return Err(Error::ContextOverflow { needed: end, prompt: end, max_tokens: 0, context: self.context(), hint });
        }
        Ok(())
    }

    /// One pass over tokens that were checked and fit the workspace.
    fn pass(&mut self, sequence: &mut Sequence, tokens: &[u32], outputs: &[usize]) -> Result<()> {
        let start = sequence.tokens.len();
        let end = start + tokens.len();
        if let Some(window) = self.model.spec().window()
            && (start..end).contains(&window)
        {
            tracing::info!(
                "the sequence exceeds the sliding window of {window} tokens, which is applied (--no-window: it is not)"
            );
        }
        while sequence.blocks.len() < end.div_ceil(BLOCK_LEN) {
            let full = || Error::CacheFull { blocks: self.blocks, tokens: self.blocks * BLOCK_LEN };
            sequence.blocks.push(self.free.pop().ok_or_else(full)?);
        }
        let mut positions = [0; memory::PREFILL_ROWS];
        let positions = &mut positions[..tokens.len()];
        positions.iter_mut().zip(start as u32..).for_each(|(p, position)| *p = position);
        let sequences = &[0; memory::PREFILL_ROWS][..tokens.len()];
        let batch = Batch { tokens, positions, sequences, tables: &[&sequence.blocks] };
        self.model.forward(&batch, outputs, &mut self.workspace, &mut self.cache);
        self.model.checkpoint().intact()?;
        sequence.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Every way to logits leads through here.
    fn read_logits(&mut self, output: usize) -> Result<()> {
        self.model.checkpoint().intact()?;
        self.model.backend().read(&self.workspace.logits, output, &mut self.logits);
        // A sum is NaN if any term is; infinities of both signs make one too.
        if self.logits.iter().sum::<f32>().is_finite() {
            return Ok(());
        }
        let cause = match self.model.first_non_finite() {
            Some(tensor) => format!("tensor '{tensor}' holds NaN or infinity; the checkpoint is broken"),
            None => "the weights are finite, but their products overflow; the config may be of another model".into(),
        };
        Err(Error::NotFinite { cause })
    }
}
