//! The lab: an S3 server for tests, demos and measurements.
//!
//! Signatures, XML and headers are those of the crate s3s, so a client cannot tell it from S3. Latency,
//! bandwidth and faults come to order, and a ledger says what was asked and what was sent: tests judge
//! by it. The same orders can be given over HTTP; see [`control`].
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tenderfs_lab::{Content, Fault, FaultRule, Lab, Latency, Operation, Shape};
//!
//! let lab = Lab::builder().start()?;
//! lab.create_bucket("data")?;
//! lab.put("data", "shard-0.tar", Content::seeded(1, 64 << 20))?;
//! lab.shape(Shape {
//!     first_byte: Latency::Fixed(Duration::from_millis(20)),
//!     connection_bytes_per_second: Some(90_000_000),
//!     ..Shape::default()
//! });
//! lab.faults().add(FaultRule::new(Fault::slow_down()).operation(Operation::Get).probability(0.01, 7));
//! println!("{} {} {}", lab.endpoint(), lab.access_key(), lab.control_url());
//! assert_eq!(lab.ledger().gets(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! Architecture invariant: knows nothing of TenderFS's other crates.

mod access;
mod content;
pub mod control;
mod fault;
mod gate;
mod http_fake;
mod lab;
mod ledger;
mod pace;
mod request;
mod server;
mod service;
mod shape;
mod storage;
mod timer;
mod tls_front;
mod wire;

pub use content::Content;
pub use fault::{
    ActiveRule, Endless, Fault, FaultId, FaultRule, Faults, KeyPattern, Malformation, Match, When,
};
pub use http_fake::{FakeAnswer, FakeRequest, HttpFake};
pub use lab::{Lab, LabBuilder, LabError};
pub use ledger::{Entry, Ledger, Mark};
pub use request::Operation;
pub use shape::{Latency, Shape};
pub use storage::{Attributes, ChecksumKind, Storage, StorageError};
pub use tls_front::TlsFront;
