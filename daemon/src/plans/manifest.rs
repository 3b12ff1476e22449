//! Reads a mount's manifest, once, when it is mounted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tracing::warn;

use crate::config::MountSettings;
use crate::mount::Mount;

/// Where a manifest is read: an object is read through its own mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    path: PathBuf,
    written: String,
}

impl ManifestFile {
    /// What the settings name; an error says what is wrong with it.
    pub(crate) fn of(settings: &MountSettings) -> Result<Option<Self>, String> {
        let Some(written) = settings.manifest.clone() else { return Ok(None) };
        let path = if let Some(object) = written.strip_prefix("s3://") {
            let below = format!("{}/{}", settings.bucket, settings.prefix);
            let key = object.strip_prefix(&below).filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| {
                format!("the manifest {written} is not below {}", settings.source())
            })?;
            settings.mountpoint.join(key)
        } else {
            let path = Path::new(&written);
            let opened = std::fs::File::open(path);
            opened.map_err(|error| format!("cannot read the manifest {written}: {error}"))?;
            path.to_owned()
        };
        Ok(Some(Self { path, written }))
    }

    /// Reads it in the background and hands it to the plans of `mount`, which is served.
    pub(crate) fn read_for(self, mount: &Arc<Mount>) -> io::Result<()> {
        let mount = Arc::clone(mount);
        let thread = thread::Builder::new().name("tenderfs-list".to_owned());
        let read = move || match std::fs::read(&self.path) {
            Ok(text) => mount.plans.post_manifest(&text, &self.written),
            Err(error) => {
                let mount = &mount.settings.name;
                warn!(mount, manifest = self.written, %error, "a manifest cannot be read; nothing is fetched by it");
            }
        };
        thread.spawn(read).map(drop)
    }
}
