//! SIGKILL, again and again, while blocks are read, written, evicted and committed.

use std::fs::File as OpenFile;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tenderfs_tests::{File, Stage};

use super::{KIB, MIB, check_all, gets_since};

/// Lives of the daemon, each ended by a SIGKILL.
const LIVES: usize = 100;
/// Every so manyth life lasts long enough for the promise below to say something.
const LONG_LIFE_EVERY: usize = 20;
const LONG_LIFE: Duration = Duration::from_millis(3500);
/// Lives in between, in milliseconds: from before the first block is on disk to after the first commits.
const SHORT_LIFE_MS: Range<u64> = 20..600;
/// What was read so long before a kill is on disk and in the catalogue.
const COMMITTED_AFTER: Duration = Duration::from_secs(2);
/// Objects that only one life and the next one read.
const FILES: usize = 6;
const FILE_BYTES: u64 = 5 * MIB;
const READERS: u64 = 4;
/// Longest single read.
const READ_BYTES: usize = 256 << 10;

/// Proves that a cache survives the end of its daemon at any moment: no wrong byte, and nothing fetched again that was read
/// two seconds before a kill (at most one block in a hundred).
#[test]
fn a_hundred_kills_under_load_leave_right_bytes_and_a_warm_cache() {
    let Some(mut stage) = Stage::new() else { return };
    // Room for a few lives, so that there is always something to evict.
    stage.set("cache.size", format!("{}", 8 * FILES as u64 * FILE_BYTES));
    // What is read last is what must be there again.
    stage.set("cache.policy", "lru");
    let mut rng = StdRng::seed_from_u64(4);
    let names = |life: usize| (0..FILES).map(move |n| format!("{life:03}/{n}.bin"));
    let files: Vec<Vec<File>> = (0..LIVES)
        .map(|life| stage.fill(names(life).map(|name| (name, FILE_BYTES + 1001 * life as u64))))
        .collect();
    let (mut lost, mut promised) = (0, 0);
    stage.start();
    for (life, own) in files.iter().enumerate() {
        let long = life % LONG_LIFE_EVERY == LONG_LIFE_EVERY - 1;
        let lasts = if long {
            check_all(&stage, own);
            LONG_LIFE
        } else {
            Duration::from_millis(rng.random_range(SHORT_LIFE_MS))
        };
        let read_at = Instant::now();
        let before = life.checked_sub(1).map_or(&[][..], |before| &files[before]);
        read_until_killed(&mut stage, [own, before].concat().as_slice(), lasts);
        assert!(!long || read_at.elapsed() > COMMITTED_AFTER);
        stage.start_over_dead_mount();
        if long {
            let ledger = stage.lab().ledger().clone();
            let mark = ledger.mark();
            check_all(&stage, own);
            let fetched: u64 =
                gets_since(&ledger, mark).iter().map(|get| get.body_bytes_sent).sum();
            promised += own.iter().map(File::size_bytes).sum::<u64>();
            lost += fetched;
        }
    }
    eprintln!("{lost} of {promised} bytes were fetched again");
    assert!(promised > 0 && lost * 100 <= promised, "{lost} of {promised} bytes were lost");
}

/// Reads parts of `files` in several threads and kills the daemon after `lasts`. Until then no read fails, and none gives
/// other bytes than the object's.
#[expect(clippy::disallowed_methods, reason = "the moment of the kill is the test")]
fn read_until_killed(stage: &mut Stage, files: &[File], lasts: Duration) {
    let paths: Vec<_> = files.iter().map(|file| stage.path(&file.key)).collect();
    let killed = AtomicBool::new(false);
    let read = |seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let number = rng.random_range(0..files.len());
            let offset = rng.random_range(0..files[number].size_bytes() / KIB) * KIB;
            let read = OpenFile::open(&paths[number])
                .and_then(|opened| opened.read_at(&mut buffer, offset));
            match read {
                Ok(count) => {
                    let right = files[number].bytes(offset, count as u64);
                    assert!(buffer[..count] == right, "wrong bytes of {}", paths[number].display());
                }
                Err(_) if killed.load(Ordering::SeqCst) => return,
                Err(error) => panic!("{} before the kill: {error}", paths[number].display()),
            }
        }
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|seed| scope.spawn(move || read(seed))).collect();
        thread::sleep(lasts);
        killed.store(true, Ordering::SeqCst);
        stage.kill();
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
