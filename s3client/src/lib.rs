//! Signed HTTP to one S3 bucket: list, head and ranged GET.
//!
//! [`Bucket`] is what all cores share: where the bucket is, who asks, what is counted. [`Client`]
//! is one core's hand on it, with that core's connections; it lives on one thread and needs nothing
//! but a tokio current-thread runtime (a tokio-uring one has one inside). No task is spawned: a
//! connection is driven by whoever waits for its answer, so dropping a future or a [`Body`] leaves
//! nothing behind.
//!
//! What decides is apart from what does: [`Retry`], [`StallWatch`], the pace of a bucket, hedging,
//! addressing, the checks of answers, the meaning of refusals and listings neither wait nor look at a clock.
//!
//! Architecture invariant: knows nothing of blocks, caches, files or FUSE. Never logs an address,
//! for the signature is in it.

mod addressing;
mod answer;
mod body;
mod bucket;
mod checksum;
mod client;
mod clock;
mod connection;
mod counters;
mod credentials;
mod customer_key;
mod deadlines;
mod error;
mod gate;
mod hedging;
mod listing;
mod pace;
mod pool;
mod private_file;
mod proxies;
mod refusal;
mod retry;
mod secret;
mod signing;
mod tls;
mod xml;

pub use addressing::{Addressing, AwsEndpoint, REGION_DEFAULT};
pub use body::Body;
pub use bucket::{Bucket, BucketConfig};
pub use client::{Client, GetRequest};
pub use counters::{Counters, ErrorKind, Operation, OperationCounters};
pub use credentials::{CredentialSource, Credentials};
pub use customer_key::CustomerKey;
pub use deadlines::{Deadlines, StallWatch};
pub use error::{AnswerFault, ConfigError, Deadline, Error};
pub use listing::{ListPage, ListRequest, ListWalk, ListedObject};
pub use proxies::Proxies;
pub use retry::{Importance, Retry, RetryPolicy, Verdict};
pub use secret::Secret;
