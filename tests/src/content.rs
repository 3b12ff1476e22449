//! Objects that a test put into the store, and the MD5 of what a file gives back.

use std::fs;
use std::io::Read;
use std::path::Path;

use md5::{Digest, Md5};
use tenderfs_lab::Content;

/// An object that a test put into the store.
#[derive(Debug, Clone)]
pub struct File {
    /// Its key below the mount's prefix, which is its path under the mount.
    pub key: String,
    /// Its bytes.
    pub content: Content,
}

impl File {
    /// Number of its bytes.
    pub fn size_bytes(&self) -> u64 {
        self.content.len_bytes()
    }

    /// MD5 of its bytes in lower-case hexadecimal.
    pub fn md5(&self) -> String {
        self.content.md5()
    }

    /// Its bytes `start..start + len`, cut at its end.
    pub fn bytes(&self, start: u64, len: u64) -> bytes::Bytes {
        self.content.read(start, start.saturating_add(len))
    }
}

/// MD5 of a file's bytes in lower-case hexadecimal, read in pieces of 1 MiB.
pub fn md5_of_file(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut digest = Md5::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(format!("{:x}", digest.finalize()));
        }
        digest.update(&buffer[..count]);
    }
}
