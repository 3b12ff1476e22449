//! Blocks on their way to disk.
//!
//! A block that has arrived is pinned until it is written, within the backlog that the arena can
//! spare. Beyond it the block is remembered without a pin and written later, if memory still has
//! it: a disk slower than the network costs readers no frames.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::block::BLOCK_BYTES;
use crate::core::Core;
use crate::core::files::{Create, write_all};
use crate::disk::Disk;
use crate::disk::index::Newcomer;
use crate::disk::object::{Claim, DiskObject};
use crate::disk::space::{Reservation, Verdict};
use crate::disk::stored::Stored;
use crate::memory::buddy::GRANULE_BYTES;
use crate::memory::frame::Outgoing;
use crate::memory::slot::Block;
use crate::object::Object;
use crate::source::{Class, SourceError};

/// Blocks that one core writes at once.
const WRITERS_MAX: usize = 4;

/// Blocks of one core that are remembered without a pin.
const DEFERRED_MAX: usize = 16 * 1024;

/// How long a write waits for the space of evicted files that are still open elsewhere.
const RELEASE_WAIT: Duration = Duration::from_secs(1);

/// How often a write asks for space before it gives up.
const SPACE_TRIES: u32 = 3;

/// What became of a block that warming waits for.
#[derive(Clone, Debug)]
pub(crate) enum Written {
    /// It is on disk.
    OnDisk,
    /// It is in memory only.
    MemoryOnly,
    /// It did not come.
    Failed(SourceError),
}

/// What warming wants of a block's way to disk.
pub(crate) struct WriteOrder {
    /// The block's part of the backlog, taken before its fetch.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    pub(crate) done: oneshot::Sender<Written>,
}

impl WriteOrder {
    /// Tells who waits. If nobody does any more, that is fine.
    pub(crate) fn end(self, written: Written) {
        drop(self.done.send(written));
    }
}

/// The blocks of one core that wait for the disk.
#[derive(Default)]
pub(crate) struct WriteQueue {
    held: VecDeque<Job>,
    deferred: VecDeque<Deferred>,
    /// Writers at work; the one that waits for the backlog is not.
    writers: usize,
    /// Whether a writer waits for room in the backlog for a deferred block.
    is_waiting: bool,
}

/// A block that is written if memory still has it when its turn comes.
struct Deferred {
    block: Weak<Block>,
    object: Arc<Object>,
    granules: u32,
}

struct Job {
    block: Arc<Block>,
    object: Arc<Object>,
    permit: Option<OwnedSemaphorePermit>,
    done: Option<oneshot::Sender<Written>>,
}

impl Core {
    /// Takes a full block to disk in the background.
    pub(crate) fn write_to_disk(
        self: &Rc<Self>,
        block: Arc<Block>,
        object: &Arc<Object>,
        order: Option<WriteOrder>,
    ) {
        let (permit, done) = match order {
            Some(WriteOrder { permit, done }) => (permit, Some(done)),
            None => (None, None),
        };
        let Some(disk) = self.disk() else {
            if let Some(done) = done {
                drop(done.send(Written::MemoryOnly));
            }
            return;
        };
        // What is not worth its place takes no part of the backlog.
        if done.is_none() && !is_admitted(disk, &block, object) {
            self.counters().disk_write_refused.inc();
            return;
        }
        let granules = backlog_granules(block.frame().len_bytes());
        let backlog = Arc::clone(&self.shared().write_backlog);
        let permit = permit.or_else(|| backlog.try_acquire_many_owned(granules).ok());
        let mut writes = self.writes.borrow_mut();
        if permit.is_some() || done.is_some() {
            writes.held.push_back(Job { block, object: Arc::clone(object), permit, done });
        } else if writes.deferred.len() < DEFERRED_MAX {
            self.counters().disk_write_deferred.inc();
            let (block, object) = (Arc::downgrade(&block), Arc::clone(object));
            writes.deferred.push_back(Deferred { block, object, granules });
        } else {
            self.counters().disk_write_skipped.inc();
        }
        drop(writes);
        self.start_writers();
    }

    fn start_writers(self: &Rc<Self>) {
        loop {
            {
                let mut writes = self.writes.borrow_mut();
                let deferred = if writes.is_waiting { 0 } else { writes.deferred.len() };
                let work = writes.held.len() + deferred;
                if writes.writers >= WRITERS_MAX.min(work) {
                    return;
                }
                writes.writers += 1;
            }
            let writer = Writer { core: Rc::clone(self) };
            self.spawn(async move { writer.run().await });
        }
    }

    /// The next block to write; `None` if there is none for this writer.
    async fn next_write(self: &Rc<Self>) -> Option<Job> {
        loop {
            let held = self.writes.borrow_mut().held.pop_front();
            if held.is_some() {
                return held;
            }
            let (deferred, waiting) = Waiting::start(self)?;
            // Pinned only once there is room for it: until then memory may let go of it.
            let backlog = Arc::clone(&self.shared().write_backlog);
            let permit = backlog.acquire_many_owned(deferred.granules).await.ok();
            drop(waiting);
            self.start_writers();
            match deferred.block.upgrade() {
                Some(block) => {
                    return Some(Job { block, object: deferred.object, permit, done: None });
                }
                None => self.counters().disk_write_skipped.inc(),
            }
        }
    }
}

/// A writer that waits for room in the backlog. It is one at most, and not counted as at work:
/// blocks that have their room may be what it waits for, and need a writer.
struct Waiting {
    core: Rc<Core>,
}

impl Waiting {
    /// Takes the next deferred block; `None` if there is none, or another writer waits.
    fn start(core: &Rc<Core>) -> Option<(Deferred, Self)> {
        let mut writes = core.writes.borrow_mut();
        if writes.is_waiting {
            return None;
        }
        let deferred = writes.deferred.pop_front()?;
        writes.is_waiting = true;
        writes.writers -= 1;
        Some((deferred, Self { core: Rc::clone(core) }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut writes = self.core.writes.borrow_mut();
        writes.is_waiting = false;
        writes.writers += 1;
    }
}

/// One of a core's writers; counted down when it ends or is dropped.
struct Writer {
    core: Rc<Core>,
}

impl Writer {
    async fn run(self) {
        while let Some(job) = self.core.next_write().await {
            let Job { block, object, permit, done } = job;
            let newcomer = match &done {
                Some(_) => Newcomer::Asked(object.id()),
                None => Newcomer::Rival(object.id()),
            };
            let written = self.core.write_block(&block, &object, newcomer).await;
            let to_drop = matches!(written, Written::OnDisk)
                && block.class() == Class::Background
                && !block.is_used();
            let id = block.id();
            drop((block, permit));
            if to_drop {
                // Nobody has asked for it yet: read-ahead needs the frame more.
                self.core.memory().evict(id);
            }
            self.core.memory().frames_released();
            if let Some(done) = done {
                drop(done.send(written));
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.core.writes.borrow_mut().writers -= 1;
    }
}

impl Core {
    async fn write_block(
        &self,
        block: &Arc<Block>,
        object: &Arc<Object>,
        newcomer: Newcomer,
    ) -> Written {
        let (Some(disk), Some(sums)) = (self.disk(), block.sums()) else {
            return Written::MemoryOnly;
        };
        let index = block.id().index;
        if !disk.may_write() {
            self.counters().disk_write_skipped.inc();
            return Written::MemoryOnly;
        }
        let newcomer = match newcomer {
            Newcomer::Rival(id) if disk.is_to_stay(object) => Newcomer::Asked(id),
            other => other,
        };
        if matches!(newcomer, Newcomer::Rival(_)) && !is_admitted(disk, block, object) {
            self.counters().disk_write_refused.inc();
            return Written::MemoryOnly;
        }
        match disk.find(object.id()) {
            Some(Stored::Packed(_)) => return Written::OnDisk,
            None if disk.packs(object.size_bytes()) => {
                return self.write_packed((block, sums), object, newcomer).await;
            }
            None | Some(Stored::File(_)) => {}
        }
        let claimed =
            disk.object(object).map(|disk_object| (disk_object.claim(index), disk_object));
        let (claim, disk_object) = match claimed {
            Some((Claim::Present, _)) => return Written::OnDisk,
            Some((Claim::Yours(claim), disk_object)) => (claim, disk_object),
            // It is being evicted, or another core writes this very block.
            Some((Claim::Taken, _)) | None => {
                self.counters().disk_write_skipped.inc();
                return Written::MemoryOnly;
            }
        };
        let stored_bytes = stored_bytes(block);
        let reservation = if claim.needs_space() {
            let Some(reservation) = self.reserve(disk, stored_bytes, newcomer).await else {
                self.counters().disk_write_skipped.inc();
                return Written::MemoryOnly;
            };
            Some(reservation)
        } else {
            None
        };
        let started = Instant::now();
        match self.write_frame(&disk_object, block).await {
            Ok(()) => {
                self.note_written(disk, block, started);
                if !claim.written(reservation, sums) {
                    return Written::MemoryOnly;
                }
                disk.catalogue(&disk_object, object.version(), index, sums).await;
                Written::OnDisk
            }
            Err(error) => {
                self.counters().disk_write_errors.inc();
                disk.write_failed(&error);
                self.close_file(&disk_object);
                // Part of it may have been allocated: it counts until the file goes.
                claim.failed(reservation);
                Written::MemoryOnly
            }
        }
    }

    /// Writes a small object to a pack.
    async fn write_packed(
        &self,
        (block, sums): (&Arc<Block>, &Arc<[u32]>),
        object: &Arc<Object>,
        newcomer: Newcomer,
    ) -> Written {
        let Some(disk) = self.disk() else { return Written::MemoryOnly };
        let skipped = || {
            self.counters().disk_write_skipped.inc();
            Written::MemoryOnly
        };
        let Some(mut claim) = disk.claim_packed(object.id()) else { return skipped() };
        if disk.find(object.id()).is_some() {
            return Written::OnDisk;
        }
        let reserved = self.reserve(disk, stored_bytes(block), newcomer).await;
        let Some(place) = reserved.and_then(|bytes| claim.place(bytes)) else { return skipped() };
        let started = Instant::now();
        let written = match self.open_pack(place.pack, Create::IfMissing).await {
            Ok(file) => write_all(&file, Outgoing::new(block.frame()), place.offset()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.counters().disk_write_errors.inc();
            if error.raw_os_error() == Some(libc::EINVAL) && disk.is_direct() {
                // A file system that opens for direct I/O and then refuses it: the next one goes well.
                disk.give_up_direct();
            } else {
                disk.write_failed(&error);
            }
            disk.seal_pack(place.pack);
            self.close_pack(place.pack);
            return Written::MemoryOnly;
        }
        self.note_written(disk, block, started);
        let mut entered = None;
        claim.written(sums, || entered = disk.enter_packed(object, place));
        let Some(packed) = entered else { return Written::MemoryOnly };
        disk.catalogue_packed(packed, object.version(), sums).await;
        Written::OnDisk
    }

    fn note_written(&self, disk: &Disk, block: &Block, started: Instant) {
        self.counters().disk_write.observe(started.elapsed());
        self.counters().disk_write_blocks.inc();
        self.counters().disk_write_bytes.add(block.frame().len_bytes() as u64);
        disk.write_succeeded();
    }

    async fn write_frame(
        &self,
        disk_object: &Arc<DiskObject>,
        block: &Arc<Block>,
    ) -> io::Result<()> {
        let offset = u64::from(block.id().index) * BLOCK_BYTES;
        let file = self.open_file(disk_object).await?;
        let result = write_all(&file, Outgoing::new(block.frame()), offset).await;
        let Some(disk) = self.disk() else { return result };
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && disk.is_direct() => {
                // A file system that opens for direct I/O and then refuses it.
                disk.give_up_direct();
                self.close_file(disk_object);
                let file = self.open_file(disk_object).await?;
                write_all(&file, Outgoing::new(block.frame()), offset).await
            }
            other => other,
        }
    }

    /// Space for `bytes` of `newcomer`, evicting others for it; `None` if there is none to get.
    async fn reserve(&self, disk: &Disk, bytes: u64, newcomer: Newcomer) -> Option<Reservation> {
        for _ in 0..SPACE_TRIES {
            let freed = disk.freed();
            match disk.reserve(bytes) {
                Verdict::Granted(reservation) => return Some(reservation),
                Verdict::Never => return None,
                Verdict::Evict { bytes } => {
                    if !disk.evict(bytes, newcomer).await {
                        return None;
                    }
                }
                // Evicted files are still open on some core; it has been told to close them.
                Verdict::Wait => drop(tokio::time::timeout(RELEASE_WAIT, freed).await),
            }
        }
        None
    }
}

/// Bytes that a block takes on disk.
fn stored_bytes(block: &Block) -> u64 {
    block.frame().len_bytes().next_multiple_of(4096) as u64
}

/// Whether a block that nobody has asked for is worth its place on disk, or is there.
fn is_admitted(disk: &Disk, block: &Block, object: &Object) -> bool {
    disk.has_block(object.id(), block.id().index) || disk.admits(object.id(), stored_bytes(block))
}

/// Granules of the backlog that a block of `len_bytes` takes.
pub(crate) fn backlog_granules(len_bytes: usize) -> u32 {
    u32::try_from(len_bytes.div_ceil(GRANULE_BYTES).next_power_of_two()).unwrap_or(u32::MAX)
}
