//! The daemon as the admin API sees it.

use std::sync::Arc;
use std::time::SystemTime;

use tenderfs_cache::{CachedObject, Evicted, Pin, Pinned};
use tenderfs_s3client::{ErrorKind, OperationCounters};

use super::model::{
    Cache, DiskTier, Memory, MemoryTier, Mount, MountState, Passthrough, Prefetch, Reads,
    RequestBill, RequestCounts,
};
use super::{Backend, WarmFacts, model};
use crate::config::{Limits, Settings};
use crate::metrics::{self, MountCounts, Process, Sources};
use crate::mount;
use crate::run::{Daemon, DaemonState};
use crate::scrub::Scrub;
use crate::warm::{CoreStore, JobLimits, Place};

impl Backend for Daemon {
    fn state(&self) -> model::State {
        match Daemon::state(self) {
            DaemonState::Starting => model::State::Starting,
            DaemonState::Ready => model::State::Ready,
            DaemonState::Stopping => model::State::Stopping,
        }
    }

    fn status(&self) -> model::Status {
        let uptime = self.started.elapsed().unwrap_or_default();
        model::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(self.started),
            uptime_seconds: uptime.as_secs(),
            state: Backend::state(self),
            cores: self.limits.cores,
            memory: memory(&self.limits),
            cache: cache(&self.cache, &self.settings.load()),
            mounts: self.mounts().iter().map(|mount| describe(mount)).collect(),
            warm_jobs_running: 0,
        }
    }

    fn metrics(&self, warm: &WarmFacts<'_>) -> String {
        let mounts = self.mounts();
        metrics::render(&Sources {
            process: Process {
                ready: Daemon::state(self) == DaemonState::Ready,
                started: self.started,
                cores: self.limits.cores,
                memory_limit_bytes: self.limits.memory_limit_bytes,
                memory_used_bytes: resident_bytes(),
            },
            cache: self.cache.counters(),
            usage: self.cache.usage(),
            mounts: mounts.iter().map(|mount| counts(mount)).collect(),
            warm: *warm,
            verified: self.scrub.report(),
        })
    }

    fn scrub(&self) -> Option<Arc<Scrub>> {
        self.settings.load().cache.dir.as_ref().map(|_| Arc::clone(&self.scrub))
    }

    fn warm_places(&self) -> Vec<Place> {
        let has_disk = self.settings.load().cache.dir.is_some();
        let place = |mount: &Arc<mount::Mount>| Place {
            name: mount.settings.name.clone(),
            mountpoint: mount.settings.mountpoint.clone(),
            prefix: mount.settings.prefix.clone(),
            identity: Arc::clone(&mount.store),
            plans: Arc::clone(&mount.plans),
            store: Arc::new(CoreStore::new(
                Arc::clone(mount),
                self.cache.clone(),
                has_disk,
                self.cores.clone(),
            )),
        };
        self.mounts().iter().map(place).collect()
    }

    fn evict(&self, is_meant: &dyn Fn(&str, &str) -> bool) -> std::io::Result<Evicted> {
        let evicted = self.cache.evict(is_meant)?;
        for mount in self.mounts() {
            mount.drop_pages(|key| is_meant(&mount.store, key));
        }
        Ok(evicted)
    }

    fn cached(&self, is_meant: &dyn Fn(&str, &str) -> bool) -> std::io::Result<Vec<CachedObject>> {
        self.cache.cached_objects(is_meant)
    }

    fn pin(&self, pin: Pin) -> std::io::Result<Option<Pinned>> {
        self.cache.pin(pin)
    }

    fn unpin(&self, store: &str, key: &str) -> std::io::Result<Option<Pinned>> {
        self.cache.unpin(store, key)
    }

    fn pins(&self) -> Vec<Pin> {
        self.cache.pins()
    }

    fn warm_limits(&self) -> JobLimits {
        JobLimits {
            running_max: self.limits.warm_jobs_running,
            finished_max: self.limits.warm_jobs_kept,
            workers: self.settings.load().warm.workers,
        }
    }
}

fn memory(limits: &Limits) -> Memory {
    Memory {
        limit_bytes: limits.memory_limit_bytes,
        used_bytes: resident_bytes(),
        arena_bytes: u64::try_from(limits.arena_bytes).unwrap_or(u64::MAX),
        namespace_bytes: limits.namespace_bytes,
        network_bytes: limits.network_bytes,
    }
}

fn cache(cache: &tenderfs_cache::Cache, settings: &Settings) -> Cache {
    let (usage, counters) = (cache.usage(), cache.counters());
    let [memory, disk, s3] = [&counters.memory_hits, &counters.disk_hits, &counters.misses]
        .map(tenderfs_telemetry::Counter::get);
    Cache {
        memory: MemoryTier {
            limit_bytes: usage.memory_limit_bytes,
            hot_bytes: usage.hot_bytes,
            prefetch_bytes: usage.prefetch_bytes,
            free_bytes: usage.free_bytes,
            lent_frames: usage.lent_frames,
        },
        disk: settings.cache.dir.as_ref().map(|dir| DiskTier {
            dir: dir.display().to_string(),
            limit_bytes: usage.disk_limit_bytes,
            used_bytes: usage.disk_bytes,
            objects: usage.disk_objects,
            pending_write_bytes: usage.pending_write_bytes,
            writable: usage.disk_writable,
        }),
        reads: Reads {
            memory,
            disk,
            s3,
            errors: counters.read_errors.get(),
            hit_ratio: ratio(memory + disk, memory + disk + s3),
            wait_seconds: metrics::seconds(counters.reader_wait.snapshot().sum_ns),
            fetched_bytes: counters.fetched_bytes.get(),
        },
        prefetch: Prefetch {
            issued_bytes: counters.prefetch_issued_bytes.get(),
            used_bytes: counters.prefetch_used_bytes.get(),
            wasted_bytes: counters.prefetch_wasted_bytes.get(),
            in_flight_bytes: u64::try_from(counters.prefetch_in_flight_bytes.get()).unwrap_or(0),
        },
    }
}

fn describe(mount: &mount::Mount) -> Mount {
    let (kernel, s3) = (mount.fuse_counters(), mount.bucket.counters());
    let operations = s3.operations();
    // A name that is not there is an answer, not a failure.
    let errors = ErrorKind::ALL.into_iter().filter(|kind| *kind != ErrorKind::NotFound);
    Mount {
        name: mount.settings.name.clone(),
        source: mount.settings.source(),
        mountpoint: mount.settings.mountpoint.display().to_string(),
        state: if mount.is_served() { MountState::Mounted } else { MountState::Unmounted },
        endpoint: mount.bucket.endpoint(),
        read_only: mount.settings.read_only,
        read_bytes_max: u64::from(mount.negotiated.request_bytes_max),
        read_ahead_bytes: mount.kernel_read_ahead_bytes,
        features: mount.negotiated.features().map(str::to_owned).collect(),
        passthrough: passthrough(mount),
        requests: kernel.requests(),
        errors: mount.counters.errors.get(),
        served_bytes: kernel.data_bytes.get(),
        s3_requests: operations.iter().map(|(_, counts)| counts.requests.get()).sum(),
        s3_errors: errors.map(|kind| s3.errors(kind).get()).sum(),
        s3_received_bytes: s3.bytes_received.get(),
        s3_bill: bill(s3),
    }
}

fn bill(s3: &tenderfs_s3client::Counters) -> RequestBill {
    let counts = |of: &OperationCounters| RequestCounts {
        requests: of.requests.get(),
        retries: of.retries.get(),
        errors: of.errors.get(),
    };
    RequestBill {
        list: counts(&s3.list),
        head: counts(&s3.head),
        get: counts(&s3.get),
        hedges: s3.hedges.get(),
        hedges_won: s3.hedges_won.get(),
        slow_downs: s3.slow_downs.get(),
    }
}

fn passthrough(mount: &mount::Mount) -> Passthrough {
    let (counters, (open, idle)) = (mount.passthrough_counters(), mount.passthrough_files());
    Passthrough {
        on: mount.passthrough_off().is_none(),
        off_because: mount.passthrough_off().map(str::to_owned),
        opens: counters.opens.get(),
        opens_cached: counters.opens_cached.get(),
        refused: counters.refused.get(),
        files_open: open,
        files_idle: idle,
    }
}

fn counts(mount: &mount::Mount) -> MountCounts<'_> {
    MountCounts {
        name: &mount.settings.name,
        served: mount.is_served(),
        files_open: mount.files_open(),
        opens: mount.passthrough_counters(),
        backing_files: mount.passthrough_files(),
        kernel: mount.fuse_counters(),
        s3: mount.bucket.counters(),
        mount: &mount.counters,
        plans: &mount.plans,
        namespace: &mount.namespace.counters,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .and_then(|time| time.round(jiff::Unit::Second))
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// Resident set of this process; 0 if the kernel does not say.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page_bytes = page_bytes.ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
    pages.unwrap_or(0) * page_bytes.unwrap_or(4096)
}
