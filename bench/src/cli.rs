//! What a user may type, and what it means.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::compare::bars::Suite;
use crate::null_server::NullServerArgs;
use crate::policy::PolicyArgs;
use crate::train::TrainArgs;

/// Exit code when every byte was read and, if asked, compared equal.
pub const EXIT_OK: u8 = 0;
/// Exit code when reading failed or the directory cannot be measured.
pub const EXIT_FAILED: u8 = 1;
/// Exit code when bytes differed.
pub const EXIT_MISMATCH: u8 = 3;

/// Measures the directory of a mounted file system.
#[derive(Debug, Parser)]
#[command(
    name = "tenderfs-bench",
    version,
    after_help = "Exit codes: 0 all right, 1 reading failed, 2 wrong usage, 3 bytes differed."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The deeds of the bench.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a directory with many readers for a while and print what came of it
    Run(RunArgs),
    /// Measure TenderFS beside what bounds it: native files, a FUSE server that does nothing, fio, parallel GETs
    Compare(CompareArgs),
    /// Measure the S3 client alone beside another one: `compare --suite s3`
    S3(S3Args),
    /// Train on nothing: workers read as data loaders do, a job computes, and its utilisation is told
    Train(Box<TrainArgs>),
    /// Simulate what a cache would hit that keeps the recent, a set that stays put, or whichever earns more
    Policy(PolicyArgs),
    /// Serve files that are read from one buffer: what FUSE itself allows (a part of `compare`)
    #[command(hide = true)]
    NullServer(NullServerArgs),
    /// Serve the objects that `compare` and `train` read
    #[command(hide = true)]
    Lab(LabArgs),
    /// Become another program that ends with the one that started it
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
#[command(after_help = COMPARE_HELP)]
pub struct CompareArgs {
    /// What to measure; several are separated by commas
    #[arg(long = "suite", value_enum, value_delimiter = ',', default_value = "all")]
    pub suites: Vec<SuiteChoice>,
    /// Only rows with this in their name
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Rounds of each comparison, in which figure and reference take turns; the medians are compared
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub rounds: u16,
    /// Size of the data: a factor from 0.001 to 16, `quick` (0.125) or `tiny` (0.01). The bars are meant for 1, which
    /// takes about 12 GB of disk and memory
    #[arg(long, default_value = "1", value_parser = factor)]
    pub size: f64,
    /// Seed of the data and of every order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the rows as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where mount point, cache and native copies are put; a folder on the disk to be measured
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// The daemon to measure [default: `tenderfsd` beside this program]
    #[arg(long, value_name = "FILE")]
    pub tenderfsd: Option<PathBuf>,
    /// Exit with 1 also if a row could not be measured
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `s3`.
#[derive(Debug, Clone, Args)]
pub struct S3Args {
    /// Rounds in which the two clients take turns; the medians are compared
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub rounds: u16,
    /// Size of the data: a factor from 0.001 to 16; 1 is 2 GiB
    #[arg(long, default_value = "1", value_parser = factor)]
    pub size: f64,
    /// Write the rows as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl S3Args {
    /// The comparison that this is short for.
    pub fn comparison(&self) -> CompareArgs {
        CompareArgs {
            suites: vec![SuiteChoice::S3],
            only: None,
            rounds: self.rounds,
            size: self.size,
            seed: 1,
            json: self.json.clone(),
            dir: std::env::temp_dir(),
            tenderfsd: None,
            strict: false,
        }
    }
}

const COMPARE_HELP: &str = "\
A ratio says how good a figure is: value / reference where more is better, reference / value where less is better \
(times, memory, processor time), 1 where a count is what it must be. So a row is below its bar if its ratio is less. \
What is missing here (fio, curl, root) is said, and its rows are `not measured`.

Exit codes: 0 every bar is reached, 1 a row is below its bar, bytes were wrong or nothing could be measured, 2 wrong \
usage.";

/// A suite, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SuiteChoice {
    /// Complete objects on disk, against the same bytes on the native file system
    Warm,
    /// Reads that the memory tier serves, against a FUSE server that does nothing else
    Memory,
    /// Reads that the disk tier serves, against fio
    Disk,
    /// Thousands of small files, against the native file system and parallel GETs
    Small,
    /// First epochs, against the link and parallel GETs
    Cold,
    /// Listings and attributes, against the native file system
    Metadata,
    /// The S3 client alone, by plain HTTP and by TLS, against another client
    S3,
    /// Every suite
    All,
}

impl SuiteChoice {
    /// The suite; `None` for all.
    pub fn suite(self) -> Option<Suite> {
        match self {
            SuiteChoice::Warm => Some(Suite::Warm),
            SuiteChoice::Memory => Some(Suite::Memory),
            SuiteChoice::Disk => Some(Suite::Disk),
            SuiteChoice::Small => Some(Suite::Small),
            SuiteChoice::Cold => Some(Suite::Cold),
            SuiteChoice::Metadata => Some(Suite::Metadata),
            SuiteChoice::S3 => Some(Suite::S3),
            SuiteChoice::All => None,
        }
    }
}

/// Arguments of `lab`.
#[derive(Debug, Clone, Args)]
pub struct LabArgs {
    /// A file with a line of JSON for each object: its key, the seed of its bytes and how many there are
    #[arg(long)]
    pub objects: PathBuf,
}

/// Arguments of `guard`.
#[derive(Debug, Clone, Args)]
pub struct GuardArgs {
    /// The program
    pub program: OsString,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// How the readers choose what to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Each reader streams through the files chunk by chunk; readers start evenly spread over the data
    Seq,
    /// Each operation reads one chunk anywhere in the data
    Random,
    /// Each operation opens a file chosen in a shuffled order, reads all of it and closes it
    Files,
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Directory to read, with everything below it
    pub directory: PathBuf,
    /// Readers at the same time, one thread each
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub readers: u16,
    /// How long to read
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Bytes of one read (K, M, G mean powers of 1024; KB, MB, GB powers of 1000)
    #[arg(long, default_value = "4MiB", value_parser = chunk_bytes)]
    pub chunk: u64,
    /// How readers choose what to read
    #[arg(long, value_enum, default_value_t = Pattern::Seq)]
    pub pattern: Pattern,
    /// Read every file once before the clock starts, so that hits are measured. Without it the kernel's cached pages of
    /// the files are dropped first (`posix_fadvise`, no root needed); the file system's own caches stay as they are
    #[arg(long)]
    pub cached: bool,
    /// Open files with `O_DIRECT`: no operation is served by the kernel's page cache
    #[arg(long)]
    pub direct: bool,
    /// Compare. A CRC-32C of every chunk each reader got is kept and compared with what every other reader got for the
    /// same chunk, and, after the clock has stopped and cached pages were dropped, with a second, sequential reading of
    /// every file. This proves that all readings agree; with --expect it proves that they are the expected bytes
    #[arg(long)]
    pub checksum: bool,
    /// Lines as `md5sum` prints them, paths relative to DIRECTORY: the second reading must have these MD5s. Implies --checksum
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// Seed of every random choice; the same seed reads in the same order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to FILE, or with no FILE to standard output instead of text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
}

impl RunArgs {
    /// Whether bytes are compared.
    pub fn compares(&self) -> bool {
        self.checksum || self.expect.is_some()
    }
}

/// The block that `O_DIRECT` reads must be aligned to on every common file system.
pub const DIRECT_ALIGN_BYTES: u64 = 4096;

fn factor(text: &str) -> Result<f64, String> {
    match text {
        "tiny" => Ok(0.01),
        "quick" => Ok(0.125),
        _ => match text.parse::<f64>() {
            Ok(factor) if (0.001..=16.0).contains(&factor) => Ok(factor),
            _ => Err("write tiny, quick, or a number from 0.001 to 16".to_owned()),
        },
    }
}

fn chunk_bytes(text: &str) -> Result<u64, String> {
    let config = parse_size::Config::new();
    let config = if text.ends_with(['b', 'B']) { config } else { config.with_binary() };
    match config.parse_size(text) {
        Err(error) => Err(error.to_string()),
        Ok(bytes) if bytes == 0 || bytes % DIRECT_ALIGN_BYTES != 0 => {
            Err(format!("a chunk is a multiple of {DIRECT_ALIGN_BYTES} bytes"))
        }
        Ok(bytes) if bytes > 1 << 30 => Err("a chunk is at most 1 GiB".to_owned()),
        Ok(bytes) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_requirement() {
        let Command::Run(args) = Cli::parse_from(["tenderfs-bench", "run", "/data"]).command else {
            panic!("not run")
        };
        assert_eq!((args.readers, args.duration.as_secs(), args.chunk), (32, 30, 4 << 20));
        assert!(!args.compares());
        assert_eq!(args.pattern, Pattern::Seq);
    }

    fn compare(line: &str) -> Result<CompareArgs, String> {
        let line = format!("tenderfs-bench compare {line}");
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Compare(args)) => Ok(args),
            Ok(other) => panic!("not compare: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn compare_measures_everything_five_times_unless_told_otherwise() {
        let args = compare("").unwrap();
        assert_eq!((args.suites, args.rounds), (vec![SuiteChoice::All], 5));
        let args = compare("--suite warm,cold --size quick --rounds 1").unwrap();
        assert_eq!((args.suites, args.rounds), (vec![SuiteChoice::Warm, SuiteChoice::Cold], 1));
        assert!((args.size - 0.125).abs() < 1e-9);
    }

    #[test]
    fn arguments_of_compare_that_make_no_sense_are_refused() {
        for bad in ["--suite hot", "--rounds 0", "--size 0", "--size nan", "--size huge", "--json"]
        {
            assert!(compare(bad).is_err(), "{bad}");
        }
        assert!(compare("--suite hot").unwrap_err().contains("metadata"), "suites are named");
    }

    #[test]
    fn chunk_sizes_that_make_no_sense_are_refused() {
        for text in ["0", "1000", "4MB", "2GiB", "many"] {
            assert!(chunk_bytes(text).is_err(), "{text}");
        }
        assert_eq!(chunk_bytes("128K"), Ok(128 << 10));
        assert_eq!(chunk_bytes("4MiB"), Ok(4 << 20));
    }
}
