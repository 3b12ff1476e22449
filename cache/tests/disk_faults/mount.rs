//! The disk in memory as a file system of the kernel, so that the cache uses it by its own system
//! calls, io_uring and direct I/O included.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::disk::{Disk, Facts, PAGE_BYTES};

/// The kernel remembers nothing: each call comes here.
const NOW: Duration = Duration::ZERO;

/// Bytes that the disk says it has.
const DISK_BYTES: u64 = 1 << 40;

/// A mounted disk.
pub(crate) struct Mounted {
    disk: Arc<Mutex<Disk>>,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts `disk` at `path`.
    pub(crate) fn new(disk: Disk, path: &Path) -> std::io::Result<Self> {
        let disk = Arc::new(Mutex::new(disk));
        let mut config = Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("disk_faults".to_owned())];
        let session = fuser::spawn_mount(Files(Arc::clone(&disk)), path, &config)?;
        Ok(Self { disk, session: Some(session) })
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// Unmounts, and returns the disk.
    pub(crate) fn unmounted(mut self) -> Disk {
        if let Some(session) = self.session.take() {
            match session.umount_and_join() {
                // A late request, a release for one, was being read when the kernel ended the connection.
                Err(error) if error.raw_os_error() == Some(nix::libc::ECONNABORTED) => {}
                ended => ended.unwrap(),
            }
        }
        let disk = Arc::clone(&self.disk);
        drop(self);
        Arc::into_inner(disk).expect("nobody else has it").into_inner().unwrap()
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Files(Arc<Mutex<Disk>>);

impl Files {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0)
    }
}

fn error(number: i32) -> Errno {
    Errno::from_i32(number)
}

fn attr(facts: Facts) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + facts.changed);
    FileAttr {
        ino: INodeNo(facts.ino),
        size: facts.bytes,
        blocks: facts.blocks * PAGE_BYTES / 512,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(facts),
        perm: if facts.is_folder { 0o700 } else { 0o600 },
        nlink: 1,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn kind(facts: Facts) -> FileType {
    if facts.is_folder { FileType::Directory } else { FileType::RegularFile }
}

fn text(name: &OsStr) -> &str {
    name.to_str().unwrap_or_default()
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.disk().look_up(parent.0, text(name)) {
            Ok(facts) => reply.entry(&NOW, &attr(facts), Generation(0)),
            Err(number) => reply.error(error(number)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.disk().facts(ino.0) {
            Ok(facts) => reply.attr(&NOW, &attr(facts)),
            Err(number) => reply.error(error(number)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let facts = match size {
            Some(bytes) => disk.resize(ino.0, bytes),
            None => disk.facts(ino.0),
        };
        match facts {
            Ok(facts) => reply.attr(&NOW, &attr(facts)),
            Err(number) => reply.error(error(number)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match self.disk().make(parent.0, text(name), true) {
            Ok(facts) => reply.entry(&NOW, &attr(facts), Generation(0)),
            Err(number) => reply.error(error(number)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.disk().remove(parent.0, text(name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.disk().remove(parent.0, text(name)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, text(name)), (new_parent.0, text(new_name)));
        answer(self.disk().rename(from, to), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        let made = disk.make(parent.0, text(name), false);
        match made.and_then(|facts| disk.opened(facts.ino).map(|()| facts)) {
            Ok(facts) => {
                let direct = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NOW, &attr(facts), Generation(0), FileHandle(0), direct);
            }
            Err(number) => reply.error(error(number)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk().opened(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(number) => reply.error(error(number)),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk().closed(ino.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().read(ino.0, offset, size.into()) {
            Ok(bytes) => reply.data(&bytes),
            Err(number) => reply.error(error(number)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(ino.0, offset, data) {
            Ok(written) => reply.written(written),
            Err(number) => reply.error(error(number)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        answer(self.disk().punch(ino.0, offset, length), reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.disk().sync(ino.0), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.disk().sync(ino.0), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = match self.disk().list(ino.0) {
            Ok(listed) => listed,
            Err(number) => return reply.error(error(number)),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, facts)) in listed.into_iter().enumerate().skip(skip) {
            if reply.add(INodeNo(facts.ino), index as u64 + 1, kind(facts), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = DISK_BYTES / PAGE_BYTES;
        let free = blocks - self.disk().allocated_bytes() / PAGE_BYTES;
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}

fn answer(outcome: Result<(), i32>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(number) => reply.error(error(number)),
    }
}
