//! `tenderfs doctor`: what this machine can do, and what to do about the rest.
//!
//! Each topic is asked of the machine itself: a ring is made, memory is locked, a throw-away mount is made, a bucket is
//! listed. Nothing is inferred from versions.

pub mod cache_dir;
pub mod fuse_probe;
pub mod line;
pub mod memory;
pub mod mounting;
pub mod store;
pub mod uring;

use std::path::{Path, PathBuf};

use tenderfs_daemon::config::{self, Overrides, Settings, process_environment};

use self::line::{Line, State, verdict};
use self::mounting::Means;
use crate::cli::DoctorArgs;
use crate::error::ToolError;

/// `tenderfs doctor`. It fails if something is missing, not if something is weaker.
pub fn main(args: &DoctorArgs) -> Result<(), ToolError> {
    let settings = settings(args)?;
    let means = Means::look(&process_environment("PATH").unwrap_or_default());
    let mut lines = machine_lines(&means, settings.cache.dir.as_deref());
    lines.push(store::line(args.source.as_deref(), &args.options, &means)?);
    if args.json {
        let json = serde_json::to_string_pretty(&lines);
        println!(
            "{}",
            json.unwrap_or_else(|error| unreachable!("lines have string keys only: {error}"))
        );
    } else {
        for line in &lines {
            println!("{line}");
        }
    }
    if verdict(&lines) == State::Missing { Err(ToolError::Unhealthy) } else { Ok(()) }
}

/// The settings that a mount of the source would have, or those without any mount.
fn settings(args: &DoctorArgs) -> Result<Settings, ToolError> {
    let mut overrides = match &args.source {
        // The mount point is not used; it only has to be named.
        Some(source) => Overrides::with_mount(source, Path::new("/mnt")),
        None => Overrides::new(),
    };
    args.options.lay_over(&mut overrides)?;
    Ok(config::load(None, overrides, &process_environment)?)
}

fn machine_lines(means: &Means, cache_dir: Option<&Path>) -> Vec<Line> {
    let mut lines = vec![
        kernel(),
        processors(),
        means.device_line(),
        means.mount_line(),
        mounting::allow_other(),
    ];
    if means.device.is_ok() {
        lines.extend(fuse_probe::lines(&fuse_probe::probe(&backing_dir(cache_dir))));
    }
    lines.extend([
        uring::io_uring(),
        memory::memlock(),
        memory::huge_pages(),
        memory::open_files(),
    ]);
    lines.push(match cache_dir {
        Some(dir) => cache_dir::cache_dir(dir),
        None => {
            Line::weaker("cache directory", "none: nothing outlives a restart", "set --cache-dir")
        }
    });
    lines.extend([mounting::stale_mounts(), mounting::updatedb()]);
    lines
}

/// Where a backing file of the cache would lie: the nearest directory that exists.
fn backing_dir(cache_dir: Option<&Path>) -> PathBuf {
    let existing = cache_dir.and_then(|dir| dir.ancestors().find(|path| path.is_dir()));
    existing.map_or_else(std::env::temp_dir, Path::to_path_buf)
}

fn kernel() -> Line {
    match nix::sys::utsname::uname() {
        Ok(name) => {
            Line::ok("kernel", format!("{} {}", name.sysname().display(), name.release().display()))
        }
        Err(errno) => Line::weaker("kernel", format!("unknown: {errno}"), ""),
    }
}

fn processors() -> Line {
    let machine = config::Machine::detect(&process_environment);
    let memory = config::format_bytes(machine.memory_bytes);
    Line::ok("processors", format!("{}, and {memory} of memory", machine.processors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_is_not_ok_and_can_be_mended_says_how() {
        let dir = tempfile::tempdir().unwrap();
        let lines = machine_lines(&Means::look("/usr/bin"), Some(dir.path()));
        let topics: Vec<_> = lines.iter().map(|line| line.topic).collect();
        for topic in [
            "kernel",
            "/dev/fuse",
            "mounting",
            "io_uring",
            "locked memory",
            "huge pages",
            "cache directory",
        ] {
            assert!(topics.contains(&topic), "{topic} is missing in {topics:?}");
        }
        for line in lines.iter().filter(|line| line.state == State::Missing) {
            assert!(!line.remedy.is_empty(), "{line}");
        }
    }
}
