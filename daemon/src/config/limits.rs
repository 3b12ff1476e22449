//! Every bound of the daemon, derived from the settings in this one place and printed at start.
//!
//! The memory limit is divided first: what threads, connections and metadata need is set aside, the
//! rest is the arena of frames. Nothing here is measured at run time, so the sum of the parts never
//! exceeds the limit.

use std::fmt;

use super::error::ConfigError;
use super::machine::Machine;
use super::settings::{CoreCount, Settings, Transport};
use super::units::format_bytes;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Core threads of `auto`, whatever the machine has: beyond them one mount's speed no longer grows.
const CORES_AUTO_MAX: usize = 16;

/// Code, allocator, TLS roots, credentials and the admin API.
const PROCESS_BYTES: u64 = 48 * MIB;

/// One core thread: stack as touched, ring, FUSE request buffer and replies of directories.
const THREAD_BYTES: u64 = 4 * MIB;

/// One S3 connection: the read buffer hyper grows to (about 400 KiB), TLS records, socket state.
const CONNECTION_BYTES: u64 = 512 * KIB;

/// Connections whose buffers are full at one time. More may be open; their buffers are small while
/// they idle.
const BUSY_CONNECTIONS_PER_CORE: u64 = 16;

/// Least frames for one core: the longest read arriving while another's blocks are written to disk.
const ARENA_PER_CORE_BYTES_MIN: u64 = tenderfs_cache::ARENA_BYTES_MIN as u64;

/// Share of the limit for names and attributes of files.
const NAMESPACE_SHARE: u64 = 8;

/// Share of the limit for the catalogue's pages.
const CATALOGUE_SHARE: u64 = 32;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Core threads.
    pub cores: usize,
    /// The whole: everything below that counts memory, together.
    pub memory_limit_bytes: u64,
    /// Frames of the memory tier, a whole number of 4 MiB blocks.
    pub arena_bytes: usize,
    /// Predicted bytes in flight: as set, at most a quarter of the arena.
    pub prefetch_in_flight_bytes: u64,
    /// Names and attributes of files.
    pub namespace_bytes: u64,
    /// Pages of the catalogue.
    pub catalogue_cache_bytes: usize,
    /// Buffers of S3 connections.
    pub network_bytes: u64,
    /// Answers on their way in rings of FUSE; 0 without rings.
    pub ring_bytes: u64,
    /// Code, stacks and what else is there at all times.
    pub process_bytes: u64,
    /// S3 connections of a core to one bucket.
    pub connections_per_core: usize,
    /// Warm jobs that run at one time.
    pub warm_jobs_running: usize,
    /// Finished warm jobs that are remembered.
    pub warm_jobs_kept: usize,
}

impl Limits {
    /// Derives the bounds; an error if the memory limit is too small for the cores asked for, or
    /// for a single one.
    pub fn derive(settings: &Settings, machine: &Machine) -> Result<Self, ConfigError> {
        let limit_bytes = settings.memory.limit_bytes;
        let core_ring_bytes = core_ring_bytes(settings);
        let fits = |cores: usize| minimum_bytes(cores, core_ring_bytes) <= limit_bytes;
        let cores = match settings.daemon.cores {
            CoreCount::Exactly(cores) => cores,
            CoreCount::Auto => (1..=machine.processors.clamp(1, CORES_AUTO_MAX))
                .rev()
                .find(|cores| fits(*cores))
                .unwrap_or(1),
        };
        if !fits(cores) {
            let minimum_bytes = minimum_bytes(cores, core_ring_bytes);
            return Err(ConfigError::MemoryTooSmall { limit_bytes, minimum_bytes, cores });
        }
        Ok(Self::divide(settings, cores))
    }

    /// Divides the memory among `cores`, for which it is known to suffice.
    fn divide(settings: &Settings, cores: usize) -> Self {
        let limit_bytes = settings.memory.limit_bytes;
        let parts = Parts::of(limit_bytes, cores, core_ring_bytes(settings));
        let block_bytes = tenderfs_cache::BLOCK_BYTES;
        let arena_bytes = (limit_bytes - parts.reserved_bytes()) / block_bytes * block_bytes;
        Self {
            cores,
            memory_limit_bytes: limit_bytes,
            arena_bytes: usize_of(arena_bytes),
            prefetch_in_flight_bytes: settings.read_ahead.in_flight_bytes.min(arena_bytes / 4),
            namespace_bytes: parts.namespace_bytes,
            catalogue_cache_bytes: usize_of(parts.catalogue_bytes),
            network_bytes: parts.network_bytes,
            ring_bytes: parts.ring_bytes,
            process_bytes: parts.process_bytes,
            connections_per_core: settings.s3.connections_per_core,
            warm_jobs_running: 8,
            warm_jobs_kept: 64,
        }
    }

    /// The bounds as lines of name and value, for the log at start and for `tenderfs status`.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let arena = u64::try_from(self.arena_bytes).unwrap_or(u64::MAX);
        let catalogue = u64::try_from(self.catalogue_cache_bytes).unwrap_or(u64::MAX);
        let mut lines = vec![
            ("cores", self.cores.to_string()),
            ("memory limit", format_bytes(self.memory_limit_bytes)),
            ("arena", format_bytes(arena)),
            ("prefetch in flight", format_bytes(self.prefetch_in_flight_bytes)),
            ("namespace", format_bytes(self.namespace_bytes)),
            ("catalogue cache", format_bytes(catalogue)),
            ("network buffers", format_bytes(self.network_bytes)),
            ("process", format_bytes(self.process_bytes)),
            ("connections per core", self.connections_per_core.to_string()),
        ];
        if self.ring_bytes > 0 {
            lines.push(("FUSE rings", format_bytes(self.ring_bytes)));
        }
        lines
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> =
            self.lines().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        f.write_str(&lines.join(", "))
    }
}

/// What is set aside before the arena.
#[allow(clippy::struct_field_names, reason = "units stand last, and all of them are bytes")]
struct Parts {
    process_bytes: u64,
    network_bytes: u64,
    ring_bytes: u64,
    namespace_bytes: u64,
    catalogue_bytes: u64,
}

impl Parts {
    fn of(limit_bytes: u64, cores: usize, core_ring_bytes: u64) -> Self {
        let cores = u64::try_from(cores).unwrap_or(u64::MAX);
        Self {
            process_bytes: PROCESS_BYTES + THREAD_BYTES.saturating_mul(cores),
            network_bytes: cores.saturating_mul(BUSY_CONNECTIONS_PER_CORE * CONNECTION_BYTES),
            ring_bytes: cores.saturating_mul(core_ring_bytes),
            namespace_bytes: (limit_bytes / NAMESPACE_SHARE).max(8 * MIB),
            catalogue_bytes: (limit_bytes / CATALOGUE_SHARE).clamp(4 * MIB, 256 * MIB),
        }
    }

    fn reserved_bytes(&self) -> u64 {
        self.process_bytes
            .saturating_add(self.network_bytes)
            .saturating_add(self.ring_bytes)
            .saturating_add(self.namespace_bytes)
            .saturating_add(self.catalogue_bytes)
    }
}

/// What a core's rings keep, one for each mount.
fn core_ring_bytes(settings: &Settings) -> u64 {
    match settings.fuse.transport {
        Transport::Device => 0,
        Transport::Ring => {
            let mounts = u64::try_from(settings.mounts.len()).unwrap_or(u64::MAX);
            mounts.saturating_mul(tenderfs_fuse::RING_RESIDENT_BYTES as u64)
        }
    }
}

/// The least limit that leaves each of `cores` its frames, in whole MiB.
fn minimum_bytes(cores: usize, core_ring_bytes: u64) -> u64 {
    let arena = ARENA_PER_CORE_BYTES_MIN.saturating_mul(u64::try_from(cores).unwrap_or(u64::MAX));
    // The shares grow with the limit, so the least limit is found by stepping up to it.
    let mut limit_bytes = arena;
    loop {
        let needed =
            Parts::of(limit_bytes, cores, core_ring_bytes).reserved_bytes().saturating_add(arena);
        if needed <= limit_bytes {
            return limit_bytes;
        }
        limit_bytes = needed.div_ceil(MIB).saturating_mul(MIB);
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load_on};

    fn settings(values: &[(&str, &str)]) -> Settings {
        let mut overrides = Overrides::new();
        for (name, value) in values {
            overrides.set(name, value, name).unwrap();
        }
        load_on(&Machine::example(), None, overrides, &|_| None).unwrap()
    }

    fn derive(values: &[(&str, &str)]) -> Result<Limits, ConfigError> {
        Limits::derive(&settings(values), &Machine::example())
    }

    #[test]
    fn the_parts_never_exceed_the_limit() {
        for limit in ["192M", "256M", "512M", "1G", "4G", "64G", "1T"] {
            let limits = derive(&[("memory.limit", limit)]).unwrap();
            let parts = limits.arena_bytes as u64
                + limits.namespace_bytes
                + limits.catalogue_cache_bytes as u64
                + limits.network_bytes
                + limits.process_bytes;
            assert!(parts <= limits.memory_limit_bytes, "{limit}: {limits}");
            assert!(
                limits.arena_bytes as u64 >= limits.memory_limit_bytes / 5,
                "{limit}: {limits}"
            );
            assert!(limits.prefetch_in_flight_bytes <= limits.arena_bytes as u64 / 4);
            assert_eq!(limits.arena_bytes as u64 % tenderfs_cache::BLOCK_BYTES, 0);
        }
    }

    #[test]
    fn rings_are_paid_for_by_the_arena() {
        let with = |transport: &str| {
            let text = format!(
                "daemon.cores = 2\nmemory.limit = \"1G\"\nfuse.transport = \"{transport}\"\n\
                 [[mount]]\nbucket = \"training\"\nmountpoint = \"/mnt/a\""
            );
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tenderfs.toml");
            std::fs::write(&path, text).unwrap();
            let machine = Machine::example();
            let settings = load_on(&machine, Some(&path), Overrides::new(), &|_| None).unwrap();
            Limits::derive(&settings, &machine).unwrap()
        };
        let (device, ring) = (with("device"), with("ring"));
        assert_eq!((device.ring_bytes, ring.ring_bytes), (0, 32 << 20));
        assert_eq!(device.arena_bytes - ring.arena_bytes, 32 << 20);
        assert!(ring.to_string().contains("FUSE rings 32"), "{ring}");
        assert!(!device.to_string().contains("FUSE rings"), "{device}");
    }

    #[test]
    fn auto_takes_fewer_cores_where_memory_is_small() {
        assert_eq!(derive(&[("memory.limit", "4G")]).unwrap().cores, 4);
        assert_eq!(derive(&[("memory.limit", "150M")]).unwrap().cores, 1);
    }

    #[test]
    fn a_limit_too_small_for_the_cores_says_the_least_that_works() {
        let error = derive(&[("memory.limit", "100M"), ("daemon.cores", "2")]).unwrap_err();
        let ConfigError::MemoryTooSmall { minimum_bytes, cores: 2, .. } = error else {
            panic!("{error}");
        };
        assert!(error.to_string().contains("2 core threads need at least"), "{error}");
        let least = minimum_bytes.to_string();
        assert!(derive(&[("memory.limit", &least), ("daemon.cores", "2")]).is_ok());
        let less = (minimum_bytes - (2 << 20)).to_string();
        assert!(derive(&[("memory.limit", &less), ("daemon.cores", "2")]).is_err());
        assert!(derive(&[("memory.limit", "1M")]).is_err());
    }
}
