//! Opening the file of a complete object for those who can read it by themselves.
//!
//! Whether an object is ready is `disk/object.rs`'s to say. What is complete but was not looked at
//! in this life is checked in the background (`core/check.rs`); what is nearly complete may be
//! waited for, shortly and once, because who opens a file may hold it for days.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::backing::{BackingFile, Lease};
use crate::core::{Core, CoreCache};
use crate::disk::Disk;
use crate::disk::dir::open_own;
use crate::disk::object::{DiskObject, Readiness};
use crate::disk::stored::Stored;
use crate::disk::verified::FileStamp;
use crate::object::Object;
use crate::settings::Verify;

/// How long an open waits for an object that is nearly complete: not long for a person, and for a
/// program that opens a file of hundreds of blocks little beside reading it.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Objects of fewer blocks (64 MiB) are not waited for: reading them takes little longer than that.
const WAIT_BLOCKS_MIN: u32 = 16;

/// Most blocks that may be on their way to disk when a wait begins: what a slow disk of 1 GB/s
/// writes in the time there is.
const LACKING_BLOCKS_MAX: u32 = 24;

impl CoreCache {
    /// The file of `object`, if all of it is on disk and was found right in this life; `None` if
    /// not, or if every read is to be verified. Nothing is awaited but the opening itself, with two
    /// exceptions: an object of 64 MiB or more whose last blocks are in memory or being written is
    /// waited for, once and for 100 ms at most; and a path that the kernel does not have in memory
    /// is looked up by another thread.
    pub async fn backing(&self, object: &Arc<Object>) -> Option<BackingFile> {
        self.core.backing(object).await
    }

    /// Whether [`CoreCache::backing`] would give the file of `object` at once, as far as is known.
    pub fn is_ready(&self, object: &Object) -> bool {
        let disk_object = self.core.disk().and_then(|disk| disk.find_file(object.id()));
        disk_object.is_some_and(|object| matches!(object.readiness(), Readiness::Ready(_)))
    }

    /// Has `object` verified in the background if it is complete and an earlier life wrote it, so that
    /// [`CoreCache::backing`] gives its file at the first open.
    pub fn verify_later(&self, object: &Object) {
        let disk_object = self.core.disk().and_then(|disk| disk.find_file(object.id()));
        let unverified = disk_object.filter(|it| it.readiness() == Readiness::Unverified);
        if let Some(disk_object) = unverified {
            self.core.check_later(&disk_object);
        }
    }

    /// Whether the file of `lease`, which nobody reads now, can be given again: it is the object's
    /// still, and nobody has changed it. Its path is in the kernel's memory as long as the file is
    /// open anywhere, so this does not wait.
    pub fn is_unchanged(&self, lease: &Lease) -> bool {
        let Some(disk) = self.core.disk() else { return false };
        let object = lease.object();
        let Readiness::Ready(stamp) = object.readiness() else { return false };
        let now = std::fs::symlink_metadata(disk.object_path(object.id()));
        now.is_ok_and(|now| FileStamp::of(&now) == stamp)
    }

    /// Notes for eviction from disk that `object` is in use, which is not seen where the kernel
    /// reads it by itself.
    pub fn used(&self, object: &Arc<Object>) {
        self.core.note_use(object);
    }
}

impl Core {
    async fn backing(self: &Rc<Self>, object: &Arc<Object>) -> Option<BackingFile> {
        let disk = self.disk()?;
        if self.shared().settings.verify == Verify::Always || !disk.may_read() {
            return None;
        }
        let disk_object = disk.find_file(object.id())?;
        let mut readiness = disk_object.readiness();
        if matches!(readiness, Readiness::Incomplete | Readiness::Settling)
            && self.is_worth_waiting(object, &disk_object)
            && !disk_object.was_waited_for.swap(true, Ordering::Relaxed)
        {
            let settled = settled(disk, &disk_object);
            readiness = tokio::time::timeout(WAIT_MAX, settled).await.unwrap_or(readiness);
        }
        match readiness {
            Readiness::Incomplete | Readiness::Settling => None,
            Readiness::Unverified => {
                self.check_later(&disk_object);
                None
            }
            Readiness::Ready(stamp) => {
                let file = self.open_backing(disk, &disk_object, stamp).await?;
                self.note_use(object);
                Some(file)
            }
        }
    }

    /// Whether all that the file of a large object lacks is in memory or being written.
    fn is_worth_waiting(&self, object: &Object, disk_object: &DiskObject) -> bool {
        let blocks = object.block_count();
        let lacking = blocks.saturating_sub(disk_object.present_blocks());
        let is_coming = |index: u32| {
            disk_object.is_present(index) || self.memory().is_full(object.block(index))
        };
        blocks >= WAIT_BLOCKS_MIN && lacking <= LACKING_BLOCKS_MAX && (0..blocks).all(is_coming)
    }

    async fn open_backing(
        self: &Rc<Self>,
        disk: &Disk,
        object: &Arc<DiskObject>,
        stamp: FileStamp,
    ) -> Option<BackingFile> {
        // Taken first: what is lent is neither evicted for its space nor written to again.
        let lease = Lease::new(object)?;
        let opened = open_read(&disk.object_path(object.id())).await;
        let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (file, metadata) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.drop_object(disk, object);
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, object = %object.id(), "cannot open a complete object's file");
                return None;
            }
        };
        if !metadata.is_file() || metadata.len() != object.size_bytes() {
            self.drop_object(disk, object);
            return None;
        }
        let now = FileStamp::of(&metadata);
        if stamp == FileStamp::NONE {
            object.stamped(now);
        } else if stamp != now {
            // Somebody else has touched it, maybe only its mode: its bytes are looked at again.
            object.begin_check(now);
            self.check_later(object);
            return None;
        }
        // A block may have been found damaged meanwhile.
        lease.is_current().then_some(BackingFile { file, lease })
    }

    fn drop_object(&self, disk: &Disk, object: &Arc<DiskObject>) {
        self.counters().records_dropped.inc();
        disk.drop_object(&Stored::File(Arc::clone(object)));
        self.close_file(object);
    }
}

/// Waits until `object` is complete and durable.
async fn settled(disk: &Disk, object: &DiskObject) -> Readiness {
    let mut progress = disk.progress();
    loop {
        progress.mark_unchanged();
        match object.readiness() {
            Readiness::Settling => disk.hurry(),
            Readiness::Incomplete if object.is_alive() => {}
            readiness => return readiness,
        }
        if progress.changed().await.is_err() {
            return Readiness::Incomplete;
        }
    }
}

/// Opens a file of the disk tier for reading through the page cache. A path that the kernel would
/// have to read from disk is opened by another thread.
pub(crate) async fn open_read(path: &Path) -> io::Result<File> {
    match open_known(path) {
        // Besides EAGAIN: kernels before 5.12 do not know the flag, and sandboxes not the call.
        Err(Errno::EAGAIN | Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => {
            let path = path.to_owned();
            let open = move || open_own(&path, OpenOptions::new().read(true));
            tokio::task::spawn_blocking(open).await.map_err(io::Error::other)?
        }
        opened => Ok(opened?),
    }
}

fn open_known(path: &Path) -> Result<File, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED));
    openat2(AT_FDCWD, path, how).map(File::from)
}
