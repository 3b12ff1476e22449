//! The settings as each part of the daemon wants them.
//!
//! The configuration knows none of the crates it configures; this is where their words meet.

use tenderfs_cache::{BLOCK_BYTES, HugePages};
use tenderfs_fuse::{MountOptions, ReadDirPlus, TransportKind, Wish};
use tenderfs_s3client::{
    AwsEndpoint, BucketConfig, CredentialSource, CustomerKey, Deadlines, Proxies, RetryPolicy,
};

use crate::config::{
    Access, Addressing, FuseSettings, Limits, MountSettings, PlanSettings, Policy,
    ReadAheadSettings, S3Settings, Settings, Transport, Verify,
};
use crate::engine::Window;

/// Where the credentials of a mount come from.
pub(crate) fn credential_source(mount: &MountSettings) -> CredentialSource {
    if mount.anonymous {
        return CredentialSource::Anonymous;
    }
    let profile = mount.profile.clone();
    match &mount.credentials_file {
        Some(path) => CredentialSource::File { path: path.clone(), profile },
        None => CredentialSource::Chain { profile, region: mount.region.clone() },
    }
}

/// Where a mount's bucket is and how it is asked. Reads the key of its objects, if they have one.
pub(crate) fn bucket_config(
    mount: &MountSettings,
    s3: &S3Settings,
    connections_per_core: usize,
) -> Result<BucketConfig, tenderfs_s3client::ConfigError> {
    let key_file = mount.sse_customer_key_file.as_deref();
    Ok(BucketConfig {
        name: mount.bucket.clone(),
        region: mount.region.clone(),
        endpoint_url: mount.endpoint_url.clone(),
        addressing: match mount.addressing {
            Addressing::Auto => tenderfs_s3client::Addressing::Auto,
            Addressing::Path => tenderfs_s3client::Addressing::Path,
            Addressing::VirtualHost => tenderfs_s3client::Addressing::VirtualHost,
        },
        ca_bundle: mount.ca_bundle.clone(),
        aws: AwsEndpoint { dual_stack: mount.dual_stack, accelerated: mount.transfer_acceleration },
        proxies: Proxies::from_environment(),
        requester_pays: mount.requester_pays,
        expected_owner: mount.expected_bucket_owner.clone(),
        customer_key: key_file.map(CustomerKey::read).transpose()?,
        deadlines: Deadlines {
            connect: s3.connect_timeout,
            first_byte: s3.first_byte_timeout,
            stall: s3.stall_timeout,
            whole: s3.request_timeout,
        },
        retry: RetryPolicy {
            attempts_max: s3.attempts_max,
            backoff_first: s3.backoff_first,
            backoff_max: s3.backoff_max,
        },
        connections_max: connections_per_core,
        hedging: s3.hedging,
    })
}

/// What the kernel is asked to mount.
pub(crate) fn mount_options(mount: &MountSettings) -> MountOptions {
    MountOptions {
        source: mount.source(),
        mountpoint: mount.mountpoint.clone(),
        read_only: mount.read_only,
        access: match mount.access {
            Access::Owner => tenderfs_fuse::Access::OwnerOnly,
            Access::Root => tenderfs_fuse::Access::AllowRoot,
            Access::All => tenderfs_fuse::Access::AllowOther,
        },
    }
}

/// Whether the kernel may be given cached files to read alone, and if not, why.
pub(crate) fn passthrough(settings: &Settings) -> Result<(), &'static str> {
    if settings.cache.dir.is_none() {
        Err("there is no cache directory")
    } else if !settings.fuse.passthrough {
        Err("fuse.passthrough = false")
    } else if settings.cache.verify == Verify::Always {
        Err("cache.verify = \"always\"")
    } else {
        Ok(())
    }
}

/// What is asked of the kernel at INIT.
pub(crate) fn wish(fuse: &FuseSettings, passthrough: bool) -> Wish {
    Wish {
        request_bytes_max: fuse.request_bytes_max,
        read_ahead_bytes: u32::try_from(fuse.read_ahead_bytes).unwrap_or(u32::MAX),
        max_background: fuse.max_background,
        congestion_threshold: fuse.congestion_threshold,
        readdirplus: ReadDirPlus::Auto,
        transport: match fuse.transport {
            Transport::Device => TransportKind::Device,
            Transport::Ring => TransportKind::Ring,
        },
        passthrough,
    }
}

/// The bounds of read-ahead windows over an arena of that size; `None` if it is off.
///
/// The cache leaves a quarter of its arena to predictions, and what does not fit takes the place of
/// what was predicted before it and is needed sooner. A window of half of that can be filled
/// while its front is still read.
pub(crate) fn window(settings: &ReadAheadSettings, arena_bytes: u64) -> Option<Window> {
    let budget = settings.in_flight_bytes.min(arena_bytes / 8) / BLOCK_BYTES;
    settings.enabled.then(|| Window {
        first_blocks: settings.first_blocks,
        max_blocks: settings.max_blocks,
        budget_blocks: u32::try_from(budget).unwrap_or(u32::MAX),
        lookahead_files: settings.lookahead_files,
    })
}

/// Bytes that plans may have fetched before they are read.
pub(crate) fn plan_window_bytes(settings: &PlanSettings, arena_bytes: u64) -> u64 {
    let most = arena_bytes / 3;
    settings.window_bytes.map_or(most, |bytes| bytes.min(most))
}

/// What the cache is told.
pub(crate) fn cache_settings(
    settings: &Settings,
    limits: &Limits,
) -> tenderfs_cache::CacheSettings {
    tenderfs_cache::CacheSettings {
        dir: settings.cache.dir.clone(),
        disk_size_bytes: settings.cache.size_bytes,
        pack_below_bytes: settings.cache.pack_below_bytes,
        free_space_ratio: settings.cache.free_space_ratio,
        arena_bytes: limits.arena_bytes,
        prefetch_in_flight_bytes: limits.prefetch_in_flight_bytes,
        policy: match settings.cache.policy {
            Policy::Auto => tenderfs_cache::Policy::Auto,
            Policy::Lru => tenderfs_cache::Policy::Lru,
            Policy::Pin => tenderfs_cache::Policy::Pin,
        },
        verify: match settings.cache.verify {
            Verify::FirstUse => tenderfs_cache::Verify::FirstUse,
            Verify::Always => tenderfs_cache::Verify::Always,
            Verify::Never => tenderfs_cache::Verify::Never,
        },
        // docs/decisions/0004-huge-pages.md has the measurement.
        huge_pages: HugePages::Plain,
        catalogue_cache_bytes: limits.catalogue_cache_bytes,
    }
}
