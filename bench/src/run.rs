//! `run`: list, prepare, measure, compare, report.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::checksum::{self, Checksums, Manifest, ManifestError};
use crate::cli::{EXIT_FAILED, EXIT_MISMATCH, EXIT_OK, RunArgs};
use crate::data_set::{DataSet, DataSetError};
use crate::load::{self, Caching, Load, Outcome};
use crate::report::{Comparison, Latency, Machine, PROVES_AGREEMENT, PROVES_EXPECTED, Report};

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory.
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    /// The expected checksums.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Files could not be read before the start.
    #[error("cannot prepare the files: {0}")]
    Prepare(io::Error),
    /// The result could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Does what the command line says and prints the result.
pub fn main(args: &RunArgs) -> ExitCode {
    match run(args).and_then(|report| print(args, &report).map(|()| report)) {
        Ok(report) => ExitCode::from(verdict(&report)),
        Err(error) => {
            eprintln!("tenderfs-bench: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Measures one directory.
pub fn run(args: &RunArgs) -> Result<Report, RunError> {
    let manifest = args.expect.as_deref().map(Manifest::read).transpose()?;
    let set = DataSet::list(&args.directory, args.chunk)?;
    let checksums = args.compares().then(|| Checksums::new(set.chunk_count()));
    let caching = if args.direct { Caching::Direct } else { Caching::Kernel };
    if args.cached {
        load::warm_up(&set, caching).map_err(RunError::Prepare)?;
    } else {
        load::drop_cached_pages(&set).map_err(RunError::Prepare)?;
    }
    let work = Load {
        set: &set,
        pattern: args.pattern,
        caching,
        duration: args.duration,
        seed: args.seed,
        checksums: checksums.as_ref(),
    };
    let outcome = load::run(&work, usize::from(args.readers));
    let comparison = match &checksums {
        Some(checksums) => Some(compare(&set, checksums, manifest.as_ref())?),
        None => None,
    };
    Ok(report(args, &set, &outcome, comparison))
}

/// The exit code a report deserves.
pub fn verdict(report: &Report) -> u8 {
    if report.checksum.as_ref().is_some_and(|comparison| comparison.mismatches > 0) {
        EXIT_MISMATCH
    } else if report.errors > 0 || report.operations == 0 {
        EXIT_FAILED
    } else {
        EXIT_OK
    }
}

fn compare(
    set: &DataSet,
    checksums: &Checksums,
    manifest: Option<&Manifest>,
) -> Result<Comparison, RunError> {
    load::drop_cached_pages(set).map_err(RunError::Prepare)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let files_read_again = checksum::second_reading(set, checksums, manifest, threads);
    Ok(Comparison {
        readings_compared: checksums.compared(),
        files_read_again,
        files_expected: manifest.map_or(0, Manifest::len),
        mismatches: checksums.mismatches(),
        named: checksums.named(),
        data_hash: format!("{:08x}", checksums.data_hash(set)),
        proves: if manifest.is_some() { PROVES_EXPECTED } else { PROVES_AGREEMENT },
    })
}

#[expect(clippy::cast_precision_loss, reason = "printed figures have fewer digits than a double")]
fn report(
    args: &RunArgs,
    set: &DataSet,
    outcome: &Outcome,
    checksum: Option<Comparison>,
) -> Report {
    let seconds = outcome.elapsed.max(Duration::from_nanos(1)).as_secs_f64();
    let latency = &outcome.latency_ns;
    let us = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
    Report {
        directory: args.directory.display().to_string(),
        pattern: args.pattern,
        readers: args.readers,
        chunk_bytes: args.chunk,
        cached: args.cached,
        direct: args.direct,
        seed: args.seed,
        machine: Machine::here(),
        files: set.files().len(),
        data_bytes: set.len_bytes(),
        duration_seconds: seconds,
        bytes: outcome.bytes,
        passes: outcome.bytes as f64 / set.len_bytes() as f64,
        gb_per_s: outcome.bytes as f64 / seconds / 1e9,
        operations: latency.len(),
        ops_per_s: latency.len() as f64 / seconds,
        latency_us: Latency {
            average: latency.mean() / 1e3,
            p50: us(0.50),
            p95: us(0.95),
            p99: us(0.99),
            max: latency.max() as f64 / 1e3,
        },
        errors: outcome.errors,
        first_error: outcome.first_error.clone(),
        checksum,
    }
}

fn print(args: &RunArgs, report: &Report) -> Result<(), RunError> {
    let to_file = args.json.as_deref().filter(|path| *path != Path::new("-"));
    if args.json.is_some() && to_file.is_none() {
        println!("{}", json(report));
        return Ok(());
    }
    print!("{report}");
    match to_file {
        None => Ok(()),
        Some(path) => fs::write(path, json(report) + "\n")
            .map_err(|source| RunError::Write { path: path.to_path_buf(), source }),
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report)
        .unwrap_or_else(|error| unreachable!("a report has string keys only: {error}"))
}
