//! `compare`: TenderFS beside what bounds it.
//!
//! One run has everything it needs: an S3 server (the lab) in a process of its own, data made from a seed, a daemon
//! and its mount, and for each figure a reference measured in turn with it. So no figure depends on the machine: what
//! is judged are ratios.
//!
//! Invariants: everything is unmounted, stopped and deleted at the end, after errors and Ctrl-C too; and wrong bytes
//! end the run, whatever they would have measured.

pub mod bars;
mod bench;
pub(crate) mod caches;
pub(crate) mod child;
mod cold;
pub(crate) mod daemon;
pub(crate) mod data;
mod disk;
mod error;
mod files;
pub(crate) mod fuse_options;
pub(crate) mod gets;
pub(crate) mod http;
pub(crate) mod interrupt;
pub(crate) mod lab;
mod mapped;
mod memory;
mod metadata;
mod null;
mod programs;
mod reads;
pub mod report;
mod rounds;
mod s3;
mod small;
mod warm;

use std::fs;
use std::path::{Path, PathBuf};

use bars::Suite;
use bench::{Bench, Wanted};
pub use child::become_guarded;
use daemon::Ground;
use data::Scale;
pub use error::CompareError;
use interrupt::Interrupt;
pub use lab::serve as serve_lab;
use report::Table;

use crate::cli::{CompareArgs, EXIT_FAILED, EXIT_OK, SuiteChoice};
use crate::report::Machine;

/// What a run left: its rows, and why it ended early if it did.
#[derive(Debug)]
pub struct Ended {
    /// The rows that were measured.
    pub table: Table,
    /// The error that ended it.
    pub error: Option<CompareError>,
}

/// Measures what the arguments ask for. An error means that nothing was measured.
pub fn run(args: &CompareArgs) -> Result<Ended, CompareError> {
    let wanted = Wanted {
        suites: suites(&args.suites),
        only: args.only.clone(),
        rounds: args.rounds,
        scale: Scale(args.size),
        seed: args.seed,
    };
    wanted.check()?;
    let program = daemon_program(args.tenderfsd.as_deref())?;
    let interrupt = Interrupt::watch()
        .map_err(|source| CompareError::Start { program: "a thread".to_owned(), source })?;
    let mut builder = tempfile::Builder::new();
    let folder = builder.prefix("tenderfs-bench-").tempdir_in(&args.dir);
    let folder = folder.map_err(CompareError::file(&args.dir))?;
    let ground = Ground::new(program, folder.path())?;
    let objects = data::every_object(wanted.scale, wanted.seed);
    let lab = lab::LabProcess::start(&objects, folder.path())?;
    let mut table = Table {
        machine: Machine::here(),
        versions: versions(&ground),
        conditions: conditions(&wanted),
        rows: Vec::new(),
    };
    let mut bench = Bench::new(wanted, lab, ground, interrupt);
    let error = measure(&mut bench).err();
    table.rows = bench.into_rows();
    folder.close().map_err(CompareError::file(&args.dir))?;
    Ok(Ended { table, error })
}

fn measure(bench: &mut Bench) -> Result<(), CompareError> {
    for suite in Suite::ALL {
        if !bench.wanted.suites.contains(&suite) {
            continue;
        }
        bench.check_interrupt()?;
        match suite {
            Suite::Warm => warm::run(bench)?,
            Suite::Memory => memory::run(bench)?,
            Suite::Disk => disk::run(bench)?,
            Suite::Small => small::run(bench)?,
            Suite::Cold => cold::run(bench)?,
            Suite::Metadata => metadata::run(bench)?,
            Suite::S3 => s3::run(bench)?,
        }
    }
    Ok(())
}

/// Prints the result, writes the JSON and says which exit code it deserves.
pub fn conclude(args: &CompareArgs, ended: &Ended) -> Result<u8, CompareError> {
    print!("{}", ended.table);
    if let Some(path) = &args.json {
        fs::write(path, ended.table.json() + "\n")
            .map_err(|source| CompareError::Write { path: path.clone(), source })?;
    }
    if let Some(error) = &ended.error {
        eprintln!("tenderfs-bench: {error}");
    }
    Ok(exit_code(ended, args.strict))
}

fn exit_code(ended: &Ended, strict: bool) -> u8 {
    let incomplete = strict && !ended.table.not_measured().is_empty();
    if ended.error.is_some() || !ended.table.below().is_empty() || incomplete {
        EXIT_FAILED
    } else {
        EXIT_OK
    }
}

fn suites(choices: &[SuiteChoice]) -> Vec<Suite> {
    if choices.contains(&SuiteChoice::All) {
        return Suite::ALL.to_vec();
    }
    choices.iter().filter_map(|choice| choice.suite()).collect()
}

/// The daemon as the arguments name it, or the one beside this program.
pub(crate) fn daemon_program(named: Option<&Path>) -> Result<PathBuf, CompareError> {
    let beside = || std::env::current_exe().map(|program| program.with_file_name("tenderfsd"));
    let path = match named {
        Some(path) => path.to_owned(),
        None => beside()
            .map_err(|source| CompareError::Start { program: "tenderfsd".to_owned(), source })?,
    };
    // Started from another folder than ours.
    let path = std::path::absolute(&path).map_err(CompareError::file(&path))?;
    if path.is_file() { Ok(path) } else { Err(CompareError::NoDaemon { path }) }
}

fn versions(ground: &Ground) -> Vec<String> {
    let daemon = programs::version(&ground.program.to_string_lossy());
    let own = concat!("tenderfs-bench ", env!("CARGO_PKG_VERSION")).to_owned();
    let others = [daemon, programs::version("fio"), programs::version("curl")];
    std::iter::once(own).chain(others.into_iter().flatten()).collect()
}

fn conditions(wanted: &Wanted) -> String {
    let Wanted { rounds, scale, seed, .. } = wanted;
    let user = if nix::unistd::geteuid().is_root() { "root" } else { "not root" };
    format!("seed {seed}, size {}, {rounds} rounds, as {user}", scale.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::Row;

    fn ended(ratio: f64, error: Option<CompareError>) -> Ended {
        let bar = bars::find("warm.cached.1").unwrap();
        let missing = Row::not_measured(bars::find("disk.random-4m.8").unwrap(), "no fio".into());
        let table = Table {
            machine: Machine::here(),
            versions: Vec::new(),
            conditions: String::new(),
            rows: vec![Row::measured(bar, ratio, 1.0), missing],
        };
        Ended { table, error }
    }

    #[test]
    fn exit_code_is_1_below_a_bar_after_an_error_and_if_strict_without_a_figure() {
        assert_eq!(exit_code(&ended(0.95, None), false), EXIT_OK);
        assert_eq!(exit_code(&ended(0.95, None), true), EXIT_FAILED);
        assert_eq!(exit_code(&ended(0.85, None), false), EXIT_FAILED);
        assert_eq!(exit_code(&ended(0.95, Some(CompareError::Interrupted)), false), EXIT_FAILED);
    }

    #[test]
    fn all_is_every_suite_whatever_else_is_named() {
        assert_eq!(suites(&[SuiteChoice::Disk, SuiteChoice::All]), Suite::ALL);
        assert_eq!(suites(&[SuiteChoice::Disk]), [Suite::Disk]);
    }
}
