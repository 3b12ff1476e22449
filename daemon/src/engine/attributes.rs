//! What stat(2), statfs(2) and getxattr(2) show of a node.

use std::time::SystemTime;

use tenderfs_cache::Object;
use tenderfs_fuse::{Attr, Errno, Ino, StatFs};

use crate::config::MountSettings;
use crate::namespace::{FileFacts, Node};

/// Preferred size of a read: one request of the kernel, an eighth of a block or more.
const BLOCK_BYTES: u32 = 1 << 20;

/// S3 has no size; so many bytes are shown as the file system's, all of them free (1 PiB), lest
/// monitoring take a read-only mount for a full disk.
const CAPACITY_BYTES: u64 = 1 << 50;

/// Extended attributes of a file.
pub(crate) const XATTRS: [&str; 3] =
    ["user.tenderfs.etag", "user.tenderfs.cached_bytes", "user.tenderfs.storage_class"];

/// Attributes of `node`.
pub(crate) fn attr_of(
    ino: u64,
    node: &Node,
    settings: &MountSettings,
    mounted_at: SystemTime,
) -> Attr {
    let (size_bytes, mtime, mode) = match node {
        Node::Directory { .. } => (0, mounted_at, libc::S_IFDIR | settings.dir_mode),
        Node::File { facts, .. } => {
            (facts.size_bytes, facts.modified(), libc::S_IFREG | settings.file_mode)
        }
    };
    Attr {
        ino: Ino(ino),
        size_bytes,
        blocks: size_bytes.div_ceil(512),
        mtime,
        mode,
        // A directory with one link tells find(1) that links do not count its subdirectories.
        nlink: 1,
        uid: settings.uid,
        gid: settings.gid,
        block_bytes: BLOCK_BYTES,
    }
}

/// What `df` shows.
pub(crate) fn statfs() -> StatFs {
    let blocks = CAPACITY_BYTES / 4096;
    StatFs {
        blocks,
        blocks_free: blocks,
        files: 0,
        files_free: 0,
        block_bytes: 4096,
        name_bytes_max: 255,
    }
}

/// Whether a mount has extended attributes of that kind: `user.` only. Of the others (`security.`, `system.`, `trusted.`) it
/// says that it has none at all, so that tools stop asking: `ls -l` asks each file of a folder for two
/// of them until it hears that.
pub(crate) fn check_kind(name: &[u8]) -> Result<(), Errno> {
    if name.starts_with(b"user.") { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// The value of an extended attribute of a file; `None` if it has no such attribute.
pub(crate) fn xattr(name: &[u8], facts: &FileFacts, object: &Object) -> Option<Vec<u8>> {
    let value = match std::str::from_utf8(name).ok()? {
        "user.tenderfs.etag" => facts.etag.to_string(),
        "user.tenderfs.cached_bytes" => {
            let cached = object.cached_bytes();
            cached.memory_bytes.max(cached.disk_bytes).to_string()
        }
        "user.tenderfs.storage_class" => {
            facts.storage_class.as_deref().unwrap_or("STANDARD").to_owned()
        }
        _ => return None,
    };
    Some(value.into_bytes())
}

/// The list of names as listxattr(2) wants it: each with a NUL behind it.
pub(crate) fn xattr_names() -> Vec<u8> {
    let mut names = Vec::new();
    for name in XATTRS {
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    names
}
