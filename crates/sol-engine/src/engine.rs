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

/// Refuses numbers of sequences that no engine is made for.
pub(crate) fn check_sequences(sequences: usize) -> Result<()> {
    if (1..=memory::PREFILL_ROWS).contains(&sequences) {
        return Ok(());
    }
    let problem = "must be from 1 to 512";
    Err(Error::BadOption { option: "--parallel", value: sequences.to_string(), problem })
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
    /// Most sequences of a [`Engine::step`].
    sequences: usize,
    free: Vec<u32>,
    workspace: Workspace<B>,
    logits: Vec<f32>,
}

impl<B: Backend> Engine<B> {
    /// An engine with room for `sequences` sequences (1 to [`memory::PREFILL_ROWS`]) of the model's context; `kv_type` `None`
    /// takes what suits the weights.
    pub fn new(model: Model<B>, kv_type: Option<KvType>, sequences: usize) -> Result<Self> {
        check_sequences(sequences)?;
        let context = model.context();
        let blocks = context.div_ceil(BLOCK_LEN).saturating_mul(sequences);
        let kv_type = kv_type.unwrap_or_else(|| model.natural_kv_type());
        let rows = memory::pass_rows(model.spec(), context, sequences);
        let cache = model.cache(blocks, kv_type)?;
        // A cache of more blocks than that can not be reserved.
        let last = u32::try_from(blocks).unwrap_or(u32::MAX);
        Ok(Self {
            cache,
            kv_type,
            blocks,
            sequences,
            free: (0..last).rev().collect(),
            workspace: model.workspace(rows, sequences),
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

    /// Most sequences that are advanced together, each with room for [`Engine::context`] tokens.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Appends tokens to a sequence; returns the logits after the last. Between layers `stop` is asked whether to give up; what
    /// earlier passes appended stays.
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
            let first = i * self.workspace.rows();
            let outputs: &[usize] = if first + piece.len() > last { &[piece.len() - 1] } else { &[] };
            self.pass(sequence, piece, outputs, stop)?;
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
            let rows = self.workspace.rows().min(memory::SCORED_ROWS.max(self.sequences));
            self.workspace = self.model.workspace(rows, rows);
        }
        let rows = self.workspace.rows();
        for (i, piece) in tokens.chunks(rows).enumerate() {
            let start = i * rows;
            let outputs: Vec<usize> = (first.saturating_sub(start).min(piece.len())..piece.len()).collect();
            self.pass(sequence, piece, &outputs, stop)?;
            for (output, row) in outputs.iter().enumerate() {
                self.read_logits(output)?;
                each(start + row, &self.logits);
            }
        }
        Ok(())
    }

    /// Appends one token to each of several sequences in one pass, which reads the weights once for all of them, and calls
    /// `each(index, logits)` for every one. All are checked before any is computed. A sequence's logits have the bits they have
    /// when it is alone. No sequences, nothing done.
    pub fn step(&mut self, steps: &mut [(&mut Sequence, u32)], mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        if steps.len() > self.sequences {
            return Err(Error::TooManySequences { asked: steps.len(), most: self.sequences });
        }
        if steps.is_empty() {
            return Ok(());
        }
        for (sequence, token) in steps.iter() {
            self.check(sequence, &[*token])?;
        }
        let blocks_for = |s: &Sequence| (s.tokens.len() + 1).div_ceil(BLOCK_LEN).saturating_sub(s.blocks.len());
        if steps.iter().map(|(sequence, _)| blocks_for(sequence)).sum::<usize>() > self.free.len() {
            return Err(self.full());
        }
        let mut rows = [[0; memory::PREFILL_ROWS]; 3];
        let [tokens, positions, numbers] = &mut rows;
        for (i, (sequence, token)) in steps.iter_mut().enumerate() {
            self.make_room(sequence, 1)?;
            (tokens[i], positions[i], numbers[i]) = (*token, sequence.tokens.len() as u32, i as u32);
        }
        let tables: Vec<&[u32]> = steps.iter().map(|(sequence, _)| &sequence.blocks[..]).collect();
        let [tokens, positions, sequences] = [tokens, positions, numbers].map(|values| &values[..tables.len()]);
        let outputs: Vec<usize> = (0..tables.len()).collect();
        let batch = Batch { tokens, positions, sequences, tables: &tables };
        self.model.forward(&batch, &outputs, &mut self.workspace, &mut self.cache);
        self.model.checkpoint().intact()?;
        for (sequence, token) in steps.iter_mut() {
            sequence.tokens.push(*token);
        }
        for i in outputs {
            self.read_logits(i)?;
            each(i, &self.logits);
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

    /// One pass over tokens that were checked and fit the workspace. Given up between two layers, it leaves no trace.
    fn pass(&mut self, sequence: &mut Sequence, tokens: &[u32], outputs: &[usize], stop: &dyn Fn() -> bool) -> Result<()> {
        let start = sequence.tokens.len();
        self.make_room(sequence, tokens.len())?;
        let mut positions = [0; memory::PREFILL_ROWS];
        let positions = &mut positions[..tokens.len()];
        positions.iter_mut().zip(start as u32..).for_each(|(p, position)| *p = position);
        let sequences = &[0; memory::PREFILL_ROWS][..tokens.len()];
        let batch = Batch { tokens, positions, sequences, tables: &[&sequence.blocks] };
        if !self.model.forward_unless(stop, &batch, outputs, &mut self.workspace, &mut self.cache) {
            return Err(Error::Interrupted);
        }
        self.model.checkpoint().intact()?;
        sequence.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Gives a sequence the blocks that `more` tokens need.
    fn make_room(&mut self, sequence: &mut Sequence, more: usize) -> Result<()> {
        let start = sequence.tokens.len();
        let end = start + more;
        if let Some(window) = self.model.spec().window()
            && (start..end).contains(&window)
        {
            tracing::info!(
                "the sequence exceeds the sliding window of {window} tokens, which is applied (--no-window: it is not)"
            );
        }
        while sequence.blocks.len() < end.div_ceil(BLOCK_LEN) {
            let block = self.free.pop().ok_or_else(|| self.full())?;
            sequence.blocks.push(block);
        }
        Ok(())
    }

    fn full(&self) -> Error {
        Error::CacheFull { blocks: self.blocks, tokens: self.blocks * BLOCK_LEN }
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
