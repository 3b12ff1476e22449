//! The one place that chooses errnos.
//!
//! Every variant is named, so that a new one does not compile until it has chosen. `ENOENT` is only
//! ever said when the store has said that the object is not there.

use tenderfs_cache::{ReadError, SourceErrorKind};
use tenderfs_fuse::Errno;
use tenderfs_s3client::Error as S3Error;

use crate::namespace::{BadInode, NamespaceError};

/// What an S3 failure means to the cache, and by that to every reader who waits for the block.
pub(crate) const fn kind_of(error: &S3Error) -> SourceErrorKind {
    match error {
        S3Error::NotFound { .. } | S3Error::NoSuchBucket { .. } => SourceErrorKind::NotFound,
        S3Error::Replaced { .. } | S3Error::RangeNotSatisfiable { .. } => SourceErrorKind::Replaced,
        S3Error::AccessDenied { .. }
        | S3Error::CredentialsMissing { .. }
        | S3Error::CredentialsFailed { .. }
        | S3Error::CredentialsExpired
        | S3Error::ClockSkewed { .. }
        | S3Error::WrongRegion { .. } => SourceErrorKind::AccessDenied,
        S3Error::Archived { .. } => SourceErrorKind::Archived,
        S3Error::DeadlineExpired { .. } => SourceErrorKind::DeadlineExpired,
        S3Error::WrongAnswer { .. } => SourceErrorKind::WrongAnswer,
        S3Error::Throttled { .. }
        | S3Error::Server { .. }
        | S3Error::Refused { .. }
        | S3Error::KeyUnusable { .. }
        | S3Error::Unreachable { .. }
        | S3Error::ConnectionBroken { .. }
        | S3Error::Tls { .. }
        | S3Error::Config { .. } => SourceErrorKind::Unavailable,
    }
}

/// Errno of a read on an open handle: an object that is gone or replaced is a stale handle.
pub(crate) const fn of_read(error: &ReadError) -> Errno {
    match error {
        ReadError::Source(error) => match error.kind {
            SourceErrorKind::NotFound | SourceErrorKind::Replaced => Errno::ESTALE,
            SourceErrorKind::AccessDenied | SourceErrorKind::Archived => Errno::EACCES,
            SourceErrorKind::DeadlineExpired => Errno::ETIMEDOUT,
            SourceErrorKind::Unavailable | SourceErrorKind::WrongAnswer => Errno::EIO,
        },
        ReadError::Overloaded { .. } => Errno::ENOMEM,
        ReadError::OutsideObject { .. }
        | ReadError::TooLong { .. }
        | ReadError::Unstable { .. } => Errno::EIO,
    }
}

/// Errno of a failed LOOKUP or READDIR.
pub(crate) fn of_name(error: &NamespaceError) -> Errno {
    match error {
        NamespaceError::Inode(bad) => of_inode(*bad),
        NamespaceError::S3(error) => match kind_of(error) {
            SourceErrorKind::NotFound => Errno::ENOENT,
            SourceErrorKind::Replaced => Errno::ESTALE,
            SourceErrorKind::AccessDenied | SourceErrorKind::Archived => Errno::EACCES,
            SourceErrorKind::DeadlineExpired => Errno::ETIMEDOUT,
            SourceErrorKind::Unavailable | SourceErrorKind::WrongAnswer => Errno::EIO,
        },
        NamespaceError::TooManyEntries { .. } => Errno::ENOMEM,
        NamespaceError::OutOfOrder | NamespaceError::Abandoned => Errno::EIO,
    }
}

/// Errno of an inode number that leads nowhere.
pub(crate) const fn of_inode(bad: BadInode) -> Errno {
    match bad {
        BadInode::Stale => Errno::ESTALE,
        BadInode::NotADirectory => Errno::ENOTDIR,
        BadInode::IsADirectory => Errno::EISDIR,
    }
}
