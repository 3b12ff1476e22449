//! The tests of `tests/mounted`, served by FUSE over io_uring. Where the kernel does not offer it they
//! say so and pass.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips, and what fails in its helpers fails the test"
)]

use tenderfs_fuse::TransportKind;

const TRANSPORT: TransportKind = TransportKind::Ring;

#[path = "mounted/memfs.rs"]
mod memfs;

#[path = "mounted/lifecycle.rs"]
mod lifecycle;
#[path = "mounted/reading.rs"]
mod reading;
#[path = "mounted/users.rs"]
mod users;
