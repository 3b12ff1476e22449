//! `tenderfsd`: the daemon that systemd runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tenderfs_daemon::config::{
    self, DEFAULT_PATH, Limits, Machine, Overrides, process_environment,
};
use tenderfs_daemon::{DaemonError, logging, one_line, run};

/// Exit status for a configuration that cannot be used; any other failure is 1.
const EXIT_USAGE: u8 = 2;

/// Mounts S3 buckets as the configuration says and serves them until it is stopped.
///
/// SIGTERM and SIGINT unmount and stop; SIGHUP reads the configuration again.
#[derive(Debug, Parser)]
#[command(name = "tenderfsd", version)]
struct Arguments {
    /// Configuration file (TOML); every option is in docs/OPTIONS.md
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Read the configuration, print what is derived from it, and stop
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the one line that says why it did not start")]
            {
                eprintln!("tenderfsd: {}", one_line(&error));
            }
            ExitCode::from(if matches!(error, DaemonError::Config(_)) { EXIT_USAGE } else { 1 })
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), DaemonError> {
    let load = || config::load(Some(&arguments.config), Overrides::default(), &process_environment);
    let settings = load()?;
    if arguments.check {
        let limits = Limits::derive(&settings, &Machine::detect(&process_environment))?;
        #[allow(clippy::print_stdout, reason = "what --check is for")]
        {
            println!("{limits}");
        }
        return Ok(());
    }
    logging::init(&settings.log)?;
    run(settings, |_| {}, &load)
}
