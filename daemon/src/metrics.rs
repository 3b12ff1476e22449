//! The metrics: one table of rows, rendered as Prometheus text and as `docs/METRICS.md`.
//!
//! A row names a metric, says what it means and knows how to read it from the counters of the
//! crates. The counters themselves have no names for the outside; this table is the only place that
//! gives them. Nothing here is on the path of a read: rendering walks the table and looks.
//!
//! Names follow Prometheus: `tenderfs_` first, base units last, `_total` for what only grows. No key
//! and no path is ever a label.

use std::fmt::Write;
use std::time::SystemTime;

use tenderfs_telemetry::{BUCKETS, HistogramSnapshot, upper_bound};

use crate::admin::WarmFacts;
use crate::admin::model::VerifyReport;
use crate::engine::PassthroughCounters;
use crate::mount::MountCounters;
use crate::namespace;

mod table;

/// Where all numbers come from.
pub struct Sources<'a> {
    /// The process itself.
    pub process: Process,
    /// What the cache counts.
    pub cache: &'a tenderfs_cache::Counters,
    /// What the cache holds.
    pub usage: tenderfs_cache::Usage,
    /// What each mount counts.
    pub mounts: Vec<MountCounts<'a>>,
    /// Warm jobs.
    pub warm: WarmFacts<'a>,
    /// The last pass of verification; `None`: there was none.
    pub verified: Option<VerifyReport>,
}

/// The process itself.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Whether every mount answers.
    pub ready: bool,
    /// When it started.
    pub started: SystemTime,
    /// Core threads.
    pub cores: usize,
    /// The hard limit.
    pub memory_limit_bytes: u64,
    /// Resident set.
    pub memory_used_bytes: u64,
}

/// What one mount counts.
pub struct MountCounts<'a> {
    /// Its name, the value of the label `mount`.
    pub name: &'a str,
    /// Whether the kernel still has it.
    pub served: bool,
    /// Files open through it now.
    pub files_open: usize,
    /// Opens, by how the files are read.
    pub opens: &'a PassthroughCounters,
    /// Files that the kernel reads alone: open ones, and those kept for the next open.
    pub backing_files: (usize, usize),
    /// Requests of the kernel.
    pub kernel: &'a tenderfs_fuse::Counters,
    /// Requests to S3.
    pub s3: &'a tenderfs_s3client::Counters,
    /// Reads and their waits.
    pub mount: &'a MountCounters,
    /// What jobs say that they will read.
    pub plans: &'a crate::plans::Plans,
    /// Names.
    pub namespace: &'a namespace::Counters,
}

/// What Prometheus makes of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by buckets.
    Histogram,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
struct Row {
    /// With prefix, unit and `_total`.
    name: &'static str,
    kind: Type,
    /// What it means, as one sentence.
    meaning: &'static str,
    /// Names of its labels, in the order in which `read` gives their values.
    labels: &'static [&'static str],
    read: fn(&Sources<'_>, &mut Samples<'_>),
}

impl Row {
    /// The base unit, which is the end of the name.
    fn unit(&self) -> &'static str {
        let stem = self.name.trim_end_matches("_total");
        ["bytes", "seconds", "blocks"].into_iter().find(|unit| stem.ends_with(unit)).unwrap_or("1")
    }
}

/// All metrics in Prometheus' text format.
pub fn render(sources: &Sources<'_>) -> String {
    let mut text = String::with_capacity(32 << 10);
    for row in table::rows() {
        line(&mut text, format_args!("# HELP {} {}", row.name, escape_help(row.meaning)));
        line(&mut text, format_args!("# TYPE {} {}", row.name, row.kind.name()));
        (row.read)(sources, &mut Samples { text: &mut text, row });
    }
    text
}

/// The page of `docs/METRICS.md` in Markdown.
pub fn metrics_markdown() -> String {
    let mut text = String::from(PREFACE);
    for row in table::rows() {
        let labels: Vec<_> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, unit) = (row.kind.name(), row.unit());
        line(
            &mut text,
            format_args!(
                "| `{}` | {kind} | {unit} | {} | {} |",
                row.name,
                labels.join(", "),
                row.meaning
            ),
        );
    }
    text
}

const PREFACE: &str = "# Metrics

Made from the tables in `daemon/src/metrics/table/` by `cargo run -p tenderfs-daemon --example reference`; a test
keeps it true.

`GET /metrics` on the admin socket (`curl --unix-socket /run/tenderfs/admin.sock http://localhost/metrics`), or on
the port of `daemon.metrics_listen` for Prometheus, which cannot scrape sockets. `configs/prometheus/` has a scrape
job and alerts.

What to look at first:

- Are GPUs waiting for data? `rate(tenderfs_reader_wait_seconds_sum[1m])` is the number of readers that are blocked
  at any time, for each mount.
- Does the cache serve? The share of reads that did not wait for S3 is
  `1 - rate(tenderfs_cache_reads_total{tier=\"s3\"}[5m]) / ignoring(tier) sum without(tier) (rate(tenderfs_cache_reads_total[5m]))`;
  below 80 % in a second epoch the data set does not fit or is not warmed.
- Is memory too small? `tenderfs_cache_frame_wait_seconds_count` grows, and `tenderfs_prefetch_refused_blocks_total`.
- Is prefetch right? `tenderfs_prefetch_used_bytes_total` over `tenderfs_prefetch_issued_bytes_total`.
- Is S3 well? `tenderfs_s3_errors_total` by kind, `tenderfs_s3_first_byte_seconds`.

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
";

/// Nanoseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "a microsecond is lost after 285 years")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The samples of one row while they are written.
struct Samples<'a> {
    text: &'a mut String,
    row: &'a Row,
}

impl Samples<'_> {
    /// A whole number, for these values of the row's labels.
    fn value(&mut self, labels: &[&str], value: u64) {
        let labels = self.labels(labels, None);
        line(self.text, format_args!("{}{labels} {value}", self.row.name));
    }

    /// A gauge that the counting of several threads may make negative for a moment.
    fn gauge(&mut self, labels: &[&str], value: i64) {
        self.value(labels, u64::try_from(value).unwrap_or(0));
    }

    /// A number with a fraction.
    fn float(&mut self, labels: &[&str], value: f64) {
        let labels = self.labels(labels, None);
        line(self.text, format_args!("{}{labels} {value}", self.row.name));
    }

    /// A histogram: cumulative buckets, sum and count.
    fn histogram(&mut self, labels: &[&str], snapshot: &HistogramSnapshot) {
        let name = self.row.name;
        let mut seen = 0;
        for (index, count) in snapshot.buckets.iter().enumerate() {
            seen += count;
            let bound = match index {
                last if last == BUCKETS - 1 => "+Inf".to_owned(),
                index => upper_bound(index).as_secs_f64().to_string(),
            };
            let labels = self.labels(labels, Some(&bound));
            line(self.text, format_args!("{name}_bucket{labels} {seen}"));
        }
        let labels = self.labels(labels, None);
        line(self.text, format_args!("{name}_sum{labels} {}", seconds(snapshot.sum_ns)));
        line(self.text, format_args!("{name}_count{labels} {seen}"));
    }

    /// `{a="x",b="y"}`, or nothing without labels.
    fn labels(&self, values: &[&str], bound: Option<&str>) -> String {
        assert_eq!(values.len(), self.row.labels.len(), "labels of {}", self.row.name);
        let names = self.row.labels.iter().copied().chain(bound.map(|_| "le"));
        let pairs: Vec<_> = names
            .zip(values.iter().copied().chain(bound))
            .map(|(name, value)| format!("{name}=\"{}\"", escape_label(value)))
            .collect();
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(text, "{arguments}").ok();
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
