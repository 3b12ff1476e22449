//! What the admin API says, as the daemon writes it and the command line reads it.
//!
//! Names end in their unit. A field is added, never renamed or removed, within `/v1`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Mounts are being made.
    Starting,
    /// Every mount answers.
    Ready,
    /// Mounts are being taken down.
    Stopping,
}

/// The daemon as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of TenderFS.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started: String,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// Where it is in its life.
    pub state: State,
    /// Core threads.
    pub cores: usize,
    /// Memory, by use.
    pub memory: Memory,
    /// What is cached.
    pub cache: Cache,
    /// Every mount.
    pub mounts: Vec<Mount>,
    /// Warm jobs that run now.
    pub warm_jobs_running: usize,
}

/// Memory of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// The hard limit.
    pub limit_bytes: u64,
    /// Resident set of the process.
    pub used_bytes: u64,
    /// Of the limit, what is set aside for cached blocks.
    pub arena_bytes: u64,
    /// Of the limit, what is set aside for names and attributes.
    pub namespace_bytes: u64,
    /// Of the limit, what is set aside for S3 connections.
    pub network_bytes: u64,
}

/// What is cached, and how well it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cache {
    /// Blocks in memory.
    pub memory: MemoryTier,
    /// Blocks on disk; null without a disk tier.
    pub disk: Option<DiskTier>,
    /// Reads by the slowest tier they waited for.
    pub reads: Reads,
    /// Blocks fetched before they were asked for.
    pub prefetch: Prefetch,
}

/// The memory tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryTier {
    /// Bytes of all frames.
    pub limit_bytes: u64,
    /// Bytes that readers asked for.
    pub hot_bytes: u64,
    /// Bytes fetched ahead and not read yet.
    pub prefetch_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Blocks in use by readers, fills and disk writes.
    pub lent_frames: u64,
}

/// The disk tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskTier {
    /// The cache directory.
    pub dir: String,
    /// Most bytes it may take.
    pub limit_bytes: u64,
    /// Bytes it takes.
    pub used_bytes: u64,
    /// Objects with at least one block.
    pub objects: u64,
    /// Bytes that wait to be written.
    pub pending_write_bytes: u64,
    /// Whether it takes blocks; false while it is turned off after errors.
    pub writable: bool,
}

/// Reads since the start, by the slowest tier they waited for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reads {
    /// Served from memory at once.
    pub memory: u64,
    /// Waited for the disk.
    pub disk: u64,
    /// Waited for S3.
    pub s3: u64,
    /// Ended in an error.
    pub errors: u64,
    /// Share of reads that did not wait for S3; null before the first read.
    pub hit_ratio: Option<f64>,
    /// Time that readers were blocked.
    pub wait_seconds: f64,
    /// Bytes fetched from S3 for the cache.
    pub fetched_bytes: u64,
}

/// Prefetch since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Prefetch {
    /// Bytes whose fetch was started.
    pub issued_bytes: u64,
    /// Bytes that a reader used.
    pub used_bytes: u64,
    /// Bytes that left memory unread.
    pub wasted_bytes: u64,
    /// Bytes on their way now.
    pub in_flight_bytes: u64,
}

/// Where a mount is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountState {
    /// Being made.
    Starting,
    /// Answers.
    Mounted,
    /// Taken down, by the daemon or by `umount`.
    Unmounted,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// Label, unique in the daemon.
    pub name: String,
    /// `s3://bucket/prefix`
    pub source: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Where it is in its life.
    pub state: MountState,
    /// Scheme, host and port of the store.
    pub endpoint: String,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Largest read request the kernel sends.
    pub read_bytes_max: u64,
    /// What the kernel reads ahead of sequential readers.
    pub read_ahead_bytes: u64,
    /// Features agreed on with the kernel.
    pub features: Vec<String>,
    /// Files that the kernel reads by itself.
    #[serde(default)]
    pub passthrough: Passthrough,
    /// Requests from the kernel since it was mounted.
    pub requests: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Bytes of file data handed to the kernel.
    pub served_bytes: u64,
    /// Requests to S3.
    pub s3_requests: u64,
    /// Requests to S3 that failed, those that a retry mended included; names that are not there do
    /// not count.
    pub s3_errors: u64,
    /// Bytes received from S3.
    pub s3_received_bytes: u64,
    /// The requests to S3 by kind.
    #[serde(default)]
    pub s3_bill: RequestBill,
}

/// Requests to S3 since the mount was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RequestBill {
    /// Pages of listings (`ListObjectsV2`), which S3 bills with writes.
    pub list: RequestCounts,
    /// Facts of objects (`HeadObject`), which S3 bills as GETs.
    pub head: RequestCounts,
    /// Bytes of objects (`GetObject`).
    pub get: RequestCounts,
    /// Requests made a second time because the first was late; counted with their kind too.
    pub hedges: u64,
    /// Those whose answer came first.
    pub hedges_won: u64,
    /// Answers that asked for fewer requests (429 and 503).
    pub slow_downs: u64,
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RequestCounts {
    /// Sent, each attempt once.
    pub requests: u64,
    /// Those that were sent again after a failure.
    pub retries: u64,
    /// Those that failed, whether a retry mended it or not.
    pub errors: u64,
}

/// Files that are complete on disk and verified, and that the kernel reads by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Passthrough {
    /// Whether files are given to the kernel.
    pub on: bool,
    /// Why not; null if they are.
    pub off_because: Option<String>,
    /// Opens of files that the kernel reads.
    pub opens: u64,
    /// Opens of files that are read through the daemon.
    pub opens_cached: u64,
    /// Complete files that the kernel did not take.
    pub refused: u64,
    /// Files that the kernel reads now.
    pub files_open: usize,
    /// Files kept for the next open.
    pub files_idle: usize,
}

/// What to warm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    /// Name or mount point of the mount; may be left out if `path` is absolute, or if there is only
    /// one mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// A file or folder: absolute under the mount point, or relative to it. Empty: all of the mount.
    #[serde(default)]
    pub path: String,
    /// Whether folders below are warmed too.
    #[serde(default)]
    pub recursive: bool,
    /// Take files, in the order of their keys, up to this many bytes; what is cached already counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Files to bring in at once; the daemon's `warm.workers` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Fetch nothing, only say what is not cached.
    #[serde(default)]
    pub check: bool,
}

/// A job was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WarmCreated {
    /// Its id.
    pub id: u64,
}

/// Where a warm job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WarmState {
    /// At work.
    Running,
    /// Through; some files may have failed.
    Done,
    /// Cancelled by request.
    Cancelled,
    /// Could not list what to warm.
    Failed,
}

/// A warm job and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WarmJob {
    /// Its id.
    pub id: u64,
    /// Name of its mount.
    pub mount: String,
    /// Its file or folder, relative to the mount point.
    pub path: String,
    /// Whether it only says what is not cached.
    pub check: bool,
    /// Where it is in its life.
    pub state: WarmState,
    /// Why it failed; null unless it did.
    pub error: Option<String>,
    /// How far it is.
    #[serde(flatten)]
    pub progress: WarmProgress,
}

/// How far a warm job is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct WarmProgress {
    /// How long it has run.
    pub elapsed_seconds: f64,
    /// Files listed so far.
    pub files_total: u64,
    /// Files brought in.
    pub files_warmed: u64,
    /// Files that were cached already.
    pub files_skipped: u64,
    /// Files that could not be brought in.
    pub files_failed: u64,
    /// Files that are not cached whole; for `check`.
    pub files_missing: u64,
    /// Bytes of the files listed so far.
    pub bytes_total: u64,
    /// Bytes brought in.
    pub bytes_warmed: u64,
    /// Bytes that were cached already.
    pub bytes_skipped: u64,
    /// Of both, bytes that are in memory only, because the disk tier has no room or does not exist.
    pub bytes_memory_only: u64,
    /// Bytes brought in by second over the last seconds, in 1e6 bytes.
    pub mb_per_s: f64,
    /// Time to the end at that speed; null until all is listed and something moves.
    pub eta_seconds: Option<f64>,
    /// Whether everything is listed, so that the totals are final.
    pub listing_done: bool,
    /// Whether `max_bytes` ended the listing.
    pub stopped_at_max_bytes: bool,
    /// The first 100 keys that are not cached; for `check`.
    pub missing: Vec<String>,
}

impl WarmProgress {
    /// Bytes listed, neither cached nor brought in yet; those of failed files among them.
    pub fn bytes_remaining(&self) -> u64 {
        self.bytes_total.saturating_sub(self.bytes_warmed).saturating_sub(self.bytes_skipped)
    }
}

impl WarmState {
    /// Whether the job is over.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// Where a verification of the disk tier is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerifyState {
    /// Reading, or about to.
    Running,
    /// All was read.
    Done,
    /// It was ended before.
    Cancelled,
}

/// One pass over all that is on disk, which compares it with its checksums.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// Number of the pass since the daemon started, from 1.
    pub pass: u64,
    /// Whether it was asked for; else it is the slow one in the background.
    pub requested: bool,
    /// Where it is in its life.
    pub state: VerifyState,
    /// How long it has run.
    pub elapsed_seconds: f64,
    /// Bytes on disk when it began.
    pub bytes_total: u64,
    /// Bytes read so far.
    pub bytes_checked: u64,
    /// Blocks read and compared so far.
    pub blocks_checked: u64,
    /// Blocks whose bytes were wrong; they were dropped and are fetched again when they are read.
    pub mismatches: u64,
    /// Blocks that the disk did not read; they were dropped too.
    pub blocks_unreadable: u64,
    /// Objects dropped because their file was missing or too short.
    pub objects_dropped: u64,
}

impl VerifyReport {
    pub(crate) fn new(pass: u64, requested: bool) -> Self {
        Self {
            pass,
            requested,
            state: VerifyState::Running,
            elapsed_seconds: 0.0,
            bytes_total: 0,
            bytes_checked: 0,
            blocks_checked: 0,
            mismatches: 0,
            blocks_unreadable: 0,
            objects_dropped: 0,
        }
    }

    pub(crate) fn count(&mut self, counts: tenderfs_cache::VerifyCounts) {
        self.bytes_total = counts.bytes_total;
        self.bytes_checked = counts.bytes_checked;
        self.blocks_checked = counts.blocks_checked;
        self.mismatches = counts.mismatches;
        self.blocks_unreadable = counts.blocks_unreadable;
        self.objects_dropped = counts.objects_dropped;
    }

    /// Whether something was wrong, whatever it was.
    pub fn found_damage(&self) -> bool {
        self.mismatches + self.blocks_unreadable + self.objects_dropped > 0
    }
}

/// Why a request was refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// What went wrong.
    pub error: String,
    /// What to do.
    pub hint: String,
}

/// Which cached objects are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvictRequest {
    /// Name or mount point of the mount; needed if there are several and `path` is not absolute.
    #[serde(default)]
    pub mount: Option<String>,
    /// A file or folder of the mount; absolute, or relative to the mount. Empty: all of the mount.
    #[serde(default)]
    pub path: String,
    /// Everything that is cached, of all mounts and of earlier ones, instead of a path.
    #[serde(default)]
    pub all: bool,
}

/// What is to stay on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Name or mount point of the mount; needed if there are several and `path` is not absolute.
    #[serde(default)]
    pub mount: Option<String>,
    /// A file or folder of the mount; absolute, or relative to the mount. Empty: all of the mount.
    #[serde(default)]
    pub path: String,
    /// After how many seconds the pin ends by itself; left out: never.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

/// What is pinned, of all pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinReport {
    /// Objects on disk that stay.
    pub objects: u64,
    /// Their bytes when they are complete.
    pub bytes: u64,
    /// Objects on disk that should stay and do not: no more than nine tenths of the disk tier may be
    /// pinned.
    pub objects_beyond: u64,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pin {
    /// Scheme, host and port of the store, and the bucket.
    pub store: String,
    /// Key of the file or folder; empty for the whole bucket.
    pub key: String,
    /// When it ends, as RFC 3339; null: never.
    pub ends: Option<String>,
}

/// What was let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvictReport {
    /// Objects that were on disk.
    pub objects: u64,
    /// Their bytes there.
    pub bytes: u64,
}

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedObjects {
    /// The largest of them, or the first by name.
    pub objects: Vec<CachedObject>,
    /// How many there are.
    pub total_objects: u64,
    /// Bytes of all of them on disk.
    pub total_bytes: u64,
}

/// An object of which something is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedObject {
    /// Its path in the mount.
    pub path: String,
    /// Bytes of the object.
    pub size_bytes: u64,
    /// Bytes of it on disk.
    pub disk_bytes: u64,
    /// When it was used last, RFC 3339.
    pub last_use: String,
}

/// A plan that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanAccepted {
    /// Name of the job.
    pub job: String,
    /// The epoch it is for.
    pub epoch: u64,
    /// The rank whose reads these are.
    pub rank: u32,
    /// Entries it has.
    pub entries: u64,
    /// Files that they are of.
    pub files: u64,
    /// Whether it took the place of one posted before for the same epoch and rank.
    pub replaced: bool,
}

/// A job with plans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanJob {
    /// Its name.
    pub job: String,
    /// How many ranks it says it has.
    pub world: u32,
    /// Its plans.
    pub epochs: Vec<PlanEpoch>,
    /// Reads of planned files that had to wait.
    pub stalls: u64,
    /// How long they waited, added up over all readers.
    pub stalled_seconds: f64,
    /// When it is forgotten if nothing is heard of it.
    pub lease_left_seconds: f64,
}

/// One plan, and how far its reader is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanEpoch {
    /// The epoch.
    pub epoch: u64,
    /// The rank.
    pub rank: u32,
    /// Entries it has.
    pub entries: u64,
    /// Entries that were read.
    pub used: u64,
    /// Entries that were fetched, or are being fetched.
    pub taken: u64,
    /// Entries whose file does not exist.
    pub missing: u64,
    /// Whether every entry was read or given up.
    pub over: bool,
    /// Bytes that are fetched, or being fetched, for entries that were not read yet.
    pub held_bytes: u64,
    /// Of these, what is there.
    pub ready_bytes: u64,
}
