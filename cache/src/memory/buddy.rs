//! Which parts of the arena are free: a buddy allocator over granules of 64 KiB.
//!
//! A pure decider: it knows numbers of granules, no memory. An extent of order `n` is `2^n`
//! granules, aligned to its own length; the largest is a chunk of 4 MiB, one block.

use std::collections::BTreeSet;

/// Bytes of a granule, the smallest frame.
pub(crate) const GRANULE_BYTES: usize = 64 << 10;

/// Order of a chunk, the largest extent: 64 granules, 4 MiB.
pub(crate) const ORDER_MAX: u8 = 6;

/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = GRANULE_BYTES << ORDER_MAX;

/// A part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    /// Its first granule.
    pub(crate) first: u32,
    /// It has `2^order` granules.
    pub(crate) order: u8,
}

impl Extent {
    /// The order of the smallest extent that holds `len_bytes`; `None` if a chunk does not.
    pub(crate) fn order_for(len_bytes: usize) -> Option<u8> {
        let granules = len_bytes.div_ceil(GRANULE_BYTES).max(1).next_power_of_two();
        u8::try_from(granules.trailing_zeros()).ok().filter(|order| *order <= ORDER_MAX)
    }

    /// Its bytes.
    pub(crate) fn len_bytes(self) -> usize {
        GRANULE_BYTES << self.order
    }

    /// Offset of its first byte in the arena.
    pub(crate) fn offset_bytes(self) -> usize {
        self.first as usize * GRANULE_BYTES
    }

    /// Number of the chunk it lies in.
    pub(crate) fn chunk(self) -> u32 {
        self.first >> ORDER_MAX
    }

    fn buddy(self) -> Self {
        Self { first: self.first ^ (1 << self.order), order: self.order }
    }
}

/// The free extents of an arena.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// First granules of the free extents of each order. Ordered, so that low addresses are used
    /// first and untouched memory stays untouched.
    free: [BTreeSet<u32>; ORDER_MAX as usize + 1],
    free_granules: usize,
    granules: usize,
}

impl Buddy {
    /// An arena of `chunks` free chunks.
    pub(crate) fn new(chunks: u32) -> Self {
        let mut free: [BTreeSet<u32>; ORDER_MAX as usize + 1] = Default::default();
        free[usize::from(ORDER_MAX)] = (0..chunks).map(|chunk| chunk << ORDER_MAX).collect();
        let granules = (chunks as usize) << ORDER_MAX;
        Self { free, free_granules: granules, granules }
    }

    /// Takes a free extent of `order`, splitting a larger one if there is none.
    pub(crate) fn allocate(&mut self, order: u8) -> Option<Extent> {
        let found = (order..=ORDER_MAX).find(|from| !self.free[usize::from(*from)].is_empty())?;
        let first = self.free[usize::from(found)].pop_first()?;
        for half in order..found {
            self.free[usize::from(half)].insert(first + (1 << half));
        }
        self.free_granules -= 1 << order;
        Some(Extent { first, order })
    }

    /// Gives `extent` back and joins it with its free buddies.
    ///
    /// # Panics
    /// If part of it is free already: two owners of one frame are the worst bug there is.
    pub(crate) fn release(&mut self, extent: Extent) {
        self.free_granules += 1 << extent.order;
        assert!(self.free_granules <= self.granules, "{extent:?} is released twice");
        let mut joined = extent;
        while joined.order < ORDER_MAX {
            if !self.free[usize::from(joined.order)].remove(&joined.buddy().first) {
                break;
            }
            joined =
                Extent { first: joined.first.min(joined.buddy().first), order: joined.order + 1 };
        }
        let new = self.free[usize::from(joined.order)].insert(joined.first);
        assert!(new, "{extent:?} is released twice");
    }

    /// Bytes that are free.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_granules * GRANULE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_extent_that_holds_the_bytes_is_chosen() {
        for (bytes, order) in [
            (1, Some(0)),
            (GRANULE_BYTES, Some(0)),
            (GRANULE_BYTES + 1, Some(1)),
            (CHUNK_BYTES, Some(ORDER_MAX)),
            (CHUNK_BYTES + 1, None),
        ] {
            assert_eq!(Extent::order_for(bytes), order, "{bytes}");
        }
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_caught() {
        let mut buddy = Buddy::new(2);
        let extent = buddy.allocate(0).unwrap();
        buddy.release(extent);
        buddy.release(extent);
    }

    proptest! {
        /// Against a model that owns granules one by one: no two extents overlap, nothing is lost,
        /// and what is free coalesces wholly.
        #[test]
        fn extents_never_overlap_and_coalesce(
            steps in prop::collection::vec((any::<bool>(), 0u8..=ORDER_MAX, any::<prop::sample::Index>()), 1..400)
        ) {
            const CHUNKS: u32 = 3;
            let mut buddy = Buddy::new(CHUNKS);
            let mut owned = vec![false; (CHUNKS as usize) << ORDER_MAX];
            let mut held: Vec<Extent> = Vec::new();
            for (take, order, which) in steps {
                if take || held.is_empty() {
                    let free_run_exists = owned
                        .chunks(1 << order)
                        .any(|run| run.iter().all(|granule| !granule));
                    match buddy.allocate(order) {
                        Some(extent) => {
                            prop_assert_eq!(extent.first % (1 << order), 0);
                            let range = extent.first as usize..(extent.first as usize + (1 << order));
                            for granule in &mut owned[range] {
                                prop_assert!(!*granule);
                                *granule = true;
                            }
                            held.push(extent);
                        }
                        None => prop_assert!(!free_run_exists, "an aligned free run was not found"),
                    }
                } else {
                    let extent = held.swap_remove(which.index(held.len()));
                    let range = extent.first as usize..(extent.first as usize + (1 << extent.order));
                    owned[range].fill(false);
                    buddy.release(extent);
                }
                let free = owned.iter().filter(|granule| !**granule).count();
                prop_assert_eq!(buddy.free_bytes(), free * GRANULE_BYTES);
            }
            for extent in held {
                buddy.release(extent);
            }
            prop_assert_eq!(buddy.free[usize::from(ORDER_MAX)].len(), CHUNKS as usize);
        }
    }
}
