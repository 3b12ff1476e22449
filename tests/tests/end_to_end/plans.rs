//! Jobs say what they will read, and find it fetched.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use tenderfs_lab::{Entry, Latency, Operation, Shape};
use tenderfs_tests::{File, Stage, eventually};

use super::{KIB, LIMIT, check_all_in_parallel, check_md5};

const FILE_BYTES: u64 = 64 * KIB;

/// A stage with small files in another order than that of their names, served.
fn stage_with(files: u64, set: impl FnOnce(&mut Stage)) -> Option<(Stage, Vec<File>)> {
    let mut stage = Stage::new()?;
    // A request made twice because it is slow is none of the plan's.
    stage.set("s3.hedging", false);
    set(&mut stage);
    let files =
        stage.fill((0..files).map(|n| (format!("set/{:03}.jpg", n * 7 % files), FILE_BYTES)));
    stage.start();
    Some((stage, files))
}

fn lines(files: &[File]) -> String {
    files.iter().fold(String::new(), |mut text, file| {
        writeln!(text, "{}", file.key).unwrap();
        text
    })
}

#[track_caller]
fn post(stage: &Stage, query: &str, text: String) -> Value {
    let answer = stage.admin().post_text(&format!("/v1/jobs/train/plans{query}"), text);
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

fn gets(stage: &Stage) -> Vec<Entry> {
    let mut entries = stage.lab().ledger().entries();
    entries.retain(|entry| entry.operation == Operation::Get);
    entries
}

/// Waits until S3 was asked for so many objects, and is asked for no more.
#[track_caller]
fn wait_for_gets(stage: &Stage, count: usize) {
    eventually(LIMIT, "the planned GETs", || (gets(stage).len() >= count).then_some(()));
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    assert_eq!(gets(stage).len(), count);
}

#[test]
fn a_planned_file_is_fetched_once_before_it_is_opened_and_in_the_order_of_the_plan() {
    let window = |stage: &mut Stage| {
        stage.set("plans.window", "1MiB");
    };
    let Some((stage, files)) = stage_with(100, window) else { return };
    let accepted = post(&stage, "?epoch=3", lines(&files));
    assert_eq!((&accepted["entries"], &accepted["replaced"]), (&100.into(), &false.into()));
    let taken = || stage.admin().get("/v1/jobs/train/status").json()["epochs"][0]["taken"].as_u64();
    // Entries are taken before their size is known, so more than fit, 16 by each of two cores.
    let ahead = eventually(LIMIT, "a full window", || {
        let ahead = gets(&stage).len();
        (ahead >= 16 && taken() == Some(ahead as u64)).then_some(ahead)
    });
    assert!((16..=48).contains(&ahead), "{ahead} files of 64 KiB for a window of 1 MiB");
    let mut fetched: Vec<_> = gets(&stage).iter().map(|entry| entry.key.to_string()).collect();
    let mut planned: Vec<_> = files[..ahead].iter().map(|file| file.key.clone()).collect();
    fetched.sort_unstable();
    planned.sort_unstable();
    assert_eq!(fetched, planned, "the first of the plan, and no others");
    for file in &files {
        check_md5(&stage.path(&file.key), file);
    }
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    assert_eq!(gets(&stage).len(), files.len());
    assert_eq!(stage.lab().ledger().body_bytes(), 100 * FILE_BYTES, "each byte once");
    let status = stage.admin().get("/v1/jobs/train/status").json();
    let epoch = &status["epochs"][0];
    assert_eq!(
        (&epoch["epoch"], &epoch["used"], &epoch["missing"]),
        (&3.into(), &100.into(), &0.into())
    );
}

#[test]
fn what_comes_first_in_a_plan_is_not_fetched_last() {
    let Some((stage, files)) = stage_with(160, |_| {}) else { return };
    // The first entries wait for the listing of their directory, and those behind them do not.
    post(&stage, "", lines(&files));
    wait_for_gets(&stage, files.len());
    let gets = gets(&stage);
    for file in &files[..16] {
        let turn = gets.iter().position(|entry| *entry.key == *file.key).unwrap();
        assert!(turn < gets.len() / 2, "{} was fetched as number {turn}", file.key);
    }
}

#[test]
fn workers_of_a_job_that_take_turns_find_every_file_fetched_once() {
    let Some((stage, files)) = stage_with(120, |_| {}) else { return };
    post(&stage, "", lines(&files));
    post(&stage, "?epoch=1", lines(&files));
    let used = || {
        let status = stage.admin().get("/v1/jobs/train/status").json();
        let epochs = status["epochs"].as_array().unwrap();
        let used = epochs.iter().map(|epoch| (epoch["epoch"].as_u64(), epoch["used"].as_u64()));
        used.collect::<Vec<_>>()
    };
    check_all_in_parallel(&stage, &files, 4);
    // A close is heard of after close(2) has returned.
    let first = vec![(Some(0), Some(120)), (Some(1), Some(0))];
    eventually(LIMIT, "one use of each file", || (used() == first).then_some(()));
    check_all_in_parallel(&stage, &files, 4);
    let second = vec![(Some(1), Some(120))];
    eventually(LIMIT, "the second use of each file", || (used() == second).then_some(()));
    wait_for_gets(&stage, files.len());
}

#[test]
fn files_that_are_planned_and_do_not_exist_cost_nothing_but_a_warning() {
    let Some((stage, files)) = stage_with(20, |_| {}) else { return };
    let text = format!("set/none.jpg\n{}nowhere/none.jpg\nset/none.jpg\n", lines(&files));
    post(&stage, "", text);
    wait_for_gets(&stage, files.len());
    let missing = || {
        let status = stage.admin().get("/v1/jobs/train/status").json();
        (status["epochs"][0]["missing"] == 3).then_some(())
    };
    eventually(LIMIT, "three missing files", missing);
    assert!(stage.log_line("a plan names a file that does not exist"));
    assert!(fs::metadata(stage.path("set/none.jpg")).is_err());
    check_all_in_parallel(&stage, &files, 4);
    wait_for_gets(&stage, files.len());
}

#[test]
fn a_job_that_is_gone_is_forgotten_and_its_files_are_read_as_ever() {
    let lease = |stage: &mut Stage| {
        stage.set("plans.lease", "1s").set("plans.window", "256KiB");
    };
    let Some((stage, files)) = stage_with(40, lease) else { return };
    post(&stage, "?rank=1&world=2", lines(&files));
    let expired = || stage.admin().metric("tenderfs_plan_jobs_expired_total", &[]) > 0.5;
    eventually(LIMIT, "the end of the lease", || expired().then_some(()));
    assert_eq!(stage.admin().get("/v1/jobs/train/status").status, 404);
    assert!(gets(&stage).len() < files.len());
    check_all_in_parallel(&stage, &files, 4);
    wait_for_gets(&stage, files.len());
}

#[test]
fn a_bad_line_is_named_and_nothing_of_its_plan_is_fetched() {
    let Some((stage, files)) = stage_with(5, |_| {}) else { return };
    let text = format!("{}../etc/passwd\n", lines(&files));
    let answer = stage.admin().post_text("/v1/jobs/train/plans", text);
    assert_eq!(answer.status, 400);
    let error = answer.json()["error"].to_string();
    assert!(error.contains("line 6") && error.contains("../etc/passwd"), "{error}");
    assert_eq!(stage.admin().get("/v1/jobs").json(), Value::Array(Vec::new()));
    assert_eq!(gets(&stage), []);
}

#[test]
fn parts_of_large_files_are_fetched_by_plan() {
    const SIZE: u64 = 40 << 20;
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("records.bin", SIZE)]);
    stage.start();
    post(&stage, "", "records.bin\t20971520\t131072\nrecords.bin\t0\t4096\n".to_owned());
    wait_for_gets(&stage, 2);
    let ranges: Vec<_> = gets(&stage).iter().filter_map(|entry| entry.range).collect();
    assert!(ranges.contains(&(20 << 20, 24 << 20)) && ranges.contains(&(0, 4 << 20)), "{ranges:?}");
    check_md5(&stage.path("records.bin"), &files[0]);
    assert_eq!(stage.lab().ledger().body_bytes(), SIZE, "each byte once");
}

/// Proves V09 and V10.
#[test]
fn what_a_manifest_names_is_fetched_before_any_read() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((0..30).map(|n| (format!("set/{n:02}.tar"), FILE_BYTES)));
    stage.fill([("other.bin", FILE_BYTES)]);
    let manifest = stage.folder().join("order.txt");
    fs::write(&manifest, "set/{20..29}.tar\r\nset/none.tar\n../bad\nset/{00..19}.tar").unwrap();
    stage.set_mount("manifest", manifest.display().to_string());
    stage.start();
    wait_for_gets(&stage, files.len());
    assert!(gets(&stage).iter().all(|entry| entry.key.starts_with("set/")));
    let job = stage.admin().get("/v1/jobs/manifest/status").json();
    assert_eq!(
        (&job["epochs"][0]["entries"], &job["epochs"][0]["missing"]),
        (&31.into(), &1.into())
    );
    assert!(stage.log_line("a line of a manifest is passed over"));
    check_all_in_parallel(&stage, &files, 4);
    wait_for_gets(&stage, files.len());
}

#[test]
fn a_manifest_may_be_an_object_of_the_mount() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((0..8).map(|n| (format!("set/{n}.tar"), FILE_BYTES)));
    stage.put("order.txt", lines(&files));
    stage.set_mount("manifest", format!("s3://{}/order.txt", stage.bucket()));
    stage.start();
    wait_for_gets(&stage, files.len() + 1);
}

#[test]
fn a_manifest_that_cannot_be_read_fails_the_mount_and_says_why() {
    for (manifest, problem) in [
        ("/nowhere/order.txt", "cannot read the manifest /nowhere/order.txt"),
        ("s3://elsewhere/order.txt", "is not below s3://"),
    ] {
        let Some(mut stage) = Stage::new() else { return };
        stage.set_mount("manifest", manifest);
        assert!(stage.try_start().is_err());
        assert!(stage.log_line(problem), "{problem}");
    }
}

#[test]
fn a_directory_too_large_to_wait_for_is_listed_once_for_a_plan() {
    let Some((stage, _)) = stage_with(0, |_| {}) else { return };
    let files = stage.fill((0..40_000).map(|n| (format!("large/{n:05}"), 1)));
    let first_byte = Latency::Fixed(Duration::from_millis(60));
    stage.lab().shape(Shape { first_byte, ..Shape::default() });
    let planned: Vec<File> = files.into_iter().step_by(100).collect();
    post(&stage, "", lines(&planned));
    wait_for_gets(&stage, planned.len());
    let lists = || stage.lab().ledger().count(Operation::List);
    eventually(LIMIT, "all pages", || (lists() >= 40).then_some(()));
    assert!(stage.lab().ledger().wait_idle(LIMIT));
    assert!(lists() <= 42, "{} pages asked for of 40, one of them to mount", lists());
    wait_for_gets(&stage, planned.len());
}
