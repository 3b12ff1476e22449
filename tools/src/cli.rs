//! What a user may type.
//!
//! The flags of `mount` that set options are not written here: they are made from the table of options of the daemon, so
//! that an option exists on the command line as soon as it exists at all (see [`crate::mount::flags`]).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tenderfs_daemon::config::{parse_bytes, parse_duration};

use crate::mount::flags::OptionFlags;

/// Shown below `--help` and in the man page.
pub const EXIT_CODES: &str = "\
Exit codes: 0 all right; 1 it could not be done; 2 the command line or configuration makes no sense; \
3 `warm --check` found something that is not cached; 4 `cache verify` found damage, which is fetched again; 130 interrupted.";

/// S3 buckets as local files, cached for training jobs.
#[derive(Debug, Parser)]
#[command(name = "tenderfs", version, after_help = EXIT_CODES, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The deeds of the command line.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a bucket; returns when the mount answers
    Mount(MountArgs),
    /// Unmount, and wait until what was cached is written down
    Umount(UmountArgs),
    /// What the daemons of this machine do
    Status(StatusArgs),
    /// Bring a file or folder into the cache of its mount
    Warm(WarmArgs),
    /// What is cached, and whether it is what was written
    Cache {
        /// What to do.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Tell what a job will read, and in which order, so that it is fetched before
    Plan {
        /// What to do.
        #[command(subcommand)]
        command: PlanCommand,
    },
    /// Run an S3 server with latency, bandwidth and faults to order
    Lab(LabArgs),
    /// Show it all: an S3 server, a data set, a mount, cold and warm epochs, a table, clean-up
    Demo(DemoArgs),
    /// What this machine can do, and what to do about the rest
    Doctor(DoctorArgs),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write one page for each command
    Man {
        /// Write tenderfs.1, tenderfs-mount.1, ... into DIR instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Arguments of `mount`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct MountArgs {
    /// What to mount: `BUCKET`, `s3://BUCKET` or `s3://BUCKET/PREFIX`
    pub source: String,
    /// Where: an existing, empty directory
    pub mountpoint: PathBuf,
    /// Stay in the foreground and log to standard error; the mount goes when this ends
    #[arg(short, long)]
    pub foreground: bool,
    /// Options as in fstab: names as of the long flags with `_` or `-`, and what mount(8) knows
    #[arg(short = 'o', value_name = "K=V,...", value_delimiter = None)]
    pub mount_options: Vec<String>,
    /// Configuration file; without one the embedded defaults hold
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take away a mount whose daemon is gone ("Transport endpoint is not connected") before anything else is looked at;
    /// mounting does so in any case
    #[arg(long)]
    pub force_unmount_stale: bool,
    /// Set by the command itself for the process it leaves in the background: tell the one who waits on standard output
    #[arg(long, hide = true, requires = "foreground")]
    pub detached: bool,
    /// Everything that has a default.
    #[command(flatten)]
    pub options: OptionFlags,
}

/// Arguments of mount.tenderfs, as mount(8) gives them.
#[derive(Debug, Parser)]
#[command(
    name = "mount.tenderfs",
    version,
    about = "Mounts an S3 bucket for mount(8) and fstab",
    after_help = "Exit codes: 0 mounted, 1 could not be mounted, 2 wrong usage."
)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line, each on its own")]
pub struct HelperArgs {
    /// What to mount: `BUCKET`, `s3://BUCKET` or `s3://BUCKET/PREFIX`
    pub source: String,
    /// Where: an existing, empty directory
    pub mountpoint: PathBuf,
    /// Do not write /etc/mtab (there is none to write)
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// Overlook options that are not known
    #[arg(short = 's')]
    pub sloppy: bool,
    /// Check everything, but do not mount
    #[arg(short = 'f')]
    pub fake: bool,
    /// Say what is done
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Type of the file system, as mount(8) passes it on
    #[arg(short = 't', value_name = "TYPE")]
    pub fstype: Option<String>,
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTS")]
    pub mount_options: Vec<String>,
}

/// Arguments of `umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The mount point
    pub mountpoint: PathBuf,
    /// Detach now even if files are open; also takes a stale mount away
    #[arg(short, long)]
    pub lazy: bool,
}

/// Which daemon to ask.
#[derive(Debug, Clone, Args)]
pub struct SocketArgs {
    /// Admin socket of the daemon, instead of looking for one
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only the daemon that serves this path; without it every daemon of this user
    pub path: Option<PathBuf>,
    /// Print what the admin API says (/v1/status), one document for each daemon
    #[arg(long)]
    pub json: bool,
    /// Print what was asked of S3, by kind of request
    #[arg(long, conflicts_with = "json")]
    pub requests: bool,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Arguments of `warm`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line, each on its own")]
pub struct WarmArgs {
    /// File or folder of a mount
    pub path: PathBuf,
    /// Everything below the folder too
    #[arg(short, long)]
    pub recursive: bool,
    /// Stop once so many bytes are cached, those that were cached before included
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Files to bring in at once; the daemon's warm.workers unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Skip what is cached already; always so, accepted because it is asked for elsewhere
    #[arg(long)]
    pub resume: bool,
    /// Fetch nothing: verify that everything is cached, name what is not, exit code 3
    #[arg(long)]
    pub check: bool,
    /// Print the job's last state as JSON, and no progress
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// The deeds of `plan`.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Post the order of reads of one epoch and rank
    Post(PlanPostArgs),
    /// How far jobs are with their plans, and how often they waited
    Status {
        /// The job; every job unless given.
        job: Option<String>,
        /// Which mount.
        #[command(flatten)]
        mount: WhichMount,
        /// Print what the admin API says (/v1/jobs)
        #[arg(long)]
        json: bool,
    },
    /// Forget a job and its plans; what it reads is read as ever
    Cancel {
        /// The job.
        job: String,
        /// Which mount.
        #[command(flatten)]
        mount: WhichMount,
    },
}

/// Arguments of `plan post`.
#[derive(Debug, Args)]
#[command(after_help = PLAN_HELP)]
pub struct PlanPostArgs {
    /// Name of the job: A-Z, a-z, 0-9, `.`, `_` and `-`
    pub job: String,
    /// File with a line for each read, in their order; `-` is standard input
    pub file: PathBuf,
    /// The epoch whose reads these are
    #[arg(long, default_value_t = 0)]
    pub epoch: u64,
    /// The rank whose reads these are
    #[arg(long, default_value_t = 0)]
    pub rank: u32,
    /// How many ranks the job has
    #[arg(long, default_value_t = 1)]
    pub world: u32,
    /// Which mount.
    #[command(flatten)]
    pub mount: WhichMount,
    /// Print what the admin API says
    #[arg(long)]
    pub json: bool,
}

const PLAN_HELP: &str = "\
A line is a path, relative to the mount or absolute below it; for a part of a file a tab, the offset, a tab and the \
length follow. A plan is advice: reading something else is no error. It takes the place of one posted before for the \
same epoch and rank; the plan of the next epoch can be posted before this one ends.";

/// Which mount is meant.
#[derive(Debug, Args)]
pub struct WhichMount {
    /// A path in the mount, if there are several
    #[arg(long, value_name = "PATH")]
    pub mount: Option<PathBuf>,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// The deeds of `cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// How much is cached, and how well it serves
    Stats {
        /// Which daemon.
        #[command(flatten)]
        daemon: WhichDaemon,
        /// Print what the admin API says (/v1/cache)
        #[arg(long)]
        json: bool,
    },
    /// Compare all that is on disk with its checksums; what is wrong is fetched again when it is read
    Verify(CacheVerifyArgs),
    /// What is on disk, the largest first
    Ls {
        /// File or folder of a mount; without it the only mount there is
        path: Option<PathBuf>,
        /// How many to show
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        top: u32,
        /// Which daemon.
        #[command(flatten)]
        socket: SocketArgs,
        /// Print what the admin API says (/v1/cache/objects)
        #[arg(long)]
        json: bool,
    },
    /// Let go of what is cached of a file or folder; the next read fetches it again
    Evict {
        /// File or folder of a mount
        path: PathBuf,
        /// Which daemon.
        #[command(flatten)]
        socket: SocketArgs,
        /// Print what the admin API says (/v1/cache/evict)
        #[arg(long)]
        json: bool,
    },
    /// Have a file or folder stay on disk, whatever else is read (at most nine tenths of the cache)
    Pin {
        /// File or folder of a mount
        path: PathBuf,
        /// After which time the pin ends by itself, such as 12h or 7d; never unless given
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// Which daemon.
        #[command(flatten)]
        socket: SocketArgs,
        /// Print what the admin API says (/v1/cache/pins)
        #[arg(long)]
        json: bool,
    },
    /// Let go of a pin; what it held stays as long as it is worth its place
    Unpin {
        /// The file or folder that was pinned
        path: PathBuf,
        /// Which daemon.
        #[command(flatten)]
        socket: SocketArgs,
        /// Print what the admin API says (/v1/cache/pins)
        #[arg(long)]
        json: bool,
    },
    /// List what is pinned
    Pins {
        /// Which daemon.
        #[command(flatten)]
        daemon: WhichDaemon,
        /// Print what the admin API says (/v1/cache/pins)
        #[arg(long)]
        json: bool,
    },
    /// Look into a cache directory that no daemon is using
    Inspect {
        /// The cache directory
        dir: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let go of everything that is cached, of all mounts
    Clear {
        /// Which daemon.
        #[command(flatten)]
        daemon: WhichDaemon,
        /// Do it
        #[arg(long, required = true)]
        yes: bool,
        /// Print what the admin API says (/v1/cache/evict)
        #[arg(long)]
        json: bool,
    },
}

/// Which daemon's cache is meant.
#[derive(Debug, Args)]
pub struct WhichDaemon {
    /// A path of a mount of the daemon; not needed if there is only one daemon
    pub path: Option<PathBuf>,
    /// By its socket.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Arguments of `cache verify`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct CacheVerifyArgs {
    /// Which daemon.
    #[command(flatten)]
    pub daemon: WhichDaemon,
    /// Print the result as JSON, and no progress
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Address of the S3 server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9000")]
    pub listen: String,
    /// Address of its control endpoint (ledger, shape, faults); port 0 chooses one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub control: String,
    /// Serve the folders below DIR as buckets; without it buckets live in memory
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Make this bucket at the start; may be given several times
    #[arg(long = "bucket", value_name = "NAME")]
    pub buckets: Vec<String>,
    /// Key pair that requests must be signed with
    #[arg(long, value_name = "KEY:SECRET", default_value = "tenderfs:tenderfs-secret", value_parser = key_pair)]
    pub credentials: (String, String),
    /// Let unsigned requests in
    #[arg(long)]
    pub allow_anonymous: bool,
    /// Region that signatures must name
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// How slow it is.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Threads that serve
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

/// Latency and bandwidth of the lab.
#[derive(Debug, Clone, Args)]
pub struct ShapeArgs {
    /// Time to the first byte of every answer: 20ms, or 20ms,200ms for a median and a 99th percentile [default: none]
    #[arg(long, value_name = "TIME[,P99]", value_parser = latency)]
    pub first_byte: Option<Latency>,
    /// Bytes a second of each connection [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub connection_bandwidth: Option<u64>,
    /// Bytes a second of all connections together [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub total_bandwidth: Option<u64>,
}

/// Time to the first byte: always the median, or a distribution around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Half of all answers are faster.
    pub median: Duration,
    /// 99 of 100 answers are faster.
    pub p99: Option<Duration>,
}

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct DemoArgs {
    /// Scale of the data set; 1 is 256 MiB in one object, 15 shards of 16 MiB and 320 files of about 100 KiB
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = factor)]
    pub size: f64,
    /// Seed of the data set
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Readers of the cold and warm epochs
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub readers: u16,
    /// Time to the first byte of the lab's answers
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = duration)]
    pub first_byte: Duration,
    /// Bytes a second of each connection to the lab; 0: as fast as it goes
    #[arg(long, value_name = "SIZE", default_value = "90MB", value_parser = size)]
    pub connection_bandwidth: u64,
    /// Use this store instead of the lab. Credentials are taken from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; the data
    /// set is stored below a prefix of its own and deleted at the end
    #[arg(long, value_name = "URL", requires = "bucket")]
    pub endpoint_url: Option<url::Url>,
    /// An existing bucket of that store
    #[arg(long, requires = "endpoint_url")]
    pub bucket: Option<String>,
    /// Region of that bucket
    #[arg(long, default_value = "us-east-1", requires = "endpoint_url")]
    pub region: String,
    /// Directory for the mount point and the cache of the demo [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the result as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also look whether this bucket can be reached: `s3://BUCKET` or `s3://BUCKET/PREFIX`
    pub source: Option<String>,
    /// Print the lines as JSON
    #[arg(long)]
    pub json: bool,
    /// Options that a mount of the source would have.
    #[command(flatten)]
    pub options: OptionFlags,
}

fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "write a size such as 500MB, 4MiB or 16G".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a duration such as 20ms or 3s".to_owned())
}

fn latency(text: &str) -> Result<Latency, String> {
    let (median, p99) = text.split_once(',').map_or((text, None), |(m, p)| (m, Some(p)));
    Ok(Latency { median: duration(median)?, p99: p99.map(duration).transpose()? })
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (0.001..=1000.0).contains(&factor) => Ok(factor),
        _ => Err("write a number from 0.001 to 1000".to_owned()),
    }
}

fn key_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, secret)) if !key.is_empty() && !secret.is_empty() => {
            Ok((key.to_owned(), secret.to_owned()))
        }
        _ => Err("write the key, a colon and the secret".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, String> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|e| e.to_string())
    }

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
        HelperArgs::command().debug_assert();
    }

    #[test]
    fn help_names_the_exit_codes() {
        let mut command = Cli::command();
        for name in ["mount", "warm", "demo"] {
            let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            assert!(help.contains("Exit codes: 0 all right"), "{name}: {help}");
        }
        assert!(command.render_help().to_string().contains("Exit codes:"));
    }

    /// Proves W14.
    #[test]
    fn warm_takes_the_flags_people_know() {
        let line = "tenderfs warm /mnt/data -r --max-size 500GB --workers 32 --resume";
        let Command::Warm(args) = parse(line).unwrap() else { panic!("not warm") };
        assert_eq!(
            (args.max_size, args.workers, args.recursive),
            (Some(500_000_000_000), Some(32), true)
        );
        assert!(parse("tenderfs warm /mnt --max-size many").unwrap_err().contains("500MB"));
    }

    #[test]
    fn demo_defaults_are_the_documented_ones() {
        let Command::Demo(args) = parse("tenderfs demo").unwrap() else { panic!("not demo") };
        assert_eq!(
            (args.first_byte, args.connection_bandwidth),
            (Duration::from_millis(20), 90_000_000)
        );
        assert_eq!((args.readers, args.size.to_string()), (16, "1".to_owned()));
        for bad in ["--size 0", "--size nan", "--size -1", "--endpoint-url http://x"] {
            assert!(parse(&format!("tenderfs demo {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn lab_latency_is_a_time_or_two() {
        let ms = Duration::from_millis;
        assert_eq!(latency("20ms"), Ok(Latency { median: ms(20), p99: None }));
        assert_eq!(latency("20ms,200ms"), Ok(Latency { median: ms(20), p99: Some(ms(200)) }));
        assert!(latency("20ms,").is_err() && latency("fast").is_err());
    }

    #[test]
    fn helper_takes_what_mount_8_gives() {
        let line = "mount.tenderfs s3://b/p /mnt/data -sfnv -t tenderfs -o rw,_netdev,region=x";
        let args = HelperArgs::try_parse_from(line.split(' ')).unwrap();
        assert!(args.sloppy && args.fake && args.no_mtab && args.verbose);
        assert_eq!(args.mount_options, ["rw,_netdev,region=x"]);
    }
}
