//! Passthrough of one mount: which files the kernel reads by itself, and for which handles.
//!
//! `modes.rs` decides how an inode is read, `idle.rs` which registrations are kept; here they are
//! asked, files are registered, and what is no longer read goes back.
//!
//! Invariant: a registered file is in `modes` while the kernel may read it by an open handle, and in
//! `idle` or on its way there or out otherwise; whoever takes it out drops it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tenderfs_cache::{CoreCache, Lease, Object, ObjectId};
use tenderfs_fuse::{Backing, BackingId, Error, Session};
use tenderfs_telemetry::Counter;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::idle::Idle;
use super::modes::{Modes, Told};
use crate::cores::Core;
use crate::mount::Mount;

/// Registered files kept though nobody has them open. Each holds an open file of the kernel, about
/// 2 KiB with what it pins.
const IDLE_MAX: usize = 1024;

/// How long opens wait, once, for handles that keep an inode in the slow mode to be closed.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(100);

/// Objects of fewer bytes are read through the daemon and the kernel's page cache: see
/// docs/decisions/0006-passthrough.md for the measurement.
const BYTES_MIN: u64 = 1 << 20;

/// A file that the kernel reads, and what keeps its space counted.
#[derive(Debug)]
pub(crate) struct Lent {
    backing: Backing,
    lease: Lease,
    object: ObjectId,
}

impl Lent {
    /// What the reply to an open names.
    pub(crate) fn id(&self) -> BackingId {
        self.backing.id()
    }
}

/// How a handle is read.
pub(crate) type Mode = Option<Arc<Lent>>;

/// What passthrough of a mount counts.
#[derive(Debug, Default)]
pub struct PassthroughCounters {
    /// Opens of files that the kernel reads by itself.
    pub opens: Counter,
    /// Opens of files that the daemon reads.
    pub opens_cached: Counter,
    /// Opens of complete, verified files that the kernel did not take.
    pub refused: Counter,
}

#[derive(Debug)]
struct Table {
    modes: Modes<Arc<Lent>>,
    idle: Idle<ObjectId, Arc<Lent>>,
}

/// Passthrough of one mount.
#[derive(Debug)]
pub(crate) struct Passthrough {
    table: Mutex<Table>,
    /// Told when an open has chosen or given up, and when a handle was closed.
    chosen: Notify,
    /// Why nothing is passed through.
    off: OnceLock<String>,
    /// Whether it was off from the start: then no inode needs a mode.
    never_on: bool,
    told_refused: AtomicBool,
    pub(crate) counters: PassthroughCounters,
}

impl Passthrough {
    /// For a mount where nothing stands in the way, or `off` says what does.
    pub(crate) fn new(off: Option<String>) -> Self {
        let table = Table { modes: Modes::default(), idle: Idle::new(IDLE_MAX) };
        Self {
            table: Mutex::new(table),
            chosen: Notify::new(),
            never_on: off.is_some(),
            off: off.map_or_else(OnceLock::new, OnceLock::from),
            told_refused: AtomicBool::new(false),
            counters: PassthroughCounters::default(),
        }
    }

    /// Why nothing is passed through; `None` if files are.
    pub(crate) fn why_off(&self) -> Option<&str> {
        self.off.get().map(String::as_str)
    }

    /// Registered files: those that are open, and those kept for the next open.
    pub(crate) fn files(&self) -> (usize, usize) {
        let table = self.lock();
        (table.modes.backings(), table.idle.len())
    }

    /// How a new handle of `ino` is read. It is counted until [`Passthrough::closed`].
    pub(crate) async fn open(
        &self,
        ino: u64,
        object: &Arc<Object>,
        (cache, session): (&CoreCache, &Session),
    ) -> Mode {
        let mode =
            if self.never_on { None } else { self.mode(ino, object, (cache, session)).await };
        match &mode {
            Some(_) => {
                cache.used(object);
                self.counters.opens.inc();
            }
            None => self.counters.opens_cached.inc(),
        }
        mode
    }

    async fn mode(
        &self,
        ino: u64,
        object: &Arc<Object>,
        (cache, session): (&CoreCache, &Session),
    ) -> Mode {
        let mut until = None;
        loop {
            let mut chosen = std::pin::pin!(self.chosen.notified());
            // Registered before the look, so that a choice in between is not missed.
            chosen.as_mut().enable();
            let is_ready = || self.may_lend(object) && cache.is_ready(object);
            let told = self.lock().modes.open(ino, is_ready);
            match told {
                Told::Cached => return None,
                Told::Passthrough(lent) => return Some(lent),
                Told::Wait => chosen.await,
                Told::WaitForClose => {
                    let until = *until.get_or_insert_with(|| Instant::now() + CLOSE_WAIT_MAX);
                    if tokio::time::timeout_at(until, chosen).await.is_err() {
                        self.lock().modes.waited_enough(ino);
                        self.chosen.notify_waiters();
                    }
                }
                Told::Choose => {
                    let choice = Choice { of: self, ino };
                    let lent = self.lend(object, (cache, session)).await;
                    choice.made(lent.clone());
                    return lent;
                }
            }
        }
    }

    /// Whether the kernel may read an object as long as this, once it is complete and verified.
    pub(crate) fn may_lend(&self, object: &Object) -> bool {
        object.size_bytes() >= BYTES_MIN && self.off.get().is_none()
    }

    /// The file of `object`, registered, if the kernel may read it.
    async fn lend(&self, object: &Arc<Object>, (cache, session): (&CoreCache, &Session)) -> Mode {
        if !self.may_lend(object) {
            return None;
        }
        let idle = self.lock().idle.take(object.id());
        if let Some(lent) = idle {
            lent.lease.set_in_use(true);
            if cache.is_unchanged(&lent.lease) {
                return Some(lent);
            }
        }
        let file = cache.backing(object).await?;
        match session.register(&file) {
            Ok(backing) => Some(Arc::new(Lent { backing, lease: file.lease, object: object.id() })),
            Err(error) => {
                self.refused(&error);
                None
            }
        }
    }

    /// Counts a file that the kernel did not take, and turns passthrough off if it takes none.
    fn refused(&self, error: &Error) {
        self.counters.refused.inc();
        match error {
            Error::PassthroughUnavailable { .. } => {
                let reason = crate::one_line(error);
                if self.off.set(reason.clone()).is_ok() {
                    info!(reason, "cached files are read through the daemon");
                }
            }
            _ if !self.told_refused.swap(true, Ordering::Relaxed) => {
                warn!(%error, "a cached file is read through the daemon");
            }
            _ => {}
        }
    }

    /// A handle of `ino` is closed.
    pub(crate) fn closed(&self, ino: u64) {
        if self.never_on {
            return;
        }
        let dropped = {
            let mut table = self.lock();
            let Some(lent) = table.modes.closed(ino) else {
                drop(table);
                // Opens may have waited for that.
                return self.chosen.notify_waiters();
            };
            if lent.lease.is_current() {
                lent.lease.set_in_use(false);
                table.idle.put(lent.object, lent)
            } else {
                Some(lent)
            }
        };
        // Outside the lock: it makes a system call.
        drop(dropped);
    }

    /// Lets go of idle files that the cache has evicted, so that their space comes back.
    pub(crate) fn drop_evicted(&self) {
        let gone = self.lock().idle.take_unless(|lent| lent.lease.is_current());
        drop(gone);
    }

    /// The mount is gone, and with it who could open or close a file.
    pub(crate) fn end(&self) {
        let table = Table { modes: Modes::default(), idle: Idle::new(0) };
        let all = std::mem::replace(&mut *self.lock(), table);
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the task that lets go of idle files that were evicted. It ends with the core or the mount.
pub(super) fn drop_evicted_files(core: &Core, mount: &Arc<Mount>) {
    let Some(mut evictions) = core.evictions() else { return };
    let mount = Arc::downgrade(mount);
    drop(tokio_uring::spawn(async move {
        while evictions.changed().await.is_ok() {
            let Some(mount) = mount.upgrade() else { return };
            mount.passthrough.drop_evicted();
        }
    }));
}

/// The right to choose the mode of an inode; dropped without a choice, the next open has it.
struct Choice<'a> {
    of: &'a Passthrough,
    ino: u64,
}

impl Choice<'_> {
    fn made(self, lent: Mode) {
        self.of.lock().modes.chosen(self.ino, lent);
        // The drop that follows finds the choice made, and tells who waits.
    }
}

impl Drop for Choice<'_> {
    fn drop(&mut self) {
        self.of.lock().modes.abandoned(self.ino);
        self.of.chosen.notify_waiters();
    }
}
