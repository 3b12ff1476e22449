//! Credentials and the bucket, asked by the daemon's own means.

use tenderfs_daemon::config::Settings;
use tenderfs_daemon::{one_line, probe_bucket};

use super::line::Line;

/// Whether the bucket of the settings' mount can be reached, if there is one.
pub fn lines(settings: &Settings) -> Vec<Line> {
    const TOPIC: &str = "bucket";
    let Some(mount) = settings.mounts.first() else {
        return vec![Line::ok(TOPIC, "not asked for; `tenderfs doctor s3://BUCKET` looks for one")];
    };
    match probe_bucket(settings, mount) {
        Ok(()) => vec![Line::ok(TOPIC, format!("{} can be listed", mount.source()))],
        Err(error) => vec![Line::missing(TOPIC, one_line(&error), "")],
    }
}
