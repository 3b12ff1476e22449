//! The daemon's life: start the cores and the cache, mount, serve until told to stop, unmount,
//! write down what was cached.
//!
//! The order of starting is the order of depending: limits, cache, cores, buckets, mounts, admin
//! API. Stopping goes the other way round, so that nothing is used after what it stands on is gone.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tenderfs_cache::{Cache, CacheError};
use tenderfs_s3client::Credentials;
use tracing::{error, info, warn};

use crate::background::Background;
use crate::config::{ConfigError, Limits, Machine, Settings, process_environment};
use crate::cores::{CoreError, CoreHandle, CoreOptions, Cores};
use crate::mount::{self, Mount, MountError, Surroundings};
use crate::scrub::{Scrub, Scrubber};
use crate::wiring;

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cache cannot be opened.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A core thread did not start.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// A bucket could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The admin API could not be served.
    #[error(transparent)]
    Admin(#[from] crate::admin::AdminError),
    /// The log cannot be written.
    #[error(transparent)]
    Log(#[from] crate::logging::LogError),
    /// A thread or a runtime of the daemon itself could not be made.
    #[error("cannot start the daemon's own threads")]
    Runtime(#[source] std::io::Error),
}

/// What happens to a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Reload,
    /// The kernel let go of mount `0`.
    Unmounted(usize),
}

/// Where the daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DaemonState {
    /// Not all mounts answer yet.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Unmounting.
    Stopping = 2,
}

/// What all parts of a running daemon share.
pub struct Daemon {
    /// The configuration in force.
    pub settings: ArcSwap<Settings>,
    /// What was derived from it at the start.
    pub limits: Limits,
    /// The cache of all mounts.
    pub cache: Cache,
    /// The mounts, in the order of the configuration.
    pub mounts: Mutex<Vec<Arc<Mount>>>,
    /// The core threads.
    pub cores: Vec<CoreHandle>,
    /// What verifies its disk tier.
    pub(crate) scrub: Arc<Scrub>,
    /// When it started.
    pub started: SystemTime,
    state: AtomicU8,
}

impl Daemon {
    /// Where it is in its life.
    pub fn state(&self) -> DaemonState {
        match self.state.load(Ordering::Acquire) {
            0 => DaemonState::Starting,
            1 => DaemonState::Ready,
            _ => DaemonState::Stopping,
        }
    }

    /// One line for `systemctl status`.
    pub(crate) fn status_line(&self) -> String {
        let mounts = self.mounts();
        let served: Vec<String> =
            mounts.iter().map(|mount| mount.settings.mountpoint.display().to_string()).collect();
        format!("serving {}", served.join(", "))
    }

    fn set_state(&self, state: DaemonState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// The mounts now.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.lock_mounts().clone()
    }

    fn lock_mounts(&self) -> MutexGuard<'_, Vec<Arc<Mount>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A daemon that serves; [`Running::stop`] ends it.
pub struct Running {
    daemon: Arc<Daemon>,
    cores: Cores,
    background: Background,
    scrubber: Scrubber,
    events: mpsc::Receiver<Event>,
}

/// Starts a daemon in this process and returns once every mount answers.
///
/// The caller has set up logging, if it wants any. Nothing is left mounted on an error.
pub fn start(settings: Settings) -> Result<Running, DaemonError> {
    let (sender, events) = mpsc::channel();
    start_with(settings, &sender, events)
}

fn start_with(
    settings: Settings,
    sender: &mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
) -> Result<Running, DaemonError> {
    let machine = Machine::detect(&process_environment);
    let limits = Limits::derive(&settings, &machine)?;
    info!(%limits, "limits");
    // What a user most often gets wrong is looked at before anything is set up.
    for mount in &settings.mounts {
        mount::check_mountpoint(mount)?;
    }
    let cache = Cache::open(wiring::cache_settings(&settings, &limits))?;
    let options = CoreOptions { count: limits.cores, pin: settings.daemon.pin_cores };
    let cores = Cores::start(options, &cache)?;
    let daemon = Arc::new(Daemon {
        settings: ArcSwap::from_pointee(settings),
        limits,
        cache,
        mounts: Mutex::default(),
        cores: cores.handles().to_vec(),
        scrub: Arc::default(),
        started: SystemTime::now(),
        state: AtomicU8::new(DaemonState::Starting as u8),
    });
    let started = mount_all(&daemon, sender).and_then(|credentials| {
        let slow = daemon.settings.load().cache.scrub;
        let scrubber = Scrubber::start(&daemon.scrub, &daemon.cache, slow);
        let scrubber = scrubber.map_err(DaemonError::Runtime)?;
        Ok((Background::start(&daemon, credentials)?, scrubber))
    });
    match started {
        Ok((background, scrubber)) => {
            daemon.set_state(DaemonState::Ready);
            Ok(Running { daemon, cores, background, scrubber, events })
        }
        Err(error) => {
            unmount_all(&daemon, Duration::ZERO);
            cores.stop();
            daemon.cache.shutdown();
            Err(error)
        }
    }
}

/// Opens every bucket, then mounts them all.
fn mount_all(
    daemon: &Arc<Daemon>,
    events: &mpsc::Sender<Event>,
) -> Result<Vec<Credentials>, DaemonError> {
    let settings = daemon.settings.load();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    let mut buckets = Vec::new();
    let mut all_credentials = Vec::new();
    for mount_settings in &settings.mounts {
        let opened =
            mount::open_bucket(mount_settings, &settings.s3, daemon.limits.connections_per_core);
        let (bucket, credentials) = runtime.block_on(opened)?;
        mount::probe(mount_settings, &bucket, &daemon.cores[0], settings.daemon.mount_timeout)?;
        buckets.push(bucket);
        all_credentials.push(credentials);
    }
    let around = Surroundings {
        cores: &daemon.cores,
        fuse: &settings.fuse,
        read_ahead: &settings.read_ahead,
        plans: &settings.plans,
        arena_bytes: u64::try_from(daemon.limits.arena_bytes).unwrap_or(u64::MAX),
        passthrough: wiring::passthrough(&settings),
        metadata_bytes: daemon.limits.namespace_bytes / settings.mounts.len().max(1) as u64,
        events,
    };
    for (index, (mount_settings, bucket)) in settings.mounts.iter().zip(buckets).enumerate() {
        let mount = Mount::establish(index, mount_settings, bucket, &around)?;
        daemon.lock_mounts().push(mount);
    }
    Ok(all_credentials)
}

fn unmount_all(daemon: &Daemon, patience: Duration) {
    let deadline = Instant::now() + patience;
    for mount in daemon.mounts() {
        mount.unmount(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Running {
    /// What its parts share.
    pub fn daemon(&self) -> &Arc<Daemon> {
        &self.daemon
    }

    /// Unmounts, lets fetches and disk writes end, commits the catalogue.
    pub fn stop(self) {
        self.daemon.set_state(DaemonState::Stopping);
        let patience = self.daemon.settings.load().daemon.shutdown_timeout;
        unmount_all(&self.daemon, patience);
        self.background.stop();
        drop(self.scrubber);
        self.cores.stop();
        self.daemon.cache.shutdown();
        info!("stopped");
    }

    /// Serves until SIGTERM or SIGINT, or until everything has been unmounted; `reload` is asked
    /// for the configuration at each SIGHUP.
    fn serve(self, reload: &dyn Fn() -> Result<Settings, ConfigError>) {
        while let Ok(event) = self.events.recv() {
            match event {
                Event::Terminate => {
                    info!("asked to stop");
                    break;
                }
                Event::Reload => self.reload(reload),
                Event::Unmounted(index) => {
                    let mounts = self.daemon.mounts();
                    let name = mounts.get(index).map(|mount| mount.settings.name.as_str());
                    info!(mount = name.unwrap_or_default(), "was unmounted");
                    if !mounts.iter().any(|mount| mount.is_served()) {
                        break;
                    }
                }
            }
        }
        crate::notify::stopping();
        self.stop();
    }

    /// Takes over what can change while running; the rest is said to need a restart.
    fn reload(&self, reload: &dyn Fn() -> Result<Settings, ConfigError>) {
        crate::notify::reloading();
        match reload() {
            Ok(settings) => {
                let (in_force, changes) = self.daemon.settings.load().reload(&settings);
                if let Err(error) = crate::logging::set_level(&in_force.log.level) {
                    warn!(%error, "log level stays as it was");
                }
                if let Err(error) = crate::logging::reopen() {
                    warn!(%error, "the log goes on in the file it had");
                }
                if !changes.needs_restart.is_empty() {
                    let sections = changes.needs_restart.join(", ");
                    warn!(sections, "changes of these sections need a restart");
                }
                for mount in self.daemon.mounts() {
                    mount.set_read_ahead(&in_force.read_ahead);
                }
                self.daemon.settings.store(Arc::new(in_force));
                info!("configuration reloaded");
            }
            Err(error) => error!(%error, "configuration stays as it was"),
        }
        crate::notify::ready(&self.daemon.status_line());
    }
}

/// Runs a daemon until it is told to stop: the whole of `tenderfsd` once its settings are known.
///
/// `ready` is called when every mount answers; `reload` is asked for the configuration at SIGHUP.
/// Call it before any thread is started: it takes over the process's signals.
pub fn run(
    settings: Settings,
    ready: impl FnOnce(&Daemon),
    reload: &dyn Fn() -> Result<Settings, ConfigError>,
) -> Result<(), DaemonError> {
    let (sender, events) = mpsc::channel();
    crate::signals::take(sender.clone()).map_err(DaemonError::Runtime)?;
    let running = start_with(settings, &sender, events)?;
    ready(&running.daemon);
    crate::notify::ready(&running.daemon.status_line());
    running.serve(reload);
    Ok(())
}

/// An error and its causes as one line for a person, each said once.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}
