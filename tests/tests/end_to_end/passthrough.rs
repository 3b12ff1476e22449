//! Complete files are read by the kernel alone, with right bytes whatever happens meanwhile.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use md5::{Digest, Md5};
use memmap2::Mmap;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tenderfs_lab::Content;
use tenderfs_tests::{
    Admin, File as Object, Stage, eventually, map_file, map_file_private, md5_of_file, skip,
};

use super::{LIMIT, MIB, check_all, check_all_in_parallel, gets_since};

const BYTES: u64 = 9 * MIB + 777;

/// A stage whose daemon runs and passes files through; `None`, and a line that says why, where the
/// kernel does not.
fn stage_with(adjust: impl FnOnce(&mut Stage)) -> Option<Stage> {
    let mut stage = Stage::new()?;
    stage.set_mount("attr_ttl", "50ms").set_mount("entry_ttl", "50ms");
    stage.set_mount("negative_ttl", "50ms");
    adjust(&mut stage);
    stage.start();
    if let Some(reason) = off_because(&stage.admin()) {
        skip(&format!("files are not passed through: {reason}"));
        return None;
    }
    Some(stage)
}

fn off_because(admin: &Admin) -> Option<String> {
    let mounts = admin.get("/v1/mounts").json();
    let passthrough = &mounts[0]["passthrough"];
    let reason = passthrough["off_because"].as_str().map(str::to_owned);
    assert_eq!(passthrough["on"].as_bool(), Some(reason.is_none()), "{passthrough}");
    reason
}

fn passed(admin: &Admin) -> f64 {
    admin.metric("tenderfs_opens_total", &[("mode", "passthrough")])
}

fn reads_seen(admin: &Admin) -> f64 {
    admin.metric("tenderfs_fuse_requests_total", &[("op", "read")])
}

fn open_files(admin: &Admin) -> f64 {
    admin.metric("tenderfs_backing_files", &[("state", "open")])
}

/// Opens `key` once it is passed through: complete, committed and verified.
fn open_passed(stage: &Stage, key: &str) -> File {
    let admin = stage.admin();
    eventually(LIMIT, "an open that is passed through", || {
        let before = passed(&admin);
        let file = File::open(stage.path(key)).unwrap();
        (passed(&admin) > before).then_some(file)
    })
}

fn md5(bytes: &[u8]) -> String {
    format!("{:x}", Md5::digest(bytes))
}

fn md5_of(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(md5(&bytes))
}

/// Lets a stopped daemon run again, also when the test panics.
struct Stopped<'a>(&'a Stage);

impl<'a> Stopped<'a> {
    fn now(stage: &'a Stage) -> Self {
        stage.daemon().signal(Signal::SIGSTOP);
        Self(stage)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.daemon().signal(Signal::SIGCONT);
    }
}

#[test]
fn a_complete_file_is_read_and_mapped_while_the_daemon_is_stopped() {
    let Some(stage) = stage_with(|_| {}) else { return };
    let files = stage.fill([("model.bin", BYTES)]);
    check_all(&stage, &files);
    let (open, admin) = (open_passed(&stage, "model.bin"), stage.admin());
    let (reads, mark) = (reads_seen(&admin), stage.lab().ledger().mark());
    // fstat(2), which mapping a file needs here, does ask the daemon.
    let maps = [map_file(&open).unwrap(), map_file_private(&open).unwrap()];
    {
        let size_bytes = usize::try_from(BYTES).unwrap();
        let _stopped = Stopped::now(&stage);
        let mut bytes = vec![0; size_bytes];
        open.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(md5(&bytes), files[0].md5());
        for map in &maps {
            assert_eq!(md5(map), files[0].md5());
        }
        assert_eq!(open.read_at(&mut bytes, BYTES).unwrap(), 0, "nothing is behind the end");
    }
    check_all(&stage, &files);
    assert!((reads_seen(&admin) - reads).abs() < 0.5, "the daemon was asked for bytes");
    assert_eq!(gets_since(stage.lab().ledger(), mark), []);
}

#[test]
fn a_handle_opened_before_completion_works_to_its_end() {
    let Some(stage) = stage_with(|_| {}) else { return };
    let files = stage.fill([("model.bin", BYTES)]);
    let early = File::open(stage.path("model.bin")).unwrap();
    let map = map_file(&early).unwrap();
    assert!(map[..4096] == files[0].bytes(0, 4096)[..]);
    check_all(&stage, &files);
    let admin = stage.admin();
    let completed = || {
        let name = c"user.tenderfs.cached_bytes";
        let mut value = [0; 32];
        let length = rustix::fs::fgetxattr(&early, name, &mut value).unwrap();
        (value[..length] == *BYTES.to_string().as_bytes()).then_some(())
    };
    eventually(LIMIT, "the whole object on disk", completed);
    // What is written later is committed later.
    check_all(&stage, &[stage.fill([("later.bin", 2 * MIB)]).remove(0)]);
    drop(open_passed(&stage, "later.bin"));
    let before = passed(&admin);
    // While a handle is open that the daemon reads, the kernel allows no other mode.
    let late = File::open(stage.path("model.bin")).unwrap();
    assert_eq!((md5_of(&early).unwrap(), md5_of(&late).unwrap()), (files[0].md5(), files[0].md5()));
    assert_eq!(md5(&map), files[0].md5());
    assert!(passed(&admin) < before + 0.5);
    drop((early, late, map));
    let open = open_passed(&stage, "model.bin");
    assert_eq!(md5_of(&open).unwrap(), files[0].md5());
}

#[test]
fn after_a_restart_files_are_verified_and_then_passed_through() {
    let Some(mut stage) = stage_with(|_| {}) else { return };
    let files = stage.fill([("model.bin", BYTES), ("small.bin", 2 * MIB)]);
    check_all(&stage, &files);
    drop(open_passed(&stage, "model.bin"));
    stage.restart();
    let (admin, mark) = (stage.admin(), stage.lab().ledger().mark());
    for file in &files {
        let unverified = File::open(stage.path(&file.key)).unwrap();
        assert!(passed(&admin) < 0.5, "it was not looked at in this life");
        assert_eq!(md5_of(&unverified).unwrap(), file.md5());
        drop(unverified);
    }
    for file in &files {
        let open = open_passed(&stage, &file.key);
        let reads = reads_seen(&admin);
        assert_eq!(md5_of(&open).unwrap(), file.md5());
        assert!((reads_seen(&admin) - reads).abs() < 0.5);
    }
    assert_eq!(gets_since(stage.lab().ledger(), mark), []);
}

#[test]
fn every_verified_read_means_no_passthrough_and_the_reason_is_shown() {
    for (key, value, reason) in [
        ("cache.verify", toml::Value::from("always"), "cache.verify"),
        ("fuse.passthrough", toml::Value::from(false), "fuse.passthrough"),
    ] {
        let Some(mut stage) = Stage::new() else { return };
        stage.set(key, value);
        let files = stage.fill([("model.bin", BYTES)]);
        stage.start();
        check_all(&stage, &files);
        stage.restart();
        check_all(&stage, &files);
        check_all(&stage, &files);
        let admin = stage.admin();
        assert!(off_because(&admin).unwrap().contains(reason));
        assert!(passed(&admin) < 0.5 && reads_seen(&admin) > 0.5);
    }
}

/// What happens while files are read.
type Trouble = fn(&Stage, &[Object]) -> Vec<Object>;

/// Sixteen readers of files that are passed through, half of them by memory maps that stay, while
/// `trouble` happens. Whoever opens a file sees all of one version, or a clean error.
#[track_caller]
fn check_under(name: &str, cache_size: &str, trouble: Trouble) {
    let small = |stage: &mut Stage| {
        stage.set("cache.size", cache_size);
        // Folders that come later are seen at once.
        stage.set_mount("negative_ttl", "0s");
    };
    let Some(stage) = stage_with(small) else { return };
    let files = stage.fill((0..6).map(|number| (format!("{number}.bin"), 3 * MIB + 100 + number)));
    check_all(&stage, &files);
    let maps: Vec<(Mmap, String)> = (0..8)
        .map(|number| {
            let file = &files[number % 2];
            (map_file(&open_passed(&stage, &file.key)).unwrap(), file.md5())
        })
        .collect();
    let rounds: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(0)).collect();
    let (done, versions) = (AtomicBool::new(false), std::sync::RwLock::new(files.clone()));
    let goes_on = || !done.load(Ordering::SeqCst);
    let admin = stage.admin();
    let before = passed(&admin);
    thread::scope(|scope| {
        for (reader, rounds) in rounds.iter().enumerate() {
            let (maps, files, versions, stage) = (&maps, &files, &versions, &stage);
            scope.spawn(move || {
                while goes_on() {
                    if let Some((map, right)) = maps.get(reader) {
                        assert_eq!(md5(map), *right, "{name}: a map shows other bytes");
                    } else {
                        let round = usize::try_from(rounds.load(Ordering::SeqCst)).unwrap();
                        let file = &files[(reader + round) % files.len()];
                        read_one(name, stage, file, versions);
                    }
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let guard = SetOnDrop(&done);
        let wait_for_rounds = |count: u64| {
            let at: Vec<u64> = rounds.iter().map(|rounds| rounds.load(Ordering::SeqCst)).collect();
            eventually(LIMIT, "more rounds of every reader", || {
                let mut all = rounds.iter().zip(&at);
                all.all(|(now, then)| now.load(Ordering::SeqCst) >= then + count).then_some(())
            });
        };
        wait_for_rounds(3);
        // Written down before it happens: a reader may be the first to see it.
        let new = trouble(&stage, &files);
        versions.write().unwrap().extend(new);
        wait_for_rounds(6);
        drop(guard);
    });
    assert!(passed(&admin) > before, "{name}: nothing was passed through");
    drop(maps);
    eventually(LIMIT, "every file to be given back", || (open_files(&admin) < 0.5).then_some(()));
    let open = admin.metric("tenderfs_files_open", &[]);
    assert!(open < 0.5, "{name}: {open} handles leaked");
}

/// Sets a flag when dropped, so that readers end when the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Reads a file whole: the bytes of a version that was there, or a clean error.
fn read_one(name: &str, stage: &Stage, file: &Object, versions: &std::sync::RwLock<Vec<Object>>) {
    match md5_of_file(&stage.path(&file.key)) {
        Ok(found) => {
            let is_known = || {
                let versions = versions.read().unwrap();
                versions.iter().any(|known| known.key == file.key && known.md5() == found)
            };
            // A new version is read before it is written down.
            eventually(LIMIT, "the version that was read to be known", || is_known().then_some(()));
        }
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            assert!(matches!(errno, Errno::ESTALE | Errno::ENOENT), "{name}: {error}");
        }
    }
}

#[test]
fn passed_through_readers_see_right_bytes_while_objects_are_overwritten() {
    check_under("overwritten", "1GiB", |stage, files| {
        let new = |(seed, file): (u64, &Object)| {
            stage.put(&file.key, Content::seeded(1000 + seed, file.size_bytes() + 11))
        };
        (0..).zip(files).map(new).collect()
    });
}

#[test]
fn passed_through_readers_see_right_bytes_while_objects_are_deleted() {
    check_under("deleted", "1GiB", |stage, files| {
        for file in files {
            stage.lab().delete(stage.bucket(), &file.key).unwrap();
        }
        Vec::new()
    });
}

#[test]
fn passed_through_readers_see_right_bytes_while_the_cache_folder_is_unlinked() {
    check_under("unlinked", "1GiB", |stage, _| {
        fs::remove_dir_all(stage.cache_dir().join("objects")).unwrap();
        Vec::new()
    });
}

#[test]
fn passed_through_readers_see_right_bytes_while_the_cache_folder_is_moved() {
    check_under("moved", "1GiB", |stage, _| {
        fs::rename(stage.cache_dir(), stage.folder().join("elsewhere")).unwrap();
        Vec::new()
    });
}

#[test]
fn passed_through_readers_see_right_bytes_while_their_files_are_evicted() {
    check_under("evicted", "24MiB", |stage, _| {
        let admin = stage.admin();
        let evicted = || admin.metric("tenderfs_cache_disk_evicted_objects_total", &[]);
        let before = evicted();
        for batch in 0.. {
            let name = |number| format!("more/{batch}-{number}.bin");
            check_all_in_parallel(stage, &stage.fill((0..4).map(|n| (name(n), 4 * MIB))), 4);
            if evicted() > before + 7.5 {
                break;
            }
            assert!(batch < 100, "nothing is evicted");
        }
        let used = admin.metric("tenderfs_cache_disk_bytes", &[]);
        assert!(used <= 24.0 * 1_048_576.0, "{used} bytes on disk");
        Vec::new()
    });
}

/// Each version is one letter; readers open the path anew all the time.
#[test]
fn a_path_that_keeps_changing_gives_each_of_32_readers_one_version_at_a_time() {
    const VERSIONS: u8 = 12;
    let Some(stage) = stage_with(|_| {}) else { return };
    let size = usize::try_from(2 * MIB).unwrap();
    let put = |version: u8| drop(stage.put("hot", vec![b'a' + version; size]));
    put(0);
    let (reads, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen: [AtomicU64; 26] = std::array::from_fn(|_| AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..32 {
            let (path, reads, done, seen) = (stage.path("hot"), &reads, &done, &seen);
            scope.spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while !done.load(Ordering::SeqCst) {
                    let letter = read_letter(&path, &mut buffer);
                    if let Some(letter) = letter {
                        seen[usize::from(letter - b'a')].fetch_add(1, Ordering::SeqCst);
                    }
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let guard = SetOnDrop(&done);
        for version in 1..VERSIONS {
            let until = reads.load(Ordering::SeqCst) + 100;
            eventually(LIMIT, "a hundred reads", || {
                (reads.load(Ordering::SeqCst) >= until).then_some(())
            });
            put(version);
        }
        let last = &seen[usize::from(VERSIONS - 1)];
        eventually(LIMIT, "the last version", || (last.load(Ordering::SeqCst) > 64).then_some(()));
        drop(guard);
    });
    let versions = seen.iter().filter(|count| count.load(Ordering::SeqCst) > 0).count();
    assert!(versions > 2, "{versions} versions were seen");
    assert!(passed(&stage.admin()) > 0.5, "nothing was passed through");
}

/// Reads a file of one letter through one handle; `None` if its version went away meanwhile.
fn read_letter(path: &std::path::Path, buffer: &mut [u8]) -> Option<u8> {
    let clean = |error: io::Error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        assert!(matches!(errno, Errno::ESTALE | Errno::ENOENT), "{error}");
    };
    let file = File::open(path).map_err(clean).ok()?;
    let mut letter = None;
    for piece in 0..8 {
        file.read_exact_at(buffer, piece * buffer.len() as u64).map_err(clean).ok()?;
        let first = *letter.get_or_insert(buffer[0]);
        assert!(buffer.iter().all(|byte| *byte == first), "two versions in one handle");
    }
    letter
}

#[test]
fn readers_that_are_killed_leave_no_file_behind() {
    let Some(stage) = stage_with(|_| {}) else { return };
    let files = stage.fill([("a.bin", BYTES), ("b.bin", BYTES)]);
    check_all(&stage, &files);
    drop((open_passed(&stage, "a.bin"), open_passed(&stage, "b.bin")));
    for _ in 0..10 {
        let readers: Vec<_> = (0..8)
            .map(|number| {
                let path = stage.path(&files[number % 2].key);
                Command::new("cat").arg(path).stdout(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for mut reader in readers {
            reader.kill().unwrap();
            reader.wait().unwrap();
        }
    }
    let admin = stage.admin();
    eventually(LIMIT, "every file to be given back", || (open_files(&admin) < 0.5).then_some(()));
    assert!(admin.metric("tenderfs_files_open", &[]) < 0.5);
    check_all(&stage, &files);
}

/// What a daemon must do that cannot pass files through: serve them, and say why once.
#[track_caller]
fn check_served_without(stage: &Stage, files: &[Object], mountpoint: &Path, reason: &str) {
    let admin = stage.admin();
    eventually(LIMIT, "the first complete file to be refused", || {
        for file in files {
            assert_eq!(md5_of_file(&mountpoint.join(&file.key)).unwrap(), file.md5());
        }
        off_because(&admin)
    });
    let said = off_because(&admin).unwrap();
    assert!(said.contains(reason), "{said}");
    let mark = stage.lab().ledger().mark();
    for file in files {
        assert_eq!(md5_of_file(&mountpoint.join(&file.key)).unwrap(), file.md5());
    }
    assert_eq!(gets_since(stage.lab().ledger(), mark), []);
    let log = stage.daemon().log();
    assert_eq!(log.matches("read through the daemon").count(), 1, "{log}");
    assert!(passed(&admin) < 0.5, "{said}");
}

/// In a user namespace a process may mount, and is not what the kernel takes for an administrator.
#[test]
fn without_cap_sys_admin_files_are_served_by_the_daemon() {
    let Some(mut stage) = Stage::new() else { return };
    let unshare = ["--user", "--map-root-user", "--mount", "--propagation", "private"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|it| it.success()) {
        return skip("unshare(1) makes no user namespace here");
    }
    let files = stage.fill([("a.bin", BYTES), ("b.bin", 2 * MIB)]);
    let daemon = stage.daemon_command();
    let environment = daemon.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut wrapped = Command::new("unshare");
    wrapped.env_clear().envs(environment);
    wrapped.args(unshare).arg(daemon.get_program()).args(daemon.get_args());
    if let Err(status) = stage.try_start_by(&mut wrapped) {
        return skip(&format!("nothing can be mounted in a user namespace here: {status}"));
    }
    let root = Path::new("/proc").join(stage.daemon().pid().to_string()).join("root");
    let mountpoint = root.join(stage.mountpoint().strip_prefix("/").unwrap());
    check_served_without(&stage, &files, &mountpoint, "CAP_SYS_ADMIN");
}

#[test]
fn on_a_stacked_file_system_files_are_served_by_the_daemon() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a.bin", BYTES), ("b.bin", 2 * MIB)]);
    let folder = stage.folder().to_owned();
    for name in ["lower", "upper", "work", "cache"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let layers =
        format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", folder.display());
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &layers]).arg(stage.cache_dir());
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("overlayfs cannot be mounted here");
    }
    let _unmounted = Unmounted(stage.cache_dir());
    stage.start();
    check_served_without(&stage, &files, &stage.mountpoint(), "stacked");
    assert!(stage.stop().success());
}

/// Takes a mount away when dropped.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        tenderfs_tests::unmount_lazily(&self.0);
    }
}
