//! One core's end of the connection to the kernel: requests come out, replies go in.
//!
//! Invariants:
//! - A reply goes through the channel its request came from: the kernel looks for the request
//!   among those this descriptor has read.
//! - A future of [`Channel::receive`] may be dropped at any time without losing a request: nothing
//!   is awaited between the read of a request and its return.

mod device;
mod readiness;
mod ring;

use crate::counters::Counters;
use crate::errno::Errno;
use crate::error::Error;
use crate::init::{Negotiated, TransportKind};
use crate::reply::{Head, Payload, Reply};
use crate::request::{Ino, Request, Unique};
use device::{DeviceTransport, Outcome, Written};
use readiness::Waking;
pub use ring::{RING_RESIDENT_BYTES, RingObstacle, ring_obstacle};
use ring::{Registration, RingTransport, Share};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

/// A descriptor of the connection on its way to the core that will serve it.
#[derive(Debug)]
pub struct Device {
    pub(crate) fd: OwnedFd,
    pub(crate) session: Arc<OwnedFd>,
    pub(crate) owner: Option<u32>,
    pub(crate) counters: Arc<Counters>,
    /// Its number among those that the session has handed out.
    pub(crate) index: usize,
    /// How many devices the session has handed out.
    pub(crate) siblings: Arc<AtomicUsize>,
}

/// One core's end of the connection. Clones are the same end.
#[derive(Debug, Clone)]
pub struct Channel(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    ring_failure: Option<io::Error>,
    /// For notifications, which may block and so are written by another thread.
    session: Arc<OwnedFd>,
    /// The one user besides root who is served; `None` serves all that the kernel lets in.
    owner: Option<u32>,
    counters: Arc<Counters>,
}

/// How requests and replies travel.
#[derive(Debug)]
enum Transport {
    Device(DeviceTransport),
    Ring(Box<RingTransport>),
}

/// What came out of a [`Channel`].
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A request to be answered.
    Request(Request),
    /// The mount is gone: unmounted, or its connection aborted. Nothing will come any more.
    Unmounted,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it.
    Delivered,
    /// Nobody waits for it any more: the request was aborted, or is not known to this channel.
    Gone,
    /// The mount is gone.
    Unmounted,
}

impl Device {
    /// Ties the descriptor to the runtime of this thread. If rings were agreed on and this core
    /// gets none, all cores serve by their descriptors ([`Channel::ring_failure`]).
    pub fn open(self, negotiated: &Negotiated) -> io::Result<Channel> {
        let siblings = self.siblings.load(Ordering::Relaxed);
        let registration = match negotiated.transport() {
            TransportKind::Device => Registration::NoQueues,
            TransportKind::Ring => {
                ring::entries(&self.fd, Share { index: self.index, siblings }, negotiated)?
            }
        };
        let waking = Waking::among(siblings);
        let device = DeviceTransport::new(self.fd, negotiated.request_buffer_bytes(), waking)?;
        let (transport, ring_failure) = match registration {
            Registration::NoQueues => (Transport::Device(device), None),
            Registration::Declined(error) => (Transport::Device(device), Some(error)),
            Registration::Done(entries) => {
                (Transport::Ring(Box::new(RingTransport::new(entries, device)?)), None)
            }
        };
        Ok(Channel(Rc::new(Inner {
            transport,
            ring_failure,
            session: self.session,
            owner: self.owner,
            counters: self.counters,
        })))
    }
}

impl AsFd for Device {
    /// The descriptor, for a holder that keeps it open over a restart.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// The next request. What makes no sense, or comes from a user without access, is answered
    /// here, counted, and not returned. Unmounted it is once the kernel has let go of all memory.
    ///
    /// Lets the other tasks of the thread run once before it reads, so that a request that can be
    /// answered at once is answered before the next one is looked for. A channel that is not
    /// received from any more must be dropped: it may have been chosen to be woken.
    pub async fn receive(&self) -> Result<Received, Error> {
        let Inner { transport, counters, .. } = &*self.0;
        let_others_run().await;
        let mut woken = false;
        loop {
            match transport.read(Request::decode) {
                Outcome::Read(Ok(request)) => {
                    counters.group(request.op.group()).requests.inc();
                    if self.may(&request) {
                        return Ok(Received::Request(request));
                    }
                    counters.denied.inc();
                    self.send(request.unique, &Reply::Error(Errno::EACCES))?;
                }
                Outcome::Read(Err(malformed)) => {
                    counters.malformed.inc();
                    if let Some(unique) = malformed.unique {
                        self.send(unique, &Reply::Error(Errno::EIO))?;
                    }
                }
                Outcome::Nothing => {
                    if std::mem::replace(&mut woken, true) {
                        counters.empty_wakeups.inc();
                    }
                    transport.readable().await.map_err(|source| Error::Receive { source })?;
                }
                Outcome::Unmounted => return Ok(Received::Unmounted),
                Outcome::Failed(source) => return Err(Error::Receive { source }),
            }
        }
    }

    /// Answers the request `unique`, which must have come out of this channel. Data is copied
    /// before this returns. By a ring the answer itself may leave with the next
    /// [`Channel::receive`], and so counts as delivered.
    pub fn send(&self, unique: Unique, reply: &Reply<'_>) -> Result<Sent, Error> {
        let Inner { transport, counters, .. } = &*self.0;
        let (head, payload) = reply.encode(unique);
        match reply {
            Reply::Error(_) => counters.errors.inc(),
            Reply::Data(_) => {
                counters.data_bytes.add(u64::try_from(payload.len_bytes()).unwrap_or(u64::MAX));
            }
            _ => {}
        }
        match transport.write(unique, &head, payload) {
            Written::Done => Ok(Sent::Delivered),
            Written::Gone => {
                counters.gone.inc();
                Ok(Sent::Gone)
            }
            Written::Unmounted => Ok(Sent::Unmounted),
            Written::Failed(source) => {
                Err(Error::Send { bytes: head.bytes().len() + payload.len_bytes(), source })
            }
        }
    }

    /// Makes the kernel drop the attributes of `ino` and its pages in `range`, `None` for all of
    /// them. Waits for pages that are being read, so do not await it in the task that must answer
    /// that read.
    pub async fn notify_inval_inode(
        &self,
        ino: Ino,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<(), Error> {
        let message = device::inval_inode(ino, range);
        self.notify(message).await
    }

    /// Makes the kernel forget what it knows of `name` in `parent`. Waits for lookups in `parent`,
    /// so do not await it in the task that must answer one.
    pub async fn notify_inval_entry(&self, parent: Ino, name: &[u8]) -> Result<(), Error> {
        let message = device::inval_entry(parent, name);
        self.notify(message).await
    }

    /// Why this core could not have the ring that was agreed on, so that all cores of the mount
    /// serve by /dev/fuse.
    pub fn ring_failure(&self) -> Option<&io::Error> {
        self.0.ring_failure.as_ref()
    }

    /// Counts of the mount.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// The kernel takes locks while it serves a notification, and who holds them may be waiting
    /// for an answer of this very thread; so another thread writes it.
    async fn notify(&self, message: Vec<u8>) -> Result<(), Error> {
        let session = Arc::clone(&self.0.session);
        let written = tokio::task::spawn_blocking(move || device::notify(&session, &message));
        match written.await {
            Ok(written) => written.map_err(|source| Error::Notify { source }),
            Err(error) => Err(Error::Notify { source: io::Error::other(error) }),
        }
    }

    fn may(&self, request: &Request) -> bool {
        let uid = request.caller.uid;
        self.0.owner.is_none_or(|owner| uid == owner || uid == 0) || request.op.is_beyond_access()
    }
}

/// The message that makes the kernel drop what it knows of an inode.
pub(crate) fn inval_inode(ino: Ino) -> Vec<u8> {
    device::inval_inode(ino, None)
}

/// Writes a message of its own to the kernel.
pub(crate) fn notify(session: &OwnedFd, message: &[u8]) -> io::Result<()> {
    device::notify(session, message)
}

impl Transport {
    fn read<T>(&self, decode: impl Fn(&[u8]) -> T) -> Outcome<T> {
        match self {
            Self::Device(device) => device.read(decode),
            Self::Ring(ring) => ring.read(decode),
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Device(device) => device.readable().await,
            Self::Ring(ring) => ring.readable().await,
        }
    }

    fn write(&self, unique: Unique, head: &Head, payload: Payload<'_>) -> Written {
        match self {
            Self::Device(device) => device.write(head, payload),
            Self::Ring(ring) => ring.write(unique, head, payload),
        }
    }
}

/// Lets every task that is ready now run before the current one goes on.
async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{ReadDirPlus, Wish};
    use crate::mount::{Access, MountOptions};
    use crate::mountpoint::{Unmount, unmount};
    use crate::session::Session;

    struct UnmountOnDrop<'a>(&'a std::path::Path);

    impl Drop for UnmountOnDrop<'_> {
        fn drop(&mut self) {
            unmount(self.0, Unmount::Lazy).ok();
        }
    }

    /// The kernel waits for the entries of all queues, so a core without must say that it has none.
    #[test]
    fn a_core_that_declines_its_ring_leaves_the_mount_to_the_device() {
        let obstacle = ring_obstacle().map(|obstacle| obstacle.to_string());
        let root = nix::unistd::geteuid().is_root();
        if let Some(obstacle) = obstacle.or((!root).then(|| "mounting needs root".to_owned())) {
            println!("skipped: {obstacle}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut session = Session::mount(&MountOptions {
            source: "declined".into(),
            mountpoint: dir.path().into(),
            read_only: true,
            access: Access::OwnerOnly,
        })
        .unwrap();
        let _guard = UnmountOnDrop(dir.path());
        let wish = Wish {
            request_bytes_max: 1 << 20,
            read_ahead_bytes: 1 << 20,
            max_background: 64,
            congestion_threshold: 48,
            readdirplus: ReadDirPlus::Auto,
            transport: TransportKind::Ring,
            passthrough: false,
        };
        let negotiated = session.negotiate(&wish).unwrap();
        assert_eq!(negotiated.transport(), TransportKind::Ring);
        let device = session.device().unwrap();
        let path = dir.path().to_owned();
        let caller = std::thread::spawn(move || std::fs::metadata(path));
        tokio_uring::start(async {
            ring::decline(&device.fd).unwrap();
            let bytes = negotiated.request_buffer_bytes();
            let transport = DeviceTransport::new(device.fd, bytes, Waking::All).unwrap();
            let channel = Channel(Rc::new(Inner {
                transport: Transport::Device(transport),
                ring_failure: None,
                session: device.session,
                owner: None,
                counters: device.counters,
            }));
            let Received::Request(request) = channel.receive().await.unwrap() else { panic!() };
            channel.send(request.unique, &Reply::Error(Errno::EACCES)).unwrap();
        });
        let error = caller.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}
