//! A daemon that is asked by FUSE over io_uring. Where the kernel does not offer it these tests say so
//! and pass; all others run by it with `TENDERFS_TEST_TRANSPORT=ring`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use tenderfs_tests::{Stage, is_mounted, ring_obstacle};

use super::interrupts::check;
use super::{KIB, LIMIT, MIB, check_all, check_all_in_parallel};

/// Whether requests really come by rings, as the daemon says itself.
#[track_caller]
fn assert_by_ring(stage: &Stage) {
    let status = stage.admin().get("/v1/status").text;
    assert!(status.contains("over_io_uring"), "{status}\n{}", stage.daemon().log());
}

#[test]
fn thirty_two_readers_by_rings_get_the_right_bytes() {
    let Some(mut stage) = Stage::by_ring() else { return };
    let files =
        stage.fill((0..64).map(|n| (format!("epoch/{n:02}.bin"), MIB * (n % 5) + 1003 * n)));
    stage.start();
    assert_by_ring(&stage);
    check_all_in_parallel(&stage, &files, 32);
    check_all_in_parallel(&stage, &files, 32);
    // Past the page cache, and smaller than a block.
    thread::scope(|scope| {
        for reader in 0..32_u64 {
            let (stage, files) = (&stage, &files);
            scope.spawn(move || read_direct(stage, &files[4], reader));
        }
    });
    assert!(stage.stop().success());
}

/// Pages of the file in an order of the reader's own, by `O_DIRECT`.
fn read_direct(stage: &Stage, file: &tenderfs_tests::File, reader: u64) {
    let path = stage.path(&file.key);
    let open =
        OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path).unwrap();
    let mut space = vec![0; 32 << 10];
    let skip = space.as_ptr().align_offset(4096);
    for step in 0..100 {
        let (pages, page) = (step % 4 + 1, (step * 37 + reader * 101) % 1000);
        let bytes = usize::try_from(pages * 4 * KIB).unwrap();
        let buffer = &mut space[skip..skip + bytes];
        open.read_exact_at(buffer, page * 4 * KIB).unwrap();
        assert!(*buffer == file.bytes(page * 4 * KIB, pages * 4 * KIB)[..], "{pages} at {page}");
    }
}

#[test]
fn by_rings_too_sigkill_ends_a_reader_of_a_hanging_get_within_a_second() {
    check(Stage::by_ring(), Signal::SIGKILL, Duration::from_secs(1));
}

#[test]
fn by_rings_too_ctrl_c_ends_a_reader_of_a_hanging_get_within_100_ms() {
    check(Stage::by_ring(), Signal::SIGINT, Duration::from_millis(100));
}

#[test]
fn by_rings_too_a_mount_with_open_files_does_not_keep_the_daemon_from_stopping() {
    let Some(mut stage) = Stage::by_ring() else { return };
    let files = stage.fill([("a", MIB)]);
    stage.set("daemon.shutdown_timeout", "2s");
    stage.start();
    assert_by_ring(&stage);
    check_all(&stage, &files);
    let open = File::open(stage.path("a")).unwrap();
    stage.daemon().signal(Signal::SIGTERM);
    let status = stage.wait(Duration::from_secs(20)).expect("it stops within its time-out");
    assert!(!is_mounted(&stage.mountpoint()), "still mounted after {status}");
    drop(open);
}

/// Readers of a daemon that is killed get an error, also those whose requests lie in its rings.
#[test]
fn a_kill_of_a_daemon_with_rings_ends_its_readers_and_the_next_daemon_serves() {
    let Some(mut stage) = Stage::by_ring() else { return };
    let files = stage.fill((0..8).map(|n| (format!("{n}"), 8 * MIB)));
    stage.lab().faults().add(
        tenderfs_lab::FaultRule::new(tenderfs_lab::Fault::HangBeforeHeaders)
            .operation(tenderfs_lab::Operation::Get),
    );
    stage.set("s3.first_byte_timeout", "30s");
    stage.start();
    assert_by_ring(&stage);
    let readers: Vec<_> = files
        .iter()
        .map(|file| {
            let path = stage.path(&file.key);
            thread::spawn(move || fs::read(path))
        })
        .collect();
    let ledger = stage.lab().ledger().clone();
    tenderfs_tests::eventually(LIMIT, "GETs that hang", || (ledger.gets() >= 8).then_some(()));
    stage.kill();
    for reader in readers {
        reader.join().unwrap().unwrap_err();
    }
    stage.lab().faults().clear();
    stage.start_over_dead_mount();
    check_all(&stage, &files);
    assert!(stage.stop().success());
}

#[test]
fn where_the_kernel_offers_no_rings_the_log_says_what_to_do_and_the_device_serves() {
    let Some(mut stage) = Stage::new() else { return };
    if ring_obstacle().is_none() {
        tenderfs_tests::skip("FUSE over io_uring is on, so nothing need be said of its absence");
        return;
    }
    let files = stage.fill([("a", MIB)]);
    stage.set("fuse.transport", "ring");
    stage.start();
    check_all(&stage, &files);
    assert!(stage.log_line("requests come by /dev/fuse"), "{}", stage.daemon().log());
    assert!(stage.stop().success());
}
