//! Errors of the cache.

use std::io;
use std::path::PathBuf;

use crate::source::SourceError;

/// Why a cache could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The arena is too small to serve reads.
    #[error(
        "a block arena of {arena_bytes} bytes is too small: at least {least_bytes} bytes are needed"
    )]
    ArenaTooSmall {
        /// What was asked for.
        arena_bytes: usize,
        /// The least that works.
        least_bytes: usize,
    },
    /// The arena could not be mapped.
    #[error("cannot map a block arena of {arena_bytes} bytes")]
    Arena {
        /// What was asked for.
        arena_bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon has the directory.
    #[error("cache directory {} is in use by the process with pid {pid}: stop it or choose another directory", dir.display())]
    InUse {
        /// The cache directory.
        dir: PathBuf,
        /// Pid of the holder as its lock file says, `unknown` if it does not.
        pid: String,
    },
    /// The directory belongs to somebody else.
    #[error("cache directory {} belongs to uid {owner}, not to uid {own}: choose another directory", dir.display())]
    ForeignOwner {
        /// The cache directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this process.
        own: u32,
    },
    /// Others may look into the directory, and it holds something that is not a cache.
    #[error("cache directory {} is open to other users (mode {mode:04o}) and holds other files: choose an empty directory, or run `chmod 700` on it", dir.display())]
    OpenToOthers {
        /// The cache directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing can be written there.
    #[error("cache directory {} is on a read-only file system: mount it writable, name another one as cache.dir, or an empty name for no disk tier", dir.display())]
    ReadOnly {
        /// The cache directory.
        dir: PathBuf,
    },
    /// A newer version has made the directory.
    #[error("cache directory {dir} has disk format {format}, and this version knows {known}: upgrade TenderFS, choose another directory, or throw the cache away with `rm -r {dir}`", dir = dir.display())]
    NewerFormat {
        /// The cache directory.
        dir: PathBuf,
        /// Its format.
        format: u64,
        /// The newest format that this version reads.
        known: u64,
    },
    /// There is no cache in the directory.
    #[error("{} is no cache directory of TenderFS: it has no file `version`", dir.display())]
    NoCache {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory says of itself something that no version of TenderFS writes.
    #[error("{dir} is no cache directory of TenderFS, by its file `version`: choose another directory, or, if nothing in it is needed, `rm -r {dir}`", dir = dir.display())]
    UnknownFormat {
        /// The directory.
        dir: PathBuf,
    },
    /// The path is not a directory.
    #[error("{} is not a directory: choose another cache directory", dir.display())]
    NotADirectory {
        /// The path.
        dir: PathBuf,
    },
    /// The free-space ratio is not a part of a whole.
    #[error("a free-space ratio of {ratio} makes no sense: it must be at least 0 and below 1")]
    FreeSpaceRatio {
        /// What was asked for.
        ratio: f64,
    },
    /// The system refused an operation on the directory.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The catalogue could be neither opened nor rebuilt.
    #[error("cannot open or rebuild the catalogue {}", path.display())]
    Catalogue {
        /// The catalogue's file.
        path: PathBuf,
        /// What the library said.
        source: Box<redb::Error>,
    },
    /// A thread could not be started.
    #[error("cannot start the catalogue's thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Why a read got no bytes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Bytes were asked for that the object does not have; a bug of the caller.
    #[error("bytes {start}..{end} lie outside an object of {size_bytes} bytes")]
    OutsideObject {
        /// First byte asked for.
        start: u64,
        /// Behind the last byte asked for.
        end: u64,
        /// Bytes of the object.
        size_bytes: u64,
    },
    /// More bytes were asked for at once than one read may pin.
    #[error("a read of {len_bytes} bytes is longer than the {max_bytes} bytes one read may take")]
    TooLong {
        /// Bytes asked for.
        len_bytes: u64,
        /// Most bytes of one read.
        max_bytes: u64,
    },
    /// The source has failed to bring the bytes.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// All frames are pinned and too many readers wait for one already.
    #[error(
        "{waiting} readers wait for block memory already: raise the memory limit or lower the number of readers"
    )]
    Overloaded {
        /// Readers that wait.
        waiting: usize,
    },
    /// The blocks were lost again each time they were brought: a bug, or an arena far too small.
    #[error("blocks were lost {attempts} times while they were read")]
    Unstable {
        /// How often the read was tried.
        attempts: u32,
    },
}
