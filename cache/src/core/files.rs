//! The files of objects and packs that one core has open, and reading and writing them.
//!
//! A `tokio_uring` file belongs to one runtime, so each core has its own table. A file in it holds
//! its space: that of an unlinked file counts until the last core has closed it.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio_uring::fs::{File, OpenOptions};

use crate::core::Core;
use crate::disk::Disk;
use crate::disk::object::DiskObject;
use crate::disk::space::FileSpace;
use crate::disk::stored::Stored;
use crate::disk::verified::FileStamp;
use crate::lru::{LazyLru, Stamp, Standing};
use crate::memory::frame::{DIRECT_BYTES, Lent, Outgoing};
use crate::version::ObjectId;

/// Most files a core keeps open; with 16 cores within the usual limit of 1024.
const OPEN_FILES_MAX: usize = 48;

/// Interrupted or refused operations that are tried again before they count as failed.
const RETRIES_MAX: u32 = 16;

/// An open file.
pub(crate) struct OpenFile {
    file: File,
    of: Of,
    /// What the file was when it was opened.
    stamp: FileStamp,
    /// That of an unlinked file counts until it is closed.
    space: Arc<FileSpace>,
}

/// What an open file is of.
enum Of {
    Object(Arc<DiskObject>),
    Pack(u32),
}

/// What an open file is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Object(ObjectId),
    Pack(u32),
}

impl Of {
    fn key(&self) -> Key {
        match self {
            Self::Object(object) => Key::Object(object.id()),
            Self::Pack(number) => Key::Pack(*number),
        }
    }
}

impl OpenFile {
    /// What the file was when it was opened.
    pub(crate) fn stamp(&self) -> FileStamp {
        self.stamp
    }

    /// Whether it is to be closed.
    fn is_evicted(&self) -> bool {
        match &self.of {
            Of::Object(object) => !object.is_alive(),
            Of::Pack(_) => self.space.is_doomed(),
        }
    }
}

/// The files that one core has open.
pub(crate) struct OpenFiles {
    files: HashMap<Key, (Rc<OpenFile>, Stamp)>,
    order: LazyLru<Key>,
    now: Stamp,
}

impl OpenFiles {
    pub(crate) fn new() -> Self {
        Self { files: HashMap::new(), order: LazyLru::new(), now: 0 }
    }

    fn get(&mut self, key: Key) -> Option<Rc<OpenFile>> {
        let (file, stamp) = self.files.get_mut(&key)?;
        self.now += 1;
        self.order.remove(key, *stamp);
        *stamp = self.now;
        self.order.insert(key, *stamp);
        Some(Rc::clone(file))
    }

    fn get_object(&mut self, of: &Arc<DiskObject>) -> Option<Rc<OpenFile>> {
        let file = self.get(Key::Object(of.id()))?;
        // After an eviction the same id may name another file.
        matches!(&file.of, Of::Object(object) if Arc::ptr_eq(object, of)).then_some(file)
    }

    fn insert(&mut self, file: &Rc<OpenFile>) {
        let key = file.of.key();
        self.remove(key);
        while self.files.len() >= OPEN_FILES_MAX {
            let known = |key: &Key| self.files.get(key).map_or(0, |(_, stamp)| *stamp);
            let oldest = self.order.oldest(1, |key| Standing::Idle(known(key)), |_, _| ());
            let Some((oldest, _)) = oldest else { break };
            self.remove(oldest);
        }
        self.now += 1;
        self.order.insert(key, self.now);
        self.files.insert(key, (Rc::clone(file), self.now));
    }

    fn remove(&mut self, key: Key) {
        if let Some((_, stamp)) = self.files.remove(&key) {
            self.order.remove(key, stamp);
        }
    }

    fn remove_evicted(&mut self) {
        let evicted: Vec<Key> = self
            .files
            .values()
            .filter(|(file, _)| file.is_evicted())
            .map(|(file, _)| file.of.key())
            .collect();
        for key in evicted {
            self.remove(key);
        }
    }
}

impl Core {
    /// The open file of `of`, created if this is its first use ever.
    pub(crate) async fn open_file(&self, of: &Arc<DiskObject>) -> io::Result<Rc<OpenFile>> {
        if let Some(file) = self.files.borrow_mut().get_object(of) {
            return Ok(file);
        }
        let disk = self.disk().ok_or(io::ErrorKind::NotFound)?;
        let space = of.space().ok_or(io::ErrorKind::NotFound)?;
        let path = disk.object_path(of.id());
        of.create_once(disk.creating(of.id()), || async {
            // What an earlier life left there has no record: it goes.
            match open(&path, Create::Yes, disk.is_direct()).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    disk.create_folders(of.id())?;
                    open(&path, Create::Yes, disk.is_direct()).await
                }
                other => other,
            }
            .map(drop)
        })
        .await?;
        let file = open_direct(disk, &path, Create::No).await?;
        // The path was just walked, so this does not wait.
        let stamp =
            std::fs::metadata(&path).map_or(FileStamp::NONE, |metadata| FileStamp::of(&metadata));
        let file = Rc::new(OpenFile { file, of: Of::Object(Arc::clone(of)), stamp, space });
        // Only if it was not evicted while it was opened: else nobody would close it.
        if of.is_alive() {
            self.files.borrow_mut().insert(&file);
        }
        Ok(file)
    }

    /// The open pack `number`; one that is written to is made if it is not there.
    pub(crate) async fn open_pack(&self, number: u32, create: Create) -> io::Result<Rc<OpenFile>> {
        if let Some(file) = self.files.borrow_mut().get(Key::Pack(number)) {
            return Ok(file);
        }
        let disk = self.disk().ok_or(io::ErrorKind::NotFound)?;
        let (space, path) = disk.pack(number).ok_or(io::ErrorKind::NotFound)?;
        let file = open_direct(disk, &path, create).await?;
        let of = Of::Pack(number);
        let file = Rc::new(OpenFile { file, of, stamp: FileStamp::NONE, space });
        if !file.is_evicted() {
            self.files.borrow_mut().insert(&file);
        }
        Ok(file)
    }

    /// The open file that `stored` is in.
    pub(crate) async fn open_stored(&self, stored: &Stored) -> io::Result<Rc<OpenFile>> {
        match stored {
            Stored::File(object) => self.open_file(object).await,
            Stored::Packed(packed) => self.open_pack(packed.entry.place().pack, Create::No).await,
        }
    }

    /// Lets go of the file of `of`, after an error on it.
    pub(crate) fn close_file(&self, of: &Arc<DiskObject>) {
        self.files.borrow_mut().remove(Key::Object(of.id()));
    }

    /// Lets go of the pack `number`, after an error on it.
    pub(crate) fn close_pack(&self, number: u32) {
        self.files.borrow_mut().remove(Key::Pack(number));
    }

    /// Lets go of the file that `stored` is in, after an error on it.
    pub(crate) fn close_stored(&self, stored: &Stored) {
        match stored {
            Stored::File(object) => self.close_file(object),
            Stored::Packed(packed) => self.close_pack(packed.entry.place().pack),
        }
    }
}

/// Starts the task that closes evicted objects' files on this core, so that their space comes back.
/// It ends with the core.
pub(crate) fn close_evicted(core: &Rc<Core>) {
    let Some(mut evictions) = core.disk().map(Disk::evictions) else { return };
    let core: Weak<Core> = Rc::downgrade(core);
    drop(tokio_uring::spawn(async move {
        while evictions.changed().await.is_ok() {
            let Some(core) = core.upgrade() else { return };
            core.files.borrow_mut().remove_evicted();
        }
    }));
}

/// Whether a file is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Create {
    /// Empty, whatever was there.
    Yes,
    /// Unless it is there.
    IfMissing,
    No,
}

/// Opens a file, for direct I/O if the file system has it.
async fn open_direct(disk: &Disk, path: &std::path::Path, create: Create) -> io::Result<File> {
    match open(path, create, disk.is_direct()).await {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && disk.is_direct() => {
            disk.give_up_direct();
            open(path, create, false).await
        }
        other => other,
    }
}

async fn open(path: &std::path::Path, create: Create, direct: bool) -> io::Result<File> {
    let direct = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create != Create::No)
        .truncate(create == Create::Yes)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | direct)
        .open(path)
        .await
}

/// Reads all of `lent`, a part of the block at `block_offset`. Short reads go on; the end of the
/// file before the end of the block's bytes is `UnexpectedEof`.
pub(crate) async fn read_part(
    file: &Rc<OpenFile>,
    mut lent: Lent,
    block_offset: u64,
) -> (io::Result<()>, Lent) {
    let file = Rc::clone(file);
    let mut retries = 0;
    loop {
        let done_bytes = lent.done_bytes();
        let offset = block_offset + (lent.start() + done_bytes) as u64;
        let (result, back) = file.file.read_at(lent, offset).await;
        lent = back;
        match result {
            Ok(count) if done_bytes + count >= lent.block_bytes() => return (Ok(()), lent),
            Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), lent),
            // Direct reads go on at a boundary, even if the last one ended between two.
            Ok(count) => {
                let done_bytes = (done_bytes + count) / DIRECT_BYTES * DIRECT_BYTES;
                if done_bytes == lent.done_bytes() {
                    retries += 1;
                }
                lent.set_done(done_bytes);
            }
            Err(error) if is_transient(&error) => retries += 1,
            Err(error) => return (Err(error), lent),
        }
        if retries > RETRIES_MAX {
            return (Err(io::ErrorKind::UnexpectedEof.into()), lent);
        }
    }
}

/// Writes all of `outgoing` to `offset`. Short writes go on.
pub(crate) async fn write_all(
    file: &Rc<OpenFile>,
    mut outgoing: Outgoing,
    offset: u64,
) -> io::Result<()> {
    let mut retries = 0;
    while outgoing.left_bytes() > 0 {
        let done_bytes = outgoing.done_bytes();
        let at = offset + done_bytes as u64;
        let (result, back) = file.file.write_at(outgoing, at).submit().await;
        outgoing = back;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                let now = (done_bytes + count) / DIRECT_BYTES * DIRECT_BYTES;
                if now == done_bytes {
                    retries += 1;
                }
                outgoing.set_done(now);
            }
            Err(error) if is_transient(&error) => retries += 1,
            Err(error) => return Err(error),
        }
        if retries > RETRIES_MAX {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}
