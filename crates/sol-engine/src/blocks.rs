//! The cache's blocks, and how many sequences hold each: sequences with a common beginning share its whole blocks.

/// Which blocks are free, and how many sequences hold the others.
pub(crate) struct Blocks {
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl Blocks {
    pub(crate) fn new(blocks: usize) -> Self {
        // A cache of more blocks than that can not be reserved.
        let last = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self { holders: vec![0; last as usize], free: (0..last).rev().collect() }
    }

    /// Blocks in all.
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// A block for one holder.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.holders[block as usize] = 1;
        Some(block)
    }

    /// One more holder for each of these.
    pub(crate) fn share(&mut self, blocks: &[u32]) {
        blocks.iter().for_each(|block| self.holders[*block as usize] += 1);
    }

    /// Whether somebody else holds this block too.
    pub(crate) fn is_shared(&self, block: u32) -> bool {
        self.holders[block as usize] > 1
    }

    /// One holder less for each of these.
    pub(crate) fn give_back(&mut self, blocks: impl IntoIterator<Item = u32>) {
        for block in blocks {
            let holders = &mut self.holders[block as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_free_once_its_last_holder_gave_it_back() {
        let mut blocks = Blocks::new(2);
        let block = blocks.take().unwrap();
        assert!(!blocks.is_shared(block));
        blocks.share(&[block]);
        assert!(blocks.is_shared(block));
        blocks.give_back([block]);
        assert_eq!((blocks.free(), blocks.is_shared(block)), (1, false));
        blocks.give_back([block]);
        assert_eq!(blocks.free(), 2);
        assert!(blocks.take().is_some() && blocks.take().is_some() && blocks.take().is_none());
    }
}
