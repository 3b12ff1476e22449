//! The cache as its users see it: real runtimes, real files, a source in process.
//!
//! Every read compares every byte.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says why it was skipped"
)]

mod backing;
mod disk;
mod keeping;
mod memory;
mod packs;
mod source;
mod sparse;
mod verify;
