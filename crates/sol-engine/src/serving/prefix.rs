//! The beginnings of prompts that were read before: a tree whose nodes are blocks of tokens, the least recently used leaf first out.

use std::collections::HashMap;

use sol_model::BLOCK_LEN;

use crate::blocks::Blocks;

/// A node; its parent's number and its tokens are its name.
struct Node {
    parent: usize,
    block: u32,
    children: usize,
    used: u64,
}

/// Name of a node: its parent's number (one more than its index, 0 for the root) and its tokens.
type Name = (usize, Box<[u32]>);

/// Blocks by the tokens that lead to them. The tree is a holder of each of its blocks.
#[derive(Default)]
pub(super) struct Prefixes {
    nodes: Vec<Option<(Node, Name)>>,
    names: HashMap<Name, usize>,
    vacant: Vec<usize>,
    clock: u64,
}

impl Prefixes {
    /// Blocks that it holds.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.names.len()
    }

    /// The blocks that hold a beginning of `tokens`, the longest one of whole blocks that is there; they are used now.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Vec<u32> {
        self.clock += 1;
        let (mut at, mut blocks) = (0, Vec::new());
        for piece in tokens.chunks_exact(BLOCK_LEN) {
            let Some(&child) = self.names.get(&(at, piece.into()) as &Name) else { break };
            let Some((node, _)) = &mut self.nodes[child - 1] else { break };
            node.used = self.clock;
            blocks.push(node.block);
            at = child;
        }
        blocks
    }

    /// Keeps the whole blocks of `tokens`; those that are there already stay.
    pub(super) fn keep(&mut self, tokens: &[u32], blocks: &[u32], pool: &mut Blocks) {
        self.clock += 1;
        let mut at = 0;
        for (piece, &block) in tokens.chunks_exact(BLOCK_LEN).zip(blocks) {
            let name: Name = (at, piece.into());
            let child = match self.names.get(&name) {
                Some(&child) => child,
                None => {
                    pool.share(&[block]);
                    if let Some((parent, _)) = at.checked_sub(1).and_then(|at| self.nodes[at].as_mut()) {
                        parent.children += 1;
                    }
                    let node = Some((Node { parent: at, block, children: 0, used: 0 }, name.clone()));
                    let index = self.vacant.pop().unwrap_or(self.nodes.len());
                    if index == self.nodes.len() {
                        self.nodes.push(node);
                    } else {
                        self.nodes[index] = node;
                    }
                    self.names.insert(name, index + 1);
                    index + 1
                }
            };
            if let Some((node, _)) = &mut self.nodes[child - 1] {
                node.used = self.clock;
            }
            at = child;
        }
    }

    /// Gives up blocks that nobody else holds until `wanted` are free, or there are none.
    pub(super) fn give_up(&mut self, wanted: usize, pool: &mut Blocks) {
        while pool.free() < wanted {
            let leaf = |(index, node): (usize, &Option<(Node, Name)>)| {
                let (node, _) = node.as_ref()?;
                (node.children == 0).then_some((node.used, index, pool.is_shared(node.block)))
            };
            let all: Vec<(u64, usize, bool)> = self.nodes.iter().enumerate().filter_map(leaf).collect();
            let mut leaves: Vec<(u64, usize)> = all.iter().filter(|leaf| !leaf.2).map(|leaf| (leaf.0, leaf.1)).collect();
            if leaves.is_empty() {
                // Behind a block that a request computed anew, as for log-probabilities, there can be one that nobody uses.
                if !self.nodes.iter().flatten().any(|(node, _)| !pool.is_shared(node.block)) {
                    return;
                }
                leaves = all.iter().map(|leaf| (leaf.0, leaf.1)).collect();
            }
            leaves.sort_unstable();
            for (_, index) in leaves {
                if pool.free() >= wanted {
                    return;
                }
                self.remove(index, pool);
            }
        }
    }

    fn remove(&mut self, index: usize, pool: &mut Blocks) {
        let Some((node, name)) = self.nodes[index].take() else { return };
        self.names.remove(&name);
        self.vacant.push(index);
        pool.give_back([node.block]);
        if let Some((parent, _)) = node.parent.checked_sub(1).and_then(|at| self.nodes[at].as_mut()) {
            parent.children -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u32, blocks: usize) -> Vec<u32> {
        (0..(blocks * BLOCK_LEN) as u32).map(|i| i * seed % 97).collect()
    }

    #[test]
    fn beginnings_are_found_by_whole_blocks_and_the_oldest_goes_first() {
        let mut pool = Blocks::new(8);
        let mut tree = Prefixes::default();
        let mut take = |n: usize| (0..n).map(|_| pool.take().unwrap()).collect::<Vec<_>>();
        let (a, b) = (take(3), take(2));
        let first = text(3, 3);
        let second = [&first[..BLOCK_LEN], &text(5, 1)[..]].concat();
        tree.keep(&first, &a, &mut pool);
        tree.keep(&second, &b, &mut pool);
        // The second's first block is the first's.
        assert_eq!(tree.len(), 4);
        pool.give_back(a.iter().chain(&b).copied());
        assert_eq!(pool.free(), 4);
        assert_eq!(tree.find(&first[..first.len() - 1]), a[..2]);
        assert_eq!(tree.find(&second), [a[0], b[1]]);
        assert!(tree.find(&text(7, 2)).is_empty());
        // The first's last block is the oldest leaf; then its second is one.
        tree.give_up(5, &mut pool);
        assert_eq!((tree.find(&first), pool.free()), (a[..2].to_vec(), 5));
        // What somebody holds stays.
        pool.share(&a[..2]);
        tree.give_up(8, &mut pool);
        assert_eq!((tree.find(&first), pool.free()), (a[..2].to_vec(), 6));
        pool.give_back([a[0], a[1]]);
        tree.give_up(8, &mut pool);
        assert_eq!((tree.len(), pool.free()), (0, 8));
    }

    #[test]
    fn a_block_that_nobody_uses_goes_even_in_front_of_one_that_somebody_does() {
        let mut pool = Blocks::new(4);
        let mut tree = Prefixes::default();
        let mut take = |n: usize| (0..n).map(|_| pool.take().unwrap()).collect::<Vec<_>>();
        let (old, anew) = (take(1), take(2));
        let tokens = text(3, 2);
        tree.keep(&tokens[..BLOCK_LEN], &old, &mut pool);
        pool.give_back(old);
        tree.keep(&tokens, &anew, &mut pool);
        assert_eq!((tree.len(), pool.free()), (2, 1));
        tree.give_up(2, &mut pool);
        assert_eq!((tree.len(), pool.free()), (0, 2));
    }
}
