//! Thousands of small files: from the page cache, from disk, and cold.

use std::path::PathBuf;

use super::bench::Bench;
use super::caches;
use super::daemon::{Daemon, DiskTier, Setup};
use super::data::{Copied, Object, Set, Source, sources};
use super::disk::{FILLS_MAX, list};
use super::error::CompareError;
use super::files;
use super::programs;
use super::reads;
use super::rounds::figure;
use crate::compare::lab::Stats;

/// Files open at once.
const WORKERS: usize = 8;
/// Reads of each file in one measurement of hits.
const HIT_PASSES: usize = 5;
/// Frames for some of the files, not for all.
const MEMORY_MIB: u64 = 512;

/// Both sides.
struct Scene {
    mounted: Vec<Source>,
    native: Vec<Source>,
    objects: Vec<Object>,
    setup: Setup,
    /// What the lab was asked while the mount was measured, over all rounds.
    asked: Vec<Stats>,
}

/// Measures the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    if !bench.wants_some("small.") {
        return Ok(());
    }
    let objects = bench.objects(Set::Small);
    let root = bench.native(Set::Small, Copied::Bytes)?;
    let setup = Setup {
        set: Set::Small,
        disk_tier: DiskTier::On,
        memory_mib: MEMORY_MIB,
        without_passthrough: false,
    };
    let mounted = bench.mounted(&objects);
    let native = sources(&root, &objects);
    let mut scene = Scene { mounted, native, objects, setup, asked: Vec::new() };
    if bench.wants_some("small.cold") {
        cold(bench, &mut scene)?;
    }
    if bench.wants(&["small.cached.8", "small.round-trips"]) || bench.wants_some("small.dropped") {
        let daemon = fill(bench, &scene)?;
        cached(bench, &mut scene, &daemon)?;
        daemon.stop();
        dropped(bench, &mut scene, &root)?;
    }
    Ok(())
}

/// A daemon that has every file on disk, complete. What was not written because too much waited is fetched again by the
/// next one.
fn fill(bench: &Bench, scene: &Scene) -> Result<Daemon, CompareError> {
    bench.ground.clear_cache()?;
    for _ in 0..FILLS_MAX {
        let daemon = bench.ground.start(&bench.lab, &scene.setup)?;
        list(&bench.ground.mountpoint())?;
        bench.lab.clear_ledger()?;
        reads::verify(&scene.mounted)?;
        let bytes = bench.lab.stats()?.body_bytes;
        daemon.wait_flushed()?;
        if bytes == 0 {
            return Ok(daemon);
        }
        daemon.stop();
    }
    Err(CompareError::Waited { seconds: 0, what: "every file read to be on disk" })
}

fn cached(bench: &mut Bench, scene: &mut Scene, daemon: &Daemon) -> Result<(), CompareError> {
    let seed = bench.wanted.seed;
    // Once more, so that every file was opened again since it is complete.
    reads::verify(&scene.mounted)?;
    reads::verify(&scene.native)?;
    let asked = || daemon.metric("tenderfs_fuse_requests_total", "");
    let before = asked()?;
    let mut read_files = 0_u64;
    bench.compare(
        "small.cached.8",
        scene,
        |_, scene| {
            let took = files::read_whole(&scene.mounted, WORKERS, HIT_PASSES, seed)?;
            read_files += took.operations;
            Ok(took.operations_per_s())
        },
        |_, scene| {
            let took = files::read_whole(&scene.native, WORKERS, HIT_PASSES, seed)?;
            Ok(took.operations_per_s())
        },
    )?;
    if read_files > 0 {
        let round_trips = (asked()? - before) / figure(read_files);
        bench.record_alone("small.round-trips", round_trips);
    }
    reads::verify(&scene.mounted)
}

/// The kernel has forgotten everything; the daemon has listed the folder, and has the files on disk only.
fn dropped(
    bench: &mut Bench,
    scene: &mut Scene,
    root: &std::path::Path,
) -> Result<(), CompareError> {
    let rows = ["small.dropped.8", "small.dropped.requests"];
    if !bench.wants(&rows) {
        return Ok(());
    }
    if !caches::drop_everything()? {
        bench.not_measured(&rows, "only root can make the kernel forget names");
        return Ok(());
    }
    let seed = bench.wanted.seed;
    let root: PathBuf = root.to_owned();
    scene.asked.clear();
    bench.compare(
        "small.dropped.8",
        scene,
        |bench, scene| {
            let daemon = bench.ground.start(&bench.lab, &scene.setup)?;
            list(&bench.ground.mountpoint())?;
            caches::drop_everything()?;
            bench.lab.clear_ledger()?;
            let took = files::read_whole(&scene.mounted, WORKERS, 1, seed)?;
            scene.asked.push(bench.lab.stats()?);
            reads::verify(&scene.mounted)?;
            daemon.stop();
            Ok(took.operations_per_s())
        },
        |_, scene| {
            list(&root)?;
            caches::drop_everything()?;
            files::read_whole(&scene.native, WORKERS, 1, seed).map(|took| took.operations_per_s())
        },
    )?;
    if !scene.asked.is_empty() {
        let requests: u64 = scene.asked.iter().map(|stats| stats.requests).sum();
        bench.record("small.dropped.requests", figure(requests), 0.0);
    }
    Ok(())
}

/// A new daemon with an empty cache that has listed the folder.
fn cold(bench: &mut Bench, scene: &mut Scene) -> Result<(), CompareError> {
    let rows = ["small.cold.8", "small.cold.gets", "small.cold.others"];
    if programs::version("curl").is_none() {
        bench.not_measured(&rows, "curl is not installed: apt-get install curl");
        return Ok(());
    }
    bench.lab.unshaped()?;
    let seed = bench.wanted.seed;
    scene.asked.clear();
    bench.compare(
        rows[0],
        scene,
        |bench, scene| {
            bench.ground.clear_cache()?;
            let daemon = bench.ground.start(&bench.lab, &scene.setup)?;
            list(&bench.ground.mountpoint())?;
            bench.lab.clear_ledger()?;
            let took = files::read_whole(&scene.mounted, WORKERS, 1, seed)?;
            scene.asked.push(bench.lab.stats()?);
            reads::verify(&scene.mounted)?;
            daemon.stop();
            Ok(took.operations_per_s())
        },
        |bench, scene| {
            let objects = (Set::Small, &scene.objects[..]);
            let took = programs::curl(bench.lab.plain(), objects, WORKERS, bench.folder())?;
            Ok(took.operations_per_s())
        },
    )?;
    let (rounds, files) = (scene.asked.len() as u64, scene.objects.len() as u64);
    if rounds > 0 {
        let gets: u64 = scene.asked.iter().map(|stats| stats.gets).sum();
        let requests: u64 = scene.asked.iter().map(|stats| stats.requests).sum();
        bench.record(rows[1], figure(gets) / figure(rounds * files), 1.0);
        bench.record(rows[2], figure(requests - gets), 0.0);
    }
    Ok(())
}
