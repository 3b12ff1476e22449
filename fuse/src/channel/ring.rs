//! FUSE over io_uring: a request comes in an entry of a ring, and its answer goes back in the same
//! entry by the call that fetches the next request.
//!
//! The kernel has a queue for every processor and puts a request into that of the processor its
//! caller runs on; a core serves the queues that fall to it. What does not travel by the rings,
//! INTERRUPT, FORGET and notifications, still comes by the core's /dev/fuse, and so does everything
//! as long as one queue has no entry.
//!
//! Answers are handed over in batches: when no request is left that has come, when enough bytes
//! wait, or when the receiver waits. The figures are in docs/decisions/0005-fuse-over-io-uring.md.
//!
//! Invariant: the end of the mount is told only once the kernel has returned all entries.

mod entries;
mod memory;
mod probe;
mod queues;
mod slots;
mod wire;

use super::device::{DeviceTransport, Outcome, Written};
use super::readiness::{INTEREST, Owner, register};
use crate::init::Negotiated;
use crate::reply::{Head, Payload};
use crate::request::Unique;
#[cfg(test)]
pub(super) use entries::decline;
use entries::{Entries, Plan};
pub use probe::{RingObstacle, ring_obstacle};
use std::cell::{Cell, RefCell};
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Poll, Waker};
use tokio::io::unix::AsyncFd;

/// The list of processors that may ever run, for each of which the kernel has a queue.
const POSSIBLE_PROCESSORS: &str = "/sys/devices/system/cpu/possible";

/// Memory of a core's entries that stays where answers have touched it. Each entry can hold the
/// largest answer, but few do at a time.
pub const RING_RESIDENT_BYTES: usize = 16 << 20;

/// Which part of the kernel's queues is a core's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Number of the core.
    pub(super) index: usize,
    /// Number of cores.
    pub(super) siblings: usize,
}

/// What became of a core's part in the rings that were agreed on.
pub(super) enum Registration {
    /// It has entries.
    Done(Box<Entries>),
    /// It has no queues: there are more cores than processors.
    NoQueues,
    /// It cannot have entries, and so the kernel was told to use /dev/fuse for all requests.
    Declined(io::Error),
}

/// Registers entries for the queues that are this core's with the connection of `fd`. An error
/// leaves the kernel waiting for them.
pub(super) fn entries(
    fd: &OwnedFd,
    share: Share,
    negotiated: &Negotiated,
) -> io::Result<Registration> {
    let registered = possible_processors().and_then(|processors| {
        let queues = queues::of_core(share.index, share.siblings, processors);
        if queues.is_empty() {
            return Ok(Registration::NoQueues);
        }
        let plan = Plan {
            queues: &queues,
            payload_bytes: negotiated.ring_payload_bytes(),
            resident_bytes: RING_RESIDENT_BYTES,
        };
        let entries = Entries::register(fd.try_clone()?, &plan)?;
        Ok(Registration::Done(Box::new(entries)))
    });
    registered.or_else(|error| entries::decline(fd).map(|()| Registration::Declined(error)))
}

fn possible_processors() -> io::Result<usize> {
    let list = fs::read_to_string(POSSIBLE_PROCESSORS)?;
    queues::possible(&list).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[derive(Debug)]
pub(super) struct RingTransport {
    ring: AsyncFd<Shared>,
    device: DeviceTransport,
    /// Whether a read of the device may give something.
    device_pending: Cell<bool>,
    /// Whether the device is looked at before the next answers are handed over, so that no load of
    /// the ring keeps an INTERRUPT waiting.
    device_next: Cell<bool>,
    /// Whether the device has told the end of the mount.
    ended: Cell<bool>,
    /// Who waits in [`RingTransport::readable`].
    receiver: RefCell<Option<Waker>>,
}

impl RingTransport {
    /// Serves the requests that come into `entries`, and those that come by `device`.
    pub(super) fn new(entries: Box<Entries>, device: DeviceTransport) -> io::Result<Self> {
        let fd = entries.as_raw_fd();
        Ok(Self {
            ring: register(Shared { fd, entries: RefCell::new(entries) })?,
            device,
            device_pending: Cell::new(true),
            device_next: Cell::new(true),
            ended: Cell::new(false),
            receiver: RefCell::new(None),
        })
    }

    /// Gives the next message to `decode`, if there is one.
    pub(super) fn read<T>(&self, decode: impl Fn(&[u8]) -> T) -> Outcome<T> {
        let mut entries = self.entries().borrow_mut();
        loop {
            if self.ended.get() {
                while entries.next_message().is_some() {}
            } else if let Some(message) = entries.next_message() {
                return Outcome::Read(decode(message));
            }
            let answers = entries.has_answers();
            if !self.ended.get() && (self.device_next.replace(false) || !answers) {
                match self.read_device(&decode) {
                    Outcome::Nothing => {}
                    Outcome::Unmounted => self.ended.set(true),
                    outcome => return outcome,
                }
            }
            self.device_next.set(true);
            if let Err(error) = entries.enter() {
                return Outcome::Failed(error);
            }
            if !entries.has_requests() {
                break;
            }
        }
        if self.ended.get() && entries.in_kernel() == 0 {
            return Outcome::Unmounted;
        }
        Outcome::Nothing
    }

    fn read_device<T>(&self, decode: impl Fn(&[u8]) -> T) -> Outcome<T> {
        if !self.device_pending.get() {
            match self.device.is_readable() {
                Ok(readable) => self.device_pending.set(readable),
                Err(error) => return Outcome::Failed(error),
            }
        }
        if !self.device_pending.get() {
            return Outcome::Nothing;
        }
        let outcome = self.device.read(decode);
        self.device_pending.set(matches!(outcome, Outcome::Read(_)));
        outcome
    }

    /// Waits until a read may give something, and hands over answers meanwhile. To be called after
    /// one gave [`Outcome::Nothing`].
    pub(super) async fn readable(&self) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                () = self.stirred() => {}
                ready = self.ring.ready(INTEREST) => {
                    // The readiness is an edge: forget it before the kernel is asked.
                    ready?.clear_ready();
                }
                ready = self.device.readable(), if !self.ended.get() => {
                    ready?;
                    self.device_pending.set(true);
                    return Ok(());
                }
            }
            let mut entries = self.entries().borrow_mut();
            entries.enter()?;
            if entries.has_requests() || self.ended.get() {
                return Ok(());
            }
        }
    }

    /// Ends when a task has written an answer, or has met requests while it handed some over.
    async fn stirred(&self) {
        poll_fn(|context| {
            let mut entries = self.entries().borrow_mut();
            if entries.has_answers() || entries.has_requests() {
                return Poll::Ready(());
            }
            self.receiver.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Answers the request `unique` where it came from.
    pub(super) fn write(&self, unique: Unique, head: &Head, payload: Payload<'_>) -> Written {
        let mut entries = self.entries().borrow_mut();
        let Some(slot) = entries.take(unique.0) else {
            return self.device.write(head, payload);
        };
        let mut written = entries.answer(slot, head, payload);
        if written.is_ok() && entries.has_many_answers() {
            written = entries.enter();
        }
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
        match written {
            Ok(()) if self.ended.get() => Written::Unmounted,
            Ok(()) => Written::Done,
            Err(error) => Written::Failed(error),
        }
    }

    fn entries(&self) -> &RefCell<Box<Entries>> {
        &self.ring.get_ref().entries
    }
}

/// The entries as the runtime's epoll knows them, by the descriptor of their ring.
struct Shared {
    fd: RawFd,
    /// Borrowed only where nothing is awaited.
    entries: RefCell<Box<Entries>>,
}

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Owner for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entries")
    }
}
