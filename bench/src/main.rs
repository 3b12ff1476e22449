//! The `tenderfs-bench` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use tenderfs_bench::{cli::Cli, run};

fn main() -> ExitCode {
    run::main(&Cli::parse())
}
