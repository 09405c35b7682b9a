//! [`Engine`]: token ids through the decoder, keys and values kept in blocks.

use std::ops::Range;

use sol_compute::{Backend, Batch, KvType};
use sol_model::{BLOCK_LEN, Model, Workspace, memory};

use crate::blocks::Blocks;
use crate::{Error, Result};

/// A sequence whose keys and values are in the cache. [`Engine::release`] gives its blocks back; dropping it does not.
#[derive(Debug, Default)]
pub struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) blocks: Vec<u32>,
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

/// Tokens that [`Engine::advance`] appends to a sequence.
pub struct Work<'a> {
    /// To which.
    pub sequence: &'a mut Sequence,
    /// Which; at least one.
    pub tokens: &'a [u32],
    /// Indices of those after which logits are wanted, ascending.
    pub outputs: &'a [usize],
}

/// Rows of one pass that belong to one sequence, whose blocks are there.
pub(crate) struct Piece<'a> {
    pub(crate) table: &'a [u32],
    /// Position of the first token.
    pub(crate) start: usize,
    pub(crate) tokens: &'a [u32],
    pub(crate) outputs: &'a [usize],
}

/// A decoder with its cache and work buffers.
///
/// When a file of its checkpoint changes while it is in use, every request from then on is an error
/// ([`sol_weights::Error::ChangedInUse`]); other engines go on.
pub struct Engine<B: Backend> {
    model: Model<B>,
    cache: B::Cache,
    kv_type: KvType,
    /// Most sequences of a [`Engine::step`].
    sequences: usize,
    pub(crate) blocks: Blocks,
    workspace: Workspace<B>,
    logits: Vec<f32>,
    /// Tokens, positions and sequence numbers of a pass.
    rows: [Vec<u32>; 3],
    outputs: Vec<usize>,
}

impl<B: Backend> Engine<B> {
    /// An engine that advances up to `sequences` sequences (1 to [`memory::PREFILL_ROWS`]) together, with room for `kv_tokens` tokens
    /// of all of them; `None`: for the model's context of each. `kv_type` `None` takes what suits the weights.
    pub fn new(model: Model<B>, kv_type: Option<KvType>, sequences: usize, kv_tokens: Option<usize>) -> Result<Self> {
        check_sequences(sequences)?;
        let context = model.context();
        let blocks = match kv_tokens {
            None => context.div_ceil(BLOCK_LEN).saturating_mul(sequences),
            Some(tokens) => tokens.div_ceil(BLOCK_LEN).max(1),
        };
        let kv_type = kv_type.unwrap_or_else(|| model.natural_kv_type());
        let rows = memory::pass_rows(model.spec(), context, sequences);
        Ok(Self {
            cache: model.cache(blocks, kv_type)?,
            kv_type,
            sequences,
            blocks: Blocks::new(blocks),
            workspace: model.workspace(rows, sequences),
            logits: vec![0.0; model.spec().vocab],
            rows: Default::default(),
            outputs: Vec::new(),
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

    /// Most tokens of one pass.
    pub fn pass_rows(&self) -> usize {
        self.workspace.rows()
    }

    /// Most logits of one pass.
    pub fn pass_outputs(&self) -> usize {
        self.workspace.outputs()
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
        let rows = self.workspace.rows();
        let last = tokens.len().div_ceil(rows) - 1;
        for (i, tokens) in tokens.chunks(rows).enumerate() {
            let outputs: &[usize] = if i == last { &[tokens.len() - 1] } else { &[] };
            // The logits stay in `self.logits`.
            self.advance(&mut [Work { sequence, tokens, outputs }], stop, |_, _, _| {})?;
        }
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
        self.widen();
        let mut start = 0;
        while start < tokens.len() {
            let silent = first.saturating_sub(start).min(tokens.len() - start);
            let rows = self.pass_rows().min(silent + self.pass_outputs()).min(tokens.len() - start);
            let outputs: Vec<usize> = (silent.min(rows)..rows).collect();
            let tokens = &tokens[start..start + rows];
            self.advance(&mut [Work { sequence, tokens, outputs: &outputs }], stop, |_, row, logits| each(start + row, logits))?;
            start += rows;
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
        let work = |(sequence, token)| Work { sequence, tokens: std::slice::from_ref(token), outputs: &[0] };
        let mut work: Vec<Work<'_>> = steps.iter_mut().map(|(sequence, token)| work((&mut **sequence, &*token))).collect();
        self.advance(&mut work, &|| false, |i, _, logits| each(i, logits))
    }

    /// One pass: appends tokens to each of several sequences and calls `each(index, token, logits)` for every output. All are
    /// checked before any is computed; given up between two layers because `stop` said so, it leaves no trace. The logits have
    /// the bits that they have when a sequence is alone and its tokens come in other pieces.
    pub fn advance(
        &mut self,
        work: &mut [Work<'_>],
        stop: &dyn Fn() -> bool,
        mut each: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let rows: usize = work.iter().map(|w| w.tokens.len()).sum();
        let outputs: usize = work.iter().map(|w| w.outputs.len()).sum();
        if rows > self.pass_rows() || outputs > self.pass_outputs() {
            return Err(Error::PassTooLarge { rows, outputs, most: [self.pass_rows(), self.pass_outputs()] });
        }
        if rows == 0 {
            return Ok(());
        }
        work.iter().try_for_each(|w| self.check(w.sequence, w.tokens))?;
        if work.iter().map(|w| self.blocks_for(w.sequence, w.tokens.len())).sum::<usize>() > self.blocks.free() {
            return Err(self.full());
        }
        work.iter_mut().try_for_each(|w| self.make_room(w.sequence, w.tokens.len()))?;
        let pieces = work.iter().map(|w| Piece {
            table: &w.sequence.blocks,
            start: w.sequence.tokens.len(),
            tokens: w.tokens,
            outputs: w.outputs,
        });
        let pieces: Vec<Piece<'_>> = pieces.collect();
        self.forward(&pieces, stop)?;
        for w in work.iter_mut() {
            w.sequence.tokens.extend_from_slice(w.tokens);
        }
        let places = work.iter().enumerate().flat_map(|(i, w)| w.outputs.iter().map(move |token| (i, *token)));
        for (output, (i, token)) in places.enumerate() {
            each(i, token, self.read_logits(output)?);
        }
        Ok(())
    }

    /// A sequence that begins as another: it shares the whole blocks of its first `len` tokens, so it may be shorter than `len`.
    pub fn fork(&mut self, parent: &Sequence, len: usize) -> Sequence {
        let blocks = len.min(parent.tokens.len()) / BLOCK_LEN;
        let shared = &parent.blocks[..blocks];
        self.blocks.share(shared);
        Sequence { tokens: parent.tokens[..blocks * BLOCK_LEN].to_vec(), blocks: shared.to_vec() }
    }

    /// Forgets all tokens from `len` on; more of them, back to the last whole block, where a fork holds the block they end in.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        let mut len = len.min(sequence.tokens.len());
        if !len.is_multiple_of(BLOCK_LEN) && self.blocks.is_shared(sequence.blocks[len / BLOCK_LEN]) {
            len -= len % BLOCK_LEN;
        }
        sequence.tokens.truncate(len);
        self.blocks.give_back(sequence.blocks.drain(len.div_ceil(BLOCK_LEN)..));
    }

    /// Gives a sequence's blocks back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }

    /// Makes room for the logits of as many rows as a pass that scores may have.
    pub(crate) fn widen(&mut self) {
        let (rows, outputs) = (self.workspace.rows(), self.workspace.outputs());
        let wanted = rows.min(memory::SCORED_ROWS);
        if outputs < wanted {
            self.workspace = self.model.workspace(rows, wanted);
        }
    }

    /// Refuses tokens before any of them is computed.
    pub(crate) fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<()> {
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

    /// One pass over pieces that were checked, fit the workspace and have their blocks. A piece may begin with blocks that an
    /// earlier piece of the same pass fills: every layer stores all keys and values before it attends to any.
    pub(crate) fn forward(&mut self, pieces: &[Piece<'_>], stop: &dyn Fn() -> bool) -> Result<()> {
        let [tokens, positions, sequences] = &mut self.rows;
        [&mut *tokens, positions, sequences].into_iter().for_each(Vec::clear);
        self.outputs.clear();
        for (i, piece) in pieces.iter().enumerate() {
            self.outputs.extend(piece.outputs.iter().map(|output| tokens.len() + output));
            tokens.extend_from_slice(piece.tokens);
            positions.extend((piece.start as u32..).take(piece.tokens.len()));
            sequences.extend(std::iter::repeat_n(i as u32, piece.tokens.len()));
        }
        let tables: Vec<&[u32]> = pieces.iter().map(|piece| piece.table).collect();
        let batch = Batch { tokens, positions, sequences, tables: &tables };
        if !self.model.forward_unless(stop, &batch, &self.outputs, &mut self.workspace, &mut self.cache) {
            return Err(Error::Interrupted);
        }
        Ok(self.model.checkpoint().intact()?)
    }

    /// Blocks that a sequence lacks for `more` tokens.
    pub(crate) fn blocks_for(&self, sequence: &Sequence, more: usize) -> usize {
        (sequence.tokens.len() + more).div_ceil(BLOCK_LEN).saturating_sub(sequence.blocks.len())
    }

    /// Gives a sequence the blocks that `more` tokens need.
    pub(crate) fn make_room(&mut self, sequence: &mut Sequence, more: usize) -> Result<()> {
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
            let block = self.blocks.take().ok_or_else(|| self.full())?;
            sequence.blocks.push(block);
        }
        Ok(())
    }

    fn full(&self) -> Error {
        Error::CacheFull { blocks: self.blocks.len(), tokens: self.blocks.len() * BLOCK_LEN }
    }

    /// Every way to logits leads through here.
    pub(crate) fn read_logits(&mut self, output: usize) -> Result<&[f32]> {
        self.model.checkpoint().intact()?;
        self.model.backend().read(&self.workspace.logits, output, &mut self.logits);
        // A sum is NaN if any term is; infinities of both signs make one too.
        if self.logits.iter().sum::<f32>().is_finite() { Ok(&self.logits) } else { Err(self.not_finite()) }
    }

    /// Adds the hidden states, after the final norm, of some rows of the last pass to `sum`, in their order; an empty sum is zero.
    pub(crate) fn add_hidden(&mut self, rows: Range<usize>, sum: &mut Vec<f64>) -> Result<()> {
        self.model.checkpoint().intact()?;
        sum.resize(self.model.spec().hidden, 0.0);
        let hidden = self.model.hidden(&mut self.workspace);
        let mut values = vec![0.0; sum.len()];
        for row in rows {
            self.model.backend().read(hidden, row, &mut values);
            sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        if sum.iter().sum::<f64>().is_finite() { Ok(()) } else { Err(self.not_finite()) }
    }

    fn not_finite(&self) -> Error {
        let cause = match self.model.first_non_finite() {
            Some(tensor) => format!("tensor '{tensor}' holds NaN or infinity; the checkpoint is broken"),
            None => "the weights are finite, but their products overflow; the config may be of another model".into(),
        };
        Error::NotFinite { cause }
    }
}
