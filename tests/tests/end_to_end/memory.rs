//! The memory limit holds.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tenderfs_tests::{Stage, eventually};

use super::{KIB, LIMIT, MIB, check_all_in_parallel};

/// Resident bytes of a process by kind: (all, anonymous, files, shared memory).
fn resident(pid: u32) -> Option<[u64; 4]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let kinds = [field("VmRSS")?, field("RssAnon")?, field("RssFile")?, field("RssShmem")?];
    Some(kinds.map(|kib| kib * KIB))
}

/// Proves S15, V13.
#[test]
fn resident_memory_stays_below_the_limit_plus_a_tenth() {
    let Some(mut stage) = Stage::new() else { return };
    // Near the least for two cores, which is more by what rings keep.
    let limit_bytes = if stage.is_by_ring() { 224 * MIB } else { 192 * MIB };
    stage.set("memory.limit", format!("{limit_bytes}"));
    let files = stage.fill((0..limit_bytes / (2 * MIB)).map(|n| (format!("{n:03}.bin"), 16 * MIB)));
    let total: u64 = files.iter().map(tenderfs_tests::File::size_bytes).sum();
    assert_eq!(total, 8 * limit_bytes);
    stage.start();
    let pid = stage.daemon().pid();
    let (done, highest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            eventually(10 * LIMIT, "the readers' end", || {
                let [all, ..] = resident(pid)?;
                highest.fetch_max(all, Ordering::Relaxed);
                done.load(Ordering::Relaxed).then_some(())
            });
        });
        check_all_in_parallel(&stage, &files, 32);
        done.store(true, Ordering::Relaxed);
        sampler.join().unwrap();
    });
    let highest = highest.into_inner();
    let [all, anon, file, shared] = resident(pid).unwrap();
    eprintln!(
        "limit {limit_bytes}, highest resident {highest}; at the end {all} = {anon} anonymous + \
         {file} of files + {shared} shared"
    );
    assert!(highest * 10 <= limit_bytes * 11, "{highest} bytes resident of {limit_bytes} allowed");
}
