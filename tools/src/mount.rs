//! `tenderfs mount` and `mount.tenderfs`: settle what is wanted, then serve it here or in the background.
//!
//! In the background a second process of the same program serves; the first waits for its word on a pipe, so that the
//! terminal is given back when the mount answers, or with the reason why it does not.

pub mod background;
pub mod flags;

use std::path::{Path, PathBuf};

use tenderfs_daemon::config::mount_options::{self, MountOptionError};
use tenderfs_daemon::config::{self, Overrides, Settings, process_environment};
use tenderfs_daemon::{logging, run};

use self::background::Readiness;
use self::flags::OptionFlags;
use crate::cli::{HelperArgs, MountArgs};
use crate::doctor::mounting::{Means, is_stale};
use crate::error::ToolError;
use crate::umount;

/// What is to be mounted, as the command line says it.
#[derive(Debug, Clone)]
pub struct Wanted {
    source: String,
    mountpoint: PathBuf,
    mount_options: Vec<String>,
    sloppy: bool,
    flags: OptionFlags,
    config: Option<PathBuf>,
}

/// `tenderfs mount`.
pub fn main(args: MountArgs) -> Result<(), ToolError> {
    let wanted = Wanted {
        source: args.source,
        mountpoint: absolute(&args.mountpoint)?,
        mount_options: args.mount_options,
        sloppy: false,
        flags: args.options,
        config: args.config,
    };
    if args.foreground {
        let readiness = args.detached.then(Readiness::take_standard_output).transpose();
        return match readiness.map_err(ToolError::Background)? {
            None => serve(&wanted, |()| {}),
            Some(readiness) => readiness.report(|ready| serve(&wanted, ready)),
        };
    }
    in_background(&wanted, args.force_unmount_stale)
}

/// `mount.tenderfs`.
pub fn helper_main(args: HelperArgs) -> Result<(), ToolError> {
    let wanted = Wanted {
        source: args.source,
        mountpoint: absolute(&args.mountpoint)?,
        mount_options: args.mount_options,
        sloppy: args.sloppy,
        flags: OptionFlags::default(),
        config: None,
    };
    if args.fake {
        wanted.settings()?;
        return Ok(());
    }
    in_background(&wanted, false)?;
    if args.verbose {
        println!("mount.tenderfs: {} mounted on {}", wanted.source, wanted.mountpoint.display());
    }
    Ok(())
}

fn in_background(wanted: &Wanted, force_unmount_stale: bool) -> Result<(), ToolError> {
    // What is wrong with the words themselves is said here, before any process is started.
    let settings = wanted.settings()?;
    if let Some(obstacle) = Means::look(&path_variable()).obstacle() {
        return Err(ToolError::CannotMount { obstacle });
    }
    if force_unmount_stale && is_stale(&wanted.mountpoint) {
        umount::detach(&wanted.mountpoint, umount::How::Lazy)?;
    }
    background::start(&wanted.arguments()?, &settings.log, &wanted.mountpoint)
}

/// Serves in this process until it is stopped or unmounted.
fn serve(wanted: &Wanted, ready: impl FnOnce(())) -> Result<(), ToolError> {
    let settings = wanted.settings()?;
    if let Some(obstacle) = Means::look(&path_variable()).obstacle() {
        return Err(ToolError::CannotMount { obstacle });
    }
    logging::init(&settings.log).map_err(|error| ToolError::Daemon(error.into()))?;
    let reload = || match wanted.settings() {
        Ok(settings) => Ok(settings),
        Err(ToolError::Config(error) | ToolError::MountOption(MountOptionError::Config(error))) => {
            Err(error)
        }
        // The same words were understood at the start.
        Err(_) => Ok(settings.clone()),
    };
    run(settings.clone(), |_| ready(()), &reload).map_err(ToolError::Daemon)
}

impl Wanted {
    fn settings(&self) -> Result<Settings, ToolError> {
        let mut overrides = Overrides::with_mount(&self.source, &self.mountpoint);
        self.flags.lay_over(&mut overrides)?;
        for option in self.mount_options.iter().flat_map(|line| split(line)) {
            match mount_options::parse(option, &mut overrides) {
                Err(MountOptionError::Unknown { .. }) if self.sloppy => {}
                parsed => parsed?,
            }
        }
        Ok(config::load(self.config.as_deref(), overrides, &process_environment)?)
    }

    /// The command line of the process that serves this in the background.
    fn arguments(&self) -> Result<Vec<std::ffi::OsString>, ToolError> {
        let mut arguments: Vec<std::ffi::OsString> =
            ["mount", "--foreground", "--detached"].map(Into::into).to_vec();
        if let Some(config) = &self.config {
            arguments.extend(["--config".into(), absolute(config)?.into()]);
        }
        arguments.extend(self.flags.to_arguments().into_iter().map(Into::into));
        let mut ignored = Overrides::with_mount(&self.source, &self.mountpoint);
        for option in self.mount_options.iter().flat_map(|line| split(line)) {
            // What was overlooked here is not passed on.
            if !(self.sloppy && mount_options::parse(option, &mut ignored).is_err()) {
                arguments.extend(["-o".into(), option.into()]);
            }
        }
        arguments.extend(["--".into(), self.source.clone().into(), self.mountpoint.clone().into()]);
        Ok(arguments)
    }
}

/// The options of a `-o` line, still escaped: cut at commas that no backslash precedes.
fn split(line: &str) -> Vec<&str> {
    let mut options = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, character) in line.char_indices() {
        if character == ',' && !escaped {
            options.push(&line[start..at]);
            start = at + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    options.push(&line[start..]);
    options.retain(|option| !option.is_empty());
    options
}

fn absolute(path: &Path) -> Result<PathBuf, ToolError> {
    std::path::absolute(path).map_err(|source| ToolError::Path { path: path.to_path_buf(), source })
}

fn path_variable() -> String {
    process_environment("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_line_is_cut_at_plain_commas_only() {
        assert_eq!(split(r"a=b\,c,,d=\\,e"), [r"a=b\,c", r"d=\\", "e"]);
        assert!(split("").is_empty());
    }

    fn wanted(options: &str, sloppy: bool) -> Wanted {
        Wanted {
            source: "s3://bucket".to_owned(),
            mountpoint: PathBuf::from("/mnt/data"),
            mount_options: vec![options.to_owned()],
            sloppy,
            flags: OptionFlags::default(),
            config: None,
        }
    }

    #[test]
    fn unknown_option_is_refused_unless_sloppy() {
        let error = wanted("regoin=x", false).settings().unwrap_err();
        assert_eq!(error.exit_code(), crate::error::EXIT_USAGE);
        assert!(error.to_string().contains("region"), "{error}");
        let settings = wanted("regoin=x,region=y", true).settings().unwrap();
        assert_eq!(settings.mounts[0].region.as_deref(), Some("y"));
    }

    #[test]
    fn process_in_the_background_gets_the_same_words() {
        let arguments = wanted("ro,name=a\\,b,regoin=x", true).arguments().unwrap();
        let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        let expected = [
            "mount",
            "--foreground",
            "--detached",
            "-o",
            "ro",
            "-o",
            "name=a\\,b",
            "--",
            "s3://bucket",
            "/mnt/data",
        ];
        assert_eq!(words, expected);
    }
}
