//! One object version on disk: which of its blocks are there, and who writes more.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tokio::sync::OnceCell;

use crate::block::{BLOCK_BYTES, block_count, block_range};
use crate::disk::bitmap::Bitmap;
use crate::disk::space::{FileSpace, Reservation};
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
    /// Its last use waits to be catalogued.
    pub(crate) use_noted: AtomicBool,
    /// Set once its file was made, in this life or an earlier one.
    created: OnceCell<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    evicted: bool,
    /// Blocks that can be read.
    present: Bitmap,
    /// Blocks whose space is accounted for, right or not.
    stored: Bitmap,
    /// Blocks being written.
    writing: SmallVec<[u32; 4]>,
    /// Checksums of blocks that the catalogue does not have yet.
    fresh: BTreeMap<u32, Arc<[u32]>>,
    /// `None` once evicted.
    space: Option<Arc<FileSpace>>,
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
        Self::build(id, size_bytes, now_ms, State { space: Some(space), ..State::default() })
    }

    /// An object that the catalogue names.
    pub(crate) fn catalogued(
        (id, size_bytes): (ObjectId, u64),
        last_use_ms: u64,
        present: Bitmap,
        space: Arc<FileSpace>,
    ) -> Self {
        let stored = present.clone();
        let state = State { present, stored, space: Some(space), ..State::default() };
        Self {
            created: OnceCell::new_with(Some(())),
            ..Self::build(id, size_bytes, last_use_ms, state)
        }
    }

    fn build(id: ObjectId, size_bytes: u64, last_use_ms: u64, state: State) -> Self {
        Self {
            id,
            size_bytes,
            last_use_ms: AtomicU64::new(last_use_ms),
            known_use_ms: AtomicU64::new(last_use_ms),
            use_noted: AtomicBool::new(false),
            created: OnceCell::new(),
            state: Mutex::new(state),
        }
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

    /// Runs `create` if no file was made for this object yet; one at a time.
    pub(crate) async fn create_once<F: Future<Output = io::Result<()>>>(
        &self,
        create: impl FnOnce() -> F,
    ) -> io::Result<()> {
        self.created.get_or_try_init(create).await.copied()
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
        if state.writing.contains(&index) {
            return Claim::Taken;
        }
        state.writing.push(index);
        let needs_space = !state.stored.contains(index);
        Claim::Yours(WriteClaim { object: Arc::clone(self), index, needs_space, space })
    }

    /// Checksums of block `index`, if the catalogue does not have them yet.
    pub(crate) fn fresh_sums(&self, index: u32) -> Option<Arc<[u32]>> {
        self.state().fresh.get(&index).cloned()
    }

    /// The catalogue has the checksums of block `index` now.
    pub(crate) fn catalogued_block(&self, index: u32) {
        self.state().fresh.remove(&index);
    }

    /// Block `index` is of no use: it is fetched and written anew. Returns whether it was there.
    pub(crate) fn drop_block(&self, index: u32) -> bool {
        let mut state = self.state();
        state.fresh.remove(&index);
        state.present.remove(index)
    }

    /// How many blocks have space; `None` while one is written, or after eviction.
    pub(crate) fn blocks_at_rest(&self) -> Option<u32> {
        let state = self.state();
        (state.writing.is_empty() && !state.evicted).then(|| state.stored.count())
    }

    /// Nothing of it can be read or written any more. Returns its space, to be dropped once the
    /// file is unlinked; `None` if it was evicted before.
    pub(crate) fn evict(&self) -> Option<Arc<FileSpace>> {
        let mut state = self.state();
        state.evicted = true;
        state.present.clear();
        state.fresh.clear();
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
        self.settle(reservation);
        let mut state = self.object.state();
        if state.evicted {
            return false;
        }
        state.present.insert(self.index);
        state.fresh.insert(self.index, Arc::clone(sums));
        true
    }

    /// The write has failed, after taking who knows how much of its space.
    pub(crate) fn failed(self, reservation: Option<Reservation>) {
        self.settle(reservation);
    }

    fn settle(&self, reservation: Option<Reservation>) {
        if let Some(reservation) = reservation {
            reservation.belongs_to(&self.space);
        }
        self.object.state().stored.insert(self.index);
    }
}

impl Drop for WriteClaim {
    fn drop(&mut self) {
        self.object.state().writing.retain(|index| *index != self.index);
    }
}
