//! What the disk tier keeps of a data set that it cannot hold.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use tenderfs_lab::Shape;
use tenderfs_tests::{File, Stage};

use super::MIB;

const DATA_BYTES: u64 = 480 * MIB;
const DISK_BYTES: u64 = DATA_BYTES / 4;

/// Reads a file past the kernel's page cache, which would keep the data set by itself.
fn read_direct(stage: &Stage, file: &File) {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(OFlag::O_DIRECT.bits());
    let mut open = options.open(stage.path(&file.key)).unwrap();
    let mut space = vec![0; usize::try_from(MIB).unwrap() + 4096];
    let skip = space.as_ptr().align_offset(4096);
    let mut at = 0;
    while at < file.size_bytes() {
        let read = open.read(&mut space[skip..skip + usize::try_from(MIB).unwrap()]).unwrap();
        assert!(read > 0, "{} ends at {at}", file.key);
        let expected = file.bytes(at, read as u64);
        assert!(space[skip..skip + read] == expected[..], "{} at {at}", file.key);
        at += read as u64;
    }
}

/// Bytes that S3 gives in each of the passes over a data set, whose objects are in the order of
/// their names each time, as parts of the data set.
fn passes(policy: &str) -> Option<Vec<f64>> {
    let mut stage = Stage::new()?;
    stage.set("memory.limit", "192MiB");
    stage.set("cache.size", format!("{DISK_BYTES}"));
    stage.set("cache.policy", policy);
    let files = stage.fill((0..DATA_BYTES / (4 * MIB)).map(|n| (format!("{n:03}.bin"), 4 * MIB)));
    // A disk slower than S3 would not take all of the first pass.
    let total_bytes_per_second = Some(100 * MIB);
    stage.lab().shape(Shape { total_bytes_per_second, ..Shape::default() });
    stage.start();
    let mut parts = Vec::new();
    for _ in 0..3 {
        let before = stage.lab().ledger().body_bytes();
        for file in &files {
            read_direct(&stage, file);
        }
        let bytes = stage.lab().ledger().body_bytes() - before;
        #[expect(clippy::cast_precision_loss, reason = "a part of some megabytes")]
        parts.push(bytes as f64 / DATA_BYTES as f64);
    }
    let admin = stage.admin();
    let pins = admin.metric("tenderfs_cache_disk_pins", &[]);
    let refused = admin.metric("tenderfs_cache_disk_writes_not_done_total", &[("kind", "refused")]);
    eprintln!("{policy}: {parts:?} of the data set from S3, {refused} blocks refused");
    assert_eq!(pins > 0.5, policy != "lru");
    assert_eq!(refused > 0.5, policy != "lru");
    assert!(stage.stop().success());
    Some(parts)
}

/// Proves S06. Nothing is hit twice in the memory tier, which is far smaller than a pass.
#[test]
fn passes_over_more_than_the_disk_holds_are_hit_by_what_it_holds() {
    let (Some(lru), Some(auto)) = (passes("lru"), passes("auto")) else { return };
    for pass in [1, 2] {
        assert!(lru[pass] > 0.95, "the least recently used are gone when they are read: {lru:?}");
        assert!(auto[pass] < 0.78, "{auto:?} of the data set from S3");
    }
}
