//! Which objects are worth their place in a cache that cannot hold them all.
//!
//! A pure decider of whole objects: no clock (it counts the bytes of what was used), no I/O, no
//! locks. Whoever holds the objects reports each use and hears what to evict, or that an object
//! would only be evicted before it is used again.
//!
//! A job that reads a data set in whole passes hits a least-recently-used cache of the fraction
//! `f` of it with `f + (1 - f) ln(1 - f)` if it shuffles (`f` = 0.25: 3.4 %), and never in a fixed
//! order. Any set that stays put is hit with `f` in both, which no policy passes. [`Policy::Auto`]
//! finds out which of the two earns more.

mod guide;
mod horizon;
mod judge;
mod pins;
mod shelf;

pub(crate) use crate::keeping::guide::{Guide, Regime};
use crate::keeping::judge::Judge;
pub use crate::keeping::pins::Pin;
pub(crate) use crate::keeping::pins::Pins;
use crate::keeping::shelf::Shelf;
use crate::version::ObjectId;

/// Bytes of what was used so far, which tells when something was used.
pub(crate) type Stamp = u64;

/// How a cache chooses what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As one of the others, whichever would have hit more of late; pinned while nothing tells.
    Auto,
    /// What was used last.
    Lru,
    /// A set that stays put.
    Pin,
}

/// What to keep, of two that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// What was used least recently goes first; everything new is admitted.
    LeastRecent,
    /// Objects with the lowest ids stay. An id is a digest of what it names, so this is a choice
    /// by hash: the same after a restart and on every machine, and how many fit needs no
    /// knowledge of the data set.
    LowestIds,
}

/// What comes of a use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The object is kept already: a hit.
    Kept,
    /// The object is kept from now on, in place of these.
    Admitted {
        /// Objects that go.
        evicted: Vec<ObjectId>,
    },
    /// The object is not worth the place of those that are kept.
    Refused,
}

/// The objects of one cache, and the decision which they are.
#[derive(Debug)]
pub struct Keeper {
    shelf: Shelf,
    chooser: Chooser,
    now: Stamp,
}

/// Who says in which order objects go.
#[derive(Debug)]
enum Chooser {
    Fixed(Order),
    Judge(Box<Judge>),
}

impl Chooser {
    fn new(policy: Policy, capacity_bytes: u64) -> Self {
        match policy {
            Policy::Auto => Self::Judge(Box::new(Judge::new(capacity_bytes))),
            Policy::Lru => Self::Fixed(Order::LeastRecent),
            Policy::Pin => Self::Fixed(Order::LowestIds),
        }
    }

    fn order(&self) -> Order {
        match self {
            Self::Fixed(order) => *order,
            Self::Judge(judge) => judge.order(),
        }
    }

    /// An object is used; tells which order to follow.
    fn used(&mut self, object: (ObjectId, u64), now: Stamp) -> Order {
        match self {
            Self::Fixed(order) => *order,
            Self::Judge(judge) => judge.used(object, now),
        }
    }
}

impl Keeper {
    /// Decides for a cache of `capacity_bytes` that is empty.
    pub fn new(policy: Policy, capacity_bytes: u64) -> Self {
        let chooser = Chooser::new(policy, capacity_bytes);
        Self { shelf: Shelf::new(capacity_bytes), chooser, now: 0 }
    }

    /// Object `id` of `bytes` is used, as a whole.
    pub fn used(&mut self, id: ObjectId, bytes: u64) -> Verdict {
        // An empty object is a use too.
        self.now += bytes.max(1);
        let order = self.chooser.used((id, bytes), self.now);
        self.shelf.used((id, bytes), order, self.now)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::version::ObjectVersion;

    const OBJECTS: usize = 2000;

    fn object(number: usize) -> ObjectId {
        let key = format!("{number}").into();
        ObjectVersion { store: "s".into(), key, etag: "e".into(), size_bytes: 1 }.id()
    }

    /// Chance from a seed that is not 0 (xorshift64).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % end as u64).unwrap()
        }

        fn shuffled(&mut self, mut objects: Vec<ObjectId>) -> Vec<ObjectId> {
            for at in (1..objects.len()).rev() {
                let other = self.below(at + 1);
                objects.swap(at, other);
            }
            objects
        }
    }

    #[derive(Default)]
    struct Outcome {
        hits: usize,
        admitted: usize,
        kept: BTreeSet<ObjectId>,
    }

    impl Outcome {
        /// Counts one pass; what is kept goes on.
        fn pass(&mut self, keeper: &mut Keeper, objects: &[ObjectId]) {
            (self.hits, self.admitted) = (0, 0);
            for id in objects {
                match keeper.used(*id, 1) {
                    Verdict::Kept => {
                        assert!(self.kept.contains(id));
                        self.hits += 1;
                    }
                    Verdict::Admitted { evicted } => {
                        for gone in evicted {
                            assert!(self.kept.remove(&gone));
                        }
                        assert!(self.kept.insert(*id));
                        self.admitted += 1;
                    }
                    Verdict::Refused => assert!(!self.kept.contains(id)),
                }
            }
        }
    }

    fn objects(numbers: std::ops::Range<usize>) -> Vec<ObjectId> {
        numbers.map(object).collect()
    }

    #[test]
    fn passes_are_hit_by_what_fits_from_the_second_on_in_any_order() {
        for (objects_count, capacity) in [(OBJECTS, 200), (OBJECTS, 500), (OBJECTS, 1800), (64, 16)]
        {
            for shuffles in [false, true] {
                let mut keeper = Keeper::new(Policy::Auto, capacity as u64);
                let (mut outcome, mut chance) = (Outcome::default(), Chance(7));
                let mut data = objects(0..objects_count);
                outcome.pass(&mut keeper, &data);
                for epoch in 2..7 {
                    if shuffles {
                        data = chance.shuffled(data);
                    }
                    outcome.pass(&mut keeper, &data);
                    assert_eq!(outcome.hits, capacity, "epoch {epoch}");
                    assert_eq!(outcome.admitted, 0, "epoch {epoch}: the set does not churn");
                }
            }
        }
    }

    #[test]
    fn what_is_pinned_depends_on_the_data_alone() {
        let data = objects(0..OBJECTS);
        let kept = |data: &[ObjectId], policy| {
            let mut outcome = Outcome::default();
            outcome.pass(&mut Keeper::new(policy, 500), data);
            outcome.kept
        };
        let set = kept(&data, Policy::Pin);
        assert_eq!(set, kept(&Chance(3).shuffled(data.clone()), Policy::Pin));
        assert_eq!(set, kept(&data, Policy::Auto));
        assert_ne!(set, kept(&data, Policy::Lru));
    }

    #[test]
    fn first_pass_writes_a_small_part_of_what_least_recently_used_writes() {
        let data = objects(0..OBJECTS);
        let mut outcome = Outcome::default();
        outcome.pass(&mut Keeper::new(Policy::Auto, 200), &data);
        // 200 fill the cache; each later one is among the lowest with 200 / its number:
        // 200 ln(2000 / 200) = 461.
        assert!((600..720).contains(&outcome.admitted), "{}", outcome.admitted);
        outcome = Outcome::default();
        outcome.pass(&mut Keeper::new(Policy::Lru, 200), &data);
        assert_eq!(outcome.admitted, OBJECTS);
    }

    /// Uses of any of 500 neighbours, which move on by one object in ten uses.
    fn moving_favourites() -> Vec<ObjectId> {
        let mut chance = Chance(11);
        (0..20 * OBJECTS).map(|step| object(step / 10 + chance.below(500))).collect()
    }

    #[test]
    fn where_the_recent_is_used_again_auto_keeps_the_recent() {
        let uses = moving_favourites();
        let hits = |policy| {
            let (mut keeper, mut outcome) = (Keeper::new(policy, 400), Outcome::default());
            outcome.pass(&mut keeper, &uses);
            outcome.hits
        };
        let (auto, lru, pin) = (hits(Policy::Auto), hits(Policy::Lru), hits(Policy::Pin));
        assert!(pin < lru * 8 / 10, "{pin} of {lru}: the two must differ for this test");
        assert!(auto > lru * 95 / 100, "{auto} of {lru}");
    }

    #[test]
    fn auto_moves_to_the_pinned_set_when_passes_begin() {
        let (mut keeper, mut outcome) = (Keeper::new(Policy::Auto, 500), Outcome::default());
        outcome.pass(&mut keeper, &moving_favourites());
        let mut chance = Chance(5);
        let data = objects(100_000..100_000 + OBJECTS);
        for _ in 0..4 {
            outcome.pass(&mut keeper, &chance.shuffled(data.clone()));
        }
        let last = outcome.hits;
        assert!(last >= 475, "{last} of 500 after four epochs");
    }

    #[test]
    fn data_that_is_used_no_more_gives_its_place_up() {
        let (mut keeper, mut outcome) = (Keeper::new(Policy::Pin, 500), Outcome::default());
        let mut chance = Chance(5);
        let (first, second) = (objects(0..OBJECTS), objects(OBJECTS..2 * OBJECTS));
        for _ in 0..3 {
            outcome.pass(&mut keeper, &chance.shuffled(first.clone()));
        }
        for _ in 0..12 {
            outcome.pass(&mut keeper, &chance.shuffled(second.clone()));
        }
        assert!(outcome.hits >= 490, "{} of 500", outcome.hits);
        assert!(first.iter().all(|id| !outcome.kept.contains(id)));
    }
}
