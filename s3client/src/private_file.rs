//! Whether a file can hold a secret.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Why the file at `path` cannot hold a secret: it is none, or others can read or change it.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    // Followed, for secrets of Kubernetes are symbolic links.
    let facts = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    let us = nix::unistd::geteuid().as_raw();
    if !facts.is_file() {
        Err(format!("{shown} is not a file"))
    } else if facts.uid() != us && facts.uid() != 0 {
        Err(format!(
            "{shown} belongs to user {}, who could change it: chown it to user {us} or root",
            facts.uid()
        ))
    } else if facts.mode() & 0o077 != 0 {
        let mode = facts.mode() & 0o777;
        Err(format!("{shown} can be read by others (mode {mode:04o}): chmod 600 {shown}"))
    } else {
        Ok(())
    }
}
