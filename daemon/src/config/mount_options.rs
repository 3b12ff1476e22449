//! The `-o` line of mount(8) and of `tenderfs mount`.
//!
//! Pure: text in, [`Overrides`] filled or a reason out. What belongs to mount(8) itself is dropped
//! silently, habits of other S3 file systems are translated, every option of ours is known by its
//! flat name, and anything else is an error that names the nearest known one.

use super::error::{ConfigError, did_you_mean, nearest};
use super::layers::find_flat;
use super::options::{OPTIONS, flat_name};
use super::overrides::Overrides;
use super::units::parse_mode;

/// Why a `-o` line is not understood.
#[derive(Debug, thiserror::Error)]
pub enum MountOptionError {
    /// Nobody knows this option.
    #[error(
        "unknown mount option `{name}`{}",
        did_you_mean(nearest.as_deref())
    )]
    Unknown {
        /// As written.
        name: String,
        /// The known name that resembles it, if one does.
        nearest: Option<String>,
    },
    /// The option needs a value.
    #[error("mount option `{name}` needs a value: write {name}=VALUE")]
    NoValue {
        /// As written.
        name: String,
    },
    /// The option takes no value, or not this one.
    #[error("mount option `{name}` cannot be `{value}`: it is {expected}")]
    BadValue {
        /// As written.
        name: String,
        /// As written.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// The settings refuse it.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Options of mount(8), fstab and the kernel that say nothing to a file system in user space, or
/// that hold here anyway (`nosuid`, `nodev`, `noatime`).
const DROPPED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "async",
    "default_permissions",
    "uhelper",
    "helper",
];

/// Habits that translate to one of our options with a fixed value.
const SWITCHES: &[(&str, &str, &str)] = &[
    ("ro", "mount.read_only", "true"),
    ("read_only", "mount.read_only", "true"),
    ("allow_other", "mount.access", "all"),
    ("allow_root", "mount.access", "root"),
    ("force_path_style", "mount.addressing", "path"),
    ("use_path_request_style", "mount.addressing", "path"),
    ("no_sign_request", "mount.anonymous", "true"),
    ("public_bucket", "mount.anonymous", "true"),
];

/// Other names of our options, with a value.
const ALIASES: &[(&str, &[&str])] = &[
    ("endpoint", &["mount.endpoint_url"]),
    ("url", &["mount.endpoint_url"]),
    ("metadata_ttl", &["mount.attr_ttl", "mount.entry_ttl"]),
    ("attr_timeout", &["mount.attr_ttl"]),
    ("entry_timeout", &["mount.entry_ttl"]),
    ("negative_metadata_ttl", &["mount.negative_ttl"]),
    ("negative_timeout", &["mount.negative_ttl"]),
    ("free_space_ratio", &["cache.free_space_ratio"]),
    ("max_background", &["fuse.max_background"]),
    ("congestion_threshold", &["fuse.congestion_threshold"]),
];

/// Reads a `-o` line into `overrides`; where options repeat, the last one wins.
pub fn parse(line: &str, overrides: &mut Overrides) -> Result<(), MountOptionError> {
    for option in split(line) {
        let (written, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        apply(written, value, overrides)?;
    }
    Ok(())
}

/// The options between commas, `\,` and `\\` unescaped (any other backslash is itself); empty ones
/// are left out.
fn split(line: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let next = match character {
            ',' => {
                options.push(String::new());
                continue;
            }
            '\\' => characters.next_if(|next| matches!(next, ',' | '\\')).unwrap_or('\\'),
            plain => plain,
        };
        if let Some(option) = options.last_mut() {
            option.push(next);
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

fn apply(
    written: &str,
    value: Option<&str>,
    overrides: &mut Overrides,
) -> Result<(), MountOptionError> {
    let name = written.replace('-', "_");
    let flag = format!("-o {written}");
    if is_dropped(written, &name) {
        return Ok(());
    }
    if name == "umask" {
        return umask(value, &flag, overrides);
    }
    if let Some((_, option, fixed)) = SWITCHES.iter().find(|(switch, ..)| *switch == name) {
        return match value {
            None => Ok(overrides.set(option, fixed, &flag)?),
            Some(value) => Err(MountOptionError::BadValue {
                name: written.to_owned(),
                value: value.to_owned(),
                expected: "a switch without a value",
            }),
        };
    }
    for option in targets(written, &name)? {
        let is_flag = option.is_flag;
        let value = match value {
            None if is_flag => "true",
            None => return Err(MountOptionError::NoValue { name: written.to_owned() }),
            Some(value) => value,
        };
        overrides.set(option.name, value, &flag)?;
    }
    Ok(())
}

/// One of our options that a written name stands for.
struct Target {
    name: &'static str,
    is_flag: bool,
}

fn targets(written: &str, name: &str) -> Result<Vec<Target>, MountOptionError> {
    if let Some((_, options)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Ok(options.iter().map(|name| Target { name, is_flag: false }).collect());
    }
    match find_flat(name).filter(|spec| !matches!(spec.name, "mount.source" | "mount.mountpoint")) {
        Some(spec) => {
            let is_flag = spec.kind == super::options::Kind::Flag;
            Ok(vec![Target { name: spec.name, is_flag }])
        }
        None => Err(unknown(written)),
    }
}

fn is_dropped(written: &str, name: &str) -> bool {
    DROPPED.contains(&name) || written.starts_with("x-") || name == "comment"
}

/// `umask=022`: the permissions that files and directories lose.
fn umask(
    value: Option<&str>,
    flag: &str,
    overrides: &mut Overrides,
) -> Result<(), MountOptionError> {
    let name = || "umask".to_owned();
    let Some(value) = value else {
        return Err(MountOptionError::NoValue { name: name() });
    };
    let Some(mask) = parse_mode(value).filter(|mask| *mask <= 0o777) else {
        let expected = "permission bits such as 022";
        return Err(MountOptionError::BadValue { name: name(), value: value.to_owned(), expected });
    };
    overrides.set("mount.file_mode", &format!("{:o}", 0o666 & !mask), flag)?;
    overrides.set("mount.dir_mode", &format!("{:o}", 0o777 & !mask), flag)?;
    Ok(())
}

fn unknown(written: &str) -> MountOptionError {
    let ours: Vec<String> = OPTIONS.iter().map(|spec| flat_name(spec.name)).collect();
    let known = ours
        .iter()
        .map(String::as_str)
        .chain(SWITCHES.iter().map(|(name, ..)| *name))
        .chain(ALIASES.iter().map(|(name, _)| *name))
        .chain(["umask"]);
    let nearest = nearest(written, known).map(str::to_owned);
    MountOptionError::Unknown { name: written.to_owned(), nearest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, Settings, load_on};
    use std::path::Path;

    fn settings(line: &str) -> Result<Settings, String> {
        let mut overrides = Overrides::with_mount("s3://bucket", Path::new("/mnt/data"));
        parse(line, &mut overrides).map_err(|error| error.to_string())?;
        load_on(&Machine::example(), None, overrides, &|_| None).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(line: &str, sees: impl Fn(&Settings) -> bool) {
        assert!(sees(&settings(line).unwrap()), "{line}");
    }

    #[test]
    fn an_fstab_line_says_what_it_means() {
        let line = "_netdev,nofail,ro,allow_other,region=eu-west-1,cache_dir=/data/cache,x-systemd.requires=network.target,comment=a b";
        let settings = settings(line).unwrap();
        let mount = &settings.mounts[0];
        assert!(mount.read_only);
        assert_eq!(mount.access, crate::config::Access::All);
        assert_eq!(mount.region.as_deref(), Some("eu-west-1"));
        assert_eq!(settings.cache.dir.as_deref(), Some(Path::new("/data/cache")));
    }

    #[test]
    fn underscores_and_dashes_mean_the_same() {
        for line in ["cache_size=16G", "cache-size=16G", "cache_size=1M,cache-size=16GiB"] {
            check(line, |settings| settings.cache.size_bytes == 16 << 30);
        }
        check("free-space-ratio=0.2", |s| (s.cache.free_space_ratio - 0.2).abs() < 1e-9);
        check("memory-limit=2G", |s| s.memory.limit_bytes == 2 << 30);
    }

    #[test]
    fn habits_of_other_file_systems_are_understood() {
        let mode = |s: &Settings| (s.mounts[0].file_mode, s.mounts[0].dir_mode);
        check("umask=027", |s| mode(s) == (0o440, 0o550));
        check("metadata-ttl=5", |s| s.mounts[0].attr_ttl.as_secs() == 5);
        check("metadata-ttl=5", |s| s.mounts[0].entry_ttl.as_secs() == 5);
        check("no-sign-request", |s| s.mounts[0].anonymous);
        check("requester_pays", |s| s.mounts[0].requester_pays);
        check("immutable=no", |s| !s.mounts[0].immutable);
        check("prefix=a/b", |s| s.mounts[0].prefix == "a/b/");
        check("defaults,,noatime,rw", |s| s.mounts[0].read_only);
    }

    #[test]
    fn commas_and_backslashes_are_escaped() {
        check(r"name=a\,b\\c,region=x", |s| s.mounts[0].name == r"a,b\c");
        check(r"name=a\b\", |s| s.mounts[0].name == r"a\b\");
    }

    #[test]
    fn what_is_not_known_names_what_is() {
        for (line, message) in [
            ("regoin=x", "unknown mount option `regoin`; did you mean `region`?"),
            ("cache-szie=1", "unknown mount option `cache-szie`; did you mean `cache_size`?"),
            ("allow_othr", "unknown mount option `allow_othr`; did you mean `allow_other`?"),
            ("zzz", "unknown mount option `zzz`; docs/OPTIONS.md lists them all"),
            ("region", "mount option `region` needs a value: write region=VALUE"),
            ("ro=1", "mount option `ro` cannot be `1`: it is a switch without a value"),
            ("umask=9", "mount option `umask` cannot be `9`: it is permission bits such as 022"),
            (
                "cache_size=big",
                "-o cache_size: `cache.size` cannot be `big`: it is a size such as 512M or 16G",
            ),
        ] {
            assert_eq!(settings(line).unwrap_err(), message, "{line}");
        }
    }
}
