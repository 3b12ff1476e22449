//! The objects on disk as the process knows them, and which one goes next.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::object::DiskObject;
use crate::lru::{LazyLru, Standing};
use crate::memory::directory::SpreadHasher;
use crate::version::ObjectId;

/// Objects looked at for one victim before giving up: everything older is in use.
const LOOKS_MAX: usize = 4096;

/// How long an object in use must be idle before it may be evicted.
pub(crate) const IN_USE_IDLE_MS: u64 = 10_000;

/// What may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Only objects that nobody has open.
    Unused,
    /// Those first, then idle ones in use.
    UnusedFirst,
}

/// The objects on disk.
#[derive(Debug)]
pub(crate) struct Index {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Evicted objects stay here until their file is gone, so that no new file of the same name is
    /// made before.
    objects: HashMap<ObjectId, Arc<DiskObject>, BuildHasherDefault<SpreadHasher>>,
    order: LazyLru<ObjectId>,
}

impl Index {
    pub(crate) fn new() -> Self {
        let inner = Inner { objects: HashMap::default(), order: LazyLru::new() };
        Self { inner: Mutex::new(inner) }
    }

    /// The object `id`, unless it is absent or being evicted.
    pub(crate) fn find(&self, id: ObjectId) -> Option<Arc<DiskObject>> {
        let object = self.lock().objects.get(&id).cloned();
        object.filter(|object| object.is_alive())
    }

    /// The object `id`, made if it is absent; `None` while it is being evicted.
    pub(crate) fn find_or_insert(
        &self,
        id: ObjectId,
        make: impl FnOnce() -> DiskObject,
    ) -> Option<Arc<DiskObject>> {
        let mut inner = self.lock();
        let object = if let Some(object) = inner.objects.get(&id) {
            Arc::clone(object)
        } else {
            let object = Arc::new(make());
            inner.add(&object);
            object
        };
        drop(inner);
        object.is_alive().then_some(object)
    }

    /// Adds `object` as evicted already, if its name is free: nobody else uses the name until it is
    /// forgotten.
    pub(crate) fn insert_evicted(&self, object: DiskObject) -> Option<Arc<DiskObject>> {
        let object = Arc::new(object);
        let space = object.evict();
        let mut inner = self.lock();
        let is_free = !inner.objects.contains_key(&object.id());
        if is_free {
            inner.objects.insert(object.id(), Arc::clone(&object));
        }
        drop((inner, space));
        is_free.then_some(object)
    }

    /// Adds objects of the catalogue.
    pub(crate) fn load(&self, objects: impl IntoIterator<Item = DiskObject>) {
        let mut inner = self.lock();
        let objects = objects.into_iter();
        inner.objects.reserve(objects.size_hint().0);
        for object in objects {
            inner.add(&Arc::new(object));
        }
    }

    /// Chooses objects that together take at least `bytes`, least recently used first, or as many
    /// as there are, sparing `spared`. They are not evicted yet. `in_use_since_ms` tells the last
    /// use of an object that somebody has open.
    pub(crate) fn victims(
        &self,
        (bytes, choice): (u64, Choice),
        spared: Option<ObjectId>,
        in_use_since_ms: impl Fn(ObjectId) -> Option<u64>,
        now_ms: u64,
    ) -> Vec<Arc<DiskObject>> {
        let mut victims: Vec<Arc<DiskObject>> = Vec::new();
        let mut found_bytes = 0;
        let mut inner = self.lock();
        for in_use in [false, true] {
            if in_use && choice == Choice::Unused {
                break;
            }
            while found_bytes < bytes {
                let standing = |id: ObjectId, own_ms: u64| match in_use_since_ms(id) {
                    _ if Some(id) == spared => Standing::Busy,
                    None => Standing::Idle(own_ms),
                    Some(_) if !in_use => Standing::Busy,
                    Some(used_ms)
                        if now_ms.saturating_sub(used_ms.max(own_ms)) < IN_USE_IDLE_MS =>
                    {
                        Standing::Busy
                    }
                    Some(used_ms) => Standing::Idle(used_ms.max(own_ms)),
                };
                let Some(victim) = inner.take_oldest(standing) else { break };
                found_bytes += victim.space().map_or(0, |space| space.bytes());
                victims.push(victim);
            }
        }
        victims
    }

    /// The file of an evicted object is gone: its name is free again.
    pub(crate) fn forget(&self, object: &Arc<DiskObject>) {
        let mut inner = self.lock();
        let id = object.id();
        if inner.objects.get(&id).is_some_and(|here| Arc::ptr_eq(here, object)) {
            inner.objects.remove(&id);
            inner.order.remove(id, object.known_use_ms.load(Ordering::Relaxed));
        }
    }

    /// Every object that is there, in no order, and their bytes on disk. Names only, 16 bytes each:
    /// what is kept of an object would keep its space.
    pub(crate) fn on_disk(&self) -> (Vec<ObjectId>, u64) {
        let inner = self.lock();
        let bytes = inner.objects.values().map(|object| object.present_bytes()).sum();
        (inner.objects.keys().copied().collect(), bytes)
    }

    /// Objects with a file.
    pub(crate) fn len_objects(&self) -> u64 {
        self.lock().objects.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, object: &Arc<DiskObject>) {
        self.order.insert(object.id(), object.known_use_ms.load(Ordering::Relaxed));
        self.objects.insert(object.id(), Arc::clone(object));
    }

    /// Takes the least recently used object out of the order; it stays in the map.
    fn take_oldest(
        &mut self,
        standing: impl Fn(ObjectId, u64) -> Standing,
    ) -> Option<Arc<DiskObject>> {
        let Self { objects, order } = self;
        let own_ms = |id: &ObjectId| objects.get(id).map_or(0, |object| object.last_use_ms());
        let moved = |id: &ObjectId, stamp| {
            if let Some(object) = objects.get(id) {
                object.known_use_ms.store(stamp, Ordering::Relaxed);
            }
        };
        // Unlinking a file that is in use outside the cache would free nothing and lose it.
        let is_lent = |id: &ObjectId| objects.get(id).is_some_and(|object| object.is_lent());
        let standing = |id: &ObjectId| {
            if is_lent(id) { Standing::Busy } else { standing(*id, own_ms(id)) }
        };
        let (id, stamp) = order.oldest(LOOKS_MAX, standing, moved)?;
        order.remove(id, stamp);
        objects.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::space::{Ledger, Verdict};

    fn id(number: u8) -> ObjectId {
        ObjectId([number; 16])
    }

    fn index(last_uses_ms: &[(u8, u64)]) -> (Index, Arc<Ledger>) {
        let ledger = Ledger::new(1 << 40, "/".into(), 0.0);
        let index = Index::new();
        for (number, last_use_ms) in last_uses_ms {
            let Verdict::Granted(reservation) = ledger.reserve(100) else { panic!("no space") };
            let space = ledger.file(0);
            reservation.belongs_to(&space);
            index.load([DiskObject::new(id(*number), 100, *last_use_ms, space)]);
        }
        (index, ledger)
    }

    #[track_caller]
    fn check(index: &Index, bytes: u64, spared: Option<ObjectId>, expected: &[u8]) {
        let victims = index.victims((bytes, Choice::UnusedFirst), spared, |_| None, 1000);
        assert_eq!(ids(&victims), expected);
    }

    fn ids(victims: &[Arc<DiskObject>]) -> Vec<u8> {
        victims.iter().map(|victim| victim.id().0[0]).collect()
    }

    #[test]
    fn objects_in_use_go_last_and_only_once_they_are_idle() {
        let (index, _ledger) = index(&[(1, 10), (2, 20), (3, 30), (4, 40)]);
        let now_ms = 2 * IN_USE_IDLE_MS;
        let in_use = |object: ObjectId| match object.0[0] {
            1 => Some(11),
            2 => Some(now_ms - 1),
            _ => None,
        };
        let victims = |choice| ids(&index.victims((1, choice), None, in_use, now_ms));
        assert_eq!(victims(Choice::Unused), [3]);
        assert_eq!(victims(Choice::UnusedFirst), [4]);
        assert_eq!(victims(Choice::Unused), [] as [u8; 0]);
        assert_eq!(victims(Choice::UnusedFirst), [1]);
        assert_eq!(victims(Choice::UnusedFirst), [] as [u8; 0]);
    }

    #[test]
    fn a_lent_file_is_never_evicted_for_its_space() {
        let (index, _ledger) = index(&[(1, 10), (2, 20)]);
        let first = index.find(id(1)).unwrap();
        first.lend();
        check(&index, 1000, None, &[2]);
        check(&index, 1000, None, &[]);
        first.given_back();
        check(&index, 1000, None, &[1]);
    }

    #[test]
    fn the_least_recently_used_objects_go_first() {
        let (index, _ledger) = index(&[(1, 30), (2, 10), (3, 20)]);
        index.find(id(2)).unwrap().touch(40);
        check(&index, 101, None, &[3, 1]);
        check(&index, 1000, None, &[2]);
    }

    #[test]
    fn the_object_that_needs_space_is_spared() {
        let (index, _ledger) = index(&[(1, 10), (2, 20)]);
        check(&index, 1000, Some(id(1)), &[2]);
    }

    #[test]
    fn the_name_of_an_evicted_object_is_taken_until_its_file_is_gone() {
        let (index, ledger) = index(&[(1, 10)]);
        let object = index.find(id(1)).unwrap();
        object.evict();
        let make = || DiskObject::new(id(1), 100, 0, ledger.file(0));
        assert!(index.find(id(1)).is_none());
        assert!(index.find_or_insert(id(1), make).is_none());
        index.forget(&object);
        assert!(index.find_or_insert(id(1), make).is_some());
    }
}
