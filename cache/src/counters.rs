//! What the cache counts. All counters live as long as the cache and never fall.

use tenderfs_telemetry::{Counter, Gauge, Histogram};

/// Everything the cache counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads served from memory without waiting.
    pub memory_hits: Counter,
    /// Bytes of reads served from memory without waiting.
    pub memory_hit_bytes: Counter,
    /// Reads that waited for a block from disk, and for nothing slower.
    pub disk_hits: Counter,
    /// Bytes of reads that waited for a block from disk, and for nothing slower.
    pub disk_hit_bytes: Counter,
    /// Reads that waited for a block from the source.
    pub misses: Counter,
    /// Bytes of reads that waited for a block from the source.
    pub miss_bytes: Counter,
    /// Reads that ended in an error.
    pub read_errors: Counter,
    /// Time readers were blocked, for reads that were no memory hit.
    pub reader_wait: Histogram,
    /// Reads that had to wait for a free frame.
    pub frame_waits: Counter,
    /// Time readers waited for a free frame.
    pub frame_wait: Histogram,
    /// Reads that joined a fill that was under way already.
    pub coalesced_waits: Counter,

    /// Requests made to the source, each for a whole run of blocks.
    pub fetches: Counter,
    /// Blocks asked from the source.
    pub fetched_blocks: Counter,
    /// Bytes that arrived from the source.
    pub fetched_bytes: Counter,
    /// Requests to the source that failed.
    pub fetch_errors: Counter,
    /// Requests to the source under way.
    pub fetches_in_flight: Gauge,

    /// Blocks whose predicted fill was started.
    pub prefetch_issued_blocks: Counter,
    /// Bytes whose predicted fill was started.
    pub prefetch_issued_bytes: Counter,
    /// Bytes of predicted blocks that a reader used.
    pub prefetch_used_bytes: Counter,
    /// Bytes of predicted blocks that left memory unread.
    pub prefetch_wasted_bytes: Counter,
    /// Blocks not prefetched for want of budget or frames.
    pub prefetch_refused_blocks: Counter,
    /// Blocks not prefetched because they were there or on their way.
    pub prefetch_duplicate_blocks: Counter,
    /// Predicted fills that failed, in blocks.
    pub prefetch_failed_blocks: Counter,
    /// Bytes of predicted fills under way.
    pub prefetch_in_flight_bytes: Gauge,

    /// Blocks evicted from the Hot zone.
    pub hot_evictions: Counter,
    /// Blocks evicted from the Prefetch zone.
    pub prefetch_evictions: Counter,

    /// Blocks read from disk and found right.
    pub disk_read_blocks: Counter,
    /// Bytes read from disk and found right.
    pub disk_read_bytes: Counter,
    /// Time from asking the disk for a block to its last byte checked.
    pub disk_read: Histogram,
    /// Blocks that the disk failed to read.
    pub disk_read_errors: Counter,
    /// Blocks whose bytes on disk did not have the catalogued checksum, or had none.
    pub verify_mismatches: Counter,
    /// Blocks of an earlier life that were read in the background and found right.
    pub disk_check_blocks: Counter,
    /// Blocks written to disk.
    pub disk_write_blocks: Counter,
    /// Bytes of blocks written to disk, without padding.
    pub disk_write_bytes: Counter,
    /// Time to write a block to disk.
    pub disk_write: Histogram,
    /// Blocks that the disk failed to write.
    pub disk_write_errors: Counter,
    /// Blocks not written because the backlog was full; they are written later if still in memory.
    pub disk_write_deferred: Counter,
    /// Blocks not written at all: no room, the tier is off, or memory let go of a deferred block.
    pub disk_write_skipped: Counter,
    /// Blocks not written because the policy values what is on disk more.
    pub disk_write_refused: Counter,
    /// Times the disk tier was turned off after repeated errors.
    pub disk_turned_off: Counter,
    /// Object files evicted from disk.
    pub disk_evicted_objects: Counter,
    /// Bytes of object files evicted from disk.
    pub disk_evicted_bytes: Counter,
    /// Files without a catalogue record that were removed after the start.
    pub orphans_removed: Counter,
    /// Object records dropped because their file was missing or short.
    pub records_dropped: Counter,

    /// Catalogue commits.
    pub commits: Counter,
    /// Blocks made durable by commits.
    pub committed_blocks: Counter,
    /// Time of a commit: fdatasync of each file touched and the catalogue's transaction.
    pub commit: Histogram,
    /// Commits that failed; their blocks are fetched again after a restart.
    pub commit_errors: Counter,
}

/// What the cache holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the arena.
    pub memory_limit_bytes: u64,
    /// Frame bytes of the Hot zone, fills under way included.
    pub hot_bytes: u64,
    /// Frame bytes of the Prefetch zone, fills under way included.
    pub prefetch_bytes: u64,
    /// Frame bytes that are free.
    pub free_bytes: u64,
    /// Blocks in memory, fills under way included.
    pub memory_blocks: u64,
    /// Blocks pinned by readers, fills and disk writes.
    pub lent_frames: u64,
    /// Reads that wait for a free frame.
    pub frame_waiters: u64,
    /// Most bytes the disk tier may take; 0 without one.
    pub disk_limit_bytes: u64,
    /// Bytes the disk tier takes: files, unlinked files that are still open, and the catalogue.
    pub disk_bytes: u64,
    /// Objects with at least one block on disk.
    pub disk_objects: u64,
    /// Of the objects on disk those that share a file with others.
    pub disk_packed_objects: u64,
    /// Files that they share.
    pub disk_packs: u64,
    /// Objects on disk that stay because a user has pinned them.
    pub disk_pinned_objects: u64,
    /// Their bytes when they are complete.
    pub disk_pinned_bytes: u64,
    /// Bytes that wait to be written to disk.
    pub pending_write_bytes: u64,
    /// Whether the disk tier takes blocks; false without one or while it is turned off.
    pub disk_writable: bool,
    /// Whether the disk tier keeps a set that stays put rather than what was used last.
    pub disk_pins: bool,
}
