//! The stage on which the end-to-end tests play: an S3 server (the lab, or a store named by
//! environment variables), a temporary cache and configuration, and the real daemon as a process of
//! its own with a real mount.
//!
//! What a test leaves behind is nothing: dropping a [`Stage`] stops the daemon, unmounts what is
//! still mounted and removes the files, whether the test passed or not.
//!
//! Architecture invariant: nothing here looks inside the daemon. Tests judge by what an application
//! sees through the mount, by what the store's ledger says was asked of it, and by what an operator
//! sees: exit codes, messages, the admin API, /proc.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness panics when the stage cannot be set: that is how a test fails"
)]
#![allow(clippy::print_stderr, reason = "a test says what it skips, and why it failed")]

mod admin;
mod content;
mod os;
mod process;
mod stage;
mod store;
mod wait;

pub use admin::{Admin, Answer};
pub use content::{File, md5_of_file};
pub use os::{map_file, map_file_private};
pub use process::{Daemon, Outcome, Program, program, run};
pub use stage::{Stage, is_mounted, is_root, mount_obstacle, ring_obstacle, skip, unmount_lazily};
pub use store::{External, Store};
pub use wait::eventually;
