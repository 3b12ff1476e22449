//! What can be wrong with a configuration, each with the place it was written.

use std::fmt;
use std::path::PathBuf;

use super::source::SourceError;
use super::units::format_bytes;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `configs/default.toml`, compiled in.
    Default,
    /// A line of a configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable of this name.
    Environment(String),
    /// The command line, with the flag or mount option as the user wrote it.
    CommandLine(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("configs/default.toml"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::CommandLine(flag) => f.write_str(flag),
        }
    }
}

/// Why there are no settings. Each is one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: not valid TOML: {reason}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// The parser's reason, in one line.
        reason: String,
    },
    /// There is no such option.
    #[error("{origin}: unknown option `{name}`{}", did_you_mean(nearest.as_deref()))]
    UnknownOption {
        /// Where.
        origin: Origin,
        /// The name as written.
        name: String,
        /// The known name that resembles it, if one does.
        nearest: Option<String>,
    },
    /// The option exists, but only a single mount can say it.
    #[error("{origin}: `{name}` differs for every mount: write it in a [[mount]]")]
    OnlyInAMount {
        /// Where.
        origin: Origin,
        /// The option.
        name: &'static str,
    },
    /// A value the option does not accept.
    #[error("{origin}: `{name}` cannot be `{value}`: it is {expected}")]
    BadValue {
        /// Where.
        origin: Origin,
        /// The option.
        name: &'static str,
        /// The value as written.
        value: String,
        /// What the option accepts.
        expected: String,
    },
    /// The source of a mount is none.
    #[error("{origin}: {reason}")]
    BadSource {
        /// Where.
        origin: Origin,
        /// Why.
        #[source]
        reason: SourceError,
    },
    /// Two options of a mount exclude each other.
    #[error("{origin}: `{name}` and `{other}` exclude each other: write one of them")]
    Exclusive {
        /// Where the first was written.
        origin: Origin,
        /// One option.
        name: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A mount lacks what every mount must say.
    #[error("{origin}: this mount has no `{name}`: every [[mount]] needs source and mountpoint")]
    Incomplete {
        /// Where the mount was written.
        origin: Origin,
        /// What it lacks.
        name: &'static str,
    },
    /// Two mounts want the same thing that only one can have.
    #[error("{origin}: two mounts have the {name} `{value}`: give each its own")]
    Twice {
        /// Where the second was written.
        origin: Origin,
        /// `name` or `mountpoint`.
        name: &'static str,
        /// What both have.
        value: String,
    },
    /// The memory limit leaves the cores nothing to work with.
    #[error(
        "memory.limit is {}, but {cores} core threads need at least {}: raise memory.limit or lower daemon.cores",
        format_bytes(*limit_bytes), format_bytes(*minimum_bytes)
    )]
    MemoryTooSmall {
        /// The limit that was asked for or found.
        limit_bytes: u64,
        /// The least that works.
        minimum_bytes: u64,
        /// Core threads it was computed for.
        cores: usize,
    },
}

/// The half sentence that follows an unknown name.
pub(super) fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; docs/OPTIONS.md lists them all".to_owned(),
    }
}

/// The known name nearest to what was written, if one is near enough to be meant: at most a third
/// of its characters differ (two at least), swapped neighbours counting once; or else one that ends
/// in the same word.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let known: Vec<&str> = known.into_iter().collect();
    let written = plain(written);
    let distance = |name: &&str| strsim::damerau_levenshtein(&written, &plain(name));
    let is_near = |name: &&str| distance(name) <= (name.len().max(written.len()) / 3).max(2);
    let last_word = written.rsplit('_').next().unwrap_or(&written);
    let ends_alike = |name: &&str| plain(name).rsplit('_').next() == Some(last_word);
    let mut names = known.iter().copied();
    names.clone().filter(is_near).min_by_key(distance).or_else(|| names.find(ends_alike))
}

/// Names compared without regard to how their words are joined.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['.', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let known =
            ["cache.size", "cache.dir", "memory.limit", "mount.region", "read_ahead.enabled"];
        for (written, meant) in [
            ("cache.szie", Some("cache.size")),
            ("cache-size", Some("cache.size")),
            ("cache.limit", Some("memory.limit")),
            ("cache.sizes", Some("cache.size")),
            ("mount.regoin", Some("mount.region")),
            ("readahead.enabled", Some("read_ahead.enabled")),
            ("xyzzy", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
    }
}
