//! `tenderfs cache verify` on a running daemon.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tenderfs_tests::{Program, Stage, run};

use super::{LIMIT, MIB, check_all};

fn verify(stage: &Stage) -> (i32, Value, String) {
    let mut command = stage.command(Program::Tenderfs);
    command.args(["cache", "verify", "--json", "--socket"]).arg(stage.admin_socket());
    let done = run(&mut command, LIMIT);
    (done.code(), serde_json::from_str(&done.stdout).unwrap_or_default(), done.stderr)
}

fn object_files(cache_dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(cache_dir.join("objects")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// Damages four objects with files of their own.
fn damage_files(cache_dir: &Path) {
    let files = object_files(cache_dir);
    assert_eq!(files.len(), 100);
    files.iter().step_by(25).for_each(|path| flip(path, 70_000));
}

/// Damages four objects of a pack: the first byte of a page is no padding.
fn damage_pack(cache_dir: &Path) {
    let pack = cache_dir.join("packs/00000000.pack");
    let pages = fs::metadata(&pack).unwrap().len() / 4096;
    (0..4).for_each(|part| flip(&pack, pages / 4 * part * 4096));
}

#[test]
fn as_many_mismatches_are_reported_as_blocks_were_damaged() {
    mismatches_are_reported("0", damage_files);
    mismatches_are_reported("1MiB", damage_pack);
}

fn mismatches_are_reported(pack_below: &str, damage: impl Fn(&Path)) {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("cache.pack_below", pack_below);
    let files = stage.fill((0..100).map(|n| (format!("set/{n:02}"), MIB / 4 + 1001 * n)));
    stage.start();
    check_all(&stage, &files);
    stage.stop();
    damage(&stage.cache_dir());
    stage.start();
    let before = stage.lab().ledger().body_bytes();
    let (code, report, stderr) = verify(&stage);
    assert_eq!((code, &report["state"]), (4, &Value::from("done")), "{report} {stderr}");
    assert_eq!(report["mismatches"], 4, "{report}");
    assert_eq!(report["blocks_checked"], 100, "{report}");
    assert_eq!(report["bytes_checked"], report["bytes_total"], "{report}");
    assert!(stderr.contains("fetched again"), "{stderr}");
    let counted = stage.admin().metric("tenderfs_cache_verify_mismatches_total", &[]);
    assert!((counted - 4.0).abs() < f64::EPSILON, "{counted}");
    check_all(&stage, &files);
    let fetched = stage.lab().ledger().body_bytes() - before;
    assert!(fetched > 4 * MIB / 4 && fetched < 4 * MIB, "only what was damaged: {fetched} bytes");
    let (code, report, stderr) = verify(&stage);
    assert_eq!((code, &report["mismatches"]), (0, &Value::from(0)), "{report} {stderr}");
}
