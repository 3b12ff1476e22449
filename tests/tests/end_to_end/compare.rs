//! `tenderfs-bench compare` as a whole: what it starts, what it writes, what it leaves. Its bars are for release
//! builds on a quiet machine, so they are not judged here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tenderfs_bench::compare::bars::BARS;
use tenderfs_tests::{Program, Stage, eventually, program, run};

use super::LIMIT;

/// A small comparison in the stage's folder.
fn compare(stage: &Stage, rounds: &str) -> Command {
    let mut command = stage.command(Program::Bench);
    command.args(["compare", "--size", "tiny", "--rounds", rounds, "--suite", "warm"]);
    command.arg("--tenderfsd").arg(program(Program::Tenderfsd));
    command.arg("--dir").arg(dir(stage));
    command
}

fn dir(stage: &Stage) -> std::path::PathBuf {
    stage.folder().join("compare")
}

fn mounts_below(folder: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&folder.display().to_string())
}

#[track_caller]
fn check_nothing_is_left(stage: &Stage) {
    assert!(!mounts_below(&dir(stage)), "a mount is left");
    assert_eq!(fs::read_dir(dir(stage)).unwrap().count(), 0, "files are left");
}

#[test]
fn compare_measures_every_row_of_its_suite_and_leaves_nothing() {
    let Some(stage) = Stage::new() else { return };
    fs::create_dir(dir(&stage)).unwrap();
    let json = stage.folder().join("rows.json");
    let outcome = run(compare(&stage, "1").arg("--json").arg(&json), LIMIT);
    assert!(matches!(outcome.code(), 0 | 1), "{}\n{}", outcome.stdout, outcome.stderr);
    check_nothing_is_left(&stage);
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let names: BTreeSet<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let expected = BARS.iter().map(|bar| bar.name).filter(|name| name.starts_with("warm."));
    assert_eq!(names, expected.collect(), "{}", outcome.stderr);
    for row in &rows {
        assert!(row["value"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert!(outcome.stdout.contains(row["name"].as_str().unwrap()), "{}", outcome.stdout);
    }
    let below = rows.iter().any(|row| row["ratio"].as_f64() < row["bar"].as_f64());
    assert_eq!(outcome.code(), i32::from(below), "{}\n{}", outcome.stdout, outcome.stderr);
}

#[test]
fn compare_that_is_interrupted_leaves_nothing() {
    let Some(stage) = Stage::new() else { return };
    fs::create_dir(dir(&stage)).unwrap();
    let mut child =
        compare(&stage, "99").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(LIMIT, "the mount", || mounts_below(&dir(&stage)).then_some(()));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    check_nothing_is_left(&stage);
}

#[test]
fn compare_without_a_daemon_says_how_to_get_one() {
    let Some(stage) = Stage::new() else { return };
    fs::create_dir(dir(&stage)).unwrap();
    let mut command = stage.command(Program::Bench);
    let outcome = run(command.args(["compare", "--tenderfsd", "/nonexistent/tenderfsd"]), LIMIT);
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr.contains("cargo build"), "{}", outcome.stderr);
    check_nothing_is_left(&stage);
}
