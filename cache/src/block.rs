//! How an object is cut into blocks, and runs of blocks.

use std::ops::Range;

use tenderfs_byterange::ByteRange;

use crate::version::ObjectId;

/// Bytes of a block: the unit that is fetched, kept, written and evicted. The last block of an
/// object is shorter.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// Blocks of the longest run that is fetched by one request (16 MiB).
pub const RUN_BLOCKS_MAX: u32 = 4;

/// One block of one object version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The object version.
    pub object: ObjectId,
    /// Number of the block in the object, from 0.
    pub index: u32,
}

/// Adjacent blocks of an object, never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    first: u32,
    end: u32,
}

impl BlockRun {
    /// The blocks `indices`; `None` if there are none.
    pub const fn new(indices: Range<u32>) -> Option<Self> {
        if indices.start < indices.end {
            Some(Self { first: indices.start, end: indices.end })
        } else {
            None
        }
    }

    /// The blocks that hold `range`. A range that ends beyond block `u32::MAX` (16 PiB, far above
    /// the largest object) is cut there.
    pub fn covering(range: ByteRange) -> Self {
        let first = u32::try_from(range.start() / BLOCK_BYTES).unwrap_or(u32::MAX - 1);
        let last = u32::try_from(range.last() / BLOCK_BYTES).unwrap_or(u32::MAX - 1);
        Self { first, end: last.min(u32::MAX - 1) + 1 }
    }

    /// The first block.
    pub const fn first(self) -> u32 {
        self.first
    }

    /// The block behind the last one.
    pub const fn end(self) -> u32 {
        self.end
    }

    /// Number of blocks, at least 1.
    pub const fn len_blocks(self) -> u32 {
        self.end - self.first
    }

    /// The blocks in order.
    pub const fn indices(self) -> Range<u32> {
        self.first..self.end
    }

    /// The part of the run below block `end`; `None` if nothing is.
    pub fn below(self, end: u32) -> Option<Self> {
        Self::new(self.first..self.end.min(end))
    }
}

/// Number of blocks of an object of `size_bytes`; 0 for an empty one.
pub(crate) fn block_count(size_bytes: u64) -> u32 {
    u32::try_from(size_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

/// The bytes of block `index` of an object of `size_bytes`.
///
/// # Panics
/// If the object has no such block, which is a bug of the caller.
pub(crate) fn block_range(size_bytes: u64, index: u32) -> ByteRange {
    let start = u64::from(index) * BLOCK_BYTES;
    let end = (start + BLOCK_BYTES).min(size_bytes);
    match ByteRange::new(start, end) {
        Some(range) => range,
        None => panic!("block {index} lies outside an object of {size_bytes} bytes"),
    }
}

/// The bytes of the blocks `run` of an object of `size_bytes`.
pub(crate) fn run_range(size_bytes: u64, run: BlockRun) -> ByteRange {
    let first = block_range(size_bytes, run.first());
    let last = block_range(size_bytes, run.end() - 1);
    match ByteRange::new(first.start(), last.end()) {
        Some(range) => range,
        None => first,
    }
}

/// Bytes of a block or of a piece of one as memory counts them.
///
/// # Panics
/// If they do not fit, which a block of 4 MiB always does.
pub(crate) fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes)
        .unwrap_or_else(|_| panic!("{bytes} bytes do not fit into this machine's memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_an_object_without_gap_or_overlap() {
        for size_bytes in [1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 7] {
            let mut next = 0;
            for index in 0..block_count(size_bytes) {
                let range = block_range(size_bytes, index);
                assert_eq!(range.start(), next);
                next = range.end();
            }
            assert_eq!(next, size_bytes);
        }
        assert_eq!(block_count(0), 0);
    }

    #[test]
    fn a_run_covers_every_byte_of_its_range() {
        for (start, end, blocks) in [
            (0, 1, 0..1),
            (BLOCK_BYTES - 1, BLOCK_BYTES + 1, 0..2),
            (BLOCK_BYTES, 2 * BLOCK_BYTES, 1..2),
            (3 * BLOCK_BYTES + 5, 5 * BLOCK_BYTES + 1, 3..6),
        ] {
            let run = BlockRun::covering(ByteRange::new(start, end).unwrap());
            assert_eq!(run.indices(), blocks);
        }
    }
}
