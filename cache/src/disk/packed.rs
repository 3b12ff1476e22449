//! Objects that share a file with others: what is known of each, in few bytes.
//!
//! Ten million small images must not take gigabytes to be known: an object here is an entry of 36
//! bytes in a tree by id, about 55 with the tree's own. There is no order of uses; who was used
//! longest ago is found by looking at some at a time, in the order of their ids, which are digests
//! and so as good as drawn by lot.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::disk::record::PackedRecord;
use crate::keeping;
use crate::lru::Standing;
use crate::version::ObjectId;

/// What places in a pack are multiples of, and what lengths are rounded up to.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Entries looked at together for one that was not used for long.
const SAMPLE: usize = 256;

/// The least recently used of those looked at, which go first: a sixteenth of a sample.
const POOL: usize = 16;

/// Unit of [`Entry::stamp`].
const STAMP_BYTES: u64 = 1 << 20;

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Number of the pack.
    pub(crate) pack: u32,
    /// First page in it.
    pub(crate) page: u16,
}

impl Place {
    /// Offset of the object's first byte in the pack.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.page) * PAGE_BYTES
    }
}

/// What is known of an object in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its place, part by part: in one piece it would be padded.
    pack: u32,
    page: u16,
    /// The user says that it is to stay.
    pub(crate) is_pinned: bool,
    /// Bytes of the object.
    pub(crate) bytes: u32,
    /// When it was used last, in seconds since 1970.
    pub(crate) used_s: u32,
    /// When it was used last by the clock of the policy, rounded down to MiB; 0: not in this life.
    stamp: u32,
}

impl Entry {
    pub(crate) fn new(place: Place, bytes: u32, used_ms: u64) -> Self {
        let Place { pack, page } = place;
        Self { pack, page, is_pinned: false, bytes, used_s: seconds(used_ms), stamp: 0 }
    }

    pub(crate) fn place(&self) -> Place {
        Place { pack: self.pack, page: self.page }
    }

    /// Bytes that it takes on disk.
    pub(crate) fn stored_bytes(&self) -> u64 {
        u64::from(self.bytes).next_multiple_of(PAGE_BYTES)
    }

    /// The policy's stamp of the last use.
    pub(crate) fn stamp(&self) -> keeping::Stamp {
        u64::from(self.stamp) * STAMP_BYTES
    }

    pub(crate) fn set_stamp(&mut self, stamp: keeping::Stamp) {
        self.stamp = u32::try_from(stamp / STAMP_BYTES).unwrap_or(u32::MAX);
    }

    pub(crate) fn used_ms(&self) -> u64 {
        u64::from(self.used_s) * 1000
    }
}

/// Seconds of a time in milliseconds since 1970.
pub(crate) fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}

/// The objects in packs.
#[derive(Debug, Default)]
pub(crate) struct PackedIndex {
    entries: BTreeMap<ObjectId, Entry>,
    /// Of the last samples those that were used longest ago, as they were then.
    pool: Vec<(u32, ObjectId)>,
    /// Where the next sample begins.
    cursor: Option<ObjectId>,
}

impl PackedIndex {
    pub(crate) fn get(&self, id: ObjectId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ObjectId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    pub(crate) fn insert(&mut self, id: ObjectId, entry: Entry) {
        self.entries.insert(id, entry);
    }

    pub(crate) fn remove(&mut self, id: ObjectId) -> Option<Entry> {
        self.entries.remove(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ObjectId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// The object with the highest id within `lowest` that may go; `looks` are looked at.
    pub(crate) fn highest(
        &self,
        lowest: Bound<ObjectId>,
        looks: usize,
        standing: impl Fn(ObjectId, u64) -> Standing,
    ) -> Option<ObjectId> {
        let higher = self.entries.range((lowest, Bound::Unbounded)).rev().take(looks);
        let mut idle = higher.filter(|(id, entry)| {
            !entry.is_pinned && standing(**id, entry.used_ms()) != Standing::Busy
        });
        idle.next().map(|(id, _)| *id)
    }

    /// An object that was used longer ago than nearly all others and may go, with the time of its
    /// last use; of up to 256 objects the one that was used longest ago. About `looks` are looked
    /// at.
    pub(crate) fn oldest(
        &mut self,
        looks: usize,
        standing: impl Fn(ObjectId, u64) -> Standing,
    ) -> Option<(ObjectId, u64)> {
        for _ in 0..looks.div_ceil(SAMPLE) {
            let Self { entries, pool, .. } = self;
            let is_known = |(used_s, id): &(u32, ObjectId)| {
                entries.get(id).is_some_and(|entry| entry.used_s == *used_s && !entry.is_pinned)
            };
            pool.retain(is_known);
            if pool.len() <= POOL / 2 {
                self.sample();
            }
            let mut idle = self.pool.iter().filter_map(|(used_s, id)| {
                match standing(*id, u64::from(*used_s) * 1000) {
                    Standing::Idle(used_ms) => Some((*id, used_ms)),
                    Standing::Busy => None,
                }
            });
            if let Some(oldest) = idle.next() {
                return Some(oldest);
            }
            // All of them are busy: others are looked at.
            self.pool.clear();
        }
        None
    }

    /// Puts the oldest of the next entries into the pool.
    fn sample(&mut self) {
        let Self { entries, pool, cursor } = self;
        let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut next = entries.range((after, Bound::Unbounded));
        let mut looked = 0;
        *cursor = None;
        for (id, entry) in next.by_ref().take(SAMPLE) {
            looked += 1;
            *cursor = Some(*id);
            if !entry.is_pinned {
                pool.push((entry.used_s, *id));
            }
        }
        if looked < SAMPLE {
            // The end: the rest of the sample is at the beginning.
            for (id, entry) in entries.iter().take(SAMPLE - looked) {
                *cursor = Some(*id);
                if !entry.is_pinned {
                    pool.push((entry.used_s, *id));
                }
            }
        }
        pool.sort_unstable();
        pool.dedup();
        pool.truncate(POOL);
    }
}

/// The index of what the catalogue names.
pub(crate) fn packed_index(packed: Vec<(Place, PackedRecord)>) -> PackedIndex {
    let entry = |(place, record): (Place, PackedRecord)| {
        let used_ms = u64::from(record.used_s) * 1000;
        (record.id, Entry::new(place, record.bytes, used_ms))
    };
    packed.into_iter().map(entry).collect()
}

impl FromIterator<(ObjectId, Entry)> for PackedIndex {
    fn from_iter<T: IntoIterator<Item = (ObjectId, Entry)>>(entries: T) -> Self {
        Self { entries: entries.into_iter().collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::ObjectVersion;

    /// A digest, as ids are: multiples of a number would be spread too well.
    fn id(number: u64) -> ObjectId {
        let (store, key, etag) = ("s".into(), "k".into(), "e".into());
        ObjectVersion { store, key, etag, size_bytes: number }.id()
    }

    fn entry(number: u64) -> Entry {
        let place = Place { pack: u32::try_from(number >> 16).unwrap(), page: 0 };
        Entry::new(place, 5000, number * 1000)
    }

    fn index(count: u64) -> PackedIndex {
        (1..=count).map(|number| (id(number), entry(number))).collect()
    }

    fn idle(_: ObjectId, used_ms: u64) -> Standing {
        Standing::Idle(used_ms)
    }

    #[test]
    fn of_few_objects_the_least_recently_used_goes_first() {
        let mut index = index(200);
        index.get_mut(id(3)).unwrap().used_s = 1000;
        index.get_mut(id(4)).unwrap().is_pinned = true;
        let busy = |one, used_ms| if one == id(5) { Standing::Busy } else { idle(one, used_ms) };
        let mut gone = Vec::new();
        for _ in 0..20 {
            let (oldest, used_ms) = index.oldest(1000, busy).unwrap();
            index.remove(oldest).unwrap();
            gone.push(used_ms / 1000);
        }
        let expected: Vec<u64> = (1..=23).filter(|number| !(3..=5).contains(number)).collect();
        assert_eq!(gone, expected);
    }

    #[test]
    fn of_many_objects_one_of_the_oldest_sixteenth_goes() {
        let mut index = index(20_000);
        let mut gone = Vec::new();
        for _ in 0..4000 {
            let (oldest, used_ms) = index.oldest(1000, idle).unwrap();
            index.remove(oldest).unwrap();
            gone.push(used_ms / 1000);
        }
        // A fifth has gone; who was used of late has not.
        let young = gone.iter().filter(|used| **used > 10_000).count();
        assert!(young < 40, "{young} of 4000 were of the younger half");
        let old = gone.iter().filter(|used| **used <= 6_000).count();
        assert!(old > 3200, "{old} of 4000 were of the oldest third");
    }

    #[test]
    fn what_is_busy_or_pinned_does_not_go_and_ends_the_search() {
        let mut index = index(3000);
        assert_eq!(index.oldest(4096, |_, _| Standing::Busy), None);
        let last = id(77);
        let all_but_one =
            |one, used_ms| if one == last { idle(one, used_ms) } else { Standing::Busy };
        assert_eq!(index.highest(Bound::Unbounded, 4096, all_but_one), Some(last));
        assert_eq!(index.highest(Bound::Excluded(last), 4096, all_but_one), None);
        index.get_mut(last).unwrap().is_pinned = true;
        assert_eq!(index.highest(Bound::Unbounded, 4096, all_but_one), None);
        assert_eq!(PackedIndex::default().oldest(4096, idle), None);
    }

    /// `cargo test --release -p tenderfs-cache --lib -- --ignored --nocapture ten_million`
    #[test]
    #[ignore = "a measurement: a gigabyte of memory"]
    fn ten_million_small_objects_take_64_bytes_each_at_most() {
        const OBJECTS: u64 = 10_000_000;
        let resident = || -> u64 {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        let before = resident();
        let mut index = PackedIndex::default();
        for number in 1..=OBJECTS {
            index.insert(id(number), entry(number));
        }
        let bytes = (resident() - before) / OBJECTS;
        eprintln!("{bytes} bytes an object, inserted in no order");
        assert!(bytes <= 64, "{bytes}");
        let begun = std::time::Instant::now();
        for _ in 0..100_000 {
            let (oldest, _) = index.oldest(1000, idle).unwrap();
            index.remove(oldest).unwrap();
        }
        eprintln!(
            "{:?} to find and remove one that was not used for long",
            begun.elapsed() / 100_000
        );
    }

    #[test]
    fn an_entry_knows_what_it_takes_and_its_last_use() {
        let mut entry = Entry::new(Place { pack: 7, page: 3 }, 4097, 1_700_000_000_999);
        assert_eq!((entry.stored_bytes(), entry.place().offset()), (8192, 12_288));
        assert_eq!(entry.used_ms(), 1_700_000_000_000);
        entry.set_stamp((5 << 20) + 7);
        assert_eq!(entry.stamp(), 5 << 20);
        assert!(size_of::<(ObjectId, Entry)>() <= 36, "{}", size_of::<(ObjectId, Entry)>());
    }
}
