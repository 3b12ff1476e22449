//! A FUSE server that answers every read from one buffer: what FUSE itself allows, on the daemon's own transport.
//!
//! It shows files named `0`, `1`, ... of the sizes asked for. It knows no object, no cache and no name but these, so what
//! the daemon is slower than this is the daemon's own doing.

use std::io::{self, IoSlice, Read};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::stat::SFlag;
use nix::unistd::Pid;
use tenderfs_fuse::{
    Access, Attr, Channel, DirectoryBuffer, Entry, Errno, Fh, Ino, MountOptions, Negotiated, Op,
    OpenFlags, Received, Reply, Request, Session, Unmount, unmount,
};

use crate::compare::fuse_options::default_wish;

/// Number of the first file's inode; 1 is the root.
const FIRST_INO: u64 = 2;
/// How long the kernel may keep names and attributes: they never change.
const TTL: Duration = Duration::from_hours(1);

/// Arguments of `null-server`.
#[derive(Debug, Clone, Args)]
pub struct NullServerArgs {
    /// An empty directory to mount on
    pub directory: PathBuf,
    /// Bytes of a file; given once for each file, which are named 0, 1, ...
    #[arg(long = "file", value_name = "BYTES", required = true)]
    pub files: Vec<u64>,
    /// How requests and replies travel
    #[arg(long, value_enum, default_value_t = Transport::Device)]
    pub transport: Transport,
    /// Bytes that reads are answered from; more than the processor's caches hold shows what memory costs
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    pub buffer: usize,
}

/// How requests and replies travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// /dev/fuse, a descriptor for each core
    Device,
}

/// Serves until standard input ends. Says one line, `ready`, when the mount answers.
pub fn main(args: &NullServerArgs) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Transport::Device = args.transport;
    let mut session = Session::mount(&MountOptions {
        source: "null".to_owned(),
        mountpoint: args.directory.clone(),
        read_only: true,
        access: Access::OwnerOnly,
    })?;
    let served = serve(args, &mut session);
    unmount(&args.directory, Unmount::Lazy)?;
    drop(session);
    for thread in served? {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(())
}

type Threads = Vec<thread::JoinHandle<Result<(), tenderfs_fuse::Error>>>;

fn serve(args: &NullServerArgs, session: &mut Session) -> Result<Threads, tenderfs_fuse::Error> {
    let wish = default_wish();
    let negotiated = session.negotiate(&wish)?;
    // Without root it stays what it is, for the daemon too.
    session.set_read_ahead(u64::from(wish.read_ahead_bytes)).ok();
    let processors = processors();
    let devices = processors.iter().map(|_| session.device()).collect::<Result<Vec<_>, _>>()?;
    let mut threads = Vec::new();
    for (device, processor) in devices.into_iter().zip(processors) {
        let (negotiated, files, buffer_bytes) =
            (negotiated.clone(), args.files.clone(), args.buffer);
        threads.push(thread::spawn(move || {
            pin(processor);
            tokio_uring::start(async move {
                let channel = device
                    .open(&negotiated)
                    .map_err(|source| tenderfs_fuse::Error::Receive { source })?;
                Core::new(&negotiated, files, buffer_bytes).run(&channel).await
            })
        }));
    }
    println!("ready");
    drop(io::stdin().read_to_end(&mut Vec::new()));
    Ok(threads)
}

/// The processors this process may use, which get a thread each.
fn processors() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let mut all: Vec<_> =
        (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).collect();
    all.truncate(16);
    if all.is_empty() { vec![0] } else { all }
}

/// Binds this thread to one processor, as the daemon does with its own; where that is refused it runs anywhere.
fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).ok();
}

/// One core's part.
struct Core {
    files: Vec<u64>,
    buffer: Vec<u8>,
    request_bytes_max: usize,
}

impl Core {
    fn new(negotiated: &Negotiated, files: Vec<u64>, buffer_bytes: usize) -> Core {
        let request_bytes_max = usize::try_from(negotiated.request_bytes_max).unwrap_or(usize::MAX);
        let buffer = vec![1; buffer_bytes.max(request_bytes_max)];
        Core { files, buffer, request_bytes_max }
    }

    async fn run(&self, channel: &Channel) -> Result<(), tenderfs_fuse::Error> {
        while let Received::Request(request) = channel.receive().await? {
            if request.op.wants_reply() {
                self.answer(channel, &request)?;
            }
        }
        Ok(())
    }

    fn answer(&self, channel: &Channel, request: &Request) -> Result<(), tenderfs_fuse::Error> {
        let send = |reply: &Reply<'_>| channel.send(request.unique, reply).map(drop);
        match &request.op {
            Op::Read { offset, size_bytes, .. } => {
                let bytes = self.bytes(request.ino, *offset, *size_bytes);
                send(&Reply::Data(&[IoSlice::new(bytes)]))
            }
            Op::Lookup { name } => match self.lookup(name) {
                Some(ino) => send(&Reply::Entry(&self.entry(ino))),
                None => send(&Reply::Error(Errno::ENOENT)),
            },
            Op::GetAttr { .. } => send(&Reply::Attr(&self.attr(request.ino), TTL)),
            Op::Open { .. } => send(&Reply::Open { fh: Fh(0), flags: OpenFlags::KEEP_CACHE }),
            Op::OpenDir { .. } => send(&Reply::Open { fh: Fh(0), flags: OpenFlags::NONE }),
            Op::ReadDir { size_bytes, listing, .. } => {
                send(&Reply::Directory(&DirectoryBuffer::new(*size_bytes, *listing)))
            }
            Op::Release { .. } | Op::ReleaseDir { .. } | Op::Destroy => send(&Reply::Empty),
            // FLUSH too: then the kernel does not ask at close(2).
            _ => send(&Reply::Error(Errno::ENOSYS)),
        }
    }

    /// The bytes of a read. With a buffer of many requests' size they move on with the offset.
    fn bytes(&self, ino: Ino, offset: u64, size_bytes: u32) -> &[u8] {
        let left = self.len_bytes(ino).saturating_sub(offset).min(u64::from(size_bytes));
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.request_bytes_max);
        let room = self.buffer.len() - self.request_bytes_max + 1;
        let start = usize::try_from(offset).unwrap_or(0) % room;
        &self.buffer[start..start + len]
    }

    fn len_bytes(&self, ino: Ino) -> u64 {
        let index = ino.0.checked_sub(FIRST_INO).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.files.get(index)).copied().unwrap_or(0)
    }

    fn lookup(&self, name: &[u8]) -> Option<Ino> {
        let index: usize = std::str::from_utf8(name).ok()?.parse().ok()?;
        (index < self.files.len()).then_some(Ino(FIRST_INO + index as u64))
    }

    fn entry(&self, ino: Ino) -> Entry {
        Entry { ino, generation: 0, attr: self.attr(ino), entry_ttl: TTL, attr_ttl: TTL }
    }

    fn attr(&self, ino: Ino) -> Attr {
        let mode = if ino == Ino::ROOT {
            SFlag::S_IFDIR.bits() | 0o755
        } else {
            SFlag::S_IFREG.bits() | 0o444
        };
        let size_bytes = self.len_bytes(ino);
        Attr {
            ino,
            size_bytes,
            blocks: size_bytes / 512,
            mtime: UNIX_EPOCH,
            mode,
            nlink: 1,
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            block_bytes: 4096,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> Core {
        Core { files: vec![10, 300], buffer: vec![1; 256], request_bytes_max: 128 }
    }

    #[test]
    fn files_are_named_by_their_number() {
        let core = core();
        assert_eq!(core.lookup(b"1"), Some(Ino(3)));
        for name in [&b"2"[..], b"x", b"", b"\xff"] {
            assert_eq!(core.lookup(name), None, "{name:?}");
        }
    }

    #[test]
    fn read_ends_with_its_file_and_its_request() {
        let core = core();
        let len = |ino, offset, size| core.bytes(Ino(ino), offset, size).len();
        assert_eq!((len(2, 0, 4096), len(2, 4, 4), len(2, 10, 4)), (10, 4, 0));
        assert_eq!((len(3, 0, 4096), len(3, 250, 4096), len(9, 0, 1)), (128, 50, 0));
    }
}
