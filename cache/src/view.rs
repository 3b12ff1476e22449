//! Bytes of a read, pinned in memory.

use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::Core;
use crate::memory::slot::Block;

/// The slowest place that bytes of a read came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Memory, without waiting.
    Memory,
    /// The disk tier.
    Disk,
    /// The source.
    S3,
}

/// A part of one pinned block.
pub(crate) struct Piece {
    pub(crate) block: Arc<Block>,
    pub(crate) bytes: Range<usize>,
}

/// The pieces of one read: a read of up to 1 MiB touches two blocks at most.
pub(crate) type Pieces = SmallVec<[Piece; 2]>;

/// The bytes of one read. Their frames stay in memory until the view is dropped, so drop it soon.
pub struct View {
    pieces: Pieces,
    tier: Tier,
    core: Rc<Core>,
}

impl View {
    pub(crate) fn new(pieces: Pieces, tier: Tier, core: Rc<Core>) -> Self {
        Self { pieces, tier, core }
    }

    /// Number of bytes; what the read asked for.
    pub fn len_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes.len()).sum()
    }

    /// The bytes in order, in as few pieces as blocks were touched.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| &piece.block.frame().filled()[piece.bytes.clone()])
    }

    /// The bytes in order, ready for a vectored write.
    pub fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        self.slices().map(IoSlice::new)
    }

    /// The slowest tier that served a byte of it.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// A copy of the bytes, for tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        self.slices().for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // First the pins, then the news: a reader that waits for a frame must find them gone.
        self.pieces.clear();
        self.core.memory().frames_released();
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("len_bytes", &self.len_bytes())
            .field("tier", &self.tier)
            .finish_non_exhaustive()
    }
}
