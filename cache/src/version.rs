//! What names cached bytes: one version of one object.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// One version of one object. Nothing cached is ever stale, because another ETag or size is
/// another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The store: endpoint and bucket, so that mounts of several stores share a cache safely.
    pub store: Arc<str>,
    /// The object's key in the store.
    pub key: Arc<str>,
    /// The ETag as the store gave it.
    pub etag: Arc<str>,
    /// Bytes of the object.
    pub size_bytes: u64,
}

impl ObjectVersion {
    /// The id of this version: the first 16 bytes of SHA-256 over store, key and ETag, each with
    /// its length before it, and the size.
    pub fn id(&self) -> ObjectId {
        let mut hash = Sha256::new();
        for part in [&self.store, &self.key, &self.etag] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(self.size_bytes.to_le_bytes());
        let digest = hash.finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        ObjectId(id)
    }
}

/// Short name of an [`ObjectVersion`], on disk too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    /// A number that is as evenly spread as the id, for choosing shards and hashing.
    pub(crate) fn spread(self) -> u64 {
        let mut low = [0; 8];
        low.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(low)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(store: &str, key: &str, etag: &str, size_bytes: u64) -> ObjectVersion {
        ObjectVersion { store: store.into(), key: key.into(), etag: etag.into(), size_bytes }
    }

    #[test]
    fn every_part_of_a_version_changes_its_id() {
        let base = version("s", "key", "\"1\"", 5);
        for other in [
            version("t", "key", "\"1\"", 5),
            version("s", "kez", "\"1\"", 5),
            version("s", "key", "\"2\"", 5),
            version("s", "key", "\"1\"", 6),
            // The lengths keep the parts apart.
            version("sk", "ey", "\"1\"", 5),
            version("s", "key\"", "1\"", 5),
        ] {
            assert_ne!(base.id(), other.id(), "{other:?}");
        }
        assert_eq!(base.id(), base.clone().id());
        assert_eq!(base.id().to_string().len(), 32);
    }
}
