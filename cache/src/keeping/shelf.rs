//! Objects that are kept within a number of bytes, and which of them go for another.

use std::collections::{BTreeMap, BTreeSet};

use crate::keeping::horizon::Horizon;
use crate::keeping::{Order, Stamp, Verdict};
use crate::version::ObjectId;

/// Objects in a bounded space.
#[derive(Debug)]
pub(super) struct Shelf {
    capacity_bytes: u64,
    used_bytes: u64,
    /// In the order of ids, which is the one of [`Order::LowestIds`].
    objects: BTreeMap<ObjectId, Place>,
    by_use: BTreeSet<(Stamp, ObjectId)>,
    /// Waits as long as the space or longer: shorter ones say nothing of passes.
    horizon: Horizon,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    bytes: u64,
    used: Stamp,
}

impl Shelf {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            used_bytes: 0,
            objects: BTreeMap::new(),
            by_use: BTreeSet::new(),
            horizon: Horizon::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// When `id` was used last, if it is here.
    pub(super) fn last_use(&self, id: ObjectId) -> Option<Stamp> {
        self.objects.get(&id).map(|place| place.used)
    }

    /// An object is used: it stays, comes in place of others, or is refused.
    pub(super) fn used(
        &mut self,
        (id, bytes): (ObjectId, u64),
        order: Order,
        now: Stamp,
    ) -> Verdict {
        if let Some(place) = self.objects.get_mut(&id) {
            let since = std::mem::replace(&mut place.used, now);
            self.by_use.remove(&(since, id));
            self.by_use.insert((now, id));
            if now - since >= self.capacity_bytes {
                self.horizon.waited(since, now);
            }
            return Verdict::Kept;
        }
        let Some(evicted) = self.victims((id, bytes), order, now) else { return Verdict::Refused };
        for id in &evicted {
            self.remove(*id);
        }
        self.objects.insert(id, Place { bytes, used: now });
        self.by_use.insert((now, id));
        self.used_bytes += bytes;
        Verdict::Admitted { evicted }
    }

    /// Leaves a part of the space, and the objects that `stays` keeps.
    pub(super) fn shrink(&mut self, capacity_bytes: u64, stays: impl Fn(ObjectId) -> bool) {
        self.capacity_bytes = capacity_bytes;
        let gone: Vec<_> = self.objects.keys().copied().filter(|id| !stays(*id)).collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// What goes for object `id` of `bytes`; `None` if it is not worth it.
    fn victims(
        &self,
        (id, bytes): (ObjectId, u64),
        order: Order,
        now: Stamp,
    ) -> Option<Vec<ObjectId>> {
        let missing_bytes = (self.used_bytes + bytes).saturating_sub(self.capacity_bytes);
        let oldest = self.by_use.iter().copied();
        match order {
            Order::LeastRecent => self.enough(missing_bytes, oldest.map(|(_, id)| id)),
            Order::LowestIds => {
                let stale_before = self.horizon.stale_before(now);
                let stale = oldest.take_while(move |(used, _)| *used < stale_before);
                let higher = self.objects.range(id..).rev();
                let higher = higher.filter(move |(_, place)| place.used >= stale_before);
                let higher = higher.map(|(id, _)| *id);
                self.enough(missing_bytes, stale.map(|(_, id)| id).chain(higher))
            }
        }
    }

    /// The first of `candidates` that have `missing_bytes` together.
    fn enough(
        &self,
        missing_bytes: u64,
        mut candidates: impl Iterator<Item = ObjectId>,
    ) -> Option<Vec<ObjectId>> {
        let (mut found_bytes, mut victims) = (0, Vec::new());
        while found_bytes < missing_bytes {
            let id = candidates.next()?;
            found_bytes += self.objects[&id].bytes;
            victims.push(id);
        }
        Some(victims)
    }

    fn remove(&mut self, id: ObjectId) {
        if let Some(place) = self.objects.remove(&id) {
            self.by_use.remove(&(place.used, id));
            self.used_bytes -= place.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> ObjectId {
        ObjectId([number; 16])
    }

    #[track_caller]
    fn check(order: Order, new: (u8, u64), expected: Option<&[u8]>) {
        let mut shelf = Shelf::new(10);
        // By use: 5, 3, 8. 9 of 10 bytes are taken.
        for (at, number) in [(1, 5), (2, 3), (3, 8)] {
            shelf.used((id(number), 3), order, at);
        }
        let verdict = shelf.used((id(new.0), new.1), order, 4);
        let evicted = expected.map(|ids| ids.iter().map(|number| id(*number)).collect());
        let expected = evicted.map_or(Verdict::Refused, |evicted| Verdict::Admitted { evicted });
        assert_eq!(verdict, expected);
        assert!(shelf.used_bytes <= 10);
    }

    #[test]
    fn the_least_recently_used_go_for_anything_that_fits() {
        for (new, expected) in [
            ((9, 1), Some(&[][..])),
            ((9, 2), Some(&[5])),
            ((9, 5), Some(&[5, 3])),
            ((9, 10), Some(&[5, 3, 8])),
            ((9, 11), None),
        ] {
            check(Order::LeastRecent, new, expected);
        }
    }

    #[test]
    fn only_higher_ids_go_for_a_lower_one() {
        for (new, expected) in [
            ((9, 1), Some(&[][..])),
            ((9, 2), None),
            ((7, 2), Some(&[8])),
            ((7, 5), None),
            ((4, 5), Some(&[8, 5])),
            ((1, 11), None),
        ] {
            check(Order::LowestIds, new, expected);
        }
    }

    #[test]
    fn what_is_stale_goes_first_and_for_any_id() {
        let mut shelf = Shelf::new(3);
        for number in [1, 2, 6] {
            shelf.used((id(number), 1), Order::LowestIds, 10);
        }
        for now in (14..=80).step_by(3) {
            shelf.used((id(1), 1), Order::LowestIds, now);
            shelf.used((id(6), 1), Order::LowestIds, now);
        }
        let verdict = shelf.used((id(9), 1), Order::LowestIds, 81);
        assert_eq!(verdict, Verdict::Admitted { evicted: vec![id(2)] });
        assert_eq!(shelf.used((id(10), 1), Order::LowestIds, 82), Verdict::Refused);
    }

    proptest! {
        #[test]
        fn the_space_is_never_passed_and_all_orders_agree_on_what_is_here(
            uses in prop::collection::vec((0u8..30, any::<bool>()), 1..300)
        ) {
            let mut shelf = Shelf::new(100);
            let mut here = BTreeSet::new();
            for (now, (number, pinned)) in (1..).zip(uses) {
                let order = if pinned { Order::LowestIds } else { Order::LeastRecent };
                // An object's size follows from what it is.
                let object = (id(number), u64::from(number) * 7 % 40);
                match shelf.used(object, order, now) {
                    Verdict::Kept => prop_assert!(here.contains(&id(number))),
                    Verdict::Admitted { evicted } => {
                        for gone in evicted { prop_assert!(here.remove(&gone)); }
                        prop_assert!(here.insert(id(number)));
                    }
                    Verdict::Refused => prop_assert!(!here.contains(&id(number))),
                }
                prop_assert!(shelf.used_bytes <= 100);
                prop_assert_eq!(shelf.used_bytes, shelf.objects.values().map(|place| place.bytes).sum::<u64>());
                prop_assert_eq!(shelf.objects.keys().copied().collect::<BTreeSet<_>>(), here.clone());
                prop_assert_eq!(shelf.by_use.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>(), here.clone());
            }
        }
    }
}
