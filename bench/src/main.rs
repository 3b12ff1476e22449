//! The `tenderfs-bench` binary: arguments in, exit code out.

#![allow(clippy::print_stderr, reason = "a command line tool says why it failed")]

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use tenderfs_bench::cli::{Cli, Command, CompareArgs, EXIT_FAILED, EXIT_OK};
use tenderfs_bench::{compare, null_server, policy, run, train};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::main(&args),
        Command::Compare(args) => exit(compared(&args)),
        Command::S3(args) => exit(compared(&args.comparison())),
        Command::Train(args) => exit(train::main(&args)),
        Command::Policy(args) => exit(policy::main(&args)),
        Command::NullServer(args) => exit(null_server::main(&args).map(|()| EXIT_OK)),
        Command::Lab(args) => exit(compare::serve_lab(&args).map(|()| EXIT_OK)),
        Command::Guard(args) => exit(Err(compare::become_guarded(&args.program, &args.arguments))),
    }
}

fn compared(args: &CompareArgs) -> Result<u8, compare::CompareError> {
    compare::conclude(args, &compare::run(args)?)
}

fn exit(result: Result<u8, impl Display>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("tenderfs-bench: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}
