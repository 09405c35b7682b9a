//! Who computes what: the outputs of a product cut into shares or blocks. It knows sizes only.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Input rows up to which reading the weights is what takes time: they are shared out by bytes. More rows are multiplied in
/// blocks, which threads draw as they get through.
pub(super) const FEW: usize = 4;

/// Rows that a share is a multiple of, but at a matrix's end: what kernels work on at a time.
pub(super) const TILE: usize = 16;

/// The rows that `thread` does of several matrices, given as rows and bytes of a row. All threads get about as much to read.
pub(super) fn shares(
    matrices: impl Iterator<Item = (usize, usize)> + Clone,
    thread: usize,
    threads: usize,
) -> impl Iterator<Item = Range<usize>> {
    let matrices = matrices.map(|(rows, bytes)| (rows, rows.div_ceil(TILE), bytes.max(1)));
    let total: usize = matrices.clone().map(|(_, tiles, bytes)| tiles * bytes).sum();
    let (from, to) = (total * thread / threads, total * (thread + 1) / threads);
    let mut before = 0;
    matrices.map(move |(rows, tiles, bytes)| {
        // The first row of the first tile that starts at or after `point`.
        let row = |point: usize| (point.saturating_sub(before).div_ceil(bytes) * TILE).min(rows);
        let range = row(from)..row(to);
        before += tiles * bytes;
        range
    })
}

/// A block of the output.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    /// Weight rows: outputs.
    pub(super) rows: Range<usize>,
    /// Input rows.
    pub(super) columns: Range<usize>,
}

impl Block {
    /// Most rows of a block: so many, unpacked, stay in the second-level cache while the input passes.
    pub(super) const ROWS: usize = 4 * TILE;

    /// The same for what multiplies so fast that input rows must not come from the third-level cache for each few weight rows.
    pub(super) const TALL: usize = 16 * TILE;
}

/// How the outputs of many input rows are cut into blocks: into tall ones, if that makes enough of them for all threads.
pub(super) struct Grid {
    rows: usize,
    columns: usize,
    n: usize,
}

impl Grid {
    /// Blocks that a thread should have at least, so that none waits long for the others.
    const EACH: usize = 6;

    /// Of parts of so many weight rows, `n` input rows, and blocks of `most` weight rows at most.
    pub(super) fn new(parts: impl Iterator<Item = usize> + Clone, n: usize, threads: usize, most: usize) -> Self {
        let wanted = Self::EACH * threads;
        let count = |rows: usize| parts.clone().map(|part| part.div_ceil(rows)).sum::<usize>();
        let mut rows = most;
        while rows > TILE && count(rows) < wanted {
            rows /= 2;
        }
        // Narrower blocks unpack the same weights again: only where there are more threads than rows for them.
        let pieces = wanted.div_ceil(count(rows).max(1)).min(n.div_ceil(32));
        Self { rows, columns: if threads == 1 { n } else { n.div_ceil(pieces).next_multiple_of(TILE) }, n }
    }

    /// How many blocks there are.
    pub(super) fn len(&self, parts: impl Iterator<Item = usize>) -> usize {
        parts.map(|rows| rows.div_ceil(self.rows)).sum::<usize>() * self.n.div_ceil(self.columns)
    }

    /// Block `i` and which part it is of, if there are so many.
    pub(super) fn block(&self, i: usize, parts: impl Iterator<Item = usize> + Clone) -> Option<(usize, Block)> {
        // Neighbouring numbers are neighbouring rows.
        let tall = parts.clone().map(|rows| rows.div_ceil(self.rows)).sum::<usize>().max(1);
        let (mut i, piece) = (i % tall, i / tall);
        if piece >= self.n.div_ceil(self.columns) {
            return None;
        }
        for (part, rows) in parts.enumerate() {
            let blocks = rows.div_ceil(self.rows);
            if i < blocks {
                let cut = |i: usize, size: usize, end: usize| i * size..end.min((i + 1) * size);
                return Some((part, Block { rows: cut(i, self.rows, rows), columns: cut(piece, self.columns, self.n) }));
            }
            i -= blocks;
        }
        None
    }
}

/// How often a share has been drawn from, in a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Drawn(AtomicUsize);

/// The numbers of blocks as threads draw them: each its share in order, so that what it fetches ahead is what it needs next, and
/// then what is left of others' shares.
pub(super) struct Queue<'a> {
    /// Of each share.
    drawn: &'a [Drawn],
    len: usize,
}

impl<'a> Queue<'a> {
    pub(super) fn new(drawn: &'a mut Vec<Drawn>, len: usize, threads: usize) -> Self {
        drawn.resize_with(threads, Drawn::default);
        drawn.iter_mut().for_each(|drawn| *drawn.0.get_mut() = 0);
        Self { drawn, len }
    }

    pub(super) fn draw(&self, thread: usize) -> Option<usize> {
        let threads = self.drawn.len();
        (thread..threads).chain(0..thread).find_map(|share| {
            let start = self.len * share / threads;
            let number = start + self.drawn[share].0.fetch_add(1, Ordering::Relaxed);
            (number < self.len * (share + 1) / threads).then_some(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_row_once_and_weigh_about_the_same() {
        for sizes in [&[(576, 360), (192, 360), (192, 360)][..], &[(1, 4), (0, 7), (70, 0)], &[(4096, 3440), (1024, 4200)]] {
            for threads in [1, 2, 3, 5, 64] {
                let mut next = vec![0; sizes.len()];
                for thread in 0..threads {
                    let mut bytes = 0;
                    for (i, range) in shares(sizes.iter().copied(), thread, threads).enumerate() {
                        assert_eq!(range.start, next[i]);
                        assert!(range.end == sizes[i].0 || range.end.is_multiple_of(TILE));
                        next[i] = range.end;
                        bytes += range.len() * sizes[i].1;
                    }
                    let total: usize = sizes.iter().map(|(rows, row)| rows * row).sum();
                    let most = sizes.iter().map(|(_, row)| row * TILE).max().unwrap_or(0);
                    assert!(bytes.abs_diff(total / threads) <= 2 * most, "{bytes} of {total} for one of {threads}");
                }
                assert!(next.iter().zip(sizes).all(|(next, (rows, _))| next == rows));
            }
        }
    }

    #[test]
    fn grids_cover_every_output_once() {
        for parts in [&[576, 192, 192][..], &[1], &[0, 17], &[49152]] {
            for n in [5, 64, 70, 512] {
                for (threads, most) in [1, 2, 3, 16, 64].into_iter().zip([Block::ROWS, Block::TALL].into_iter().cycle()) {
                    let grid = Grid::new(parts.iter().copied(), n, threads, most);
                    let blocks: Vec<_> = (0..).map_while(|i| grid.block(i, parts.iter().copied())).collect();
                    assert_eq!(blocks.len(), grid.len(parts.iter().copied()));
                    for (part, &rows) in parts.iter().enumerate() {
                        let mut seen = vec![0; rows * n];
                        for (_, block) in blocks.iter().filter(|(p, _)| *p == part) {
                            assert!(block.rows.len() <= most && block.rows.start.is_multiple_of(TILE));
                            for row in block.rows.clone() {
                                block.columns.clone().for_each(|column| seen[row * n + column] += 1);
                            }
                        }
                        assert!(seen.iter().all(|&times| times == 1), "{parts:?} n={n} threads={threads}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_number_is_drawn_once_by_whoever_draws() {
        for (len, threads) in [(0, 1), (1, 3), (13, 4), (80, 2)] {
            let mut drawn = Vec::new();
            let queue = Queue::new(&mut drawn, len, threads);
            let first: Vec<_> = (0..threads).filter_map(|thread| queue.draw(thread)).collect();
            let mut all: Vec<_> = first.into_iter().chain(std::iter::from_fn(|| queue.draw(threads - 1))).collect();
            all.sort_unstable();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
    }
}
