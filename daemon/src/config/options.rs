//! Every option, once: its name, what it accepts and what it means.
//!
//! The table is the only list of names. The reader of files, the environment and the command line
//! refuse what is not in it, and `docs/OPTIONS.md` is made from it. Defaults are not here but in
//! `configs/default.toml`; a test holds the two to the same names.
//!
//! One option has four spellings that follow from its name: `cache.size` in a file is `size` under
//! `[cache]`, `TENDERFS_CACHE_SIZE` in the environment, `--cache-size` and `-o cache_size` on a
//! command line. `mount.region` stands in `[[mount]]`, or in `[mount_defaults]` for all mounts, and
//! drops its section elsewhere: `TENDERFS_REGION`, `--region`, `-o region`.

use std::fmt;

/// The defaults as they are compiled in.
pub const DEFAULT_TOML: &str = include_str!("../../../configs/default.toml");

/// What values an option accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds, both included.
    Count {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A whole number within bounds, or `auto`.
    CountOrAuto {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A share between 0 and 1, 1 excluded.
    Ratio,
    /// A size in bytes with a unit.
    Bytes,
    /// A size in bytes with a unit, or `auto`.
    BytesOrAuto,
    /// A time with a unit.
    Duration,
    /// Any text.
    Text,
    /// A path; a relative one is taken from the working directory.
    Path,
    /// A path, or `auto`.
    PathOrAuto,
    /// An address and port.
    SocketAddress,
    /// An `http` or `https` URL.
    Url,
    /// Permission bits in octal.
    Mode,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Count { min, max: u64::MAX } => write!(f, "a whole number from {min}"),
            Self::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::CountOrAuto { min, max } => {
                write!(f, "a whole number from {min} to {max}, or auto")
            }
            Self::Ratio => f.write_str("a share from 0 to below 1"),
            Self::Bytes => f.write_str("a size such as 512M or 16G"),
            Self::BytesOrAuto => f.write_str("a size such as 512M or 16G, or auto"),
            Self::Duration => f.write_str("a duration such as 500ms or 60s"),
            Self::Text => f.write_str("text"),
            Self::Path => f.write_str("a path"),
            Self::PathOrAuto => f.write_str("a path, or auto"),
            Self::SocketAddress => f.write_str("an address and port such as 127.0.0.1:9464"),
            Self::Url => f.write_str("a URL such as https://s3.example.com"),
            Self::Mode => f.write_str("permission bits such as 0644"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Spec {
    /// Section and key, joined by a point.
    pub(super) name: &'static str,
    /// What it accepts.
    pub(super) kind: Kind,
    /// What it means, as sentences in Markdown.
    pub(super) meaning: &'static str,
}

/// What `docs/OPTIONS.md`, the README and `--help` say about one option.
#[derive(Debug, Clone)]
pub struct OptionDoc {
    /// Section and key, joined by a point.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// Its default as `configs/default.toml` has it; `None` if each mount must or may say its own.
    pub default: Option<String>,
    /// What it means, as sentences in Markdown.
    pub meaning: &'static str,
    /// Name of its environment variable; `None` if it cannot be set there.
    pub environment: Option<String>,
    /// Name of its flag, with the dashes.
    pub flag: String,
    /// Whether a reload (SIGHUP) changes it in a running daemon.
    pub reloads: bool,
}

const fn row(name: &'static str, kind: Kind, meaning: &'static str) -> Spec {
    Spec { name, kind, meaning }
}

/// The table.
pub(super) const OPTIONS: &[Spec] = &[
    row(
        "daemon.cores",
        Kind::CountOrAuto { min: 1, max: 256 },
        "Core threads; each serves requests, its own S3 connections and its own disk queue. `auto`: the processors the daemon may use, at most 16, fewer if the memory limit is too small for them.",
    ),
    row("daemon.pin_cores", Kind::Flag, "Whether each core thread is bound to one processor."),
    row(
        "daemon.admin_socket",
        Kind::PathOrAuto,
        "Unix socket of the admin API. `auto`: `/run/tenderfs/admin.sock` as root, else `$XDG_RUNTIME_DIR/tenderfs/admin.sock`; `tenderfs mount` names it by the mount point instead.",
    ),
    row(
        "daemon.metrics_listen",
        Kind::SocketAddress,
        "Address that serves `GET /metrics`, `/healthz` and `/readyz` over TCP, and nothing else. Empty: none.",
    ),
    row(
        "daemon.mount_timeout",
        Kind::Duration,
        "How long to wait at the start for a store that cannot be reached yet, as while the machine boots.",
    ),
    row(
        "daemon.shutdown_timeout",
        Kind::Duration,
        "How long a stop waits for open files and disk writes before it detaches the mounts.",
    ),
    row(
        "log.level",
        Kind::Text,
        "A level (error, warn, info, debug, trace, off): TenderFS logs from it on, its libraries warnings. Or a filter such as `info,tenderfs_s3client=debug`, which holds as it is. `TENDERFS_LOG` sets it too.",
    ),
    row(
        "log.format",
        Kind::Choice(&["text", "json"]),
        "One line of text or one JSON object an event.",
    ),
    row(
        "log.file",
        Kind::Path,
        "File to append the log to; a reload opens it again, for log rotation. Empty: standard error, which systemd keeps in the journal.",
    ),
    row(
        "memory.limit",
        Kind::BytesOrAuto,
        "Hard limit of the daemon's memory: cached blocks, metadata and network buffers. `auto`: a quarter of the machine's memory or of the control group's `memory.max`, whichever is smaller.",
    ),
    row(
        "cache.dir",
        Kind::PathOrAuto,
        "Directory of the disk tier (made with mode 0700; one daemon each). Empty: no disk tier. `auto`: `/var/cache/tenderfs` as root, else `$XDG_CACHE_HOME/tenderfs`; `tenderfs mount` adds a folder named by the mount point.",
    ),
    row(
        "cache.size",
        Kind::Bytes,
        "Most bytes the disk tier holds. Rule for training on shards: shard size x (files read ahead + 2), or the whole data set if it fits.",
    ),
    row(
        "cache.pack_below",
        Kind::Bytes,
        "Objects of fewer bytes, 4 MiB at most, share files of the disk tier with others: less is written, and millions of them are known in little memory. They are read by the daemon and not passed through. 0: every object has its own file.",
    ),
    row(
        "cache.free_space_ratio",
        Kind::Ratio,
        "Share of the cache's file system that the disk tier leaves free, whatever `cache.size` says.",
    ),
    row(
        "cache.policy",
        Kind::Choice(&["auto", "lru", "pin"]),
        "Which objects the disk tier keeps when it cannot hold all that is read: what was used last (`lru`), a set that stays put (`pin`; repeated passes over a data set hit it, in any order), or whichever of the two would have hit more of late (`auto`).",
    ),
    row(
        "cache.verify",
        Kind::Choice(&["first-use", "always", "never"]),
        "When bytes from disk are checked against their checksums: on first use in the daemon's life, on every read, or never.",
    ),
    row(
        "cache.scrub_period",
        Kind::Duration,
        "How often all of the disk tier is read and compared with its checksums in the background; a damaged block is dropped and fetched again. 0: never.",
    ),
    row("cache.scrub_rate", Kind::Bytes, "Most bytes that this reads a second. 0: it is not done."),
    row(
        "read_ahead.enabled",
        Kind::Flag,
        "Whether blocks ahead of a sequential reader are fetched.",
    ),
    row(
        "read_ahead.first_blocks",
        Kind::Count { min: 1, max: 1024 },
        "Blocks of 4 MiB to fetch ahead when a pattern is first seen.",
    ),
    row(
        "read_ahead.max_blocks",
        Kind::Count { min: 1, max: 1024 },
        "Blocks of 4 MiB to which that grows while the pattern holds.",
    ),
    row(
        "read_ahead.lookahead",
        Kind::Count { min: 0, max: 1024 },
        "Most files of a directory whose start is fetched before they are opened, once files are opened in the order of their names; 0: none.",
    ),
    row(
        "read_ahead.in_flight",
        Kind::Bytes,
        "Most predicted bytes being fetched at once; what would exceed it is skipped, never waited for.",
    ),
    row(
        "plans.window",
        Kind::BytesOrAuto,
        "Most bytes that are fetched for the plans of jobs and not read yet. `auto`: a third of the memory for blocks.",
    ),
    row(
        "plans.lease",
        Kind::Duration,
        "When the plans of a job are forgotten of which nothing is read and nothing heard.",
    ),
    row("s3.connect_timeout", Kind::Duration, "Time to connect to S3, TLS included."),
    row(
        "s3.first_byte_timeout",
        Kind::Duration,
        "Time from a request to the first byte of its answer.",
    ),
    row(
        "s3.stall_timeout",
        Kind::Duration,
        "How long an answer may stay below 1 KiB/s before it is fetched again on a new connection.",
    ),
    row(
        "s3.request_timeout",
        Kind::Duration,
        "Time for a request with all its retries; a read that exceeds it fails with ETIMEDOUT.",
    ),
    row(
        "s3.attempts_max",
        Kind::Count { min: 1, max: 100 },
        "Most tries of one request that a reader waits for; predicted fetches are tried once. `AWS_MAX_ATTEMPTS` sets it too.",
    ),
    row(
        "s3.backoff_first",
        Kind::Duration,
        "Pause before the first retry; it doubles, with jitter.",
    ),
    row("s3.backoff_max", Kind::Duration, "Longest pause between two tries."),
    row(
        "s3.connections_per_core",
        Kind::Count { min: 1, max: 1024 },
        "Most connections a core thread keeps to one bucket.",
    ),
    row(
        "s3.hedging",
        Kind::Flag,
        "Whether a request that has waited twice as long as nine of ten of its kind take is made a second time, by another connection, and the first answer taken: at most one request in fifty.",
    ),
    row(
        "fuse.transport",
        Kind::Choice(&["device", "ring"]),
        "How requests come from the kernel. `device`: by reads of /dev/fuse. `ring`: by FUSE over io_uring (Linux 6.14 or newer, after `echo Y > /sys/module/fuse/parameters/enable_uring`), which answers small reads and names faster and large reads slower; where the kernel does not offer it, the log says so and `device` serves.",
    ),
    row(
        "fuse.max_background",
        Kind::Count { min: 1, max: 65_535 },
        "Requests for read-ahead and the like that the kernel keeps in flight at once.",
    ),
    row(
        "fuse.congestion_threshold",
        Kind::Count { min: 1, max: 65_535 },
        "Number of those from which the kernel holds back; at most `fuse.max_background`.",
    ),
    row(
        "fuse.read_ahead",
        Kind::Bytes,
        "What the kernel reads ahead of a sequential reader of a file.",
    ),
    row(
        "fuse.request_max",
        Kind::Bytes,
        "Largest read request asked of the kernel, within its own limit.",
    ),
    row(
        "fuse.passthrough",
        Kind::Flag,
        "The kernel reads files that are complete on disk and verified by itself, at the speed of the disk's file system. `cache.verify = \"always\"` turns it off.",
    ),
    row(
        "warm.workers",
        Kind::Count { min: 1, max: 1024 },
        "Files that one `tenderfs warm` brings in at once, unless it says otherwise.",
    ),
    row(
        "mount.source",
        Kind::Text,
        "What to mount: `s3://BUCKET` or `s3://BUCKET/PREFIX`. In a file `bucket` is another name for it.",
    ),
    row("mount.prefix", Kind::Text, "The prefix, if `source` names only the bucket."),
    row("mount.mountpoint", Kind::Path, "Where to mount it: an existing, empty directory."),
    row(
        "mount.name",
        Kind::Text,
        "Label of the mount in status and metrics. Without it: the bucket and prefix.",
    ),
    row(
        "mount.region",
        Kind::Text,
        "Region of the bucket. Empty: learned from S3, `us-east-1` for other stores. `AWS_REGION` and `AWS_DEFAULT_REGION` set it for all mounts.",
    ),
    row(
        "mount.endpoint_url",
        Kind::Url,
        "URL of an S3 compatible store. Empty: AWS. `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` set it for all mounts.",
    ),
    row(
        "mount.addressing",
        Kind::Choice(&["auto", "path", "virtual-host"]),
        "Where the bucket's name goes: `path` is `https://host/bucket`, `virtual-host` is `https://bucket.host`. `auto`: path for an endpoint of one's own and for names with points over TLS.",
    ),
    row(
        "mount.profile",
        Kind::Text,
        "Profile of the AWS configuration files that credentials are taken from. Empty: the usual chain.",
    ),
    row(
        "mount.credentials_file",
        Kind::Path,
        "File with the keys of this mount, written as AWS's credentials files are (`mount.profile` names the section); it must be readable by its owner alone, who is the daemon's user or root. It is read again every minute, and at once when S3 refuses its keys.",
    ),
    row("mount.anonymous", Kind::Flag, "Whether requests go unsigned, for public buckets."),
    row("mount.requester_pays", Kind::Flag, "Whether you agree to pay for requests to the bucket."),
    row(
        "mount.expected_bucket_owner",
        Kind::Text,
        "Account (12 digits) that must own the bucket; S3 refuses every request if another one does. Empty: any.",
    ),
    row(
        "mount.dual_stack",
        Kind::Flag,
        "Whether AWS is asked by its endpoints that have IPv6 addresses too.",
    ),
    row(
        "mount.transfer_acceleration",
        Kind::Flag,
        "Whether AWS is asked by way of its nearest edge; the bucket must have transfer acceleration enabled.",
    ),
    row(
        "mount.sse_customer_key_file",
        Kind::Path,
        "File with the key of objects that were encrypted with one of your own (SSE-C): 32 bytes or their base64, readable by its owner alone. All objects of the mount are read with it.",
    ),
    row(
        "mount.ca_bundle",
        Kind::Path,
        "PEM file of certificate authorities to trust besides the system's. `AWS_CA_BUNDLE` sets it for all mounts.",
    ),
    row("mount.read_only", Kind::Flag, "Mounts are read only; `false` is refused for now."),
    row(
        "mount.access",
        Kind::Choice(&["owner", "root", "all"]),
        "Who may use the mount: the user who mounted it, root too (`-o allow_root`), or everyone by the files' permissions (`-o allow_other`).",
    ),
    row(
        "mount.uid",
        Kind::CountOrAuto { min: 0, max: u32::MAX as u64 },
        "Owner of all files. `auto`: the user who mounts.",
    ),
    row(
        "mount.gid",
        Kind::CountOrAuto { min: 0, max: u32::MAX as u64 },
        "Group of all files. `auto`: the group of the user who mounts.",
    ),
    row(
        "mount.file_mode",
        Kind::Mode,
        "Permissions of files; a read-only mount clears the write bits.",
    ),
    row(
        "mount.dir_mode",
        Kind::Mode,
        "Permissions of directories; a read-only mount clears the write bits.",
    ),
    row(
        "mount.attr_ttl",
        Kind::Duration,
        "How long sizes and times are believed before S3 is asked again.",
    ),
    row(
        "mount.entry_ttl",
        Kind::Duration,
        "How long a name is believed to exist before S3 is asked again.",
    ),
    row("mount.negative_ttl", Kind::Duration, "How long a name is believed not to exist."),
    row(
        "mount.immutable",
        Kind::Flag,
        "Whether objects never change and are never added or removed, so that S3 is not asked again.",
    ),
    row(
        "mount.manifest",
        Kind::Text,
        "What will be read, in that order, to be fetched from the mount's beginning on: a file, or `s3://BUCKET/KEY` below the mount. Lines are paths, `path,offset,length`, JSON objects with `path`, `offset` and `length`, or names with `{000..999}`. Empty: none.",
    ),
];

/// Options of a mount that have no default in `[mount_defaults]`: they differ for every mount.
pub(super) const ONLY_IN_A_MOUNT: &[&str] =
    &["mount.source", "mount.prefix", "mount.mountpoint", "mount.name"];

/// Options that a running daemon takes over on reload.
pub(super) const RELOADED: &[&str] = &[
    "daemon.shutdown_timeout",
    "log.level",
    "read_ahead.enabled",
    "read_ahead.first_blocks",
    "read_ahead.max_blocks",
    "read_ahead.lookahead",
    "warm.workers",
];

/// The row of `name`.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.name == name)
}

/// The option name without section for mounts, with the section elsewhere, its words joined by
/// `_`: `cache_size`, `region`. It is the key of `-o` and the stem of flag and variable.
pub(super) fn flat_name(name: &str) -> String {
    name.strip_prefix("mount.").unwrap_or(name).replace('.', "_")
}

/// Every option in the order of the table.
pub fn options() -> Vec<OptionDoc> {
    let defaults = super::layers::defaults().unwrap_or_default();
    let doc = |spec: &Spec| OptionDoc {
        name: spec.name,
        kind: spec.kind,
        default: defaults.options.get(spec.name).map(|written| written.text.clone()),
        meaning: spec.meaning,
        environment: environment_name(spec.name),
        flag: format!("--{}", flat_name(spec.name).replace('_', "-")),
        reloads: RELOADED.contains(&spec.name),
    };
    OPTIONS.iter().map(doc).collect()
}

/// The environment variable of option `name`; `None` for what only a single mount can say.
pub(super) fn environment_name(name: &str) -> Option<String> {
    let single = ONLY_IN_A_MOUNT.contains(&name);
    (!single).then(|| format!("TENDERFS_{}", flat_name(name).to_ascii_uppercase()))
}

/// The table of `docs/OPTIONS.md` in Markdown.
pub fn options_markdown() -> String {
    let mut text = String::from(PREFACE);
    let mut section = "";
    for option in options() {
        let (its_section, key) = option.name.split_once('.').unwrap_or(("", option.name));
        if its_section != section {
            section = its_section;
            text.push_str(&section_head(section));
        }
        let default = match &option.default {
            Some(value) if value.is_empty() => "empty".to_owned(),
            Some(value) => format!("`{value}`"),
            None => String::new(),
        };
        let reloads = if option.reloads { " (reloads)" } else { "" };
        let row = format!(
            "| `{key}` | {} | {default} | {}{reloads} | `{}`{} |\n",
            option.kind,
            option.meaning,
            option.flag,
            option.environment.map(|name| format!(", `{name}`")).unwrap_or_default(),
        );
        text.push_str(&row);
    }
    text
}

const PREFACE: &str = "# Options

Made from the table in `daemon/src/config/options.rs` and from `configs/default.toml` by
`cargo run -p tenderfs-daemon --example reference`; a test keeps it true.

An option is taken from, the last one winning: the defaults compiled in, AWS's environment variables
(`AWS_REGION`, `AWS_ENDPOINT_URL`, ...), the configuration file, the environment variables named here, and
the command line. What a `[[mount]]` says itself wins over `[mount_defaults]`, wherever that was set.
On a `mount -o` line the names have `_` or `-` alike (`cache_size=16G`).

Sizes: `512K`, `16M`, `1.5G`, `2T`, with `KiB`, `MiB`, `GiB`, `TiB` meaning the same, are powers of 1024; `KB`, `MB`,
`GB`, `TB` are powers of 1000. Durations: `500ms`, `3s`, `5m`, `1h`; a bare number is seconds.
Options marked (reloads) change in a running daemon by `systemctl reload tenderfsd` (SIGHUP); the others need a restart.
";

fn section_head(section: &str) -> String {
    let title = match section {
        "mount" => "## `[[mount]]`, and `[mount_defaults]` for all mounts".to_owned(),
        other => format!("## `[{other}]`"),
    };
    format!(
        "\n{title}\n\n| option | accepts | default | meaning | elsewhere |\n|---|---|---|---|---|\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_and_the_defaults_name_the_same_options() {
        let defaults = super::super::layers::defaults().unwrap();
        let written: BTreeSet<_> = defaults.options.keys().copied().collect();
        let listed: BTreeSet<_> = OPTIONS
            .iter()
            .map(|spec| spec.name)
            .filter(|name| !ONLY_IN_A_MOUNT.contains(name))
            .collect();
        assert_eq!(written, listed);
        assert_eq!(OPTIONS.len(), listed.len() + ONLY_IN_A_MOUNT.len(), "a name stands twice");
        assert!(RELOADED.iter().all(|name| find(name).is_some()));
    }

    #[test]
    fn no_two_options_share_a_flag() {
        let flags: BTreeSet<_> = OPTIONS.iter().map(|spec| flat_name(spec.name)).collect();
        assert_eq!(flags.len(), OPTIONS.len());
    }

    #[test]
    fn the_document_of_options_is_up_to_date() {
        assert_eq!(
            options_markdown(),
            include_str!("../../../docs/OPTIONS.md"),
            "run: cargo run -p tenderfs-daemon --example reference"
        );
    }
}
