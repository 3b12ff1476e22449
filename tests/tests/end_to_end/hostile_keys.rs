//! Keys that cannot be file names.

use std::fs;
use std::process::Command;

use tenderfs_tests::{Stage, run};

use super::{LIMIT, check_all, check_md5};

/// Keys that S3 allows and no file system can show.
fn hostile() -> Vec<String> {
    let long = "n".repeat(256);
    [
        "..",
        "../escape",
        "good/../../etc/passwd",
        "good/./dot",
        ".",
        "//",
        "/leading",
        "good//double",
        "good/nul\0byte",
        &long,
        &format!("good/{long}/below"),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn keys_that_cannot_be_names_are_hidden_and_the_rest_works() {
    let Some(mut stage) = Stage::new() else { return };
    let longest = "m".repeat(255);
    let odd = ["good/ space", "good/ünïcode", "good/new\nline", "good/*?[", "good/\u{1}control"];
    let names = odd.into_iter().chain(["good/plain", &longest]).map(|key| (key, 1000));
    let good = stage.fill(names.collect::<Vec<_>>());
    for key in hostile() {
        stage.put(&key, "hostile");
    }
    stage.start();
    check_all(&stage, &good);
    let mut shown: Vec<String> = names_in(&stage, "good");
    shown.sort();
    let mut expected: Vec<String> =
        odd.iter().chain(&["good/plain"]).map(|key| key["good/".len()..].to_owned()).collect();
    expected.sort();
    assert_eq!(shown, expected);
    let mut top = names_in(&stage, "");
    top.sort();
    assert_eq!(top, ["good".to_owned(), longest]);
    // The standard library leaves out `.` and `..`; `ls` shows each as often as it is listed.
    for folder in ["", "good"] {
        let all = run(Command::new("ls").arg("-a").arg(stage.path(folder)), LIMIT).stdout;
        for dots in [".", ".."] {
            assert_eq!(all.lines().filter(|name| *name == dots).count(), 1, "{dots} in {all}");
        }
    }
    let listed = run(Command::new("ls").arg("-lR").arg(stage.mountpoint()), LIMIT);
    assert_eq!(listed.code(), 0, "{}", listed.stderr);
}

fn names_in(stage: &Stage, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(stage.path(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_directory_shadows_a_file_of_the_same_name() {
    let Some(mut stage) = Stage::new() else { return };
    stage.fill([("a", 10)]);
    let below = stage.fill([("a/b", 2000), ("other", 30)]);
    stage.start();
    // Asked by name before any listing, and again after one.
    for _ in 0..2 {
        assert!(fs::metadata(stage.path("a")).unwrap().is_dir());
        check_all(&stage, &below);
        let mut top = names_in(&stage, "");
        top.sort();
        assert_eq!(top, ["a", "other"]);
        assert_eq!(names_in(&stage, "a"), ["b"]);
    }
}

#[test]
fn a_directory_marker_is_a_directory_even_if_it_has_bytes() {
    let Some(mut stage) = Stage::new() else { return };
    stage.put("empty/", "");
    stage.put("full/", "bytes of a marker");
    let inner = stage.fill([("full/inner", 3000)]);
    stage.start();
    for name in ["empty", "full"] {
        assert!(fs::metadata(stage.path(name)).unwrap().is_dir(), "{name}");
    }
    assert_eq!(names_in(&stage, "empty"), Vec::<String>::new());
    assert_eq!(names_in(&stage, "full"), ["inner"]);
    check_md5(&stage.path("full/inner"), &inner[0]);
}
