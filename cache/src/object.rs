//! The handle of one object version, and the table that makes it the only one in the process.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::block::{BlockId, block_count, block_range};
use crate::cache::Shared;
use crate::memory::directory::SpreadHasher;
use crate::version::{ObjectId, ObjectVersion};

/// One version of one object; there is one handle per version and process, and while it lives the
/// object counts as in use.
pub struct Object {
    version: ObjectVersion,
    id: ObjectId,
    block_count: u32,
    /// Milliseconds since 1970, from the cache's coarse clock. Shared with the table of handles,
    /// which must not keep a handle alive to read it.
    last_use_ms: Arc<AtomicU64>,
    /// The cache; weak, because it may be closed while handles live.
    shared: Weak<Shared>,
}

/// Where an object's bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedBytes {
    /// Bytes in memory, of blocks that are wholly there.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

impl Object {
    /// The version this is.
    pub fn version(&self) -> &ObjectVersion {
        &self.version
    }

    /// Bytes of the object.
    pub fn size_bytes(&self) -> u64 {
        self.version.size_bytes
    }

    /// Short name of the version.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Number of blocks; 0 for an empty object.
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Where its bytes are now. Looks at every block, so not for the path of a read.
    pub fn cached_bytes(&self) -> CachedBytes {
        let Some(shared) = self.shared.upgrade() else { return CachedBytes::default() };
        let in_memory = |index: &u32| shared.memory.is_full(self.block(*index));
        let memory_bytes = (0..self.block_count)
            .filter(in_memory)
            .map(|index| block_range(self.size_bytes(), index).len_bytes())
            .sum();
        let disk_bytes = shared.disk().map_or(0, |disk| disk.present_bytes(self.id));
        CachedBytes { memory_bytes, disk_bytes }
    }

    /// Whether every block is on disk. An empty object has no bytes to keep and is never there.
    pub fn complete_on_disk(&self) -> bool {
        self.shared
            .upgrade()
            .is_some_and(|shared| shared.disk().is_some_and(|disk| disk.is_complete(self.id)))
    }

    /// Whether block `index` needs no fetch: it is in memory, on its way there, or on disk.
    pub fn has_block(&self, index: u32) -> bool {
        self.shared.upgrade().is_some_and(|shared| {
            shared.memory.has(self.block(index))
                || shared.disk().is_some_and(|disk| disk.has_block(self.id, index))
        })
    }

    /// Whether block `index` can be read without waiting for the source: it is in memory, whole, or
    /// on disk.
    pub fn is_ready(&self, index: u32) -> bool {
        self.shared.upgrade().is_some_and(|shared| {
            shared.memory.is_full(self.block(index))
                || shared.disk().is_some_and(|disk| disk.has_block(self.id, index))
        })
    }

    pub(crate) fn block(&self, index: u32) -> BlockId {
        BlockId { object: self.id, index }
    }

    /// Notes a use; true for the first of this handle.
    pub(crate) fn touch(&self, now_ms: u64) -> bool {
        if self.last_use_ms() != 0 {
            self.last_use_ms.store(now_ms, Ordering::Relaxed);
            return false;
        }
        self.last_use_ms.swap(now_ms.max(1), Ordering::Relaxed) == 0
    }

    pub(crate) fn last_use_ms(&self) -> u64 {
        self.last_use_ms.load(Ordering::Relaxed)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.objects.forget(self.id);
            if let Some(disk) = shared.disk() {
                disk.used(self.id, self.last_use_ms());
            }
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("id", &self.id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What the table knows of a handle.
#[derive(Debug)]
struct Entry {
    object: Weak<Object>,
    last_use_ms: Arc<AtomicU64>,
}

type Shard = HashMap<ObjectId, Entry, BuildHasherDefault<SpreadHasher>>;

const SHARDS: u64 = 64;

/// The handles of the process: as many as there are live ones.
#[derive(Debug)]
pub(crate) struct Objects {
    shards: Box<[Mutex<Shard>]>,
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The one handle of `version`.
    pub(crate) fn get(&self, version: ObjectVersion, shared: &Arc<Shared>) -> Arc<Object> {
        let id = version.id();
        let mut shard = self.shard(id);
        if let Some(object) = shard.get(&id).and_then(|entry| entry.object.upgrade()) {
            return object;
        }
        let last_use_ms = Arc::new(AtomicU64::new(0));
        let object = Arc::new(Object {
            id,
            block_count: block_count(version.size_bytes),
            version,
            last_use_ms: Arc::clone(&last_use_ms),
            shared: Arc::downgrade(shared),
        });
        shard.insert(id, Entry { object: Arc::downgrade(&object), last_use_ms });
        object
    }

    /// The live handle of `id`'s last use in milliseconds since 1970; `None` if it is not in use.
    pub(crate) fn last_use_ms(&self, id: ObjectId) -> Option<u64> {
        let shard = self.shard(id);
        let entry = shard.get(&id).filter(|entry| entry.object.strong_count() > 0)?;
        Some(entry.last_use_ms.load(Ordering::Relaxed))
    }

    /// Removes what is left of a handle that is being dropped.
    fn forget(&self, id: ObjectId) {
        let mut shard = self.shard(id);
        // A new handle of the version may have come meanwhile.
        if shard.get(&id).is_some_and(|entry| entry.object.strong_count() == 0) {
            shard.remove(&id);
        }
    }

    fn shard(&self, id: ObjectId) -> MutexGuard<'_, Shard> {
        // Bits from the middle: the map's own hash table goes by the lowest and the highest.
        let number = usize::try_from((id.spread() >> 40) % SHARDS).unwrap_or_default();
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
