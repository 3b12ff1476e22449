//! Which blocks are in memory or on their way there: a sharded map.
//!
//! Invariant: a shard's lock is held for one look-up, insertion or removal, never across an await
//! and never while another shard's is held. A block gains pins only under its shard's lock, so
//! that a block found unpinned under it stays so until the lock is released.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::BlockId;
use crate::lru::Standing;
use crate::memory::slot::Block;

const SHARDS: u64 = 64;

/// Golden-ratio multiplication (Knuth) spreads neighbouring indices.
fn spread(object: u64, index: u32) -> u64 {
    (object ^ u64::from(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Ids are digests already: their bytes need little mixing. Nothing here withstands somebody who
/// chooses ids, but ids are SHA-256 of what the store says, and the catalogue is ours alone.
#[derive(Default)]
pub(crate) struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        for chunk in bytes.chunks(8) {
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = self.0.rotate_left(21) ^ u64::from_le_bytes(word);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn write_u32(&mut self, index: u32) {
        self.0 = spread(self.0, index);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Shard = HashMap<BlockId, Arc<Block>, BuildHasherDefault<SpreadHasher>>;

/// The blocks in memory.
pub(crate) struct Directory {
    shards: Box<[Mutex<Shard>]>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Pins block `id` if it is here or on its way.
    pub(crate) fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.shard(id).get(&id).cloned()
    }

    /// Whether block `id` is here or on its way; pins nothing.
    pub(crate) fn has(&self, id: BlockId) -> bool {
        self.shard(id).contains_key(&id)
    }

    /// Whether all bytes of block `id` are here; pins nothing.
    pub(crate) fn is_full(&self, id: BlockId) -> bool {
        self.shard(id).get(&id).is_some_and(|block| block.is_full())
    }

    /// Adds `block`, unless another of its id is here: then that one is returned.
    pub(crate) fn insert(&self, block: &Arc<Block>) -> Result<(), Arc<Block>> {
        match self.shard(block.id()).entry(block.id()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::clone(block));
                Ok(())
            }
            Entry::Occupied(occupied) => Err(Arc::clone(occupied.get())),
        }
    }

    /// Removes `block`, if it is still the one of its id.
    pub(crate) fn remove(&self, block: &Arc<Block>) -> bool {
        let mut shard = self.shard(block.id());
        let same = shard.get(&block.id()).is_some_and(|here| Arc::ptr_eq(here, block));
        if same {
            shard.remove(&block.id());
        }
        same
    }

    /// Removes block `id` if it is full and nobody pins it.
    pub(crate) fn remove_unpinned(&self, id: BlockId) -> Option<Arc<Block>> {
        let mut shard = self.shard(id);
        if shard.get(&id).is_some_and(is_evictable) { shard.remove(&id) } else { None }
    }

    /// How block `id` stands as a victim.
    pub(crate) fn standing(&self, id: BlockId) -> Standing {
        match self.shard(id).get(&id) {
            Some(block) if is_evictable(block) => Standing::Idle(block.last_use()),
            _ => Standing::Busy,
        }
    }

    /// Blocks that somebody pins.
    pub(crate) fn pinned_blocks(&self) -> u64 {
        let pinned = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().filter(|block| Arc::strong_count(block) > 1).count() as u64
        };
        self.shards.iter().map(pinned).sum()
    }

    fn shard(&self, id: BlockId) -> MutexGuard<'_, Shard> {
        // Bits from the middle: the map's own hash table goes by the lowest and the highest.
        let bits = spread(id.object.spread(), id.index) >> 40;
        let number = usize::try_from(bits % SHARDS).unwrap_or_default();
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_evictable(block: &Arc<Block>) -> bool {
    // New pins need the shard's lock, which the caller holds; a weak one may be upgraded at any
    // time, which keeps the frame alive a little longer but harms nobody.
    Arc::strong_count(block) == 1 && block.is_full()
}
