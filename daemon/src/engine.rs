//! Serves the kernel: takes requests from a core's FUSE channel and answers them from the
//! namespace and the cache.
//!
//! A request is served on the core that read it. What can be answered at once is answered before
//! the next request is taken; what has to wait becomes a task that an INTERRUPT can reach. A
//! request that panics is answered EIO and counted; the others live on.
//!
//! Architecture invariant: nothing here knows how bytes are fetched or kept, and nothing below
//! calls up into it.

mod ahead;
mod attributes;
mod directories;
mod directory_ahead;
mod handles;
mod idle;
mod interrupts;
mod modes;
mod passthrough;
mod read_ahead;

use std::io::IoSlice;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use smallvec::SmallVec;
use tenderfs_byterange::ByteRange;
use tenderfs_cache::{Object, ReadError, Tier, View};
use tenderfs_fuse::{
    Channel, DirectoryBuffer, Entry, Errno, Fh, Ino, Op, OpenFlags, Received, Reply, Request, Sent,
    Unique,
};
use tracing::{debug, error, warn};

use crate::cores::Core;
use crate::errno;
use crate::mount::Mount;
use crate::namespace::{FileFacts, Lookup, NamespaceError, Node};
use crate::origin::Origin;
use crate::plans;

pub(crate) use directory_ahead::{DirectoryAhead, FILE_BLOCKS};
pub(crate) use handles::{Handles, OpenFile};
pub(crate) use interrupts::Interrupts;
pub(crate) use passthrough::Passthrough;
pub(crate) use passthrough::PassthroughCounters;
pub(crate) use read_ahead::Window;

/// `FUSE_IOCTL` of linux/fuse.h.
const IOCTL: u32 = 39;

/// Serves `mount` on this core until it is unmounted.
pub(crate) async fn serve(core: Rc<Core>, mount: Arc<Mount>, channel: Channel) {
    if core.index == 0 {
        passthrough::drop_evicted_files(&core, &mount);
    }
    let pump = tokio_uring::spawn(plans::pump(Rc::clone(&core), Arc::clone(&mount)));
    let server = Rc::new(Server { origin: core.origin(&mount), core, mount, channel });
    loop {
        match server.channel.receive().await {
            Ok(Received::Request(request)) => server.take(request),
            Ok(Received::Unmounted) => break,
            Err(error) => {
                error!(mount = server.mount.settings.name, %error, "reading from /dev/fuse failed");
                break;
            }
        }
    }
    pump.abort();
    debug!(mount = server.mount.settings.name, core = server.core.index, "channel closed");
}

/// What became of a look into memory.
enum Hit {
    Answered,
    Missed,
}

/// One mount as one core serves it.
struct Server {
    core: Rc<Core>,
    mount: Arc<Mount>,
    channel: Channel,
    origin: Origin,
}

impl Server {
    /// Answers `request` at once if nothing has to be waited for, and by a task otherwise.
    fn take(self: &Rc<Self>, request: Request) {
        let (unique, started) = (request.unique, Instant::now());
        let hit = AssertUnwindSafe(|| self.read_from_memory(&request));
        match std::panic::catch_unwind(hit) {
            Ok(Hit::Answered) => {
                return self.channel.counters().observe(request.op.group(), started.elapsed());
            }
            Ok(Hit::Missed) => {}
            Err(_) => return self.panicked(unique),
        }
        let server = Rc::clone(self);
        let mut answer = Box::pin(async move {
            let (unique, op_group, started) = (request.unique, request.op.group(), Instant::now());
            if AssertUnwindSafe(server.answer(request)).catch_unwind().await.is_err() {
                server.panicked(unique);
            }
            server.channel.counters().observe(op_group, started.elapsed());
        });
        // The task polls again with its own waker, so what this poll registered does not matter.
        if answer.as_mut().now_or_never().is_none() {
            drop(tokio_uring::spawn(answer));
        }
    }

    fn panicked(&self, unique: Unique) {
        self.mount.counters.panics.inc();
        error!(mount = self.mount.settings.name, "a request panicked and was answered EIO");
        self.send(unique, &Reply::Error(Errno::EIO));
    }

    /// Answers a read whose bytes are all in memory, without a task or an allocation for it.
    fn read_from_memory(&self, request: &Request) -> Hit {
        let Op::Read { fh, offset, size_bytes, .. } = request.op else { return Hit::Missed };
        let Some(file) = self.mount.handles.file(fh) else { return Hit::Missed };
        let wanted = ByteRange::at(offset, u64::from(size_bytes));
        let range = wanted.and_then(|range| range.below(file.object.size_bytes()));
        let Some(range) = range else { return Hit::Missed };
        let Some(view) = self.core.cache.hit(&file.object, range) else { return Hit::Missed };
        self.fetch_ahead(&file, range, false);
        self.send_view(request.unique, &view);
        Hit::Answered
    }

    fn send(&self, unique: Unique, reply: &Reply<'_>) -> bool {
        match self.channel.send(unique, reply) {
            Ok(Sent::Delivered) => true,
            Ok(Sent::Gone | Sent::Unmounted) => false,
            Err(error) => {
                warn!(mount = self.mount.settings.name, %error, "a reply was refused by the kernel");
                false
            }
        }
    }

    /// Waits for `work`, or until the kernel interrupts the request.
    async fn interruptible<T>(
        &self,
        unique: Unique,
        work: impl Future<Output = T>,
    ) -> Result<T, Errno> {
        let mut work = std::pin::pin!(work);
        if let std::task::Poll::Ready(done) = futures_util::poll!(work.as_mut()) {
            return Ok(done);
        }
        let waiting = self.mount.interrupts.wait(unique);
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = waiting.interrupted() => {
                self.mount.counters.interrupted.inc();
                Err(Errno::EINTR)
            }
        }
    }

    async fn answer(&self, request: Request) {
        let Request { unique, ino, op, .. } = request;
        let outcome = match op {
            Op::Read { fh, offset, size_bytes, .. } => {
                self.read(unique, ino, fh, (offset, size_bytes)).await
            }
            Op::Open { flags } => self.open(unique, ino, flags).await,
            Op::Lookup { name } => self.lookup(unique, ino, &name).await,
            Op::OpenDir { .. } => self.open_directory(unique, ino).await,
            Op::ReadDir { fh, offset, size_bytes, listing } => {
                let buffer = DirectoryBuffer::new(size_bytes, listing);
                // Boxed, so that the tasks of other requests stay small.
                Box::pin(self.read_directory(unique, (ino, fh), offset, buffer)).await
            }
            Op::Forget { lookups } => {
                self.mount.namespace.forget([(ino.0, lookups)]);
                return;
            }
            Op::BatchForget(forgotten) => {
                self.mount.namespace.forget(forgotten.iter().map(|(ino, n)| (ino.0, *n)));
                return;
            }
            Op::Interrupt { target } => {
                self.mount.interrupts.interrupt(target);
                return;
            }
            Op::Destroy => {
                self.send(unique, &Reply::Empty);
                return;
            }
            at_once => self.answer_at_once(unique, ino, at_once),
        };
        if let Err(errno) = outcome {
            self.send(unique, &Reply::Error(errno));
        }
    }

    /// What is answered from memory alone.
    fn answer_at_once(&self, unique: Unique, ino: Ino, op: Op) -> Result<(), Errno> {
        match op {
            Op::GetAttr { .. } => self.get_attr(unique, ino)?,
            Op::Release { fh } => {
                self.close(ino, fh);
                self.send(unique, &Reply::Empty);
            }
            Op::ReleaseDir { fh } => {
                self.mount.handles.close_directory(fh);
                self.send(unique, &Reply::Empty);
            }
            Op::StatFs => {
                self.send(unique, &Reply::StatFs(attributes::statfs()));
            }
            Op::GetXattr { name, size_bytes } => self.get_xattr(unique, ino, &name, size_bytes)?,
            Op::ListXattr { size_bytes } => self.list_xattr(unique, ino, size_bytes)?,
            Op::Fsync { .. } | Op::FsyncDir | Op::Access { .. } => {
                self.send(unique, &Reply::Empty);
            }
            Op::ReadLink => return Err(Errno::EINVAL),
            Op::Mutation(_) => return Err(Errno::EROFS),
            // Python asks every file it opens whether it is a terminal.
            Op::Unknown { opcode: IOCTL } => return Err(Errno::ENOTTY),
            // For FLUSH and LSEEK the kernel takes ENOSYS as success for ever after: one message
            // less for each close(2), and a file without holes for SEEK_HOLE.
            Op::Flush { .. } | Op::Lseek { .. } | Op::Unknown { .. } => {
                return Err(Errno::ENOSYS);
            }
            Op::Read { .. }
            | Op::Open { .. }
            | Op::Lookup { .. }
            | Op::OpenDir { .. }
            | Op::ReadDir { .. }
            | Op::Forget { .. }
            | Op::BatchForget(_)
            | Op::Interrupt { .. }
            | Op::Destroy => unreachable!("answered by its own function"),
        }
        Ok(())
    }

    async fn lookup(&self, unique: Unique, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let looked_up = self.mount.namespace.lookup(self.origin.client(), parent.0, name);
        match self.interruptible(unique, looked_up).await? {
            Ok(Lookup::Found(entered)) => {
                let entry = self.entry(entered.ino, &entered.node, entered.entry_ttl);
                if !self.send(unique, &Reply::Entry(&entry)) {
                    self.mount.namespace.forget([(entered.ino, 1)]);
                }
            }
            Ok(Lookup::Absent(ttl)) => {
                self.send(unique, &Reply::Entry(&Entry::negative(ttl)));
            }
            Err(error) => {
                let errno = errno::of_name(&error);
                self.report_name_error(parent.0, &error, errno);
                return Err(errno);
            }
        }
        Ok(())
    }

    fn report_name_error(&self, ino: u64, error: &NamespaceError, errno: Errno) {
        self.mount.counters.errors.inc();
        if errno != Errno::ESTALE {
            warn!(mount = self.mount.settings.name, ino, %error, %errno, "directory lookup failed");
        }
    }

    fn entry(&self, ino: u64, node: &Node, entry_ttl: std::time::Duration) -> Entry {
        let attr = attributes::attr_of(ino, node, &self.mount.settings, self.mount.mounted_at);
        let attr_ttl = self.mount.settings.attr_ttl;
        Entry { ino: Ino(ino), generation: 0, attr, entry_ttl, attr_ttl }
    }

    fn get_attr(&self, unique: Unique, ino: Ino) -> Result<(), Errno> {
        let node = self.mount.namespace.node(ino.0).map_err(errno::of_inode)?;
        let attr = attributes::attr_of(ino.0, &node, &self.mount.settings, self.mount.mounted_at);
        self.send(unique, &Reply::Attr(&attr, self.mount.settings.attr_ttl));
        Ok(())
    }

    /// The cache's handle of the file `ino`.
    fn object(&self, key: &Arc<str>, facts: &FileFacts) -> Arc<Object> {
        self.core.version(&self.mount, Arc::clone(key), &facts.etag, facts.size_bytes)
    }

    async fn open(&self, unique: Unique, ino: Ino, flags: i32) -> Result<(), Errno> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(Errno::EROFS);
        }
        let (key, facts) = self.mount.namespace.file_to_open(ino.0).map_err(errno::of_inode)?;
        let object = self.object(&key, &facts);
        let doers = (&self.core.cache, self.mount.session());
        let opening = self.mount.passthrough.open(ino.0, &object, doers);
        let lent = self.interruptible(unique, opening).await?;
        let fh = self.mount.handles.open_file(Arc::clone(&object));
        let reply = match &lent {
            Some(lent) => Reply::OpenPassthrough { fh, backing: lent.id() },
            // An inode is one version, so its pages stay right from open to open.
            None => Reply::Open { fh, flags: OpenFlags::KEEP_CACHE | OpenFlags::NOFLUSH },
        };
        if self.send(unique, &reply) {
            // After the reply: the reader of this file comes first.
            self.fetch_siblings(&key, &object);
        } else {
            self.close(ino, fh);
        }
        Ok(())
    }

    fn close(&self, ino: Ino, fh: Fh) {
        let Some(file) = self.mount.handles.close_file(fh) else { return };
        // Where the kernel read by itself, this is the first that is heard of it.
        self.core.cache.used(&file.object);
        self.mount.plans.observe(&file, None);
        self.mount.passthrough.closed(ino.0);
    }

    /// The open file behind `fh`; a handle this daemon does not know is made again from its inode.
    fn file(&self, ino: Ino, fh: Fh) -> Result<Arc<OpenFile>, Errno> {
        if let Some(file) = self.mount.handles.file(fh) {
            return Ok(file);
        }
        let (key, facts) = self.mount.namespace.file_to_open(ino.0).map_err(errno::of_inode)?;
        let fh = self.mount.handles.open_file(self.object(&key, &facts));
        self.mount.handles.close_file(fh).ok_or(Errno::EIO)
    }

    async fn read(
        &self,
        unique: Unique,
        ino: Ino,
        fh: Fh,
        (offset, size_bytes): (u64, u32),
    ) -> Result<(), Errno> {
        let file = self.file(ino, fh)?;
        let file_bytes = file.object.size_bytes();
        let wanted = ByteRange::at(offset, u64::from(size_bytes));
        let Some(range) = wanted.and_then(|range| range.below(file_bytes)) else {
            self.send(unique, &Reply::Data(&[]));
            return Ok(());
        };
        // The reader's own fetch is started before any that is ahead of it.
        let jumps = file.read_ahead().jumps(range);
        let read = async {
            let (cache, object) = (&self.core.cache, &file.object);
            if jumps {
                cache.read_sparse(&self.origin, object, range).await
            } else {
                cache.read(&self.origin, object, range).await
            }
        };
        let mut read = std::pin::pin!(read);
        let view = if let std::task::Poll::Ready(done) = futures_util::poll!(read.as_mut()) {
            self.fetch_ahead(&file, range, false);
            Ok(done)
        } else {
            self.fetch_ahead(&file, range, true);
            let started = Instant::now();
            let view = self.interruptible(unique, read).await;
            let waited = started.elapsed();
            self.mount.counters.reader_wait.observe(waited);
            self.mount.plans.stalled(&file.object.version().key, waited);
            view
        };
        match view? {
            Ok(view) => self.send_view(unique, &view),
            Err(error) => return Err(self.read_failed(&file, range, &error)),
        }
        Ok(())
    }

    fn send_view(&self, unique: Unique, view: &View) {
        let counters = &self.mount.counters;
        let bytes = view.len_bytes() as u64;
        match view.tier() {
            Tier::Memory => counters.bytes_memory.add(bytes),
            Tier::Disk => counters.bytes_disk.add(bytes),
            Tier::S3 => counters.bytes_s3.add(bytes),
        }
        let slices: SmallVec<[IoSlice<'_>; 2]> = view.io_slices().collect();
        self.send(unique, &Reply::Data(&slices));
    }

    fn read_failed(&self, file: &OpenFile, range: ByteRange, error: &ReadError) -> Errno {
        let errno = errno::of_read(error);
        let version = file.object.version();
        self.mount.counters.errors.inc();
        if errno == Errno::ESTALE {
            self.mount.namespace.distrust(&version.key);
        }
        let mount = &self.mount.settings.name;
        let storage_class = self.mount.namespace.storage_class(&version.key);
        warn!(mount, key = &*version.key, %range, %error, %errno, storage_class, "read failed");
        errno
    }

    fn get_xattr(
        &self,
        unique: Unique,
        ino: Ino,
        name: &[u8],
        size_bytes: u32,
    ) -> Result<(), Errno> {
        attributes::check_kind(name)?;
        let node = self.mount.namespace.node(ino.0).map_err(errno::of_inode)?;
        let Node::File { key, facts } = node else { return Err(Errno::ENODATA) };
        let object = self.object(&key, &facts);
        let value = attributes::xattr(name, &facts, &object).ok_or(Errno::ENODATA)?;
        self.send_xattr(unique, &value, size_bytes)
    }

    fn list_xattr(&self, unique: Unique, ino: Ino, size_bytes: u32) -> Result<(), Errno> {
        let names = match self.mount.namespace.node(ino.0).map_err(errno::of_inode)? {
            Node::Directory { .. } => Vec::new(),
            Node::File { .. } => attributes::xattr_names(),
        };
        self.send_xattr(unique, &names, size_bytes)
    }

    /// The value, or its length when the caller asks with a buffer of no bytes.
    fn send_xattr(&self, unique: Unique, value: &[u8], size_bytes: u32) -> Result<(), Errno> {
        let length = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
        if size_bytes == 0 {
            self.send(unique, &Reply::XattrSize(length));
        } else if size_bytes < length {
            return Err(Errno::ERANGE);
        } else {
            self.send(unique, &Reply::Bytes(value));
        }
        Ok(())
    }
}
