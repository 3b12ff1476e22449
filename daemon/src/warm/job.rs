//! One job at work: list, bring in, count, report, until it is through or cancelled.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tenderfs_cache::Warmed;
use tenderfs_s3client::{ListPage, ListedObject};
use tokio::time::Instant;
use tracing::{info, warn};

use super::progress::Progress;
use super::walk::Walk;
use super::{Fault, Job, Store, WarmCounters};
use crate::admin::model::WarmState;

/// How often a job says how far it is.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Failing files that are logged one by one; the others are counted only.
const LOGGED_FAILURES_MAX: u64 = 100;

/// What a job is to do.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// A key, or a prefix ending in `/`, or nothing for the whole bucket.
    pub(super) key: String,
    /// Whether folders below are included.
    pub(super) recursive: bool,
    /// Files are taken as long as their sizes add up to no more.
    pub(super) bytes_max: u64,
    /// Files brought in at once.
    pub(super) workers: usize,
    /// Fetch nothing, only see what is there.
    pub(super) check: bool,
}

/// Does what `plan` says and keeps `job`'s report true; returns when the job is over.
pub(super) async fn run(
    job: Arc<Job>,
    plan: Plan,
    store: Arc<dyn Store>,
    counters: Arc<WarmCounters>,
) {
    let mut work = Work::new(plan, store, counters);
    let mut cancelled = job.cancel.subscribe();
    let end = tokio::select! {
        biased;
        // An error would mean that the job is gone, which this function holds.
        _ = cancelled.wait_for(|cancelled| *cancelled) => Ok(WarmState::Cancelled),
        end = work.run(&job) => end.map(|()| WarmState::Done),
    };
    let (state, error) = match end {
        Ok(state) => (state, None),
        Err(fault) => (WarmState::Failed, Some(fault.to_string())),
    };
    let progress = work.report();
    info!(
        job = job.id,
        ?state,
        error,
        files_warmed = progress.files_warmed,
        files_skipped = progress.files_skipped,
        files_failed = progress.files_failed,
        bytes_warmed = progress.bytes_warmed,
        "warm job over"
    );
    job.report.send_modify(|report| {
        report.progress = progress;
        report.error = error;
        report.state = state;
    });
}

/// A file that is being brought in.
struct UnderWay {
    file: ListedObject,
    /// What was cached of it when it was begun.
    cached_bytes: u64,
}

type Ended = (u64, Result<Warmed, Fault>);

/// A job's state while it works.
struct Work {
    plan: Plan,
    store: Arc<dyn Store>,
    counters: Arc<WarmCounters>,
    started: Instant,
    progress: Progress,
    walk: Walk,
    /// The page being fetched.
    page: Option<BoxFuture<'static, Result<ListPage, Fault>>>,
    /// Listed, not begun; at most a page more than there are workers.
    queue: VecDeque<ListedObject>,
    under_way: HashMap<u64, UnderWay>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    begun: u64,
    failures: u64,
}

impl Work {
    fn new(plan: Plan, store: Arc<dyn Store>, counters: Arc<WarmCounters>) -> Self {
        Self {
            walk: Walk::new(plan.key.clone(), plan.recursive),
            plan,
            store,
            counters,
            started: Instant::now(),
            progress: Progress::default(),
            page: None,
            queue: VecDeque::new(),
            under_way: HashMap::new(),
            running: FuturesUnordered::new(),
            begun: 0,
            failures: 0,
        }
    }

    /// Works until all is brought in; an error if the listing cannot go on. What is under way then
    /// is given up.
    async fn run(&mut self, job: &Job) -> Result<(), Fault> {
        let mut reports = tokio::time::interval(REPORT_INTERVAL);
        loop {
            self.begin_files();
            self.begin_page();
            if self.page.is_none() && self.running.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(ended) = self.running.next() => self.file_ended(ended),
                page = arriving(&mut self.page) => {
                    self.page = None;
                    self.page_arrived(page?)?;
                }
                _ = reports.tick() => {
                    let progress = self.report();
                    job.report.send_modify(|report| report.progress = progress);
                }
            }
        }
    }

    /// Begins files as long as there are workers.
    fn begin_files(&mut self) {
        while self.running.len() < self.plan.workers {
            let Some(file) = self.queue.pop_front() else { return };
            let cached_bytes = self.store.cached_bytes(&file);
            if cached_bytes >= file.size_bytes {
                self.progress.skipped(file.size_bytes);
                self.counters.files_skipped.inc();
                self.counters.bytes_skipped.add(file.size_bytes);
            } else if self.plan.check {
                self.progress.missing(&file.key, cached_bytes);
            } else {
                self.begin(file, cached_bytes);
            }
        }
    }

    fn begin(&mut self, file: ListedObject, cached_bytes: u64) {
        self.begun += 1;
        let number = self.begun;
        let warming = self.store.warm(file.clone());
        self.running.push(Box::pin(async move { (number, warming.await) }));
        self.under_way.insert(number, UnderWay { file, cached_bytes });
    }

    /// Asks for the next page if the workers could soon want it.
    fn begin_page(&mut self) {
        if self.page.is_none() && self.queue.len() < self.plan.workers {
            match self.walk.request() {
                Some(request) => self.page = Some(self.store.list(request.clone())),
                None => self.progress.listing_ended(),
            }
        }
    }

    fn page_arrived(&mut self, page: ListPage) -> Result<(), Fault> {
        for file in self.walk.arrived(page)? {
            let with_it = self.progress.bytes_total().saturating_add(file.size_bytes);
            if with_it > self.plan.bytes_max {
                self.progress.stopped_at_max();
                self.walk.stop();
                break;
            }
            self.progress.listed(file.size_bytes);
            self.queue.push_back(file);
        }
        Ok(())
    }

    fn file_ended(&mut self, (number, result): Ended) {
        let Some(UnderWay { file, .. }) = self.under_way.remove(&number) else { return };
        match result {
            Ok(warmed) => {
                self.progress.warmed(warmed);
                self.counters.files_warmed.inc();
                self.counters.bytes_warmed.add(warmed.fetched_bytes);
                self.counters.bytes_skipped.add(warmed.skipped_bytes);
            }
            Err(error) => {
                self.progress.failed();
                self.counters.files_failed.inc();
                self.failures += 1;
                if self.failures <= LOGGED_FAILURES_MAX {
                    warn!(key = file.key, %error, "cannot warm a file");
                }
            }
        }
    }

    /// Where it stands, files under way included.
    fn report(&mut self) -> crate::admin::model::WarmProgress {
        let partial = |under_way: &UnderWay| {
            self.store.cached_bytes(&under_way.file).saturating_sub(under_way.cached_bytes)
        };
        let partial_bytes = self.under_way.values().map(partial).sum();
        self.progress.report(self.started.elapsed(), partial_bytes)
    }
}

/// The page that is being fetched; never, if none is.
async fn arriving(
    page: &mut Option<BoxFuture<'static, Result<ListPage, Fault>>>,
) -> Result<ListPage, Fault> {
    match page {
        Some(page) => page.await,
        None => pending().await,
    }
}
