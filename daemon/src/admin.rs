//! The admin API: what the daemon tells and does while it serves.
//!
//! HTTP over a Unix socket that only its owner and root may use, and, if configured, a TCP port for
//! Prometheus that shows metrics and health and nothing else. The routes speak to a [`Backend`]; the
//! daemon is one, tests have another.
//!
//! Invariant: no route reads a file, opens a URL or names anything outside of a mount; `GET` changes
//! nothing.

use std::sync::Arc;

use tenderfs_cache::{CachedObject, Evicted, Pin, Pinned};

pub(crate) use backend::rfc3339;

use crate::run::Daemon;
use crate::scrub::Scrub;
use crate::warm::{JobLimits, Jobs, Place, WarmCounters};

mod backend;
mod listen;
pub mod model;
mod routes;
mod server;

pub use listen::{AdminError, Bound, bind};
pub use routes::document;

/// What the routes ask of a daemon.
pub trait Backend: Send + Sync + 'static {
    /// Where it is in its life.
    fn state(&self) -> model::State;

    /// Everything about it. The number of warm jobs is filled in by the routes.
    fn status(&self) -> model::Status;

    /// All metrics in Prometheus' text format.
    fn metrics(&self, warm: &WarmFacts<'_>) -> String;

    /// What verifies its disk tier; `None` without one.
    fn scrub(&self) -> Option<Arc<Scrub>>;

    /// Its mounts.
    fn warm_places(&self) -> Vec<Place>;

    /// Lets go of what is cached of the objects whose store and key `is_meant` says yes to. Blocks.
    fn evict(&self, is_meant: &dyn Fn(&str, &str) -> bool) -> std::io::Result<Evicted>;

    /// What is on disk of such objects. Blocks.
    fn cached(&self, is_meant: &dyn Fn(&str, &str) -> bool) -> std::io::Result<Vec<CachedObject>>;

    /// Has what `pin` names stay on disk; `None` without a disk tier. Blocks.
    fn pin(&self, pin: Pin) -> std::io::Result<Option<Pinned>>;

    /// Lets go of the pin of just this name; `None` if there is none. Blocks.
    fn unpin(&self, store: &str, key: &str) -> std::io::Result<Option<Pinned>>;

    /// What is to stay on disk.
    fn pins(&self) -> Vec<Pin>;

    /// Bounds of warm jobs.
    fn warm_limits(&self) -> JobLimits;
}

/// What the API knows of warm jobs and a backend's metrics tell.
#[derive(Clone, Copy)]
pub struct WarmFacts<'a> {
    /// What all jobs have done.
    pub counters: &'a WarmCounters,
    /// Jobs that run now.
    pub running: usize,
    /// Bytes that the running jobs have listed and not brought in.
    pub remaining_bytes: u64,
}

/// What every route shares.
#[derive(Clone)]
struct Shared {
    backend: Arc<dyn Backend>,
    jobs: Arc<Jobs>,
}

impl Shared {
    fn status(&self) -> model::Status {
        model::Status { warm_jobs_running: self.jobs.running(), ..self.backend.status() }
    }

    fn metrics(&self) -> String {
        let reports: Vec<_> = self.jobs.list().iter().map(|job| job.report()).collect();
        let running = reports.iter().filter(|report| !report.state.is_final());
        let remaining = running.clone().map(|report| report.progress.bytes_remaining());
        self.backend.metrics(&WarmFacts {
            counters: &self.jobs.counters(),
            running: running.clone().count(),
            remaining_bytes: remaining.sum(),
        })
    }
}

/// Serves `daemon` on what was bound, until the future is dropped: then connections and warm jobs
/// that belong to it end with the runtime. Runs on a tokio current-thread runtime.
pub async fn serve(bound: Bound, daemon: Arc<Daemon>) {
    server::serve(bound, Shared { backend: daemon, jobs: Arc::default() }).await;
}

#[cfg(test)]
mod tests;
