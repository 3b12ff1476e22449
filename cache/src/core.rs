//! The cache on one core: reads, predictions, warming, and the tasks they start.
//!
//! Invariant: a reader that waits for a frame holds none; a reader that holds some waits only for
//! fills that have their frames already. So the holders always get on.

pub(crate) mod backing;
pub(crate) mod bring;
pub(crate) mod check;
pub(crate) mod files;
pub(crate) mod gather;
pub(crate) mod prefetch;
pub(crate) mod read;
pub(crate) mod sparse;
pub(crate) mod warm;
pub(crate) mod write;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use tenderfs_byterange::ByteRange;
use tokio::sync::Notify;

use crate::block::{BLOCK_BYTES, BlockRun, RUN_BLOCKS_MAX};
use crate::cache::Shared;
use crate::core::files::OpenFiles;
use crate::core::write::WriteQueue;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::memory::Memory;
use crate::object::Object;
use crate::source::{Class, Source};
use crate::view::View;

/// Most bytes of one read: what it pins fits into the smallest arena.
pub const READ_BYTES_MAX: u64 = RUN_BLOCKS_MAX as u64 * BLOCK_BYTES;

/// The cache on one core. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct CoreCache {
    core: Rc<Core>,
}

/// What became of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefetchOutcome {
    /// The fill of this many bytes has started; the rest was known or refused.
    Started {
        /// Bytes of the blocks whose fill has started.
        bytes: u64,
    },
    /// All blocks are in memory or on their way.
    Known,
    /// Nothing was started, for want of budget or of a frame that is not hot.
    Refused,
}

/// What warming one object took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warmed {
    /// Bytes brought from the source.
    pub fetched_bytes: u64,
    /// Bytes that were there already.
    pub skipped_bytes: u64,
    /// Bytes of `fetched_bytes` and `skipped_bytes` that are in memory only, because the disk tier
    /// had no room for them, is off or does not exist.
    pub memory_only_bytes: u64,
}

/// What the tasks of one core share.
pub(crate) struct Core {
    shared: Arc<Shared>,
    files: RefCell<OpenFiles>,
    writes: RefCell<WriteQueue>,
    /// Tasks of this core that have not ended.
    tasks: Cell<usize>,
    idle: Notify,
}

impl CoreCache {
    pub(crate) fn of(core: Rc<Core>) -> Self {
        Self { core }
    }

    /// The bytes of `range`, which must lie within the object. Nothing is awaited if all of them
    /// are in memory. Bytes that no tier has are fetched by `source`, by a task that goes on if
    /// this future is dropped.
    pub async fn read<S: Source>(
        &self,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Result<View, ReadError> {
        if let Some(view) = self.core.hit(object, range) {
            return Ok(view);
        }
        self.core.miss(source, object, range).await
    }

    /// The bytes of `range` if all of them are in memory; nothing is started otherwise.
    pub fn hit(&self, object: &Arc<Object>, range: ByteRange) -> Option<View> {
        self.core.hit(object, range)
    }

    /// As [`CoreCache::read`], for a reader that jumps: of a block that is on disk and not in
    /// memory, only the granules of `range` are read, and nothing of them is kept.
    pub async fn read_sparse<S: Source>(
        &self,
        source: &S,
        object: &Arc<Object>,
        range: ByteRange,
    ) -> Result<View, ReadError> {
        if let Some(view) = self.core.hit(object, range) {
            return Ok(view);
        }
        self.core.miss_sparse(source, object, range).await
    }

    /// Starts bringing `blocks` into memory because `class` predicts their use. Never waits: what
    /// finds no budget, or no frame without evicting a hot block, is refused. Blocks behind the
    /// end of the object are ignored.
    pub fn prefetch<S: Source>(
        &self,
        source: &S,
        object: &Arc<Object>,
        blocks: BlockRun,
        class: Class,
    ) -> PrefetchOutcome {
        self.core.prefetch(source, object, blocks, class)
    }

    /// How many more blocks can be predicted before the oldest of them that nobody has read yet has to
    /// leave.
    pub fn prefetch_room_blocks(&self) -> u32 {
        let blocks = self.core.memory().prefetch_room_bytes() as u64 / BLOCK_BYTES;
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    /// Brings all blocks of the object to disk, or to memory if there is no disk tier, and returns
    /// when they are there. Waits for frames behind all readers, and for the disk.
    pub async fn warm<S: Source>(
        &self,
        source: &S,
        object: &Arc<Object>,
    ) -> Result<Warmed, ReadError> {
        self.core.warm(source, object).await
    }

    /// Waits until every fill and disk write this core started has ended.
    pub async fn drain(&self) {
        loop {
            // Registered before the look, so that the end of the last task is not missed.
            let idle = self.core.idle.notified();
            if self.core.tasks.get() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let core = Rc::new(Self {
            shared,
            files: RefCell::new(OpenFiles::new()),
            writes: RefCell::new(WriteQueue::default()),
            tasks: Cell::new(0),
            idle: Notify::new(),
        });
        files::close_evicted(&core);
        core
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.shared.disk()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Runs `task` on this core; [`CoreCache::drain`] waits for it.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let running = Running::new(self);
        // Detached: whoever waits for the task's work is told by guards that the task owns.
        drop(tokio_uring::spawn(async move {
            task.await;
            drop(running);
        }));
    }
}

/// Counts a task until it ends or is dropped.
struct Running {
    core: Rc<Core>,
}

impl Running {
    fn new(core: &Rc<Core>) -> Self {
        core.tasks.set(core.tasks.get() + 1);
        Self { core: Rc::clone(core) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let left = self.core.tasks.get() - 1;
        self.core.tasks.set(left);
        if left == 0 {
            self.core.idle.notify_waiters();
        }
    }
}
