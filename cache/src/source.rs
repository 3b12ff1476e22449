//! Where bytes come from that no tier has.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tenderfs_byterange::ByteRange;

use crate::fill::FillSink;
use crate::object::Object;

/// Brings bytes of objects: S3 today, a peer one day.
///
/// Cheap to clone: each fetch runs in a task of its own that owns a clone, so that a reader that
/// goes away cancels nobody.
pub trait Source: Clone + 'static {
    /// Pushes exactly the bytes of `range` into `sink`, in order. Fewer bytes with `Ok` are an
    /// error of the source ([`SourceErrorKind::WrongAnswer`]).
    ///
    /// Must end on its own: the cache sets no deadline.
    fn fetch(
        &self,
        object: &Arc<Object>,
        range: ByteRange,
        class: Class,
        sink: &mut FillSink,
    ) -> impl Future<Output = Result<(), SourceError>>;
}

/// Who wants the bytes, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A reader waits.
    Demand,
    /// Read-ahead in an open file.
    InFile,
    /// Read-ahead over files of a directory or a plan.
    Directory,
    /// Warming; nobody waits.
    Background,
}

/// What kind of failure a source met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceErrorKind {
    /// The object is gone.
    NotFound,
    /// The object has another version now.
    Replaced,
    /// The store refuses access.
    AccessDenied,
    /// The object must be restored from an archive first.
    Archived,
    /// The store did not give the bytes.
    Unavailable,
    /// The store did not answer in time.
    DeadlineExpired,
    /// The store answered with something else than was asked for.
    WrongAnswer,
}

impl fmt::Display for SourceErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "the object is gone",
            Self::Replaced => "the object was replaced",
            Self::AccessDenied => "the store denies access",
            Self::Archived => "the object is archived",
            Self::Unavailable => "the store is unavailable",
            Self::DeadlineExpired => "the store did not answer in time",
            Self::WrongAnswer => "the store gave a wrong answer",
        })
    }
}

/// A failure of a source; cheap to clone, because every waiting reader gets it.
#[derive(Clone, Debug)]
pub struct SourceError {
    /// What kind of failure.
    pub kind: SourceErrorKind,
    /// What exactly happened.
    pub detail: Arc<dyn std::error::Error + Send + Sync>,
}

impl SourceError {
    /// A failure of `kind`, explained by `detail` (a message or another error).
    pub fn new(
        kind: SourceErrorKind,
        detail: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, detail: Arc::from(detail.into()) }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.detail)
    }
}
