//! The settings: typed and complete, so that nobody downstream asks what a missing value means.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// Everything a daemon is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[daemon]`
    pub daemon: DaemonSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[memory]`
    pub memory: MemorySettings,
    /// `[cache]`
    pub cache: CacheSettings,
    /// `[read_ahead]`
    pub read_ahead: ReadAheadSettings,
    /// `[plans]`
    pub plans: PlanSettings,
    /// `[s3]`
    pub s3: S3Settings,
    /// `[fuse]`
    pub fuse: FuseSettings,
    /// `[warm]`
    pub warm: WarmSettings,
    /// `[[mount]]`, each with `[mount_defaults]` filled in; names and mount points are unique.
    pub mounts: Vec<MountSettings>,
}

/// How many core threads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreCount {
    /// As many as processors and memory allow, at most 16.
    Auto,
    /// This many, at least one.
    Exactly(usize),
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Core threads.
    pub cores: CoreCount,
    /// Whether each is bound to a processor.
    pub pin_cores: bool,
    /// Unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// Where Prometheus may scrape.
    pub metrics_listen: Option<SocketAddr>,
    /// How long an unreachable store is waited for at the start.
    pub mount_timeout: Duration,
    /// How long a stop may take before mounts are detached.
    pub shutdown_timeout: Duration,
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A `tracing` filter.
    pub level: String,
    /// How events are written.
    pub format: LogFormat,
    /// File they go to; `None` is standard error.
    pub file: Option<PathBuf>,
}

/// `[memory]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySettings {
    /// The hard limit; `auto` is already a number here.
    pub limit_bytes: u64,
}

/// Which objects the disk tier keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// As one of the others, whichever would have hit more of late.
    Auto,
    /// What was used last.
    Lru,
    /// A set that stays put.
    Pin,
}

/// When bytes from disk are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// On first use in the daemon's life.
    FirstUse,
    /// On every read.
    Always,
    /// Not at all.
    Never,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq)]
pub struct CacheSettings {
    /// Directory of the disk tier; `None` is no disk tier.
    pub dir: Option<PathBuf>,
    /// Most bytes it holds.
    pub size_bytes: u64,
    /// Objects of fewer bytes share files with others; 0: each has its own.
    pub pack_below_bytes: u64,
    /// Share of its file system that stays free, in `0.0..1.0`.
    pub free_space_ratio: f64,
    /// Which objects it keeps when it cannot hold them all.
    pub policy: Policy,
    /// When bytes from it are checked.
    pub verify: Verify,
    /// How it is read for damage in the background; `None`: not at all.
    pub scrub: Option<ScrubSettings>,
}

/// How the disk tier is read for damage in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Time from the beginning of one pass to that of the next.
    pub period: Duration,
    /// Most bytes read a second.
    pub rate_bytes_per_s: NonZeroU64,
}

/// `[plans]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanSettings {
    /// Most bytes fetched and not read yet; `None`: what the memory allows.
    pub window_bytes: Option<u64>,
    /// When a job is forgotten of which nothing is heard.
    pub lease: Duration,
}

/// `[read_ahead]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAheadSettings {
    /// Whether blocks ahead of sequential readers are fetched.
    pub enabled: bool,
    /// First window in blocks.
    pub first_blocks: u32,
    /// Largest window in blocks, at least the first.
    pub max_blocks: u32,
    /// Files of a directory fetched before they are opened, at most.
    pub lookahead_files: usize,
    /// Most predicted bytes in flight.
    pub in_flight_bytes: u64,
}

/// `[s3]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Settings {
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time to the first byte of an answer.
    pub first_byte_timeout: Duration,
    /// How long an answer may crawl.
    pub stall_timeout: Duration,
    /// Time for a request with its retries.
    pub request_timeout: Duration,
    /// Most tries of one request.
    pub attempts_max: u32,
    /// Pause before the first retry.
    pub backoff_first: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Most connections of a core to a bucket.
    pub connections_per_core: usize,
    /// Whether a request that is late is made a second time.
    pub hedging: bool,
}

/// How requests come from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By reads of /dev/fuse.
    Device,
    /// By FUSE over io_uring, where the kernel offers it.
    Ring,
}

/// `[fuse]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FuseSettings {
    /// How requests come.
    pub transport: Transport,
    /// Background requests in flight.
    pub max_background: u16,
    /// From how many the kernel holds back, at most `max_background`.
    pub congestion_threshold: u16,
    /// The kernel's read-ahead.
    pub read_ahead_bytes: u64,
    /// Largest read request.
    pub request_bytes_max: u32,
    /// Whether the kernel reads complete cached files alone.
    pub passthrough: bool,
}

/// `[warm]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmSettings {
    /// Files brought in at once by one job.
    pub workers: usize,
}

/// Where a bucket's name goes in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// By what the endpoint and the name allow.
    Auto,
    /// `https://host/bucket`
    Path,
    /// `https://bucket.host`
    VirtualHost,
}

/// Who may use a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The user who mounted it.
    Owner,
    /// That user and root.
    Root,
    /// Everyone, by the permissions of files.
    All,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one option of its own, set by name")]
pub struct MountSettings {
    /// Label in status and metrics, unique in the daemon.
    pub name: String,
    /// Bucket.
    pub bucket: String,
    /// Prefix of all its keys; empty, or ends with `/`.
    pub prefix: String,
    /// Where it is mounted; absolute.
    pub mountpoint: PathBuf,
    /// Region, if it was said.
    pub region: Option<String>,
    /// Endpoint of a store that is not AWS.
    pub endpoint_url: Option<Url>,
    /// Where the bucket's name goes.
    pub addressing: Addressing,
    /// Profile to take credentials from.
    pub profile: Option<String>,
    /// File to take credentials from, and from nowhere else.
    pub credentials_file: Option<PathBuf>,
    /// Whether requests go unsigned.
    pub anonymous: bool,
    /// Whether the requester pays.
    pub requester_pays: bool,
    /// The account that must own the bucket.
    pub expected_bucket_owner: Option<String>,
    /// Whether AWS is asked by IPv6 too.
    pub dual_stack: bool,
    /// Whether AWS is asked by way of its nearest edge.
    pub transfer_acceleration: bool,
    /// File with the key of objects that were encrypted with one of the user's own.
    pub sse_customer_key_file: Option<PathBuf>,
    /// More certificate authorities.
    pub ca_bundle: Option<PathBuf>,
    /// Whether writing is refused; always true.
    pub read_only: bool,
    /// Who may use it.
    pub access: Access,
    /// Owner of its files.
    pub uid: u32,
    /// Group of its files.
    pub gid: u32,
    /// Permissions of files, without write bits if read only.
    pub file_mode: u32,
    /// Permissions of directories, without write bits if read only.
    pub dir_mode: u32,
    /// How long attributes are believed.
    pub attr_ttl: Duration,
    /// How long names are believed to exist.
    pub entry_ttl: Duration,
    /// How long names are believed not to exist.
    pub negative_ttl: Duration,
    /// Whether objects never change.
    pub immutable: bool,
    /// Where it is written what will be read: a file, or an object below the mount.
    pub manifest: Option<String>,
}

impl MountSettings {
    /// The source as `findmnt` shows it: `s3://bucket/prefix`.
    pub fn source(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }
}

/// What a reload changed, and what it could not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reload {
    /// Sections or options in force from now on.
    pub applied: Vec<&'static str>,
    /// Sections or options that wait for a restart.
    pub needs_restart: Vec<&'static str>,
}

impl Settings {
    /// The settings in force after a reload that read `next`: what can change in a running daemon is
    /// taken over, everything else stays and is named.
    pub fn reload(&self, next: &Settings) -> (Settings, Reload) {
        let mut merged = self.clone();
        merged.log.level.clone_from(&next.log.level);
        merged.daemon.shutdown_timeout = next.daemon.shutdown_timeout;
        merged.read_ahead.enabled = next.read_ahead.enabled;
        merged.read_ahead.first_blocks = next.read_ahead.first_blocks;
        merged.read_ahead.max_blocks = next.read_ahead.max_blocks;
        merged.read_ahead.lookahead_files = next.read_ahead.lookahead_files;
        merged.warm = next.warm;
        let reload =
            Reload { applied: sections(self, &merged), needs_restart: sections(&merged, next) };
        (merged, reload)
    }
}

/// Sections in which two settings differ.
fn sections(a: &Settings, b: &Settings) -> Vec<&'static str> {
    let differs = [
        ("daemon", a.daemon != b.daemon),
        ("log", a.log != b.log),
        ("memory", a.memory != b.memory),
        ("cache", a.cache != b.cache),
        ("read_ahead", a.read_ahead != b.read_ahead),
        ("plans", a.plans != b.plans),
        ("s3", a.s3 != b.s3),
        ("fuse", a.fuse != b.fuse),
        ("warm", a.warm != b.warm),
        ("mount", a.mounts != b.mounts),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
