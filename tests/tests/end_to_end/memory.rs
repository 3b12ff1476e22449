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
    const LIMIT_BYTES: u64 = 192 * MIB;
    let Some(mut stage) = Stage::new() else { return };
    stage.set("memory.limit", "192MiB");
    let files = stage.fill((0..96).map(|n| (format!("{n:02}.bin"), 16 * MIB)));
    let total: u64 = files.iter().map(tenderfs_tests::File::size_bytes).sum();
    assert_eq!(total, 8 * LIMIT_BYTES);
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
        "limit {LIMIT_BYTES}, highest resident {highest}; at the end {all} = {anon} anonymous + \
         {file} of files + {shared} shared"
    );
    assert!(highest * 10 <= LIMIT_BYTES * 11, "{highest} bytes resident of {LIMIT_BYTES} allowed");
}
