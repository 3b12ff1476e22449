//! The kernel's side of TenderFS.
//!
//! Mounts a file system, agrees with the kernel on how to speak (INIT), carries requests from
//! /dev/fuse to the cores and replies back. What a request means is the daemon's business.
//!
//! A mount starts with a [`Session`]: [`Session::mount`], [`Session::negotiate`],
//! [`Session::set_read_ahead`]. Each core takes a [`Device`] of it and opens it as a [`Channel`]
//! inside its own runtime, then loops over [`Channel::receive`] and answers with [`Channel::send`].
//!
//! Architecture invariant: knows nothing of S3, of blocks or of caching, and calls nobody.

mod abi;
mod backing;
mod channel;
mod counters;
mod errno;
mod error;
mod init;
mod mount;
mod mountinfo;
mod mountpoint;
mod reply;
mod request;
mod session;

pub use backing::{Backing, BackingId};
pub use channel::{
    Channel, Device, RING_RESIDENT_BYTES, Received, RingObstacle, Sent, ring_obstacle,
};
pub use counters::{Counters, GroupCounters};
pub use errno::Errno;
pub use error::Error;
pub use init::{Negotiated, ReadDirPlus, TransportKind, Wish};
pub use mount::{Access, MountOptions, SUBTYPE};
pub use mountpoint::{MountpointState, Unmount, mountpoint_state, unmount};
pub use reply::{Attr, DirectoryBuffer, DirectoryEntry, Entry, FileKind, OpenFlags, Reply, StatFs};
pub use request::{
    Caller, Fault, Fh, Ino, Listing, Malformed, Mutation, Op, OpGroup, Request, Unique,
};
pub use session::Session;
