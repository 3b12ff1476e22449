//! Files that the kernel may read and nobody has open: kept for a while, because programs open the
//! same files again and again, and registering one costs more than opening it.
//!
//! A pure decider: a bounded set that lets go of what was put in first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Idle things by name.
#[derive(Debug)]
pub(crate) struct Idle<K, B> {
    most: usize,
    next: u64,
    things: HashMap<K, (u64, B)>,
    order: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, B> Idle<K, B> {
    /// Room for `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, next: 0, things: HashMap::new(), order: BTreeMap::new() }
    }

    /// Keeps `thing`. Returns what there is no room for any more.
    pub(crate) fn put(&mut self, name: K, thing: B) -> Option<B> {
        let before = self.take(name);
        let stamp = self.next;
        self.next += 1;
        self.things.insert(name, (stamp, thing));
        self.order.insert(stamp, name);
        if self.things.len() <= self.most {
            return before;
        }
        let (_, oldest) = self.order.pop_first()?;
        self.things.remove(&oldest).map(|(_, thing)| thing)
    }

    /// Takes a thing out for use.
    pub(crate) fn take(&mut self, name: K) -> Option<B> {
        let (stamp, thing) = self.things.remove(&name)?;
        self.order.remove(&stamp);
        Some(thing)
    }

    /// Takes out what `is_kept` does not hold for.
    pub(crate) fn take_unless(&mut self, is_kept: impl Fn(&B) -> bool) -> Vec<B> {
        let all = self.things.iter();
        let gone: Vec<K> =
            all.filter(|(_, (_, thing))| !is_kept(thing)).map(|(name, _)| *name).collect();
        gone.into_iter().filter_map(|name| self.take(name)).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_first_goes_first_and_the_bound_holds() {
        let mut idle = Idle::new(2);
        assert_eq!(idle.put(1, 'a'), None);
        assert_eq!(idle.put(2, 'b'), None);
        assert_eq!(idle.take(1), Some('a'));
        assert_eq!(idle.put(1, 'a'), None);
        assert_eq!(idle.put(3, 'c'), Some('b'), "1 was used after 2");
        assert_eq!(idle.put(3, 'C'), Some('c'), "one thing for each name");
        assert_eq!((idle.len(), idle.take(2), idle.take(3)), (2, None, Some('C')));
        assert_eq!((idle.things.len(), idle.order.len()), (1, 1));
    }

    #[test]
    fn what_is_of_no_use_any_more_is_taken_out() {
        let mut idle = Idle::new(10);
        for number in 0..6 {
            assert_eq!(idle.put(number, number), None);
        }
        let mut gone = idle.take_unless(|number| number % 2 == 0);
        gone.sort_unstable();
        assert_eq!((gone, idle.len(), idle.order.len()), (vec![1, 3, 5], 3, 3));
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut idle = Idle::new(0);
        assert_eq!(idle.put(1, 'a'), Some('a'));
        assert_eq!(idle.len(), 0);
    }
}
