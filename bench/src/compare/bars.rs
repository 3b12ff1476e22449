//! What `compare` measures and what each figure must reach: the one table of rows.
//!
//! A ratio always says how good a figure is, so that a row fails if its ratio is below its bar whichever way the figure
//! itself is better: where more is better it is value / reference, where less is better it is reference / value.

/// Rows that share their preparation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// Complete objects on disk, against the same bytes on ext4
    Warm,
    /// Reads that the memory tier serves, against a FUSE server that does nothing else
    Memory,
    /// Reads that the disk tier serves, against fio
    Disk,
    /// Thousands of small files, against ext4 and against parallel GETs
    Small,
    /// First epochs, against the link and against parallel GETs
    Cold,
    /// Listings and attributes, against ext4
    Metadata,
    /// The S3 client alone, against another client
    S3,
}

impl Suite {
    /// Every suite, in the order they are run.
    pub const ALL: [Suite; 7] = [
        Suite::Warm,
        Suite::Memory,
        Suite::Disk,
        Suite::Small,
        Suite::Cold,
        Suite::Metadata,
        Suite::S3,
    ];

    /// What its rows' names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Suite::Warm => "warm.",
            Suite::Memory => "memory.",
            Suite::Disk => "disk.",
            Suite::Small => "small.",
            Suite::Cold => "cold.",
            Suite::Metadata => "metadata.",
            Suite::S3 => "s3.",
        }
    }
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Throughput.
    More,
    /// Time, memory, processor time.
    Less,
    /// Counts that must be what they must be.
    Equal,
}

/// One row that can be measured.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// Its name, `suite.what.readers`.
    pub name: &'static str,
    /// Unit of value and reference.
    pub unit: &'static str,
    /// What it is held against.
    pub reference: &'static str,
    /// Which way it is better.
    pub better: Better,
    /// The least ratio; `None` for a figure that only informs.
    pub bar: Option<f64>,
}

const fn row(
    name: &'static str,
    (unit, better): (&'static str, Better),
    reference: &'static str,
    bar: Option<f64>,
) -> Bar {
    Bar { name, unit, reference, better, bar }
}

const GB_S: (&str, Better) = ("GB/s", Better::More);
const OPS: (&str, Better) = ("reads/s", Better::More);
const FILES: (&str, Better) = ("files/s", Better::More);
const MS: (&str, Better) = ("ms", Better::Less);
const CPU: (&str, Better) = ("CPU s/GB", Better::Less);
const COUNT: (&str, Better) = ("requests", Better::Equal);
const A_BYTE: (&str, Better) = ("bytes/byte", Better::Less);
const A_FILE: (&str, Better) = ("requests/file", Better::Equal);

/// The native file system.
const NATIVE: &str = "native";
const NULL: &str = "null FUSE server";
const FIO: &str = "fio io_uring O_DIRECT";
const GETS: &str = "curl, parallel GETs";
const LINK: &str = "the link";
const LIMIT: &str = "limit";

/// Most share of one core that a daemon may take whose kernel serves the reads, in percent.
pub const IDLE_CPU_PERCENT: f64 = 3.0;
/// Most processor time of a cold epoch.
pub const COLD_CPU_S_PER_GB: f64 = 0.8;
/// Most time to the first byte of an object on disk.
pub const DISK_FIRST_BYTE_MS: f64 = 1.0;
/// What hits must reach on any ordinary machine with 1 reader and with 32.
pub const HITS_GB_S: [f64; 2] = [4.0, 10.0];

/// Every row, in the order of the table.
pub const BARS: &[Bar] = &[
    row("warm.cached.1", GB_S, NATIVE, Some(0.9)),
    row("warm.cached.8", GB_S, NATIVE, Some(0.9)),
    row("warm.cached.32", GB_S, NATIVE, Some(0.9)),
    row("warm.dropped.1", GB_S, NATIVE, Some(0.9)),
    row("warm.dropped.8", GB_S, NATIVE, Some(0.9)),
    row("warm.dropped.32", GB_S, NATIVE, Some(0.9)),
    row("warm.mmap.sequential", GB_S, NATIVE, Some(0.9)),
    row("warm.mmap.random", GB_S, NATIVE, Some(0.9)),
    row("warm.daemon-cpu", ("% of a core", Better::Less), LIMIT, Some(1.0)),
    row("warm.absolute.1", GB_S, "W17", Some(1.0)),
    row("warm.absolute.32", GB_S, "W17", Some(1.0)),
    row("memory.direct.1", GB_S, NULL, Some(0.85)),
    row("memory.direct.32", GB_S, NULL, Some(0.85)),
    row("memory.direct.cpu", CPU, NULL, None),
    row("memory.direct.fairness", ("slowest/mean", Better::More), "all alike", Some(0.5)),
    row("memory.null-from-memory.1", GB_S, NULL, None),
    row("memory.null-from-memory.32", GB_S, NULL, None),
    row("memory.buffered.1", GB_S, NULL, Some(0.85)),
    row("memory.buffered.8", GB_S, NULL, Some(0.85)),
    row("memory.requests", COUNT, "none", Some(1.0)),
    row("memory.rss.32", ("MiB", Better::Less), "memory limit", Some(1.0 / 1.1)),
    row("disk.random-4m.8", GB_S, FIO, Some(0.85)),
    row("disk.random-16k.8", OPS, FIO, Some(0.7)),
    row("disk.random-4m.from-disk", A_BYTE, "each byte once", None),
    row("disk.random-16k.from-disk", A_BYTE, "a granule a read", None),
    row("disk.requests", COUNT, "none", None),
    row("disk.first-byte", MS, LIMIT, Some(1.0)),
    row("disk.first-byte.native", MS, NATIVE, None),
    row("small.cached.8", FILES, NATIVE, Some(0.5)),
    row("small.round-trips", ("FUSE requests/file", Better::Less), "none", None),
    row("small.dropped.8", FILES, NATIVE, Some(0.6)),
    row("small.dropped.requests", COUNT, "none", Some(1.0)),
    row("small.cold.8", FILES, GETS, Some(0.25)),
    row("small.cold.gets", A_FILE, "one GET a file", Some(1.0)),
    row("small.cold.others", COUNT, "none", Some(1.0)),
    row("cold.link.1", GB_S, LINK, Some(0.9)),
    row("cold.link.8", GB_S, LINK, Some(0.9)),
    row("cold.link.gets.8", GB_S, LINK, None),
    row("cold.epoch.8", GB_S, GETS, Some(0.3)),
    row("cold.epoch.cpu", CPU, LIMIT, Some(1.0)),
    row("cold.own-gets.8", GB_S, GETS, None),
    row("cold.disk-tier.8", GB_S, "no disk tier", Some(0.9)),
    row("cold.first-byte", MS, "a bare GET", Some(0.5)),
    row("metadata.ls", MS, NATIVE, Some(0.3)),
    row("metadata.find", MS, NATIVE, Some(0.3)),
    row("s3.plain.16", GB_S, GETS, Some(0.85)),
    row("s3.plain.cpu", CPU, GETS, None),
    row("s3.tls.16", GB_S, GETS, Some(0.85)),
    row("s3.tls.cpu", CPU, GETS, None),
];

/// Ratios beyond this say nothing more, and an infinite one cannot be written as JSON.
const RATIO_MAX: f64 = 1000.0;

/// How good `value` is beside `reference`.
pub fn ratio(better: Better, value: f64, reference: f64) -> f64 {
    let quotient = |over: f64, under: f64| {
        if under > 0.0 { (over / under).clamp(0.0, RATIO_MAX) } else { RATIO_MAX }
    };
    match better {
        Better::More => quotient(value, reference),
        Better::Less => quotient(reference, value),
        Better::Equal if (value - reference).abs() < f64::EPSILON => 1.0,
        Better::Equal => quotient(value.min(reference), value.max(reference)).min(0.999),
    }
}

/// The row of this name.
pub fn find(name: &str) -> Option<&'static Bar> {
    BARS.iter().find(|bar| bar.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_belong_to_a_suite_each_of_which_has_some() {
        let names: BTreeSet<_> = BARS.iter().map(|bar| bar.name).collect();
        assert_eq!(names.len(), BARS.len());
        for suite in Suite::ALL {
            assert!(names.iter().any(|name| name.starts_with(suite.prefix())), "{suite:?}");
        }
        for name in names {
            let of = Suite::ALL.iter().filter(|suite| name.starts_with(suite.prefix()));
            assert_eq!(of.count(), 1, "{name}");
        }
    }

    #[track_caller]
    fn check(better: Better, value: f64, reference: f64, expected: f64) {
        let got = ratio(better, value, reference);
        assert!((got - expected).abs() < 1e-9, "{better:?} {value} {reference}: {got}");
    }

    #[test]
    fn ratio_says_how_good_a_figure_is_whichever_way_is_better() {
        check(Better::More, 9.0, 10.0, 0.9);
        check(Better::Less, 2.0, 1.0, 0.5);
        check(Better::Less, 0.0, 3.0, RATIO_MAX);
        check(Better::More, 1.0, 0.0, RATIO_MAX);
        check(Better::Equal, 0.0, 0.0, 1.0);
        check(Better::Equal, 5.0, 5.0, 1.0);
        check(Better::Equal, 2.0, 1.0, 0.5);
        check(Better::Equal, 0.5, 1.0, 0.5);
        check(Better::Equal, 7.0, 0.0, 0.0);
    }

    #[test]
    fn count_that_is_off_by_one_in_a_million_is_below_its_bar() {
        assert!(ratio(Better::Equal, 1_000_001.0, 1_000_000.0) < 1.0);
    }
}
