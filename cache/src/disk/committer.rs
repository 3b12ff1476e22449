//! The thread that makes written blocks durable, and evicts.
//!
//! It owns every change of the catalogue, so their order is that of its channel: data, fdatasync,
//! then catalogue for what comes; catalogue, then unlink for what goes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::disk::catalogue::Change;
use crate::disk::dir::open_own;
use crate::disk::index::{Choice, Newcomer, Wanted, taken_bytes};
use crate::disk::object::DiskObject;
use crate::disk::packs::punch;
use crate::disk::space::{FileSpace, Marks};
use crate::disk::stored::{Packed, Stored};
use crate::disk::verified::FileStamp;
use crate::disk::{Inner, orphans};
use crate::error::CacheError;
use crate::keeping;
use crate::version::{ObjectId, ObjectVersion};

/// How long a written block waits for others to be committed with.
const BATCH_TIME: Duration = Duration::from_millis(250);

/// Blocks that are committed without waiting for more.
pub(crate) const BATCH_BLOCKS: usize = 256;

/// How often last uses are catalogued.
const USES_TIME: Duration = Duration::from_mins(1);

/// A block that is written and not yet durable.
pub(crate) struct Written {
    pub(crate) object: Arc<DiskObject>,
    pub(crate) version: ObjectVersion,
    pub(crate) index: u32,
    pub(crate) sums: Arc<[u32]>,
    /// Its part of the backlog, given back by the commit.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// An object in a pack that is written and not yet durable.
pub(crate) struct WrittenPacked {
    pub(crate) packed: Packed,
    pub(crate) version: ObjectVersion,
    pub(crate) sums: Arc<[u32]>,
    /// Its part of the backlog, given back by the commit.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What the committer is told.
pub(crate) enum Order {
    Block(Written),
    Packed(WrittenPacked),
    DropBlock {
        object: Arc<DiskObject>,
        index: u32,
    },
    /// Those in packs are out of the index already.
    DropObjects {
        objects: Vec<Stored>,
    },
    Used {
        object: Arc<DiskObject>,
    },
    PackedUsed(Packed),
    Evict {
        bytes: u64,
        newcomer: Newcomer,
        /// Told whether anything went.
        done: oneshot::Sender<bool>,
    },
    /// Somebody waits for what was written: commit without waiting for more.
    Hurry,
    Commit {
        done: mpsc::Sender<()>,
    },
    Stop,
}

/// The committer as the disk tier holds it.
pub(crate) struct Committer {
    orders: mpsc::Sender<Order>,
    running: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread, and the one that looks for orphans and ends.
    pub(crate) fn start(inner: &Arc<Inner>) -> Result<Self, CacheError> {
        let (orders, inbox) = mpsc::channel();
        let running = Arc::new(AtomicBool::new(true));
        let work = Work {
            inner: Arc::clone(inner),
            batch: Vec::new(),
            batch_blocks: 0,
            batch_began: None,
            used: Vec::new(),
            packed_used: Vec::new(),
            uses_committed: Instant::now(),
            punching: None,
        };
        let commit = {
            let running = Arc::clone(&running);
            spawn("tenderfs-commit", move || {
                work.run(&inbox);
                running.store(false, Ordering::Relaxed);
            })?
        };
        let collect = {
            let (inner, running) = (Arc::clone(inner), Arc::clone(&running));
            spawn("tenderfs-orphans", move || orphans::collect(&inner, &running))?
        };
        Ok(Self { orders, running, threads: Mutex::new(vec![commit, collect]) })
    }

    /// Tells the committer. After its end nobody hears, and what is told is lost, as in a crash.
    pub(crate) fn send(&self, order: Order) {
        drop(self.orders.send(order));
    }

    /// Whether it still works.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Commits what was told so far, and waits for that.
    pub(crate) fn commit(&self) {
        let (done, end) = mpsc::channel();
        self.send(Order::Commit { done });
        // An error means that the committer has stopped.
        end.recv().ok();
    }

    /// Commits what was told so far, and ends.
    pub(crate) fn stop(&self) {
        self.send(Order::Stop);
        self.running.store(false, Ordering::Relaxed);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // The last handle of the cache may be dropped by one of these threads itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the disk tier has panicked");
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, CacheError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|source| CacheError::Thread { source })
}

/// Milliseconds since 1970; 0 before.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.ok().and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

/// A change that waits for the next commit.
enum Pending {
    Block(Written),
    Packed(WrittenPacked),
    DropBlock { id: ObjectId, index: u32 },
}

/// The thread's own state.
struct Work {
    inner: Arc<Inner>,
    batch: Vec<Pending>,
    batch_blocks: usize,
    batch_began: Option<Instant>,
    /// Objects whose last use waits to be catalogued, each once.
    used: Vec<Arc<DiskObject>>,
    packed_used: Vec<Packed>,
    uses_committed: Instant,
    /// The pack that was punched last.
    punching: Option<(u32, File)>,
}

impl Work {
    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        loop {
            let waited = self.batch_began.map_or(Duration::ZERO, |began| began.elapsed());
            let goes_on = match inbox.recv_timeout(BATCH_TIME.saturating_sub(waited)) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => {
                    self.tick();
                    true
                }
                Err(RecvTimeoutError::Disconnected) => false,
            };
            self.inner.now_ms.store(unix_ms(), Ordering::Relaxed);
            let is_due = self.batch_began.is_some_and(|began| began.elapsed() >= BATCH_TIME);
            if is_due || self.batch_blocks >= BATCH_BLOCKS || !goes_on {
                self.commit(&[]);
            }
            if !goes_on {
                return self.commit_uses();
            }
        }
    }

    /// Takes one order; false if it is to stop.
    fn take(&mut self, order: Order) -> bool {
        match order {
            Order::Block(written) => {
                self.batch_blocks += 1;
                self.push(Pending::Block(written));
            }
            Order::Packed(written) => {
                self.batch_blocks += 1;
                self.push(Pending::Packed(written));
            }
            Order::DropBlock { object, index } => {
                self.push(Pending::DropBlock { id: object.id(), index });
            }
            Order::DropObjects { objects } => self.remove(objects),
            Order::Used { object } => self.used.push(object),
            Order::PackedUsed(packed) => self.packed_used.push(packed),
            Order::Evict { bytes, newcomer, done } => {
                let choice = Choice::UnusedFirst;
                let went = self.evict(Wanted { bytes, choice, newcomer });
                // Who waited may be gone.
                done.send(went).ok();
            }
            Order::Hurry => {
                self.commit(&[]);
            }
            Order::Commit { done } => {
                self.commit(&[]);
                self.commit_uses();
                done.send(()).ok();
            }
            Order::Stop => return false,
        }
        true
    }

    fn push(&mut self, pending: Pending) {
        self.batch.push(pending);
        self.batch_began.get_or_insert_with(Instant::now);
    }

    /// What is done now and then, when nothing else is.
    fn tick(&mut self) {
        let marks = match self.inner.regime().order {
            keeping::Order::LeastRecent => Marks::Kept,
            keeping::Order::LowestIds => Marks::Ignored,
        };
        let bytes = self.inner.ledger.surplus(marks);
        if bytes > 0 {
            let (choice, newcomer) = (Choice::Unused, Newcomer::Nobody);
            self.evict(Wanted { bytes, choice, newcomer });
        }
        self.remove_empty_packs();
        if self.uses_committed.elapsed() >= USES_TIME {
            self.commit_uses();
            self.inner.end_pins(unix_ms());
        }
    }

    /// Makes the batch durable, and with it what is `gone`; false if the catalogue was not told.
    fn commit(&mut self, gone: &[Change]) -> bool {
        let batch = std::mem::take(&mut self.batch);
        self.batch_blocks = 0;
        self.batch_began = None;
        if batch.is_empty() && gone.is_empty() {
            return true;
        }
        let started = Instant::now();
        let failed = self.sync_files(&batch);
        self.sync_packs(&batch);
        let mut changes = Vec::with_capacity(batch.len() + gone.len());
        for pending in &batch {
            match pending {
                Pending::Block(written) if is_lost(written, &failed) => (),
                Pending::Block(written) => changes.push(Change::Block {
                    id: written.object.id(),
                    version: written.version.clone(),
                    last_use_ms: written.object.last_use_ms(),
                    index: written.index,
                    sums: Arc::clone(&written.sums),
                }),
                Pending::Packed(written) => changes.extend(self.change_of(written)),
                Pending::DropBlock { id, index } => {
                    changes.push(Change::NoBlock { id: *id, index: *index });
                }
            }
        }
        changes.extend_from_slice(gone);
        if !self.commit_changes(&changes) {
            return false;
        }
        for pending in &batch {
            match pending {
                Pending::Block(written) => written.object.catalogued_block(written.index),
                Pending::Packed(written) => {
                    self.inner.packs.forget_sums(written.packed.entry.place());
                }
                Pending::DropBlock { .. } => continue,
            }
            self.inner.counters.committed_blocks.inc();
        }
        self.inner.told_progress();
        self.inner.counters.commits.inc();
        self.inner.counters.commit.observe(started.elapsed());
        true
    }

    fn commit_changes(&self, changes: &[Change]) -> bool {
        match self.inner.catalogue.commit(changes) {
            Ok(()) => {
                self.inner.measure_overhead();
                true
            }
            Err(error) => {
                self.inner.counters.commit_errors.inc();
                self.inner.write_failed(&io::Error::other(error));
                false
            }
        }
    }

    /// Trims and syncs each file of the batch; returns the objects whose file failed.
    fn sync_files(&self, batch: &[Pending]) -> HashSet<ObjectId> {
        let mut synced: HashMap<ObjectId, bool> = HashMap::new();
        for pending in batch {
            let Pending::Block(written) = pending else { continue };
            let object = &written.object;
            if !object.is_alive() || synced.contains_key(&object.id()) {
                continue;
            }
            let result = self.sync_file(object);
            if let Err(error) = &result {
                self.inner.counters.commit_errors.inc();
                self.inner.write_failed(error);
            }
            synced.insert(object.id(), result.is_ok());
        }
        let failed: HashSet<ObjectId> =
            synced.into_iter().filter(|(_, ok)| !ok).map(|(id, _)| id).collect();
        for pending in batch {
            if let Pending::Block(written) = pending
                && failed.contains(&written.object.id())
            {
                // Nobody knows what is on disk now.
                written.object.drop_block(written.index);
            }
        }
        failed
    }

    /// Syncs each pack of the batch. What was written to one that fails is given up.
    fn sync_packs(&mut self, batch: &[Pending]) {
        let packed = batch.iter().filter_map(|pending| match pending {
            Pending::Packed(written) => Some(written.packed),
            Pending::Block(_) | Pending::DropBlock { .. } => None,
        });
        let packs: HashSet<u32> = packed.clone().map(|packed| packed.entry.place().pack).collect();
        let mut failed = HashSet::new();
        for pack in packs {
            if self.inner.packs.has_failed(pack) {
                failed.insert(pack);
                continue;
            }
            let path = self.inner.dir.pack_path(pack);
            let synced = open_own(&path, std::fs::OpenOptions::new().read(true).write(true))
                .and_then(|file| file.sync_data());
            if let Err(error) = synced {
                self.inner.counters.commit_errors.inc();
                self.inner.write_failed(&error);
                self.inner.packs.failed(pack);
                failed.insert(pack);
            }
        }
        for packed in packed.filter(|packed| failed.contains(&packed.entry.place().pack)) {
            if self.inner.index.take_packed(packed.id, packed.entry.place()).is_some() {
                self.punch_out(&packed);
            }
        }
    }

    /// What the catalogue is told of a written object, if it is there still.
    fn change_of(&self, written: &WrittenPacked) -> Option<Change> {
        let Packed { id, entry } = written.packed;
        let is_there = self.inner.index.place_of(id) == Some(entry.place());
        is_there.then(|| Change::Packed {
            place: entry.place(),
            record: written.packed.record(),
            version: written.version.clone(),
            sums: Arc::clone(&written.sums),
        })
    }

    fn sync_file(&self, object: &DiskObject) -> io::Result<()> {
        let path = self.inner.dir.object_path(object.id());
        let file = open_own(&path, std::fs::OpenOptions::new().read(true).write(true))?;
        // The last block was written with padding.
        if file.metadata()?.len() > object.size_bytes() {
            file.set_len(object.size_bytes())?;
        }
        file.sync_data()?;
        // From here on only a change by others gives it another stamp.
        object.stamped(FileStamp::of(&file.metadata()?));
        Ok(())
    }

    fn commit_uses(&mut self) {
        self.uses_committed = Instant::now();
        let used = std::mem::take(&mut self.used);
        let mut changes: Vec<Change> = used
            .iter()
            .filter(|object| {
                object.use_noted.store(false, Ordering::Relaxed);
                object.is_alive()
            })
            .map(|object| Change::Used { id: object.id(), last_use_ms: object.last_use_ms() })
            .collect();
        let packed_used = std::mem::take(&mut self.packed_used);
        changes.extend(packed_used.iter().map(|packed| Change::PackedUsed {
            place: packed.entry.place(),
            record: packed.record(),
        }));
        if !changes.is_empty() {
            self.commit_changes(&changes);
        }
    }

    /// Evicts, and tells whether anything went.
    fn evict(&mut self, wanted: Wanted) -> bool {
        let inner = Arc::clone(&self.inner);
        let now_ms = unix_ms();
        let in_use = |id| inner.objects.last_use_ms(id);
        let victims = inner.index.victims(wanted, inner.regime(), in_use, now_ms);
        for victim in &victims {
            inner.counters.disk_evicted_objects.inc();
            inner.counters.disk_evicted_bytes.add(taken_bytes(victim));
        }
        let found = !victims.is_empty();
        self.remove(victims);
        found
    }

    /// Removes objects: from the index, from the catalogue, and then their files. Those in packs are
    /// out of the index.
    fn remove(&mut self, objects: Vec<Stored>) {
        let (mut files, mut packed) = (Vec::new(), Vec::new());
        for object in objects {
            match object {
                // What was removed before is not removed again: its name may belong to a new file.
                Stored::File(object) => {
                    files.extend(object.evict().map(|space| (object, space)));
                }
                Stored::Packed(gone) => packed.push(gone),
            }
        }
        if files.is_empty() && packed.is_empty() {
            return;
        }
        let gone_files = files.iter().map(|(object, _)| Change::NoObject { id: object.id() });
        let gone_packed =
            packed.iter().map(|packed| Change::NotPacked { place: packed.entry.place() });
        let is_told = self.commit(&gone_files.chain(gone_packed).collect::<Vec<_>>());
        // If that failed, files go all the same: space is needed, and a record without a file is
        // noticed when it is used. A hole is not, where the disk is trusted: bytes that a record may
        // lead to after a restart stay.
        self.unlink(files);
        for packed in &packed {
            if is_told {
                self.punch_out(packed);
            } else {
                self.forget(packed);
            }
        }
        self.remove_empty_packs();
        self.inner.evictions.send_modify(|evictions| *evictions += 1);
    }

    fn unlink(&self, files: Vec<(Arc<DiskObject>, Arc<FileSpace>)>) {
        for (object, space) in files {
            let path = self.inner.dir.object_path(object.id());
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It takes its space still; after a restart it is an orphan.
                    tracing::warn!(%error, path = %path.display(), "evicted file cannot be removed");
                    std::mem::forget(space);
                }
                _ => space.doom(),
            }
            self.inner.index.forget(&object);
        }
    }

    /// Gives the space of an object back that is neither in the index nor in the catalogue.
    fn punch_out(&mut self, packed: &Packed) {
        let entry = packed.entry;
        let inner = Arc::clone(&self.inner);
        let pack = entry.place().pack;
        let result = match &self.punching {
            Some((open, file)) if *open == pack => Ok(file),
            _ => open_own(
                &inner.dir.pack_path(pack),
                std::fs::OpenOptions::new().read(true).write(true),
            )
            .map(|file| &self.punching.insert((pack, file)).1),
        };
        match result.and_then(|file| punch(file, entry.place().offset(), entry.stored_bytes())) {
            // A file that is gone takes nothing.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // It takes its space still, until the pack goes or the next start.
                tracing::warn!(%error, pack, "evicted object cannot be punched out of its pack");
            }
            _ => inner.packs.punched(pack, entry.stored_bytes()),
        }
        self.forget(packed);
    }

    fn forget(&self, packed: &Packed) {
        let place = packed.entry.place();
        self.inner.packs.forget_sums(place);
        self.inner.packs.removed(place.pack);
    }

    /// Removes the files of packs in which nothing is.
    fn remove_empty_packs(&mut self) {
        for (pack, space) in self.inner.packs.take_empty() {
            self.punching.take_if(|(open, _)| *open == pack);
            let path = self.inner.dir.pack_path(pack);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "empty pack cannot be removed");
                    std::mem::forget(space);
                }
                _ => space.doom(),
            }
            self.inner.evictions.send_modify(|evictions| *evictions += 1);
        }
    }
}

/// Whether a written block is not to be catalogued: its object was evicted, or its file failed.
fn is_lost(written: &Written, failed: &HashSet<ObjectId>) -> bool {
    !written.object.is_alive() || failed.contains(&written.object.id())
}
