//! Objects that are overwritten all the time: a handle sees one version, or says that it is stale.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::errno::Errno;
use tenderfs_lab::Content;
use tenderfs_tests::{Stage, eventually, md5_of_file};

use super::{LIMIT, MIB, errno_of, on_get, open_direct};

const OBJECTS: u64 = 4;
const OBJECT_BYTES: usize = 400_000;
const READERS: u64 = 32;
const READS: u64 = 10_000;

fn version(number: u64) -> Vec<u8> {
    vec![b'a' + u8::try_from(number % 26).unwrap(); OBJECT_BYTES]
}

/// Reads a file in three parts by one handle. The parts must be of one letter, or a read stale.
/// Returns how many of them were right.
fn read_in_parts(stage: &Stage, key: &str) -> u64 {
    let open = match open_direct(&stage.path(key)) {
        Ok(open) => open,
        // The name led to a version that was replaced before it was opened.
        Err(error) if error.raw_os_error() == Some(Errno::ESTALE as i32) => return 0,
        Err(error) => panic!("{key}: {error}"),
    };
    let mut letter = None;
    for (part, offset) in [0, 130_000, 399_000].into_iter().enumerate() {
        let mut buffer = [0; 1000];
        match open.read_exact_at(&mut buffer, offset) {
            Ok(()) => {
                let first = *letter.get_or_insert(buffer[0]);
                assert!(
                    buffer.iter().all(|byte| *byte == first),
                    "{key}: two versions in one handle"
                );
            }
            Err(error) => {
                let errno = errno_of::<()>(Err(error), key);
                assert_eq!(errno, Errno::ESTALE, "{key}");
                return part as u64;
            }
        }
    }
    3
}

fn check_versions(stage: &mut Stage) {
    stage.set_mount("attr_ttl", "0s").set_mount("entry_ttl", "0s");
    let key = |object: u64| format!("object-{}", object % OBJECTS);
    for object in 0..OBJECTS {
        stage.put(&key(object), version(object));
    }
    stage.start();
    let stage = &*stage;
    let (right, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                stage.put(&key(number), version(number / OBJECTS));
                // A version lasts long enough to be read by some.
                thread::park_timeout(std::time::Duration::from_millis(5));
            }
        });
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let right = &right;
                scope.spawn(move || {
                    for turn in 0.. {
                        if right.load(Ordering::Relaxed) >= READS {
                            return;
                        }
                        let read = read_in_parts(stage, &key(reader + turn));
                        right.fetch_add(read, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.into_iter().all(|reader| reader.is_ok()), "a reader has failed");
    });
}

#[test]
fn no_handle_sees_two_versions_in_ten_thousand_reads() {
    let Some(mut stage) = Stage::new() else { return };
    check_versions(&mut stage);
}

/// The ETag of every answer is compared, for a store may not know `If-Match`.
#[test]
fn no_handle_sees_two_versions_of_a_store_that_ignores_if_match() {
    let Some(mut stage) = Stage::new() else { return };
    for object in 0..OBJECTS {
        let key = format!("object-{object}");
        stage.lab().faults().add(on_get(&key, tenderfs_lab::Fault::IgnoreIfMatch));
    }
    check_versions(&mut stage);
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
