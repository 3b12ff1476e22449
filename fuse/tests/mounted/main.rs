//! Real mounts, served by the crate's channels on two cores. They need root and /dev/fuse, and say
//! so where they lack them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips, and what fails in its helpers fails the test"
)]

use tenderfs_fuse::TransportKind;

/// How the mounts of these tests are served. The same tests by rings are in
/// `tests/mounted_by_ring.rs`.
const TRANSPORT: TransportKind = TransportKind::Device;

mod memfs;
mod passthrough;

mod lifecycle;
mod reading;
mod users;
