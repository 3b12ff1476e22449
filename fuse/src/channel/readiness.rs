//! Waiting until a descriptor of /dev/fuse has something to say.
//!
//! Few cores share the runtime's epoll, by which a request wakes all of them and the first takes it.
//! Many use a one-shot poll with `EPOLLEXCLUSIVE`, each on a small ring of its own, by which a
//! request wakes one that is idle. The figures are in docs/decisions/0002-reading-dev-fuse.md.
//!
//! Invariant: while an exclusive poll is armed it may swallow the wake-up of a request. So whoever waited must
//! read before it goes to sleep for anything else, and a `Readiness` that is not waited on any more
//! must be dropped, which disarms it.
#![allow(unsafe_code, reason = "submission to a ring, and tokio's registration of a descriptor")]

use io_uring::{IoUring, opcode, types};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The end of a mount is told by EPOLLERR alone, which READABLE does not include.
pub(super) const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Entries of the ring: the poll, and one that never comes.
const RING_ENTRIES: u32 = 2;

/// Up to this many cores are woken together. Waking both of two costs nothing that can be measured,
/// and the request does not wait for one of them while the other is idle; of eight it doubles the
/// time to an answer.
const TOGETHER_MAX: usize = 2;

/// Whom a request wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waking {
    /// Every idle core.
    All,
    /// One idle core.
    One,
}

impl Waking {
    /// What is best among `cores` that wait for the same mount.
    pub(super) fn among(cores: usize) -> Self {
        if cores <= TOGETHER_MAX { Self::All } else { Self::One }
    }
}

/// A non-blocking descriptor and the way to wait for it.
#[derive(Debug)]
pub(super) enum Readiness {
    /// A poll that wakes one core.
    Exclusive(Box<ExclusivePoll>),
    /// The runtime's epoll.
    Shared(AsyncFd<OwnedFd>),
}

impl Readiness {
    /// Prepares to wait for the non-blocking descriptor `fd` in the runtime of this thread. Where
    /// the kernel forbids rings, all cores are woken whatever was wanted.
    pub(super) fn new(fd: OwnedFd, waking: Waking) -> io::Result<Self> {
        if waking == Waking::One
            && let Ok(ring) = IoUring::new(RING_ENTRIES)
        {
            return Ok(Self::Exclusive(Box::new(ExclusivePoll::new(fd, ring)?)));
        }
        Ok(Self::Shared(register(fd)?))
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        match self {
            Self::Exclusive(poll) => &poll.fd,
            Self::Shared(registered) => registered.get_ref(),
        }
    }

    /// Returns when a read may give something. To be called after one gave nothing.
    pub(super) async fn wait(&self) -> io::Result<()> {
        match self {
            Self::Exclusive(poll) => poll.wait().await,
            Self::Shared(registered) => {
                // The readiness is an edge: forget it before the read, so that what comes after
                // the read is noticed.
                registered.ready(INTEREST).await?.clear_ready();
                Ok(())
            }
        }
    }

    /// Whether a read may give something, as [`Readiness::wait`] but without waiting.
    pub(super) fn poll(&self) -> io::Result<bool> {
        match pin!(self.wait()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }
}

/// A ring that holds at most one poll of `fd`.
#[derive(Debug)]
pub(super) struct ExclusivePoll {
    /// Declared first, so that the poll is gone before its descriptor is.
    ring: AsyncFd<Ring>,
    fd: OwnedFd,
    armed: Cell<bool>,
}

impl ExclusivePoll {
    fn new(fd: OwnedFd, ring: IoUring) -> io::Result<Self> {
        let ring = register(Ring(RefCell::new(ring)))?;
        Ok(Self { ring, fd, armed: Cell::new(false) })
    }

    /// May be dropped while it waits: the poll stays armed and the next call takes it over.
    async fn wait(&self) -> io::Result<()> {
        if !self.armed.get() {
            self.ring.get_ref().arm(&self.fd)?;
            self.armed.set(true);
        }
        while !self.ring.get_ref().reap() {
            self.ring.readable().await?.clear_ready();
        }
        self.armed.set(false);
        Ok(())
    }
}

struct Ring(RefCell<IoUring>);

impl Ring {
    fn arm(&self, fd: &OwnedFd) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLEXCLUSIVE).cast_unsigned();
        let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).build();
        let mut ring = self.0.borrow_mut();
        // SAFETY: a poll refers to no memory of ours, and its descriptor is open: it belongs to the
        // `ExclusivePoll`, and the ring is dropped before it.
        let pushed = unsafe { ring.submission().push(&poll) };
        pushed.map_err(io::Error::other)?;
        loop {
            match ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(|_| ()),
            }
        }
    }

    /// Whether the poll has ended. A failed one has too: the read that follows tells why.
    fn reap(&self) -> bool {
        self.0.borrow_mut().completion().next().is_some()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.borrow().as_raw_fd()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

/// Registers an owner of a descriptor with the runtime of this thread.
pub(super) fn register<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owner` keeps its descriptor open and its number the same until it is dropped, and
    // from here on only the `AsyncFd` drops it.
    let registered = unsafe { AsyncFd::register_with_interest(owner, INTEREST) };
    Ok(registered?)
}

/// Types that own one descriptor for the whole of their life.
pub(super) trait Owner: AsRawFd {}
impl Owner for OwnedFd {}
impl Owner for Ring {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cores_are_woken_together_and_more_one_by_one() {
        for (cores, waking) in
            [(1, Waking::All), (2, Waking::All), (3, Waking::One), (16, Waking::One)]
        {
            assert_eq!(Waking::among(cores), waking, "{cores}");
        }
    }
}
