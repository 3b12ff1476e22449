//! The tests of the Python package, by the Python that is there and against the programs built here.
//!
//! They run under `unittest` alone. Those that need PyTorch or WebDataset skip themselves where these are missing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is how a test fails")]
#![allow(clippy::print_stderr, reason = "a test says what it skips")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tenderfs_tests::{Program, program, run, skip};

/// They take 15 seconds, and a minute and a half with PyTorch.
const LIMIT: Duration = Duration::from_mins(10);

/// Why they cannot run here, in one sentence; `None` if they can.
fn obstacle() -> Option<&'static str> {
    let old_enough = "import sys; sys.exit(sys.version_info < (3, 9))";
    match Command::new("python3").args(["-c", old_enough]).status() {
        Ok(status) if status.success() => None,
        Ok(_) => Some("the Python package needs Python 3.9"),
        Err(_) => Some("there is no python3"),
    }
}

#[test]
fn the_python_package_passes_its_tests() {
    if let Some(obstacle) = obstacle() {
        skip(obstacle);
        return;
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/python");
    let programs = tempfile::tempdir().expect("a temporary folder");
    for (which, name) in [(Program::Tenderfs, "tenderfs"), (Program::Tenderfsd, "tenderfsd")] {
        symlink(program(which), programs.path().join(name)).expect("a link in an empty folder");
    }
    let mut command = Command::new("python3");
    command
        .args(["-B", "-m", "unittest", "discover", "-s", "tests"])
        .current_dir(&package)
        .env("PYTHONPATH", package.join("src"))
        .env("TENDERFS_BIN_DIR", programs.path());
    let outcome = run(&mut command, LIMIT);
    assert!(outcome.status.success(), "{}{}", outcome.stdout, outcome.stderr);
    assert!(!outcome.stderr.contains("Ran 0 tests"), "no tests were found");
    if outcome.stderr.contains("skipped=") {
        skip(
            "tests of the Python package that need what is missing: CONTRIBUTING.md says how to run all",
        );
    }
}
