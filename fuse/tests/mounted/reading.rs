//! What a mounted file system answers.

use crate::memfs::{
    BIG_BYTES, ETAG, HELLO, MANY, Mounted, VERSIONED_BYTES, big_byte, can_mount, mtime, names,
    statfs,
};
use rustix::fs::{FlockOperation, flock};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use tenderfs_fuse::{Ino, OpGroup, TransportKind};

#[track_caller]
fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.raw_os_error().unwrap(),
    }
}

/// Proves V02 for what is served from memory: names, sizes, times, kinds.
#[test]
fn names_and_attributes_come_through() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    assert_eq!(
        names(mounted.dir.path()).unwrap(),
        ["big", "blocked", "hello", "many", "versioned"]
    );
    let hello = fs::metadata(mounted.path("hello")).unwrap();
    assert_eq!((hello.len(), hello.ino(), hello.mode()), (14, 2, libc::S_IFREG | 0o444));
    assert_eq!(hello.modified().unwrap(), mtime());
    assert_eq!((hello.blksize(), hello.blocks(), hello.nlink()), (1 << 20, 1, 1));
    assert!(fs::metadata(mounted.path("many")).unwrap().is_dir());
    assert_eq!(errno(fs::metadata(mounted.path("absent"))), libc::ENOENT);
    let figures = nix::sys::statvfs::statvfs(mounted.dir.path()).unwrap();
    assert_eq!(figures.blocks(), statfs().blocks);
    assert_eq!(figures.blocks_free(), statfs().blocks_free);
    assert_eq!((figures.block_size(), figures.name_max()), (4096, 255));
    assert!(mounted.counters().group(OpGroup::Lookup).requests.get() >= 1);
}

#[test]
fn bytes_of_every_offset_and_length_come_through() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    assert_eq!(fs::read(mounted.path("hello")).unwrap(), HELLO);
    let expected: Vec<u8> = (0..BIG_BYTES).map(big_byte).collect();
    assert!(fs::read(mounted.path("big")).unwrap() == expected, "the whole file");
    let file = File::open(mounted.path("big")).unwrap();
    for (offset, length) in [
        (0, 1),
        (4095, 2),
        (1, 4096),
        (131_071, 131_074),
        ((1 << 20) - 1, (1 << 20) + 2),
        (3, 4 << 20),
        (BIG_BYTES - 5, 5),
    ] {
        check_read(&file, offset, length, &expected);
    }
    let mut buffer = [0; 10];
    assert_eq!(file.read_at(&mut buffer, BIG_BYTES - 3).unwrap(), 3);
    assert_eq!(file.read_at(&mut buffer, BIG_BYTES).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, BIG_BYTES + 12345).unwrap(), 0);
}

#[track_caller]
fn check_read(file: &File, offset: u64, length: usize, expected: &[u8]) {
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset).unwrap();
    let start = usize::try_from(offset).unwrap();
    assert!(buffer == expected[start..start + length], "{length} bytes at {offset}");
}

#[test]
fn direct_reads_from_many_threads_are_served_by_all_cores() {
    if !can_mount() {
        return;
    }
    for cores in [1, 2, 4] {
        let mounted = Mounted::on_cores(cores);
        let path = mounted.path("big");
        thread::scope(|scope| {
            for reader in 0..8_u64 {
                let path = &path;
                scope.spawn(move || read_direct(path, reader));
            }
        });
        // By rings a processor's requests go to one core.
        let serving = match crate::TRANSPORT {
            TransportKind::Device => cores,
            TransportKind::Ring => cores.min(thread::available_parallelism().unwrap().get()),
        };
        for served in &mounted.seen.served[..serving] {
            assert!(served.load(Ordering::Relaxed) > 0, "{:?}", mounted.seen.served);
        }
        assert!(mounted.counters().data_bytes.get() >= 8 * 500 * 4096);
    }
}

/// 500 aligned pages in an order of its own, past the page cache.
fn read_direct(path: &Path, reader: u64) {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let mut space = vec![0; 8192];
    let skip = space.as_ptr().align_offset(4096);
    let buffer = &mut space[skip..skip + 4096];
    for step in 0..500 {
        let page = (step * 37 + reader * 101) % (BIG_BYTES / 4096);
        file.read_exact_at(buffer, page * 4096).unwrap();
        for (index, byte) in (0_u64..).zip(buffer.iter()) {
            assert_eq!(*byte, big_byte(page * 4096 + index));
        }
    }
}

#[test]
fn a_directory_of_thousands_is_listed_once_each_with_attributes() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let many = mounted.path("many");
    let listed: Vec<_> = fs::read_dir(&many).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(listed.len() as u64, MANY);
    assert!(listed.iter().all(|entry| entry.file_type().unwrap().is_file()));
    let unique: HashSet<_> = listed.iter().map(fs::DirEntry::file_name).collect();
    assert_eq!(unique.len() as u64, MANY);
    let listings = mounted.counters().group(OpGroup::ReadDir).requests.get();
    assert!(listings > 4, "{listings} buffers");
    // `ls -l`: what READDIRPLUS has brought is not asked for again. The kernel falls back to plain
    // listing while nobody looks at attributes, so a second listing is the one that counts.
    let lookups = || mounted.counters().group(OpGroup::Lookup).requests.get();
    let mut asked = 0;
    for entry in fs::read_dir(&many).unwrap() {
        let before = lookups();
        entry.unwrap().metadata().unwrap();
        asked += lookups() - before;
    }
    assert!(asked < MANY / 2, "{asked} lookups for {MANY} entries");
}

/// Proves W19 (o): a read-only mount answers EROFS, whether the kernel or the server refuses.
#[test]
fn every_change_is_refused_with_erofs() {
    if !can_mount() {
        return;
    }
    for read_only in [true, false] {
        let mounted = Mounted::with(|options| options.read_only = read_only);
        let hello = mounted.path("hello");
        let new = mounted.path("new");
        let write = OpenOptions::new().write(true).open(&hello);
        match write {
            Ok(file) if !read_only => {
                assert_eq!(errno(file.write_at(b"x", 0)), libc::EROFS);
                assert_eq!(errno(file.set_len(3)), libc::EROFS);
            }
            write => assert_eq!(errno(write), libc::EROFS),
        }
        for refused in [
            File::create(&new).map(drop),
            fs::create_dir(&new),
            fs::remove_file(&hello),
            fs::remove_dir(mounted.path("many")),
            fs::rename(&hello, &new),
            fs::hard_link(&hello, &new),
            std::os::unix::fs::symlink("hello", &new),
            fs::set_permissions(&hello, Permissions::from_mode(0o600)),
            std::os::unix::fs::chown(&hello, Some(1), None),
            rustix::fs::setxattr(&hello, "user.a", b"b", rustix::fs::XattrFlags::empty())
                .map_err(Into::into),
        ] {
            assert_eq!(errno(refused), libc::EROFS, "read_only: {read_only}");
        }
        assert_eq!(fs::read(&hello).unwrap(), HELLO);
    }
}

#[test]
fn extended_attributes_are_listed_and_read() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let hello = mounted.path("hello");
    let mut buffer = [0; 64];
    let length = rustix::fs::getxattr(&hello, ETAG.0, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], ETAG.1);
    let length = rustix::fs::listxattr(&hello, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], format!("{}\0", ETAG.0).as_bytes());
    assert_eq!(rustix::fs::getxattr_query(&hello, ETAG.0).unwrap(), ETAG.1.len());
    let mut small = [0; 3];
    let refused = rustix::fs::getxattr(&hello, ETAG.0, &mut small).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::RANGE);
    let refused = rustix::fs::getxattr(mounted.path("big"), ETAG.0, &mut buffer).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::NODATA);
}

/// h5py opens its files so.
#[test]
fn locks_are_the_kernels_and_succeed() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let first = File::open(mounted.path("hello")).unwrap();
    let second = File::open(mounted.path("hello")).unwrap();
    flock(&first, FlockOperation::NonBlockingLockShared).unwrap();
    flock(&second, FlockOperation::NonBlockingLockShared).unwrap();
    let refused = flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::WOULDBLOCK);
    drop(first);
    flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(mounted.counters().group(OpGroup::Other).requests.get(), 0);
}

/// Proves W01: read-ahead >= 1 MiB.
#[test]
fn read_ahead_of_a_mebibyte_makes_requests_of_one() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let session = mounted.session.as_ref().unwrap();
    assert_eq!(mounted.negotiated.request_bytes_max, 1 << 20);
    assert_eq!(session.set_read_ahead(1 << 20).unwrap(), 1 << 20);
    let mut file = File::open(mounted.path("big")).unwrap();
    let mut buffer = vec![0; 256 << 10];
    while file.read(&mut buffer).unwrap() > 0 {}
    let largest = mounted.seen.largest_read_bytes.load(Ordering::Relaxed);
    assert!(largest > 128 << 10, "{largest} bytes in the largest request");
    assert!(largest <= 1 << 20);
}

#[test]
fn pages_stay_until_the_kernel_is_told_to_drop_them() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.path("versioned");
    let letters = |letter: u8| vec![letter; usize::try_from(VERSIONED_BYTES).unwrap()];
    assert_eq!(fs::read(&path).unwrap(), letters(b'a'));
    mounted.seen.version.store(b'b', Ordering::Relaxed);
    assert_eq!(fs::read(&path).unwrap(), letters(b'a'), "pages outlive the close of the file");
    mounted.inval_versioned();
    assert_eq!(fs::read(&path).unwrap(), letters(b'b'));
}

#[test]
fn a_dropped_name_gives_its_lookups_back() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    fs::metadata(mounted.path("hello")).unwrap();
    mounted.inval_entry(Ino::ROOT, b"hello");
    // FORGET has no reply to wait for; a request behind it in the queue shows that it was read,
    // and the core that read it has no more than its spawned task to run.
    let forgotten = || mounted.seen.forgotten.lock().unwrap().get(&Ino(2)).copied();
    for attempt in 0.. {
        if forgotten().is_some() {
            break;
        }
        assert!(attempt < 10_000, "no FORGET");
        nix::sys::statvfs::statvfs(mounted.dir.path()).unwrap();
    }
    assert_eq!(forgotten(), Some(1));
    assert_eq!(fs::read(mounted.path("hello")).unwrap(), HELLO);
}
