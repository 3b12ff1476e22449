//! The objects on disk as the process knows them, and which one goes next.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::object::DiskObject;
use crate::disk::packed::{Entry, PackedIndex, Place, seconds};
use crate::disk::stored::{Packed, Stored};
use crate::keeping::{Order, Regime, Stamp};
use crate::lru::{LazyLru, Standing};
use crate::memory::directory::SpreadHasher;
use crate::version::ObjectId;

/// Objects looked at for one victim before giving up: all of them are in use.
const LOOKS_MAX: usize = 4096;

/// How long an object in use must be idle before it may be evicted.
pub(crate) const IN_USE_IDLE_MS: u64 = 10_000;

/// A use of a packed object is worth a change of the catalogue if the one before was so long ago.
const PACKED_USE_S: u32 = 600;

/// What may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Only objects that nobody has open.
    Unused,
    /// Those first, then idle ones in use.
    UnusedFirst,
}

/// What is to be evicted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) bytes: u64,
    pub(crate) choice: Choice,
    pub(crate) newcomer: Newcomer,
}

/// Who needs the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newcomer {
    /// Nobody: there is too little.
    Nobody,
    /// A block of this object, if it is worth more than what goes.
    Rival(ObjectId),
    /// A block of this object, whatever goes.
    Asked(ObjectId),
}

impl Newcomer {
    fn id(self) -> Option<ObjectId> {
        match self {
            Self::Nobody => None,
            Self::Rival(id) | Self::Asked(id) => Some(id),
        }
    }

    /// The objects that may go for it where the lowest ids stay.
    fn higher(self) -> Bound<ObjectId> {
        match self {
            Self::Rival(id) => Bound::Excluded(id),
            Self::Nobody | Self::Asked(_) => Bound::Unbounded,
        }
    }
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
    objects: Objects,
    order: LazyLru<ObjectId>,
    /// The same objects as in `order`.
    by_id: BTreeSet<ObjectId>,
    /// Objects that have no file of their own.
    packed: PackedIndex,
    /// Bytes of pinned objects, which are in no order.
    pinned_bytes: u64,
    pinned_objects: u64,
}

impl Index {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            objects: HashMap::default(),
            order: LazyLru::new(),
            by_id: BTreeSet::new(),
            packed: PackedIndex::default(),
            pinned_bytes: 0,
            pinned_objects: 0,
        };
        Self { inner: Mutex::new(inner) }
    }

    /// The object `id`, unless it is absent or being evicted.
    pub(crate) fn find(&self, id: ObjectId) -> Option<Stored> {
        let inner = self.lock();
        if let Some(object) = inner.objects.get(&id) {
            let object = Arc::clone(object);
            drop(inner);
            return object.is_alive().then_some(Stored::File(object));
        }
        let entry = inner.packed.get(id)?;
        Some(Stored::Packed(Packed { id, entry: *entry }))
    }

    /// As [`Index::find`], of objects with a file of their own.
    pub(crate) fn find_file(&self, id: ObjectId) -> Option<Arc<DiskObject>> {
        let object = self.lock().objects.get(&id).cloned();
        object.filter(|object| object.is_alive())
    }

    /// Where the packed object `id` is.
    pub(crate) fn place_of(&self, id: ObjectId) -> Option<Place> {
        self.lock().packed.get(id).map(Entry::place)
    }

    /// Adds an object that was written to a pack.
    pub(crate) fn insert_packed(&self, packed: Packed) {
        self.lock().packed.insert(packed.id, packed.entry);
    }

    /// Removes the packed object `id` if it is at `place` still: who is given it has it removed from
    /// the catalogue and from its pack.
    pub(crate) fn take_packed(&self, id: ObjectId, place: Place) -> Option<Packed> {
        let mut inner = self.lock();
        if inner.packed.get(id)?.place() != place {
            return None;
        }
        let entry = inner.packed.remove(id)?;
        if entry.is_pinned {
            inner.count_pinned(entry.bytes.into(), false);
        }
        Some(Packed { id, entry })
    }

    /// The packed object `id` was used. Returns the entry if the use before was so long ago that the
    /// catalogue should hear of this one.
    pub(crate) fn touch_packed(&self, id: ObjectId, used_ms: u64) -> Option<Packed> {
        let mut inner = self.lock();
        let entry = inner.packed.get_mut(id)?;
        let before_s = entry.used_s;
        entry.used_s = before_s.max(seconds(used_ms));
        let is_news = entry.used_s - before_s >= PACKED_USE_S;
        is_news.then_some(Packed { id, entry: *entry })
    }

    /// When `id` was used last by the clock of the policy; 0 if that is not known.
    pub(crate) fn stamp(&self, id: ObjectId) -> Stamp {
        self.lock().stamp(id).unwrap_or(0)
    }

    /// Notes that `id` was used at `stamp` by the clock of the policy.
    pub(crate) fn set_stamp(&self, id: ObjectId, stamp: Stamp) {
        let mut inner = self.lock();
        if let Some(object) = inner.objects.get(&id) {
            object.stamp.store(stamp, Ordering::Relaxed);
        } else if let Some(entry) = inner.packed.get_mut(id) {
            entry.set_stamp(stamp);
        }
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

    /// Adds objects in packs that the catalogue names.
    pub(crate) fn load_packed(&self, packed: PackedIndex) {
        self.lock().packed = packed;
    }

    /// What `take` makes of the packed objects, in the order of their ids.
    pub(crate) fn each_packed(&self, mut take: impl FnMut(Packed)) {
        for (id, entry) in self.lock().packed.iter() {
            take(Packed { id, entry: *entry });
        }
    }

    /// Chooses objects that together take at least the wanted bytes, those first that `regime`
    /// values least, or as many as there are; none at all if they would not make room for a
    /// rival. They are not evicted yet. `in_use_since_ms` tells the last use of an object that
    /// somebody has open.
    pub(crate) fn victims(
        &self,
        wanted: Wanted,
        regime: Regime,
        in_use_since_ms: impl Fn(ObjectId) -> Option<u64>,
        now_ms: u64,
    ) -> Vec<Stored> {
        let mut victims: Vec<Stored> = Vec::new();
        let mut found_bytes = 0;
        let mut inner = self.lock();
        for in_use in [false, true] {
            if in_use && wanted.choice == Choice::Unused {
                break;
            }
            while found_bytes < wanted.bytes {
                let standing = |id: ObjectId, own_ms: u64| match in_use_since_ms(id) {
                    _ if Some(id) == wanted.newcomer.id() => Standing::Busy,
                    None => Standing::Idle(own_ms),
                    Some(_) if !in_use => Standing::Busy,
                    Some(used_ms)
                        if now_ms.saturating_sub(used_ms.max(own_ms)) < IN_USE_IDLE_MS =>
                    {
                        Standing::Busy
                    }
                    Some(used_ms) => Standing::Idle(used_ms.max(own_ms)),
                };
                let Some(victim) = inner.take(regime, wanted.newcomer, standing) else { break };
                found_bytes += taken_bytes(&victim);
                victims.push(victim);
            }
        }
        let is_in_vain = regime.order == Order::LowestIds
            && matches!(wanted.newcomer, Newcomer::Rival(_))
            && found_bytes < wanted.bytes;
        if is_in_vain {
            for victim in victims.drain(..) {
                match victim {
                    Stored::File(object) => inner.put_in_order(&object),
                    Stored::Packed(packed) => inner.packed.insert(packed.id, packed.entry),
                }
            }
        }
        victims
    }

    /// Whether anything here may be worth less than `id` is. What is in use is not told apart.
    pub(crate) fn has_place_for(&self, id: ObjectId, regime: Regime) -> bool {
        if regime.order == Order::LeastRecent {
            return true;
        }
        let mut inner = self.lock();
        let idle = |_, used_ms| Standing::Idle(used_ms);
        let is_higher = inner.by_id.last().is_some_and(|highest| *highest > id)
            || inner.packed.highest(Bound::Excluded(id), LOOKS_MAX, idle).is_some();
        if is_higher || regime.stale_before == 0 {
            return is_higher;
        }
        let oldest_file = inner.order.iter().next().copied();
        let oldest_packed = inner.packed.oldest(LOOKS_MAX, idle).map(|(oldest, _)| oldest);
        [oldest_file, oldest_packed]
            .into_iter()
            .flatten()
            .any(|oldest| inner.is_stale(oldest, regime))
    }

    /// The file of an evicted object is gone: its name is free again.
    pub(crate) fn forget(&self, object: &Arc<DiskObject>) {
        let mut inner = self.lock();
        let id = object.id();
        if inner.objects.get(&id).is_some_and(|here| Arc::ptr_eq(here, object)) {
            inner.objects.remove(&id);
            if is_pinned(object) {
                inner.pinned(object, false);
            } else {
                inner.take_from_order(object);
            }
        }
    }

    /// Pins the object `id` or lets it go again; whether it is pinned now. Not more is pinned than
    /// `bytes_max`.
    pub(crate) fn set_pinned(&self, id: ObjectId, pin: bool, bytes_max: u64) -> bool {
        let mut inner = self.lock();
        let Some(object) = inner.objects.get(&id).cloned() else {
            return inner.set_packed_pinned(id, pin, bytes_max);
        };
        if is_pinned(&object) == pin {
            return pin;
        }
        if pin {
            if inner.pinned_bytes + object.size_bytes() > bytes_max {
                return false;
            }
            inner.take_from_order(&object);
        } else {
            inner.put_in_order(&object);
        }
        inner.pinned(&object, pin);
        pin
    }

    /// How many objects are pinned, and the bytes they have when they are complete.
    pub(crate) fn pinned(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.pinned_objects, inner.pinned_bytes)
    }

    /// Every object that is there, in no order, and their bytes on disk. Names only, 16 bytes each:
    /// what is kept of an object would keep its space.
    pub(crate) fn on_disk(&self) -> (Vec<ObjectId>, u64) {
        let inner = self.lock();
        let files: u64 = inner.objects.values().map(|object| object.present_bytes()).sum();
        let packed: u64 = inner.packed.iter().map(|(_, entry)| u64::from(entry.bytes)).sum();
        let ids = inner.objects.keys().copied().chain(inner.packed.iter().map(|(id, _)| id));
        (ids.collect(), files + packed)
    }

    /// Objects that are there, and how many of them are in packs.
    pub(crate) fn len_objects(&self) -> (u64, u64) {
        let inner = self.lock();
        let packed = inner.packed.len() as u64;
        (inner.objects.len() as u64 + packed, packed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, object: &Arc<DiskObject>) {
        self.put_in_order(object);
        self.objects.insert(object.id(), Arc::clone(object));
    }

    /// Notes that `object` is pinned, or is not any more.
    fn pinned(&mut self, object: &DiskObject, is_pinned: bool) {
        object.is_pinned.store(is_pinned, Ordering::Relaxed);
        self.count_pinned(object.size_bytes(), is_pinned);
    }

    fn set_packed_pinned(&mut self, id: ObjectId, pin: bool, bytes_max: u64) -> bool {
        let pinned_bytes = self.pinned_bytes;
        let Some(entry) = self.packed.get_mut(id) else { return false };
        let bytes = u64::from(entry.bytes);
        if entry.is_pinned == pin {
            return pin;
        }
        if pin && pinned_bytes + bytes > bytes_max {
            return false;
        }
        entry.is_pinned = pin;
        self.count_pinned(bytes, pin);
        pin
    }

    fn count_pinned(&mut self, object_bytes: u64, is_pinned: bool) {
        let (objects, bytes) = (&mut self.pinned_objects, &mut self.pinned_bytes);
        if is_pinned {
            (*objects, *bytes) = (*objects + 1, *bytes + object_bytes);
        } else {
            (*objects, *bytes) = (*objects - 1, *bytes - object_bytes);
        }
    }

    fn put_in_order(&mut self, object: &DiskObject) {
        self.order.insert(object.id(), object.known_use_ms.load(Ordering::Relaxed));
        self.by_id.insert(object.id());
    }

    fn take_from_order(&mut self, object: &DiskObject) {
        self.order.remove(object.id(), object.known_use_ms.load(Ordering::Relaxed));
        self.by_id.remove(&object.id());
    }

    /// Takes the object that goes first out of the order. One with a file stays in the map.
    fn take(
        &mut self,
        regime: Regime,
        newcomer: Newcomer,
        standing: impl Fn(ObjectId, u64) -> Standing,
    ) -> Option<Stored> {
        let may_be_stale = regime.order == Order::LeastRecent || regime.stale_before > 0;
        let oldest = may_be_stale.then(|| self.oldest(&standing)).flatten();
        let id = match regime.order {
            Order::LeastRecent => oldest,
            Order::LowestIds => oldest
                .filter(|id| self.is_stale(*id, regime))
                .or_else(|| self.highest(newcomer.higher(), &standing)),
        }?;
        if let Some(entry) = self.packed.remove(id) {
            return Some(Stored::Packed(Packed { id, entry }));
        }
        let object = Arc::clone(self.objects.get(&id)?);
        self.take_from_order(&object);
        Some(Stored::File(object))
    }

    /// The least recently used object that may go.
    fn oldest(&mut self, standing: &impl Fn(ObjectId, u64) -> Standing) -> Option<ObjectId> {
        let packed = self.packed.oldest(LOOKS_MAX, standing);
        let Self { objects, order, .. } = self;
        let moved = |id: &ObjectId, stamp| {
            if let Some(object) = objects.get(id) {
                object.known_use_ms.store(stamp, Ordering::Relaxed);
            }
        };
        let standing = |id: &ObjectId| standing_of(objects, *id, standing);
        let file = order.oldest(LOOKS_MAX, standing, moved);
        [packed, file].into_iter().flatten().min_by_key(|(_, used_ms)| *used_ms).map(|(id, _)| id)
    }

    /// The object with the highest id within `bound` that may go.
    fn highest(
        &self,
        bound: Bound<ObjectId>,
        standing: &impl Fn(ObjectId, u64) -> Standing,
    ) -> Option<ObjectId> {
        let higher = self.by_id.range((bound, Bound::Unbounded)).rev().take(LOOKS_MAX);
        let mut idle =
            higher.filter(|id| standing_of(&self.objects, **id, standing) != Standing::Busy);
        idle.next().copied().max(self.packed.highest(bound, LOOKS_MAX, standing))
    }

    fn is_stale(&self, id: ObjectId, regime: Regime) -> bool {
        self.stamp(id).is_some_and(|stamp| stamp < regime.stale_before)
    }

    fn stamp(&self, id: ObjectId) -> Option<Stamp> {
        let file = self.objects.get(&id).map(|object| object.stamp.load(Ordering::Relaxed));
        file.or_else(|| self.packed.get(id).map(Entry::stamp))
    }
}

type Objects = HashMap<ObjectId, Arc<DiskObject>, BuildHasherDefault<SpreadHasher>>;

/// Bytes that come back if `victim` goes.
pub(crate) fn taken_bytes(victim: &Stored) -> u64 {
    match victim {
        Stored::File(object) => object.space().map_or(0, |space| space.bytes()),
        Stored::Packed(packed) => packed.entry.stored_bytes(),
    }
}

fn is_pinned(object: &DiskObject) -> bool {
    object.is_pinned.load(Ordering::Relaxed)
}

/// How an object stands, of which `standing` knows only what is in use by handles.
fn standing_of(
    objects: &Objects,
    id: ObjectId,
    standing: impl Fn(ObjectId, u64) -> Standing,
) -> Standing {
    match objects.get(&id) {
        // Unlinking a file that is in use outside the cache would free nothing and lose it.
        Some(object) if object.is_lent() => Standing::Busy,
        object => standing(id, object.map_or(0, |object| object.last_use_ms())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::space::{Ledger, Verdict};

    const LEAST_RECENT: Regime = Regime { order: Order::LeastRecent, stale_before: 0 };
    const LOWEST_IDS: Regime = Regime { order: Order::LowestIds, stale_before: 0 };

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
    fn check(index: &Index, bytes: u64, newcomer: Newcomer, expected: &[u8]) {
        check_in(LEAST_RECENT, index, (bytes, newcomer), expected);
    }

    #[track_caller]
    fn check_in(
        regime: Regime,
        index: &Index,
        (bytes, newcomer): (u64, Newcomer),
        expected: &[u8],
    ) {
        let wanted = Wanted { bytes, choice: Choice::UnusedFirst, newcomer };
        assert_eq!(ids(&index.victims(wanted, regime, |_| None, 1000)), expected);
    }

    fn ids(victims: &[Stored]) -> Vec<u8> {
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
        let victims = |choice| {
            let wanted = Wanted { bytes: 1, choice, newcomer: Newcomer::Nobody };
            ids(&index.victims(wanted, LEAST_RECENT, in_use, now_ms))
        };
        assert_eq!(victims(Choice::Unused), [3]);
        assert_eq!(victims(Choice::UnusedFirst), [4]);
        assert_eq!(victims(Choice::Unused), [] as [u8; 0]);
        assert_eq!(victims(Choice::UnusedFirst), [1]);
        assert_eq!(victims(Choice::UnusedFirst), [] as [u8; 0]);
    }

    #[test]
    fn a_lent_file_is_never_evicted_for_its_space() {
        let (index, _ledger) = index(&[(1, 10), (2, 20)]);
        let first = index.find_file(id(1)).unwrap();
        first.lend();
        check(&index, 1000, Newcomer::Nobody, &[2]);
        check(&index, 1000, Newcomer::Nobody, &[]);
        first.given_back();
        check(&index, 1000, Newcomer::Nobody, &[1]);
    }

    #[test]
    fn the_least_recently_used_objects_go_first() {
        let (index, _ledger) = index(&[(1, 30), (2, 10), (3, 20)]);
        index.find_file(id(2)).unwrap().touch(40);
        check(&index, 101, Newcomer::Nobody, &[3, 1]);
        check(&index, 1000, Newcomer::Nobody, &[2]);
    }

    #[test]
    fn the_object_that_needs_space_is_spared() {
        let (index, _ledger) = index(&[(1, 10), (2, 20)]);
        check(&index, 1000, Newcomer::Rival(id(1)), &[2]);
        let (index, _ledger) = self::index(&[(1, 10), (2, 20)]);
        check(&index, 1000, Newcomer::Asked(id(1)), &[2]);
    }

    #[test]
    fn where_the_lowest_ids_stay_the_highest_go_for_a_lower_one_alone() {
        let ids = [(3, 10), (5, 40), (7, 20)];
        for (newcomer, bytes, expected) in [
            (Newcomer::Rival(id(6)), 100, &[7][..]),
            (Newcomer::Rival(id(6)), 101, &[]),
            (Newcomer::Rival(id(4)), 101, &[7, 5]),
            (Newcomer::Rival(id(9)), 1, &[]),
            (Newcomer::Asked(id(9)), 101, &[7, 5]),
            (Newcomer::Asked(id(7)), 1000, &[5, 3]),
            (Newcomer::Nobody, 101, &[7, 5]),
        ] {
            let (index, _ledger) = index(&ids);
            check_in(LOWEST_IDS, &index, (bytes, newcomer), expected);
            // What did not go is where it was.
            let rest: Vec<_> = [7, 5, 3].into_iter().filter(|id| !expected.contains(id)).collect();
            check_in(LOWEST_IDS, &index, (1000, Newcomer::Nobody), &rest);
        }
    }

    #[test]
    fn what_is_pinned_never_goes_and_no_more_is_pinned_than_may_be() {
        for regime in [LEAST_RECENT, LOWEST_IDS] {
            let (index, _ledger) = index(&[(1, 10), (2, 20), (3, 30)]);
            assert!(index.set_pinned(id(1), true, 200) && index.set_pinned(id(3), true, 200));
            assert!(!index.set_pinned(id(2), true, 200), "that would be too much");
            assert_eq!(index.pinned(), (2, 200));
            check_in(regime, &index, (1000, Newcomer::Nobody), &[2]);
            assert!(!index.set_pinned(id(3), false, 200));
            check_in(regime, &index, (1000, Newcomer::Nobody), &[3]);
            let first = index.find_file(id(1)).unwrap();
            index.forget(&first);
            assert_eq!(index.pinned(), (0, 0));
        }
    }

    #[test]
    fn what_is_stale_goes_for_any_id() {
        let (index, _ledger) = index(&[(3, 10), (5, 40), (7, 20)]);
        for (number, stamp) in [(3, 50), (5, 90), (7, 60)] {
            index.find_file(id(number)).unwrap().stamp.store(stamp, Ordering::Relaxed);
        }
        let regime = |stale_before| Regime { stale_before, ..LOWEST_IDS };
        assert!(!index.has_place_for(id(9), regime(50)));
        assert!(index.has_place_for(id(9), regime(51)));
        assert!(index.has_place_for(id(6), regime(50)));
        assert!(index.has_place_for(id(9), LEAST_RECENT));
        check_in(regime(70), &index, (101, Newcomer::Rival(id(9))), &[3, 7]);
        check_in(regime(70), &index, (1, Newcomer::Rival(id(9))), &[]);
    }

    #[test]
    fn the_name_of_an_evicted_object_is_taken_until_its_file_is_gone() {
        let (index, ledger) = index(&[(1, 10)]);
        let object = index.find_file(id(1)).unwrap();
        object.evict();
        let make = || DiskObject::new(id(1), 100, 0, ledger.file(0));
        assert!(index.find_file(id(1)).is_none());
        assert!(index.find_or_insert(id(1), make).is_none());
        index.forget(&object);
        assert!(index.find_or_insert(id(1), make).is_some());
    }
}
