//! One block in memory, from the start of its fill to its eviction, and who waits for it.
//!
//! Invariant: a block is pinned while anyone but the directory holds it; only unpinned blocks are
//! evicted. Its fill ends once: full, or failed with everyone told.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::block::BlockId;
use crate::fill::Pushed;
use crate::lru::Stamp;
use crate::memory::frame::Frame;
use crate::source::{Class, SourceError};
use crate::view::Tier;

/// A block in memory.
pub(crate) struct Block {
    id: BlockId,
    frame: Arc<Frame>,
    /// Who its fill was started for.
    class: Class,
    /// Where its bytes come from, as `TIER_*`.
    tier: AtomicU8,
    last_use: AtomicU64,
    /// A reader has used it.
    used: AtomicBool,
    /// Checksums of its granules, once all bytes are there and known to be right.
    sums: OnceLock<Arc<[u32]>>,
    /// The least watermark anyone waits for; `usize::MAX` if nobody waits.
    lowest_need: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    failure: Option<Failure>,
    next: u64,
    list: Vec<Waiter>,
}

struct Waiter {
    number: u64,
    need_bytes: usize,
    waker: Waker,
}

/// Why a block did not come.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: SourceError,
    pub(crate) remedy: Remedy,
}

/// What a reader that waited for a failed block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// It gets the error: a fill for a reader has failed.
    Report,
    /// It fetches itself: a prediction has failed, or the fill's task was dropped.
    Refetch,
}

const TIER_DISK: u8 = 1;
const TIER_S3: u8 = 2;

impl Block {
    /// A block whose fill starts now.
    pub(crate) fn new(id: BlockId, frame: Arc<Frame>, class: Class, now: Stamp) -> Arc<Self> {
        Arc::new(Self {
            id,
            frame,
            class,
            tier: AtomicU8::new(TIER_S3),
            last_use: AtomicU64::new(now),
            used: AtomicBool::new(class == Class::Demand),
            sums: OnceLock::new(),
            lowest_need: AtomicUsize::new(usize::MAX),
            waiters: Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> BlockId {
        self.id
    }

    pub(crate) fn frame(&self) -> &Arc<Frame> {
        &self.frame
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// Where the bytes come from.
    pub(crate) fn tier(&self) -> Tier {
        if self.tier.load(Ordering::Relaxed) == TIER_DISK { Tier::Disk } else { Tier::S3 }
    }

    /// The bytes come from `tier` now; memory is none.
    pub(crate) fn set_tier(&self, tier: Tier) {
        let tier = if tier == Tier::Disk { TIER_DISK } else { TIER_S3 };
        self.tier.store(tier, Ordering::Relaxed);
    }

    pub(crate) fn last_use(&self) -> Stamp {
        self.last_use.load(Ordering::Relaxed)
    }

    /// A reader uses the block. Returns true for the first reader of a predicted block.
    pub(crate) fn touch(&self, now: Stamp) -> bool {
        self.last_use.store(now, Ordering::Relaxed);
        !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed)
    }

    /// Whether a reader has used it.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether all bytes are there.
    pub(crate) fn is_full(&self) -> bool {
        self.frame.filled_bytes() == self.frame.len_bytes()
    }

    /// Checksums of the granules, once all bytes are there; `None` if they were never computed.
    pub(crate) fn sums(&self) -> Option<&Arc<[u32]>> {
        self.sums.get()
    }

    /// Keeps the checksums of the granules. The first ones stay.
    pub(crate) fn set_sums(&self, sums: Arc<[u32]>) {
        self.sums.get_or_init(|| sums);
    }

    /// Wakes who waits for bytes that are there now. The filler calls it after each step.
    pub(crate) fn announce(&self) -> Pushed {
        // SeqCst on both sides: either a waiter sees the new watermark when it looks once more
        // after registering, or its need is seen here.
        let filled_bytes = self.frame.filled_bytes();
        let mut pushed = Pushed::Unawaited;
        if filled_bytes >= self.lowest_need.load(Ordering::SeqCst) {
            let mut waiters = self.waiters();
            for waiter in waiters.list.extract_if(.., |waiter| waiter.need_bytes <= filled_bytes) {
                waiter.waker.wake();
                pushed = Pushed::Awaited;
            }
            self.note_lowest_need(&waiters);
        }
        pushed
    }

    /// Ends the fill without all bytes: whoever waits, or comes later, hears why.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut waiters = self.waiters();
        waiters.failure.get_or_insert(failure);
        for waiter in waiters.list.drain(..) {
            waiter.waker.wake();
        }
        self.note_lowest_need(&waiters);
    }

    /// Waits until the first `need_bytes` bytes are there.
    pub(crate) fn filled_to(self: &Arc<Self>, need_bytes: usize) -> FilledTo {
        debug_assert!(need_bytes <= self.frame.len_bytes());
        FilledTo { block: Arc::clone(self), need_bytes, number: None }
    }

    fn note_lowest_need(&self, waiters: &MutexGuard<'_, Waiters>) {
        let lowest = waiters.list.iter().map(|waiter| waiter.need_bytes).min();
        self.lowest_need.store(lowest.unwrap_or(usize::MAX), Ordering::SeqCst);
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Block::filled_to`].
pub(crate) struct FilledTo {
    block: Arc<Block>,
    need_bytes: usize,
    number: Option<u64>,
}

impl Future for FilledTo {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.block.frame.filled_bytes() >= this.need_bytes {
            return Poll::Ready(Ok(()));
        }
        let mut waiters = this.block.waiters();
        if let Some(failure) = &waiters.failure {
            return Poll::Ready(Err(failure.clone()));
        }
        let known = waiters.list.iter_mut().find(|waiter| Some(waiter.number) == this.number);
        if let Some(waiter) = known {
            waiter.waker.clone_from(context.waker());
        } else {
            let number = waiters.next;
            waiters.next += 1;
            let waker = context.waker().clone();
            waiters.list.push(Waiter { number, need_bytes: this.need_bytes, waker });
            this.number = Some(number);
        }
        this.block.note_lowest_need(&waiters);
        // Once more, now that the need is known: see `announce`.
        if this.block.frame.filled_bytes() >= this.need_bytes {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl Drop for FilledTo {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut waiters = self.block.waiters();
            waiters.list.retain(|waiter| waiter.number != number);
            self.block.note_lowest_need(&waiters);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Wake;

    use super::*;
    use crate::memory::arena::Arena;
    use crate::memory::buddy::CHUNK_BYTES;
    use crate::memory::frame::Filler;
    use crate::settings::HugePages;
    use crate::source::SourceErrorKind;
    use crate::version::ObjectId;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn block(class: Class) -> (Arc<Block>, Filler) {
        let arena = Arena::map(CHUNK_BYTES, HugePages::Plain).unwrap();
        let (frame, filler) = Frame::new(arena.allocate(1000).unwrap(), 1000);
        let id = BlockId { object: ObjectId([0; 16]), index: 0 };
        (Block::new(id, frame, class, 0), filler)
    }

    #[test]
    fn only_waiters_whose_bytes_are_there_are_woken() {
        let (block, mut filler) = block(Class::Demand);
        let (early, late) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (early_waker, late_waker) = (Arc::clone(&early).into(), Arc::clone(&late).into());
        let mut first = pin!(block.filled_to(100));
        let mut second = pin!(block.filled_to(1000));
        assert!(first.as_mut().poll(&mut Context::from_waker(&early_waker)).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(&late_waker)).is_pending());
        filler.advance(500);
        block.announce();
        assert_eq!((early.0.load(Ordering::SeqCst), late.0.load(Ordering::SeqCst)), (1, 0));
        assert!(first.as_mut().poll(&mut Context::from_waker(&early_waker)).is_ready());
        filler.advance(500);
        block.announce();
        assert_eq!(late.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_reaches_who_waits_and_who_comes_later() {
        let (block, mut filler) = block(Class::InFile);
        filler.advance(500);
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let mut waiting = pin!(block.filled_to(1000));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        block.fail(Failure {
            error: SourceError::new(SourceErrorKind::Unavailable, "gone"),
            remedy: Remedy::Refetch,
        });
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        for (need_bytes, fails) in [(1000, true), (501, true), (500, false)] {
            let future = pin!(block.filled_to(need_bytes));
            let Poll::Ready(result) = future.poll(&mut Context::from_waker(&waker)) else {
                panic!("a failed fill keeps nobody waiting");
            };
            assert_eq!(result.is_err(), fails, "{need_bytes}");
        }
    }

    #[test]
    fn a_waiter_that_goes_away_is_forgotten() {
        let (block, _filler) = block(Class::Demand);
        let waker = Arc::new(Count::default()).into();
        {
            let mut waiting = pin!(block.filled_to(1000));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(block.lowest_need.load(Ordering::SeqCst), 1000);
        }
        assert_eq!(block.lowest_need.load(Ordering::SeqCst), usize::MAX);
        assert!(block.waiters().list.is_empty());
    }
}
