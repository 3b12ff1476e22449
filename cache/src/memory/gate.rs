//! Where readers wait for a frame when all are pinned.
//!
//! Invariant: who waits holds no frame and no pin, so that those who hold some always get on.
//! Readers come first, then warming; within each, who came first. Only the first in line tries
//! again when a frame is released, so nobody is overtaken.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Most that wait in one line; far above what a kernel sends at once.
pub(crate) const WAITERS_MAX: usize = 8192;

/// Which line to wait in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A reader waits.
    Demand,
    /// Warming, behind all readers.
    Warm,
}

/// The lines, and the news of released frames.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Tickets in both lines; read without the lock by everyone who releases a frame.
    waiting: AtomicUsize,
    /// Releases that happened while somebody waited.
    releases: AtomicU64,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    demand: VecDeque<Ticket>,
    warm: VecDeque<Ticket>,
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    waker: Option<Waker>,
}

impl Lines {
    fn line(&mut self, line: Line) -> &mut VecDeque<Ticket> {
        match line {
            Line::Demand => &mut self.demand,
            Line::Warm => &mut self.warm,
        }
    }

    fn first(&mut self) -> Option<&mut Ticket> {
        self.demand.front_mut().or(self.warm.front_mut())
    }
}

/// A place in line; dropping it gives it up and lets the next one try.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    gate: &'a Gate,
    line: Line,
    number: u64,
    /// Releases before the last try, and those of this turn's own failed tries since.
    seen: u64,
}

impl Gate {
    /// Whether somebody waits that a newcomer of `line` must not overtake.
    pub(crate) fn is_closed_for(&self, line: Line) -> bool {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let lines = self.lock();
        !lines.demand.is_empty() || (line == Line::Warm && !lines.warm.is_empty())
    }

    /// How many wait.
    pub(crate) fn waiters(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Gets in line. `None` if the line is too long.
    pub(crate) fn queue(&self, line: Line) -> Option<Turn<'_>> {
        let mut lines = self.lock();
        if lines.line(line).len() >= WAITERS_MAX {
            return None;
        }
        let number = lines.next;
        lines.next += 1;
        lines.line(line).push_back(Ticket { number, waker: None });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Some(Turn { gate: self, line, number, seen: self.releases.load(Ordering::SeqCst) })
    }

    /// A frame or a pin was given up. Cheap if nobody waits.
    pub(crate) fn released(&self) {
        // Pairs with the fence in `Turn::first`: either this sees the ticket, or its holder sees
        // the frame that was given up before.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.releases.fetch_add(1, Ordering::SeqCst);
            self.wake_first(&mut self.lock());
        }
    }

    fn wake_first(&self, lines: &mut MutexGuard<'_, Lines>) {
        debug_assert!(self.waiting.load(Ordering::Relaxed) >= lines.demand.len());
        if let Some(waker) = lines.first().and_then(|ticket| ticket.waker.take()) {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits until this is the first in line and something was released since the last call (the
    /// first call does not wait for a release). Then the holder tries to get its frames.
    pub(crate) async fn first(&mut self, again: Again) {
        let wanted = match again {
            Again::No => 0,
            Again::AfterRelease => self.seen + 1,
        };
        poll_fn(|context| {
            let mut lines = self.gate.lock();
            let number = self.number;
            let is_first = lines.first().is_some_and(|ticket| ticket.number == number);
            let releases = self.gate.releases.load(Ordering::SeqCst);
            if is_first && releases >= wanted {
                return Poll::Ready(());
            }
            let mine = lines.line(self.line).iter_mut().find(|ticket| ticket.number == number);
            if let Some(ticket) = mine {
                ticket.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        self.seen = self.gate.releases.load(Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl Turn<'_> {
    /// A try has failed and what it had got was given back. Others in line hear of it; for this
    /// turn it is no news, else it would try again at once, for ever.
    pub(crate) fn gave_back(&mut self) {
        let mut lines = self.gate.lock();
        self.gate.releases.fetch_add(1, Ordering::SeqCst);
        self.seen += 1;
        let number = self.number;
        if lines.first().is_some_and(|ticket| ticket.number != number) {
            self.gate.wake_first(&mut lines);
        }
    }
}

/// Whether [`Turn::first`] was called before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// The first try.
    No,
    /// A try has failed; the next makes sense after a release.
    AfterRelease,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut lines = self.gate.lock();
        lines.line(self.line).retain(|ticket| ticket.number != self.number);
        self.gate.waiting.fetch_sub(1, Ordering::SeqCst);
        // The next one may find frames that this one left, or that were released while a newcomer
        // stood before it.
        self.gate.releases.fetch_add(1, Ordering::SeqCst);
        self.gate.wake_first(&mut lines);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<F: Future>(future: F, count: &Arc<Count>) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(&Arc::clone(count).into()))
    }

    #[test]
    fn readers_come_before_warming_and_nobody_is_overtaken() {
        let gate = Gate::default();
        let count = Arc::new(Count::default());
        let mut warm = gate.queue(Line::Warm).unwrap();
        assert!(!gate.is_closed_for(Line::Demand));
        assert!(gate.is_closed_for(Line::Warm));
        let mut first = gate.queue(Line::Demand).unwrap();
        let mut second = gate.queue(Line::Demand).unwrap();
        assert!(gate.is_closed_for(Line::Demand));
        assert!(poll(warm.first(Again::No), &count).is_pending());
        assert!(poll(second.first(Again::No), &count).is_pending());
        assert!(poll(first.first(Again::No), &count).is_ready());
        assert!(poll(first.first(Again::AfterRelease), &count).is_pending());
        gate.released();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(poll(first.first(Again::AfterRelease), &count).is_ready());
        drop(first);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(poll(second.first(Again::No), &count).is_ready());
        drop(second);
        assert!(poll(warm.first(Again::No), &count).is_ready());
        drop(warm);
        assert_eq!(gate.waiters(), 0);
    }

    #[test]
    fn a_release_between_a_failed_try_and_waiting_is_not_lost() {
        let gate = Gate::default();
        let count = Arc::new(Count::default());
        let mut turn = gate.queue(Line::Demand).unwrap();
        assert!(poll(turn.first(Again::No), &count).is_ready());
        gate.released();
        assert!(poll(turn.first(Again::AfterRelease), &count).is_ready());
    }

    #[test]
    fn giving_back_what_a_failed_try_got_is_no_news_to_oneself() {
        let gate = Gate::default();
        let count = Arc::new(Count::default());
        let mut turn = gate.queue(Line::Warm).unwrap();
        assert!(poll(turn.first(Again::No), &count).is_ready());
        let mut reader = gate.queue(Line::Demand).unwrap();
        assert!(poll(reader.first(Again::No), &count).is_ready());
        assert!(poll(reader.first(Again::AfterRelease), &count).is_pending());
        turn.gave_back();
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "the reader hears of it");
        assert!(poll(reader.first(Again::AfterRelease), &count).is_ready());
        drop(reader);
        gate.released();
        assert!(poll(turn.first(Again::AfterRelease), &count).is_ready());
        turn.gave_back();
        assert!(poll(turn.first(Again::AfterRelease), &count).is_pending());
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of waiters take Miri too long")]
    fn a_line_has_a_limit() {
        let gate = Gate::default();
        let turns: Vec<_> = (0..WAITERS_MAX).map(|_| gate.queue(Line::Demand).unwrap()).collect();
        assert!(gate.queue(Line::Demand).is_none());
        drop(turns);
        assert!(gate.queue(Line::Demand).is_some());
    }
}
