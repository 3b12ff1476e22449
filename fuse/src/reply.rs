//! What the server answers, and how it becomes the bytes of one writev(2).
//!
//! Data is never copied here: a [`Reply::Data`] points at the frames, and the kernel copies from
//! them into its pages during the call.

mod directory;

use crate::abi::{self, ByteValued, OutHeader};
use crate::backing::BackingId;
use crate::errno::Errno;
use crate::request::{Fh, Ino, Unique};
pub use directory::{DirectoryBuffer, DirectoryEntry};
use std::io::IoSlice;
use std::ops::BitOr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An answer to one request. `request::Op` says which each wants.
#[derive(Debug)]
pub enum Reply<'a> {
    /// It failed.
    Error(Errno),
    /// It succeeded and there is nothing to say.
    Empty,
    /// A name was found, or is known to be absent ([`Entry::negative`]).
    Entry(&'a Entry),
    /// Attributes, and how long the kernel may keep them.
    Attr(&'a Attr, Duration),
    /// A file or directory was opened.
    Open {
        /// The server's number of it.
        fh: Fh,
        /// How the kernel shall treat it.
        flags: OpenFlags,
    },
    /// A file was opened whose bytes the kernel reads from a registered file. What pages it has of
    /// the inode it drops, and close(2) is not told of (`FOPEN_NOFLUSH`).
    OpenPassthrough {
        /// The server's number of it.
        fh: Fh,
        /// What to read.
        backing: BackingId,
    },
    /// Bytes of a file, in order. Never more than were asked.
    Data(&'a [IoSlice<'a>]),
    /// Entries of a directory.
    Directory(&'a DirectoryBuffer),
    /// Figures of the file system.
    StatFs(StatFs),
    /// How long the value is, for a caller who gave no room.
    XattrSize(u32),
    /// The value of an extended attribute, a list of their names, the target of a link.
    Bytes(&'a [u8]),
    /// An offset that was looked for.
    Lseek(u64),
}

/// How the kernel shall treat an open file. Combine with `|`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags(u32);

impl OpenFlags {
    /// Nothing special: pages of earlier opens are dropped.
    pub const NONE: Self = Self(0);
    /// Reads bypass the page cache.
    pub const DIRECT_IO: Self = Self(1);
    /// Pages of earlier opens stay.
    pub const KEEP_CACHE: Self = Self(2);
    /// lseek(2) fails.
    pub const NONSEEKABLE: Self = Self(4);
    /// The kernel may keep what READDIR answered.
    pub const CACHE_DIR: Self = Self(8);
    /// close(2) sends no FLUSH.
    pub const NOFLUSH: Self = Self(32);

    /// The bits of `fuse_open_out.open_flags`.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for OpenFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Attributes of an inode, as stat(2) shows them. Change and access time are the modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Number of the inode.
    pub ino: Ino,
    /// Length of the file.
    pub size_bytes: u64,
    /// Space it takes, in units of 512 bytes.
    pub blocks: u64,
    /// Last modification.
    pub mtime: SystemTime,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Preferred unit of reading, as `st_blksize`.
    pub block_bytes: u32,
}

/// A name that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The inode, [`Ino::NONE`] if the name is absent.
    pub ino: Ino,
    /// Tells apart inodes that had the same number one after the other.
    pub generation: u64,
    /// Attributes of the inode.
    pub attr: Attr,
    /// How long the kernel may keep the name.
    pub entry_ttl: Duration,
    /// How long the kernel may keep the attributes.
    pub attr_ttl: Duration,
}

impl Entry {
    /// The name is absent, and the kernel may take that for granted for `ttl`.
    pub const fn negative(ttl: Duration) -> Self {
        Self {
            ino: Ino::NONE,
            generation: 0,
            attr: Attr {
                ino: Ino::NONE,
                size_bytes: 0,
                blocks: 0,
                mtime: UNIX_EPOCH,
                mode: 0,
                nlink: 0,
                uid: 0,
                gid: 0,
                block_bytes: 0,
            },
            entry_ttl: ttl,
            attr_ttl: Duration::ZERO,
        }
    }
}

/// Figures of the file system, as statfs(2) shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Unit of the block counts.
    pub block_bytes: u32,
    /// All blocks.
    pub blocks: u64,
    /// Blocks not in use.
    pub blocks_free: u64,
    /// All inodes.
    pub files: u64,
    /// Inodes not in use.
    pub files_free: u64,
    /// Longest name.
    pub name_bytes_max: u32,
}

/// What kind of thing a directory entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    SymLink,
}

impl FileKind {
    /// The type bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Directory => libc::S_IFDIR,
            Self::File => libc::S_IFREG,
            Self::SymLink => libc::S_IFLNK,
        }
    }

    /// The `d_type` of readdir(3).
    const fn dirent_type(self) -> u32 {
        self.mode_bits() >> 12
    }
}

/// Longest answer that is not data: header and entry.
const HEAD_BYTES_MAX: usize = size_of::<OutHeader>() + size_of::<abi::EntryOut>();

/// The first part of a reply's message: header and fixed structure.
pub(crate) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl Head {
    /// The bytes to send before the payload.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new(unique: Unique, error: i32, fixed: &[u8], payload_bytes: usize) -> Self {
        let len = size_of::<OutHeader>() + fixed.len();
        // A reply beyond 4 GiB would be our bug; the kernel refuses the length we then state.
        let total = u32::try_from(len + payload_bytes).unwrap_or(u32::MAX);
        let header = OutHeader { len: total, error, unique: unique.0 };
        let mut bytes = [0; HEAD_BYTES_MAX];
        bytes[..size_of::<OutHeader>()].copy_from_slice(header.as_slice());
        bytes[size_of::<OutHeader>()..len].copy_from_slice(fixed);
        Self { bytes, len }
    }
}

/// The second part of a reply's message.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    One(&'a [u8]),
    Many(&'a [IoSlice<'a>]),
}

impl Payload<'_> {
    /// Number of bytes.
    pub(crate) fn len_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(slices) => slices.iter().map(|slice| slice.len()).sum(),
        }
    }
}

impl<'a> Reply<'a> {
    /// The message that answers `unique` with this.
    pub(crate) fn encode(&self, unique: Unique) -> (Head, Payload<'a>) {
        let fixed = |fixed: &[u8]| (Head::new(unique, 0, fixed, 0), Payload::None);
        match *self {
            Self::Error(errno) => (Head::new(unique, -errno.raw(), &[], 0), Payload::None),
            Self::Empty => fixed(&[]),
            Self::Entry(entry) => fixed(entry_out(entry).as_slice()),
            Self::Attr(attr, ttl) => {
                let (attr_valid, attr_valid_nsec) = (ttl.as_secs(), ttl.subsec_nanos());
                let attr = attr_out(attr);
                fixed(abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr }.as_slice())
            }
            Self::Open { fh, flags } => fixed(
                abi::OpenOut { fh: fh.0, open_flags: flags.bits(), passthrough: 0 }.as_slice(),
            ),
            Self::OpenPassthrough { fh, backing } => {
                // No other flag goes with it but those of direct I/O.
                let open_flags = abi::FOPEN_PASSTHROUGH | OpenFlags::NOFLUSH.bits();
                fixed(abi::OpenOut { fh: fh.0, open_flags, passthrough: backing.0 }.as_slice())
            }
            Self::StatFs(figures) => fixed(abi::StatfsOut { st: kstatfs(&figures) }.as_slice()),
            Self::XattrSize(size) => fixed(abi::GetxattrOut { size, padding: 0 }.as_slice()),
            Self::Lseek(offset) => fixed(abi::LseekOut { offset }.as_slice()),
            Self::Data(slices) => payload(unique, Payload::Many(slices)),
            Self::Directory(buffer) => payload(unique, Payload::One(buffer.bytes())),
            Self::Bytes(bytes) => payload(unique, Payload::One(bytes)),
        }
    }
}

fn payload(unique: Unique, payload: Payload<'_>) -> (Head, Payload<'_>) {
    (Head::new(unique, 0, &[], payload.len_bytes()), payload)
}

fn entry_out(entry: &Entry) -> abi::EntryOut {
    abi::EntryOut {
        nodeid: entry.ino.0,
        generation: entry.generation,
        entry_valid: entry.entry_ttl.as_secs(),
        attr_valid: entry.attr_ttl.as_secs(),
        entry_valid_nsec: entry.entry_ttl.subsec_nanos(),
        attr_valid_nsec: entry.attr_ttl.subsec_nanos(),
        attr: attr_out(&entry.attr),
    }
}

fn attr_out(attr: &Attr) -> abi::Attr {
    let (seconds, nanoseconds) = since_epoch(attr.mtime);
    abi::Attr {
        ino: attr.ino.0,
        size: attr.size_bytes,
        blocks: attr.blocks,
        atime: seconds,
        mtime: seconds,
        ctime: seconds,
        atimensec: nanoseconds,
        mtimensec: nanoseconds,
        ctimensec: nanoseconds,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block_bytes,
        flags: 0,
    }
}

/// Seconds and nanoseconds of `time` as the kernel wants them: before 1970 the seconds are negative
/// in two's complement and the nanoseconds still count forward.
fn since_epoch(time: SystemTime) -> (u64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs(), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let (seconds, nanoseconds) = match before.subsec_nanos() {
                0 => (before.as_secs(), 0),
                nanoseconds => (before.as_secs() + 1, 1_000_000_000 - nanoseconds),
            };
            (seconds.wrapping_neg(), nanoseconds)
        }
    }
}

fn kstatfs(figures: &StatFs) -> abi::Kstatfs {
    abi::Kstatfs {
        blocks: figures.blocks,
        bfree: figures.blocks_free,
        bavail: figures.blocks_free,
        files: figures.files,
        ffree: figures.files_free,
        bsize: figures.block_bytes,
        namelen: figures.name_bytes_max,
        frsize: figures.block_bytes,
        padding: 0,
        spare: [0; 6],
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::abi::read_front;

    pub(crate) fn attr() -> Attr {
        Attr {
            ino: Ino(7),
            size_bytes: 1_000_000,
            blocks: 1954,
            mtime: UNIX_EPOCH + Duration::new(1_700_000_000, 250),
            mode: libc::S_IFREG | 0o444,
            nlink: 1,
            uid: 1000,
            gid: 1001,
            block_bytes: 4096,
        }
    }

    pub(crate) fn entry() -> Entry {
        Entry {
            ino: Ino(7),
            generation: 3,
            attr: attr(),
            entry_ttl: Duration::from_millis(60_500),
            attr_ttl: Duration::from_secs(5),
        }
    }

    /// Header and everything behind it, as the kernel would see them.
    #[track_caller]
    fn message(reply: &Reply<'_>) -> (OutHeader, Vec<u8>) {
        let (head, payload) = reply.encode(Unique(99));
        let mut bytes = head.bytes().to_vec();
        match payload {
            Payload::None => {}
            Payload::One(one) => bytes.extend_from_slice(one),
            Payload::Many(many) => many.iter().for_each(|slice| bytes.extend_from_slice(slice)),
        }
        let (header, body) = read_front::<OutHeader>(&bytes).unwrap();
        assert_eq!(header.len as usize, bytes.len(), "the header states the true length");
        assert_eq!(header.unique, 99);
        (header, body.to_vec())
    }

    #[test]
    fn every_reply_states_its_length_and_carries_its_structure() {
        let directory = DirectoryBuffer::new(4096, crate::request::Listing::Plain);
        let slices = [IoSlice::new(b"tender"), IoSlice::new(b""), IoSlice::new(b"fs")];
        let figures = StatFs {
            block_bytes: 4096,
            blocks: 10,
            blocks_free: 4,
            files: 100,
            files_free: 50,
            name_bytes_max: 255,
        };
        let flags = OpenFlags::KEEP_CACHE | OpenFlags::CACHE_DIR;
        for (reply, error, body_bytes) in [
            (Reply::Error(Errno::EROFS), -libc::EROFS, 0),
            (Reply::Empty, 0, 0),
            (Reply::Entry(&entry()), 0, 128),
            (Reply::Attr(&attr(), Duration::from_secs(1)), 0, 104),
            (Reply::Open { fh: Fh(8), flags }, 0, 16),
            (Reply::OpenPassthrough { fh: Fh(8), backing: BackingId(3) }, 0, 16),
            (Reply::Data(&slices), 0, 8),
            (Reply::Directory(&directory), 0, 0),
            (Reply::StatFs(figures), 0, 80),
            (Reply::XattrSize(12), 0, 8),
            (Reply::Bytes(b"value"), 0, 5),
            (Reply::Lseek(1 << 40), 0, 8),
        ] {
            let (header, body) = message(&reply);
            assert_eq!((header.error, body.len()), (error, body_bytes), "{reply:?}");
        }
        assert_eq!(message(&Reply::Data(&slices)).1, b"tenderfs");
        let open =
            read_front::<abi::OpenOut>(&message(&Reply::Open { fh: Fh(8), flags }).1).unwrap().0;
        assert_eq!((open.fh, open.open_flags), (8, 2 | 8));
        let passthrough = Reply::OpenPassthrough { fh: Fh(8), backing: BackingId(3) };
        let open = read_front::<abi::OpenOut>(&message(&passthrough).1).unwrap().0;
        assert_eq!((open.fh, open.passthrough), (8, 3));
        assert_eq!(open.open_flags, 1 << 7 | 1 << 5, "passed through, and no FLUSH");
    }

    #[test]
    fn an_entry_carries_its_inode_times_and_time_outs() {
        let (_, body) = message(&Reply::Entry(&entry()));
        let (out, _) = read_front::<abi::EntryOut>(&body).unwrap();
        assert_eq!((out.nodeid, out.generation), (7, 3));
        assert_eq!((out.entry_valid, out.entry_valid_nsec), (60, 500_000_000));
        assert_eq!((out.attr_valid, out.attr_valid_nsec), (5, 0));
        assert_eq!((out.attr.mtime, out.attr.mtimensec), (1_700_000_000, 250));
        assert_eq!((out.attr.ctime, out.attr.atime), (out.attr.mtime, out.attr.mtime));
        assert_eq!((out.attr.size, out.attr.mode), (1_000_000, libc::S_IFREG | 0o444));
        let (_, body) = message(&Reply::Entry(&Entry::negative(Duration::from_secs(5))));
        let (out, _) = read_front::<abi::EntryOut>(&body).unwrap();
        assert_eq!((out.nodeid, out.entry_valid), (0, 5));
    }

    #[test]
    fn times_before_1970_count_forward_from_a_negative_second() {
        for (time, seconds, nanoseconds) in [
            (UNIX_EPOCH, 0_i64, 0),
            (UNIX_EPOCH + Duration::new(5, 7), 5, 7),
            (UNIX_EPOCH - Duration::new(5, 0), -5, 0),
            (UNIX_EPOCH - Duration::new(5, 1), -6, 999_999_999),
        ] {
            assert_eq!(since_epoch(time), (seconds.cast_unsigned(), nanoseconds));
        }
    }
}
