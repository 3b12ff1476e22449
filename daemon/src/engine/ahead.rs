//! Fetches what the deciders of read-ahead want; never waits.

use std::sync::Arc;

use tenderfs_byterange::ByteRange;
use tenderfs_cache::{BLOCK_BYTES, BlockRun, Class, Object, PrefetchOutcome};

use super::Server;
use super::directory_ahead::{FILE_BLOCKS, Opened};
use super::handles::OpenFile;
use super::read_ahead::Pattern;
use crate::namespace::Child;

impl Server {
    /// Queues what the read-ahead of the handle wants.
    pub(super) fn fetch_ahead(&self, file: &OpenFile, range: ByteRange, waited: bool) {
        let file_bytes = file.object.size_bytes();
        if self.mount.plans.is_active() {
            self.mount.plans.observe(file, Some(range));
        }
        let Some(window) = self.mount.read_ahead.load().as_deref().copied() else { return };
        if waited && range.start() == 0 {
            self.mount.directory_ahead.look_again();
        }
        let (ahead, pattern) = {
            let mut read_ahead = file.read_ahead();
            let room_blocks = || self.core.cache.prefetch_room_blocks();
            let ahead = read_ahead.on_read(range, file_bytes, waited, (window, room_blocks));
            (ahead, read_ahead.pattern())
        };
        let Some(ahead) = ahead else { return };
        // One fetch a block: they run side by side, and a connection carries one at a time.
        for block in ahead.first..ahead.end {
            let Some(run) = BlockRun::new(block..block + 1) else { continue };
            // A guess is worth a request to S3, but not a wait of the reader for the disk.
            if pattern == Pattern::Sequential || !file.object.has_block(block) {
                self.core.cache.prefetch(&self.origin, &file.object, run, Class::InFile);
            }
        }
    }

    /// Queues the starts of the files that are likely to be opened after `key`, if its directory
    /// is read in order. Only a directory whose listing is at hand is looked at.
    pub(super) fn fetch_siblings(&self, key: &str, object: &Arc<Object>) {
        let Some(window) = self.mount.read_ahead.load().as_deref().copied() else { return };
        // A plan knows better.
        if window.lookahead_files == 0 || self.mount.plans.is_active() {
            return;
        }
        if !self.mount.directory_ahead.is_looking() {
            return;
        }
        let Some((prefix, listing, index)) = self.mount.namespace.place_of(key) else { return };
        let names = listing.entries().len();
        let opened = Opened { prefix: &prefix, index, names, is_late: !object.is_ready(0) };
        let entries = listing.entries();
        let bytes_of = |index: usize| match &entries[index].1 {
            Child::Directory => 0,
            Child::File(facts) => facts.size_bytes.min(u64::from(FILE_BLOCKS) * BLOCK_BYTES),
        };
        let files_max = window.lookahead_files;
        let ahead = self.mount.directory_ahead.on_open(opened, files_max, bytes_of);
        let mut any_started = false;
        for (name, child) in &entries[ahead] {
            // More would take the place of what nobody has read yet.
            if self.core.cache.prefetch_room_blocks() < FILE_BLOCKS {
                break;
            }
            let Child::File(facts) = child else { continue };
            let sibling = self.object(&format!("{prefix}{name}").into(), facts);
            if self.fetch_start(&sibling) {
                any_started = true;
                self.mount.counters.siblings_fetched.inc();
            }
        }
        self.mount.directory_ahead.looked(any_started);
    }

    /// Whether the fetch of any of the first blocks of a file has started.
    fn fetch_start(&self, object: &Arc<Object>) -> bool {
        let mut any_started = false;
        for block in 0..FILE_BLOCKS.min(object.block_count()) {
            let Some(run) = BlockRun::new(block..block + 1) else { continue };
            // What is on disk stays there until it is asked for.
            if !object.has_block(block) {
                let outcome = self.core.cache.prefetch(&self.origin, object, run, Class::Directory);
                any_started |= matches!(outcome, PrefetchOutcome::Started { .. });
            }
        }
        any_started
    }
}
