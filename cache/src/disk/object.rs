//! One object version on disk: which of its blocks are there, and who writes more.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tokio::sync::Mutex as AsyncMutex;

use crate::block::{BLOCK_BYTES, block_count, block_range};
use crate::disk::bitmap::Bitmap;
use crate::disk::space::{FileSpace, Reservation};
use crate::disk::verified::{FileStamp, Verified};
use crate::version::ObjectId;

/// What block lengths on disk are rounded up to.
const STORED_BYTES: u64 = 4096;

/// An object version with a file on disk.
#[derive(Debug)]
pub(crate) struct DiskObject {
    id: ObjectId,
    size_bytes: u64,
    /// Milliseconds since 1970.
    last_use_ms: AtomicU64,
    /// The use that the index's order knows of.
    pub(crate) known_use_ms: AtomicU64,
    /// When it was used last by the clock of the policy; 0: not in this life.
    pub(crate) stamp: AtomicU64,
    /// Its last use waits to be catalogued.
    pub(crate) use_noted: AtomicBool,
    /// Set once its file was made, in this life or an earlier one.
    created: AtomicBool,
    /// A background check of its blocks is queued or under way.
    pub(crate) is_checking: AtomicBool,
    /// Somebody has waited for it to be complete; nobody does again.
    pub(crate) was_waited_for: AtomicBool,
    /// The user says that it is to stay. Changed by the index alone.
    pub(crate) is_pinned: AtomicBool,
    /// How many have its file in use outside the cache.
    lent: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    evicted: bool,
    /// Blocks that can be read.
    present: Bitmap,
    /// Which of them were found right.
    verified: Verified,
    /// What most objects have nothing of most of the time.
    extra: Option<Box<Extra>>,
    /// `None` once evicted.
    space: Option<Arc<FileSpace>>,
}

#[derive(Debug, Default)]
struct Extra {
    /// Blocks that take space and are of no use.
    spoilt: Bitmap,
    /// Blocks being written.
    writing: SmallVec<[u32; 4]>,
    /// Checksums of blocks that the catalogue does not have yet.
    fresh: BTreeMap<u32, Arc<[u32]>>,
}

impl State {
    fn new(present: Bitmap, verified: Verified, space: Arc<FileSpace>) -> Self {
        Self { evicted: false, present, verified, extra: None, space: Some(space) }
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Gives the memory of `extra` back if there is nothing in it.
    fn tidy(&mut self) {
        self.extra.take_if(|extra| {
            extra.spoilt.count() == 0 && extra.writing.is_empty() && extra.fresh.is_empty()
        });
    }
}

/// Whether the file of an object can be read instead of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Blocks are missing, or it is evicted.
    Incomplete,
    /// Every block is written; the file is not trimmed or not durable yet.
    Settling,
    /// It is complete, and some blocks were not looked at in this life.
    Unverified,
    /// It is complete and right, if the file still has this stamp.
    Ready(FileStamp),
}

/// Whether a block may be written.
pub(crate) enum Claim {
    /// It is on disk already.
    Present,
    /// Somebody else writes it, or the object is being evicted.
    Taken,
    /// The caller writes it.
    Yours(WriteClaim),
}

/// The right to write one block; given up when dropped.
pub(crate) struct WriteClaim {
    object: Arc<DiskObject>,
    index: u32,
    needs_space: bool,
    space: Arc<FileSpace>,
}

impl DiskObject {
    /// A new object without a file.
    pub(crate) fn new(id: ObjectId, size_bytes: u64, now_ms: u64, space: Arc<FileSpace>) -> Self {
        Self::build(id, size_bytes, now_ms, State::new(Bitmap::default(), Verified::ALL, space))
    }

    /// An object that the catalogue names.
    pub(crate) fn catalogued(
        (id, size_bytes): (ObjectId, u64),
        last_use_ms: u64,
        present: Bitmap,
        space: Arc<FileSpace>,
    ) -> Self {
        let state = State::new(present, Verified::Nothing, space);
        Self { created: AtomicBool::new(true), ..Self::build(id, size_bytes, last_use_ms, state) }
    }

    fn build(id: ObjectId, size_bytes: u64, last_use_ms: u64, state: State) -> Self {
        Self {
            id,
            size_bytes,
            last_use_ms: AtomicU64::new(last_use_ms),
            known_use_ms: AtomicU64::new(last_use_ms),
            stamp: AtomicU64::new(0),
            use_noted: AtomicBool::new(false),
            created: AtomicBool::new(false),
            is_checking: AtomicBool::new(false),
            was_waited_for: AtomicBool::new(false),
            is_pinned: AtomicBool::new(false),
            lent: AtomicU32::new(0),
            state: Mutex::new(state),
        }
    }

    /// Takes for right what was not looked at.
    pub(crate) fn trust(self) -> Self {
        self.state().verified = Verified::ALL;
        self
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn last_use_ms(&self) -> u64 {
        self.last_use_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn touch(&self, now_ms: u64) {
        self.last_use_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Runs `create` if no file was made for this object yet. `turn` is the same for all who may
    /// call this for one object.
    pub(crate) async fn create_once<F: Future<Output = io::Result<()>>>(
        &self,
        turn: &AsyncMutex<()>,
        create: impl FnOnce() -> F,
    ) -> io::Result<()> {
        if self.created.load(Ordering::Acquire) {
            return Ok(());
        }
        let _turn = turn.lock().await;
        if !self.created.load(Ordering::Acquire) {
            create().await?;
            self.created.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether it was not evicted.
    pub(crate) fn is_alive(&self) -> bool {
        !self.state().evicted
    }

    /// The space of its file; `None` once evicted.
    pub(crate) fn space(&self) -> Option<Arc<FileSpace>> {
        self.state().space.clone()
    }

    pub(crate) fn is_present(&self, index: u32) -> bool {
        self.state().present.contains(index)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state().present.count() == block_count(self.size_bytes)
    }

    /// Number of blocks that are on disk.
    pub(crate) fn present_blocks(&self) -> u32 {
        self.state().present.count()
    }

    /// Whether its file can be read instead of it.
    pub(crate) fn readiness(&self) -> Readiness {
        let state = self.state();
        if state.evicted || state.present.count() != block_count(self.size_bytes) {
            return Readiness::Incomplete;
        }
        let is_settled = |extra: &Extra| extra.writing.is_empty() && extra.fresh.is_empty();
        if !state.extra.as_deref().is_none_or(is_settled) {
            return Readiness::Settling;
        }
        state.verified.all().map_or(Readiness::Unverified, Readiness::Ready)
    }

    /// Whether block `index`, which is there, was found right in this life.
    pub(crate) fn is_verified(&self, index: u32) -> bool {
        self.state().verified.contains(index)
    }

    /// Block `index` was read from the file of `stamp` and is right.
    pub(crate) fn found_right(&self, index: u32, stamp: FileStamp) {
        let mut state = self.state();
        let State { verified, present, .. } = &mut *state;
        verified.found_right(index, stamp, present);
    }

    /// Its file has this stamp now, by our own doing.
    pub(crate) fn stamped(&self, now: FileStamp) {
        self.state().verified.stamped(now);
    }

    /// Its file is that of `stamp`: what was found right in another one is to be read again.
    pub(crate) fn begin_check(&self, stamp: FileStamp) {
        self.state().verified.begin(stamp);
    }

    /// Its file is in use outside the cache until [`DiskObject::given_back`].
    pub(crate) fn lend(&self) {
        self.lent.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn given_back(&self) {
        self.lent.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether its file is in use outside the cache, so that evicting it would free nothing.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Acquire) > 0
    }

    /// Bytes of the object that are on disk.
    pub(crate) fn present_bytes(&self) -> u64 {
        let last = block_count(self.size_bytes).saturating_sub(1);
        let state = self.state();
        let full = u64::from(state.present.count()) * BLOCK_BYTES;
        if state.present.contains(last) {
            full - BLOCK_BYTES + block_range(self.size_bytes, last).len_bytes()
        } else {
            full
        }
    }

    /// Asks for the right to write block `index`.
    pub(crate) fn claim(self: &Arc<Self>, index: u32) -> Claim {
        let mut state = self.state();
        let Some(space) = state.space.clone().filter(|_| !state.evicted) else {
            return Claim::Taken;
        };
        if state.present.contains(index) {
            return Claim::Present;
        }
        let extra = state.extra();
        if extra.writing.contains(&index) {
            return Claim::Taken;
        }
        extra.writing.push(index);
        let needs_space = !extra.spoilt.contains(index);
        Claim::Yours(WriteClaim { object: Arc::clone(self), index, needs_space, space })
    }

    /// Checksums of block `index`, if the catalogue does not have them yet.
    pub(crate) fn fresh_sums(&self, index: u32) -> Option<Arc<[u32]>> {
        self.state().extra.as_ref()?.fresh.get(&index).cloned()
    }

    /// The catalogue has the checksums of block `index` now.
    pub(crate) fn catalogued_block(&self, index: u32) {
        let mut state = self.state();
        state.extra().fresh.remove(&index);
        state.tidy();
    }

    /// Block `index` is of no use: it is fetched and written anew. Returns whether it was there.
    pub(crate) fn drop_block(&self, index: u32) -> bool {
        let mut state = self.state();
        let was_present = state.present.remove(index);
        let State { verified, present, .. } = &mut *state;
        verified.dropped(index, present);
        let extra = state.extra();
        extra.fresh.remove(&index);
        if was_present {
            extra.spoilt.insert(index);
        }
        state.tidy();
        was_present
    }

    /// How many blocks have space; `None` while one is written, or after eviction.
    pub(crate) fn blocks_at_rest(&self) -> Option<u32> {
        let state = self.state();
        let (is_written, spoilt) = match &state.extra {
            Some(extra) => (!extra.writing.is_empty(), extra.spoilt.count()),
            None => (false, 0),
        };
        (!is_written && !state.evicted).then(|| state.present.count() + spoilt)
    }

    /// Nothing of it can be read or written any more. Returns its space, to be dropped once the
    /// file is unlinked; `None` if it was evicted before.
    pub(crate) fn evict(&self) -> Option<Arc<FileSpace>> {
        let mut state = self.state();
        state.evicted = true;
        state.present.clear();
        state.extra = None;
        state.space.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that the blocks `present` of an object of `size_bytes` take on disk.
pub(crate) fn stored_bytes(size_bytes: u64, present: &Bitmap) -> u64 {
    let full = u64::from(present.count()) * BLOCK_BYTES;
    match present.last() {
        Some(last) if last + 1 == block_count(size_bytes) => {
            let tail = block_range(size_bytes, last).len_bytes().next_multiple_of(STORED_BYTES);
            full - BLOCK_BYTES + tail
        }
        _ => full,
    }
}

impl WriteClaim {
    /// Whether space must be reserved first; not for a block that is written again.
    pub(crate) fn needs_space(&self) -> bool {
        self.needs_space
    }

    /// The block is written; it can be read from now on. False if the object was evicted
    /// meanwhile.
    pub(crate) fn written(self, reservation: Option<Reservation>, sums: &Arc<[u32]>) -> bool {
        self.take_space(reservation);
        let mut state = self.object.state();
        if state.evicted {
            return false;
        }
        state.present.insert(self.index);
        let State { verified, present, .. } = &mut *state;
        verified.written(self.index, present);
        state.extra().spoilt.remove(self.index);
        state.extra().fresh.insert(self.index, Arc::clone(sums));
        true
    }

    /// The write has failed, after taking who knows how much of its space.
    pub(crate) fn failed(self, reservation: Option<Reservation>) {
        self.take_space(reservation);
        let mut state = self.object.state();
        if !state.evicted {
            state.extra().spoilt.insert(self.index);
        }
    }

    fn take_space(&self, reservation: Option<Reservation>) {
        if let Some(reservation) = reservation {
            reservation.belongs_to(&self.space);
        }
    }
}

impl Drop for WriteClaim {
    fn drop(&mut self) {
        let mut state = self.object.state();
        if let Some(extra) = &mut state.extra {
            extra.writing.retain(|index| *index != self.index);
        }
        state.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::space::{Ledger, Verdict};

    fn object() -> (Arc<DiskObject>, Arc<Ledger>) {
        let ledger = Ledger::new(1 << 40, "/".into(), 0.0);
        let size_bytes = 2 * BLOCK_BYTES + 100;
        let object = DiskObject::new(ObjectId([1; 16]), size_bytes, 0, ledger.file(0));
        (Arc::new(object), ledger)
    }

    #[track_caller]
    fn claim(object: &Arc<DiskObject>, index: u32) -> WriteClaim {
        let Claim::Yours(claim) = object.claim(index) else { panic!("block {index} is taken") };
        claim
    }

    fn reserve(ledger: &Arc<Ledger>, bytes: u64) -> Reservation {
        let Verdict::Granted(reservation) = ledger.reserve(bytes) else { panic!("no space") };
        reservation
    }

    #[test]
    fn a_block_is_written_by_one_at_a_time_and_once() {
        let (object, ledger) = object();
        let first = claim(&object, 0);
        assert!(matches!(object.claim(0), Claim::Taken));
        drop(first);
        assert!(claim(&object, 0).written(Some(reserve(&ledger, BLOCK_BYTES)), &[7].into()));
        assert!(matches!(object.claim(0), Claim::Present));
        assert_eq!(object.fresh_sums(0).as_deref(), Some(&[7][..]));
        object.catalogued_block(0);
        assert_eq!(object.fresh_sums(0), None);
        assert!(object.state().extra.is_none(), "nothing is kept for nothing");
        assert_eq!(object.present_bytes(), BLOCK_BYTES);
        assert!(claim(&object, 2).written(Some(reserve(&ledger, 4096)), &[7].into()));
        assert_eq!(object.present_bytes(), BLOCK_BYTES + 100);
        assert!(!object.is_complete());
        assert!(claim(&object, 1).written(Some(reserve(&ledger, BLOCK_BYTES)), &[7].into()));
        assert!(object.is_complete());
        assert_eq!(
            ledger.total_bytes(),
            stored_bytes(object.size_bytes(), &object.state().present)
        );
    }

    #[test]
    fn a_block_that_is_written_again_takes_no_more_space() {
        let (object, ledger) = object();
        claim(&object, 0).failed(Some(reserve(&ledger, BLOCK_BYTES)));
        let again = claim(&object, 0);
        assert!(!again.needs_space());
        assert!(again.written(None, &[7].into()));
        assert!(object.drop_block(0));
        assert!(!object.drop_block(0));
        assert!(!claim(&object, 0).needs_space());
        assert_eq!(object.blocks_at_rest(), Some(1));
        assert_eq!(ledger.total_bytes(), BLOCK_BYTES);
    }

    #[test]
    fn the_space_of_an_evicted_object_comes_back_with_its_last_holder() {
        let (object, ledger) = object();
        assert!(claim(&object, 0).written(Some(reserve(&ledger, BLOCK_BYTES)), &[7].into()));
        let held = object.space().unwrap();
        let late = claim(&object, 1);
        let space = object.evict().unwrap();
        space.doom();
        drop(space);
        assert!(object.evict().is_none());
        assert!(matches!(object.claim(0), Claim::Taken));
        assert!(!late.written(Some(reserve(&ledger, BLOCK_BYTES)), &[7].into()));
        assert_eq!(ledger.total_bytes(), 2 * BLOCK_BYTES);
        drop(held);
        assert_eq!(ledger.total_bytes(), 0);
    }
}
