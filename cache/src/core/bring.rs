//! Bringing absent blocks into their frames: from disk if they are there, else from the source.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tenderfs_byterange::ByteRange;

use crate::block::{BLOCK_BYTES, RUN_BLOCKS_MAX, block_range, in_memory, run_range};
use crate::core::Core;
use crate::core::files::read_part;
use crate::disk::Disk;
use crate::disk::stored::Stored;
use crate::disk::verified::FileStamp;
use crate::fill::{FillSink, Part};
use crate::memory::NewBlock;
use crate::memory::frame::Publish;
use crate::object::Object;
use crate::runs::coalesce;
use crate::settings::Verify;
use crate::source::{Class, Source};
use crate::sums::{self, SUM_BYTES};
use crate::view::Tier;

/// Bytes of one disk read: several are under way at once, and a reader is served after the first.
const DISK_READ_BYTES: usize = 1 << 20;

const _: () =
    assert!(DISK_READ_BYTES.is_multiple_of(SUM_BYTES), "parts are verified by themselves");

/// Why a block on disk was of no use.
pub(crate) enum Unusable {
    /// It is not there any more, or the disk is off.
    Absent,
    /// The disk did not read it.
    Failed(std::io::Error),
    /// The file is missing or shorter than the catalogue says.
    Short,
    /// The bytes are not those that were written.
    Damaged,
}

impl Core {
    /// Starts the fills of `new` blocks, in rising order: one task per block that is on disk, one
    /// per run of adjacent others.
    pub(crate) fn bring<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        new: Vec<NewBlock>,
        class: Class,
    ) {
        let parts = new.into_iter().map(|new| Part::new(new, None)).collect();
        self.bring_parts(source, object, parts, class);
    }

    /// As [`Core::bring`], for parts that may carry orders of warming.
    pub(crate) fn bring_parts<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        parts: Vec<Part>,
        class: Class,
    ) {
        let (on_disk, absent): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| self.is_on_disk(object, part.block.id().index));
        for part in on_disk {
            part.block.set_tier(Tier::Disk);
            let (core, source, object) = (Rc::clone(self), source.clone(), Arc::clone(object));
            self.spawn(async move { core.load_block(source, object, part, class).await });
        }
        let runs = coalesce(absent.iter().map(|part| part.block.id().index), RUN_BLOCKS_MAX);
        let mut absent = absent.into_iter();
        for run in runs {
            debug_assert!(run.len_blocks() <= RUN_BLOCKS_MAX);
            let parts: Vec<Part> = absent.by_ref().take(run.len_blocks() as usize).collect();
            let range = run_range(object.size_bytes(), run);
            let (core, source, object) = (Rc::clone(self), source.clone(), Arc::clone(object));
            let sink = FillSink::new(Rc::clone(self), Arc::clone(&object), parts);
            self.spawn(async move { core.fetch_run(&source, &object, (range, class), sink).await });
        }
    }

    /// Whether the disk tier has block `index`.
    pub(crate) fn is_on_disk(&self, object: &Object, index: u32) -> bool {
        self.disk().is_some_and(|disk| disk.has_block(object.id(), index))
    }

    /// Asks the source for the blocks of `sink`.
    pub(crate) async fn fetch_run<S: Source>(
        &self,
        source: &S,
        object: &Arc<Object>,
        (range, class): (ByteRange, Class),
        mut sink: FillSink,
    ) {
        let counters = self.counters();
        counters.fetches.inc();
        counters.fetched_blocks.add(range.len_bytes().div_ceil(BLOCK_BYTES));
        counters.fetches_in_flight.add(1);
        let in_flight = InFlight { core: self };
        let result = source.fetch(object, range, class, &mut sink).await;
        drop(in_flight);
        if let Err(error) = sink.settle(result) {
            counters.fetch_errors.inc();
            tracing::debug!(%error, object = %object.id(), %range, "fetch failed");
        }
    }

    /// One block from disk; what the disk cannot give comes from the source.
    async fn load_block<S: Source>(
        self: Rc<Self>,
        source: S,
        object: Arc<Object>,
        part: Part,
        class: Class,
    ) {
        let index = part.block.id().index;
        // A sink from the start: it settles the block if this task is dropped.
        let mut rescue =
            Rescue { core: Rc::clone(&self), object: Arc::clone(&object), part: Some(part) };
        let started = Instant::now();
        let stored = self.disk().and_then(|disk| disk.find(object.id()));
        let result = match (stored, rescue.part.as_mut()) {
            (Some(stored), Some(part)) => {
                let result = self.read_block(&stored, part).await;
                self.note_disk_read(&stored, index, &result);
                result
            }
            _ => Err(Unusable::Absent),
        };
        let Some(mut part) = rescue.part.take() else { return };
        if result.is_ok() {
            self.counters().disk_read.observe(started.elapsed());
            return self.loaded(part);
        }
        part.block.set_tier(Tier::S3);
        let block_range = block_range(object.size_bytes(), index);
        let filled_bytes = part.block.frame().filled_bytes() as u64;
        // Parts of the block that were right have been shown to readers: the rest follows them.
        part.sums.update(part.block.frame().filled());
        let rest = block_range.from(block_range.start() + filled_bytes).unwrap_or(block_range);
        let sink = FillSink::new(Rc::clone(&self), Arc::clone(&object), vec![part]);
        self.fetch_run(&source, &object, (rest, class), sink).await;
    }

    /// Ends the fill of a block that came from disk.
    fn loaded(&self, part: Part) {
        let Part { block, filler, sums: _, budget, order } = part;
        self.counters().disk_read_blocks.inc();
        self.counters().disk_read_bytes.add(block.frame().len_bytes() as u64);
        filler.seal();
        block.announce();
        drop((block, budget));
        if let Some(order) = order {
            order.end(crate::core::write::Written::OnDisk);
        }
        self.memory().frames_released();
    }

    async fn read_block(&self, stored: &Stored, part: &mut Part) -> Result<FileStamp, Unusable> {
        let disk = self.disk().ok_or(Unusable::Absent)?;
        let index = part.block.id().index;
        if !disk.may_read() || !stored.is_present(index) {
            return Err(Unusable::Absent);
        }
        let expected = self.expected_sums(stored, index)?;
        let file = self.open_stored(stored).await.map_err(unusable)?;
        let block_offset = stored.offset() + u64::from(index) * BLOCK_BYTES;
        let mut reads: FuturesOrdered<_> = part
            .filler
            .lend(DISK_READ_BYTES)
            .into_iter()
            .map(|lent| read_part(&file, lent, block_offset))
            .collect();
        let mut outcome = Ok(());
        // All parts are taken back, whatever happened to the first: the frame is the filler's again.
        while let Some((result, lent)) = reads.next().await {
            let first_sum = lent.start() / SUM_BYTES;
            let right = || match &expected {
                None => disk.is_current(stored),
                Some(expected) => {
                    let count = sums::count(lent.block_bytes());
                    sums::verify(lent.bytes(), &expected[first_sum..first_sum + count])
                }
            };
            match result {
                Ok(()) if outcome.is_ok() && right() => {
                    part.filler.take_back(lent, Publish::Yes);
                    part.block.announce();
                    continue;
                }
                Ok(()) => outcome = outcome.and(Err(wrong(disk, stored))),
                Err(error) => outcome = outcome.and(Err(unusable(error))),
            }
            part.filler.take_back(lent, Publish::No);
        }
        if outcome.is_ok()
            && let Some(expected) = expected
        {
            part.block.set_sums(expected);
        }
        outcome.map(|()| file.stamp())
    }

    /// The checksums that block `index` must have; `None` if the disk is trusted.
    pub(crate) fn expected_sums(
        &self,
        stored: &Stored,
        index: u32,
    ) -> Result<Option<Arc<[u32]>>, Unusable> {
        let disk = self.disk().ok_or(Unusable::Absent)?;
        if self.shared().settings.verify == Verify::Never {
            return Ok(None);
        }
        let found = disk.sums(stored, index).ok_or_else(|| wrong(disk, stored))?;
        let len_bytes = in_memory(block_range(stored.size_bytes(), index).len_bytes());
        if found.len() != sums::count(len_bytes) {
            return Err(Unusable::Damaged);
        }
        Ok(Some(found))
    }

    /// Counts how the read of a whole block from disk went.
    fn note_disk_read(&self, stored: &Stored, index: u32, result: &Result<FileStamp, Unusable>) {
        match result {
            Ok(stamp) => {
                if let Some(disk) = self.disk() {
                    disk.read_succeeded(stored, index, *stamp);
                }
            }
            Err(unusable) => self.note_unusable(stored, index, unusable),
        }
    }

    /// Counts a block on disk that was of no use, and drops from the index what was not right.
    pub(crate) fn note_unusable(&self, stored: &Stored, index: u32, unusable: &Unusable) {
        let Some(disk) = self.disk() else { return };
        match unusable {
            Unusable::Absent => (),
            Unusable::Failed(error) => {
                self.counters().disk_read_errors.inc();
                disk.read_failed(stored, index, error);
                self.close_stored(stored);
            }
            Unusable::Short => {
                self.counters().records_dropped.inc();
                disk.drop_object(stored);
                self.close_stored(stored);
            }
            Unusable::Damaged => {
                self.counters().verify_mismatches.inc();
                disk.drop_block(stored, index);
            }
        }
    }
}

/// What bytes of `stored` that are not those expected come to: it may have gone meanwhile.
pub(crate) fn wrong(disk: &Disk, stored: &Stored) -> Unusable {
    if disk.is_current(stored) { Unusable::Damaged } else { Unusable::Absent }
}

pub(crate) fn unusable(error: std::io::Error) -> Unusable {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof => Unusable::Short,
        _ => Unusable::Failed(error),
    }
}

/// Counts a fetch down when it ends or is dropped.
struct InFlight<'a> {
    core: &'a Core,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.core.counters().fetches_in_flight.add(-1);
    }
}

/// Holds the part of a disk read; if the task is dropped, the block is settled as failed.
struct Rescue {
    core: Rc<Core>,
    object: Arc<Object>,
    part: Option<Part>,
}

impl Drop for Rescue {
    fn drop(&mut self) {
        if let Some(part) = self.part.take() {
            drop(FillSink::new(Rc::clone(&self.core), Arc::clone(&self.object), vec![part]));
        }
    }
}
