//! Files that the kernel reads itself.

use crate::memfs::{LENT_BYTES, Mounted, can_mount};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use tempfile::NamedTempFile;
use tenderfs_fuse::{Backing, Error};

/// A mount, unless this machine cannot pass through.
fn mounted() -> Option<Mounted> {
    if !can_mount() {
        return None;
    }
    let mounted = Mounted::new();
    if !mounted.negotiated.has_passthrough() {
        println!("skipped: the kernel has no passthrough");
        return None;
    }
    Some(mounted)
}

fn file_of(letter: u8) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&vec![letter; usize::try_from(LENT_BYTES).unwrap()]).unwrap();
    file.rewind().unwrap();
    file
}

impl Mounted {
    /// Answers opens of `/lent` with a file of `letter` from now on.
    fn lend(&self, letter: u8) -> Arc<Backing> {
        let session = self.session.as_ref().unwrap();
        let backing = Arc::new(session.register(file_of(letter).as_file()).unwrap());
        *self.seen.lent.lock().unwrap() = Some(Arc::clone(&backing));
        backing
    }

    fn take_back(&self) {
        *self.seen.lent.lock().unwrap() = None;
    }

    #[track_caller]
    fn check_lent(&self, letter: u8) {
        let bytes = fs::read(self.path("lent")).unwrap();
        assert_eq!(bytes.len() as u64, LENT_BYTES);
        assert!(bytes.iter().all(|byte| *byte == letter), "{:?} for {letter:?}", bytes[0]);
    }

    fn lent_reads(&self) -> u64 {
        self.seen.lent_reads.load(Ordering::SeqCst)
    }

    /// Waits for the RELEASE of `count` handles, all told: the kernel has let go of them before.
    fn wait_for_releases(&self, count: u64) {
        while self.seen.lent_releases.load(Ordering::SeqCst) < count {
            thread::yield_now();
        }
    }
}

#[test]
fn reads_and_maps_of_a_registered_file_make_no_request() {
    let Some(mounted) = mounted() else { return };
    let backing = mounted.lend(b'f');
    mounted.check_lent(b'f');
    let file = File::open(mounted.path("lent")).unwrap();
    drop(backing);
    mounted.take_back();
    assert_eq!(mounted.counters().backing_files.get(), 0, "registered as long as it lives");
    let mapped = map::shared(&file);
    assert_eq!(mapped.len() as u64, LENT_BYTES);
    assert!(mapped.iter().all(|byte| *byte == b'f'), "a handle goes on without the registration");
    assert_eq!(mounted.lent_reads(), 0);
}

/// What the daemon's choice of modes rests on, asked of the kernel of this machine.
#[test]
fn an_inode_is_in_one_mode_until_its_last_handle_is_closed() {
    let Some(mounted) = mounted() else { return };
    let cached = File::open(mounted.path("lent")).unwrap();
    let first = mounted.lend(b'f');
    let refused = File::open(mounted.path("lent")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "a cached handle is open");
    mounted.wait_for_releases(1);
    drop(cached);
    mounted.wait_for_releases(2);
    let passed = File::open(mounted.path("lent")).unwrap();
    let _second = mounted.lend(b'g');
    let refused = File::open(mounted.path("lent")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "another file is in use");
    mounted.take_back();
    let refused = File::open(mounted.path("lent")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "a handle is passed through");
    *mounted.seen.lent.lock().unwrap() = Some(first);
    mounted.check_lent(b'f');
    drop(passed);
}

#[test]
fn a_change_of_mode_drops_the_pages_of_the_old_one() {
    let Some(mounted) = mounted() else { return };
    mounted.check_lent(b'd');
    mounted.wait_for_releases(1);
    let reads = mounted.lent_reads();
    assert!(reads > 0);
    mounted.check_lent(b'd');
    mounted.wait_for_releases(2);
    assert_eq!(mounted.lent_reads(), reads, "pages are kept from open to open");
    let _backing = mounted.lend(b'f');
    mounted.check_lent(b'f');
    mounted.wait_for_releases(3);
    mounted.take_back();
    mounted.check_lent(b'd');
    assert!(mounted.lent_reads() > reads, "the pages had stayed");
}

#[test]
fn what_cannot_be_registered_is_refused_with_the_reason() {
    let Some(mounted) = mounted() else { return };
    let session = mounted.session.as_ref().unwrap();
    let directory = File::open("/tmp").unwrap();
    let error = session.register(&directory).unwrap_err();
    assert!(matches!(error, Error::BackingRefused { .. }), "{error:?}");
    let itself = File::open(mounted.path("hello")).unwrap();
    let error = session.register(&itself).unwrap_err();
    assert!(error.to_string().contains("stacked"), "{error}");
    assert_eq!(mounted.counters().backing_files.get(), 0);
}

mod map {
    #![allow(unsafe_code, reason = "a memory map")]

    use std::fs::File;
    use std::os::fd::AsFd;

    /// What a shared map of a whole file shows.
    pub(super) fn shared(file: &File) -> Vec<u8> {
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let (prot, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
        // SAFETY: a new map at an address of the kernel's choice.
        let map = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file.as_fd(), 0).unwrap()
        };
        // SAFETY: the map is `len` bytes, and nobody writes to the file.
        let bytes = unsafe { std::slice::from_raw_parts(map.cast::<u8>(), len) }.to_vec();
        // SAFETY: nothing refers to the map any more.
        unsafe { rustix::mm::munmap(map, len).unwrap() };
        bytes
    }
}
