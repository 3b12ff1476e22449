//! Which block leaves memory next: the Hot and Prefetch zones.
//!
//! A pure decider. Hot (LRU) holds what readers asked for, Prefetch (FIFO) what was predicted and
//! not read yet; a predicted block that is read is promoted. Space is taken from Prefetch first,
//! from Hot only after, and for a predicted block never from Hot, so that a flood of predictions
//! spares what is in use.
//!
//! A Hot zone that had grown over the whole arena would leave no frame for predictions, and
//! read-ahead would end for good. So Hot has a limit below the arena, and what makes it grow
//! beyond pays with Hot's own least recently used blocks. The limit counts chunks of the arena
//! that hold a hot frame, not bytes: small hot frames strewn over all chunks would leave no room
//! for a whole block either.

use std::collections::{BTreeMap, HashMap};

use crate::block::BlockId;
use crate::lru::{LazyLru, Stamp, Standing};
use crate::memory::buddy::Extent;

/// The two zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Zone {
    /// What readers asked for, least recently used first out.
    Hot,
    /// What was predicted and not read yet, first in first out.
    Prefetch,
}

/// Keys looked at for one victim before giving up: everything older is pinned.
const LOOKS_MAX: usize = 4096;

/// Blocks whose chunk is looked at for a whole one to clear.
const CHUNK_LOOKS_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Entry {
    zone: Zone,
    place: Extent,
    /// Position: the stamp known to the LRU of Hot, or the number in the FIFO of Prefetch.
    position: u64,
}

/// The blocks in memory, by zone.
#[derive(Debug)]
pub(crate) struct Zones {
    entries: HashMap<BlockId, Entry>,
    /// Who lives in each extent, by first granule.
    places: BTreeMap<u32, BlockId>,
    hot: LazyLru<BlockId>,
    prefetch: BTreeMap<u64, BlockId>,
    next_in_prefetch: u64,
    hot_bytes: usize,
    prefetch_bytes: usize,
    /// Hot frames by chunk; chunks without any are not here.
    hot_chunks: HashMap<u32, u32>,
    hot_limit_chunks: usize,
}

impl Zones {
    /// Empty zones; Hot is asked to stay within `hot_limit_chunks`.
    pub(crate) fn new(hot_limit_chunks: usize) -> Self {
        Self {
            entries: HashMap::new(),
            places: BTreeMap::new(),
            hot: LazyLru::new(),
            prefetch: BTreeMap::new(),
            next_in_prefetch: 0,
            hot_bytes: 0,
            prefetch_bytes: 0,
            hot_chunks: HashMap::new(),
            hot_limit_chunks,
        }
    }

    /// Block `id` has come to live at `place`.
    pub(crate) fn enter(&mut self, id: BlockId, zone: Zone, place: Extent, now: Stamp) {
        self.leave(id);
        let position = match zone {
            Zone::Hot => {
                self.hot.insert(id, now);
                self.hot_bytes += place.len_bytes();
                *self.hot_chunks.entry(place.chunk()).or_default() += 1;
                now
            }
            Zone::Prefetch => {
                let position = self.next_in_prefetch;
                self.next_in_prefetch += 1;
                self.prefetch.insert(position, id);
                self.prefetch_bytes += place.len_bytes();
                position
            }
        };
        self.places.insert(place.first, id);
        self.entries.insert(id, Entry { zone, place, position });
    }

    /// Block `id` has left memory. Nothing happens if it was not here.
    pub(crate) fn leave(&mut self, id: BlockId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.places.remove(&entry.place.first);
        match entry.zone {
            Zone::Hot => {
                self.hot.remove(id, entry.position);
                self.hot_bytes -= entry.place.len_bytes();
                let frames = self.hot_chunks.entry(entry.place.chunk()).or_default();
                *frames = frames.saturating_sub(1);
                if *frames == 0 {
                    self.hot_chunks.remove(&entry.place.chunk());
                }
            }
            Zone::Prefetch => {
                self.prefetch.remove(&entry.position);
                self.prefetch_bytes -= entry.place.len_bytes();
            }
        }
    }

    /// A reader has used block `id`: it moves to Hot. Nothing happens if it is there or gone.
    pub(crate) fn promote(&mut self, id: BlockId, now: Stamp) {
        if let Some(Entry { zone: Zone::Prefetch, place, .. }) = self.entries.get(&id).copied() {
            self.enter(id, Zone::Hot, place, now);
        }
    }

    /// The block to evict for a newcomer of `zone`: the oldest of Prefetch, and for a newcomer of
    /// Hot, if Prefetch has none to give, the least recently used of Hot.
    pub(crate) fn victim(
        &mut self,
        newcomer: Zone,
        mut standing: impl FnMut(&BlockId) -> Standing,
    ) -> Option<BlockId> {
        let predicted = self
            .prefetch
            .values()
            .take(LOOKS_MAX)
            .find(|id| standing(id) != Standing::Busy)
            .copied();
        match (predicted, newcomer) {
            (Some(id), _) => Some(id),
            (None, Zone::Prefetch) => None,
            (None, Zone::Hot) => self.oldest_hot(standing),
        }
    }

    /// The blocks of one chunk whose eviction frees all of it for a `newcomer`: the chunk
    /// of the oldest block whose neighbours may all go. Empty if there is none.
    pub(crate) fn victim_chunk(
        &self,
        newcomer: Zone,
        mut standing: impl FnMut(&BlockId) -> Standing,
    ) -> Vec<BlockId> {
        let hot = self.hot.iter().take(if newcomer == Zone::Hot { CHUNK_LOOKS_MAX } else { 0 });
        for id in self.prefetch.values().take(CHUNK_LOOKS_MAX).chain(hot) {
            let neighbours = self.neighbours(*id);
            let may_go = |id: &BlockId| {
                let spared = newcomer == Zone::Prefetch && self.zone_of(*id) == Some(Zone::Hot);
                !spared && standing(id) != Standing::Busy
            };
            if neighbours.iter().all(may_go) {
                return neighbours;
            }
        }
        Vec::new()
    }

    /// The blocks that Hot gives up because it is above its limit, or would be with
    /// `newcomer_chunks` more: those of the chunk of its least recently used one. Empty if Hot is
    /// within its limit, or all of it is pinned.
    pub(crate) fn surplus(
        &mut self,
        newcomer_chunks: usize,
        mut standing: impl FnMut(&BlockId) -> Standing,
    ) -> Vec<BlockId> {
        if self.hot_chunks.len() + newcomer_chunks <= self.hot_limit_chunks {
            return Vec::new();
        }
        let Some(oldest) = self.oldest_hot(&mut standing) else { return Vec::new() };
        let mut hot = self.neighbours(oldest);
        hot.retain(|id| self.zone_of(*id) == Some(Zone::Hot) && standing(id) != Standing::Busy);
        hot
    }

    fn oldest_hot(&mut self, standing: impl FnMut(&BlockId) -> Standing) -> Option<BlockId> {
        let Self { hot, entries, .. } = self;
        let moved = |id: &BlockId, stamp: Stamp| {
            if let Some(entry) = entries.get_mut(id) {
                entry.position = stamp;
            }
        };
        hot.oldest(LOOKS_MAX, standing, moved).map(|(id, _)| id)
    }

    /// Everyone who lives in the chunk of `id`.
    fn neighbours(&self, id: BlockId) -> Vec<BlockId> {
        let Some(entry) = self.entries.get(&id) else { return Vec::new() };
        let first = entry.place.chunk() << super::buddy::ORDER_MAX;
        let behind = first + (1 << super::buddy::ORDER_MAX);
        self.places.range(first..behind).map(|(_, id)| *id).collect()
    }

    /// The zone of block `id`.
    pub(crate) fn zone_of(&self, id: BlockId) -> Option<Zone> {
        self.entries.get(&id).map(|entry| entry.zone)
    }

    /// Every block in memory.
    pub(crate) fn all(&self) -> Vec<BlockId> {
        self.entries.keys().copied().collect()
    }

    pub(crate) fn hot_bytes(&self) -> usize {
        self.hot_bytes
    }

    pub(crate) fn prefetch_bytes(&self) -> usize {
        self.prefetch_bytes
    }

    pub(crate) fn len_blocks(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::buddy::{CHUNK_BYTES, ORDER_MAX};
    use crate::version::ObjectId;

    fn id(index: u32) -> BlockId {
        BlockId { object: ObjectId([7; 16]), index }
    }

    fn place(chunk: u32) -> Extent {
        Extent { first: chunk << ORDER_MAX, order: ORDER_MAX }
    }

    /// Nobody was used since it came.
    fn idle(_: &BlockId) -> Standing {
        Standing::Idle(0)
    }

    /// Proves V04.
    #[test]
    fn flood_of_prefetch_spares_hot_blocks() {
        let mut zones = Zones::new(4);
        for index in 0..4 {
            zones.enter(id(index), Zone::Hot, place(index), u64::from(index));
        }
        for index in 4..1000 {
            while let Some(victim) = zones.victim(Zone::Prefetch, idle) {
                assert_eq!(zones.zone_of(victim), Some(Zone::Prefetch));
                zones.leave(victim);
            }
            zones.enter(id(index), Zone::Prefetch, place(index), u64::from(index));
        }
        assert_eq!(zones.hot_bytes(), 4 * CHUNK_BYTES);
        assert!((0..4).all(|index| zones.zone_of(id(index)) == Some(Zone::Hot)));
    }

    /// Proves V05 and V06.
    #[test]
    fn space_comes_from_prefetch_first_and_from_hot_only_after() {
        let mut zones = Zones::new(4);
        zones.enter(id(0), Zone::Hot, place(0), 0);
        zones.enter(id(1), Zone::Prefetch, place(1), 1);
        zones.enter(id(2), Zone::Prefetch, place(2), 2);
        for expected in [1, 2, 0] {
            let victim = zones.victim(Zone::Hot, idle);
            assert_eq!(victim, Some(id(expected)));
            zones.leave(id(expected));
        }
        assert_eq!(zones.victim(Zone::Hot, idle), None);
        assert_eq!((zones.hot_bytes(), zones.prefetch_bytes()), (0, 0));
    }

    /// Proves V05.
    #[test]
    fn a_prefetched_block_that_is_read_is_promoted() {
        let mut zones = Zones::new(4);
        zones.enter(id(0), Zone::Prefetch, place(0), 0);
        zones.enter(id(1), Zone::Prefetch, place(1), 1);
        zones.promote(id(0), 2);
        assert_eq!(zones.zone_of(id(0)), Some(Zone::Hot));
        assert_eq!(zones.victim(Zone::Prefetch, idle), Some(id(1)));
        zones.leave(id(1));
        assert_eq!(zones.victim(Zone::Prefetch, idle), None);
    }

    #[test]
    fn hot_pays_for_its_own_growth_beyond_its_limit() {
        let mut zones = Zones::new(2);
        zones.enter(id(0), Zone::Hot, place(0), 0);
        zones.enter(id(1), Zone::Hot, place(1), 1);
        zones.enter(id(2), Zone::Prefetch, place(2), 2);
        assert_eq!(zones.surplus(0, idle), []);
        assert_eq!(zones.surplus(1, idle), [id(0)]);
        // A use since then is known at once.
        let used = |key: &BlockId| Standing::Idle(if *key == id(0) { 9 } else { 0 });
        assert_eq!(zones.surplus(1, used), [id(1)]);
    }

    /// 128 KiB frame `number` of a chunk.
    fn small(chunk: u32, number: u32) -> Extent {
        Extent { first: (chunk << ORDER_MAX) + 2 * number, order: 1 }
    }

    #[test]
    fn small_hot_frames_do_not_strew_themselves_over_every_chunk() {
        let mut zones = Zones::new(2);
        for chunk in 0..3 {
            for number in 0..32 {
                let now = u64::from(chunk);
                zones.enter(id(chunk * 32 + number), Zone::Hot, small(chunk, number), now);
            }
        }
        let surplus = zones.surplus(0, idle);
        assert_eq!(surplus, (0..32).map(id).collect::<Vec<_>>());
        for id in surplus {
            zones.leave(id);
        }
        assert_eq!(zones.surplus(0, idle), []);
    }

    #[test]
    fn a_whole_chunk_is_cleared_only_of_what_may_go() {
        let mut zones = Zones::new(2);
        zones.enter(id(0), Zone::Prefetch, small(0, 0), 0);
        zones.enter(id(1), Zone::Hot, small(0, 1), 1);
        zones.enter(id(2), Zone::Prefetch, small(1, 0), 2);
        zones.enter(id(3), Zone::Prefetch, small(1, 1), 3);
        assert_eq!(zones.victim_chunk(Zone::Prefetch, idle), [id(2), id(3)]);
        assert_eq!(zones.victim_chunk(Zone::Hot, idle), [id(0), id(1)]);
        let pinned = |key: &BlockId| {
            if *key == id(3) { Standing::Busy } else { Standing::Idle(0) }
        };
        assert_eq!(zones.victim_chunk(Zone::Prefetch, pinned), []);
    }

    #[test]
    fn a_pinned_block_is_never_a_victim() {
        let mut zones = Zones::new(2);
        zones.enter(id(0), Zone::Hot, place(0), 0);
        zones.enter(id(1), Zone::Prefetch, place(1), 1);
        assert_eq!(zones.victim(Zone::Hot, |_| Standing::Busy), None);
        let only_hot = |key: &BlockId| {
            if *key == id(1) { Standing::Busy } else { Standing::Idle(0) }
        };
        assert_eq!(zones.victim(Zone::Prefetch, only_hot), None);
        assert_eq!(zones.victim(Zone::Hot, only_hot), Some(id(0)));
    }

    proptest! {
        #[test]
        fn bytes_always_add_up(steps in prop::collection::vec((0u32..12, 0u8..4), 1..200)) {
            let mut zones = Zones::new(3);
            let mut hot = HashSet::new();
            let mut prefetch = HashSet::new();
            for (now, (index, step)) in (0u64..).zip(steps) {
                match step {
                    0 => { zones.enter(id(index), Zone::Hot, place(index), now); hot.insert(index); prefetch.remove(&index); }
                    1 => { zones.enter(id(index), Zone::Prefetch, place(index), now); prefetch.insert(index); hot.remove(&index); }
                    2 => { zones.promote(id(index), now); if prefetch.remove(&index) { hot.insert(index); } }
                    _ => { zones.leave(id(index)); hot.remove(&index); prefetch.remove(&index); }
                }
                prop_assert_eq!(zones.hot_bytes(), hot.len() * CHUNK_BYTES);
                prop_assert_eq!(zones.prefetch_bytes(), prefetch.len() * CHUNK_BYTES);
                prop_assert_eq!(zones.len_blocks(), hot.len() + prefetch.len());
                prop_assert_eq!(zones.places.len(), hot.len() + prefetch.len());
            }
        }
    }
}
