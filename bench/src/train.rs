//! `train`: how busy an accelerator is kept that computes what workers read through the mount.
//!
//! One run has everything it needs, as `compare`: the lab behind a shaped link, the daemon with a mount, a control that
//! reads the same files from a local disk, and an oracle that has no file system. The job and its workers are the same
//! on all sides.
//!
//! Invariant: as of `compare`. Everything is unmounted, stopped and deleted at the end, and wrong bytes end the run.

mod args;
mod epoch;
mod oracle;
mod picture;
mod report;
mod sides;
mod work;

use std::fs;
use std::path::Path;
use std::time::Duration;

use tenderfs_lab::{Latency, Shape};

pub use args::{DaemonArgs, LinkArgs, Load, Mode, ReaderArgs, TrainArgs};
use epoch::Pace;
use oracle::Source;
pub use report::TrainReport;
use work::Work;

use crate::cli::EXIT_OK;
use crate::compare::daemon::Ground;
use crate::compare::interrupt::Interrupt;
use crate::compare::lab::LabProcess;
use crate::compare::{CompareError, daemon_program};
use crate::report::Machine;

/// What loads that take all that a link has compute at, as a part of what parallel GETs reach.
const PART_OF_DIRECT: f64 = 0.7;

/// Measures, prints, and writes what was asked for.
pub fn main(args: &TrainArgs) -> Result<u8, CompareError> {
    let report = run(args)?;
    print!("{report}");
    let files = [(&args.json, report.json() + "\n"), (&args.svg, picture::svg(&report))];
    for (path, text) in files {
        if let Some(path) = path {
            fs::write(path, text)
                .map_err(|source| CompareError::Write { path: path.clone(), source })?;
        }
    }
    Ok(EXIT_OK)
}

/// A run of the job on all sides.
pub fn run(args: &TrainArgs) -> Result<TrainReport, CompareError> {
    let settings = args.settings();
    let program = daemon_program(args.daemon.tenderfsd.as_deref())?;
    let interrupt = Interrupt::watch()
        .map_err(|source| CompareError::Start { program: "a thread".to_owned(), source })?;
    let mut builder = tempfile::Builder::new();
    let folder = builder.prefix("tenderfs-bench-").tempdir_in(&args.dir);
    let folder = folder.map_err(CompareError::file(&args.dir))?;
    let ground = Ground::new(program, folder.path())?;
    let work = Work::new(settings);
    let lab = LabProcess::start(&work.every_object(), folder.path())?;
    let shape = shape(args, settings.link_rate);
    lab.shape(&shape)?;
    let source = Source { lab: &lab, work: &work, batches: &work.epoch(0) };
    let compute = match settings.compute {
        Some(compute) => compute,
        None => computed_at(PART_OF_DIRECT, source)?,
    };
    let ahead = usize::from(args.reader.prefetch_factor);
    let pace = Pace { compute, ahead, interrupt };
    let mounted = sides::mounted(args, (&ground, source), &pace)?;
    let control = sides::control(args, (&work, folder.path()), &pace)?;
    let oracle = oracle_epochs(args, (&lab, &work), &pace)?;
    let report = TrainReport {
        load: args.load,
        mode: args.mode,
        seed: args.seed,
        machine: Machine::here(),
        shape,
        compute,
        workers: settings.workers,
        batch: settings.batch,
        prefetch_factor: ahead,
        files: work.every_object().len(),
        data_bytes: work.len_bytes(),
        options: daemon_options(args),
        mounted,
        control,
        oracle,
    };
    close(folder, &args.dir)?;
    Ok(report)
}

fn close(folder: tempfile::TempDir, dir: &Path) -> Result<(), CompareError> {
    folder.close().map_err(CompareError::file(dir))
}

/// The time for a batch that makes the job take this part of what parallel GETs bring.
fn computed_at(part: f64, source: Source<'_>) -> Result<Duration, CompareError> {
    let batches = u32::try_from(source.batches.len()).unwrap_or(u32::MAX).max(1);
    Ok(oracle::time(source)?.div_f64(part) / batches)
}

fn oracle_epochs(
    args: &TrainArgs,
    (lab, work): (&LabProcess, &Work),
    pace: &Pace,
) -> Result<Vec<epoch::Epoch>, CompareError> {
    let epoch = |number| oracle::run(Source { lab, work, batches: &work.epoch(number) }, pace);
    (0..args.epochs).map(epoch).collect()
}

fn shape(args: &TrainArgs, link_rate: Option<u64>) -> Shape {
    let link = &args.link;
    Shape {
        first_byte: match (link.first_byte, link.first_byte_p99) {
            (Duration::ZERO, _) => Latency::Zero,
            (median, p99) if p99 <= median => Latency::Fixed(median),
            (median, p99) => Latency::Distribution { median, p99 },
        },
        connection_bytes_per_second: Some(link.connection_rate),
        total_bytes_per_second: link_rate,
        requests_per_second: None,
    }
}

/// What the command line says of the daemon, in words.
fn daemon_options(args: &TrainArgs) -> String {
    let daemon = &args.daemon;
    let named = [("cache.size", &daemon.cache_size), ("memory.limit", &daemon.memory)];
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let others = daemon.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all: Vec<_> = named.chain(others).map(|(name, value)| format!("{name}={value}")).collect();
    if all.is_empty() { "defaults".to_owned() } else { all.join(" ") }
}
