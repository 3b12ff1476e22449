//! Which waiting requests an INTERRUPT can reach, on whatever core it arrives.
//!
//! A request that has to wait registers here; one that can be answered at once never does. The
//! kernel may deliver an INTERRUPT before its request has registered (they can be read on two
//! cores), so interrupts that found nobody are remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenderfs_fuse::Unique;
use tokio::sync::Notify;

/// Interrupts remembered that found nobody: enough for every request the kernel keeps in the
/// background to be interrupted at once, several times over.
const EARLY_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Board {
    waiting: HashMap<Unique, Arc<Notify>>,
    early: VecDeque<Unique>,
}

/// The waiting requests of one mount.
#[derive(Debug, Default)]
pub(crate) struct Interrupts(Mutex<Board>);

impl Interrupts {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a request that waits. Its [`Waiting::interrupted`] ends when it is interrupted.
    pub(crate) fn wait(&self, unique: Unique) -> Waiting<'_> {
        let notify = Arc::new(Notify::new());
        let mut board = self.lock();
        if let Some(index) = board.early.iter().position(|early| *early == unique) {
            board.early.remove(index);
            notify.notify_one();
        }
        board.waiting.insert(unique, Arc::clone(&notify));
        Waiting { interrupts: self, unique, notify }
    }

    /// The kernel interrupts `target`.
    pub(crate) fn interrupt(&self, target: Unique) {
        let mut board = self.lock();
        if let Some(notify) = board.waiting.get(&target) {
            notify.notify_one();
            return;
        }
        if board.early.len() >= EARLY_MAX {
            board.early.pop_front();
        }
        board.early.push_back(target);
    }
}

/// A registered request; dropping it takes it off the board.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    interrupts: &'a Interrupts,
    unique: Unique,
    notify: Arc<Notify>,
}

impl Waiting<'_> {
    /// Ends when the request is interrupted, be it before or after this was called.
    pub(crate) async fn interrupted(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.interrupts.lock().waiting.remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn an_interrupt_reaches_its_request_before_or_after_it_waits() {
        let interrupts = Interrupts::default();
        let first = interrupts.wait(Unique(2));
        let second = interrupts.wait(Unique(4));
        interrupts.interrupt(Unique(2));
        assert!(first.interrupted().now_or_never().is_some());
        assert!(second.interrupted().now_or_never().is_none());
        interrupts.interrupt(Unique(6));
        let early = interrupts.wait(Unique(6));
        assert!(early.interrupted().now_or_never().is_some());
        drop((first, second, early));
        assert!(interrupts.lock().waiting.is_empty() && interrupts.lock().early.is_empty());
    }

    #[test]
    fn interrupts_of_nobody_are_bounded() {
        let interrupts = Interrupts::default();
        for unique in 0..5000 {
            interrupts.interrupt(Unique(unique));
        }
        assert_eq!(interrupts.lock().early.len(), EARLY_MAX);
    }
}
