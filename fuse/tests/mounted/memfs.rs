//! A file system in memory, served by the crate's channels on two io_uring runtimes.
//!
//! ```text
//! /hello          "hello, tender\n", extended attribute user.tenderfs.etag
//! /big            BIG_BYTES of a pattern that tells every offset
//! /versioned      VERSIONED_BYTES of the letter of the current version
//! /blocked        every read waits for an INTERRUPT
//! /lent           LENT_BYTES of `d` from the server, or a registered file
//! /many/file_N    MANY empty files
//! ```

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tenderfs_fuse::{
    Access, Attr, Backing, Channel, Counters, Device, DirectoryBuffer, DirectoryEntry, Entry,
    Errno, Fh, FileKind, Ino, Listing, MountOptions, Negotiated, Op, OpenFlags, ReadDirPlus,
    Received, Reply, Request, Sent, Session, StatFs, TransportKind, Unique, Unmount, Wish,
    ring_obstacle, unmount,
};
use tokio::sync::{mpsc, oneshot};

/// Most cores that serve a mount; two share the runtime's epoll, more are woken one by one.
pub(crate) const CORES_MAX: usize = 4;
pub(crate) const HELLO: &[u8] = b"hello, tender\n";
pub(crate) const BIG_BYTES: u64 = 8 << 20;
pub(crate) const VERSIONED_BYTES: u64 = 64 << 10;
pub(crate) const LENT_BYTES: u64 = 256 << 10;
pub(crate) const MANY: u64 = 5000;
pub(crate) const ETAG: (&str, &[u8]) = ("user.tenderfs.etag", b"\"0123456789abcdef\"");

const HELLO_INO: Ino = Ino(2);
const BIG_INO: Ino = Ino(3);
const VERSIONED_INO: Ino = Ino(4);
const BLOCKED_INO: Ino = Ino(5);
const MANY_INO: Ino = Ino(6);
const LENT_INO: Ino = Ino(7);
const MANY_FIRST: u64 = 1000;
const TTL: Duration = Duration::from_mins(1);

/// The byte of `/big` at `offset`.
pub(crate) fn big_byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

pub(crate) fn mtime() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789)
}

/// What all cores share, and what tests look at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) forgotten: Mutex<HashMap<Ino, u64>>,
    pub(crate) interrupts: AtomicU64,
    pub(crate) largest_read_bytes: AtomicU64,
    pub(crate) served: [AtomicU64; CORES_MAX],
    pub(crate) version: AtomicU8,
    pub(crate) reads_waiting: AtomicU64,
    /// What opens of `/lent` name, and reads of it that came to the server.
    pub(crate) lent: Mutex<Option<Arc<Backing>>>,
    pub(crate) lent_reads: AtomicU64,
    pub(crate) lent_releases: AtomicU64,
    waiting: Mutex<HashMap<Unique, oneshot::Sender<()>>>,
    early: Mutex<Vec<Unique>>,
}

/// What a test makes a core do.
pub(crate) enum Command {
    InvalEntry(Ino, Vec<u8>, oneshot::Sender<()>),
    InvalInode(Ino, oneshot::Sender<()>),
}

/// A mount that goes away when dropped, whatever happened.
pub(crate) struct Mounted {
    pub(crate) dir: TempDir,
    pub(crate) session: Option<Session>,
    pub(crate) negotiated: Negotiated,
    pub(crate) seen: Arc<Seen>,
    commands: mpsc::UnboundedSender<Command>,
    threads: Vec<JoinHandle<()>>,
}

/// Unmounts lazily when dropped, also while a test panics.
pub(crate) struct UnmountOnDrop(pub(crate) PathBuf);

impl Drop for UnmountOnDrop {
    fn drop(&mut self) {
        while unmount(&self.0, Unmount::Lazy).is_ok() {}
    }
}

/// Whether this machine can mount; says so if not.
pub(crate) fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if !root || device.is_err() {
        println!("skipped: mounting needs root and /dev/fuse");
        return false;
    }
    if crate::TRANSPORT == TransportKind::Ring
        && let Some(obstacle) = ring_obstacle()
    {
        println!("skipped: {obstacle}");
        return false;
    }
    true
}

pub(crate) fn wish() -> Wish {
    Wish {
        request_bytes_max: 1 << 20,
        read_ahead_bytes: 1 << 20,
        max_background: 64,
        congestion_threshold: 48,
        readdirplus: ReadDirPlus::Auto,
        transport: crate::TRANSPORT,
        passthrough: true,
    }
}

pub(crate) fn options(mountpoint: &Path) -> MountOptions {
    MountOptions {
        source: "s3://test, with \\ comma/".into(),
        mountpoint: mountpoint.into(),
        read_only: true,
        access: Access::OwnerOnly,
    }
}

impl Mounted {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn on_cores(cores: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::mount(&options(dir.path())).unwrap();
        Self::serve(dir, session, cores)
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut MountOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        adjust(&mut options);
        Self::serve(dir, Session::mount(&options).unwrap(), 2)
    }

    /// Serves `session`, mounted on `dir`, by `cores` threads.
    pub(crate) fn serve(dir: TempDir, mut session: Session, cores: usize) -> Self {
        let guard = UnmountOnDrop(dir.path().to_owned());
        let negotiated = session.negotiate(&wish()).unwrap();
        let seen = Arc::new(Seen { version: AtomicU8::new(b'a'), ..Seen::default() });
        let (commands, receiver) = mpsc::unbounded_channel();
        let mut receiver = Some(receiver);
        let devices: Vec<_> = (0..cores).map(|_| session.device().unwrap()).collect();
        let threads = devices
            .into_iter()
            .enumerate()
            .map(|(core, device)| {
                let (negotiated, seen) = (negotiated.clone(), Arc::clone(&seen));
                let receiver = receiver.take();
                thread::spawn(move || run_core(core, device, &negotiated, seen, receiver))
            })
            .collect();
        std::mem::forget(guard);
        Self { dir, session: Some(session), negotiated, seen, commands, threads }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.session.as_ref().unwrap().counters()
    }

    pub(crate) fn inval_entry(&self, parent: Ino, name: &[u8]) {
        let (done, wait) = oneshot::channel();
        self.commands.send(Command::InvalEntry(parent, name.to_vec(), done)).ok().unwrap();
        wait.blocking_recv().unwrap();
    }

    pub(crate) fn inval_versioned(&self) {
        let (done, wait) = oneshot::channel();
        self.commands.send(Command::InvalInode(VERSIONED_INO, done)).ok().unwrap();
        wait.blocking_recv().unwrap();
    }

    /// Waits for the cores to end, which they do when the mount is gone.
    pub(crate) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(UnmountOnDrop(self.dir.path().to_owned()));
        if !thread::panicking() {
            self.join();
        }
    }
}

fn run_core(
    core: usize,
    device: Device,
    negotiated: &Negotiated,
    seen: Arc<Seen>,
    commands: Option<mpsc::UnboundedReceiver<Command>>,
) {
    tokio_uring::start(async {
        let channel = device.open(negotiated).unwrap();
        if let Some(mut commands) = commands {
            let channel = channel.clone();
            tokio_uring::spawn(async move {
                while let Some(command) = commands.recv().await {
                    obey(&channel, command).await;
                }
            });
        }
        let server = Rc::new(Server { channel, seen });
        while let Received::Request(request) = server.channel.receive().await.unwrap() {
            server.seen.served[core].fetch_add(1, Ordering::Relaxed);
            let server = Rc::clone(&server);
            tokio_uring::spawn(async move { server.answer(request).await });
        }
    });
}

async fn obey(channel: &Channel, command: Command) {
    match command {
        Command::InvalEntry(parent, name, done) => {
            channel.notify_inval_entry(parent, &name).await.unwrap();
            done.send(()).unwrap();
        }
        Command::InvalInode(ino, done) => {
            channel.notify_inval_inode(ino, None).await.unwrap();
            done.send(()).unwrap();
        }
    }
}

struct Server {
    channel: Channel,
    seen: Arc<Seen>,
}

impl Server {
    fn send(&self, unique: Unique, reply: &Reply<'_>) {
        let sent = self.channel.send(unique, reply).unwrap();
        assert!(matches!(sent, Sent::Delivered | Sent::Gone | Sent::Unmounted));
    }

    async fn answer(&self, request: Request) {
        let Request { unique, ino, op, .. } = request;
        let error = |errno| self.send(unique, &Reply::Error(errno));
        match op {
            Op::Lookup { name } => match lookup(ino, &name) {
                Some(found) => self.send(unique, &Reply::Entry(&entry(found))),
                None => self.send(unique, &Reply::Entry(&Entry::negative(TTL))),
            },
            Op::Forget { lookups } => self.forget(ino, lookups),
            Op::BatchForget(all) => all.iter().for_each(|(ino, n)| self.forget(*ino, *n)),
            Op::GetAttr { .. } => self.send(unique, &Reply::Attr(&attr(ino), TTL)),
            Op::Open { .. } if ino == LENT_INO => {
                let fh = Fh(ino.0);
                let lent = self.seen.lent.lock().unwrap().clone();
                let reply = match &lent {
                    Some(backing) => Reply::OpenPassthrough { fh, backing: backing.id() },
                    None => Reply::Open { fh, flags: OpenFlags::KEEP_CACHE },
                };
                self.send(unique, &reply);
            }
            Op::Open { .. } => {
                self.send(unique, &Reply::Open { fh: Fh(ino.0), flags: OpenFlags::KEEP_CACHE });
            }
            Op::OpenDir { .. } => {
                self.send(unique, &Reply::Open { fh: Fh(ino.0), flags: OpenFlags::NONE });
            }
            Op::Read { offset, size_bytes, .. } => {
                self.read(unique, ino, offset, size_bytes).await;
            }
            Op::ReadDir { offset, size_bytes, listing, .. } => {
                let mut buffer = DirectoryBuffer::new(size_bytes, listing);
                list(ino, offset, &mut buffer);
                self.send(unique, &Reply::Directory(&buffer));
            }
            Op::Release { .. } if ino == LENT_INO => {
                self.seen.lent_releases.fetch_add(1, Ordering::SeqCst);
                self.send(unique, &Reply::Empty);
            }
            Op::Release { .. } | Op::ReleaseDir { .. } | Op::Destroy | Op::Access { .. } => {
                self.send(unique, &Reply::Empty);
            }
            Op::StatFs => self.send(unique, &Reply::StatFs(statfs())),
            Op::GetXattr { name, size_bytes } if ino == HELLO_INO && name == ETAG.0.as_bytes() => {
                self.sized(unique, ETAG.1, size_bytes);
            }
            Op::GetXattr { .. } => error(Errno::ENODATA),
            Op::ListXattr { size_bytes } if ino == HELLO_INO => {
                self.sized(unique, format!("{}\0", ETAG.0).as_bytes(), size_bytes);
            }
            Op::ListXattr { size_bytes } => self.sized(unique, b"", size_bytes),
            Op::Interrupt { target } => self.interrupt(target),
            Op::Mutation(_) => error(Errno::EROFS),
            Op::Flush { .. }
            | Op::Fsync { .. }
            | Op::FsyncDir
            | Op::ReadLink
            | Op::Lseek { .. }
            | Op::Unknown { .. } => error(Errno::ENOSYS),
        }
    }

    fn sized(&self, unique: Unique, value: &[u8], size_bytes: u32) {
        let length = u32::try_from(value.len()).unwrap();
        let reply = match size_bytes {
            0 => Reply::XattrSize(length),
            room if room < length => Reply::Error(Errno::ERANGE),
            _ => Reply::Bytes(value),
        };
        self.send(unique, &reply);
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        *self.seen.forgotten.lock().unwrap().entry(ino).or_default() += lookups;
    }

    async fn read(&self, unique: Unique, ino: Ino, offset: u64, size_bytes: u32) {
        if ino == BLOCKED_INO {
            return self.wait_for_interrupt(unique).await;
        }
        let size = u64::from(size_bytes);
        self.seen.largest_read_bytes.fetch_max(size, Ordering::Relaxed);
        let end = attr(ino).size_bytes.min(offset + size);
        let bytes: Vec<u8> = match ino {
            BIG_INO => (offset..end).map(big_byte).collect(),
            VERSIONED_INO => {
                let version = self.seen.version.load(Ordering::Relaxed);
                (offset..end).map(|_| version).collect()
            }
            LENT_INO => {
                self.seen.lent_reads.fetch_add(1, Ordering::SeqCst);
                (offset..end).map(|_| b'd').collect()
            }
            HELLO_INO => HELLO.iter().skip(usize::try_from(offset).unwrap()).copied().collect(),
            _ => vec![],
        };
        // In pieces of 64 KiB and with an empty one, as frames would come.
        let mut slices: Vec<IoSlice<'_>> = bytes.chunks(64 << 10).map(IoSlice::new).collect();
        slices.push(IoSlice::new(&[]));
        self.send(unique, &Reply::Data(&slices));
    }

    async fn wait_for_interrupt(&self, unique: Unique) {
        let (sender, receiver) = oneshot::channel();
        self.seen.waiting.lock().unwrap().insert(unique, sender);
        let early = self.seen.early.lock().unwrap().contains(&unique);
        self.seen.reads_waiting.fetch_add(1, Ordering::SeqCst);
        if !early {
            receiver.await.unwrap();
        }
        self.send(unique, &Reply::Error(Errno::EINTR));
    }

    /// The interrupted request may be on the other core, or be read by it after this.
    fn interrupt(&self, target: Unique) {
        self.seen.interrupts.fetch_add(1, Ordering::SeqCst);
        let mut waiting = self.seen.waiting.lock().unwrap();
        match waiting.remove(&target) {
            Some(sender) => sender.send(()).unwrap(),
            None => self.seen.early.lock().unwrap().push(target),
        }
    }
}

fn lookup(parent: Ino, name: &[u8]) -> Option<Ino> {
    match (parent, name) {
        (Ino::ROOT, b"hello") => Some(HELLO_INO),
        (Ino::ROOT, b"big") => Some(BIG_INO),
        (Ino::ROOT, b"versioned") => Some(VERSIONED_INO),
        (Ino::ROOT, b"blocked") => Some(BLOCKED_INO),
        (Ino::ROOT, b"many") => Some(MANY_INO),
        (Ino::ROOT, b"lent") => Some(LENT_INO),
        (MANY_INO, name) => {
            let number = std::str::from_utf8(name).ok()?.strip_prefix("file_")?;
            let number: u64 = number.parse().ok().filter(|number| *number < MANY)?;
            Some(Ino(MANY_FIRST + number))
        }
        _ => None,
    }
}

fn attr(ino: Ino) -> Attr {
    let (kind, size_bytes) = match ino {
        Ino::ROOT | MANY_INO => (FileKind::Directory, 0),
        HELLO_INO => (FileKind::File, HELLO.len() as u64),
        BIG_INO | BLOCKED_INO => (FileKind::File, BIG_BYTES),
        VERSIONED_INO => (FileKind::File, VERSIONED_BYTES),
        LENT_INO => (FileKind::File, LENT_BYTES),
        _ => (FileKind::File, 0),
    };
    let permissions = if kind == FileKind::Directory { 0o555 } else { 0o444 };
    Attr {
        ino,
        size_bytes,
        blocks: size_bytes.div_ceil(512),
        mtime: mtime(),
        mode: kind.mode_bits() | permissions,
        nlink: 1,
        uid: 0,
        gid: 0,
        // The C library reads directories in pieces of at least this.
        block_bytes: if kind == FileKind::Directory { 4096 } else { 1 << 20 },
    }
}

fn entry(ino: Ino) -> Entry {
    Entry { ino, generation: 0, attr: attr(ino), entry_ttl: TTL, attr_ttl: TTL }
}

/// Appends the entries behind `offset`, which counts them from 0.
fn list(directory: Ino, offset: u64, buffer: &mut DirectoryBuffer) {
    let names: Vec<String> = match directory {
        Ino::ROOT => ["hello", "big", "versioned", "blocked", "many"].map(String::from).to_vec(),
        _ => (0..MANY).map(|number| format!("file_{number}")).collect(),
    };
    let all = [".".to_owned(), "..".to_owned()].into_iter().chain(names);
    for (index, name) in all.enumerate().skip(usize::try_from(offset).unwrap()) {
        let found = lookup(directory, name.as_bytes());
        let entry = found.filter(|_| buffer.listing() == Listing::Plus).map(entry);
        let ino = found.unwrap_or(directory);
        let kind = if attr(ino).mode & libc::S_IFMT == libc::S_IFDIR {
            FileKind::Directory
        } else {
            FileKind::File
        };
        let next_offset = index as u64 + 1;
        let name = name.as_bytes();
        if !buffer.push(&DirectoryEntry { name, ino, kind, next_offset, entry: entry.as_ref() }) {
            return;
        }
    }
}

pub(crate) fn statfs() -> StatFs {
    StatFs {
        block_bytes: 4096,
        blocks: 1 << 30,
        blocks_free: 1 << 29,
        files: 1 << 20,
        files_free: 0,
        name_bytes_max: 255,
    }
}

/// Names in `dir`, sorted.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| {
            let name = entry?.file_name();
            Ok(String::from_utf8_lossy(name.as_bytes()).into_owned())
        })
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}
