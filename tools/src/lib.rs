//! The command line of TenderFS: `tenderfs`, and `mount.tenderfs` for mount(8).
//!
//! Each command is a module with a `main`. All but `mount` and `demo` only talk to a running daemon, over its admin API
//! or through its mounts.
//!
//! Architecture invariant: nothing here knows FUSE, the cache or the S3 client; what they do is asked of the daemon.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its answers belong on standard output, its complaints on standard error"
)]

pub mod admin_client;
pub mod cache;
pub mod cli;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod interrupt;
pub mod lab_command;
pub mod mount;
pub mod papers;
pub mod plan;
pub mod status;
pub mod umount;
pub mod warm;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tenderfs_daemon::one_line;

use crate::cli::{Cli, Command, HelperArgs};
use crate::error::{EXIT_OK, ToolError};

/// Who this program is called as.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Cli,
    MountHelper,
}

/// Does what the command line of this process says.
pub fn main() -> ExitCode {
    let called_as = std::env::args_os().next();
    let (name, result) = match role(called_as) {
        Role::MountHelper => ("mount.tenderfs", mount::helper_main(HelperArgs::parse())),
        Role::Cli => ("tenderfs", command(Cli::parse().command)),
    };
    match result {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => {
            eprintln!("{name}: {}", one_line(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn role(called_as: Option<OsString>) -> Role {
    let called_as = called_as.unwrap_or_default();
    match Path::new(&called_as).file_name() {
        Some(name) if name == OsStr::new("mount.tenderfs") => Role::MountHelper,
        _ => Role::Cli,
    }
}

fn command(command: Command) -> Result<(), ToolError> {
    match command {
        Command::Mount(args) => mount::main(args),
        Command::Demo(args) => demo::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Umount(args) => block_on(umount::main(&args)),
        Command::Status(args) => block_on(status::main(&args)),
        Command::Warm(args) => block_on(warm::main(&args)),
        Command::Cache { command } => block_on(cache::main(&command)),
        Command::Plan { command } => block_on(plan::main(&command)),
        Command::Lab(args) => block_on(lab_command::main(&args)),
        Command::Completions { shell } => papers::completions(shell),
        Command::Man { dir } => papers::man(dir.as_deref()),
    }
}

fn block_on(future: impl Future<Output = Result<(), ToolError>>) -> Result<(), ToolError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ToolError::Runtime)?.block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_decides_the_role() {
        for (name, expected) in [
            ("/sbin/mount.tenderfs", Role::MountHelper),
            ("mount.tenderfs", Role::MountHelper),
            ("/usr/bin/tenderfs", Role::Cli),
            ("target/release/tenderfs", Role::Cli),
            ("", Role::Cli),
        ] {
            assert_eq!(role(Some(name.into())), expected, "{name}");
        }
    }
}
