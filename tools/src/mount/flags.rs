//! The flags of `mount` that set options, made from the daemon's table of options.
//!
//! Every option has its long flag (`cache.size` is `--cache-size`, `mount.region` is `--region`). Beside them stand the
//! names that users type from habit of other S3 file systems.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::Error};
use tenderfs_daemon::config::mount_options::{self, MountOptionError};
use tenderfs_daemon::config::{Kind, OptionDoc, Overrides, options};

/// Options that are positional arguments, not flags.
const POSITIONAL: &[&str] = &["mount.source", "mount.mountpoint"];

/// Habits without a value; `mount_options` knows what they mean.
const SWITCHES: &[(&str, &str)] = &[
    ("allow-other", "Let other users use the mount; short for --access all"),
    ("allow-root", "Let root use the mount; short for --access root"),
    ("force-path-style", "Write the bucket into the URL's path; short for --addressing path"),
    ("no-sign-request", "Do not sign requests, for public buckets; short for --anonymous"),
];

/// Habits with a value.
const ALIASES: &[(&str, &str, &str)] = &[
    ("free-space-ratio", "SHARE", "As --cache-free-space-ratio"),
    ("metadata-ttl", "DURATION", "Both --attr-ttl and --entry-ttl"),
    ("negative-metadata-ttl", "DURATION", "As --negative-ttl"),
    ("umask", "MODE", "Permission bits that files and directories lose"),
];

/// The options that were given, in the order of the table, habits after them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionFlags {
    given: Vec<Given>,
}

/// One flag that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    /// A flag named after its option.
    Option { name: &'static str, flag: String, value: String },
    /// A habit, as an option of a `-o` line.
    Habit(String),
}

impl OptionFlags {
    /// Lays the given options over others.
    pub fn lay_over(&self, overrides: &mut Overrides) -> Result<(), MountOptionError> {
        for given in &self.given {
            match given {
                Given::Option { name, flag, value } => overrides.set(name, value, flag)?,
                Given::Habit(option) => mount_options::parse(option, overrides)?,
            }
        }
        Ok(())
    }

    /// The same flags as arguments of another command line.
    pub fn to_arguments(&self) -> Vec<String> {
        let argument = |given: &Given| match given {
            Given::Option { flag, value, .. } => vec![format!("{flag}={value}")],
            Given::Habit(option) => vec!["-o".to_owned(), option.clone()],
        };
        self.given.iter().flat_map(argument).collect()
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Vec::new();
        for option in flagged_options() {
            if let Some(value) = matches.get_one::<String>(option.name) {
                let OptionDoc { name, flag, .. } = option;
                given.push(Given::Option { name, flag, value: value.clone() });
            }
        }
        for (name, _) in SWITCHES.iter().filter(|(name, _)| matches.get_flag(name)) {
            given.push(Given::Habit((*name).to_owned()));
        }
        for (name, ..) in ALIASES {
            if let Some(value) = matches.get_one::<String>(name) {
                given.push(Given::Habit(format!("{name}={}", escape(value))));
            }
        }
        Ok(OptionFlags { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = OptionFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        let of_options = flagged_options().map(|option| argument(&option));
        let switches = SWITCHES.iter().map(|(name, help)| {
            Arg::new(*name).long(*name).help(*help).action(ArgAction::SetTrue).help_heading(HABITS)
        });
        let aliases = ALIASES.iter().map(|(name, value, help)| {
            Arg::new(*name).long(*name).help(*help).value_name(*value).help_heading(HABITS)
        });
        command.args(of_options).args(switches).args(aliases)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

const HABITS: &str = "Names known from other file systems";

fn flagged_options() -> impl Iterator<Item = OptionDoc> {
    options().into_iter().filter(|option| !POSITIONAL.contains(&option.name))
}

fn argument(option: &OptionDoc) -> Arg {
    let long = option.flag.trim_start_matches('-').to_owned();
    let default = option.default.as_deref().filter(|default| !default.is_empty());
    let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    let section = option.name.split_once('.').map_or("", |(section, _)| section);
    let arg = Arg::new(option.name)
        .long(long)
        .help(format!("{}{default}", option.meaning))
        .help_heading(format!("Options of [{section}]"))
        .value_name(value_name(option.kind));
    match option.kind {
        Kind::Flag => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Choice(words) => arg.value_parser(words.to_vec()),
        _ => arg,
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Flag => "true|false",
        Kind::Count { .. } => "N",
        Kind::CountOrAuto { .. } => "N|auto",
        Kind::Ratio => "SHARE",
        Kind::Bytes => "SIZE",
        Kind::BytesOrAuto => "SIZE|auto",
        Kind::Duration => "DURATION",
        Kind::Text => "TEXT",
        Kind::Path => "PATH",
        Kind::PathOrAuto => "PATH|auto",
        Kind::SocketAddress => "HOST:PORT",
        Kind::Url => "URL",
        Kind::Mode => "MODE",
        Kind::Choice(_) => "WORD",
    }
}

/// A value as it stands in a `-o` line.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tenderfs_daemon::config::{Access, Addressing, MountSettings, Settings, load};

    fn flags(line: &[&str]) -> OptionFlags {
        let command = OptionFlags::augment_args(Command::new("mount"));
        let line = ["mount"].iter().chain(line);
        OptionFlags::from_arg_matches(&command.get_matches_from(line)).unwrap()
    }

    fn settings(line: &[&str]) -> Result<Settings, String> {
        let mut overrides = Overrides::with_mount("s3://bucket", Path::new("/mnt/data"));
        flags(line).lay_over(&mut overrides).map_err(|error| error.to_string())?;
        load(None, overrides, &|_| None).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(line: &[&str], holds: impl Fn(&Settings, &MountSettings) -> bool) {
        let settings = settings(line).unwrap();
        assert!(holds(&settings, &settings.mounts[0]), "{line:?}: {settings:?}");
    }

    /// The flags of conventions that users type from habit.
    #[test]
    fn flags_known_from_elsewhere_mean_what_users_expect() {
        check(&["--prefix", "a/b"], |_, mount| mount.prefix == "a/b/");
        check(&["--region", "eu-west-1"], |_, mount| mount.region.as_deref() == Some("eu-west-1"));
        check(&["--endpoint-url=http://h:1"], |_, mount| mount.endpoint_url.is_some());
        check(&["--force-path-style"], |_, mount| mount.addressing == Addressing::Path);
        check(&["--profile", "p"], |_, mount| mount.profile.as_deref() == Some("p"));
        check(&["--no-sign-request"], |_, mount| mount.anonymous);
        check(&["--requester-pays"], |_, mount| mount.requester_pays);
        check(&["--read-only"], |_, mount| mount.read_only);
        check(&["--allow-other"], |_, mount| mount.access == Access::All);
        check(&["--allow-root"], |_, mount| mount.access == Access::Root);
        check(&["--uid", "7", "--gid=8"], |_, mount| (mount.uid, mount.gid) == (7, 8));
        check(&["--file-mode", "0640"], |_, mount| mount.file_mode == 0o440);
        check(&["--dir-mode", "0750"], |_, mount| mount.dir_mode == 0o550);
        check(&["--umask", "077"], |_, mount| mount.file_mode == 0o400);
        check(&["--cache-dir", "/c"], |all, _| all.cache.dir.as_deref() == Some(Path::new("/c")));
        check(&["--cache-size", "16G"], |all, _| all.cache.size_bytes == 16 << 30);
        check(&["--free-space-ratio", "0.2"], |all, _| {
            (all.cache.free_space_ratio - 0.2).abs() < 1e-9
        });
        check(&["--memory-limit", "2G"], |all, _| all.memory.limit_bytes == 2 << 30);
        check(&["--metadata-ttl", "5s"], |_, mount| {
            mount.entry_ttl == mount.attr_ttl && mount.attr_ttl.as_secs() == 5
        });
        check(&["--negative-metadata-ttl", "1s"], |_, mount| mount.negative_ttl.as_secs() == 1);
        check(&["--ca-bundle", "/ca.pem"], |_, mount| mount.ca_bundle.is_some());
        check(&["--log-level", "debug"], |all, _| all.log.level == "debug");
    }

    #[test]
    fn every_option_of_the_table_has_a_flag_with_help() {
        let mut command = OptionFlags::augment_args(Command::new("mount"));
        command.clone().debug_assert();
        let help = command.render_help().to_string();
        for option in flagged_options() {
            assert!(help.contains(&option.flag), "{}", option.flag);
        }
    }

    #[test]
    fn bad_value_names_the_flag() {
        let error = settings(&["--cache-size", "big"]).unwrap_err();
        assert!(error.contains("--cache-size") && error.contains("16G"), "{error}");
    }

    #[test]
    fn flags_survive_being_passed_on() {
        let line = ["--cache-size", "16G", "--requester-pays", "--allow-other", "--umask", "077"];
        let first = flags(&line);
        let passed = first.to_arguments();
        let (long, habits): (Vec<_>, Vec<_>) =
            passed.iter().partition(|word| word.starts_with("--"));
        assert_eq!(long, ["--cache-size=16G", "--requester-pays=true"]);
        assert_eq!(habits, ["-o", "allow-other", "-o", "umask=077"]);
    }
}
