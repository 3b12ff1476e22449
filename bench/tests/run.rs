//! `run` on a plain directory: figures that must hold on any file system.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::Path;

use clap::Parser;
use tenderfs_bench::cli::{Cli, Command, EXIT_FAILED, EXIT_MISMATCH, EXIT_OK, RunArgs};
use tenderfs_bench::run::{run, verdict};

const SEED: u64 = 20;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, len) in [("a", 1_000_000_usize), ("b", 300_001), ("sub/c", 5), ("empty", 0)] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn args(dir: &Path, more: &[&str]) -> RunArgs {
    let seed = SEED.to_string();
    let line = ["tenderfs-bench", "run", dir.to_str().unwrap(), "--seed", &seed, "--chunk", "64K"];
    let line = line.iter().chain(["--readers", "3", "--duration", "200ms"].iter()).chain(more);
    let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not run") };
    args
}

/// Proves W16.
#[test]
fn every_pattern_reads_and_compares_equal() {
    for pattern in ["seq", "random", "files"] {
        for mode in [&["--cached"][..], &[]] {
            let dir = directory();
            let line = [&["--pattern", pattern, "--checksum"], mode].concat();
            let report = run(&args(dir.path(), &line)).unwrap();
            assert_eq!(verdict(&report), EXIT_OK, "{report}");
            assert_eq!((report.files, report.data_bytes), (3, 1_300_006));
            assert!(report.bytes > report.data_bytes, "{report}");
            let comparison = report.checksum.as_ref().unwrap();
            assert!(comparison.readings_compared > 0, "{report}");
            assert_eq!((comparison.files_read_again, comparison.mismatches), (3, 0), "{report}");
            let text = report.to_string();
            for word in
                ["readers", "duration", "GB/s", "operations", "/s)", "average", "p50", "p95", "p99"]
            {
                assert!(text.contains(word), "{word} is missing in\n{text}");
            }
        }
    }
}

#[test]
fn data_hash_depends_on_the_bytes_alone() {
    let hash = |dir: &Path, pattern: &str| {
        let report = run(&args(dir, &["--checksum", "--pattern", pattern])).unwrap();
        report.checksum.unwrap().data_hash
    };
    let (one, two) = (directory(), directory());
    assert_eq!(hash(one.path(), "seq"), hash(two.path(), "random"));
    fs::write(two.path().join("sub/c"), b"other").unwrap();
    assert_ne!(hash(one.path(), "seq"), hash(two.path(), "seq"));
}

#[test]
fn wrong_manifest_is_exit_code_3() {
    let dir = directory();
    let manifest = tempfile::NamedTempFile::new().unwrap();
    fs::write(manifest.path(), "00000000000000000000000000000000  sub/c\n").unwrap();
    let expect = ["--expect", manifest.path().to_str().unwrap()];
    let report = run(&args(dir.path(), &expect)).unwrap();
    assert_eq!(verdict(&report), EXIT_MISMATCH, "{report}");
    // One wrong, two not named at all.
    assert_eq!(report.checksum.unwrap().mismatches, 3);
}

#[test]
fn directory_that_is_not_there_is_an_error_that_names_it() {
    let error = run(&args(Path::new("/nonexistent/data"), &[])).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/data"), "{error}");
}

#[test]
fn file_that_cannot_be_read_to_its_size_is_a_failure() {
    // Files of /proc/self have no size, those of /sys say 4096 bytes and end earlier.
    let sys = Path::new("/sys/kernel/mm/transparent_hugepage");
    if !sys.is_dir() {
        return;
    }
    let report = run(&args(sys, &["--cached"]));
    match report {
        Ok(report) => assert_eq!(verdict(&report), EXIT_FAILED, "{report}"),
        Err(error) => assert!(error.to_string().contains("shorter than its size"), "{error}"),
    }
}
