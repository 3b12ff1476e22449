//! What a user may say of a training run, and what each load is if nothing is said.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Arguments of `train`.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct TrainArgs {
    /// What is read, and how
    #[arg(long, value_enum)]
    pub load: Load,
    /// What the daemon knows of the order
    #[arg(long, value_enum, default_value_t = Mode::Detect)]
    pub mode: Mode,
    /// Passes over the data
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub epochs: u32,
    /// Seed of the data and of every order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The data and its reader
    #[command(flatten)]
    pub reader: ReaderArgs,
    /// The link to the store
    #[command(flatten)]
    pub link: LinkArgs,
    /// The daemon
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Write the result as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw utilisation over time and where bytes came from, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Where mount point, cache and the control's files are put; a folder on the disk of the cache
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub dir: PathBuf,
}

/// What is read by whom; what is not said follows from the load.
#[derive(Debug, Clone, Args)]
pub struct ReaderArgs {
    /// Files of the data set
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub files: Option<u32>,
    /// Bytes of a file; for images their mean
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub file_size: Option<u64>,
    /// Bytes of a sample of mds, records and checkpoint; for shards the most that one has
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub sample_size: Option<u64>,
    /// Samples of a batch
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: Option<u32>,
    /// Workers that read, each batch by one of them
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// Batches that a worker has ready or under way
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub prefetch_factor: u16,
    /// How long a batch is computed; without it, shards and checkpoint take 70 % of what parallel GETs reach in this run
    #[arg(long, value_parser = humantime::parse_duration)]
    pub compute: Option<Duration>,
}

/// How the store is to be.
#[derive(Debug, Clone, Args)]
pub struct LinkArgs {
    /// Median of the time to an answer's first byte, of listings too
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    pub first_byte: Duration,
    /// Its 99th percentile; the distribution is log-normal
    #[arg(long, default_value = "200ms", value_parser = humantime::parse_duration)]
    pub first_byte_p99: Duration,
    /// Bytes a second of one connection
    #[arg(long, value_name = "SIZE", default_value = "90MB", value_parser = bytes)]
    pub connection_rate: u64,
    /// Bytes a second of all connections [default: 800MB for shards and checkpoint, no limit for others]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub link_rate: Option<u64>,
}

/// How the daemon is to be.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// `cache.size`
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// `memory.limit`
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Any other option of the daemon, as `cache.policy=pin`; may be repeated
    #[arg(long = "set", value_name = "OPTION=VALUE", value_parser = option)]
    pub options: Vec<(String, String)>,
    /// The daemon to measure [default: `tenderfsd` beside this program]
    #[arg(long, value_name = "FILE")]
    pub tenderfsd: Option<PathBuf>,
}

const HELP: &str = "\
Utilisation is compute / (compute + waiting) from each epoch's first batch on, as in MLPerf Storage; the wait for that \
batch and the listing are told beside it. Each run has a control, the same files on the disk below --dir, and an \
oracle, which knows the order and fetches by 64 connections without a file system. The page cache is dropped before \
each epoch of either.

Exit codes: 0 all right, 1 it could not be measured or bytes were wrong, 2 wrong usage.";

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// Large files, each read by one worker from its beginning to its end in reads of 4 KiB and more
    Shards,
    /// Many small files in another order each epoch, each opened, read to its end and closed
    Images,
    /// Samples of large files in another order each epoch: open, seek, read, close for each
    Mds,
    /// Records of large files that stay open, in another order each epoch
    Records,
    /// One large file, read at once from its beginning to its end
    Checkpoint,
    /// Images, and a checkpoint that is loaded while they are read
    Mixed,
}

/// What the daemon knows of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The order of each epoch by a plan, the next one's while this one runs
    Plan,
    /// The order of the first epoch by a manifest of the mount
    Manifest,
    /// What it sees
    Detect,
    /// Nothing: no read-ahead of any kind
    Off,
}

/// Data set, reader and link, complete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Settings {
    pub(super) load: Load,
    pub(super) seed: u64,
    pub(super) files: u32,
    pub(super) file_bytes: u64,
    pub(super) sample_bytes: u64,
    pub(super) batch: usize,
    pub(super) workers: usize,
    /// `None`: found out by parallel GETs.
    pub(super) compute: Option<Duration>,
    pub(super) link_rate: Option<u64>,
}

/// What a load is if nothing is said.
struct Usual {
    files: u32,
    file_bytes: u64,
    sample_bytes: u64,
    batch: u32,
    workers: u16,
}

impl Load {
    fn usual(self) -> Usual {
        let (files, file_bytes, sample_bytes, batch, workers) = match self {
            Load::Images | Load::Mixed => (5000, 100 * KIB, 0, 64, 4),
            Load::Mds => (8, 64 * MIB, 100 * KIB, 64, 4),
            Load::Records => (4, 128 * MIB, 128 * KIB, 64, 4),
            Load::Shards => (32, 64 * MIB, 256 * KIB, 32, 4),
            Load::Checkpoint => (1, 1024 * MIB, 16 * MIB, 1, 1),
        };
        Usual { files, file_bytes, sample_bytes, batch, workers }
    }

    /// How long a batch takes; `None` for loads that take all that a link has.
    fn compute(self) -> Option<Duration> {
        match self {
            Load::Images | Load::Mixed | Load::Mds | Load::Records => {
                Some(Duration::from_millis(100))
            }
            Load::Shards | Load::Checkpoint => None,
        }
    }

    fn link_rate(self) -> Option<u64> {
        self.compute().is_none().then_some(800_000_000)
    }
}

impl TrainArgs {
    /// What was said, and what follows from the load.
    pub(super) fn settings(&self) -> Settings {
        let (load, reader) = (self.load, &self.reader);
        let usual = load.usual();
        let batch = reader.batch.unwrap_or(usual.batch);
        Settings {
            load,
            seed: self.seed,
            files: reader.files.unwrap_or(usual.files),
            file_bytes: reader.file_size.unwrap_or(usual.file_bytes),
            sample_bytes: reader.sample_size.unwrap_or(usual.sample_bytes),
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            workers: usize::from(reader.workers.unwrap_or(usual.workers)),
            compute: reader.compute.or(load.compute()),
            link_rate: self.link.link_rate.or(load.link_rate()),
        }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let config = parse_size::Config::new();
    let config = if text.ends_with(['b', 'B']) { config } else { config.with_binary() };
    match config.parse_size(text) {
        Ok(bytes @ 1..=0x100_0000_0000) => Ok(bytes),
        Ok(_) => Err("write a size from 1 to 1T".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if name.split('.').count() == 2 => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write SECTION.OPTION=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> Result<TrainArgs, String> {
        let line = format!("tenderfs-bench train {line}");
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Train(args)) => Ok(*args),
            Ok(other) => panic!("not train: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_not_said_follows_from_the_load() {
        let images = args("--load images").unwrap();
        assert_eq!((images.mode, images.epochs), (Mode::Detect, 2));
        let settings = images.settings();
        assert_eq!((settings.files, settings.batch, settings.workers), (5000, 64, 4));
        assert_eq!(settings.compute, Some(Duration::from_millis(100)));
        assert_eq!(settings.link_rate, None);
        let shards = args("--load shards --file-size 8M --link-rate 1GB").unwrap().settings();
        assert_eq!((shards.files, shards.file_bytes), (32, 8 << 20));
        assert_eq!((shards.compute, shards.link_rate), (None, Some(1_000_000_000)));
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused() {
        for bad in [
            "",
            "--load films",
            "--load images --mode guess",
            "--load images --files 0",
            "--load images --file-size 0",
            "--load images --epochs 0",
            "--load images --workers 0",
            "--load images --set hedging=false",
            "--load images --set s3.hedging",
        ] {
            assert!(args(bad).is_err(), "{bad}");
        }
        let args = args("--load mds --mode plan --set s3.hedging=false").unwrap();
        assert_eq!(args.daemon.options, [("s3.hedging".to_owned(), "false".to_owned())]);
    }
}
