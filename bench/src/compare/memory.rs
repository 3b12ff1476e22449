//! The memory tier: every byte is in frames, none in the kernel, and nothing is passed through.

use std::time::Duration;

use super::bench::Bench;
use super::caches;
use super::daemon::{Daemon, DiskTier, Setup};
use super::data::{Object, Set, Source, len_bytes};
use super::error::CompareError;
use super::null::NullServer;
use super::reads::{self, Order, Reading, Span, Took, read, read_each, slowest_of_mean};
use super::rounds::{Series, figure};
use crate::load::Caching;

/// Objects of the set that are read: with frames for all of them to spare.
const OBJECTS: usize = 8;
/// What the memory limit has beyond the bytes that are read.
const MEMORY_SPARE_MIB: u64 = 768;
/// The memory limit of the row that measures what the daemon holds.
const TIGHT_MIB: u64 = 512;
const MIB: u64 = 1 << 20;

/// Both mounts.
struct Scene {
    daemon: Daemon,
    null: NullServer,
    mounted: Vec<Source>,
    nulls: Vec<Source>,
    /// Processor time by the gigabyte of the daemon and of the null server.
    cpu: [Series; 2],
    /// The slowest reader of the daemon's mount, as a part of the mean.
    slowest: Series,
}

/// Measures the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    if ["memory.direct", "memory.buffered", "memory.requests", "memory.null"]
        .iter()
        .any(|prefix| bench.wants_some(prefix))
    {
        hits(bench)?;
    }
    if bench.wants_some("memory.rss") {
        resident(bench)?;
    }
    Ok(())
}

fn hits(bench: &mut Bench) -> Result<(), CompareError> {
    let mut objects = bench.objects(Set::Large);
    objects.truncate(OBJECTS);
    let mut scene = prepare(bench, &objects)?;
    bench.lab.clear_ledger()?;
    for (name, readers) in [("memory.direct.1", 1), ("memory.direct.32", 32)] {
        let span = Span::Repeat(bench.hits_for());
        let measure = move |sources: &[Source]| direct(sources, readers, span);
        bench.compare(
            name,
            &mut scene,
            |_, scene| {
                let cpu = scene.daemon.cpu();
                let each = read_each(&directly(&scene.mounted, readers, span))?;
                if readers > 1 {
                    scene.slowest.push(slowest_of_mean(&each));
                }
                let took = each.into_iter().fold(Took::default(), Took::merge);
                scene.cpu[0].push(cpu_s_per_gb(scene.daemon.cpu().saturating_sub(cpu), took));
                Ok(took.gb_per_s())
            },
            |_, scene| {
                let cpu = scene.null.cpu();
                let took = measure(&scene.nulls)?;
                scene.cpu[1].push(cpu_s_per_gb(scene.null.cpu().saturating_sub(cpu), took));
                Ok(took.gb_per_s())
            },
        )?;
    }
    if bench.wants_some("memory.direct.") {
        let [daemon, null] = &scene.cpu;
        bench.record("memory.direct.cpu", daemon.median(), null.median());
    }
    if bench.wants_some("memory.direct.32") {
        bench.record("memory.direct.fairness", scene.slowest.median(), 1.0);
    }
    for (name, readers) in [("memory.buffered.1", 1), ("memory.buffered.8", 8)] {
        bench.compare(
            name,
            &mut scene,
            |bench, scene| {
                caches::drop_pages(&[&bench.ground.mountpoint()])?;
                buffered(&scene.mounted, readers)
            },
            |bench, scene| {
                caches::drop_pages(&[&bench.folder().join("null")])?;
                buffered(&scene.nulls, readers)
            },
        )?;
    }
    from_memory(bench, &mut scene, &objects)?;
    let requests = bench.lab.stats()?.requests;
    bench.record("memory.requests", figure(requests), 0.0);
    reads::verify(&scene.mounted)
}

/// The null server with as much memory as is read, beside itself: what is lost because memory is not the processor's
/// cache, which no server of data can avoid.
fn from_memory(
    bench: &mut Bench,
    scene: &mut Scene,
    objects: &[Object],
) -> Result<(), CompareError> {
    if !bench.wants_some("memory.null-from-memory") {
        return Ok(());
    }
    let server = NullServer::start(bench.folder(), objects, ("null-memory", len_bytes(objects)))?;
    let sources = server.sources(objects);
    let rows = [("memory.null-from-memory.1", 1), ("memory.null-from-memory.32", 32)];
    for (name, readers) in rows {
        let span = Span::Repeat(bench.hits_for());
        let measure =
            move |sources: &[Source]| direct(sources, readers, span).map(|took| took.gb_per_s());
        bench.compare(name, scene, |_, _| measure(&sources), |_, scene| measure(&scene.nulls))?;
    }
    Ok(())
}

/// A daemon that has everything in memory, and a null server with files of the same sizes.
fn prepare(bench: &Bench, objects: &[Object]) -> Result<Scene, CompareError> {
    let setup = Setup {
        set: Set::Large,
        disk_tier: DiskTier::Off,
        memory_mib: len_bytes(objects) / MIB * 5 / 4 + MEMORY_SPARE_MIB,
        without_passthrough: true,
    };
    let daemon = bench.ground.start(&bench.lab, &setup)?;
    let mounted = bench.mounted(objects);
    reads::verify(&mounted)?;
    let null = NullServer::start(bench.folder(), objects, ("null", MIB))?;
    let nulls = null.sources(objects);
    let (cpu, slowest) = Default::default();
    Ok(Scene { daemon, null, mounted, nulls, cpu, slowest })
}

fn direct(sources: &[Source], readers: usize, span: Span) -> Result<Took, CompareError> {
    read(&directly(sources, readers, span))
}

fn directly(sources: &[Source], readers: usize, span: Span) -> Reading<'_> {
    Reading {
        sources,
        readers,
        chunk_bytes: 4 * MIB,
        stride_bytes: 4 * MIB,
        caching: Caching::Direct,
        order: Order::Sequential,
        span,
    }
}

fn buffered(sources: &[Source], readers: usize) -> Result<f64, CompareError> {
    let took = read(&Reading {
        sources,
        readers,
        chunk_bytes: MIB,
        stride_bytes: MIB,
        caching: Caching::Kernel,
        order: Order::Sequential,
        span: Span::Pass,
    })?;
    Ok(took.gb_per_s())
}

/// What the daemon holds while 32 readers go through more than its memory, cold and then from disk.
fn resident(bench: &mut Bench) -> Result<(), CompareError> {
    let objects = bench.objects(Set::Large);
    bench.ground.clear_cache()?;
    let setup = Setup {
        set: Set::Large,
        disk_tier: DiskTier::On,
        memory_mib: TIGHT_MIB,
        without_passthrough: true,
    };
    let daemon = bench.ground.start(&bench.lab, &setup)?;
    let mounted = bench.mounted(&objects);
    let once = || direct(&mounted, 32, Span::Pass);
    once()?;
    once()?;
    let held = daemon.resident_bytes_max()?;
    bench.record("memory.rss.32", figure(held / MIB), figure(TIGHT_MIB));
    reads::verify(&mounted)
}

/// Processor time by the gigabyte.
pub(super) fn cpu_s_per_gb(cpu: Duration, took: Took) -> f64 {
    cpu.as_secs_f64() / (figure(took.bytes.max(1)) / 1e9)
}
