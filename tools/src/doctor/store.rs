//! Credentials and the bucket: a throw-away mount of it, since that is what must work.

use std::path::Path;

use tenderfs_daemon::config::{self, Overrides, Settings, process_environment};
use tenderfs_daemon::{DaemonError, one_line, start};

use super::line::Line;
use super::mounting::Means;
use crate::error::ToolError;
use crate::mount::flags::OptionFlags;

const TOPIC: &str = "bucket";

/// Whether the bucket can be reached and mounted with these options; a line that says how to ask if none is named.
pub fn line(source: Option<&str>, options: &OptionFlags, means: &Means) -> Result<Line, ToolError> {
    let Some(source) = source else {
        return Ok(Line::ok(TOPIC, "not looked for; `tenderfs doctor s3://BUCKET` does"));
    };
    if let Some(obstacle) = means.obstacle() {
        return Ok(Line::missing(
            TOPIC,
            format!("{source} was not tried: {obstacle}"),
            "mend that first",
        ));
    }
    let write = |source| ToolError::Write { path: std::env::temp_dir(), source };
    let dir = tempfile::Builder::new().prefix("tenderfs-doctor").tempdir().map_err(write)?;
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).map_err(write)?;
    let settings = settings(source, &mountpoint, options)?;
    let mounted = start(settings).map(|running| {
        let answer = std::fs::read_dir(&mountpoint).map(|_| ());
        running.stop();
        answer
    });
    Ok(judge(source, mounted))
}

/// As the mount would have them, but small, without a cache, and with a socket of its own.
fn settings(source: &str, mountpoint: &Path, options: &OptionFlags) -> Result<Settings, ToolError> {
    let mut overrides = Overrides::with_mount(source, mountpoint);
    options.lay_over(&mut overrides)?;
    let socket = mountpoint.with_extension("sock");
    for (name, value) in [
        ("daemon.admin_socket", &*socket.to_string_lossy()),
        ("daemon.cores", "1"),
        ("daemon.mount_timeout", "5s"),
        ("daemon.metrics_listen", ""),
        ("cache.dir", ""),
    ] {
        overrides.set(name, value, "tenderfs doctor")?;
    }
    Ok(config::load(None, overrides, &process_environment)?)
}

fn judge(source: &str, mounted: Result<std::io::Result<()>, DaemonError>) -> Line {
    match mounted {
        Ok(Ok(())) => Line::ok(TOPIC, format!("{source} was mounted and listed")),
        Ok(Err(error)) => {
            Line::missing(TOPIC, format!("{source} was mounted but not listed: {error}"), "")
        }
        // The line of the daemon says what to do itself.
        Err(error) => Line::missing(TOPIC, one_line(&error), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::State;
    use super::*;

    #[test]
    fn bucket_that_is_not_named_is_not_looked_for() {
        let means = Means { device: Ok(()), root: true, fusermount: None };
        let line = line(None, &OptionFlags::default(), &means).unwrap();
        assert_eq!(line.state, State::Ok);
    }

    #[test]
    fn machine_that_cannot_mount_says_so_instead_of_trying() {
        let means = Means { device: Ok(()), root: false, fusermount: None };
        let line = line(Some("s3://bucket"), &OptionFlags::default(), &means).unwrap();
        assert!(line.state == State::Missing && line.found.contains("fusermount3"), "{line}");
    }
}
