//! What a user may type, and what it means.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

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
        let Command::Run(args) = Cli::parse_from(["tenderfs-bench", "run", "/data"]).command;
        assert_eq!((args.readers, args.duration.as_secs(), args.chunk), (32, 30, 4 << 20));
        assert!(!args.compares());
        assert_eq!(args.pattern, Pattern::Seq);
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
