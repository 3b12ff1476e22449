//! The cache as the process sees it.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::core::gather::Gathering;
use crate::core::{Core, CoreCache};
use crate::counters::{Counters, Usage};
use crate::disk::Disk;
use crate::disk::verification::Verification;
use crate::error::CacheError;
use crate::memory::Memory;
use crate::memory::buddy::GRANULE_BYTES;
use crate::object::{Object, Objects};
use crate::settings::CacheSettings;
use crate::version::ObjectVersion;

/// The cache of a process. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

/// What all cores share.
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    disk: Option<Disk>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) settings: CacheSettings,
    /// Small reads of absent blocks.
    pub(crate) gathering: Gathering,
    /// Granules that may be pinned by blocks on their way to disk.
    pub(crate) write_backlog: Arc<Semaphore>,
    write_backlog_granules: usize,
}

impl Cache {
    /// Opens the cache: maps the arena, takes the directory and reads its catalogue.
    pub fn open(settings: CacheSettings) -> Result<Self, CacheError> {
        let ratio = settings.free_space_ratio;
        if !(0.0..1.0).contains(&ratio) {
            return Err(CacheError::FreeSpaceRatio { ratio });
        }
        let counters = Arc::new(Counters::default());
        let objects = Arc::new(Objects::new());
        let memory = Memory::open(&settings, Arc::clone(&counters))?;
        let disk = match &settings.dir {
            Some(dir) => {
                Some(Disk::open(dir, &settings, Arc::clone(&counters), Arc::clone(&objects))?)
            }
            None => None,
        };
        // A quarter of the arena may wait for the disk; beyond that a slow disk would take the
        // frames that readers need.
        let write_backlog_granules = memory.limit_bytes() / GRANULE_BYTES / 4;
        Ok(Self {
            shared: Arc::new(Shared {
                memory,
                disk,
                objects,
                counters,
                settings,
                gathering: Gathering::default(),
                write_backlog: Arc::new(Semaphore::new(write_backlog_granules)),
                write_backlog_granules,
            }),
        })
    }

    /// The one handle of `version` in the process.
    pub fn object(&self, version: ObjectVersion) -> Arc<Object> {
        self.shared.objects.get(version, &self.shared)
    }

    /// The cache's face on this core. Call it inside the core's `tokio_uring` runtime.
    pub fn attach_core(&self) -> CoreCache {
        CoreCache::new(Core::new(Arc::clone(&self.shared)))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What the cache holds now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        self.shared.memory.usage(&mut usage);
        if let Some(disk) = &self.shared.disk {
            disk.usage(&mut usage);
        }
        let busy = self.shared.write_backlog_granules
            - self.shared.write_backlog.available_permits().min(self.shared.write_backlog_granules);
        usage.pending_write_bytes = (busy * GRANULE_BYTES) as u64;
        usage
    }

    /// Changes whenever objects were evicted from disk, whose leases are not current any more then;
    /// `None` without a disk tier.
    pub fn evictions(&self) -> Option<watch::Receiver<u64>> {
        self.shared.disk().map(Disk::evictions)
    }

    /// What the cache has counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Commits what was written and closes the catalogue. Blocks; call it after the cores stopped
    /// or were drained: what they write later is not catalogued.
    pub fn shutdown(&self) {
        if let Some(disk) = &self.shared.disk {
            disk.shutdown();
        }
    }

    /// Commits what was written so far, without closing anything. Blocks until it is durable.
    pub fn commit(&self) {
        if let Some(disk) = &self.shared.disk {
            disk.commit();
        }
    }

    /// Begins a pass over all that is on disk, which compares it with its checksums and drops what
    /// is wrong, whatever `verify` says. An error is one of memory for its buffer.
    pub fn verification(&self) -> std::io::Result<Verification> {
        Verification::new(Arc::clone(&self.shared))
    }

    /// Evicts every block from memory that nobody pins, so that the next read of it goes down to
    /// disk or to the source.
    pub fn forget_memory(&self) {
        self.shared.memory.evict_all();
    }
}

impl Shared {
    /// Most bytes pinned by blocks on their way to disk.
    pub(crate) fn write_backlog_bytes(&self) -> u64 {
        (self.write_backlog_granules * GRANULE_BYTES) as u64
    }

    /// The disk tier, if there is one.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }
}

impl CoreCache {
    fn new(core: Rc<Core>) -> Self {
        Self::of(core)
    }
}
