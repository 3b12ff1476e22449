//! The result: one structure, printed as text or JSON.

use std::fmt;

use serde::Serialize;

use crate::cli::Pattern;

/// What a run found out. Durations in seconds and microseconds, GB are 1e9 bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The directory measured.
    pub directory: String,
    /// How readers chose.
    pub pattern: Pattern,
    /// Threads reading.
    pub readers: u16,
    /// Bytes of one read.
    pub chunk_bytes: u64,
    /// Whether everything was read once before.
    pub cached: bool,
    /// Whether the page cache was bypassed.
    pub direct: bool,
    /// Seed of every order.
    pub seed: u64,
    /// The machine, so that figures are not compared across machines by mistake.
    pub machine: Machine,
    /// Files of the data set.
    pub files: usize,
    /// Bytes of the data set.
    pub data_bytes: u64,
    /// Wall clock from the common start to the last operation's end.
    pub duration_seconds: f64,
    /// Bytes read.
    pub bytes: u64,
    /// `bytes / data_bytes`: above 1, some bytes were read more than once and may have come from a cache.
    pub passes: f64,
    /// 1e9 bytes a second.
    pub gb_per_s: f64,
    /// Operations that succeeded: chunks, or files for the pattern `files`.
    pub operations: u64,
    /// Operations a second.
    pub ops_per_s: f64,
    /// Latency of operations.
    pub latency_us: Latency,
    /// Operations that failed.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// The comparison, if one was asked for.
    pub checksum: Option<Comparison>,
}

/// Latency of operations in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Mean.
    pub average: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What was compared, and what it proves.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Chunk readings that were compared with another reading of the same chunk.
    pub readings_compared: u64,
    /// Files read whole a second time after the run.
    pub files_read_again: usize,
    /// Files with an expected MD5.
    pub files_expected: usize,
    /// Differences found.
    pub mismatches: u64,
    /// The first of them in words.
    pub named: Vec<String>,
    /// One number over names, lengths and bytes of the data set.
    pub data_hash: String,
    /// What it proves.
    pub proves: &'static str,
}

/// The sentence for a comparison without expected checksums.
pub const PROVES_AGREEMENT: &str = "all readings of each chunk agree, with a sequential reading of every file after the run too; \
     not that the source holds these bytes (give --expect for that)";
/// The sentence for a comparison with expected checksums.
pub const PROVES_EXPECTED: &str = "every chunk read in the run equals the same chunk of a second reading whose files have the expected MD5";

/// What is measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processors this process may use.
    pub processors: usize,
    /// The processor's own name.
    pub processor: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim())
            .to_owned();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Machine { kernel, processors, processor }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match (self.cached, self.direct) {
            (true, true) => "read once before, O_DIRECT",
            (true, false) => "read once before",
            (false, true) => "cached pages dropped before, O_DIRECT",
            (false, false) => "cached pages dropped before",
        };
        let Machine { kernel, processors, processor } = &self.machine;
        writeln!(
            f,
            "directory    {} ({} files, {} bytes)",
            self.directory, self.files, self.data_bytes
        )?;
        writeln!(f, "machine      {processors} x {processor}, Linux {kernel}")?;
        let pattern = format!("{:?}", self.pattern).to_lowercase();
        writeln!(
            f,
            "pattern      {pattern}, chunk {} bytes, {mode}, seed {}",
            self.chunk_bytes, self.seed
        )?;
        writeln!(f, "readers      {}", self.readers)?;
        writeln!(f, "duration     {:.3} s", self.duration_seconds)?;
        writeln!(
            f,
            "throughput   {:.3} GB/s ({} bytes, {:.2} passes)",
            self.gb_per_s, self.bytes, self.passes
        )?;
        writeln!(f, "operations   {} ({:.1}/s)", self.operations, self.ops_per_s)?;
        let Latency { average, p50, p95, p99, max } = self.latency_us;
        writeln!(
            f,
            "latency us   average {average:.1}  p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1}  max {max:.1}"
        )?;
        if let Some(error) = &self.first_error {
            writeln!(f, "errors       {}, the first: {error}", self.errors)?;
        }
        self.checksum.as_ref().map_or(Ok(()), |comparison| comparison.fmt(f))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "checksum     {} mismatches; {} readings compared, {} files read again, {} with an expected MD5, data hash {}",
            self.mismatches,
            self.readings_compared,
            self.files_read_again,
            self.files_expected,
            self.data_hash
        )?;
        for difference in &self.named {
            writeln!(f, "  differs    {difference}")?;
        }
        writeln!(f, "  proves     {}", self.proves)
    }
}
