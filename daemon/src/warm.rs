//! Warming: bringing files into the cache before anyone reads them.
//!
//! [`Jobs`] is the table of jobs that the admin API starts, shows and cancels. A job lists what it
//! is to warm page by page and brings in some files at a time, each through the cache like a read,
//! so that nothing is fetched twice and what is there already is skipped. One file that fails is
//! counted and the job goes on.
//!
//! Invariant: a job knows mounts as [`Place`]s and their bytes through [`Store`] only, and names
//! nothing outside of a mount.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tenderfs_cache::Warmed;
use tenderfs_s3client::{ListPage, ListRequest, ListedObject};
use tenderfs_telemetry::Counter;
use tokio::sync::watch;

use crate::admin::model::{WarmJob, WarmProgress, WarmRequest, WarmState};
use crate::plans::Plans;

mod cores;
mod job;
mod progress;
mod target;
mod walk;

pub use cores::CoreStore;
pub(crate) use target::find;

/// Why a store could not do what a job asked: for the log, nobody decides by it.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What a job needs of a mount.
pub trait Store: Send + Sync {
    /// One page of a listing of the mount's bucket.
    fn list(&self, request: ListRequest) -> BoxFuture<'static, Result<ListPage, Fault>>;

    /// Brings a file into the cache. Dropping the future gives the file up.
    fn warm(&self, file: ListedObject) -> BoxFuture<'static, Result<Warmed, Fault>>;

    /// Bytes of a file that are in the tier that keeps them: disk, or memory without a disk tier.
    fn cached_bytes(&self, file: &ListedObject) -> u64;
}

/// A mount as jobs see it.
#[derive(Clone)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Prefix of its keys; empty, or ends with `/`.
    pub prefix: String,
    /// Identity of its store and bucket, part of every cached block's name.
    pub identity: Arc<str>,
    /// Its plans.
    pub plans: Arc<Plans>,
    /// Its bytes.
    pub store: Arc<dyn Store>,
}

/// Why there is no such job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarmError {
    /// No job has this id, or it was forgotten.
    #[error("there is no warm job {id}")]
    NoSuchJob {
        /// The id asked for.
        id: u64,
    },
    /// No mount has this name or mount point.
    #[error("there is no mount `{mount}`")]
    NoSuchMount {
        /// As asked for.
        mount: String,
    },
    /// An absolute path that no mount covers.
    #[error("`{path}` is under no mount of this daemon")]
    NotUnderAMount {
        /// As asked for.
        path: String,
    },
    /// A relative path, and several mounts.
    #[error("there are several mounts")]
    WhichMount,
    /// A path that could never be one of a mount.
    #[error("`{path}` is no path in a mount")]
    BadPath {
        /// As asked for.
        path: String,
    },
    /// A number of workers out of bounds.
    #[error("{workers} workers are too few or too many")]
    BadWorkers {
        /// As asked for.
        workers: usize,
    },
    /// The bound on running jobs is reached.
    #[error("{running} warm jobs are running already")]
    TooManyJobs {
        /// How many run.
        running: usize,
    },
}

/// Bounds of the table of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// Jobs that run at one time.
    pub running_max: usize,
    /// Finished jobs that are remembered.
    pub finished_max: usize,
    /// Workers of a job that does not say.
    pub workers: usize,
}

/// What all jobs together have done since the start.
#[derive(Debug, Default)]
pub struct WarmCounters {
    /// Files brought in.
    pub files_warmed: Counter,
    /// Files that were cached already.
    pub files_skipped: Counter,
    /// Files that could not be brought in.
    pub files_failed: Counter,
    /// Bytes brought in.
    pub bytes_warmed: Counter,
    /// Bytes that were cached already.
    pub bytes_skipped: Counter,
}

/// One job.
pub struct Job {
    id: u64,
    cancel: watch::Sender<bool>,
    report: watch::Sender<WarmJob>,
}

impl Job {
    fn new(id: u64, place: &Place, path: &str, request: &WarmRequest) -> Self {
        let report = WarmJob {
            id,
            mount: place.name.clone(),
            path: path.to_owned(),
            check: request.check,
            state: WarmState::Running,
            error: None,
            progress: WarmProgress::default(),
        };
        Self { id, cancel: watch::Sender::new(false), report: watch::Sender::new(report) }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How far it is.
    pub fn report(&self) -> WarmJob {
        self.report.borrow().clone()
    }

    /// Asks it to end; files under way are given up, what of them has arrived stays cached.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Waits until it is over.
    pub async fn ended(&self) {
        let mut reports = self.report.subscribe();
        // The sender lives as long as `self`, so the only way out is a final state.
        drop(reports.wait_for(|report| report.state.is_final()).await);
    }

    /// Waits until it is over, but not longer than `patience`.
    pub async fn ended_within(&self, patience: Duration) {
        // Whether it was over in time is in the next report.
        drop(tokio::time::timeout(patience, self.ended()).await);
    }

    fn is_running(&self) -> bool {
        self.report.borrow().state == WarmState::Running
    }
}

/// The jobs of a daemon: those that run and the last of those that ended.
pub struct Jobs {
    table: Mutex<Table>,
    counters: Arc<WarmCounters>,
}

#[derive(Default)]
struct Table {
    jobs: BTreeMap<u64, Arc<Job>>,
    last_id: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Self::new()
    }
}

impl Jobs {
    /// An empty table.
    pub fn new() -> Self {
        Self { table: Mutex::default(), counters: Arc::default() }
    }

    /// Starts a job on one of `places`. Must run on a tokio runtime, which the job is spawned on.
    pub fn start(
        &self,
        request: &WarmRequest,
        places: &[Place],
        limits: &JobLimits,
    ) -> Result<Arc<Job>, WarmError> {
        let workers = request.workers.unwrap_or(limits.workers);
        if !(1..=1024).contains(&workers) {
            return Err(WarmError::BadWorkers { workers });
        }
        let (place, path) = target::find(request.mount.as_deref(), &request.path, places)?;
        let job = self.enter(limits, |id| Job::new(id, place, &path, request))?;
        let plan = job::Plan {
            key: format!("{}{path}", place.prefix),
            recursive: request.recursive,
            bytes_max: request.max_bytes.unwrap_or(u64::MAX),
            workers,
            check: request.check,
        };
        tracing::info!(job = job.id, mount = place.name, path, workers, "warming");
        let run = job::run(Arc::clone(&job), plan, Arc::clone(&place.store), self.counters());
        tokio::spawn(run);
        Ok(job)
    }

    /// The job of this id.
    pub fn get(&self, id: u64) -> Result<Arc<Job>, WarmError> {
        self.lock().jobs.get(&id).cloned().ok_or(WarmError::NoSuchJob { id })
    }

    /// Every job, oldest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        self.lock().jobs.values().cloned().collect()
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.lock().jobs.values().filter(|job| job.is_running()).count()
    }

    /// What all of them have done.
    pub fn counters(&self) -> Arc<WarmCounters> {
        Arc::clone(&self.counters)
    }

    /// Gives a new job its id and its place in the table, forgetting old ones.
    fn enter(&self, limits: &JobLimits, make: impl Fn(u64) -> Job) -> Result<Arc<Job>, WarmError> {
        let mut table = self.lock();
        let ended: Vec<u64> =
            table.jobs.values().filter(|job| !job.is_running()).map(|job| job.id).collect();
        let running = table.jobs.len() - ended.len();
        if running >= limits.running_max {
            return Err(WarmError::TooManyJobs { running });
        }
        for id in ended.iter().take(ended.len().saturating_sub(limits.finished_max)) {
            table.jobs.remove(id);
        }
        table.last_id += 1;
        let job = Arc::new(make(table.last_id));
        table.jobs.insert(job.id, Arc::clone(&job));
        Ok(job)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
