//! Blocks of object versions, in memory and on disk.
//!
//! [`Cache`] is shared by the process, [`CoreCache`] is its face on one core. A read goes down the
//! tiers (memory, disk, [`Source`]) and pins what it found in a [`View`]:
//!
//! - a block that is on its way is waited for, whoever asked for it and on whichever core: one
//!   fetch per block in the process, and a reader is woken as soon as its own bytes are there;
//! - adjacent missing blocks become one fetch, run by a task of its own that no reader's going
//!   away cancels;
//! - a block that has arrived is written to disk in the background and catalogued once it is
//!   durable, so that the catalogue never names what is not there;
//! - every byte read from disk is compared with its checksum; a damaged block is fetched again.
//!
//! Architecture invariant: knows nothing of S3 or FUSE. What decides (`memory`'s buddy allocator
//! and zones, `runs`, `lru`, `keeping`, the disk's space and health) is plain structs without
//! clock or I/O; what does (`core`, `fill`, `disk`'s committer) asks them and acts.

mod backing;
mod block;
mod cache;
mod core;
mod counters;
mod disk;
mod error;
mod fill;
mod inventory;
mod keeping;
mod lru;
mod memory;
mod object;
mod runs;
mod settings;
mod source;
mod sums;
mod version;
mod view;

pub use backing::{BackingFile, Lease};
pub use block::{BLOCK_BYTES, BlockId, BlockRun, RUN_BLOCKS_MAX};
pub use cache::Cache;
pub use core::{CoreCache, PrefetchOutcome, READ_BYTES_MAX, Warmed};
pub use counters::{Counters, Usage};
pub use disk::Pinned;
pub use disk::inspection::{Held, Inspection, inspect};
pub use disk::verification::{Verification, VerifyCounts};
pub use error::{CacheError, ReadError};
pub use fill::{FillSink, Pushed};
pub use inventory::{CachedObject, Evicted};
pub use keeping::{Keeper, Pin, Policy, Verdict};
pub use memory::ARENA_BYTES_MIN;
pub use object::{CachedBytes, Object};
pub use settings::{CacheSettings, HugePages, Verify};
pub use source::{Class, Source, SourceError, SourceErrorKind};
pub use version::{ObjectId, ObjectVersion};
pub use view::{Tier, View};
