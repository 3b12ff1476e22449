//! The cache: how it serves readers, what it fetches and predicts, what it holds.

use super::super::Row;
use super::{counter, gauge, histogram};

pub(super) const ROWS: &[Row] = &[
    counter(
        "tenderfs_cache_reads_total",
        &["tier"],
        "Reads by the slowest tier they waited for.",
        |from, to| {
            to.value(&["memory"], from.cache.memory_hits.get());
            to.value(&["disk"], from.cache.disk_hits.get());
            to.value(&["s3"], from.cache.misses.get());
        },
    ),
    counter(
        "tenderfs_cache_read_bytes_total",
        &["tier"],
        "Bytes of reads by the slowest tier they waited for.",
        |from, to| {
            to.value(&["memory"], from.cache.memory_hit_bytes.get());
            to.value(&["disk"], from.cache.disk_hit_bytes.get());
            to.value(&["s3"], from.cache.miss_bytes.get());
        },
    ),
    counter(
        "tenderfs_cache_read_errors_total",
        &[],
        "Reads that ended in an error.",
        |from, to| {
            to.value(&[], from.cache.read_errors.get());
        },
    ),
    histogram(
        "tenderfs_cache_wait_seconds",
        &[],
        "Time that reads were blocked which were no memory hits.",
        |from, to| to.histogram(&[], &from.cache.reader_wait.snapshot()),
    ),
    histogram(
        "tenderfs_cache_frame_wait_seconds",
        &[],
        "Time that reads waited for a free frame, a sign of too little memory.",
        |from, to| to.histogram(&[], &from.cache.frame_wait.snapshot()),
    ),
    counter(
        "tenderfs_cache_coalesced_reads_total",
        &[],
        "Reads that joined a fetch under way already.",
        |from, to| to.value(&[], from.cache.coalesced_waits.get()),
    ),
    // Fetches.
    counter(
        "tenderfs_cache_fetches_total",
        &[],
        "Fetches from S3, each for a whole run of blocks.",
        |from, to| to.value(&[], from.cache.fetches.get()),
    ),
    counter("tenderfs_cache_fetched_bytes_total", &[], "Bytes fetched from S3.", |from, to| {
        to.value(&[], from.cache.fetched_bytes.get());
    }),
    counter("tenderfs_cache_fetch_errors_total", &[], "Fetches that failed.", |from, to| {
        to.value(&[], from.cache.fetch_errors.get());
    }),
    gauge("tenderfs_cache_fetches_in_flight", &[], "Fetches under way.", |from, to| {
        to.gauge(&[], from.cache.fetches_in_flight.get());
    }),
    // Prefetch.
    counter(
        "tenderfs_prefetch_issued_bytes_total",
        &[],
        "Bytes whose prefetch was started.",
        |from, to| to.value(&[], from.cache.prefetch_issued_bytes.get()),
    ),
    counter(
        "tenderfs_prefetch_used_bytes_total",
        &[],
        "Prefetched bytes that a reader used.",
        |from, to| to.value(&[], from.cache.prefetch_used_bytes.get()),
    ),
    counter(
        "tenderfs_prefetch_wasted_bytes_total",
        &[],
        "Prefetched bytes that left memory unread.",
        |from, to| to.value(&[], from.cache.prefetch_wasted_bytes.get()),
    ),
    counter(
        "tenderfs_prefetch_refused_blocks_total",
        &[],
        "Blocks not prefetched for want of budget or memory.",
        |from, to| to.value(&[], from.cache.prefetch_refused_blocks.get()),
    ),
    counter(
        "tenderfs_prefetch_duplicate_blocks_total",
        &[],
        "Blocks not prefetched because they were there or on their way.",
        |from, to| to.value(&[], from.cache.prefetch_duplicate_blocks.get()),
    ),
    counter(
        "tenderfs_prefetch_failed_blocks_total",
        &[],
        "Blocks whose prefetch failed.",
        |from, to| to.value(&[], from.cache.prefetch_failed_blocks.get()),
    ),
    gauge(
        "tenderfs_prefetch_in_flight_bytes",
        &[],
        "Bytes of prefetches under way.",
        |from, to| to.gauge(&[], from.cache.prefetch_in_flight_bytes.get()),
    ),
    // What it holds.
    gauge(
        "tenderfs_cache_limit_bytes",
        &["tier"],
        "Most bytes that a tier may hold.",
        |from, to| {
            to.value(&["memory"], from.usage.memory_limit_bytes);
            to.value(&["disk"], from.usage.disk_limit_bytes);
        },
    ),
    gauge(
        "tenderfs_cache_memory_bytes",
        &["kind"],
        "Bytes of the memory tier: `hot` was asked for, `prefetch` is not read yet, `free` holds nothing.",
        |from, to| {
            to.value(&["hot"], from.usage.hot_bytes);
            to.value(&["prefetch"], from.usage.prefetch_bytes);
            to.value(&["free"], from.usage.free_bytes);
        },
    ),
    gauge(
        "tenderfs_cache_lent_frames",
        &[],
        "Blocks in memory that readers, fetches and disk writes hold.",
        |from, to| to.value(&[], from.usage.lent_frames),
    ),
    gauge(
        "tenderfs_cache_frame_waiters",
        &[],
        "Reads that wait for a free frame now.",
        |from, to| to.value(&[], from.usage.frame_waiters),
    ),
    gauge("tenderfs_cache_disk_bytes", &[], "Bytes that the disk tier takes.", |from, to| {
        to.value(&[], from.usage.disk_bytes);
    }),
    gauge(
        "tenderfs_cache_disk_objects",
        &[],
        "Objects with at least one block on disk.",
        |from, to| to.value(&[], from.usage.disk_objects),
    ),
    gauge(
        "tenderfs_cache_disk_packed_objects",
        &[],
        "Of the objects on disk those that share a file with others (`cache.pack_below`).",
        |from, to| to.value(&[], from.usage.disk_packed_objects),
    ),
    gauge("tenderfs_cache_disk_packs", &[], "Files that such objects share.", |from, to| {
        to.value(&[], from.usage.disk_packs);
    }),
    gauge(
        "tenderfs_cache_disk_pending_bytes",
        &[],
        "Bytes that wait to be written to disk.",
        |from, to| to.value(&[], from.usage.pending_write_bytes),
    ),
    gauge(
        "tenderfs_cache_disk_writable",
        &[],
        "1 if the disk tier takes blocks; 0 without one and while it is off after errors.",
        |from, to| to.value(&[], u64::from(from.usage.disk_writable)),
    ),
    gauge(
        "tenderfs_cache_pinned_objects",
        &[],
        "Objects on disk that stay because they were pinned (`tenderfs cache pin`).",
        |from, to| to.value(&[], from.usage.disk_pinned_objects),
    ),
    gauge(
        "tenderfs_cache_pinned_bytes",
        &[],
        "Bytes of the pinned objects when they are complete; at most nine tenths of `cache.size`.",
        |from, to| to.value(&[], from.usage.disk_pinned_bytes),
    ),
    gauge(
        "tenderfs_cache_disk_pins",
        &[],
        "1 while the disk tier keeps a set that stays put, 0 while it keeps what was used last; see `cache.policy`.",
        |from, to| to.value(&[], u64::from(from.usage.disk_pins)),
    ),
    counter(
        "tenderfs_cache_evicted_blocks_total",
        &["kind"],
        "Blocks evicted from memory, by the zone they were in.",
        |from, to| {
            to.value(&["hot"], from.cache.hot_evictions.get());
            to.value(&["prefetch"], from.cache.prefetch_evictions.get());
        },
    ),
    counter(
        "tenderfs_cache_disk_evicted_objects_total",
        &[],
        "Objects evicted from disk.",
        |from, to| to.value(&[], from.cache.disk_evicted_objects.get()),
    ),
    counter(
        "tenderfs_cache_disk_evicted_bytes_total",
        &[],
        "Bytes evicted from disk.",
        |from, to| to.value(&[], from.cache.disk_evicted_bytes.get()),
    ),
];
