//! The thread that makes written blocks durable, and evicts.
//!
//! It owns every change of the catalogue, so their order is that of its channel: data, fdatasync,
//! then catalogue for what comes; catalogue, then unlink for what goes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::disk::catalogue::Change;
use crate::disk::dir::open_own;
use crate::disk::index::{Choice, Newcomer, Wanted};
use crate::disk::object::DiskObject;
use crate::disk::space::Marks;
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

/// What the committer is told.
pub(crate) enum Order {
    Block(Written),
    DropBlock {
        object: Arc<DiskObject>,
        index: u32,
    },
    DropObjects {
        objects: Vec<Arc<DiskObject>>,
    },
    Used {
        object: Arc<DiskObject>,
    },
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
            uses_committed: Instant::now(),
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
    uses_committed: Instant,
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
            Order::DropBlock { object, index } => {
                self.push(Pending::DropBlock { id: object.id(), index });
            }
            Order::DropObjects { objects } => self.remove(&objects),
            Order::Used { object } => self.used.push(object),
            Order::Evict { bytes, newcomer, done } => {
                let choice = Choice::UnusedFirst;
                let went = self.evict(Wanted { bytes, choice, newcomer });
                // Who waited may be gone.
                done.send(went).ok();
            }
            Order::Hurry => self.commit(&[]),
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
        if self.uses_committed.elapsed() >= USES_TIME {
            self.commit_uses();
            self.inner.end_pins(unix_ms());
        }
    }

    /// Makes the batch durable, and with it that objects `gone` are.
    fn commit(&mut self, gone: &[Arc<DiskObject>]) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_blocks = 0;
        self.batch_began = None;
        if batch.is_empty() && gone.is_empty() {
            return;
        }
        let started = Instant::now();
        let failed = self.sync_files(&batch);
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
                Pending::DropBlock { id, index } => {
                    changes.push(Change::NoBlock { id: *id, index: *index });
                }
            }
        }
        changes.extend(gone.iter().map(|object| Change::NoObject { id: object.id() }));
        if !self.commit_changes(&changes) {
            return;
        }
        for pending in &batch {
            if let Pending::Block(written) = pending {
                written.object.catalogued_block(written.index);
                self.inner.counters.committed_blocks.inc();
            }
        }
        self.inner.told_progress();
        self.inner.counters.commits.inc();
        self.inner.counters.commit.observe(started.elapsed());
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
        let changes: Vec<Change> = used
            .iter()
            .filter(|object| {
                object.use_noted.store(false, Ordering::Relaxed);
                object.is_alive()
            })
            .map(|object| Change::Used { id: object.id(), last_use_ms: object.last_use_ms() })
            .collect();
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
            let bytes = victim.space().map_or(0, |space| space.bytes());
            inner.counters.disk_evicted_bytes.add(bytes);
        }
        self.remove(&victims);
        !victims.is_empty()
    }

    /// Removes objects: from the index, from the catalogue, and then their files.
    fn remove(&mut self, objects: &[Arc<DiskObject>]) {
        // What was removed before is not removed again: its name may belong to a new file by now.
        let (objects, spaces): (Vec<_>, Vec<_>) = objects
            .iter()
            .filter_map(|object| object.evict().map(|space| (Arc::clone(object), space)))
            .unzip();
        if objects.is_empty() {
            return;
        }
        // If this fails, the file goes all the same: space is needed, and a record without a file
        // is noticed when it is used.
        self.commit(&objects);
        for (object, space) in objects.iter().zip(spaces) {
            let path = self.inner.dir.object_path(object.id());
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It takes its space still; after a restart it is an orphan.
                    tracing::warn!(%error, path = %path.display(), "evicted file cannot be removed");
                    std::mem::forget(space);
                }
                _ => space.doom(),
            }
            self.inner.index.forget(object);
        }
        self.inner.evictions.send_modify(|evictions| *evictions += 1);
    }
}

/// Whether a written block is not to be catalogued: its object was evicted, or its file failed.
fn is_lost(written: &Written, failed: &HashSet<ObjectId>) -> bool {
    !written.object.is_alive() || failed.contains(&written.object.id())
}
