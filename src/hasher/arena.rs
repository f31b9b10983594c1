//! The memory that hashes are computed in: mapped once, given back in between.

use std::io;

use argon2::Block;
use memmap2::{Advice, MmapMut, UncheckedAdvice};

/// One block of memory for one hash at a time.
#[derive(Debug)]
pub(super) struct Arena {
    map: MmapMut,
    /// Blocks from the start that may have pages.
    touched: usize,
}

impl Arena {
    /// Reserves addresses for `bytes`; pages come when they are first written to.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes)?;
        // A few huge pages come far faster than 4,864 small ones: without them the first hash after
        // a pause takes nearly twice as long, and each later one some 5 % longer. A kernel that
        // has none refuses, and all is well.
        map.advise(Advice::HugePage).unwrap_or_default();
        Ok(Self { map, touched: 0 })
    }

    /// The first `count` blocks, or as many as there are, with whatever the last hash has left.
    #[expect(
        unsafe_code,
        reason = "the crate has no safe way from bytes to its blocks"
    )]
    pub(super) fn blocks(&mut self, count: usize) -> &mut [Block] {
        // SAFETY: a block is an array of 128 u64, for which every pattern of bits is a value, and
        // the bytes are borrowed as long as the blocks.
        let (before, blocks, _) = unsafe { self.map.align_to_mut::<Block>() };
        // A mapping starts at a page, a block at a multiple of 64 bytes.
        debug_assert!(before.is_empty());
        let count = count.min(blocks.len());
        self.touched = self.touched.max(count);
        &mut blocks[..count]
    }

    /// Whether pages of the blocks from `first` on may be in use.
    pub(super) fn is_touched(&self, first: usize) -> bool {
        self.touched > first
    }

    /// Gives the pages of the blocks from `first` on back to the system; they read as zero then.
    #[expect(unsafe_code, reason = "the mapping's content changes under its owner")]
    pub(super) fn give_back(&mut self, first: usize) -> io::Result<()> {
        if self.touched <= first {
            return Ok(());
        }
        self.touched = first;
        // To the very end: the last huge page reaches beyond what was touched, and what is left of one
        // would be made whole again by the kernel.
        let (from, to) = (first * Block::SIZE, self.map.len());
        // SAFETY: nobody holds blocks meanwhile (`&mut self`), and nobody relies on what is in them.
        unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, from, to - from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_given_back_are_zero_and_can_be_used_again() {
        let mut arena = Arena::new(64 * Block::SIZE).expect("64 KiB can be mapped");
        assert!(!arena.is_touched(0));
        assert_eq!(arena.blocks(1000).len(), 64);
        arena
            .blocks(64)
            .iter_mut()
            .for_each(|block| block.as_mut().fill(7));
        arena.give_back(16).expect("it is mapped");
        assert!(arena.is_touched(15) && !arena.is_touched(16));
        let sum = |blocks: &[Block]| blocks.iter().flat_map(AsRef::as_ref).sum::<u64>();
        assert_eq!(sum(&arena.blocks(64)[..16]), 16 * 128 * 7);
        assert_eq!(sum(&arena.blocks(64)[16..]), 0);
        arena.give_back(0).expect("it is mapped");
        assert_eq!(sum(arena.blocks(64)), 0);
    }
}
