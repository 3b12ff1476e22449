//! A read: pin what is there, start what is missing, wait for the bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use tenderfs_byterange::ByteRange;

use crate::block::{BLOCK_BYTES, BlockRun, block_range, in_memory};
use crate::core::gather::SMALL_READ_BYTES_MAX;
use crate::core::{Core, READ_BYTES_MAX};
use crate::error::ReadError;
use crate::memory::NewBlock;
use crate::memory::frame::{Filler, Frame};
use crate::memory::gate::{Again, Line};
use crate::memory::slot::{Block, Remedy};
use crate::memory::zones::Zone;
use crate::object::Object;
use crate::source::{Class, Source};
use crate::view::{Piece, Pieces, Tier, View};

/// How often a read starts anew because a prediction it waited for has failed, or a task was
/// dropped. Its own fetches report their errors at once.
const ATTEMPTS_MAX: u32 = 8;

/// Blocks a reader holds. Dropping it tells who waits for frames.
pub(crate) struct Pins {
    blocks: SmallVec<[Arc<Block>; 2]>,
    core: Rc<Core>,
}

impl Pins {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        Self { blocks: SmallVec::new(), core: Rc::clone(core) }
    }

    pub(crate) fn push(&mut self, block: Arc<Block>) {
        self.blocks.push(block);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.blocks.clear();
        self.core.memory().frames_released();
    }
}

/// An absent block and the frame it will be filled into.
type Absent = (u32, (Arc<Frame>, Filler));

/// What one try to pin all blocks of a read came to.
enum Pinned {
    /// All blocks are pinned; those that were missing are on their way.
    All(Pins),
    /// There was no frame for a missing block. Nothing is held, and whoever waits for frames is
    /// yet to be told of what was given back.
    NoFrame,
}

impl Core {
    /// The view of `range` if all its bytes are in memory.
    pub(crate) fn hit(self: &Rc<Self>, object: &Arc<Object>, range: ByteRange) -> Option<View> {
        if range.end() > object.size_bytes() || range.len_bytes() > READ_BYTES_MAX {
            return None;
        }
        let Some(pieces) = self.pieces_in_memory(object, range) else {
            // The look may have pinned some for a moment.
            self.memory().frames_released();
            return None;
        };
        self.note_use(object);
        self.counters().memory_hits.inc();
        self.counters().memory_hit_bytes.add(range.len_bytes());
        Some(View::new(pieces, Tier::Memory, Rc::clone(self)))
    }

    fn pieces_in_memory(&self, object: &Object, range: ByteRange) -> Option<Pieces> {
        let mut pieces = Pieces::new();
        for index in BlockRun::covering(range).indices() {
            let bytes = bytes_in_block(object, range, index);
            let block = self.memory().get(object.block(index))?;
            if block.frame().filled_bytes() < bytes.end {
                return None;
            }
            pieces.push(Piece { block, bytes });
        }
        for piece in &pieces {
            self.memory().used(&piece.block);
        }
        Some(pieces)
    }

    /// The view of `range`, some of whose bytes are not in memory.
    pub(crate) async fn miss<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Result<View, ReadError> {
        let started = Instant::now();
        let result = self.read_below_memory(source, object, range).await;
        self.note_miss(object, range, started, &result);
        result
    }

    /// As [`Core::miss`], by granules where the disk has them.
    pub(crate) async fn miss_sparse<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Result<View, ReadError> {
        let started = Instant::now();
        let result = match self.read_granules(object, range).await {
            Some(view) => Ok(view),
            None => self.read_below_memory(source, object, range).await,
        };
        self.note_miss(object, range, started, &result);
        result
    }

    fn note_miss(
        &self,
        object: &Arc<Object>,
        range: ByteRange,
        started: Instant,
        result: &Result<View, ReadError>,
    ) {
        self.counters().reader_wait.observe(started.elapsed());
        let (hits, hit_bytes) = match result {
            Ok(view) if view.tier() == Tier::S3 => {
                (&self.counters().misses, &self.counters().miss_bytes)
            }
            Ok(view) if view.tier() == Tier::Disk => {
                (&self.counters().disk_hits, &self.counters().disk_hit_bytes)
            }
            Ok(_) => (&self.counters().memory_hits, &self.counters().memory_hit_bytes),
            Err(_) => return self.counters().read_errors.inc(),
        };
        hits.inc();
        hit_bytes.add(range.len_bytes());
        self.note_use(object);
    }

    async fn read_below_memory<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Result<View, ReadError> {
        check_range(object, range)?;
        for _ in 0..ATTEMPTS_MAX {
            let pins = self.pin_all(source, object, range).await?;
            let mut tier = Tier::Memory;
            let mut outcome = Ok(());
            for block in &pins.blocks {
                let need_bytes = bytes_in_block(object, range, block.id().index).end;
                if block.frame().filled_bytes() < need_bytes {
                    outcome = block.filled_to(need_bytes).await;
                    tier = tier.max(block.tier());
                }
                if outcome.is_err() {
                    break;
                }
            }
            match outcome {
                Ok(()) => return Ok(self.view(object, range, pins, tier)),
                Err(failure) if failure.remedy == Remedy::Refetch => (),
                Err(failure) => return Err(failure.error.into()),
            }
        }
        Err(ReadError::Unstable { attempts: ATTEMPTS_MAX })
    }

    fn view(
        self: &Rc<Self>,
        object: &Arc<Object>,
        range: ByteRange,
        mut pins: Pins,
        tier: Tier,
    ) -> View {
        let pieces = pins.blocks.drain(..).map(|block| {
            self.memory().used(&block);
            Piece { bytes: bytes_in_block(object, range, block.id().index), block }
        });
        View::new(pieces.collect(), tier, Rc::clone(self))
    }

    /// Pins all blocks of `range`, waiting for frames if need be.
    async fn pin_all<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Result<Pins, ReadError> {
        if !self.memory().gate().is_closed_for(Line::Demand)
            && let Pinned::All(pins) = self.try_pin(source, object, range)
        {
            return Ok(pins);
        }
        self.memory().frames_released();
        let started = Instant::now();
        self.counters().frame_waits.inc();
        let waiting = self.memory().gate().waiters();
        let Some(mut turn) = self.memory().gate().queue(Line::Demand) else {
            return Err(ReadError::Overloaded { waiting });
        };
        let mut again = Again::No;
        loop {
            turn.first(again).await;
            if let Pinned::All(pins) = self.try_pin(source, object, range) {
                self.counters().frame_wait.observe(started.elapsed());
                return Ok(pins);
            }
            turn.gave_back();
            again = Again::AfterRelease;
        }
    }

    /// Pins all blocks of `range` and starts those that are missing; all or nothing.
    fn try_pin<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Pinned {
        let mut here: SmallVec<[Arc<Block>; 2]> = SmallVec::new();
        let mut frames: SmallVec<[Absent; 2]> = SmallVec::new();
        for index in BlockRun::covering(range).indices() {
            if let Some(block) = self.memory().get(object.block(index)) {
                here.push(block);
                continue;
            }
            let len_bytes = in_memory(block_range(object.size_bytes(), index).len_bytes());
            match self.memory().take_frame(len_bytes, Zone::Hot) {
                Some(frame) => frames.push((index, frame)),
                None => return Pinned::NoFrame,
            }
        }
        let mut pins = Pins { blocks: here, core: Rc::clone(self) };
        if frames.is_empty() {
            self.counters().coalesced_waits.inc();
        }
        let mut started: Vec<NewBlock> = Vec::with_capacity(frames.len());
        for (index, frame) in frames {
            match self.memory().enter(object.block(index), frame, Class::Demand) {
                Ok(new) => {
                    pins.push(Arc::clone(&new.block));
                    started.push(new);
                }
                // Another core was faster.
                Err(block) => pins.push(block),
            }
        }
        pins.blocks.sort_unstable_by_key(|block| block.id().index);
        if range.len_bytes() <= SMALL_READ_BYTES_MAX {
            let is_absent = |new: &mut NewBlock| !self.is_on_disk(object, new.block.id().index);
            let absent: Vec<NewBlock> = started.extract_if(.., is_absent).collect();
            if !absent.is_empty() {
                self.gather(source, object, absent);
            }
        }
        self.bring(source, object, started, Class::Demand);
        Pinned::All(pins)
    }

    /// Notes for eviction from disk that the object is in use.
    pub(crate) fn note_use(&self, object: &Arc<Object>) {
        if let Some(disk) = self.disk() {
            let is_visit = object.touch(disk.now_ms());
            if is_visit {
                disk.visited(object.id(), object.size_bytes());
            }
        }
    }
}

/// The bytes of `range` in block `index`, as offsets in the block.
fn bytes_in_block(object: &Object, range: ByteRange, index: u32) -> std::ops::Range<usize> {
    let block_start = u64::from(index) * BLOCK_BYTES;
    let start = range.start().max(block_start) - block_start;
    let end = range.end().min(block_start + BLOCK_BYTES).min(object.size_bytes()) - block_start;
    in_memory(start)..in_memory(end)
}

fn check_range(object: &Object, range: ByteRange) -> Result<(), ReadError> {
    if range.end() > object.size_bytes() {
        return Err(ReadError::OutsideObject {
            start: range.start(),
            end: range.end(),
            size_bytes: object.size_bytes(),
        });
    }
    if range.len_bytes() > READ_BYTES_MAX {
        return Err(ReadError::TooLong { len_bytes: range.len_bytes(), max_bytes: READ_BYTES_MAX });
    }
    Ok(())
}
