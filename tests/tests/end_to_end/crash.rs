//! The end of a daemon: asked for, or not.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tenderfs_lab::{Latency, Shape};
use tenderfs_tests::{Stage, eventually, is_mounted, md5_of_file};

use super::{LIMIT, MIB, check_all, gets_since};

/// Proves V18.
#[test]
fn sigterm_and_sigint_unmount_and_end_with_exit_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let Some(mut stage) = Stage::new() else { return };
        let files = stage.fill([("a", 5 * MIB)]);
        stage.start();
        check_all(&stage, &files);
        assert!(is_mounted(&stage.mountpoint()));
        stage.daemon().signal(signal);
        let status = stage.wait(LIMIT).expect("a daemon that was told to stop");
        assert_eq!(status.code(), Some(0), "after {signal}");
        assert!(!is_mounted(&stage.mountpoint()), "still mounted after {signal}");
        assert!(!stage.admin_socket().exists(), "the socket stayed after {signal}");
    }
}

/// Proves V18: `umount` from outside is as good a stop as a signal.
#[test]
fn umount_by_hand_frees_the_mount_point() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a", MIB)]);
    stage.start();
    check_all(&stage, &files);
    let program = if tenderfs_tests::is_root() { "umount" } else { "fusermount3" };
    let mut command = std::process::Command::new(program);
    if program == "fusermount3" {
        command.arg("-u");
    }
    let outcome = tenderfs_tests::run(command.arg(stage.mountpoint()), LIMIT);
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert!(!is_mounted(&stage.mountpoint()));
    assert!(stage.stop().success());
}

#[test]
fn a_busy_mount_does_not_keep_the_daemon_from_stopping() {
    let Some(mut stage) = Stage::new() else { return };
    stage.fill([("a", MIB)]);
    stage.set("daemon.shutdown_timeout", "2s");
    stage.start();
    let open = fs::File::open(stage.path("a")).unwrap();
    stage.daemon().signal(Signal::SIGTERM);
    let status = stage.wait(Duration::from_secs(20)).expect("it stops within its time-out");
    assert!(!is_mounted(&stage.mountpoint()), "still mounted after {status}");
    drop(open);
}

/// Proves V18, and that what was committed before the kill is used after it.
#[test]
fn after_a_kill_in_the_cold_epoch_what_was_on_disk_is_not_fetched_again() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((0..24).map(|n| (format!("epoch/{n:02}.bin"), 3 * MIB + 1001 * n)));
    stage.start();
    let (first, rest) = files.split_at(8);
    check_all(&stage, first);
    wait_for_commits(&stage);
    let first_byte = Latency::Fixed(Duration::from_millis(300));
    stage.lab().shape(Shape { first_byte, ..Shape::default() });
    let readers: Vec<_> = rest
        .chunks(4)
        .map(|part| {
            let paths: Vec<_> = part.iter().map(|file| stage.path(&file.key)).collect();
            thread::spawn(move || paths.iter().filter(|path| md5_of_file(path).is_err()).count())
        })
        .collect();
    let ledger = stage.lab().ledger().clone();
    let before = ledger.mark();
    eventually(LIMIT, "a GET under way", || {
        (!gets_since(&ledger, before).is_empty()).then_some(())
    });
    stage.kill();
    let failed: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert!(failed > 0, "the daemon was killed after the epoch, not in it");
    stage.lab().shape(Shape::default());

    stage.start_over_dead_mount();
    let mark = ledger.mark();
    check_all(&stage, first);
    assert_eq!(gets_since(&ledger, mark), [], "what the catalogue had was fetched again");
    check_all(&stage, rest);
}

/// Waits until all that was fetched is on disk and nothing was committed for a second, which is
/// four times as long as a written block waits to be committed.
fn wait_for_commits(stage: &Stage) {
    let admin = stage.admin();
    let (mut commits, mut since) = (0.0, Instant::now());
    eventually(LIMIT, "what was fetched to be on disk", || {
        let now = admin.metric("tenderfs_cache_disk_seconds_count", &[("op", "commit")]);
        let pending = admin.metric("tenderfs_cache_disk_pending_bytes", &[]);
        if now > commits || pending > 0.0 {
            (commits, since) = (now, Instant::now());
        }
        (commits > 0.0 && since.elapsed() > Duration::from_secs(1)).then_some(())
    });
}

/// A daemon reads its configuration again when it is told to, and stays as it was if it is wrong.
#[test]
fn sighup_reloads_the_configuration_and_a_wrong_one_changes_nothing() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a", MIB)]);
    stage.start();
    stage.set("log.level", "debug");
    stage.write_config();
    stage.daemon().signal(Signal::SIGHUP);
    eventually(LIMIT, "the reload in the log", || stage.log_line("reload").then_some(()));
    check_all(&stage, &files);

    let config = stage.folder().join("tenderfs.toml");
    fs::write(&config, "[cache]\nsizzle = \"1G\"\n").unwrap();
    stage.daemon().signal(Signal::SIGHUP);
    eventually(LIMIT, "the refusal in the log", || stage.log_line("sizzle").then_some(()));
    assert_eq!(stage.admin().get("/healthz").status, 200);
    check_all(&stage, &files);
    assert!(stage.stop().success());
}

/// The cache folder is nobody else's, and two daemons never write one folder.
#[test]
fn the_cache_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a", MIB)]);
    stage.start();
    check_all(&stage, &files);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&stage.cache_dir()), 0o700);
    assert_eq!(mode(&stage.admin_socket()), 0o600);
}
