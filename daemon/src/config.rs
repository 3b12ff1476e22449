//! Configuration: what was written, laid over the defaults and made into [`Settings`].
//!
//! The way is always the same: `configs/default.toml`, AWS's environment variables, the file, the
//! `TENDERFS_*` environment, the command line, each winning over the ones before. A mount's own
//! values win over `[mount_defaults]`. From the settings, [`Limits`] derives every bound of the
//! daemon in one place.
//!
//! Invariant: this module and the command line are the only readers of the environment, and nothing
//! else in the project knows a default.

use std::path::{Path, PathBuf};

mod error;
mod layers;
mod limits;
mod machine;
pub mod mount_options;
mod options;
mod overrides;
mod resolve;
mod settings;
mod source;
mod units;

pub use error::{ConfigError, Origin};
pub use limits::Limits;
pub use machine::Machine;
pub use options::{DEFAULT_TOML, Kind, OptionDoc, options, options_markdown};
pub use overrides::Overrides;
pub use settings::{
    Access, Addressing, CacheSettings, CoreCount, DaemonSettings, FuseSettings, LogFormat,
    LogSettings, MemorySettings, MountSettings, PlanSettings, Policy, ReadAheadSettings, Reload,
    S3Settings, ScrubSettings, Settings, Transport, Verify, WarmSettings,
};
pub use source::{Source, SourceError, normalise_prefix};
pub use units::{format_bytes, parse_bytes, parse_duration, parse_flag, parse_mode};

/// Where a file is looked for if none is named.
pub const DEFAULT_PATH: &str = "/etc/tenderfs/tenderfs.toml";

/// Loads the settings of this machine: defaults, `path`, environment and command line.
pub fn load(
    path: Option<&Path>,
    overrides: Overrides,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    load_on(&Machine::detect(environment), path, overrides, environment)
}

/// As [`load`], for a machine described by the caller.
pub fn load_on(
    machine: &Machine,
    path: Option<&Path>,
    overrides: Overrides,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    let mut layer = layers::defaults()?;
    layer.lay_over(layers::aws_environment(environment));
    if let Some(path) = path {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        layer.lay_over(layers::parse_file(&text, path)?);
    }
    layer.lay_over(layers::environment(environment));
    let describes_a_mount = overrides.describes_a_mount();
    layer.lay_over(overrides.into_layer());
    resolve::resolve(&layer, machine, describes_a_mount)
}

/// A variable of the process's environment; what is not UTF-8 is taken as absent.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Admin sockets of the daemons that run here as this user, the system's daemon first, then those
/// of single mounts by name. A socket may be a dead daemon's: connecting tells.
pub fn admin_sockets(machine: &Machine) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&machine.run_dir).into_iter().flatten().flatten();
    let mut sockets: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    sockets.sort_by_key(|path| (!path.ends_with("admin.sock"), path.clone()));
    sockets
}

#[cfg(test)]
mod tests;
