//! A line in /etc/fstab, the real mount(8), and the helper it calls.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use tenderfs_tests::{Outcome, Program, Stage, is_root, program, run, skip};

use super::{LIMIT, MIB};

/// Runs a shell script in a mount namespace of its own, in which /usr/sbin has `mount.tenderfs` on
/// top of what the machine has there. Whatever the script mounts is gone with it.
fn in_namespace(stage: &Stage, script: &str) -> Outcome {
    let helpers = stage.folder().join("sbin");
    fs::create_dir(&helpers).unwrap();
    symlink(program(Program::Tenderfs), helpers.join("mount.tenderfs")).unwrap();
    let setup = "mount -t overlay -o lowerdir=$HELPERS:/usr/sbin overlay /usr/sbin";
    let mut command = Command::new("unshare");
    let like_boot = stage.command(Program::Tenderfs);
    command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
    command.arg(format!("{setup}\n{script}")).env_clear();
    for (name, value) in like_boot.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("HELPERS", &helpers).env("MNT", stage.mountpoint());
    command.env("FSTAB", stage.folder().join("fstab")).env("BUCKET", stage.bucket());
    run(&mut command, LIMIT)
}

/// An fstab whose one line mounts the stage's bucket.
fn write_fstab(stage: &Stage, more_options: &str) {
    let line = format!(
        "s3://{}/data/ {} tenderfs _netdev,nofail,ro,allow_other,region=us-east-1,\
         endpoint_url={},cache_dir={}{more_options} 0 0\n",
        stage.bucket(),
        stage.mountpoint().display(),
        stage.lab().endpoint(),
        stage.cache_dir().display(),
    );
    fs::write(stage.folder().join("fstab"), line).unwrap();
}

fn stage_for_root() -> Option<Stage> {
    if !is_root() {
        skip("only root mounts by fstab");
        return None;
    }
    Stage::new()
}

/// Returns when the mount answers, and `umount` ends what was started.
#[test]
fn an_fstab_line_mounts_and_umount_unmounts() {
    let Some(stage) = stage_for_root() else { return };
    let files = stage.fill([("data/a.bin", 5 * MIB), ("data/sub/b.bin", 100)]);
    write_fstab(&stage, "");
    let outcome = in_namespace(
        &stage,
        r#"
        mount -a -T "$FSTAB"
        md5sum < "$MNT/a.bin"
        findmnt --noheadings --output FSTYPE,SOURCE "$MNT"
        mount -a -T "$FSTAB"
        umount "$MNT"
        ls -A "$MNT" | wc -l
        "#,
    );
    assert_eq!(outcome.code(), 0, "{}{}", outcome.stdout, outcome.stderr);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0].split_whitespace().next(), Some(&*files[0].md5()), "{}", outcome.stdout);
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["fuse.tenderfs", &format!("s3://{}/data", stage.bucket())]
    );
    assert_eq!(lines[2..], ["0"], "mount -a again does nothing; nothing stays after umount");
}

#[test]
fn an_unknown_option_in_fstab_is_exit_code_2_with_the_nearest_known_name() {
    let Some(stage) = stage_for_root() else { return };
    stage.fill([("data/a", 10)]);
    write_fstab(&stage, ",regoin=us-east-1");
    let outcome = in_namespace(
        &stage,
        r#"set +e; mount.tenderfs "s3://$BUCKET" "$MNT" -o ro,regoin=x; echo $?; grep -c "$MNT" /proc/mounts"#,
    );
    assert!(outcome.stdout.starts_with("2\n0"), "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.contains("regoin") && outcome.stderr.contains("region"));
}

#[test]
fn a_mount_that_cannot_work_is_exit_code_1_before_the_terminal_is_given_back() {
    let Some(stage) = stage_for_root() else { return };
    write_fstab(&stage, "");
    let outcome = in_namespace(
        &stage,
        r#"set +e; sed -i s,s3://[^/]*/,s3://no-such-bucket/, "$FSTAB"; mount -T "$FSTAB" "$MNT"; echo $?"#,
    );
    let code: i32 = outcome.stdout.trim().parse().unwrap();
    assert!(code == 1 || code == 32, "mount(8) ended with {code}: {}", outcome.stderr);
    assert!(outcome.stderr.contains("no-such-bucket"), "{}", outcome.stderr);
}
