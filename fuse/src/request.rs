//! What the kernel asks, as a closed enum that owns its data.
//!
//! A [`Request`] is handed to a spawned task, so it borrows nothing from the buffer it was read
//! into. Names are bytes: the kernel promises neither UTF-8 nor anything else but "no `/`, no NUL".

mod decode;

use std::fmt;

pub use decode::{Fault, Malformed};

/// Number of an inode in the mounted file system; the root is [`Ino::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
    /// No inode: the answer to a LOOKUP of an absent name that the kernel may remember.
    pub const NONE: Self = Self(0);
}

/// The server's own number of an open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fh(pub u64);

/// Identity of a request; a reply carries that of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unique(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The process whose system call became the request. All zero where the kernel asks on its own
/// behalf (FORGET, read-ahead from a kernel thread).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User id of the file system's credentials.
    pub uid: u32,
    /// Group id of the file system's credentials.
    pub gid: u32,
    /// Thread id as the mount's pid namespace sees it.
    pub pid: u32,
}

/// One request of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What a reply must carry.
    pub unique: Unique,
    /// The inode it is about; [`Ino::NONE`] for requests about none.
    pub ino: Ino,
    /// Who asks.
    pub caller: Caller,
    /// What is asked.
    pub op: Op,
}

impl Request {
    /// Reads one request from the bytes of one read of /dev/fuse. Total: any bytes give a request
    /// or a [`Malformed`], never a panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode::decode(bytes)
    }
}

/// What is asked. Offsets and lengths are in bytes.
///
/// Which reply each wants is said at the variant; each may be answered with `Reply::Error` unless
/// it says "no reply".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Find `name` in the directory: `Reply::Entry`. Each answer with an inode adds one to the
    /// lookups the kernel will give back by FORGET.
    Lookup {
        /// One path component.
        name: Vec<u8>,
    },
    /// The kernel dropped the inode and gives back its lookups. No reply.
    Forget {
        /// How many lookups are given back.
        lookups: u64,
    },
    /// Many [`Op::Forget`] in one message. No reply.
    BatchForget(Vec<(Ino, u64)>),
    /// Attributes: `Reply::Attr`.
    GetAttr {
        /// The open file through which fstat(2) came, if any.
        fh: Option<Fh>,
    },
    /// Open a file: `Reply::Open`.
    Open {
        /// Flags of open(2); never `O_CREAT`, `O_EXCL`, `O_NOCTTY`.
        flags: i32,
    },
    /// Read of an open file: `Reply::Data`. Fewer bytes than asked mean the end of the file.
    Read {
        /// The open file.
        fh: Fh,
        /// First byte.
        offset: u64,
        /// Number of bytes wanted.
        size_bytes: u32,
        /// Flags of open(2) as they are now, so `O_DIRECT` set by fcntl(2) shows.
        flags: i32,
    },
    /// The last reference to an open file is gone: `Reply::Empty`.
    Release {
        /// The open file.
        fh: Fh,
    },
    /// A descriptor of the file was closed: `Reply::Empty`. `ENOSYS` makes the kernel stop asking
    /// and take it as success, which spares a round trip per close(2).
    Flush {
        /// The open file.
        fh: Fh,
    },
    /// fsync(2): `Reply::Empty`.
    Fsync {
        /// The open file.
        fh: Fh,
    },
    /// Open a directory: `Reply::Open`.
    OpenDir {
        /// Flags of open(2).
        flags: i32,
    },
    /// Entries of a directory: `Reply::Directory`, empty at the end.
    ReadDir {
        /// The open directory.
        fh: Fh,
        /// 0, or the `next_offset` of the last entry the kernel took.
        offset: u64,
        /// Most bytes the reply may have: what `DirectoryBuffer::new` is given.
        size_bytes: u32,
        /// Whether entries carry attributes.
        listing: Listing,
    },
    /// The last reference to an open directory is gone: `Reply::Empty`.
    ReleaseDir {
        /// The open directory.
        fh: Fh,
    },
    /// fsync(2) of a directory: `Reply::Empty`.
    FsyncDir,
    /// statfs(2): `Reply::StatFs`.
    StatFs,
    /// The caller of the request `target` got a signal. No reply once `target` is found: that one
    /// is answered, usually with `EINTR`. It may be read by another core than the one that serves
    /// `target`. If `target` has not been seen yet, `Reply::Error(EAGAIN)` by the channel that
    /// serves `target` makes the kernel send it again.
    Interrupt {
        /// The request whose caller does not want to wait any more.
        target: Unique,
    },
    /// access(2): `Reply::Empty`. Not sent under `default_permissions`.
    Access {
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
    },
    /// Value of an extended attribute: `Reply::XattrSize` if `size_bytes` is 0, else
    /// `Reply::Bytes`, or `ERANGE` if it does not fit, `ENODATA` if there is none.
    GetXattr {
        /// Full name with its namespace, as `user.tenderfs.etag`.
        name: Vec<u8>,
        /// Room for the value.
        size_bytes: u32,
    },
    /// Names of all extended attributes, each ended by NUL; replies as for [`Op::GetXattr`].
    ListXattr {
        /// Room for the names.
        size_bytes: u32,
    },
    /// Target of a symbolic link: `Reply::Bytes`.
    ReadLink,
    /// `SEEK_DATA` and `SEEK_HOLE`: `Reply::Lseek`. `ENOSYS` makes the kernel answer them itself,
    /// taking the file for one run of data.
    Lseek {
        /// The open file.
        fh: Fh,
        /// Where to look from.
        offset: u64,
        /// `SEEK_DATA` or `SEEK_HOLE`.
        whence: u32,
    },
    /// A change. Nothing is decoded beyond what it is: a read-only file system answers `EROFS`.
    Mutation(Mutation),
    /// The mount is being taken down: `Reply::Empty`.
    Destroy,
    /// An opcode without a variant here. `ENOSYS` tells the kernel not to ask again.
    Unknown {
        /// The number of `linux/fuse.h`.
        opcode: u32,
    },
}

/// What a reading of a directory carries with each name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listing {
    /// Inode number and kind.
    Plain,
    /// A whole entry as LOOKUP gives it (READDIRPLUS).
    Plus,
}

/// A request that would change the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the system call or request of its name")]
pub enum Mutation {
    SetAttr,
    SymLink,
    MkNod,
    MkDir,
    Unlink,
    RmDir,
    Rename,
    Link,
    Write,
    SetXattr,
    RemoveXattr,
    Create,
    Fallocate,
    CopyFileRange,
    TmpFile,
}

/// Requests that are counted and timed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpGroup {
    /// LOOKUP.
    Lookup,
    /// GETATTR, ACCESS, STATFS.
    GetAttr,
    /// OPEN, OPENDIR, RELEASE, RELEASEDIR, FLUSH, FSYNC, FSYNCDIR.
    Open,
    /// READ.
    Read,
    /// READDIR, READDIRPLUS.
    ReadDir,
    /// GETXATTR, LISTXATTR.
    Xattr,
    /// FORGET, `BATCH_FORGET`.
    Forget,
    /// INTERRUPT.
    Interrupt,
    /// Everything that would change something.
    Mutation,
    /// READLINK, LSEEK, DESTROY and what is unknown.
    Other,
}

impl OpGroup {
    /// All groups, in the order of their index in the counters.
    pub const ALL: [Self; 10] = [
        Self::Lookup,
        Self::GetAttr,
        Self::Open,
        Self::Read,
        Self::ReadDir,
        Self::Xattr,
        Self::Forget,
        Self::Interrupt,
        Self::Mutation,
        Self::Other,
    ];

    /// The value of the metrics' label `op`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::GetAttr => "getattr",
            Self::Open => "open",
            Self::Read => "read",
            Self::ReadDir => "readdir",
            Self::Xattr => "xattr",
            Self::Forget => "forget",
            Self::Interrupt => "interrupt",
            Self::Mutation => "mutation",
            Self::Other => "other",
        }
    }
}

impl Op {
    /// The group it is counted in.
    pub const fn group(&self) -> OpGroup {
        match self {
            Self::Lookup { .. } => OpGroup::Lookup,
            Self::GetAttr { .. } | Self::Access { .. } | Self::StatFs => OpGroup::GetAttr,
            Self::Open { .. }
            | Self::OpenDir { .. }
            | Self::Release { .. }
            | Self::ReleaseDir { .. }
            | Self::Flush { .. }
            | Self::Fsync { .. }
            | Self::FsyncDir => OpGroup::Open,
            Self::Read { .. } => OpGroup::Read,
            Self::ReadDir { .. } => OpGroup::ReadDir,
            Self::GetXattr { .. } | Self::ListXattr { .. } => OpGroup::Xattr,
            Self::Forget { .. } | Self::BatchForget(_) => OpGroup::Forget,
            Self::Interrupt { .. } => OpGroup::Interrupt,
            Self::Mutation(_) => OpGroup::Mutation,
            Self::ReadLink | Self::Lseek { .. } | Self::Destroy | Self::Unknown { .. } => {
                OpGroup::Other
            }
        }
    }

    /// Whether the kernel waits for an answer. False for FORGET, and for INTERRUPT, which is
    /// answered only with `EAGAIN`.
    pub const fn wants_reply(&self) -> bool {
        !matches!(self, Self::Forget { .. } | Self::BatchForget(_) | Self::Interrupt { .. })
    }

    /// Whether a user who may not use the mount is still served: what goes by an open file was
    /// allowed at its open, and what the kernel asks on its own behalf has no user.
    pub(crate) const fn is_beyond_access(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Release { .. }
                | Self::Flush { .. }
                | Self::Fsync { .. }
                | Self::ReadDir { .. }
                | Self::ReleaseDir { .. }
                | Self::FsyncDir
                | Self::Lseek { .. }
                | Self::Forget { .. }
                | Self::BatchForget(_)
                | Self::Interrupt { .. }
                | Self::Destroy
        )
    }
}
