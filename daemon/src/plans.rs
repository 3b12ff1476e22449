//! What jobs say that they will read, in which order: fetched before they ask for it.
//!
//! A job posts a plan for each epoch and each of its ranks. The cursor of a plan moves with the reads that
//! the mount sees, and what comes next is fetched within a window of bytes. Plans are advice: they
//! change no byte, a plan that is wrong costs requests, and a job of which nothing is heard for the
//! length of its lease is forgotten.
//!
//! [`Plans`] belongs to one mount and is shared by its cores: each of them has a `pump` that takes
//! entries and fetches them.

mod entries;
mod lines;
mod manifest;
mod pump;
mod stream;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tenderfs_byterange::ByteRange;
use tenderfs_cache::Object;
use tenderfs_telemetry::Counter;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::admin::model::{PlanAccepted, PlanEpoch, PlanJob};
use crate::engine::{FILE_BLOCKS, OpenFile};
use entries::{ENTRIES_MAX, Span};
pub use lines::LineFault;
use lines::{Base, Manifest, read_manifest, read_plan};
pub(crate) use manifest::ManifestFile;
pub(crate) use pump::run as pump;
use stream::{Reader, Stream, Use};

/// Jobs of one mount at most.
const JOBS_MAX: usize = 64;

/// Name of the job that stands for a mount's manifest.
const MANIFEST: &str = "manifest";

/// Characters of a job's name at most.
const NAME_MAX: usize = 128;

/// Uses of a later epoch after which what is left of the one before is given up.
const USES_TO_RETIRE: u64 = 64;

/// Why a plan was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The name of a job is a part of a path.
    #[error(
        "a job is named by 1 to {NAME_MAX} of A-Z, a-z, 0-9, `.`, `_` and `-`, not starting with `.`"
    )]
    BadName,
    /// A rank that its world does not have.
    #[error("there is no rank {rank} in a world of {world}")]
    NoSuchRank {
        /// As posted.
        rank: u32,
        /// As posted.
        world: u32,
    },
    /// A line cannot be read.
    #[error(transparent)]
    Line(#[from] LineFault),
    /// It names nothing.
    #[error("the plan has no entries")]
    Empty,
    /// The bound on jobs is reached.
    #[error("{JOBS_MAX} jobs have plans on this mount already")]
    TooManyJobs,
    /// The bound on entries is reached.
    #[error(
        "the plans of this mount would have {entries} entries, at most {ENTRIES_MAX} are taken"
    )]
    TooManyEntries {
        /// With this plan.
        entries: u64,
    },
    /// No plan was posted for this job, or it was forgotten.
    #[error("there is no job `{job}` with plans")]
    NoSuchJob {
        /// As asked for.
        job: String,
    },
}

/// Which plan of a job one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanName {
    /// The job.
    pub job: String,
    /// Its epoch.
    pub epoch: u64,
    /// The rank whose reads these are.
    pub rank: u32,
    /// How many ranks the job has.
    pub world: u32,
}

/// What all plans of a mount have done.
#[derive(Debug, Default)]
pub struct PlanCounters {
    /// Plans taken.
    pub posted: Counter,
    /// Entries that were read.
    pub used: Counter,
    /// Entries whose fetch was started, or that were cached.
    pub taken: Counter,
    /// Entries whose file does not exist.
    pub missing: Counter,
    /// Jobs forgotten because nothing was heard of them.
    pub expired: Counter,
}

/// What the plans of a mount take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanSizes {
    /// Jobs that have any.
    pub jobs: u64,
    /// Bytes fetched, or being fetched, and not read yet.
    pub held_bytes: u64,
    /// Bytes of memory of the plans themselves.
    pub memory_bytes: u64,
}

/// The plans of one mount.
#[derive(Debug, Default)]
pub struct Plans {
    mountpoint: PathBuf,
    prefix: String,
    /// Bytes fetched and not used yet, of all plans together.
    window_bytes: u64,
    lease: Duration,
    table: Mutex<Table>,
    is_active: AtomicBool,
    /// Told when there may be something to take.
    changed: Notify,
    /// What they count.
    pub counters: PlanCounters,
}

#[derive(Debug, Default)]
struct Table {
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug)]
struct Job {
    ranks: BTreeMap<u32, Rank>,
    world: u32,
    heard: Instant,
    stalls: u64,
    stalled: Duration,
    /// Whether it is forgotten if nothing is heard of it: a manifest only once it was read from.
    has_lease: bool,
    /// Whether a missing file was logged.
    missing_told: bool,
}

/// The plans of one rank by epoch.
#[derive(Debug, Default)]
struct Rank {
    epochs: BTreeMap<u64, Stream<Arc<Object>>>,
}

/// An entry that a pump is to fetch.
#[derive(Debug, Clone)]
struct Ticket {
    job: String,
    rank: u32,
    epoch: u64,
    place: u32,
    key: Arc<str>,
    span: Span,
}

impl Plans {
    /// No plans, for the mount of `prefix` at `mountpoint`.
    pub(crate) fn new(
        mountpoint: PathBuf,
        prefix: String,
        window_bytes: u64,
        lease: Duration,
    ) -> Self {
        Self {
            mountpoint,
            prefix,
            window_bytes,
            lease,
            table: Mutex::default(),
            is_active: AtomicBool::new(false),
            changed: Notify::new(),
            counters: PlanCounters::default(),
        }
    }

    /// Takes the plan `text`, in place of one of the same name.
    pub fn post(&self, name: &PlanName, text: &[u8]) -> Result<PlanAccepted, PlanError> {
        check(name)?;
        let base = Base { mountpoint: &self.mountpoint, prefix: &self.prefix };
        let entries = read_plan(text, base)?;
        if entries.len() == 0 {
            return Err(PlanError::Empty);
        }
        let files = entries.len_files() as u64;
        let count = u64::from(entries.len());
        let mut table = self.lock();
        let with_it = table.entries() + count;
        if with_it > u64::from(ENTRIES_MAX) {
            return Err(PlanError::TooManyEntries { entries: with_it });
        }
        if table.jobs.len() >= JOBS_MAX && !table.jobs.contains_key(&name.job) {
            return Err(PlanError::TooManyJobs);
        }
        let job = table.jobs.entry(name.job.clone()).or_insert_with(|| Job::new(name.world));
        job.world = name.world;
        job.heard = Instant::now();
        let rank = job.ranks.entry(name.rank).or_default();
        let before = rank.epochs.insert(name.epoch, Stream::new(entries));
        drop(table);
        self.counters.posted.inc();
        self.is_active.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
        let PlanName { job, epoch, rank, .. } = name;
        info!(job, epoch, rank, entries = count, files, "plan taken");
        let replaced = before.is_some();
        Ok(PlanAccepted {
            job: job.clone(),
            epoch: *epoch,
            rank: *rank,
            entries: count,
            files,
            replaced,
        })
    }

    /// Takes the manifest `text`. It has no lease until it is read from. `place` is where it was
    /// read, for the log.
    pub(crate) fn post_manifest(&self, text: &[u8], place: &str) {
        let base = Base { mountpoint: &self.mountpoint, prefix: &self.prefix };
        let Manifest { entries, bad_lines, faults } = read_manifest(text, base);
        for fault in &faults {
            warn!(manifest = place, %fault, "a line of a manifest is passed over");
        }
        let (count, files) = (entries.len(), entries.len_files());
        if count > 0 {
            let mut table = self.lock();
            let mut job = Job { has_lease: false, ..Job::new(1) };
            job.ranks.entry(0).or_default().epochs.insert(0, Stream::new(entries));
            table.jobs.insert(MANIFEST.to_owned(), job);
            drop(table);
            self.is_active.store(true, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
        self.counters.posted.inc();
        info!(manifest = place, entries = count, files, bad_lines, "manifest taken");
    }

    /// Forgets a job and what it would have fetched.
    pub fn cancel(&self, job: &str) -> Result<PlanJob, PlanError> {
        let mut table = self.lock();
        let report = table.report(job, self.lease)?;
        table.jobs.remove(job);
        self.note_activity(&table);
        Ok(report)
    }

    /// How far a job is.
    pub fn status(&self, job: &str) -> Result<PlanJob, PlanError> {
        self.lock().report(job, self.lease)
    }

    /// Every job.
    pub fn list(&self) -> Vec<PlanJob> {
        let table = self.lock();
        table.jobs.keys().filter_map(|job| table.report(job, self.lease).ok()).collect()
    }

    /// What they take.
    pub(crate) fn sizes(&self) -> PlanSizes {
        let table = self.lock();
        let mut sizes = PlanSizes { jobs: table.jobs.len() as u64, ..PlanSizes::default() };
        for (_, stream) in table.streams() {
            sizes.held_bytes += stream.held_bytes();
            sizes.memory_bytes += stream.entries().memory_bytes() as u64;
        }
        sizes
    }

    /// Whether any job has a plan.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// A reader has read these bytes of `file`, or closed it.
    pub(crate) fn observe(&self, file: &OpenFile, read: Option<ByteRange>) {
        if !self.is_active() {
            return;
        }
        let known = file.is_planned_use.load(Ordering::Relaxed);
        let what = match read {
            None if known => return,
            None => Use::Closed,
            Some(range) => {
                let reader = if known { Reader::Known } else { Reader::New };
                Use::Read(range, file.object.size_bytes(), reader)
            }
        };
        if self.observe_use(&file.object.version().key, what) {
            file.is_planned_use.store(true, Ordering::Relaxed);
        }
    }

    /// As [`Plans::observe`]; tells whether it was a use of the whole file.
    fn observe_use(&self, key: &str, what: Use) -> bool {
        let mut table = self.lock();
        let window_bytes = self.share_bytes(&table);
        let (mut used, mut is_whole) = (0, false);
        for job in table.jobs.values_mut() {
            let Some(span) = job.observe(key, what, window_bytes) else { continue };
            used += 1;
            is_whole |= span == Span::Whole;
            job.heard = Instant::now();
            job.has_lease = true;
        }
        drop(table);
        if used > 0 {
            self.counters.used.add(used);
            self.changed.notify_one();
        }
        is_whole
    }

    /// A reader had to wait for bytes of file `key`.
    pub(crate) fn stalled(&self, key: &str, time: Duration) {
        if !self.is_active() {
            return;
        }
        for job in self.lock().jobs.values_mut() {
            if job.names(key) {
                job.stalls += 1;
                job.stalled += time;
            }
        }
    }

    /// The entry to fetch next: of the plan of which the fewest bytes are held.
    fn take(&self) -> Option<Ticket> {
        if !self.is_active() {
            return None;
        }
        let mut table = self.lock();
        let window_bytes = self.share_bytes(&table);
        let mut ranks: Vec<(u64, String, u32)> = Vec::new();
        for (name, job) in &table.jobs {
            ranks.extend(job.ranks.iter().map(|(n, rank)| (rank.held_bytes(), name.clone(), *n)));
        }
        ranks.sort_unstable();
        for (_, job, rank) in ranks {
            let Some(taker) = table.jobs.get_mut(&job).and_then(|job| job.ranks.get_mut(&rank))
            else {
                continue;
            };
            if let Some((epoch, place, key, span)) = taker.take(window_bytes) {
                self.counters.taken.inc();
                return Some(Ticket { job, rank, epoch, place, key, span });
            }
        }
        None
    }

    /// Whether the reader has not come to the entry yet.
    fn is_wanted(&self, ticket: &Ticket) -> bool {
        let mut table = self.lock();
        table.stream(ticket).is_some_and(|stream| stream.is_held(ticket.place))
    }

    /// `bytes` of `object` are being fetched for the entry.
    fn hold(&self, ticket: &Ticket, bytes: u64, object: &Arc<Object>) {
        if let Some(stream) = self.lock().stream(ticket) {
            stream.hold(ticket.place, bytes, Arc::clone(object));
        }
    }

    /// The entry is not to be fetched.
    fn give_up(&self, ticket: &Ticket) {
        if let Some(stream) = self.lock().stream(ticket) {
            stream.give_up(ticket.place);
        }
    }

    /// The entry's file does not exist.
    fn is_missing(&self, ticket: &Ticket) {
        let mut table = self.lock();
        if let Some(stream) = table.stream(ticket) {
            stream.is_missing(ticket.place);
        }
        self.counters.missing.inc();
        if let Some(job) = table.jobs.get_mut(&ticket.job)
            && !std::mem::replace(&mut job.missing_told, true)
        {
            let Ticket { job, epoch, place, key, .. } = ticket;
            warn!(job, epoch, entry = place + 1, %key, "a plan names a file that does not exist; others are counted only");
        }
    }

    /// Forgets the jobs of which nothing was heard for the length of a lease.
    fn expire(&self, now: Instant) {
        let mut table = self.lock();
        let lease = self.lease;
        table.jobs.retain(|name, job| {
            let lives = !job.has_lease || now.saturating_duration_since(job.heard) < lease;
            if !lives {
                self.counters.expired.inc();
                info!(
                    job = name,
                    "nothing was heard of a job for its lease; its plans are forgotten"
                );
            }
            lives
        });
        self.note_activity(&table);
    }

    fn note_activity(&self, table: &Table) {
        self.is_active.store(!table.jobs.is_empty(), Ordering::Relaxed);
    }

    /// The window of each rank.
    fn share_bytes(&self, table: &Table) -> u64 {
        let ranks = table.jobs.values().map(|job| job.ranks.len() as u64).sum::<u64>();
        self.window_bytes / ranks.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text that was packed with zstd; an error is for people.
pub(crate) fn unpack(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut decoder =
        ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let read = decoder.by_ref().take(limit.saturating_add(1)).read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    if text.len() > bytes_max { Err("the plan is too long".to_owned()) } else { Ok(text) }
}

fn check(name: &PlanName) -> Result<(), PlanError> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let job = name.job.as_bytes();
    if job.is_empty() || job.len() > NAME_MAX || job[0] == b'.' || !job.iter().all(|b| is_fine(*b))
    {
        return Err(PlanError::BadName);
    }
    if name.rank >= name.world {
        return Err(PlanError::NoSuchRank { rank: name.rank, world: name.world });
    }
    Ok(())
}

impl Table {
    fn streams(&self) -> impl Iterator<Item = (u64, &Stream<Arc<Object>>)> {
        let ranks = self.jobs.values().flat_map(|job| job.ranks.values());
        ranks.flat_map(|rank| rank.epochs.iter().map(|(epoch, stream)| (*epoch, stream)))
    }

    fn entries(&self) -> u64 {
        self.streams().map(|(_, stream)| u64::from(stream.entries().len())).sum()
    }

    fn stream(&mut self, ticket: &Ticket) -> Option<&mut Stream<Arc<Object>>> {
        let rank = self.jobs.get_mut(&ticket.job)?.ranks.get_mut(&ticket.rank)?;
        rank.epochs.get_mut(&ticket.epoch)
    }

    fn report(&self, name: &str, lease: Duration) -> Result<PlanJob, PlanError> {
        let job = self.jobs.get(name).ok_or(PlanError::NoSuchJob { job: name.to_owned() })?;
        let epochs = job.ranks.iter().flat_map(|(rank, plans)| {
            plans.epochs.iter().map(|(epoch, stream)| describe(*epoch, *rank, stream))
        });
        let idle = job.heard.elapsed();
        Ok(PlanJob {
            job: name.to_owned(),
            world: job.world,
            epochs: epochs.collect(),
            stalls: job.stalls,
            stalled_seconds: job.stalled.as_secs_f64(),
            lease_left_seconds: lease.saturating_sub(idle).as_secs_f64(),
        })
    }
}

fn describe(epoch: u64, rank: u32, stream: &Stream<Arc<Object>>) -> PlanEpoch {
    let is_ready = |object: &Object| {
        (0..object.block_count().min(FILE_BLOCKS)).all(|block| object.is_ready(block))
    };
    let ready = stream.held().filter(|(_, object)| is_ready(object));
    PlanEpoch {
        epoch,
        rank,
        entries: u64::from(stream.entries().len()),
        used: stream.used(),
        taken: u64::from(stream.next()),
        missing: stream.missing(),
        over: stream.is_over(),
        held_bytes: stream.held_bytes(),
        ready_bytes: ready.map(|(bytes, _)| bytes).sum(),
    }
}

impl Job {
    /// Counts a use for the rank that plans it in the earliest epoch, and for one only: what one rank
    /// reads in this epoch, another reads in the next.
    fn observe(&mut self, key: &str, what: Use, window_bytes: u64) -> Option<Span> {
        let mut epoch = None;
        loop {
            let next = self.ranks.values().filter_map(|rank| rank.epoch_after(epoch)).min()?;
            let mut ranks = self.ranks.values_mut();
            if let Some(span) = ranks.find_map(|rank| rank.observe(next, key, what, window_bytes)) {
                return Some(span);
            }
            epoch = Some(next);
        }
    }

    fn new(world: u32) -> Self {
        Self {
            ranks: BTreeMap::new(),
            world,
            heard: Instant::now(),
            stalls: 0,
            stalled: Duration::ZERO,
            has_lease: true,
            missing_told: false,
        }
    }

    fn names(&self, key: &str) -> bool {
        let mut streams = self.ranks.values().flat_map(|rank| rank.epochs.values());
        streams.any(|stream| stream.entries().has(key))
    }
}

impl Rank {
    fn held_bytes(&self) -> u64 {
        self.epochs.values().map(Stream::held_bytes).sum()
    }

    /// The earliest of its epochs that come after `epoch`, or of all.
    fn epoch_after(&self, epoch: Option<u64>) -> Option<u64> {
        let after = epoch.map_or(Bound::Unbounded, Bound::Excluded);
        self.epochs.range((after, Bound::Unbounded)).next().map(|(epoch, _)| *epoch)
    }

    fn observe(&mut self, epoch: u64, key: &str, what: Use, window_bytes: u64) -> Option<Span> {
        let stream = self.epochs.get_mut(&epoch)?;
        let span = stream.observe(key, what, window_bytes)?;
        if stream.used() >= USES_TO_RETIRE {
            self.epochs.retain(|other, _| *other >= epoch);
        }
        Some(span)
    }

    /// Takes from the earliest epoch that is not taken wholly: the next one begins before the last
    /// of this one are used.
    fn take(&mut self, window_bytes: u64) -> Option<(u64, u32, Arc<str>, Span)> {
        let mut left_bytes = window_bytes.saturating_sub(self.held_bytes());
        for (epoch, stream) in &mut self.epochs {
            left_bytes += stream.held_bytes();
            if let Some(place) = stream.take(left_bytes) {
                let (key, span) = stream.entries().get(place)?;
                return Some((*epoch, place, key.into(), span));
            }
            left_bytes = left_bytes.saturating_sub(stream.held_bytes());
        }
        None
    }
}

#[cfg(test)]
mod tests;
