//! Requests to S3, by mount.

use tenderfs_s3client::ErrorKind;
use tenderfs_telemetry::Counter;

use super::super::Row;
use super::{counter, gauge, histogram};

pub(super) const ROWS: &[Row] = &[
    counter(
        "tenderfs_s3_requests_total",
        &["mount", "op"],
        "Requests to S3, retries included.",
        |from, to| {
            for mount in &from.mounts {
                for (op, counts) in mount.s3.operations() {
                    to.value(&[mount.name, op.label()], counts.requests.get());
                }
            }
        },
    ),
    counter(
        "tenderfs_s3_request_errors_total",
        &["mount", "op"],
        "Requests to S3 that failed, those that a retry mended and those for absent names included.",
        |from, to| {
            for mount in &from.mounts {
                for (op, counts) in mount.s3.operations() {
                    to.value(&[mount.name, op.label()], counts.errors.get());
                }
            }
        },
    ),
    counter(
        "tenderfs_s3_retries_total",
        &["mount", "op"],
        "Requests to S3 that were sent again.",
        |from, to| {
            for mount in &from.mounts {
                for (op, counts) in mount.s3.operations() {
                    to.value(&[mount.name, op.label()], counts.retries.get());
                }
            }
        },
    ),
    histogram(
        "tenderfs_s3_first_byte_seconds",
        &["mount", "op"],
        "Time from a request to the head of its answer.",
        |from, to| {
            for mount in &from.mounts {
                for (op, counts) in mount.s3.operations() {
                    to.histogram(&[mount.name, op.label()], &counts.first_byte.snapshot());
                }
            }
        },
    ),
    counter(
        "tenderfs_s3_errors_total",
        &["mount", "kind"],
        "Failed requests to S3 by what failed, those that a retry mended included; `not_found` is the answer to a lookup of an absent name.",
        |from, to| {
            for mount in &from.mounts {
                for kind in ErrorKind::ALL {
                    to.value(&[mount.name, kind.label()], mount.s3.errors(kind).get());
                }
            }
        },
    ),
    counter(
        "tenderfs_s3_answers_total",
        &["mount", "status"],
        "Answers of S3 by the class of their status.",
        |from, to| {
            for mount in &from.mounts {
                for (class, label) in (1..).zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
                    let count = mount.s3.statuses(class).map_or(0, Counter::get);
                    to.value(&[mount.name, label], count);
                }
            }
        },
    ),
    counter(
        "tenderfs_s3_received_bytes_total",
        &["mount"],
        "Bytes of bodies received from S3, listings included.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.bytes_received.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_resumed_total",
        &["mount"],
        "Requests for the rest of a body whose connection broke.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.resumed.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_checksums_total",
        &["mount", "result"],
        "Objects received whole whose bytes were compared with the store's checksum of them; a `mismatch` is asked for again.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name, "match"], mount.s3.checksums_compared.get());
                to.value(&[mount.name, "mismatch"], mount.s3.checksum_mismatches.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_connections_opened_total",
        &["mount"],
        "Connections opened to S3.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.connections_opened.get());
            }
        },
    ),
    gauge("tenderfs_s3_connections_open", &["mount"], "Connections open to S3.", |from, to| {
        for mount in &from.mounts {
            to.gauge(&[mount.name], mount.s3.connections_open.get());
        }
    }),
    gauge(
        "tenderfs_s3_requests_queued",
        &["mount"],
        "Requests that wait for a connection now.",
        |from, to| {
            for mount in &from.mounts {
                to.gauge(&[mount.name], mount.s3.waiting_for_connection.get());
            }
        },
    ),
    gauge("tenderfs_s3_requests_in_flight", &["mount"], "Requests to S3 under way.", |from, to| {
        for mount in &from.mounts {
            to.gauge(&[mount.name], mount.s3.in_flight.get());
        }
    }),
    gauge(
        "tenderfs_s3_requests_in_flight_max",
        &["mount"],
        "Requests to S3 that may be under way at once: grows while throughput does.",
        |from, to| {
            for mount in &from.mounts {
                to.gauge(&[mount.name], mount.s3.in_flight_max.get());
            }
        },
    ),
    gauge(
        "tenderfs_s3_requests_per_second_max",
        &["mount"],
        "Requests that S3 is sent each second at most since it has asked to slow down; 0: any number.",
        |from, to| {
            for mount in &from.mounts {
                to.gauge(&[mount.name], mount.s3.requests_per_second_max.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_hedges_total",
        &["mount"],
        "Requests to S3 that were made a second time because the first was late.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.hedges.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_hedges_won_total",
        &["mount"],
        "Second requests to S3 that were answered before the first.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.hedges_won.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_slow_downs_total",
        &["mount"],
        "Answers of S3 that asked for fewer requests (503, 429).",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.slow_downs.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_connections_stale_total",
        &["mount"],
        "Requests sent again at once because a kept connection had died meanwhile.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.connections_stale.get());
            }
        },
    ),
    counter(
        "tenderfs_s3_listing_entries_skipped_total",
        &["mount"],
        "Entries of listings that could not be decoded and were left out.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.s3.listing_entries_skipped.get());
            }
        },
    ),
];
