//! A mount from the server's side: the connection, its first exchange, a descriptor per core.
//!
//! Invariant: dropping a session closes its descriptor and unmounts nothing, so that another
//! process that holds a descriptor can go on. The mount dies with the last descriptor.

use crate::abi::{ByteValued, OutHeader};
use crate::backing::Backing;
use crate::channel::{Device, ring_obstacle};
use crate::counters::Counters;
use crate::errno::Errno;
use crate::error::Error;
use crate::init::{self, Decision, Negotiated, Offer, TransportKind, Wish, init_out_bytes};
use crate::mount::{self, MountOptions};
use crate::mountinfo::DeviceNumber;
use crate::mountpoint::{self, Unmount};
use crate::request::Ino;
use nix::errno::Errno as Sys;
use nix::sys::uio::writev;
use nix::unistd::{SysconfVar, read, sysconf};
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where root says how many pages a request may have, and what holds where the file is missing.
const PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";
const PAGES_LIMIT_DEFAULT: u32 = 256;

/// INITs answered with "ask again" before the kernel counts as mad.
const INIT_ROUNDS_MAX: usize = 3;

/// A mounted file system whose requests nobody answers yet.
#[derive(Debug)]
pub struct Session {
    fd: Arc<OwnedFd>,
    mountpoint: PathBuf,
    number: DeviceNumber,
    owner: Option<u32>,
    counters: Arc<Counters>,
    devices: Arc<AtomicUsize>,
}

impl Session {
    /// Mounts: by mount(2) as root, by fusermount3 otherwise. Whoever touches the mount waits until
    /// [`Session::negotiate`] and the channels answer.
    pub fn mount(options: &MountOptions) -> Result<Self, Error> {
        let (fd, mountpoint) = mount::mount(options)?;
        let number = match mountpoint::topmost(&mountpoint) {
            Ok(Some(mount)) if mount.is_fuse() => mount.device,
            other => {
                // What cannot be found again cannot be cared for. The first error is the one to
                // tell; the descriptor closes here, so the kernel lets go in any case.
                mountpoint::unmount(&mountpoint, Unmount::Lazy).ok();
                return Err(other.err().unwrap_or(Error::MountLost { path: mountpoint }));
            }
        };
        Ok(Self {
            fd: Arc::new(fd),
            mountpoint,
            number,
            owner: mount::owner(options.access),
            counters: Arc::default(),
            devices: Arc::default(),
        })
    }

    /// Reads the kernel's INIT and answers it. Blocks, but not for long: the kernel sends INIT
    /// while it mounts. To be called once, before [`Session::device`].
    ///
    /// Rings that are wished for are agreed on if the kernel offers them and this process can have
    /// them; [`crate::ring_obstacle`] says why not.
    pub fn negotiate(&mut self, wish: &Wish) -> Result<Negotiated, Error> {
        let wish = &match wish.transport {
            TransportKind::Ring if ring_obstacle().is_some() => {
                Wish { transport: TransportKind::Device, ..wish.clone() }
            }
            _ => wish.clone(),
        };
        for _ in 0..INIT_ROUNDS_MAX {
            let (unique, offer) = self.read_offer()?;
            match init::negotiate(&offer, wish) {
                Decision::Accept(negotiated) => {
                    self.answer_init(unique, 0, init_out_bytes(&negotiated.init_out()))?;
                    return Ok(negotiated);
                }
                Decision::AskAgain => {
                    self.answer_init(unique, 0, init_out_bytes(&init::ask_again()))?;
                }
                Decision::Refuse => {
                    self.answer_init(unique, -Errno::EPROTO.raw(), &[])?;
                    return Err(Error::KernelTooOld { major: offer.major, minor: offer.minor });
                }
            }
        }
        Err(self.init_error(Sys::EPROTO))
    }

    /// Sets the kernel's read-ahead for the mount and returns what is in force, in bytes. To be
    /// called after [`Session::negotiate`], whose answer would lower it again; makes no request to
    /// the mount. [`Error::ReadAhead`] (it takes root) leaves a mount that works, only slower.
    pub fn set_read_ahead(&self, bytes: u64) -> Result<u64, Error> {
        let DeviceNumber { major, minor } = self.number;
        let control = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
        fs::write(&control, (bytes / 1024).to_string())
            .and_then(|()| read_number(&control))
            .map(|kib| kib * 1024)
            .map_err(|source| Error::ReadAhead {
                path: self.mountpoint.clone(),
                in_force_bytes: read_number(&control).map_or(0, |kib| kib * 1024),
                wanted_bytes: bytes,
                control,
                source,
            })
    }

    /// A descriptor of the connection for one core: a clone with its own queue of requests in
    /// service, or, where /dev/fuse may not be opened (users other than root, if its mode is 0600),
    /// a duplicate that shares one queue. All are to be taken before the first is opened: how many
    /// there are decides how they wait.
    pub fn device(&self) -> Result<Device, Error> {
        let fd = match mount::clone_device(&self.fd) {
            Ok(clone) => clone,
            Err(_) => self.fd.try_clone().map_err(|source| Error::DeviceRefused { source })?,
        };
        let index = self.devices.fetch_add(1, Ordering::Relaxed);
        Ok(Device {
            fd,
            index,
            session: Arc::clone(&self.fd),
            owner: self.owner,
            counters: Arc::clone(&self.counters),
            siblings: Arc::clone(&self.devices),
        })
    }

    /// Registers `file` for the kernel to read by itself: a `Reply::OpenPassthrough` may then name it.
    /// May be called from any thread, and does not wait.
    pub fn register(&self, file: impl AsFd) -> Result<Backing, Error> {
        Backing::open(&self.fd, &self.counters, file)
    }

    /// Makes the kernel drop the attributes of `ino` and all its pages. Waits for pages that are being
    /// read, so not for a thread that must answer that read.
    pub fn invalidate(&self, ino: Ino) -> Result<(), Error> {
        let message = crate::channel::inval_inode(ino);
        crate::channel::notify(&self.fd, &message).map_err(|source| Error::Notify { source })
    }

    /// Number of the connection: the name of its folder in `/sys/fs/fuse/connections`.
    pub fn connection_id(&self) -> u64 {
        u64::from(self.number.minor)
    }

    /// Where it is mounted, absolute and without symbolic links.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Counts of all channels of this mount.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn read_offer(&self) -> Result<(u64, Offer), Error> {
        let pages_limit = read_number(Path::new(PAGES_LIMIT))
            .ok()
            .and_then(|pages| u32::try_from(pages).ok())
            .unwrap_or(PAGES_LIMIT_DEFAULT);
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|bytes| u32::try_from(bytes).ok())
            .unwrap_or(4096);
        let mut buffer = vec![0; 64 << 10];
        let length = loop {
            match read(&*self.fd, &mut buffer) {
                Ok(length) => break length,
                Err(Sys::EINTR | Sys::ENOENT) => {}
                Err(errno) => return Err(self.init_error(errno)),
            }
        };
        init::parse_offer(&buffer[..length], pages_limit, page_bytes)
            .ok_or_else(|| Error::NotInit { path: self.mountpoint.clone(), bytes: length })
    }

    fn answer_init(&self, unique: u64, error: i32, body: &[u8]) -> Result<(), Error> {
        let length = size_of::<OutHeader>() + body.len();
        let len = u32::try_from(length).unwrap_or(u32::MAX);
        let header = OutHeader { len, error, unique };
        writev(&*self.fd, &[IoSlice::new(header.as_slice()), IoSlice::new(body)])
            .map_err(|errno| self.init_error(errno))?;
        Ok(())
    }

    fn init_error(&self, errno: Sys) -> Error {
        Error::Init { path: self.mountpoint.clone(), source: errno.into() }
    }
}

/// The number that a file of /proc or /sys holds.
fn read_number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}
