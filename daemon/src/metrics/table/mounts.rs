//! Each mount: requests of the kernel, reads, names.

use tenderfs_fuse::OpGroup;

use super::super::Row;
use super::{counter, gauge, histogram};

pub(super) const ROWS: &[Row] = &[
    gauge("tenderfs_mounted", &["mount"], "1 while the kernel has the mount.", |from, to| {
        for mount in &from.mounts {
            to.value(&[mount.name], u64::from(mount.served));
        }
    }),
    gauge("tenderfs_files_open", &["mount"], "Files that are open.", |from, to| {
        for mount in &from.mounts {
            to.value(&[mount.name], u64::try_from(mount.files_open).unwrap_or(u64::MAX));
        }
    }),
    counter(
        "tenderfs_opens_total",
        &["mount", "mode"],
        "Files opened: `passthrough` for the kernel to read alone from the disk tier, `cached` to be read through the daemon and the page cache.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name, "passthrough"], mount.opens.opens.get());
                to.value(&[mount.name, "cached"], mount.opens.opens_cached.get());
            }
        },
    ),
    counter(
        "tenderfs_passthrough_refused_total",
        &["mount"],
        "Complete, verified files that the kernel did not take to read alone; if it takes none at all, the first turns passthrough off.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.opens.refused.get());
            }
        },
    ),
    gauge(
        "tenderfs_backing_files",
        &["mount", "state"],
        "Files of the disk tier that the kernel has: `open` while it reads them alone, `idle` kept for the next open.",
        |from, to| {
            for mount in &from.mounts {
                let (open, idle) = mount.backing_files;
                to.value(&[mount.name, "open"], u64::try_from(open).unwrap_or(u64::MAX));
                to.value(&[mount.name, "idle"], u64::try_from(idle).unwrap_or(u64::MAX));
            }
        },
    ),
    counter(
        "tenderfs_plan_entries_total",
        &["mount", "kind"],
        "Entries of jobs' plans: `taken` to be fetched, `used` by a reader, `missing` because there is no such file.",
        |from, to| {
            for mount in &from.mounts {
                let counters = &mount.plans.counters;
                to.value(&[mount.name, "taken"], counters.taken.get());
                to.value(&[mount.name, "used"], counters.used.get());
                to.value(&[mount.name, "missing"], counters.missing.get());
            }
        },
    ),
    counter("tenderfs_plans_total", &["mount"], "Plans that jobs have posted.", |from, to| {
        for mount in &from.mounts {
            to.value(&[mount.name], mount.plans.counters.posted.get());
        }
    }),
    counter(
        "tenderfs_plan_jobs_expired_total",
        &["mount"],
        "Jobs whose plans were forgotten because nothing was heard of them for `plans.lease`.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.plans.counters.expired.get());
            }
        },
    ),
    gauge("tenderfs_plan_jobs", &["mount"], "Jobs that have plans.", |from, to| {
        for mount in &from.mounts {
            to.value(&[mount.name], mount.plans.sizes().jobs);
        }
    }),
    gauge(
        "tenderfs_plan_held_bytes",
        &["mount"],
        "Bytes that are fetched, or being fetched, for planned reads to come.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.plans.sizes().held_bytes);
            }
        },
    ),
    gauge(
        "tenderfs_plan_memory_bytes",
        &["mount"],
        "Memory that the plans themselves take.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.plans.sizes().memory_bytes);
            }
        },
    ),
    counter("tenderfs_served_bytes_total", &["mount"], "Bytes handed to readers.", |from, to| {
        for mount in &from.mounts {
            to.value(&[mount.name], mount.kernel.data_bytes.get());
        }
    }),
    counter(
        "tenderfs_read_bytes_total",
        &["mount", "tier"],
        "Bytes handed to readers, by the slowest tier they waited for.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name, "memory"], mount.mount.bytes_memory.get());
                to.value(&[mount.name, "disk"], mount.mount.bytes_disk.get());
                to.value(&[mount.name, "s3"], mount.mount.bytes_s3.get());
            }
        },
    ),
    histogram(
        "tenderfs_reader_wait_seconds",
        &["mount"],
        "Time that readers were blocked because their bytes were not in memory: what starves GPUs.",
        |from, to| {
            for mount in &from.mounts {
                to.histogram(&[mount.name], &mount.mount.reader_wait.snapshot());
            }
        },
    ),
    counter(
        "tenderfs_directory_ahead_files_total",
        &["mount"],
        "Files whose start was fetched before they were opened, because their directory is read in order.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.mount.siblings_fetched.get());
            }
        },
    ),
    counter(
        "tenderfs_fuse_requests_total",
        &["mount", "op"],
        "Requests from the kernel.",
        |from, to| {
            for mount in &from.mounts {
                for op in OpGroup::ALL {
                    to.value(&[mount.name, op.label()], mount.kernel.group(op).requests.get());
                }
            }
        },
    ),
    histogram(
        "tenderfs_fuse_request_seconds",
        &["mount", "op"],
        "Time from the receipt of a request to its reply.",
        |from, to| {
            for mount in &from.mounts {
                for op in OpGroup::ALL {
                    let latency = mount.kernel.group(op).latency.snapshot();
                    to.histogram(&[mount.name, op.label()], &latency);
                }
            }
        },
    ),
    counter(
        "tenderfs_fuse_errors_total",
        &["mount", "kind"],
        "Requests that went wrong: `reply` answered with an error (absent names too), `internal` by a fault of the store or the daemon, `panic` by a bug, `denied` to a user without access, `malformed` and `gone` before they could be answered.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name, "reply"], mount.kernel.errors.get());
                to.value(&[mount.name, "internal"], mount.mount.errors.get());
                to.value(&[mount.name, "panic"], mount.mount.panics.get());
                to.value(&[mount.name, "denied"], mount.kernel.denied.get());
                to.value(&[mount.name, "malformed"], mount.kernel.malformed.get());
                to.value(&[mount.name, "gone"], mount.kernel.gone.get());
            }
        },
    ),
    counter(
        "tenderfs_fuse_interrupted_total",
        &["mount"],
        "Requests that were interrupted while they waited.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.mount.interrupted.get());
            }
        },
    ),
    // Names.
    counter(
        "tenderfs_namespace_lookups_total",
        &["mount", "kind"],
        "Names looked up: `known` answered from memory, `asked` by asking S3.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name, "known"], mount.namespace.lookups_known.get());
                to.value(&[mount.name, "asked"], mount.namespace.lookups_asked.get());
            }
        },
    ),
    counter(
        "tenderfs_namespace_listings_total",
        &["mount"],
        "Directories listed as a whole.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.namespace.listings.get());
            }
        },
    ),
    counter(
        "tenderfs_namespace_keys_hidden_total",
        &["mount"],
        "Keys hidden because they cannot be names, each time they are listed.",
        |from, to| {
            for mount in &from.mounts {
                to.value(&[mount.name], mount.namespace.keys_hidden.get());
            }
        },
    ),
    gauge("tenderfs_namespace_inodes", &["mount"], "Inodes that the kernel holds.", |from, to| {
        for mount in &from.mounts {
            to.gauge(&[mount.name], mount.namespace.inodes.get());
        }
    }),
    gauge("tenderfs_namespace_names", &["mount"], "Listed names in memory.", |from, to| {
        for mount in &from.mounts {
            to.gauge(&[mount.name], mount.namespace.listed_names.get());
        }
    }),
];
