//! Reads by a reader that jumps: of a block that is on disk, only the granules that it asks for.
//!
//! What is read this way belongs to its reader alone and is not entered in the directory: a part of
//! a block in memory would have to be told apart from a block that is being filled.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use smallvec::SmallVec;
use tenderfs_byterange::ByteRange;

use crate::block::{BLOCK_BYTES, BlockId, BlockRun, block_range, in_memory};
use crate::core::Core;
use crate::core::bring::{Unusable, unusable, wrong};
use crate::core::files::read_part;
use crate::disk::stored::Stored;
use crate::memory::buddy::CHUNK_BYTES;
use crate::memory::frame::{Filler, Publish};
use crate::memory::zones::Zone;
use crate::object::Object;
use crate::sums::{self, SUM_BYTES};
use crate::view::{Piece, Pieces, Tier, View};

/// Longest part of a block that is read by itself. A longer one is most of the block, which other
/// readers may want.
const PART_BYTES_MAX: usize = CHUNK_BYTES / 2;

/// A part of one block, whole granules but for the end of the object.
struct GranuleRun {
    index: u32,
    /// Offsets in the block.
    bytes: std::ops::Range<usize>,
    /// What was asked for, as offsets in `bytes`.
    asked: std::ops::Range<usize>,
}

/// The parts of one read: a read of up to 1 MiB touches two blocks at most.
type GranuleRuns = SmallVec<[GranuleRun; 2]>;

impl GranuleRun {
    /// The granules of `range`, block by block, if they are small parts of at most two blocks.
    fn covering(object_bytes: u64, range: ByteRange) -> Option<GranuleRuns> {
        let run = BlockRun::covering(range);
        if run.len_blocks() > 2 || range.end() > object_bytes {
            return None;
        }
        run.indices().map(|index| Self::in_block(object_bytes, index, range)).collect()
    }

    fn in_block(object_bytes: u64, index: u32, range: ByteRange) -> Option<Self> {
        let block = block_range(object_bytes, index);
        let range = range.intersect(block)?;
        let start = in_memory(range.start() - block.start());
        let end = in_memory(range.end() - block.start());
        let first = start / SUM_BYTES * SUM_BYTES;
        let last = end.next_multiple_of(SUM_BYTES).min(in_memory(block.len_bytes()));
        (last - first <= PART_BYTES_MAX).then(|| Self {
            index,
            bytes: first..last,
            asked: start - first..end - first,
        })
    }

    fn sums(&self) -> std::ops::Range<usize> {
        let first = self.bytes.start / SUM_BYTES;
        first..first + sums::count(self.bytes.len())
    }
}

impl Core {
    /// The view of `range` read by itself from disk. `None` if memory has a block of it or it is on
    /// its way, the disk does not have it, there is no frame to spare, or what the disk gave was
    /// not right: then the read takes the way of all others.
    pub(crate) async fn read_granules(
        self: &Rc<Self>,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Option<View> {
        let disk = self.disk()?;
        let runs = GranuleRun::covering(object.size_bytes(), range)?;
        let in_memory = |run: &GranuleRun| self.memory().has(object.block(run.index));
        if !disk.may_read() || runs.iter().any(in_memory) {
            return None;
        }
        let stored = disk.find(object.id())?;
        if !runs.iter().all(|run| stored.is_present(run.index)) {
            return None;
        }
        let pieces = join_all(runs.into_iter().map(|run| self.piece(&stored, run))).await;
        let pieces: Option<Pieces> = pieces.into_iter().collect();
        if pieces.is_none() {
            // What was read of the others is let go of.
            self.memory().frames_released();
        }
        Some(View::new(pieces?, Tier::Disk, Rc::clone(self)))
    }

    async fn piece(&self, stored: &Stored, run: GranuleRun) -> Option<Piece> {
        let (frame, mut filler) = self.memory().take_frame(run.bytes.len(), Zone::Hot)?;
        let started = Instant::now();
        let result = self.fill_granules(stored, &run, &mut filler).await;
        if let Err(unusable) = result {
            self.note_unusable(stored, run.index, &unusable);
            return None;
        }
        if let Some(disk) = self.disk() {
            disk.part_read_succeeded(stored);
        }
        self.counters().disk_read.observe(started.elapsed());
        self.counters().disk_read_bytes.add(run.bytes.len() as u64);
        let id = BlockId { object: stored.id(), index: run.index };
        Some(Piece { block: self.memory().unlisted(id, frame), bytes: run.asked })
    }

    async fn fill_granules(
        &self,
        stored: &Stored,
        run: &GranuleRun,
        filler: &mut Filler,
    ) -> Result<(), Unusable> {
        let disk = self.disk().ok_or(Unusable::Absent)?;
        let expected = self.expected_sums(stored, run.index)?;
        let file = self.open_stored(stored).await.map_err(unusable)?;
        let offset = stored.offset() + u64::from(run.index) * BLOCK_BYTES + run.bytes.start as u64;
        let part_bytes = run.bytes.len().next_multiple_of(SUM_BYTES);
        // One part, as long as the frame.
        for lent in filler.lend(part_bytes) {
            let (result, lent) = read_part(&file, lent, offset).await;
            let right = || match &expected {
                None => disk.is_current(stored),
                Some(sums) => {
                    let sums = sums.get(run.sums()).unwrap_or_default();
                    sums::verify(lent.bytes(), sums)
                }
            };
            let (outcome, publish) = match result {
                Ok(()) if right() => (Ok(()), Publish::Yes),
                Ok(()) => (Err(wrong(disk, stored)), Publish::No),
                Err(error) => (Err(unusable(error)), Publish::No),
            };
            filler.take_back(lent, publish);
            outcome?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Index, then offsets of the granules and of what was asked for in them.
    #[track_caller]
    fn check(size_bytes: u64, (start, end): (u64, u64), expected: Option<&[(u32, [usize; 4])]>) {
        let range = ByteRange::at(start, end - start).unwrap();
        let figures = |run: GranuleRun| {
            let (bytes, asked) = (run.bytes, run.asked);
            (run.index, [bytes.start, bytes.end, asked.start, asked.end])
        };
        let runs = GranuleRun::covering(size_bytes, range);
        let runs = runs.map(|runs| runs.into_iter().map(figures).collect::<Vec<_>>());
        assert_eq!(runs.as_deref(), expected, "{start}..{end} of {size_bytes}");
    }

    #[test]
    fn a_small_read_takes_the_granules_it_touches() {
        let (granule, block) = (SUM_BYTES as u64, BLOCK_BYTES);
        let one = SUM_BYTES;
        check(2 * block, (0, 1), Some(&[(0, [0, one, 0, 1])]));
        check(2 * block, (granule - 1, granule + 1), Some(&[(0, [0, 2 * one, one - 1, one + 1])]));
        let (start, end) = (block + granule, block + granule + 100);
        check(2 * block, (start, end), Some(&[(1, [one, 2 * one, 0, 100])]));
    }

    #[test]
    fn a_read_across_two_blocks_takes_granules_of_both() {
        let (all, one) = (CHUNK_BYTES, SUM_BYTES);
        check(
            2 * BLOCK_BYTES,
            (BLOCK_BYTES - 1, BLOCK_BYTES + 1),
            Some(&[(0, [all - one, all, one - 1, one]), (1, [0, one, 0, 1])]),
        );
        check(3 * BLOCK_BYTES, (BLOCK_BYTES - 1, 2 * BLOCK_BYTES + 1), None);
    }

    #[test]
    fn the_last_granule_ends_with_the_object() {
        check(1000, (10, 20), Some(&[(0, [0, 1000, 10, 20])]));
        check(
            BLOCK_BYTES + 70_000,
            (BLOCK_BYTES + 66_000, BLOCK_BYTES + 70_000),
            Some(&[(1, [SUM_BYTES, 70_000, 464, 4464])]),
        );
    }

    #[test]
    fn a_read_of_most_of_a_block_is_none_of_these() {
        check(2 * BLOCK_BYTES, (0, BLOCK_BYTES / 2 + 1), None);
        check(2 * BLOCK_BYTES, (0, BLOCK_BYTES / 2), Some(&[(0, [0, 2 << 20, 0, 2 << 20])]));
        check(1000, (0, 1001), None);
    }
}
