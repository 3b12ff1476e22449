//! What a reader sees when the store misbehaves: right bytes late, or an error that says what it
//! is. Never a short file, never "no such file", never bytes of two versions.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tenderfs_lab::{Content, Fault, FaultRule, Operation};
use tenderfs_tests::{Stage, eventually, md5_of_file};

use super::{KIB, LIMIT, MIB, check_all};

/// A rule for every GET of `key`.
pub(crate) fn on_get(key: &str, fault: Fault) -> FaultRule {
    FaultRule::new(fault).operation(Operation::Get).key(key)
}

#[track_caller]
fn errno_of<T>(outcome: io::Result<T>, what: &str) -> Errno {
    let error = outcome.map(drop).expect_err(what);
    Errno::from_raw(error.raw_os_error().unwrap_or_else(|| panic!("{what}: {error}")))
}

/// Proves V23.
#[test]
fn a_store_that_fails_at_first_is_asked_again_and_nothing_is_lost() {
    for (name, fault) in [
        ("503", Fault::slow_down()),
        ("500", Fault::status(500)),
        ("429", Fault::Status { code: 429, retry_after: Some(0) }),
        ("reset before the head", Fault::ResetBeforeHeaders),
        ("reset in the body", Fault::ResetInBody { after_bytes: 1000 }),
        ("truncated", Fault::Truncate { after_bytes: 70_000 }),
        ("another range", Fault::WrongRange),
        ("the whole for a part", Fault::FullBodyFor206),
    ] {
        let Some(mut stage) = Stage::new() else { return };
        let files = stage.fill([("dir/file", 9 * MIB + 1)]);
        stage.lab().faults().add(on_get("dir/file", fault).times(2));
        stage.start();
        let read = md5_of_file(&stage.path("dir/file"));
        let read = read.unwrap_or_else(|error| panic!("after {name}: {error}"));
        assert_eq!(read, files[0].md5(), "after {name}");
    }
}

#[test]
fn a_listing_that_fails_at_first_is_asked_again() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("dir/a", 1000), ("dir/b", 1000)]);
    stage.start();
    let rule = FaultRule::new(Fault::slow_down()).operation(Operation::List).times(2);
    stage.lab().faults().add(rule);
    assert_eq!(fs::read_dir(stage.path("dir")).unwrap().count(), 2);
    check_all(&stage, &files);
}

#[test]
fn a_store_that_keeps_failing_is_an_io_error_and_never_a_missing_file() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("known", 5 * MIB), ("unknown", 10)]);
    stage.set("s3.attempts_max", 3);
    stage.start();
    assert_eq!(fs::metadata(stage.path("known")).unwrap().len(), files[0].size_bytes());
    stage.lab().faults().add(FaultRule::new(Fault::slow_down()));
    let read = errno_of(fs::read(stage.path("known")), "a read of what cannot be fetched");
    assert!(matches!(read, Errno::EIO | Errno::ETIMEDOUT), "{read}");
    stage.lab().faults().clear();
    check_all(&stage, &files);
}

#[test]
fn an_unreachable_store_is_an_io_error_within_its_deadline_and_cached_files_go_on() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("s3.request_timeout", "4s").set("s3.attempts_max", 3);
    let files = stage.fill([("cached", 5 * MIB), ("cold", 5 * MIB), ("folder/unseen", 10)]);
    stage.start();
    assert_eq!(fs::read_dir(stage.mountpoint()).unwrap().count(), 3);
    check_all(&stage, &files[..1]);
    stage.stop_lab();
    let started = Instant::now();
    let read = errno_of(fs::read(stage.path("cold")), "a read from nowhere");
    assert!(matches!(read, Errno::EIO | Errno::ETIMEDOUT), "{read}");
    let looked =
        errno_of(fs::metadata(stage.path("folder/absent")), "a name S3 was never asked for");
    assert!(matches!(looked, Errno::EIO | Errno::ETIMEDOUT), "{looked}");
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    check_all(&stage, &files[..1]);
}

#[test]
fn a_store_that_hangs_is_an_error_within_its_deadline() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("s3.first_byte_timeout", "300ms").set("s3.attempts_max", 2);
    stage.fill([("hangs", MIB)]);
    stage.lab().faults().add(on_get("hangs", Fault::HangBeforeHeaders));
    stage.start();
    let started = Instant::now();
    let read = errno_of(fs::read(stage.path("hangs")), "a read that hangs");
    assert!(matches!(read, Errno::EIO | Errno::ETIMEDOUT), "{read}");
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
    stage.lab().faults().clear();
}

/// Promise 2: one handle, one version.
#[test]
fn an_object_replaced_under_an_open_handle_is_estale_there_and_new_on_reopen() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set_mount("attr_ttl", "100ms").set_mount("entry_ttl", "100ms");
    let size = 60 * MIB;
    let old = stage.put("model.bin", Content::seeded(1, size));
    stage.start();
    let path = stage.path("model.bin");
    let open = fs::File::open(&path).unwrap();
    let mut buffer = vec![0; 4096];
    open.read_exact_at(&mut buffer, 0).unwrap();
    assert!(buffer[..] == old.bytes(0, 4096)[..]);

    let new = stage.put("model.bin", Content::seeded(2, size));
    let stale = errno_of(open.read_exact_at(&mut buffer, 50 * MIB), "bytes of another version");
    assert_eq!(stale, Errno::ESTALE);
    eventually(LIMIT, "the new version", || {
        let found = md5_of_file(&path).ok()?;
        assert_ne!(found, old.md5(), "the old version is complete in no cache");
        assert_eq!(found, new.md5(), "a mix of two versions");
        Some(())
    });
    assert_eq!(
        errno_of(open.read_exact_at(&mut buffer, 50 * MIB), "the old handle"),
        Errno::ESTALE
    );
}

#[test]
fn an_object_deleted_under_an_open_handle_is_estale_there_and_enoent_by_name() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set_mount("attr_ttl", "100ms").set_mount("entry_ttl", "100ms");
    stage.fill([("gone.bin", 60 * MIB), ("stays.bin", 10)]);
    stage.start();
    let open = fs::File::open(stage.path("gone.bin")).unwrap();
    stage.lab().delete(stage.bucket(), "gone.bin").unwrap();
    let mut buffer = vec![0; 4096];
    let stale = errno_of(open.read_exact_at(&mut buffer, 50 * MIB), "bytes of nothing");
    assert_eq!(stale, Errno::ESTALE);
    eventually(LIMIT, "the name to go", || {
        let error = fs::metadata(stage.path("gone.bin")).err()?;
        (error.kind() == io::ErrorKind::NotFound).then_some(())
    });
    assert!(stage.path("stays.bin").exists());
}

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
        } else if path.extension().is_some_and(|extension| extension == "data") {
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
