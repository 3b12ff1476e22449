//! What the cache is told at its start.

use std::path::PathBuf;

use crate::keeping::Policy;

/// Everything a [`crate::Cache`] is told; there are no defaults here, the daemon has them all.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Directory of the disk tier; `None`: blocks are kept in memory only.
    pub dir: Option<PathBuf>,
    /// Most bytes the disk tier may take: object files and catalogue.
    pub disk_size_bytes: u64,
    /// Objects of fewer bytes, at most of one block, share files with others; 0: none do.
    pub pack_below_bytes: u64,
    /// Part (0..=1) of the file system that the disk tier leaves free.
    pub free_space_ratio: f64,
    /// Which objects the disk tier keeps when it cannot hold them all.
    pub policy: Policy,
    /// Bytes of the arena that blocks live in, rounded down to whole blocks; at least
    /// [`crate::ARENA_BYTES_MIN`].
    pub arena_bytes: usize,
    /// Most bytes of predicted fills under way at once; a quarter of the arena is the upper bound.
    pub prefetch_in_flight_bytes: u64,
    /// When bytes read from disk are compared with their checksums.
    pub verify: Verify,
    /// Whether the arena asks for huge pages.
    pub huge_pages: HugePages,
    /// Memory for the catalogue's own pages.
    pub catalogue_cache_bytes: usize,
}

/// When bytes read from disk are compared with their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// At every read by this process; a file that is given to others to read ([`crate::BackingFile`])
    /// was compared once before.
    FirstUse,
    /// At every read, so no file is given to others.
    Always,
    /// Never: the disk is trusted.
    Never,
}

/// Whether the arena asks for huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// `madvise(MADV_HUGEPAGE)`; a kernel without them is no error.
    Advised,
    /// Plain pages.
    Plain,
}
