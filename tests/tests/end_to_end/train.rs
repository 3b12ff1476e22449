//! `tenderfs-bench train` as a whole, small: what it starts, what it writes, what it leaves. How busy the job is kept is
//! not judged here.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tenderfs_tests::{Program, Stage, program, run};

use super::LIMIT;

const EPOCHS: usize = 2;

/// A small run in the stage's folder, on a link that is fast and even, without requests that are made twice.
fn train(stage: &Stage, load: &str, mode: &str) -> Command {
    let dir = stage.folder().join("train");
    fs::create_dir_all(&dir).unwrap();
    let mut command = stage.command(Program::Bench);
    command.args(["train", "--load", load, "--mode", mode, "--compute", "2ms"]);
    command.args(["--files", "60", "--file-size", "40K", "--sample-size", "8K", "--batch", "8"]);
    command.args(["--first-byte", "1ms", "--first-byte-p99", "1ms", "--memory", "256M"]);
    command.args(["--set", "s3.hedging=false"]);
    command.arg("--tenderfsd").arg(program(Program::Tenderfsd)).arg("--dir").arg(dir);
    command
}

/// Runs it to its end and returns its JSON.
#[track_caller]
fn json_of(stage: &Stage, mut command: Command) -> Value {
    let json = stage.folder().join("train.json");
    let outcome = run(command.arg("--json").arg(&json), LIMIT);
    assert_eq!(outcome.code(), 0, "{}\n{}", outcome.stdout, outcome.stderr);
    let dir = stage.folder().join("train");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "files are left");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir.display().to_string()), "a mount is left");
    for said in ["4 workers", "2.0 ms compute", "listing", "first byte", "first batch"] {
        assert!(outcome.stdout.contains(said), "no `{said}` in {}", outcome.stdout);
    }
    serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
}

#[track_caller]
fn numbers(json: &Value, field: &str) -> Vec<f64> {
    let list = json[field].as_array().unwrap_or_else(|| panic!("no list `{field}` in {json}"));
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn check_fields(json: &Value, load: &str, mode: &str) {
    assert_eq!((json["load"].as_str(), json["mode"].as_str()), (Some(load), Some(mode)));
    for field in ["utilisation_percent", "control_percent", "oracle_percent"] {
        let percents = numbers(json, field);
        assert_eq!(percents.len(), EPOCHS, "{field}");
        assert!(percents.iter().all(|percent| (0.1..=100.0).contains(percent)), "{field}: {json}");
    }
    assert_eq!(numbers(json, "stall_seconds").len(), EPOCHS);
    for field in ["listing_seconds", "first_batch_seconds"] {
        assert!(json[field].as_f64().unwrap() > 0.0, "{field}: {json}");
    }
}

#[test]
fn train_asks_the_store_for_every_byte_once_in_the_first_epoch_and_for_none_in_the_second() {
    for (load, mode) in [
        ("images", "off"),
        ("images", "detect"),
        ("images", "plan"),
        ("images", "manifest"),
        ("mds", "plan"),
        ("records", "off"),
        ("shards", "detect"),
    ] {
        let Some(stage) = Stage::new() else { return };
        let json = json_of(&stage, train(&stage, load, mode));
        check_fields(&json, load, mode);
        let data = json["data_bytes"].as_f64().unwrap();
        assert!(data > 1e6, "{json}");
        assert_eq!(numbers(&json, "s3_bytes"), [data, 0.0], "{load}, {mode}: {json}");
    }
}

#[test]
fn train_draws_its_run() {
    let Some(stage) = Stage::new() else { return };
    let mut command = train(&stage, "mds", "detect");
    let svg = stage.folder().join("train.svg");
    command.arg("--svg").arg(&svg);
    json_of(&stage, command);
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"), "{picture}");
    assert_eq!(picture.matches("<polyline").count(), 3, "mount, control and oracle");
}

#[test]
fn train_says_which_option_the_daemon_does_not_know() {
    let Some(stage) = Stage::new() else { return };
    let mut command = train(&stage, "images", "off");
    let outcome = run(command.args(["--set", "cache.polcy=pin"]), LIMIT);
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr.contains("polcy"), "{}", outcome.stderr);
}
