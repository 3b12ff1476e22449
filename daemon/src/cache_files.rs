//! A cache directory, looked into without a daemon.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use tenderfs_cache::CacheError;

use crate::admin::rfc3339;

/// What a cache directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheFiles {
    /// Number of the disk format; 0: an older one, which a daemon begins anew.
    pub format: u64,
    /// What is held of each store.
    pub stores: Vec<StoreFiles>,
    /// Of the object versions those that share a file with others.
    pub packed: u64,
    /// Files that they share.
    pub packs: u64,
    /// Bytes of the catalogue.
    pub catalogue_bytes: u64,
    /// Files that the catalogue does not name, which a daemon removes.
    pub orphans: u64,
    /// Bytes of those on disk.
    pub orphan_bytes: u64,
    /// Objects in the catalogue without a file, which a daemon fetches again.
    pub without_file: u64,
    /// Files and folders that are pinned.
    pub pins: u64,
}

/// What is held of one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreFiles {
    /// Scheme, host and port of the store, and the bucket.
    pub store: String,
    /// Object versions.
    pub objects: u64,
    /// Those of which every block is there.
    pub complete: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// When one was used last, as RFC 3339.
    pub last_use: String,
}

/// Looks into the cache directory `dir`, which no daemon may be using.
pub fn inspect(dir: &Path) -> Result<CacheFiles, CacheError> {
    let found = tenderfs_cache::inspect(dir)?;
    let describe = |(store, held): (String, tenderfs_cache::Held)| StoreFiles {
        store,
        objects: held.objects,
        complete: held.complete,
        bytes: held.bytes,
        last_use: rfc3339(UNIX_EPOCH + Duration::from_millis(held.last_use_ms)),
    };
    Ok(CacheFiles {
        format: found.format,
        stores: found.stores.into_iter().map(describe).collect(),
        packed: found.packed,
        packs: found.packs,
        catalogue_bytes: found.catalogue_bytes,
        orphans: found.orphans,
        orphan_bytes: found.orphan_bytes,
        without_file: found.without_file,
        pins: found.pins.len() as u64,
    })
}
