//! `tenderfs status`: what the daemons of this machine do, for people or as the admin API says it.

use std::fmt::Write as _;

use tenderfs_daemon::admin::model::{Cache, Mount, RequestCounts, Status};
use tenderfs_daemon::config::format_bytes;

use crate::admin_client::{self, AdminClient, json_text};
use crate::cli::StatusArgs;
use crate::error::ToolError;
use crate::warm;

/// `tenderfs status`.
pub async fn main(args: &StatusArgs) -> Result<(), ToolError> {
    let daemons = match (&args.path, &args.socket.socket) {
        (None, None) => admin_client::all().await?,
        (path, socket) => {
            let path = path.clone().unwrap_or_default();
            let client = admin_client::find(&warm::absolute(&path)?, socket.as_deref()).await?;
            let status = client.status().await?;
            vec![(client, status)]
        }
    };
    for (index, (client, status)) in daemons.iter().enumerate() {
        if args.json {
            println!("{}", json_text(status));
            continue;
        }
        let gap = if index == 0 { "" } else { "\n" };
        let text = if args.requests { requests(status) } else { text(client, status) };
        print!("{gap}{text}");
    }
    Ok(())
}

fn text(client: &AdminClient, status: &Status) -> String {
    let mut text = summary(status);
    append(&mut text, format_args!("socket   {}\n", client.socket().display()));
    text
}

/// What was asked of S3 for each mount, by kind.
fn requests(status: &Status) -> String {
    let mut text = String::new();
    for mount in &status.mounts {
        let bill = &mount.s3_bill;
        append(
            &mut text,
            format_args!(
                "{} on {}, up {}\n           requests    retries     failed\n",
                mount.source,
                mount.mountpoint,
                uptime(status.uptime_seconds)
            ),
        );
        for (kind, counts) in [("LIST", bill.list), ("HEAD", bill.head), ("GET", bill.get)] {
            let RequestCounts { requests, retries, errors } = counts;
            append(&mut text, format_args!("{kind:<8}{requests:>11}{retries:>11}{errors:>11}\n"));
        }
        let gets = bill.get.requests;
        let mean = mount.s3_received_bytes.checked_div(gets).unwrap_or_default();
        append(
            &mut text,
            format_args!(
                "{} received, {} a GET; {} made twice because they were late ({} for the better), \
                 {} answers asked for fewer\nbilled: {} at the price of LIST, {} at the price of GET\n",
                format_bytes(mount.s3_received_bytes),
                format_bytes(mean),
                bill.hedges,
                bill.hedges_won,
                bill.slow_downs,
                bill.list.requests,
                bill.head.requests + gets,
            ),
        );
    }
    text
}

fn append(text: &mut String, line: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(line);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
}

fn summary(status: &Status) -> String {
    let Status { version, pid, state, cores, memory, cache, .. } = status;
    let state = format!("{state:?}").to_lowercase();
    let mut text = format!(
        "tenderfs {version}, process {pid}, {state}, up {}, {cores} core threads\n",
        uptime(status.uptime_seconds)
    );
    let bytes = format_bytes;
    append(
        &mut text,
        format_args!(
            "memory   {} of {} used; {} of {} hold blocks\n",
            bytes(memory.used_bytes),
            bytes(memory.limit_bytes),
            bytes(cache.memory.hot_bytes + cache.memory.prefetch_bytes),
            bytes(cache.memory.limit_bytes),
        ),
    );
    text.push_str(&cache_lines(cache));
    for mount in &status.mounts {
        text.push_str(&mount_lines(mount));
    }
    if status.warm_jobs_running > 0 {
        append(&mut text, format_args!("warm     {} jobs running\n", status.warm_jobs_running));
    }
    text
}

/// The disk tier and how well the cache serves.
pub fn cache_lines(cache: &Cache) -> String {
    let mut text = String::new();
    let bytes = format_bytes;
    match &cache.disk {
        None => text.push_str("disk     no disk tier\n"),
        Some(disk) => append(
            &mut text,
            format_args!(
                "disk     {} of {} in {} objects at {}{}\n",
                bytes(disk.used_bytes),
                bytes(disk.limit_bytes),
                disk.objects,
                disk.dir,
                if disk.writable { "" } else { ", turned off after errors" },
            ),
        ),
    }
    let reads = &cache.reads;
    let ratio = reads.hit_ratio.map(|ratio| format!(", hit ratio {:.1} %", ratio * 100.0));
    append(
        &mut text,
        format_args!(
            "reads    {} from memory, {} from disk, {} from S3{}; readers waited {:.1} s\n",
            reads.memory,
            reads.disk,
            reads.s3,
            ratio.unwrap_or_default(),
            reads.wait_seconds,
        ),
    );
    text
}

fn mount_lines(mount: &Mount) -> String {
    let state = format!("{:?}", mount.state).to_lowercase();
    let passthrough = match (&mount.passthrough.off_because, mount.passthrough.on) {
        (Some(reason), _) => format!("off: {reason}"),
        (None, true) => format!(
            "{} of {} opens, {} files open",
            mount.passthrough.opens,
            mount.passthrough.opens + mount.passthrough.opens_cached,
            mount.passthrough.files_open
        ),
        (None, false) => "unknown".to_owned(),
    };
    format!(
        "mount    {} on {} ({state}): {} served, {} received in {} S3 requests, {} of them failed; {} errors\n         passthrough {passthrough}\n",
        mount.source,
        mount.mountpoint,
        format_bytes(mount.served_bytes),
        format_bytes(mount.s3_received_bytes),
        mount.s3_requests,
        mount.s3_errors,
        mount.errors,
    )
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "pid": 7, "started": "2026-01-01T00:00:00Z", "uptime_seconds": 90,
            "state": "ready", "cores": 2, "warm_jobs_running": 1,
            "memory": {"limit_bytes": 1 << 30, "used_bytes": 1 << 29, "arena_bytes": 0, "namespace_bytes": 0, "network_bytes": 0},
            "cache": {
                "memory": {"limit_bytes": 1 << 29, "hot_bytes": 1 << 20, "prefetch_bytes": 0, "free_bytes": 0, "lent_frames": 0},
                "disk": null,
                "reads": {"memory": 3, "disk": 2, "s3": 1, "errors": 0, "hit_ratio": 0.8333, "wait_seconds": 1.25, "fetched_bytes": 9},
                "prefetch": {"issued_bytes": 0, "used_bytes": 0, "wasted_bytes": 0, "in_flight_bytes": 0},
            },
            "mounts": [{
                "name": "a", "source": "s3://bucket", "mountpoint": "/mnt/data", "state": "mounted", "endpoint": "",
                "read_only": true, "read_bytes_max": 0, "read_ahead_bytes": 0, "features": [], "requests": 0,
                "errors": 0, "served_bytes": 2048, "s3_requests": 5, "s3_errors": 1, "s3_received_bytes": 1024,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn summary_says_what_matters() {
        let text = summary(&status());
        for words in [
            "process 7, ready, up 1 min, 2 core threads",
            "512 MiB of 1 GiB used",
            "no disk tier",
            "hit ratio 83.3 %; readers waited 1.2 s",
            "s3://bucket on /mnt/data (mounted): 2 KiB served, 1 KiB received in 5 S3 requests, 1 of them failed",
            "1 jobs running",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }

    #[test]
    fn the_requests_are_told_by_kind_and_by_price() {
        let mut status = status();
        let bill = &mut status.mounts[0].s3_bill;
        bill.list.requests = 12;
        bill.head.requests = 3;
        bill.get = RequestCounts { requests: 40, retries: 2, errors: 1 };
        let text = requests(&status);
        let get = text.lines().find(|line| line.starts_with("GET")).unwrap();
        assert_eq!(get.split_whitespace().collect::<Vec<_>>(), ["GET", "40", "2", "1"]);
        assert!(text.contains("12 at the price of LIST, 43 at the price of GET"), "{text}");
    }

    #[test]
    fn uptime_has_the_two_largest_units() {
        for (seconds, text) in
            [(59, "59 s"), (60, "1 min"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn json_is_what_the_admin_api_says() {
        let read: Status = serde_json::from_str(&json_text(&status())).unwrap();
        assert_eq!(read, status());
    }
}
