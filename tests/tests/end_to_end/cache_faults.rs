//! What a reader sees when the disk cache is damaged or goes away: right bytes, late.

use std::fs;
use std::os::unix::fs::FileExt;

use tenderfs_tests::Stage;

use super::{KIB, MIB, check_all};

/// Promise 1: a damaged cache costs a fetch, never a byte.
#[test]
fn a_damaged_cache_file_is_fetched_again() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a", 9 * MIB), ("b", 300 * KIB)]);
    stage.start();
    check_all(&stage, &files);
    assert!(stage.stop().success());
    let damaged = damage_data_files(&stage.cache_dir());
    assert!(damaged >= files.len(), "{damaged} files to damage");
    stage.start();
    let mark = stage.lab().ledger().mark();
    check_all(&stage, &files);
    assert!(!super::gets_since(stage.lab().ledger(), mark).is_empty(), "nothing was noticed");
}

/// Flips one byte in the middle of every data file below `folder` and returns how many there were.
fn damage_data_files(folder: &std::path::Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            count += damage_data_files(&path);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "data" || extension == "pack")
        {
            let file = fs::File::options().read(true).write(true).open(&path).unwrap();
            let middle = file.metadata().unwrap().len() / 2;
            let mut byte = [0];
            file.read_exact_at(&mut byte, middle).unwrap();
            file.write_all_at(&[byte[0] ^ 0x40], middle).unwrap();
            count += 1;
        }
    }
    count
}

/// Promise 7: a cache folder that goes away costs speed only.
#[test]
fn a_cache_folder_deleted_under_the_daemon_costs_only_speed() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a", 9 * MIB), ("b", 300 * KIB), ("c", 5 * MIB)]);
    stage.start();
    check_all(&stage, &files[..2]);
    fs::remove_dir_all(stage.cache_dir()).unwrap();
    check_all(&stage, &files);
}

#[test]
fn a_cache_directory_in_memory_is_used_and_warned_of() {
    let Some(mut stage) = Stage::new() else { return };
    let shared_memory = std::path::Path::new("/dev/shm");
    let Ok(folder) = tempfile::Builder::new().prefix("tenderfs-").tempdir_in(shared_memory) else {
        return tenderfs_tests::skip("there is no /dev/shm to write to");
    };
    stage.set("cache.dir", folder.path().join("cache").to_str().unwrap());
    let files = stage.fill([("a", 5 * MIB)]);
    stage.start();
    check_all(&stage, &files);
    assert!(stage.log_line("tmpfs is memory"));
    assert!(stage.stop().success());
}
