//! One thread per core: its runtime, its share of the cache, its S3 connections, its FUSE channels.
//!
//! Everything that moves bytes runs here. A thread owns a tokio-uring runtime and a [`Core`];
//! nothing in it is shared with another thread except the cache's and the mounts' own tables.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tenderfs_cache::{Cache, CoreCache, Object, ObjectVersion, ReadError, Warmed};
use tenderfs_s3client::{Client, Error as S3Error, ListPage, ListRequest, ListedObject};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use crate::mount::Mount;
use crate::origin::Origin;

/// Submission queue entries of a core's ring: several disk operations for each of a few hundred
/// requests in flight; a full queue is submitted and goes on.
const RING_ENTRIES: u32 = 512;

/// How long fetches and disk writes under way may take to end when the daemon stops. What is not
/// written by then is fetched again one day.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What a core is asked to do.
type Task = Box<dyn FnOnce(Rc<Core>) -> LocalBoxFuture<'static, ()> + Send>;

/// Why a core's thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The thread could not be made.
    #[error("cannot start a thread for core {index}")]
    Thread {
        /// Which one.
        index: usize,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kernel gave no ring.
    #[error(
        "cannot set up io_uring on core {index} (check sysctl kernel.io_uring_disabled and the \
         container's seccomp profile)"
    )]
    Ring {
        /// Which one.
        index: usize,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What lives on one core's thread.
pub struct Core {
    /// Number of the core, from 0.
    pub index: usize,
    /// This core's face of the cache.
    pub cache: CoreCache,
    objects: Cache,
    origins: RefCell<HashMap<usize, Origin>>,
    stop: Notify,
}

impl Core {
    /// The way to S3 for `mount` from this core; its connections are kept for the next call.
    pub(crate) fn origin(&self, mount: &Arc<Mount>) -> Origin {
        let mut origins = self.origins.borrow_mut();
        let make = || Origin::new(Client::new(Arc::clone(&mount.bucket)));
        origins.entry(mount.index).or_insert_with(make).clone()
    }

    /// News of objects evicted from disk; `None` without a disk tier.
    pub(crate) fn evictions(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        self.objects.evictions()
    }

    /// One page of a listing.
    pub async fn list_files(
        &self,
        mount: &Arc<Mount>,
        request: &ListRequest,
    ) -> Result<ListPage, S3Error> {
        self.origin(mount).client().list(request).await
    }

    /// The cache's handle of a listed object version.
    pub fn object(&self, mount: &Mount, listed: &ListedObject) -> Arc<Object> {
        self.version(mount, listed.key.as_str().into(), &listed.etag, listed.size_bytes)
    }

    /// The cache's handle of the version of `key` that has this ETag and size.
    pub(crate) fn version(
        &self,
        mount: &Mount,
        key: Arc<str>,
        etag: &str,
        size_bytes: u64,
    ) -> Arc<Object> {
        let store = Arc::clone(&mount.store);
        self.objects.object(ObjectVersion { store, key, etag: etag.into(), size_bytes })
    }

    /// Brings the whole object into the cache; returns once it is there.
    pub async fn warm_object(
        &self,
        mount: &Arc<Mount>,
        listed: &ListedObject,
    ) -> Result<Warmed, ReadError> {
        let object = self.object(mount, listed);
        let warmed = self.cache.warm(&self.origin(mount), &object).await?;
        if mount.passthrough.may_lend(&object) {
            self.cache.verify_later(&object);
        }
        Ok(warmed)
    }
}

/// The way to a core's thread from any other.
#[derive(Clone)]
pub struct CoreHandle {
    index: usize,
    tasks: mpsc::UnboundedSender<Task>,
}

impl CoreHandle {
    /// Number of the core, from 0.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Runs `task` on the core. It is dropped unrun if the core has stopped.
    pub fn spawn(
        &self,
        task: impl FnOnce(Rc<Core>) -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) {
        if self.tasks.send(Box::new(task)).is_err() {
            debug!(core = self.index, "core has stopped; task dropped");
        }
    }
}

/// All core threads; joining them needs every [`CoreHandle`] gone or [`Cores::stop`].
pub(crate) struct Cores {
    handles: Vec<CoreHandle>,
    threads: Vec<JoinHandle<()>>,
}

/// What each core thread is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreOptions {
    /// How many threads.
    pub(crate) count: usize,
    /// Bind each to a processor.
    pub(crate) pin: bool,
}

impl Cores {
    /// Starts the threads; each attaches to `cache` from inside its runtime.
    pub(crate) fn start(options: CoreOptions, cache: &Cache) -> Result<Self, CoreError> {
        let processors = if options.pin { allowed_processors() } else { Vec::new() };
        let mut cores = Self { handles: Vec::new(), threads: Vec::new() };
        for index in 0..options.count {
            probe_ring(index)?;
            let (tasks, inbox) = mpsc::unbounded_channel();
            let cache = cache.clone();
            let processor = processors.get(index % processors.len().max(1)).copied();
            let thread = std::thread::Builder::new()
                .name(format!("tenderfs-core{index}"))
                .spawn(move || {
                    pin_to(processor);
                    run(index, &cache, inbox);
                })
                .map_err(|source| CoreError::Thread { index, source })?;
            cores.handles.push(CoreHandle { index, tasks });
            cores.threads.push(thread);
        }
        Ok(cores)
    }

    /// The ways to the threads.
    pub(crate) fn handles(&self) -> &[CoreHandle] {
        &self.handles
    }

    /// Ends every thread once the tasks that are running have written what they fetched. The
    /// handles given out must be gone or unused.
    pub(crate) fn stop(self) {
        for handle in &self.handles {
            handle.spawn(|core| {
                Box::pin(async move {
                    if tokio::time::timeout(DRAIN_MAX, core.cache.drain()).await.is_err() {
                        warn!(core = core.index, "fetches did not end in time and are dropped");
                    }
                    core.stop.notify_one();
                })
            });
        }
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a core thread ended by a panic");
            }
        }
    }
}

/// A core thread's life: run tasks until told to stop.
fn run(index: usize, cache: &Cache, mut inbox: mpsc::UnboundedReceiver<Task>) {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_cqsize(RING_ENTRIES * 4);
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    builder.start(async {
        let core = Rc::new(Core {
            index,
            cache: cache.attach_core(),
            objects: cache.clone(),
            origins: RefCell::default(),
            stop: Notify::new(),
        });
        loop {
            tokio::select! {
                task = inbox.recv() => match task {
                    Some(task) => drop(tokio_uring::spawn(task(Rc::clone(&core)))),
                    None => break,
                },
                () = core.stop.notified() => break,
            }
        }
    });
}

/// Asks the kernel for a ring as the runtime will want it: the runtime itself panics without one.
fn probe_ring(index: usize) -> Result<(), CoreError> {
    let mut builder = io_uring::IoUring::builder();
    builder.setup_coop_taskrun().setup_cqsize(RING_ENTRIES * 4);
    let ring: std::io::Result<io_uring::IoUring> = builder.build(RING_ENTRIES);
    ring.map(drop).map_err(|source| CoreError::Ring { index, source })
}

/// Processors this process may run on, in order.
fn allowed_processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|processor| set.is_set(*processor).unwrap_or(false)).collect()
}

/// Binds the calling thread to `processor`; a refusal costs speed only.
fn pin_to(processor: Option<usize>) {
    let Some(processor) = processor else { return };
    let mut set = CpuSet::new();
    let bound = set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = bound {
        warn!(processor, %error, "cannot bind a core thread to its processor");
    }
}
