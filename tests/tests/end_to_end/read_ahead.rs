//! What is fetched before it is asked for, by the lab's ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use tenderfs_lab::{Content, Latency, Mark, Shape};
use tenderfs_tests::{File, Stage, eventually};

use super::{KIB, LIMIT, MIB, check_md5, gets_since};

/// A listed folder of small files.
fn folder(stage: &mut Stage, files: u64) -> Vec<File> {
    let files = stage.fill((0..files).map(|n| (format!("images/{n:03}.jpg"), 90 * KIB + n)));
    stage.start();
    assert_eq!(fs::read_dir(stage.path("images")).unwrap().count(), files.len());
    files
}

/// How often each key was asked for.
fn gets_by_key(stage: &Stage) -> BTreeMap<String, usize> {
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    let mut gets = BTreeMap::new();
    for entry in gets_since(stage.lab().ledger(), Mark(0)) {
        *gets.entry(entry.key.to_string()).or_default() += 1;
    }
    gets
}

/// Proves V07, W09.
#[test]
fn files_read_in_order_have_the_next_ones_fetched_each_once() {
    let Some(mut stage) = Stage::new() else { return };
    let files = folder(&mut stage, 60);
    for file in &files[..8] {
        check_md5(&stage.path(&file.key), file);
    }
    eventually(LIMIT, "GETs of files that nobody has opened", || {
        let gets = gets_by_key(&stage);
        (8..12).all(|n| gets.contains_key(&files[n].key)).then_some(())
    });
    for file in &files[8..] {
        check_md5(&stage.path(&file.key), file);
    }
    let gets = gets_by_key(&stage);
    assert_eq!(gets.len(), files.len());
    assert!(gets.values().all(|count| *count == 1), "{gets:?}");
}

/// A window that outgrows the memory for predictions would throw out what is needed next, and fetch it again.
#[test]
fn a_slow_link_and_little_memory_make_no_block_be_fetched_twice() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("memory.limit", "256MiB").set("cache.dir", "");
    let file = stage.put("big.bin", Content::seeded(3, 256 * MIB));
    let first_byte = Latency::Fixed(Duration::from_millis(20));
    let connection_bytes_per_second = Some(4 << 20);
    stage.lab().shape(Shape { first_byte, connection_bytes_per_second, ..Shape::default() });
    stage.start();
    check_md5(&stage.path("big.bin"), &file);
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    let gets = gets_since(stage.lab().ledger(), Mark(0));
    let sent: u64 = gets.iter().map(|get| get.body_bytes_sent).sum();
    assert_eq!(sent, file.size_bytes(), "by {} GETs", gets.len());
    assert!(gets.len() >= 16, "nothing was fetched ahead: {} GETs", gets.len());
}

#[test]
fn files_read_in_no_order_have_no_others_fetched() {
    let Some(mut stage) = Stage::new() else { return };
    let files = folder(&mut stage, 100);
    let mut opened = BTreeSet::new();
    for at in [71, 3, 50, 96, 12, 84, 33, 60, 22, 44, 91, 8] {
        check_md5(&stage.path(&files[at].key), &files[at]);
        opened.insert(files[at].key.clone());
    }
    let asked: BTreeSet<String> = gets_by_key(&stage).into_keys().collect();
    assert_eq!(asked, opened);
}

#[test]
fn of_large_files_ahead_the_first_blocks_are_fetched() {
    let Some(mut stage) = Stage::new() else { return };
    // A quarter of it bounds what is on its way by guess.
    stage.set("memory.limit", "1G");
    let files = stage.fill((0..8).map(|n| (format!("shards/{n}.tar"), 24 * MIB)));
    stage.start();
    assert_eq!(fs::read_dir(stage.path("shards")).unwrap().count(), files.len());
    for file in &files[..4] {
        check_md5(&stage.path(&file.key), file);
    }
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    let mut bytes_ahead: BTreeMap<String, u64> = BTreeMap::new();
    for entry in gets_since(stage.lab().ledger(), Mark(0)) {
        *bytes_ahead.entry(entry.key.to_string()).or_default() += entry.body_bytes_sent;
    }
    for file in &files[4..] {
        assert_eq!(bytes_ahead.get(&file.key), Some(&(16 * MIB)), "{}", file.key);
    }
}

#[test]
fn a_lookahead_of_none_leaves_files_until_they_are_opened() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("read_ahead.lookahead", 0);
    let files = folder(&mut stage, 20);
    for file in &files[..10] {
        check_md5(&stage.path(&file.key), file);
    }
    assert_eq!(gets_by_key(&stage).len(), 10);
}
