//! The lab as a client sees it: real requests, signed by rusty-s3, over a socket that is read byte by
//! byte, and the ledger beside it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod control;
mod faults;
mod protocol;
mod shape;
