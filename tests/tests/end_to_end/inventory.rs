//! `tenderfs cache ls`, `evict` and `clear` on a running daemon.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::Value;
use tenderfs_lab::Operation;
use tenderfs_tests::{Program, Stage, eventually, run};

use super::{LIMIT, MIB, check_all, count_since, gets_since};

/// Runs `tenderfs cache`; returns its exit code and answer.
fn cache(stage: &Stage, arguments: &[&str]) -> (i32, Value, String) {
    let mut command = stage.command(Program::Tenderfs);
    command.arg("cache").args(arguments);
    command.args(["--json", "--socket"]).arg(stage.admin_socket());
    let done = run(&mut command, LIMIT);
    (done.code(), serde_json::from_str(&done.stdout).unwrap_or_default(), done.stderr)
}

fn path(stage: &Stage, key: &str) -> String {
    stage.path(key).display().to_string()
}

#[test]
fn what_is_evicted_is_fetched_again_and_nothing_else() {
    let Some(mut stage) = Stage::new() else { return };
    let mut files = stage.fill((0..6).map(|n| (format!("a/{n}"), MIB / 2)));
    files.extend(stage.fill((0..4).map(|n| (format!("ab/{n}"), MIB))));
    stage.start();
    check_all(&stage, &files);
    let (code, listed, stderr) = cache(&stage, &["ls", &path(&stage, "a")]);
    assert_eq!((code, &listed["total_objects"]), (0, &6.into()), "{listed} {stderr}");
    assert_eq!(listed["total_bytes"], 3 * MIB, "{listed}");
    let (code, listed, _) = cache(&stage, &["ls", "--top", "2"]);
    assert_eq!((code, &listed["total_objects"]), (0, &10.into()), "{listed}");
    let shown: Vec<_> =
        listed["objects"].as_array().unwrap().iter().map(|o| o["path"].clone()).collect();
    assert_eq!(shown, ["ab/0", "ab/1"], "the largest first");
    let (code, evicted, stderr) = cache(&stage, &["evict", &path(&stage, "a")]);
    assert_eq!((code, &evicted["objects"]), (0, &6.into()), "{evicted} {stderr}");
    assert_eq!(evicted["bytes"], 3 * MIB, "{evicted}");
    let mark = stage.lab().ledger().mark();
    check_all(&stage, &files);
    assert_eq!(count_since(stage.lab().ledger(), mark, Operation::Get), 6, "of `a` alone");
    assert_eq!(cache(&stage, &["clear"]).0, 2, "only if it is meant");
    let (code, evicted, _) = cache(&stage, &["clear", "--yes"]);
    assert_eq!((code, &evicted["objects"]), (0, &10.into()), "{evicted}");
    let disk = || cache(&stage, &["ls"]).1["total_objects"] == 0;
    eventually(LIMIT, "an empty disk tier", || disk().then_some(()));
    let mark = stage.lab().ledger().mark();
    check_all(&stage, &files);
    assert_eq!(count_since(stage.lab().ledger(), mark, Operation::Get), 10);
    let (code, _, stderr) = cache(&stage, &["evict", "/nowhere/x"]);
    assert!(code == 1 && stderr.contains("/nowhere/x"), "{code} {stderr}");
}

#[test]
fn a_reader_goes_on_while_its_file_is_evicted() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("large.bin", 24 * MIB)]);
    stage.start();
    check_all(&stage, &files);
    let open = File::open(stage.path("large.bin")).unwrap();
    let mut piece = vec![0; 100_000];
    for step in 0..20 {
        let at = step * MIB + 17;
        open.read_exact_at(&mut piece, at).unwrap();
        assert!(piece == files[0].bytes(at, 100_000)[..], "wrong bytes at {at}");
        if step % 4 == 1 {
            let (code, _, stderr) = cache(&stage, &["evict", &path(&stage, "large.bin")]);
            assert_eq!(code, 0, "{stderr}");
        }
    }
    drop(open);
    check_all(&stage, &files);
}

/// Proves that what is pinned outlives what is read after it, a restart too, and goes once it is let go.
#[test]
fn what_is_pinned_stays_on_disk_whatever_else_is_read() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("cache.size", "40M").set("cache.policy", "lru").set("fuse.passthrough", false);
    let kept = stage.fill([("model/a", 4 * MIB), ("model/b", 6 * MIB)]);
    let others = stage.fill((0..20).map(|n| (format!("data/{n:02}"), 4 * MIB)));
    stage.start();
    let pin = |stage: &Stage, arguments: &[&str], path: &str| {
        let mut command = stage.command(Program::Tenderfs);
        command.arg("cache").args(arguments).arg(stage.path(path));
        command.arg("--socket").arg(stage.admin_socket());
        let outcome = run(&mut command, LIMIT);
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        outcome.stdout
    };
    // One before it is cached, one after.
    pin(&stage, &["pin", "--ttl", "7d"], "model/a");
    check_all(&stage, &kept);
    wait_until_on_disk(&stage, 2);
    let said = pin(&stage, &["pin"], "model");
    assert!(said.contains("2 objects on disk are pinned, 10 MiB"), "{said}");
    check_all(&stage, &others);
    let gets_of_kept = |stage: &mut Stage| {
        stage.stop();
        stage.start();
        let mark = stage.lab().ledger().mark();
        check_all(stage, &kept);
        gets_since(stage.lab().ledger(), mark).len()
    };
    assert_eq!(gets_of_kept(&mut stage), 0, "what is pinned was fetched again");
    check_all(&stage, &others);
    assert_eq!(gets_of_kept(&mut stage), 0, "what is pinned was fetched again after a restart");
    let listed = run(
        stage
            .command(Program::Tenderfs)
            .args(["cache", "pins"])
            .arg(stage.mountpoint())
            .arg("--socket")
            .arg(stage.admin_socket()),
        LIMIT,
    );
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}{}", listed.stdout, listed.stderr);
    assert!(lines[1].contains("/model/a  until "), "{}", listed.stdout);

    pin(&stage, &["unpin"], "model/a");
    pin(&stage, &["unpin"], "model");
    check_all(&stage, &others);
    assert_eq!(gets_of_kept(&mut stage), 2 + 1, "what was let go is an object like any other");
}

fn wait_until_on_disk(stage: &Stage, objects: u64) {
    let admin = stage.admin();
    eventually(LIMIT, "the objects on disk", || {
        let listed = admin.get("/v1/cache/objects").json();
        (listed["total_objects"].as_u64()? >= objects).then_some(())
    });
}

#[test]
fn a_cache_directory_is_looked_into_without_a_daemon_and_not_while_one_uses_it() {
    let Some(mut stage) = Stage::new() else { return };
    stage.fill([("whole", 5 * MIB), ("part", 40 * MIB), ("small", 70_000)]);
    stage.set("read_ahead.enabled", false);
    stage.start();
    std::fs::read(stage.path("whole")).unwrap();
    std::fs::read(stage.path("small")).unwrap();
    let mut byte = [0];
    File::open(stage.path("part")).unwrap().read_exact_at(&mut byte, 30 * MIB).unwrap();
    wait_until_on_disk(&stage, 3);
    let inspect = |stage: &Stage, directory: &std::path::Path| {
        let mut command = stage.command(Program::Tenderfs);
        command.args(["cache", "inspect"]).arg(directory).arg("--json");
        run(&mut command, LIMIT)
    };
    let busy = inspect(&stage, &stage.cache_dir());
    assert_ne!(busy.code(), 0);
    let pid = stage.daemon().pid().to_string();
    assert!(busy.stderr.contains(&pid), "{}", busy.stderr);
    assert!(stage.stop().success());
    let orphan = stage.cache_dir().join("objects/ab");
    std::fs::create_dir_all(&orphan).unwrap();
    std::fs::write(orphan.join(format!("{}.data", "ab".repeat(16))), [7; 5000]).unwrap();
    let looked = inspect(&stage, &stage.cache_dir());
    assert_eq!(looked.code(), 0, "{}", looked.stderr);
    let found: Value = serde_json::from_str(&looked.stdout).unwrap();
    let store = &found["stores"][0];
    assert_eq!((&store["objects"], &store["complete"]), (&3.into(), &2.into()), "{found}");
    assert_eq!((&found["packed"], &found["packs"]), (&1.into(), &1.into()), "{found}");
    assert!(store["bytes"].as_u64().unwrap() >= 9 * MIB, "{found}");
    assert_eq!((&found["orphans"], &found["without_file"]), (&1.into(), &0.into()), "{found}");
    let other = inspect(&stage, stage.folder());
    assert!(other.stderr.contains("no cache directory"), "{}", other.stderr);
}
