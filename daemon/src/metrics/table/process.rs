//! The process and its warm jobs.

use super::super::Row;
use super::{counter, gauge};

pub(super) const ROWS: &[Row] = &[
    gauge("tenderfs_info", &["version"], "1, with the version of TenderFS as a label.", |_, to| {
        to.value(&[env!("CARGO_PKG_VERSION")], 1);
    }),
    gauge("tenderfs_ready", &[], "1 if every mount answers, else 0.", |from, to| {
        to.value(&[], u64::from(from.process.ready));
    }),
    gauge(
        "tenderfs_start_time_seconds",
        &[],
        "When the daemon started, in seconds since 1970.",
        |from, to| {
            let since = from.process.started.duration_since(std::time::UNIX_EPOCH);
            to.float(&[], since.unwrap_or_default().as_secs_f64());
        },
    ),
    gauge("tenderfs_cores", &[], "Core threads.", |from, to| {
        to.value(&[], u64::try_from(from.process.cores).unwrap_or(u64::MAX));
    }),
    gauge("tenderfs_memory_limit_bytes", &[], "The memory limit.", |from, to| {
        to.value(&[], from.process.memory_limit_bytes);
    }),
    gauge("tenderfs_memory_used_bytes", &[], "Resident set of the daemon.", |from, to| {
        to.value(&[], from.process.memory_used_bytes);
    }),
    gauge("tenderfs_warm_jobs_running", &[], "Warm jobs at work.", |from, to| {
        to.value(&[], u64::try_from(from.warm.running).unwrap_or(u64::MAX));
    }),
    gauge(
        "tenderfs_warm_remaining_bytes",
        &[],
        "Bytes that warm jobs at work have listed and not brought in yet.",
        |from, to| to.value(&[], from.warm.remaining_bytes),
    ),
    counter(
        "tenderfs_warm_files_total",
        &["kind"],
        "Files that warm jobs brought in (`warmed`), found cached (`skipped`), could not bring in (`failed`).",
        |from, to| {
            to.value(&["warmed"], from.warm.counters.files_warmed.get());
            to.value(&["skipped"], from.warm.counters.files_skipped.get());
            to.value(&["failed"], from.warm.counters.files_failed.get());
        },
    ),
    counter(
        "tenderfs_warm_bytes_total",
        &["kind"],
        "Bytes that warm jobs brought in (`warmed`) or found cached (`skipped`).",
        |from, to| {
            to.value(&["warmed"], from.warm.counters.bytes_warmed.get());
            to.value(&["skipped"], from.warm.counters.bytes_skipped.get());
        },
    ),
];
