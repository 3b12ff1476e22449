//! Which of many was used longest ago, without a lock at each use.
//!
//! A pure decider. Users stamp their own things (an atomic store); the order here is corrected
//! only when a victim is wanted: the thing with the oldest stamp known here is asked for its real
//! one and put where that belongs. Stamps only grow, so the first thing whose stamp is as known is
//! the least recently used of all.

use std::collections::BTreeSet;

/// When something was used, in any unit that only grows.
pub(crate) type Stamp = u64;

/// How a thing stands when a victim is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// May be taken; was last used then.
    Idle(Stamp),
    /// May not be taken now.
    Busy,
}

/// Keys in the order of their last use, as far as known.
#[derive(Debug)]
pub(crate) struct LazyLru<K> {
    order: BTreeSet<(Stamp, K)>,
}

impl<K: Ord + Copy> LazyLru<K> {
    pub(crate) const fn new() -> Self {
        Self { order: BTreeSet::new() }
    }

    /// Adds `key`, used at `stamp`; both are needed to remove it.
    pub(crate) fn insert(&mut self, key: K, stamp: Stamp) {
        self.order.insert((stamp, key));
    }

    /// Removes `key`, known with `stamp`. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: K, stamp: Stamp) -> bool {
        self.order.remove(&(stamp, key))
    }

    /// The keys, least recently used first as far as known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &K> {
        self.order.iter().map(|(_, key)| key)
    }

    /// The least recently used key that is not busy. `standing` tells how a key stands, and
    /// `moved` hears of each key whose known stamp was corrected. At most `looks` keys are looked
    /// at, each costing a step in the tree.
    pub(crate) fn oldest(
        &mut self,
        looks: usize,
        mut standing: impl FnMut(&K) -> Standing,
        mut moved: impl FnMut(&K, Stamp),
    ) -> Option<(K, Stamp)> {
        let mut cursor: Option<(Stamp, K)> = None;
        for _ in 0..looks {
            let (known, key) = match cursor {
                None => *self.order.first()?,
                Some(after) => *self
                    .order
                    .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
                    .next()?,
            };
            match standing(&key) {
                Standing::Idle(real) if real <= known => return Some((key, known)),
                Standing::Idle(real) => {
                    self.order.remove(&(known, key));
                    self.order.insert((real, key));
                    moved(&key, real);
                }
                Standing::Busy => cursor = Some((known, key)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn busy_keys_are_passed_over_and_keep_their_place() {
        let mut lru = LazyLru::new();
        for key in 0..4 {
            lru.insert(key, u64::from(key));
        }
        let busy = |busy: u32| {
            move |key: &u32| {
                if *key == busy { Standing::Busy } else { Standing::Idle(u64::from(*key)) }
            }
        };
        assert_eq!(lru.oldest(9, busy(0), |_, _| ()), Some((1, 1)));
        assert_eq!(lru.oldest(9, busy(9), |_, _| ()), Some((0, 0)));
        assert_eq!(lru.oldest(9, |_| Standing::Busy, |_, _| ()), None);
    }

    proptest! {
        /// Against a model that sorts by the real stamps at each question.
        #[test]
        fn the_oldest_is_the_least_recently_used_of_all(
            uses in prop::collection::vec((0u32..20, any::<bool>()), 1..200)
        ) {
            let mut lru = LazyLru::new();
            let mut known: BTreeMap<u32, Stamp> = BTreeMap::new();
            let mut real: BTreeMap<u32, Stamp> = BTreeMap::new();
            for (now, (key, evict)) in (1u64..).zip(uses) {
                if evict {
                    let expected = real.iter().min_by_key(|(key, stamp)| (**stamp, **key)).map(|(key, _)| *key);
                    let found = lru.oldest(1000, |key| Standing::Idle(real[key]), |key, stamp| { known.insert(*key, stamp); });
                    prop_assert_eq!(found.map(|(key, _)| key), expected);
                    if let Some((key, stamp)) = found {
                        prop_assert_eq!(known[&key], stamp);
                        prop_assert!(lru.remove(key, stamp));
                        real.remove(&key);
                        known.remove(&key);
                    }
                } else if real.insert(key, now).is_none() {
                    lru.insert(key, now);
                    known.insert(key, now);
                }
                prop_assert_eq!(lru.iter().count(), real.len());
            }
        }
    }
}
