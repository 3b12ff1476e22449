//! What a mount gives an application, whatever S3 store is behind it: the lab, or the store that
//! `TENDERFS_TEST_ENDPOINT` names (`tests/garage.sh` runs these tests against Garage).
//!
//! Nothing here asks the store for a fault or for its ledger; those tests are in `end_to_end`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is how a test fails")]

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use rustix::fs::{FlockOperation, XattrFlags};
use tenderfs_tests::{File, Program, Stage, is_mounted, map_file, md5_of_file, run};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Everything that a test runs ends well within it.
const LIMIT: Duration = Duration::from_mins(1);

#[track_caller]
fn check_all(stage: &Stage, files: &[File]) {
    for file in files {
        let found =
            md5_of_file(&stage.path(&file.key)).unwrap_or_else(|e| panic!("{}: {e}", file.key));
        assert_eq!(found, file.md5(), "{} has other bytes than its object", file.key);
    }
}

/// Proves V02, V20.
#[test]
fn every_file_has_the_md5_and_the_size_of_its_object() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let sizes = [0, 1, 4095, 4096, 100 * KIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB, 40 * MIB];
    let files = stage.fill(sizes.map(|size| (format!("data/{size}.bin"), size)));
    stage.start();
    for file in &files {
        assert_eq!(fs::metadata(stage.path(&file.key)).unwrap().len(), file.size_bytes());
    }
    check_all(&stage, &files);
    check_all(&stage, &files);
}

/// Proves V02.
#[test]
fn ls_shows_names_sizes_and_times_of_the_objects() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let before = SystemTime::now();
    let files = stage.fill([("a.bin", 10), ("b.bin", 5 * MIB), ("sub/c.bin", 3)]);
    let after = SystemTime::now();
    stage.start();
    let listed = run(Command::new("ls").arg("-ln").arg(stage.mountpoint()), LIMIT);
    assert_eq!(listed.code(), 0, "{}", listed.stderr);
    let rows: Vec<Vec<&str>> =
        listed.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[8]).collect();
    assert_eq!(names, ["a.bin", "b.bin", "sub"]);
    assert_eq!([rows[0][4], rows[1][4]], ["10", &(5 * MIB).to_string()]);
    assert!(rows[2][0].starts_with('d'), "{}", listed.stdout);
    // Stores keep whole seconds, and an external one has a clock of its own.
    let slack = Duration::from_secs(5);
    for file in files {
        let modified = fs::metadata(stage.path(&file.key)).unwrap().modified().unwrap();
        assert!(
            modified > before - slack && modified < after + slack,
            "{}: {modified:?}",
            file.key
        );
    }
}

/// Proves V02.
#[test]
fn preads_at_odd_offsets_give_the_bytes_of_that_place() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let size = 9 * MIB + 17;
    let files = stage.fill([("odd.bin", size)]);
    stage.start();
    let open = fs::File::open(stage.path("odd.bin")).unwrap();
    for (offset, length) in [
        (size - 1, 1),
        (size - 1, 10),
        (size, 1),
        (size + 4096, 4096),
        (0, 1),
        (1, 4095),
        (4 * MIB - 1, 2),
        (4 * MIB - 3, 4 * MIB + 7),
        (8 * MIB - 1, 100),
        (65_537, 131_071),
        (3, 9 * MIB),
        (4095, 4098),
    ] {
        let mut buffer = vec![0; usize::try_from(length).unwrap()];
        let count = read_fully(&open, &mut buffer, offset);
        let expected = files[0].bytes(offset, length);
        assert_eq!(count, expected.len(), "bytes read at {offset}");
        assert!(buffer[..count] == expected[..], "{length} bytes at {offset} are not the object's");
    }
}

/// Reads until the buffer is full or the file ends.
fn read_fully(file: &fs::File, buffer: &mut [u8], offset: u64) -> usize {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64).unwrap() {
            0 => break,
            more => count += more,
        }
    }
    count
}

/// safetensors, numpy and Arrow read by page faults.
#[test]
fn a_mapped_file_has_the_bytes_of_its_object() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("map.bin", 9 * MIB + 5)]);
    stage.start();
    let map = map_file(&fs::File::open(stage.path("map.bin")).unwrap()).unwrap();
    // First the edges of tensors, then the holes between them, as safetensors touches them.
    for offset in [8 * MIB, 4 * MIB - 1, 0, 9 * MIB + 4, 5 * MIB] {
        let at = usize::try_from(offset).unwrap();
        assert_eq!(map[at], files[0].bytes(offset, 1)[0], "byte {offset}");
    }
    assert!(map[..] == files[0].bytes(0, u64::MAX)[..]);
}

#[test]
fn readers_in_many_threads_all_see_right_bytes() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill((0..24).map(|n| (format!("shards/{n:03}.tar"), (n % 5) * MIB + 77 * n)));
    stage.start();
    thread::scope(|scope| {
        for reader in 0..8 {
            let (stage, files) = (&stage, &files);
            scope.spawn(move || {
                for step in 0..files.len() {
                    let file = &files[(step * 7 + reader * 3) % files.len()];
                    check_all(stage, std::slice::from_ref(file));
                }
            });
        }
    });
}

/// How often the daemon says that it asked the store for this since it started.
#[track_caller]
fn assert_counts(stage: &Stage, operation: &str, expected: f64) {
    let asked = stage.admin().metric("tenderfs_s3_requests_total", &[("op", operation)]);
    assert!((asked - expected).abs() < f64::EPSILON, "{asked} requests ({operation})");
}

/// Proves W19 by the daemon's own count.
#[test]
fn concurrent_cold_readers_of_one_block_share_a_get() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("block", 4 * MIB)]);
    stage.start();
    let start = Barrier::new(100);
    thread::scope(|scope| {
        for reader in 0..100 {
            let (start, file, path) = (&start, &files[0], stage.path("block"));
            scope.spawn(move || {
                let open = fs::File::open(path).unwrap();
                let mut buffer = [0; 500];
                start.wait();
                open.read_exact_at(&mut buffer, reader * 40 * KIB).unwrap();
                assert!(buffer[..] == file.bytes(reader * 40 * KIB, 500)[..], "reader {reader}");
            });
        }
    });
    assert_counts(&stage, "get", 1.0);
}

/// Proves W12.
#[test]
fn what_was_warmed_is_read_without_a_get() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("set/a", 9 * MIB), ("set/b/c", 100 * KIB), ("set/b/d", 1)]);
    stage.start();
    let mut warm = stage.command(Program::Tenderfs);
    warm.args(["warm", "-r"]).arg(stage.path("set")).arg("--socket").arg(stage.admin_socket());
    let outcome = run(&mut warm, LIMIT);
    assert_eq!(outcome.code(), 0, "{}{}", outcome.stdout, outcome.stderr);
    let asked = stage.admin().metric("tenderfs_s3_requests_total", &[("op", "get")]);
    assert!(asked >= 3.0, "{asked} GETs");
    check_all(&stage, &files);
    assert_counts(&stage, "get", asked);
}

/// Proves W01, W02 by the daemon's own count.
#[test]
fn ls_of_nested_folders_costs_one_list_each_and_no_head() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    stage.fill((0..60).map(|n| (format!("t{}/s{}/{n}", n % 3, n / 3 % 4), n)));
    stage.start();
    let before = stage.admin().metric("tenderfs_s3_requests_total", &[("op", "list")]);
    let listed = run(Command::new("ls").arg("-lR").arg(stage.mountpoint()), LIMIT);
    assert_eq!(listed.code(), 0, "{}", listed.stderr);
    let asked = stage.admin().metric("tenderfs_s3_requests_total", &[("op", "list")]);
    assert!(asked <= before + 1.0 + 3.0 + 12.0, "{asked} LISTs, {before} of them before");
    assert_counts(&stage, "head", 0.0);
}

/// Proves W19.
#[test]
fn every_kind_of_write_is_refused_with_erofs() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("file.bin", 100), ("dir/inner.bin", 5)]);
    stage.start();
    let file = stage.path("file.bin");
    let new = stage.path("new");
    let open = |options: &mut fs::OpenOptions, path: &Path| options.open(path).map(drop);
    let attempts: [(&str, io::Result<()>); 14] = [
        ("open for writing", open(fs::File::options().write(true), &file)),
        ("open for appending", open(fs::File::options().append(true), &file)),
        ("truncate", open(fs::File::options().write(true).truncate(true), &file)),
        ("create", open(fs::File::options().write(true).create(true), &new)),
        ("mkdir", fs::create_dir(&new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(stage.path("dir"))),
        ("rename", fs::rename(&file, &new)),
        ("link", fs::hard_link(&file, &new)),
        ("symlink", std::os::unix::fs::symlink("file.bin", &new)),
        ("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(&file, Some(1), None)),
        ("utimes", touch(&file)),
        ("setxattr", set_attribute(&file)),
    ];
    for (deed, outcome) in attempts {
        let error = outcome.expect_err(deed);
        assert_eq!(error.raw_os_error(), Some(Errno::EROFS as i32), "{deed}: {error}");
    }
    check_all(&stage, &files);
}

fn touch(path: &Path) -> io::Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty())?)
}

fn set_attribute(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, "user.mine", b"1", XattrFlags::empty())?)
}

fn attribute(path: &Path, name: &str) -> io::Result<String> {
    let mut value = vec![0; 256];
    let count = rustix::fs::getxattr(path, name, &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..count]).into_owned())
}

#[test]
fn extended_attributes_tell_etag_cached_bytes_and_storage_class() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("x.bin", 5 * MIB)]);
    stage.start();
    let path = stage.path("x.bin");
    let mut names = vec![0; 1024];
    let count = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
    let names = String::from_utf8(names[..count].to_vec()).unwrap();
    for name in ["user.tenderfs.etag", "user.tenderfs.cached_bytes", "user.tenderfs.storage_class"]
    {
        assert!(names.split('\0').any(|listed| listed == name), "{name} is not in {names:?}");
    }
    assert!(!attribute(&path, "user.tenderfs.etag").unwrap().is_empty());
    assert_eq!(attribute(&path, "user.tenderfs.storage_class").unwrap(), "STANDARD");
    assert_eq!(attribute(&path, "user.tenderfs.cached_bytes").unwrap(), "0");
    check_all(&stage, &files);
    assert_eq!(attribute(&path, "user.tenderfs.cached_bytes").unwrap(), (5 * MIB).to_string());
    let absent = attribute(&path, "user.tenderfs.nothing").unwrap_err();
    assert_eq!(absent.raw_os_error(), Some(Errno::ENODATA as i32));
    for name in ["security.selinux", "system.posix_acl_access", "trusted.x"] {
        for path in [&path, &stage.mountpoint()] {
            let refused = attribute(path, name).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(Errno::EOPNOTSUPP as i32), "{name}");
        }
    }
}

#[test]
fn df_and_flock_work_on_a_mount() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    stage.fill([("lock.h5", 1000)]);
    stage.start();
    let space = statvfs(&stage.mountpoint()).unwrap();
    assert!(space.block_size() > 0 && space.blocks() > 0 && space.name_max() == 255);
    assert!(space.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    // h5py locks what it opens, without waiting.
    let file = fs::File::open(stage.path("lock.h5")).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).unwrap();
    rustix::fs::flock(&file, FlockOperation::Unlock).unwrap();
}

#[test]
fn what_is_not_in_the_bucket_is_enoent() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    stage.fill([("there/file", 10)]);
    stage.start();
    for name in ["absent", "there/absent", "absent/file", "there/file2", "ther"] {
        let error = fs::metadata(stage.path(name)).expect_err(name);
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}: {error}");
    }
    let error = fs::metadata(stage.path("there/file/below")).expect_err("a file has no children");
    assert_eq!(error.raw_os_error(), Some(Errno::ENOTDIR as i32));
}

#[test]
fn files_and_directories_belong_to_the_mounting_user_and_nobody_writes_them() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    stage.fill([("d/f", 10)]);
    stage.start();
    for (name, mode) in [("d", 0o040_555), ("d/f", 0o100_444)] {
        let metadata = fs::metadata(stage.path(name)).unwrap();
        assert_eq!(metadata.mode(), mode, "{name} has mode {:o}", metadata.mode());
        assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw(), "{name}");
        assert_eq!(metadata.gid(), nix::unistd::getegid().as_raw(), "{name}");
    }
}

#[test]
fn a_restart_of_the_daemon_gives_the_same_bytes_without_a_get() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("a", 9 * MIB), ("b/c", 100 * KIB), ("b/d", 0)]);
    stage.start();
    check_all(&stage, &files);
    stage.restart();
    check_all(&stage, &files);
    // The store may have no ledger: the daemon's own count has to do here.
    assert_counts(&stage, "get", 0.0);
    assert!(stage.stop().success());
    assert!(!is_mounted(&stage.mountpoint()));
}

/// Proves V18: the daemon is killed while readers wait; what is mounted then answers "Transport
/// endpoint is not connected" until the next daemon takes its place.
#[test]
fn after_a_kill_in_the_cold_epoch_a_new_daemon_mounts_and_every_byte_is_right() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill((0..20).map(|n| (format!("epoch/{n:02}.bin"), 3 * MIB + 1001 * n)));
    stage.start();
    check_all(&stage, &files[..5]);
    let paths: Vec<_> = files.iter().map(|file| stage.path(&file.key)).collect();
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let paths = paths.clone();
            thread::spawn(move || {
                paths.iter().skip(reader).step_by(4).filter(|p| md5_of_file(p).is_err()).count()
            })
        })
        .collect();
    stage.kill();
    // Nobody hangs: a reader ends with its bytes or with an error.
    for reader in readers {
        reader.join().unwrap();
    }
    let error = fs::read_dir(stage.path("epoch")).expect_err("a dead mount answers nothing");
    assert_eq!(error.raw_os_error(), Some(Errno::ENOTCONN as i32), "{error}");
    stage.start_over_dead_mount();
    check_all(&stage, &files);
}

/// One reader's end is nobody else's: a store that is slow to one `cat` serves the next.
#[test]
fn a_killed_reader_leaves_the_mount_working() {
    let Some(mut stage) = Stage::on_any_store() else { return };
    let files = stage.fill([("big.bin", 40 * MIB)]);
    stage.start();
    let mut cat = Command::new("cat")
        .arg(stage.path("big.bin"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    cat.kill().unwrap();
    cat.wait().unwrap();
    check_all(&stage, &files);
}
