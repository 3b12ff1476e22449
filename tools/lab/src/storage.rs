//! Buckets and their objects, in memory or over a folder.
//!
//! Invariant: what a reader was given never changes; a PUT makes a new object beside it.

pub(crate) mod folder;
pub(crate) mod listing;
mod mapped;
pub(crate) mod memory;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Digest as _;

use self::folder::FolderStore;
use self::listing::{ListQuery, Resume};
use self::memory::MemoryStore;
use crate::content::Content;

/// Longest key that S3 takes.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// Where the lab keeps its buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In memory; any key of 1 to 1024 bytes is kept, however hostile.
    #[default]
    Memory,
    /// `folder/bucket/key`. Only keys that name a file below the bucket's folder exist; symbolic links
    /// are not followed. An object's ETag follows from its modification time, size and inode, and has
    /// the form of a multipart upload's. Files may be changed by others if they are replaced by rename.
    Folder(PathBuf),
}

/// What an object carries beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// As in `x-amz-storage-class`; `GLACIER` and `DEEP_ARCHIVE` refuse a GET. `None` is STANDARD.
    pub storage_class: Option<String>,
    /// As in `Content-Type`.
    pub content_type: Option<String>,
    /// What `x-amz-meta-` headers carry, without that prefix.
    pub metadata: HashMap<String, String>,
    /// When the object says it was written; `None` is now.
    pub modified: Option<SystemTime>,
    /// An ETag without quotes instead of the one that the content has.
    pub etag: Option<String>,
    /// The checksum that the writer had made; `None`: none.
    pub checksum: Option<ChecksumKind>,
}

/// A checksum that S3 keeps of a whole object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// CRC-32C.
    Crc32c,
    /// SHA-256.
    Sha256,
}

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) content: Content,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) storage_class: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) checksum: Option<ChecksumKind>,
}

impl Object {
    pub(crate) fn new(content: Content, attributes: Attributes, now: SystemTime) -> Self {
        Self {
            etag: attributes.etag.unwrap_or_else(|| content.etag()),
            content,
            modified: whole_seconds(attributes.modified.unwrap_or(now)),
            storage_class: attributes.storage_class,
            content_type: attributes.content_type,
            metadata: attributes.metadata,
            checksum: attributes.checksum,
        }
    }

    /// The checksum that was made when the object was written, in base64.
    pub(crate) fn checksum(&self) -> Option<(ChecksumKind, String)> {
        let kind = self.checksum?;
        let bytes = self.content.read(0, u64::MAX);
        let digest = match kind {
            ChecksumKind::Crc32c => crc32c::crc32c(&bytes).to_be_bytes().to_vec(),
            ChecksumKind::Sha256 => sha2::Sha256::digest(&bytes).to_vec(),
        };
        Some((kind, BASE64.encode(digest)))
    }

    /// Whether the object must be restored before it can be read.
    pub(crate) fn is_archived(&self) -> bool {
        matches!(self.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
    }
}

/// An object as a listing shows it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) key: Arc<str>,
    pub(crate) size_bytes: u64,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) storage_class: Option<String>,
}

/// A page of a listing.
#[derive(Debug, Default)]
pub(crate) struct ListedPage {
    pub(crate) objects: Vec<Listed>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next: Option<Resume>,
}

/// Why the storage did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No bucket of that name.
    #[error("the bucket `{bucket}` does not exist")]
    NoSuchBucket {
        /// The name asked for.
        bucket: String,
    },
    /// The bucket is there already.
    #[error("the bucket `{bucket}` exists already")]
    BucketExists {
        /// The name asked for.
        bucket: String,
    },
    /// A bucket must be empty to be deleted.
    #[error("the bucket `{bucket}` holds objects")]
    BucketNotEmpty {
        /// The bucket.
        bucket: String,
    },
    /// No object of that key.
    #[error("no object has the key `{key}`")]
    NoSuchKey {
        /// The key asked for.
        key: String,
    },
    /// The key or the bucket's name is none that this storage can keep.
    #[error("`{name}` is not a name this storage can keep: {reason}")]
    InvalidName {
        /// The key or bucket name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The two kinds of storage behind one face.
#[derive(Debug)]
pub(crate) enum Store {
    Memory(MemoryStore),
    Folder(FolderStore),
}

impl Store {
    pub(crate) fn open(storage: &Storage) -> Result<Self, StorageError> {
        match storage {
            Storage::Memory => Ok(Self::Memory(MemoryStore::default())),
            Storage::Folder(path) => FolderStore::open(path).map(Self::Folder),
        }
    }

    /// Every bucket with the time it was made.
    pub(crate) fn buckets(&self) -> Result<Vec<(String, SystemTime)>, StorageError> {
        match self {
            Self::Memory(store) => Ok(store.buckets()),
            Self::Folder(store) => store.buckets(),
        }
    }

    pub(crate) fn create_bucket(&self, bucket: &str, now: SystemTime) -> Result<(), StorageError> {
        match self {
            Self::Memory(store) => store.create_bucket(bucket, now),
            Self::Folder(store) => store.create_bucket(bucket),
        }
    }

    pub(crate) fn delete_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        match self {
            Self::Memory(store) => store.delete_bucket(bucket),
            Self::Folder(store) => store.delete_bucket(bucket),
        }
    }

    pub(crate) fn check_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        match self {
            Self::Memory(store) => store.check_bucket(bucket),
            Self::Folder(store) => store.check_bucket(bucket),
        }
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Result<Arc<Object>, StorageError> {
        match self {
            Self::Memory(store) => store.object(bucket, key),
            Self::Folder(store) => store.object(bucket, key),
        }
    }

    /// Puts the object and returns it as it is now kept.
    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        object: Object,
    ) -> Result<Arc<Object>, StorageError> {
        check_key(key)?;
        match self {
            Self::Memory(store) => store.put(bucket, key, object),
            Self::Folder(store) => store.put(bucket, key, &object),
        }
    }

    /// Deletes the object; `false` if there was none.
    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Result<bool, StorageError> {
        match self {
            Self::Memory(store) => store.delete(bucket, key),
            Self::Folder(store) => store.delete(bucket, key),
        }
    }

    pub(crate) fn list(
        &self,
        bucket: &str,
        query: &ListQuery<'_>,
    ) -> Result<ListedPage, StorageError> {
        match self {
            Self::Memory(store) => store.list(bucket, query),
            Self::Folder(store) => store.list(bucket, query),
        }
    }
}

/// The time without its fraction of a second, as S3 keeps it.
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        Err(_) => time,
    }
}

fn check_key(key: &str) -> Result<(), StorageError> {
    let reason = match key.len() {
        0 => "a key has at least one byte",
        1..=KEY_BYTES_MAX => return Ok(()),
        _ => "a key has at most 1024 bytes",
    };
    Err(StorageError::InvalidName { name: key.chars().take(64).collect(), reason })
}

fn no_such_key(key: &str) -> StorageError {
    StorageError::NoSuchKey { key: key.to_owned() }
}

fn no_such_bucket(bucket: &str) -> StorageError {
    StorageError::NoSuchBucket { bucket: bucket.to_owned() }
}
