//! What a read costs at S3, by the lab's ledger.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use tenderfs_lab::{Latency, Operation, Shape};
use tenderfs_tests::{Stage, run};

use super::{KIB, LIMIT, MIB, check_all, check_all_in_parallel, count_since, gets_since};

/// Proves W19, V24.
#[test]
fn a_hundred_concurrent_readers_of_a_cold_block_cause_one_get() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("block.bin", 4 * MIB)]);
    let first_byte = Latency::Fixed(Duration::from_millis(100));
    stage.lab().shape(Shape { first_byte, ..Shape::default() });
    stage.start();
    let path = stage.path("block.bin");
    let start = Barrier::new(100);
    thread::scope(|scope| {
        for reader in 0..100 {
            let (path, start, file) = (&path, &start, &files[0]);
            scope.spawn(move || {
                let open = File::open(path).unwrap();
                let offset = reader * 41 * KIB + reader;
                let mut buffer = [0; 700];
                start.wait();
                open.read_exact_at(&mut buffer, offset).unwrap();
                assert!(buffer[..] == file.bytes(offset, 700)[..], "reader {reader}");
            });
        }
    });
    assert_eq!(stage.lab().ledger().gets(), 1);
}

/// Proves W05 and S10: 1 000 random reads of 16 KiB in 64 MiB, all at once.
#[test]
fn small_reads_that_come_together_share_gets() {
    const REGION_BYTES: u64 = 64 * MIB;
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((0..4).map(|n| (format!("records-{n}"), REGION_BYTES)));
    let shape = Shape { first_byte: Latency::Fixed(Duration::from_millis(40)), ..Shape::default() };
    stage.lab().shape(shape);
    stage.start();
    let mut fewest = usize::MAX;
    // A machine that is busy with other things spreads the readers; one of the crowds comes together.
    for file in &files {
        let mark = stage.lab().ledger().mark();
        read_small_at_once(&stage, file);
        let gets = gets_since(stage.lab().ledger(), mark);
        let sent: u64 = gets.iter().map(|get| get.body_bytes_sent).sum();
        assert!(sent <= REGION_BYTES * 102 / 100, "{sent} bytes for {REGION_BYTES}");
        fewest = fewest.min(gets.len());
    }
    assert!(fewest as u64 <= REGION_BYTES / (8 * MIB) * 3 / 2, "{fewest} GETs");
}

/// Random parts of `file`, each by a thread of its own, all at the same time.
fn read_small_at_once(stage: &Stage, file: &tenderfs_tests::File) {
    const READERS: usize = 1000;
    const READ_BYTES: usize = 16 << 10;
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).custom_flags(nix::libc::O_DIRECT);
    let records = options.open(stage.path(&file.key)).unwrap();
    let start = Barrier::new(READERS);
    thread::scope(|scope| {
        for reader in 0..READERS as u64 {
            let (records, start) = (&records, &start);
            let read = move || {
                let places = file.size_bytes() / READ_BYTES as u64;
                let offset = reader * 7919 % places * READ_BYTES as u64;
                let mut buffer = vec![0; READ_BYTES];
                start.wait();
                records.read_exact_at(&mut buffer, offset).unwrap();
                assert!(buffer == file.bytes(offset, READ_BYTES as u64), "reader {reader}");
            };
            thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, read).unwrap();
        }
    });
}

/// Proves V03: the first byte of a large object costs blocks, not the object.
#[test]
fn the_first_byte_of_a_large_object_does_not_fetch_the_object() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("large.bin", 200 * MIB)]);
    stage.start();
    let mut byte = [0];
    let offset = 101 * MIB + 3;
    File::open(stage.path("large.bin")).unwrap().read_exact_at(&mut byte, offset).unwrap();
    assert_eq!(byte[..], files[0].bytes(offset, 1)[..]);
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    let sent = stage.lab().ledger().body_bytes();
    assert!(sent <= 4 * MIB, "{sent} bytes were fetched for one block");
}

/// Proves V20.
#[test]
fn a_cold_epoch_moves_each_byte_from_s3_once() {
    let Some(mut stage) = Stage::new() else { return };
    let shards = (0..6).map(|n| (format!("shards/{n}.tar"), 11 * MIB + n * 313));
    let samples = (0..60).map(|n| (format!("samples/{n:03}.jpg"), 100 * KIB + 37 * n));
    let files = stage.fill(shards.chain(samples).chain([("large.bin".to_owned(), 50 * MIB)]));
    stage.start();
    check_all_in_parallel(&stage, &files, 16);
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    let unique: u64 = files.iter().map(tenderfs_tests::File::size_bytes).sum();
    let sent = stage.lab().ledger().body_bytes();
    eprintln!("{sent} bytes sent for {unique} bytes of data");
    assert!(sent * 100 <= unique * 102, "{sent} bytes sent for {unique} bytes of data");
}

/// Proves V20.
#[test]
fn a_warm_epoch_asks_s3_for_no_data() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((0..20).map(|n| (format!("{n:02}"), n * 700 * KIB)));
    stage.start();
    check_all(&stage, &files);
    let mark = stage.lab().ledger().mark();
    check_all_in_parallel(&stage, &files, 8);
    assert_eq!(gets_since(stage.lab().ledger(), mark), []);
}

/// Proves V20, W19.
#[test]
fn after_a_restart_of_the_daemon_a_warm_epoch_asks_s3_for_no_data() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((0..20).map(|n| (format!("d{}/{n:02}", n % 3), n * 900 * KIB + n)));
    stage.start();
    check_all_in_parallel(&stage, &files, 4);
    stage.restart();
    let mark = stage.lab().ledger().mark();
    check_all_in_parallel(&stage, &files, 8);
    assert_eq!(gets_since(stage.lab().ledger(), mark), []);
}

/// Proves W06, W08: a reader of 128 KiB at a time does not wait for each block in turn.
#[test]
fn a_sequential_reader_has_several_blocks_on_their_way() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("stream.bin", 64 * MIB)]);
    let first_byte = Latency::Fixed(Duration::from_millis(60));
    stage.lab().shape(Shape { first_byte, ..Shape::default() });
    stage.start();
    check_all(&stage, &files);
    let gets = gets_since(stage.lab().ledger(), tenderfs_lab::Mark(0));
    let overlapping = gets.windows(2).filter(|pair| Some(pair[1].started) < pair[0].ended).count();
    assert!(overlapping >= 4, "only {overlapping} of {} GETs overlapped another", gets.len());
}

/// Proves W01, W02: a listing answers everything `ls -lR` asks.
#[test]
fn ls_of_ten_thousand_keys_costs_one_list_a_page_and_directory_and_no_head() {
    const KEYS: usize = 10_000;
    let Some(mut stage) = Stage::new() else { return };
    for key in 0..KEYS {
        let (top, sub) = (key % 10, key / 10 % 10);
        stage.put(&format!("t{top}/s{sub}/{key:05}.jpg"), vec![b'x'; key % 7]);
    }
    let directories = 1 + 10 + 100;
    stage.start();
    let mark = stage.lab().ledger().mark();
    let listed = run(Command::new("ls").arg("-lR").arg(stage.mountpoint()), LIMIT);
    assert_eq!(listed.code(), 0, "{}", listed.stderr);
    let files = listed.stdout.lines().filter(|line| line.contains(".jpg")).count();
    assert_eq!(files, KEYS);
    let ledger = stage.lab().ledger();
    let lists = count_since(ledger, mark, Operation::List);
    assert!(lists <= KEYS.div_ceil(1000) + directories, "{lists} LISTs");
    assert_eq!(count_since(ledger, mark, Operation::Head), 0);
    assert_eq!(count_since(ledger, mark, Operation::Get), 0);
}

/// Proves W02: that a name is absent is believed for its own time, not as long as the others of the
/// listing are believed to exist.
#[test]
fn a_new_object_in_a_listed_directory_is_seen_after_the_negative_time_out() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set_mount("negative_ttl", "0s");
    stage.put("folder/old", vec![b'o'; 10]);
    stage.start();
    assert_eq!(std::fs::read_dir(stage.path("folder")).unwrap().count(), 1);
    assert!(!stage.path("folder/new").exists());
    stage.put("folder/new", vec![b'n'; 10]);
    assert_eq!(std::fs::read(stage.path("folder/new")).unwrap(), [b'n'; 10]);
}
