//! The memory tier: frames of the arena, the directory of blocks and the two zones.
//!
//! Locks are taken in this order: zones, then a shard of the directory, then the arena.

pub(crate) mod arena;
pub(crate) mod buddy;
pub(crate) mod directory;
pub(crate) mod frame;
pub(crate) mod gate;
pub(crate) mod slot;
pub(crate) mod zones;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::block::{BLOCK_BYTES, BlockId, RUN_BLOCKS_MAX};
use crate::counters::{Counters, Usage};
use crate::error::CacheError;
use crate::lru::Stamp;
use crate::memory::arena::Arena;
use crate::memory::buddy::{CHUNK_BYTES, GRANULE_BYTES};
use crate::memory::directory::Directory;
use crate::memory::frame::{Filler, Frame};
use crate::memory::gate::Gate;
use crate::memory::slot::Block;
use crate::memory::zones::{Zone, Zones};
use crate::settings::CacheSettings;
use crate::source::Class;

/// The least arena that serves reads: twice the blocks of the longest read, so that a read gets its
/// frames while another's are written to disk.
pub const ARENA_BYTES_MIN: usize = 2 * (RUN_BLOCKS_MAX as usize + 1) * CHUNK_BYTES;

/// Least part of an arena that Hot leaves to others, up to a quarter: two runs.
const RESERVE_BYTES_MIN: usize = 2 * RUN_BLOCKS_MAX as usize * CHUNK_BYTES;

const _: () = assert!(CHUNK_BYTES as u64 == BLOCK_BYTES, "a chunk of the arena is a block");

/// The memory tier, shared by all cores.
pub(crate) struct Memory {
    arena: Arc<Arena>,
    directory: Directory,
    zones: Mutex<Zones>,
    gate: Gate,
    /// The stamp of now: one more for each block that enters.
    now: AtomicU64,
    /// Granules of predicted fills that may be under way.
    prefetch_budget: Arc<Semaphore>,
    /// What Hot leaves to predictions.
    reserve_bytes: usize,
    counters: Arc<Counters>,
}

/// The right to fill one block that was absent.
pub(crate) struct NewBlock {
    pub(crate) block: Arc<Block>,
    pub(crate) filler: Filler,
    /// The block's part of the prefetch budget, if it was predicted.
    pub(crate) budget: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(crate) fn open(
        settings: &CacheSettings,
        counters: Arc<Counters>,
    ) -> Result<Self, CacheError> {
        let arena_bytes = settings.arena_bytes;
        if arena_bytes < ARENA_BYTES_MIN {
            return Err(CacheError::ArenaTooSmall { arena_bytes, least_bytes: ARENA_BYTES_MIN });
        }
        let arena = Arena::map(arena_bytes, settings.huge_pages)
            .map_err(|source| CacheError::Arena { arena_bytes, source })?;
        if let Err(error) = arena.touch_ahead() {
            tracing::debug!(%error, "the block arena is not touched ahead of its use");
        }
        // A quarter at most, so that predictions never take the frames that readers need.
        let quarter_bytes = arena.len_bytes() / 4;
        let budget_bytes = usize::try_from(settings.prefetch_in_flight_bytes)
            .unwrap_or(usize::MAX)
            .min(quarter_bytes);
        // Hot leaves room for as much again of predictions that wait to be read, and for warming.
        let reserve_bytes = (2 * budget_bytes).max(RESERVE_BYTES_MIN).min(quarter_bytes);
        let hot_limit_chunks = (arena.len_bytes() - reserve_bytes) / CHUNK_BYTES;
        Ok(Self {
            arena,
            directory: Directory::new(),
            zones: Mutex::new(Zones::new(hot_limit_chunks)),
            gate: Gate::default(),
            now: AtomicU64::new(0),
            prefetch_budget: Arc::new(Semaphore::new(budget_bytes / GRANULE_BYTES)),
            reserve_bytes,
            counters,
        })
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Bytes that predictions may still take before they take one another's place.
    pub(crate) fn prefetch_room_bytes(&self) -> usize {
        self.reserve_bytes.saturating_sub(self.zones().prefetch_bytes())
    }

    /// Bytes of the arena.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.arena.len_bytes()
    }

    /// Pins block `id` if it is here or on its way.
    pub(crate) fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.directory.get(id)
    }

    /// Whether all bytes of block `id` are here.
    pub(crate) fn is_full(&self, id: BlockId) -> bool {
        self.directory.is_full(id)
    }

    /// Whether block `id` is here or on its way.
    pub(crate) fn has(&self, id: BlockId) -> bool {
        self.directory.has(id)
    }

    /// A reader uses `block`: it counts as used now, and moves to Hot if it was predicted.
    pub(crate) fn used(&self, block: &Block) {
        if block.touch(self.now.load(Ordering::Relaxed)) {
            self.zones().promote(block.id(), self.tick());
            if block.class() != Class::Background {
                self.counters.prefetch_used_bytes.add(block.frame().len_bytes() as u64);
            }
            self.trim_hot(0);
        }
    }

    /// Budget for a predicted fill of `len_bytes`; `None` if there is none left.
    pub(crate) fn try_budget(&self, len_bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.prefetch_budget).try_acquire_many_owned(granules(len_bytes)).ok()
    }

    /// A frame for `len_bytes` in `zone`, evicting what the zones give up for it; `None` if all
    /// else is pinned, or for a prediction, hot.
    pub(crate) fn take_frame(&self, len_bytes: usize, zone: Zone) -> Option<(Arc<Frame>, Filler)> {
        if zone == Zone::Hot && len_bytes > CHUNK_BYTES / 2 {
            self.trim_hot(1);
        }
        let mut evicted_bytes = 0;
        loop {
            if let Some(memory) = self.arena.allocate(len_bytes) {
                return Some(Frame::new(memory, len_bytes));
            }
            let standing = |id: &BlockId| self.directory.standing(*id);
            // Small frames scattered over the arena could all be evicted one by one without making
            // room for a large one: after twice the need, whole chunks are cleared.
            let victims = if evicted_bytes > 2 * len_bytes {
                self.zones().victim_chunk(zone, standing)
            } else {
                Vec::new()
            };
            if victims.is_empty() {
                let victim = self.zones().victim(zone, standing)?;
                evicted_bytes += self.evict(victim);
            }
            for victim in victims {
                evicted_bytes += self.evict(victim);
            }
        }
    }

    /// Adds a block that is filled from now on. `Err` with the one that is here already.
    pub(crate) fn enter(
        &self,
        id: BlockId,
        (frame, filler): (Arc<Frame>, Filler),
        class: Class,
    ) -> Result<NewBlock, Arc<Block>> {
        let now = self.tick();
        let place = frame.place();
        let block = Block::new(id, frame, class, now);
        // Both under the zones' lock, so that no eviction comes between.
        let mut zones = self.zones();
        if let Err(here) = self.directory.insert(&block) {
            drop((zones, block, filler));
            self.frames_released();
            return Err(here);
        }
        let zone = if class == Class::Demand { Zone::Hot } else { Zone::Prefetch };
        zones.enter(id, zone, place, now);
        drop(zones);
        if zone == Zone::Hot {
            self.trim_hot(0);
        }
        Ok(NewBlock { block, filler, budget: None })
    }

    /// A block of which `frame` holds a part, for one reader: nobody else finds it.
    pub(crate) fn unlisted(&self, id: BlockId, frame: Arc<Frame>) -> Arc<Block> {
        Block::new(id, frame, Class::Demand, self.tick())
    }

    /// Takes a block away whose fill has failed.
    pub(crate) fn discard(&self, block: &Arc<Block>) {
        let mut zones = self.zones();
        if self.directory.remove(block) {
            zones.leave(block.id());
        }
    }

    /// Evicts block `id` if nobody pins it; returns the bytes it had.
    pub(crate) fn evict(&self, id: BlockId) -> usize {
        let mut zones = self.zones();
        let Some(block) = self.directory.remove_unpinned(id) else { return 0 };
        let zone = zones.zone_of(id);
        zones.leave(id);
        drop(zones);
        match zone {
            Some(Zone::Prefetch) => self.counters.prefetch_evictions.inc(),
            Some(Zone::Hot) | None => self.counters.hot_evictions.inc(),
        }
        if !block.is_used() && block.class() != Class::Background {
            self.counters.prefetch_wasted_bytes.add(block.frame().len_bytes() as u64);
        }
        block.frame().len_bytes()
    }

    /// Evicts every block that nobody pins.
    pub(crate) fn evict_all(&self) {
        let all = self.zones().all();
        for id in all {
            self.evict(id);
        }
        self.frames_released();
    }

    /// Pins or frames were given up: who waits for a frame tries again.
    pub(crate) fn frames_released(&self) {
        self.gate.released();
    }

    /// Fills in what memory holds.
    pub(crate) fn usage(&self, usage: &mut Usage) {
        usage.memory_limit_bytes = self.arena.len_bytes() as u64;
        usage.free_bytes = self.arena.free_bytes() as u64;
        usage.lent_frames = self.directory.pinned_blocks();
        usage.frame_waiters = self.gate.waiters() as u64;
        let zones = self.zones();
        usage.hot_bytes = zones.hot_bytes() as u64;
        usage.prefetch_bytes = zones.prefetch_bytes() as u64;
        usage.memory_blocks = zones.len_blocks() as u64;
    }

    /// Evicts hot blocks until Hot is within its limit with `newcomer_chunks` more, as far as
    /// they are unpinned.
    fn trim_hot(&self, newcomer_chunks: usize) {
        loop {
            let standing = |id: &BlockId| self.directory.standing(*id);
            let surplus = self.zones().surplus(newcomer_chunks, standing);
            if surplus.is_empty() {
                return;
            }
            for id in surplus {
                self.evict(id);
            }
        }
    }

    fn tick(&self) -> Stamp {
        self.now.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn zones(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Granules of a frame for `len_bytes`, as the prefetch budget counts them.
fn granules(len_bytes: usize) -> u32 {
    u32::try_from(len_bytes.div_ceil(GRANULE_BYTES).next_power_of_two()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeping::Policy;
    use crate::settings::{HugePages, Verify};
    use crate::version::ObjectId;

    fn memory() -> Memory {
        let settings = CacheSettings {
            dir: None,
            disk_size_bytes: 0,
            pack_below_bytes: 0,
            free_space_ratio: 0.0,
            arena_bytes: ARENA_BYTES_MIN,
            prefetch_in_flight_bytes: BLOCK_BYTES,
            policy: Policy::Lru,
            verify: Verify::Always,
            huge_pages: HugePages::Plain,
            catalogue_cache_bytes: 0,
        };
        Memory::open(&settings, Arc::new(Counters::default())).unwrap()
    }

    fn id(index: u32) -> BlockId {
        BlockId { object: ObjectId([3; 16]), index }
    }

    #[test]
    fn of_two_that_start_a_block_at_once_one_fills_it() {
        let memory = memory();
        let first = memory.take_frame(CHUNK_BYTES, Zone::Hot).unwrap();
        let second = memory.take_frame(CHUNK_BYTES, Zone::Hot).unwrap();
        let free_bytes = memory.arena.free_bytes();
        let new = memory.enter(id(0), first, Class::Demand).ok().unwrap();
        let here = memory.enter(id(0), second, Class::InFile).err().unwrap();
        assert!(Arc::ptr_eq(&new.block, &here));
        assert_eq!(memory.arena.free_bytes(), free_bytes + CHUNK_BYTES, "its frame came back");
        memory.discard(&new.block);
        assert!(!memory.has(id(0)));
    }

    #[test]
    fn a_frame_is_had_by_clearing_a_chunk_of_small_ones() {
        let memory = memory();
        let blocks = u32::try_from(ARENA_BYTES_MIN / GRANULE_BYTES).unwrap();
        for index in 0..blocks {
            let Some(frame) = memory.take_frame(100, Zone::Prefetch) else { panic!("{index}") };
            let mut new = memory.enter(id(index), frame, Class::InFile).ok().unwrap();
            new.filler.advance(100);
        }
        // Every chunk has one that is pinned, but for the last.
        let pins: Vec<_> =
            (0..blocks - 64).step_by(64).map(|index| memory.get(id(index)).unwrap()).collect();
        let whole = memory.take_frame(CHUNK_BYTES, Zone::Prefetch);
        assert!(whole.is_some());
        assert!(memory.take_frame(CHUNK_BYTES, Zone::Prefetch).is_none());
        drop(pins);
        assert!(memory.take_frame(CHUNK_BYTES, Zone::Hot).is_some());
    }
}
