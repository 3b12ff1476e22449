//! The null FUSE server as a child.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tenderfs_fuse::{Unmount, unmount};

use super::child::{Child, own};
use super::daemon::cpu_of;
use super::data::{Object, Source};
use super::error::CompareError;

/// A running null server.
#[derive(Debug)]
pub(super) struct NullServer {
    child: Child,
    mountpoint: PathBuf,
}

impl NullServer {
    /// Mounts files as large as `objects` on `folder/NAME`, all read from one buffer of so many bytes.
    pub(super) fn start(
        folder: &Path,
        objects: &[Object],
        (name, buffer_bytes): (&'static str, u64),
    ) -> Result<NullServer, CompareError> {
        let mountpoint = folder.join(name);
        fs::create_dir_all(&mountpoint).map_err(CompareError::file(&mountpoint))?;
        let mut command = own("null-server")?;
        command.arg(&mountpoint).args(["--buffer", &buffer_bytes.to_string()]);
        for object in objects {
            command.args(["--file", &object.content.len_bytes().to_string()]);
        }
        let child = Child::start(name, &mut command, folder)?;
        let mut server = NullServer { child, mountpoint };
        let mut line = String::new();
        if let Some(output) = server.child.output() {
            BufReader::new(output).read_line(&mut line).map_err(CompareError::file(folder))?;
        }
        if line.trim() == "ready" { Ok(server) } else { Err(server.child.failed("did not start")) }
    }

    /// Its files in the order of the objects. Their bytes are the server's, so there is nothing to compare them with.
    pub(super) fn sources(&self, objects: &[Object]) -> Vec<Source> {
        let source = |(number, object): (usize, &Object)| Source {
            path: self.mountpoint.join(number.to_string()),
            len_bytes: object.content.len_bytes(),
            content: None,
        };
        objects.iter().enumerate().map(source).collect()
    }

    /// Processor time it has taken.
    pub(super) fn cpu(&self) -> Duration {
        cpu_of(self.child.pid())
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        self.child.stop();
        // It unmounts by itself unless it was killed.
        unmount(&self.mountpoint, Unmount::Lazy).ok();
    }
}
