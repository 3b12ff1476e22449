//! One mounted bucket: what all cores share of it, and how it comes and goes.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tenderfs_fuse::{
    Device, MountpointState, Negotiated, RingObstacle, Session, TransportKind, Unmount,
    mountpoint_state, ring_obstacle,
};
use tenderfs_s3client::{Bucket, Client, Credentials, Error as S3Error};
use tenderfs_telemetry::{Counter, Histogram};
use tracing::{debug, info, warn};

use crate::config::{FuseSettings, MountSettings, PlanSettings, ReadAheadSettings, Transport};
use crate::cores::CoreHandle;
use crate::engine::{
    self, DirectoryAhead, Handles, Interrupts, Passthrough, PassthroughCounters, Window,
};
use crate::namespace::Namespace;
use crate::plans::{ManifestFile, Plans};
use crate::run::Event;
use crate::wiring;

/// Pause between two attempts to reach a store that does not answer while mounting.
const PROBE_PAUSE: Duration = Duration::from_millis(500);

/// Why a bucket could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot take a mount.
    #[error("cannot mount {source_name} on {}: {problem}", mountpoint.display())]
    Mountpoint {
        /// What was to be mounted.
        source_name: String,
        /// Where.
        mountpoint: std::path::PathBuf,
        /// What is in the way, and what to do.
        problem: String,
    },
    /// The manifest cannot be used.
    #[error("cannot mount {source_name}: {problem}")]
    Manifest {
        /// What was to be mounted.
        source_name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The bucket does not answer as it should.
    #[error("cannot mount {source_name}")]
    Bucket {
        /// What was to be mounted.
        source_name: String,
        /// What the store said.
        source: S3Error,
    },
    /// The kernel refused.
    #[error("cannot mount {source_name}")]
    Fuse {
        /// What was to be mounted.
        source_name: String,
        /// Why.
        source: tenderfs_fuse::Error,
    },
    /// The core that was to ask the store has stopped.
    #[error("cannot mount {source_name}: the daemon is stopping")]
    Stopping {
        /// What was to be mounted.
        source_name: String,
    },
}

/// What one mount counts beside its namespace, its bucket and the cache.
#[derive(Debug, Default)]
pub struct MountCounters {
    /// Bytes answered to reads that found them in memory.
    pub bytes_memory: Counter,
    /// Bytes answered to reads that needed the disk tier, and no more.
    pub bytes_disk: Counter,
    /// Bytes answered to reads that had to wait for S3.
    pub bytes_s3: Counter,
    /// Time that reads had to wait, one observation for each read that did.
    pub reader_wait: Histogram,
    /// Files whose start was fetched because their directory is read in order.
    pub siblings_fetched: Counter,
    /// Requests answered with an error that is not the caller's doing.
    pub errors: Counter,
    /// Requests that the kernel interrupted while they waited.
    pub interrupted: Counter,
    /// Requests that panicked: bugs.
    pub panics: Counter,
}

/// A mounted bucket.
pub struct Mount {
    /// Number of the mount in this daemon, from 0.
    pub index: usize,
    /// As configured.
    pub settings: MountSettings,
    /// The bucket it shows.
    pub bucket: Arc<Bucket>,
    /// Identity of the store and bucket, part of every cached block's name.
    pub store: Arc<str>,
    /// What it counts.
    pub counters: MountCounters,
    /// Its names.
    pub namespace: Arc<Namespace>,
    /// What the kernel agreed to.
    pub negotiated: Negotiated,
    /// Read-ahead of the kernel that is in force, in bytes.
    pub kernel_read_ahead_bytes: u64,
    /// When it was mounted.
    pub mounted_at: SystemTime,
    pub(crate) handles: Handles,
    pub(crate) interrupts: Interrupts,
    pub(crate) read_ahead: ArcSwapOption<Window>,
    arena_bytes: u64,
    pub(crate) directory_ahead: DirectoryAhead,
    pub(crate) passthrough: Passthrough,
    /// What jobs say that they will read.
    pub plans: Arc<Plans>,
    session: Session,
    channels: AtomicUsize,
    events: Mutex<mpsc::Sender<Event>>,
}

/// What a mount needs of the rest of the daemon.
pub(crate) struct Surroundings<'a> {
    pub(crate) cores: &'a [CoreHandle],
    pub(crate) fuse: &'a FuseSettings,
    pub(crate) read_ahead: &'a ReadAheadSettings,
    pub(crate) plans: &'a PlanSettings,
    /// Memory of the cache that all mounts share.
    pub(crate) arena_bytes: u64,
    /// Whether the configuration allows passthrough, and if not, why.
    pub(crate) passthrough: Result<(), &'static str>,
    pub(crate) metadata_bytes: u64,
    pub(crate) events: &'a mpsc::Sender<Event>,
}

impl Mount {
    /// Mounts the bucket and serves it on every core. On an error nothing is left mounted.
    pub(crate) fn establish(
        index: usize,
        settings: &MountSettings,
        bucket: Arc<Bucket>,
        around: &Surroundings<'_>,
    ) -> Result<Arc<Self>, MountError> {
        let source_name = settings.source();
        let fuse_error = |source| MountError::Fuse { source_name: source_name.clone(), source };
        check_mountpoint(settings)?;
        let manifest = ManifestFile::of(settings).map_err(|problem| MountError::Manifest {
            source_name: source_name.clone(),
            problem,
        })?;
        let mut session = Session::mount(&wiring::mount_options(settings)).map_err(&fuse_error)?;
        let guard = UnmountUnlessServed(&settings.mountpoint);
        let negotiated = session
            .negotiate(&wiring::wish(around.fuse, around.passthrough.is_ok()))
            .map_err(&fuse_error)?;
        let passthrough = Passthrough::new(why_not(around.passthrough, settings, &negotiated));
        say_if_without_rings(around.fuse, &negotiated, settings);
        let kernel_read_ahead_bytes = set_read_ahead(&session, around.fuse, settings);
        let devices = around.cores.iter().map(|_| session.device());
        let devices = devices.collect::<Result<Vec<_>, _>>().map_err(&fuse_error)?;
        let store = format!("{}/{}", bucket.endpoint(), bucket.name()).into();
        let mount = Arc::new(Self {
            index,
            namespace: Arc::new(Namespace::new(settings, around.metadata_bytes)),
            settings: settings.clone(),
            bucket,
            store,
            counters: MountCounters::default(),
            negotiated,
            kernel_read_ahead_bytes,
            mounted_at: SystemTime::now(),
            handles: Handles::default(),
            interrupts: Interrupts::default(),
            passthrough,
            read_ahead: ArcSwapOption::from_pointee(wiring::window(
                around.read_ahead,
                around.arena_bytes,
            )),
            arena_bytes: around.arena_bytes,
            directory_ahead: DirectoryAhead::default(),
            plans: Arc::new(Plans::new(
                settings.mountpoint.clone(),
                settings.prefix.clone(),
                wiring::plan_window_bytes(around.plans, around.arena_bytes),
                around.plans.lease,
            )),
            session,
            channels: AtomicUsize::new(devices.len()),
            events: Mutex::new(around.events.clone()),
        });
        for (core, device) in around.cores.iter().zip(devices) {
            mount.serve_on(core, device);
        }
        // The mount has answered once this has come back.
        std::fs::metadata(&settings.mountpoint).map_err(|error| MountError::Mountpoint {
            source_name: source_name.clone(),
            mountpoint: settings.mountpoint.clone(),
            problem: format!("it does not answer: {error}"),
        })?;
        std::mem::forget(guard);
        if let Some(manifest) = manifest
            && let Err(error) = manifest.read_for(&mount)
        {
            warn!(mount = settings.name, %error, "no thread to read the manifest");
        }
        info!(
            mount = settings.name,
            source = source_name,
            mountpoint = %settings.mountpoint.display(),
            "mounted"
        );
        Ok(mount)
    }

    fn serve_on(self: &Arc<Self>, core: &CoreHandle, device: Device) {
        let mount = Arc::clone(self);
        core.spawn(move |core| {
            Box::pin(async move {
                match device.open(&mount.negotiated) {
                    Ok(channel) => {
                        if let Some(error) = channel.ring_failure() {
                            let mount = &mount.settings.name;
                            warn!(mount, %error, "no ring for this core; requests come by /dev/fuse");
                        }
                        engine::serve(core, Arc::clone(&mount), channel).await;
                    }
                    Err(error) => warn!(%error, "cannot serve a clone of /dev/fuse"),
                }
                mount.channel_closed();
            })
        });
    }

    fn channel_closed(&self) {
        if self.channels.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.passthrough.end();
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.send(Event::Unmounted(self.index)).is_err() {
                debug!(mount = self.settings.name, "the daemon has stopped already");
            }
        }
    }

    /// Whether the kernel still has it.
    pub fn is_served(&self) -> bool {
        self.channels.load(Ordering::Acquire) > 0
    }

    /// Takes over the settings of read-ahead for reads from now on.
    pub(crate) fn set_read_ahead(&self, settings: &ReadAheadSettings) {
        self.read_ahead.store(wiring::window(settings, self.arena_bytes).map(Arc::new));
    }

    /// Has the kernel drop its pages of the files that `is_meant` says yes to, by their key.
    pub(crate) fn drop_pages(&self, is_meant: impl Fn(&str) -> bool) {
        for ino in self.namespace.inodes_of(is_meant) {
            if let Err(error) = self.session.invalidate(tenderfs_fuse::Ino(ino)) {
                debug!(mount = self.settings.name, ino, %error, "the kernel keeps its pages");
            }
        }
    }

    /// The connection to the kernel.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Why no cached file of it is read by the kernel alone; `None` if files are.
    pub fn passthrough_off(&self) -> Option<&str> {
        self.passthrough.why_off()
    }

    /// Files that the kernel reads alone: those that are open, and those kept for the next open.
    pub fn passthrough_files(&self) -> (usize, usize) {
        self.passthrough.files()
    }

    /// What its opens count.
    pub fn passthrough_counters(&self) -> &PassthroughCounters {
        &self.passthrough.counters
    }

    /// Files open through it now.
    pub fn files_open(&self) -> usize {
        self.handles.files_open()
    }

    /// What the kernel's requests through it count.
    pub fn fuse_counters(&self) -> &tenderfs_fuse::Counters {
        self.session.counters()
    }

    /// Number of the connection in /sys/fs/fuse/connections.
    pub fn connection_id(&self) -> u64 {
        self.session.connection_id()
    }

    /// Takes the mount away: politely until `patience` is over, then lazily, so that programs that
    /// still hold files of it get errors instead of a hang.
    pub(crate) fn unmount(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let path = &self.settings.mountpoint;
        let mut told = false;
        while self.is_served() {
            match tenderfs_fuse::unmount(path, Unmount::Plain) {
                Ok(()) => break,
                Err(error) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut told, true) {
                        info!(mountpoint = %path.display(), %error, "waiting to unmount");
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
                Err(error) => {
                    warn!(mountpoint = %path.display(), %error, "unmounting lazily; open files of the mount will fail");
                    if let Err(error) = tenderfs_fuse::unmount(path, Unmount::Lazy) {
                        warn!(mountpoint = %path.display(), %error, "cannot unmount");
                    }
                    break;
                }
            }
        }
        self.log_statistics();
    }

    /// What the mount did in its life, one line.
    fn log_statistics(&self) {
        let wait = self.counters.reader_wait.snapshot();
        info!(
            mount = self.settings.name,
            bytes_memory = self.counters.bytes_memory.get(),
            bytes_disk = self.counters.bytes_disk.get(),
            bytes_s3 = self.counters.bytes_s3.get(),
            reads_that_waited = wait.count(),
            reader_wait_ms = wait.sum_ns / 1_000_000,
            errors = self.counters.errors.get(),
            "unmounted"
        );
    }
}

/// Takes a mount away again that could not be brought to serve.
struct UnmountUnlessServed<'a>(&'a Path);

impl Drop for UnmountUnlessServed<'_> {
    fn drop(&mut self) {
        if let Err(error) = tenderfs_fuse::unmount(self.0, Unmount::Lazy) {
            warn!(mountpoint = %self.0.display(), %error, "cannot take back a failed mount");
        }
    }
}

/// Asks the store whether the bucket is there and open to us; waits for a store that cannot be
/// reached yet (a machine that boots) until `patience` is over.
pub(crate) fn probe(
    settings: &MountSettings,
    bucket: &Arc<Bucket>,
    core: &CoreHandle,
    patience: Duration,
) -> Result<(), MountError> {
    let deadline = Instant::now() + patience;
    loop {
        let (bucket, prefix) = (Arc::clone(bucket), settings.prefix.clone());
        let (sender, answer) = mpsc::channel();
        core.spawn(move |_| {
            Box::pin(async move {
                let result = Client::new(bucket).probe(&prefix).await;
                drop(sender.send(result));
            })
        });
        let source_name = settings.source();
        match answer.recv() {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(source @ (S3Error::Unreachable { .. } | S3Error::DeadlineExpired { .. })))
                if Instant::now() + PROBE_PAUSE < deadline =>
            {
                warn!(source = source_name, error = %source, "store does not answer yet");
                std::thread::park_timeout(PROBE_PAUSE);
            }
            Ok(Err(source)) => return Err(MountError::Bucket { source_name, source }),
            Err(mpsc::RecvError) => return Err(MountError::Stopping { source_name }),
        }
    }
}

/// Refuses a mount point that cannot take a mount, saying what to do about it. A mount whose server
/// is gone serves nobody ("Transport endpoint is not connected") and is taken away.
pub(crate) fn check_mountpoint(settings: &MountSettings) -> Result<(), MountError> {
    let path = &settings.mountpoint;
    let shown = path.display();
    let error = |problem| {
        Err(MountError::Mountpoint {
            source_name: settings.source(),
            mountpoint: path.clone(),
            problem,
        })
    };
    let state = match mountpoint_state(path) {
        Ok(state) => state,
        Err(problem) => return error(problem.to_string()),
    };
    match state {
        MountpointState::Ready => Ok(()),
        MountpointState::Missing => error(format!("it does not exist; run: mkdir -p {shown}")),
        MountpointState::NotADirectory => error("it is not a directory".to_owned()),
        MountpointState::NotEmpty => error("it is not empty; choose an empty directory".to_owned()),
        MountpointState::Mounted { fstype, source } => {
            error(format!("{source} ({fstype}) is mounted there already; run: umount {shown}"))
        }
        MountpointState::Stale => {
            warn!(mountpoint = %shown, "taking away the mount of a daemon that is gone");
            match tenderfs_fuse::unmount(path, Unmount::Lazy) {
                Ok(()) => Ok(()),
                Err(problem) => error(problem.to_string()),
            }
        }
    }
}

/// Why nothing will be passed through, if that is known from the start.
fn why_not(
    configured: Result<(), &'static str>,
    settings: &MountSettings,
    negotiated: &Negotiated,
) -> Option<String> {
    if let Err(reason) = configured {
        return Some(reason.to_owned());
    }
    if negotiated.has_passthrough() {
        return None;
    }
    let reason = "the kernel does not offer it (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH does)";
    info!(mount = settings.name, reason, "cached files are read through the daemon");
    Some(reason.to_owned())
}

fn set_read_ahead(session: &Session, fuse: &FuseSettings, settings: &MountSettings) -> u64 {
    match session.set_read_ahead(fuse.read_ahead_bytes) {
        Ok(bytes) => bytes,
        Err(error) => {
            warn!(mount = settings.name, %error, "kernel read-ahead stays as it is; large reads will be slower");
            0
        }
    }
}

/// Says what to do if rings were asked for and cannot be had.
fn say_if_without_rings(fuse: &FuseSettings, negotiated: &Negotiated, settings: &MountSettings) {
    if fuse.transport == Transport::Device || negotiated.transport() == TransportKind::Ring {
        return;
    }
    let obstacle = ring_obstacle().unwrap_or(RingObstacle::NotAgreed);
    warn!(
        mount = settings.name,
        %obstacle,
        "fuse.transport = \"ring\" is not to be had; requests come by /dev/fuse"
    );
}

/// The credentials of one mount and the bucket they open.
pub(crate) async fn open_bucket(
    settings: &MountSettings,
    s3: &crate::config::S3Settings,
    connections_per_core: usize,
) -> Result<(Arc<Bucket>, Credentials), MountError> {
    let bucket_error = |source| MountError::Bucket { source_name: settings.source(), source };
    let credentials =
        Credentials::resolve(wiring::credential_source(settings)).await.map_err(bucket_error)?;
    let config = wiring::bucket_config(settings, s3, connections_per_core)
        .map_err(|error| bucket_error(error.into()))?;
    let bucket = Bucket::new(config, credentials.clone()).map_err(bucket_error)?;
    Ok((bucket, credentials))
}
