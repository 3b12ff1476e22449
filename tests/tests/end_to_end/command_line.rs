//! `tenderfs mount` and `umount` as a user types them.

use std::process::Command;

use tenderfs_tests::{Program, Stage, eventually, is_mounted, md5_of_file, run};

use super::{LIMIT, MIB};

/// `tenderfs mount` of the stage's bucket, with the flags that its store needs.
fn mount(stage: &Stage, source: &str) -> Command {
    let mut command = stage.command(Program::Tenderfs);
    command.args(["mount", source]).arg(stage.mountpoint());
    command.args(["--endpoint-url", &stage.lab().endpoint(), "--region", "us-east-1"]);
    command.args(["--memory-limit", "256M", "--cache-dir"]).arg(stage.cache_dir());
    command.env("XDG_RUNTIME_DIR", stage.folder()).env("TENDERFS_DAEMON_CORES", "1");
    command
}

/// Proves V01, V18.
#[test]
fn tenderfs_mount_returns_when_the_mount_answers_and_umount_ends_it() {
    let Some(stage) = Stage::new() else { return };
    let file = stage.fill([("deep/a.bin", 5 * MIB)]).remove(0);
    let mounted = run(&mut mount(&stage, &format!("s3://{}/deep", stage.bucket())), LIMIT);
    assert_eq!(mounted.code(), 0, "{}", mounted.stderr);
    assert!(is_mounted(&stage.mountpoint()));
    assert_eq!(md5_of_file(&stage.path("a.bin")).unwrap(), file.md5());

    let mut command = stage.command(Program::Tenderfs);
    let unmounted = run(command.arg("umount").arg(stage.mountpoint()), LIMIT);
    assert_eq!(unmounted.code(), 0, "{}", unmounted.stderr);
    assert!(!is_mounted(&stage.mountpoint()));
    // The daemon ends with its mount and lets go of the cache.
    eventually(LIMIT, "the daemon's end", || {
        let again = run(&mut mount(&stage, &format!("s3://{}/deep", stage.bucket())), LIMIT);
        (again.code() == 0).then_some(())
    });
    assert_eq!(md5_of_file(&stage.path("a.bin")).unwrap(), file.md5());
    assert_eq!(stage.lab().ledger().body_bytes(), file.size_bytes(), "the cache was kept");
    let mut command = stage.command(Program::Tenderfs);
    assert_eq!(run(command.arg("umount").arg(stage.mountpoint()), LIMIT).code(), 0);
}

#[test]
fn tenderfs_mount_of_a_missing_bucket_fails_before_the_terminal_is_given_back() {
    let Some(stage) = Stage::new() else { return };
    let outcome = run(&mut mount(&stage, "s3://no-such-bucket"), LIMIT);
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no-such-bucket"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(!is_mounted(&stage.mountpoint()));
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let Some(stage) = Stage::new() else { return };
    let source = format!("s3://{}", stage.bucket());
    let outcome = run(mount(&stage, &source).args(["-o", "ro,regoin=x"]), LIMIT);
    assert_eq!(outcome.code(), 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("region"), "{}", outcome.stderr);
    assert!(!is_mounted(&stage.mountpoint()));
}
