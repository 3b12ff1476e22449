//! Directories of many names: the first are shown before the last are known, and more of them than
//! memory is set aside for are shown all the same.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use tenderfs_lab::{Fault, FaultRule, Latency, Operation};
use tenderfs_tests::{Stage, eventually};

use super::count_since;

/// Keys on a page of a listing.
const PAGE_KEYS: usize = 1000;

fn filled(stage: &Stage, keys: usize) {
    for key in 0..keys {
        stage.put(&format!("big/{key:06}.jpg"), Vec::new());
    }
}

fn names(stage: &Stage) -> HashSet<std::ffi::OsString> {
    let mut names = HashSet::new();
    for entry in fs::read_dir(stage.path("big")).unwrap() {
        assert!(names.insert(entry.unwrap().file_name()), "a name came twice");
    }
    names
}

#[test]
fn the_first_names_of_a_directory_are_shown_before_the_last_are_known() {
    const PAGES: usize = 20;
    let Some(mut stage) = Stage::new() else { return };
    filled(&stage, PAGES * PAGE_KEYS);
    stage.start();
    assert!(fs::metadata(stage.path("big")).unwrap().is_dir());
    let slow = Fault::Slow { first_byte: Latency::Fixed(Duration::from_millis(500)) };
    let rule = FaultRule::new(slow).operation(Operation::List).prefix("big/");
    let rule = stage.lab().faults().add(rule);
    let mark = stage.lab().ledger().mark();
    let mut entries = fs::read_dir(stage.path("big")).unwrap();
    let first = entries.next().unwrap().unwrap();
    assert_eq!(first.file_name(), "000000.jpg");
    let lists = count_since(stage.lab().ledger(), mark, Operation::List);
    assert!(lists < PAGES / 2, "{lists} of {PAGES} pages had been listed before the first name");
    stage.lab().faults().remove(rule);
    let rest = entries.map(|entry| entry.unwrap().file_name()).collect::<HashSet<_>>();
    assert_eq!(rest.len(), PAGES * PAGE_KEYS - 1);
    // One listing served it all, and answers what is asked next.
    assert_eq!(count_since(stage.lab().ledger(), mark, Operation::List), PAGES);
    assert_eq!(names(&stage).len(), PAGES * PAGE_KEYS);
    assert_eq!(fs::metadata(stage.path("big/019999.jpg")).unwrap().len(), 0);
    assert_eq!(count_since(stage.lab().ledger(), mark, Operation::List), PAGES);
    assert_eq!(count_since(stage.lab().ledger(), mark, Operation::Head), 0);
}

#[test]
fn a_directory_with_more_names_than_memory_holds_is_shown_whole() {
    // An eighth of the memory is for names, reckoned at 200 bytes each.
    const LIMIT_BYTES: usize = 128 << 20;
    const NAMES_MAX: usize = LIMIT_BYTES / 8 / 200;
    const KEYS: usize = NAMES_MAX * 5 / 4;
    let Some(mut stage) = Stage::new() else { return };
    stage.set("memory.limit", "128M").set("daemon.cores", 1);
    filled(&stage, KEYS);
    stage.start();
    for turn in 0..2 {
        let mark = stage.lab().ledger().mark();
        assert_eq!(names(&stage).len(), KEYS);
        let lists = count_since(stage.lab().ledger(), mark, Operation::List);
        assert!(lists <= KEYS.div_ceil(PAGE_KEYS) + 2, "{lists} LISTs in turn {turn}");
    }
    let listed = stage.admin().metric("tenderfs_namespace_names", &[]);
    let names_max = f64::from(u32::try_from(NAMES_MAX).unwrap());
    assert!(listed <= names_max, "{listed} names are remembered, of {NAMES_MAX} at most");
    assert_eq!(fs::read(stage.path("big/000007.jpg")).unwrap(), b"");
    assert!(!stage.path("big/none").exists());
}

/// Somebody may look at a few names and leave.
#[test]
fn a_listing_that_nobody_reads_any_more_ends() {
    const PAGES: usize = 60;
    let Some(mut stage) = Stage::new() else { return };
    filled(&stage, PAGES * PAGE_KEYS);
    stage.start();
    let slow = Fault::Slow { first_byte: Latency::Fixed(Duration::from_millis(50)) };
    stage.lab().faults().add(FaultRule::new(slow).operation(Operation::List).prefix("big/"));
    let mark = stage.lab().ledger().mark();
    assert!(fs::read_dir(stage.path("big")).unwrap().next().is_some());
    let lists = || count_since(stage.lab().ledger(), mark, Operation::List);
    let mut last = (lists(), Instant::now());
    eventually(Duration::from_secs(30), "the listing ends", || {
        let now = lists();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(500)).then_some(())
    });
    assert!(lists() < PAGES, "{} pages were listed for nobody", lists());
}
