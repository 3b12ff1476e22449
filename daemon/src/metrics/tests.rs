//! The table is whole, and what is rendered is what Prometheus reads.

use super::*;
use crate::plans::Plans;
use crate::warm::WarmCounters;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

/// Counters of a daemon with two mounts.
#[derive(Default)]
struct Counts {
    cache: tenderfs_cache::Counters,
    kernel: tenderfs_fuse::Counters,
    s3: tenderfs_s3client::Counters,
    mount: MountCounters,
    opens: PassthroughCounters,
    namespace: namespace::Counters,
    warm: WarmCounters,
    plans: Plans,
}

impl Counts {
    fn mount<'a>(&'a self, name: &'a str) -> MountCounts<'a> {
        MountCounts {
            plans: &self.plans,
            name,
            served: true,
            files_open: 3,
            opens: &self.opens,
            backing_files: (2, 5),
            kernel: &self.kernel,
            s3: &self.s3,
            mount: &self.mount,
            namespace: &self.namespace,
        }
    }

    fn render(&self) -> String {
        render(&Sources {
            process: Process {
                ready: true,
                started: UNIX_EPOCH + Duration::from_secs(5),
                cores: 2,
                memory_limit_bytes: 512 << 20,
                memory_used_bytes: 100 << 20,
            },
            cache: &self.cache,
            usage: tenderfs_cache::Usage::default(),
            mounts: vec![self.mount("a"), self.mount("b \"x\\y\"")],
            warm: WarmFacts { counters: &self.warm, running: 1, remaining_bytes: 9 },
            verified: Some(crate::admin::model::VerifyReport {
                bytes_checked: 3,
                ..crate::admin::model::VerifyReport::new(1, false)
            }),
        })
    }
}

/// Samples by name with labels.
fn samples(text: &str) -> BTreeMap<&str, &str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).collect()
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut names = BTreeSet::new();
    for row in table::rows() {
        assert!(names.insert(row.name), "{} stands twice", row.name);
        assert!(row.name.starts_with("tenderfs_"), "{}", row.name);
        assert_eq!(row.name.ends_with("_total"), row.kind == Type::Counter, "{}", row.name);
        assert!(row.kind != Type::Histogram || row.name.ends_with("_seconds"), "{}", row.name);
        assert!(row.meaning.ends_with('.'), "{}", row.name);
        let known = [
            "mount", "mode", "tier", "op", "kind", "pattern", "state", "status", "result",
            "version",
        ];
        assert!(row.labels.iter().all(|label| known.contains(label)), "{}", row.name);
    }
}

/// Proves V14 and W18: what is counted is what is shown.
#[test]
fn what_was_counted_is_rendered() {
    let counts = Counts::default();
    counts.cache.memory_hits.add(8);
    counts.cache.misses.add(2);
    counts.s3.get.requests.add(7);
    counts.s3.errors(tenderfs_s3client::ErrorKind::Throttled).inc();
    counts.mount.reader_wait.observe(Duration::from_millis(20));
    counts.warm.files_warmed.add(4);
    let text = counts.render();
    let samples = samples(&text);
    for (sample, value) in [
        ("tenderfs_ready", "1"),
        ("tenderfs_start_time_seconds", "5"),
        ("tenderfs_memory_limit_bytes", "536870912"),
        ("tenderfs_cache_reads_total{tier=\"memory\"}", "8"),
        ("tenderfs_cache_reads_total{tier=\"s3\"}", "2"),
        ("tenderfs_s3_requests_total{mount=\"a\",op=\"get\"}", "7"),
        ("tenderfs_s3_errors_total{mount=\"a\",kind=\"throttled\"}", "1"),
        ("tenderfs_s3_errors_total{mount=\"b \\\"x\\\\y\\\"\",kind=\"tls\"}", "0"),
        ("tenderfs_reader_wait_seconds_bucket{mount=\"a\",le=\"0.016384\"}", "0"),
        ("tenderfs_reader_wait_seconds_bucket{mount=\"a\",le=\"0.032768\"}", "1"),
        ("tenderfs_reader_wait_seconds_bucket{mount=\"a\",le=\"+Inf\"}", "1"),
        ("tenderfs_reader_wait_seconds_sum{mount=\"a\"}", "0.02"),
        ("tenderfs_reader_wait_seconds_count{mount=\"a\"}", "1"),
        ("tenderfs_warm_files_total{kind=\"warmed\"}", "4"),
        ("tenderfs_warm_remaining_bytes", "9"),
        ("tenderfs_cache_verify_running", "1"),
        ("tenderfs_cache_verify_checked_bytes", "3"),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}");
    }
}

#[test]
fn every_row_has_samples_with_its_labels_and_every_sample_a_row() {
    let text = Counts::default().render();
    let mut seen = BTreeSet::new();
    let mut row = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap();
            row = table::rows().find(|row| row.name == name);
            assert!(row.is_some(), "{line}");
        } else if !line.starts_with('#') {
            let row = row.unwrap();
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = name.split('{').next().unwrap();
            let stem = family.trim_end_matches("_bucket").trim_end_matches("_sum");
            assert_eq!(
                stem.trim_end_matches("_count"),
                row.name.trim_end_matches("_count"),
                "{line}"
            );
            assert!(value.parse::<f64>().is_ok(), "{line}");
            seen.insert(row.name);
        }
    }
    assert_eq!(seen.len(), table::rows().count());
    assert_eq!(samples(&text).len(), text.lines().filter(|line| !line.starts_with('#')).count());
}

#[test]
fn the_document_of_metrics_is_up_to_date() {
    assert_eq!(
        metrics_markdown(),
        include_str!("../../../docs/METRICS.md"),
        "run: cargo run -p tenderfs-daemon --example reference"
    );
}
