//! The admin API, the metrics, and the command line tool that speaks to them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tenderfs_tests::{Admin, Program, Stage, eventually, run};

use super::{LIMIT, MIB, check_all, gets_since};

/// Waits until a warm job has ended and returns its last state.
#[track_caller]
fn ended(admin: &Admin, id: &Value) -> Value {
    let path = format!("/v1/warm/{}", text(id));
    eventually(LIMIT, "the warm job's end", || {
        let job = admin.get(&path).json();
        (job["state"] != "running").then_some(job)
    })
}

/// An id as it stands in a path, whether it is a number or a string.
fn text(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

#[test]
fn status_tells_what_runs_where() {
    let Some(mut stage) = Stage::new() else { return };
    stage.fill([("a", 10)]);
    stage.start();
    let status = stage.admin().get("/v1/status").json();
    assert_eq!(status["pid"], stage.daemon().pid());
    assert_eq!(status["state"], "ready");
    assert_eq!(status["memory"]["limit_bytes"], 256 * MIB);
    let mounts = status["mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0]["mountpoint"], *stage.mountpoint().to_string_lossy());
    assert_eq!(mounts[0]["source"], format!("s3://{}", stage.bucket()));
    for path in ["/healthz", "/readyz", "/v1/mounts", "/v1/cache", "/v1/openapi.json"] {
        assert_eq!(stage.admin().get(path).status, 200, "{path}");
    }
    assert_eq!(stage.admin().get("/v1/nothing").status, 404);

    let mut command = stage.command(Program::Tenderfs);
    command.args(["status", "--json", "--socket"]).arg(stage.admin_socket());
    let printed = run(&mut command, LIMIT);
    assert_eq!(printed.code(), 0, "{}", printed.stderr);
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed["pid"], status["pid"]);
}

/// Proves W12, W13: what was warmed is read without S3.
#[test]
fn after_warming_reads_ask_s3_for_no_data() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill((1..31).map(|n| (format!("set/{}/{n:02}", n % 4), n * MIB / 3)));
    let outside = stage.fill([("outside", 3 * MIB)]);
    stage.start();
    let admin = stage.admin();
    let path = stage.path("set").to_string_lossy().into_owned();
    let created = admin.post("/v1/warm", &json!({ "path": path, "recursive": true }));
    assert_eq!(created.status, 201, "{}", created.text);
    let id = created.json()["id"].clone();

    // The stream of events ends by itself, with the job.
    let events = admin.get(&format!("/v1/warm/{}/events", text(&id))).text;
    let last: Value = serde_json::from_str(
        events.lines().filter_map(|line| line.strip_prefix("data:")).next_back().unwrap().trim(),
    )
    .unwrap();
    assert_eq!(last["state"], "done", "{events}");
    let bytes: u64 = files.iter().map(tenderfs_tests::File::size_bytes).sum();
    assert_eq!(last["files_total"], files.len());
    assert_eq!(last["files_warmed"], files.len());
    assert_eq!(last["files_failed"], 0);
    assert_eq!(last["bytes_warmed"], bytes);

    let ledger = stage.lab().ledger();
    assert_eq!(ledger.body_bytes(), bytes, "each byte once, and nothing outside the folder");
    let mark = ledger.mark();
    check_all(&stage, &files);
    assert_eq!(gets_since(ledger, mark), []);

    // A second run finds everything there.
    let again = admin.post("/v1/warm", &json!({ "path": path, "recursive": true })).json();
    let job = ended(&admin, &again["id"]);
    assert_eq!([&job["bytes_skipped"], &job["bytes_warmed"]], [&json!(bytes), &json!(0)]);
    assert_eq!(gets_since(ledger, mark), []);
    check_all(&stage, &outside);
}

/// Proves W12.
#[test]
fn a_warm_job_can_be_cancelled() {
    let Some(mut stage) = Stage::new() else { return };
    stage.fill((0..200).map(|n| (format!("set/{n:03}"), MIB)));
    stage.lab().shape(tenderfs_lab::Shape {
        total_bytes_per_second: Some(10 * MIB),
        ..tenderfs_lab::Shape::default()
    });
    stage.start();
    let admin = stage.admin();
    let path = stage.path("set").to_string_lossy().into_owned();
    let id =
        admin.post("/v1/warm", &json!({ "path": path, "recursive": true })).json()["id"].clone();
    let url = format!("/v1/warm/{}", text(&id));
    eventually(LIMIT, "a first GET", || (stage.lab().ledger().gets() > 0).then_some(()));
    let answer = admin.delete(&url);
    assert!((200..300).contains(&answer.status), "{}", answer.text);
    let job = ended(&admin, &id);
    assert_eq!(job["state"], "cancelled");
    assert!(job["files_warmed"].as_u64().unwrap() < 200);
}

/// Proves W14.
#[test]
fn tenderfs_warm_ends_with_0_and_check_tells_what_is_not_cached_by_3() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("set/a", 5 * MIB), ("set/b", 100), ("set/deep/c", MIB)]);
    stage.start();
    let warm = |arguments: &[&str]| {
        let mut command = stage.command(Program::Tenderfs);
        command.arg("warm").arg(stage.path("set")).arg("-r").args(arguments);
        run(command.arg("--socket").arg(stage.admin_socket()), LIMIT)
    };
    let unchecked = warm(&["--check"]);
    assert_eq!(unchecked.code(), 3, "{}{}", unchecked.stdout, unchecked.stderr);
    assert!((unchecked.stdout + &unchecked.stderr).contains("set/deep/c"));
    let warmed = warm(&[]);
    assert_eq!(warmed.code(), 0, "{}{}", warmed.stdout, warmed.stderr);
    let checked = warm(&["--check"]);
    assert_eq!(checked.code(), 0, "{}{}", checked.stdout, checked.stderr);
    let mark = stage.lab().ledger().mark();
    check_all(&stage, &files);
    assert_eq!(gets_since(stage.lab().ledger(), mark), []);
}

#[test]
fn what_a_warm_job_cannot_do_is_answered_with_a_hint() {
    let Some(mut stage) = Stage::new() else { return };
    stage.fill([("a", 10)]);
    stage.start();
    let admin = stage.admin();
    let outside = admin.post("/v1/warm", &json!({ "path": "/etc", "recursive": true }));
    assert!((400..500).contains(&outside.status), "{}", outside.text);
    assert!(outside.json()["error"].is_string() && outside.json()["hint"].is_string());
    assert_eq!(admin.get("/v1/warm/999").status, 404);
    assert_eq!(admin.get("/v1/warm/nothing").status, 400);
}

/// Proves V14.
#[test]
fn metrics_tell_hits_and_misses_and_what_s3_was_asked() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("a", 9 * MIB), ("b", MIB)]);
    stage.start();
    let admin = stage.admin();
    let text = admin.get("/metrics").text;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("tenderfs_") && value.parse::<f64>().is_ok(), "{line:?}");
    }
    let ledger = stage.lab().ledger();
    let first_byte = |key: &str| read_directly(&stage.path(key));
    let read_from = |tier| admin.metric("tenderfs_cache_reads_total", &[("tier", tier)]);
    let count = |count: u64| u32::try_from(count).map(f64::from).unwrap();

    first_byte("a");
    assert!(ledger.wait_idle(LIMIT));
    assert!((read_from("s3") - 1.0).abs() < f64::EPSILON, "{}", read_from("s3"));
    let before = read_from("memory");
    first_byte("a");
    assert!((read_from("memory") - before - 1.0).abs() < f64::EPSILON, "{}", read_from("memory"));

    check_all(&stage, &files);
    assert!(ledger.wait_idle(LIMIT));
    let asked = admin.metric("tenderfs_s3_requests_total", &[("op", "get")]);
    assert!((asked - count(ledger.gets())).abs() < f64::EPSILON, "{asked} of {}", ledger.gets());
    let text = admin.get("/metrics").text;
    assert!(!text.contains("a.bin") && !text.contains("\"a\""), "never a key as a label");
}

/// Reads the first block of the disk past the kernel's page cache, so that the daemon is asked.
fn read_directly(path: &Path) {
    let mut options = fs::File::options();
    let file = options.read(true).custom_flags(nix::libc::O_DIRECT).open(path).unwrap();
    let mut buffer = [0; 4096];
    assert_eq!((&file).read(&mut buffer).unwrap(), buffer.len());
}
