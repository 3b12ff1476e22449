//! The disk tier at work.

use super::super::Row;
use super::{counter, gauge, histogram};
use crate::admin::model::{VerifyReport, VerifyState};

pub(super) const ROWS: &[Row] = &[
    counter(
        "tenderfs_cache_disk_read_bytes_total",
        &[],
        "Bytes read from disk and found right.",
        |from, to| to.value(&[], from.cache.disk_read_bytes.get()),
    ),
    counter(
        "tenderfs_cache_disk_written_bytes_total",
        &[],
        "Bytes written to disk.",
        |from, to| {
            to.value(&[], from.cache.disk_write_bytes.get());
        },
    ),
    histogram(
        "tenderfs_cache_disk_seconds",
        &["op"],
        "Time for a block to be read and checked, or to be written, or for a commit of the catalogue.",
        |from, to| {
            to.histogram(&["read"], &from.cache.disk_read.snapshot());
            to.histogram(&["write"], &from.cache.disk_write.snapshot());
            to.histogram(&["commit"], &from.cache.commit.snapshot());
        },
    ),
    counter(
        "tenderfs_cache_disk_errors_total",
        &["op"],
        "Reads, writes and commits that the disk failed.",
        |from, to| {
            to.value(&["read"], from.cache.disk_read_errors.get());
            to.value(&["write"], from.cache.disk_write_errors.get());
            to.value(&["commit"], from.cache.commit_errors.get());
        },
    ),
    counter(
        "tenderfs_cache_disk_checked_blocks_total",
        &[],
        "Blocks of an earlier life of the daemon that were read in the background and found right, so that their files can be passed through.",
        |from, to| to.value(&[], from.cache.disk_check_blocks.get()),
    ),
    counter(
        "tenderfs_cache_verify_mismatches_total",
        &[],
        "Blocks whose bytes on disk were wrong; they were fetched again.",
        |from, to| to.value(&[], from.cache.verify_mismatches.get()),
    ),
    gauge(
        "tenderfs_cache_verify_running",
        &[],
        "1 while the disk tier is compared with its checksums, slowly in the background or because it was asked for.",
        |from, to| {
            let is_running = |report: &VerifyReport| report.state == VerifyState::Running;
            to.value(&[], u64::from(from.verified.as_ref().is_some_and(is_running)));
        },
    ),
    gauge(
        "tenderfs_cache_verify_checked_bytes",
        &[],
        "Bytes that the last pass has read so far.",
        |from, to| to.value(&[], from.verified.as_ref().map_or(0, |report| report.bytes_checked)),
    ),
    gauge(
        "tenderfs_cache_verify_pass_bytes",
        &[],
        "Bytes on disk when the last pass began.",
        |from, to| to.value(&[], from.verified.as_ref().map_or(0, |report| report.bytes_total)),
    ),
    counter(
        "tenderfs_cache_disk_writes_not_done_total",
        &["kind"],
        "Blocks not written to disk: `deferred` because too many wait, `skipped` for good, `refused` because what is there is worth more by `cache.policy`.",
        |from, to| {
            to.value(&["deferred"], from.cache.disk_write_deferred.get());
            to.value(&["skipped"], from.cache.disk_write_skipped.get());
            to.value(&["refused"], from.cache.disk_write_refused.get());
        },
    ),
    counter(
        "tenderfs_cache_disk_turned_off_total",
        &[],
        "Times that the disk tier was turned off after repeated errors.",
        |from, to| to.value(&[], from.cache.disk_turned_off.get()),
    ),
    counter(
        "tenderfs_cache_recovered_total",
        &["kind"],
        "What a start found wrong: files without a record, removed; records without a file, dropped.",
        |from, to| {
            to.value(&["orphan_file"], from.cache.orphans_removed.get());
            to.value(&["dead_record"], from.cache.records_dropped.get());
        },
    ),
];
