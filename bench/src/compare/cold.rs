//! First epochs: nothing is cached, everything comes from the store.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::bars::COLD_CPU_S_PER_GB;
use super::bench::Bench;
use super::daemon::{Daemon, DiskTier, Setup};
use super::data::{Object, Set, Source};
use super::disk::list;
use super::error::CompareError;
use super::files::{FIRST_READ_BYTES, first_bytes};
use super::gets;
use super::http::BareClient;
use super::lab::{LINK_BYTES_PER_SECOND, LabProcess, link};
use super::memory::cpu_s_per_gb;
use super::programs;
use super::reads::{self, Order, Reading, Span, Took, compare, read};
use super::rounds::{Series, figure};
use crate::load::Caching;

/// Readers of an epoch.
const READERS: usize = 8;
/// Frames for what is on its way, not for the data.
const MEMORY_MIB: u64 = 1024;
const MIB: u64 = 1 << 20;
/// A lab that sent nothing for so long has nothing on its way.
const QUIET_FOR: Duration = Duration::from_millis(20);

/// Measures the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    if bench.wants_some("cold.link") {
        bench.lab.shape(&link())?;
        let measured = over_the_link(bench);
        bench.lab.unshaped()?;
        measured?;
    }
    if bench.wants(&["cold.epoch.8", "cold.epoch.cpu", "cold.own-gets.8", "cold.disk-tier.8"]) {
        epochs(bench)?;
    }
    if bench.wants_some("cold.first-byte") {
        first_byte(bench)?;
    }
    Ok(())
}

fn setup(set: Set, disk_tier: DiskTier) -> Setup {
    Setup { set, disk_tier, memory_mib: MEMORY_MIB, without_passthrough: false }
}

/// A daemon with an empty cache that has listed its folder.
fn fresh(bench: &Bench, setup: &Setup) -> Result<Daemon, CompareError> {
    bench.ground.clear_cache()?;
    let daemon = bench.ground.start(&bench.lab, setup)?;
    list(&bench.ground.mountpoint())?;
    Ok(daemon)
}

/// One cold pass, and the processor time that the daemon spent until it was over.
fn epoch(
    bench: &Bench,
    setup: &Setup,
    (sources, readers): (&[Source], usize),
) -> Result<(Took, f64), CompareError> {
    let daemon = fresh(bench, setup)?;
    let cpu = daemon.cpu();
    let took = read(&Reading {
        sources,
        readers,
        chunk_bytes: MIB,
        stride_bytes: MIB,
        caching: Caching::Kernel,
        order: Order::Sequential,
        span: Span::Pass,
    })?;
    daemon.wait_flushed()?;
    let cpu = cpu_s_per_gb(daemon.cpu().saturating_sub(cpu), took);
    // The pages that were read are still in the kernel.
    reads::verify(sources)?;
    daemon.stop();
    Ok((took, cpu))
}

fn over_the_link(bench: &mut Bench) -> Result<(), CompareError> {
    let link_gb_s = figure(LINK_BYTES_PER_SECOND) / 1e9;
    for (name, set, readers) in
        [("cold.link.1", Set::Huge, 1), ("cold.link.8", Set::Large, READERS)]
    {
        let sources = bench.mounted(&bench.objects(set));
        let setup = setup(set, DiskTier::On);
        bench.against((name, link_gb_s), &mut (), |bench, ()| {
            epoch(bench, &setup, (&sources, readers)).map(|(took, _)| took.gb_per_s())
        })?;
    }
    let objects = bench.objects(Set::Large);
    if programs::version("curl").is_none() {
        bench.not_measured(&["cold.link.gets.8"], "curl is not installed: apt-get install curl");
        return Ok(());
    }
    bench.against(("cold.link.gets.8", link_gb_s), &mut (), |bench, ()| {
        let objects = (Set::Large, &objects[..]);
        programs::curl(bench.lab.plain(), objects, READERS, bench.folder())
            .map(|took| took.gb_per_s())
    })
}

fn epochs(bench: &mut Bench) -> Result<(), CompareError> {
    bench.lab.unshaped()?;
    let objects = bench.objects(Set::Large);
    let sources = bench.mounted(&objects);
    let on = setup(Set::Large, DiskTier::On);
    let off = setup(Set::Large, DiskTier::Off);
    beside_gets(bench, (&objects, &sources), &on)?;
    bench.compare(
        "cold.disk-tier.8",
        &mut (),
        |bench, ()| epoch(bench, &on, (&sources, READERS)).map(|(took, _)| took.gb_per_s()),
        |bench, ()| epoch(bench, &off, (&sources, READERS)).map(|(took, _)| took.gb_per_s()),
    )
}

/// The epoch, and the project's own client, beside GETs of an independent one.
fn beside_gets(
    bench: &mut Bench,
    (objects, sources): (&[Object], &[Source]),
    setup: &Setup,
) -> Result<(), CompareError> {
    if programs::version("curl").is_none() {
        let rows = ["cold.epoch.8", "cold.epoch.cpu", "cold.own-gets.8"];
        bench.not_measured(&rows, "curl is not installed: apt-get install curl");
        return Ok(());
    }
    let curl = |bench: &Bench| {
        programs::curl(bench.lab.plain(), (Set::Large, objects), READERS, bench.folder())
            .map(|took| took.gb_per_s())
    };
    let mut cpu = Series::default();
    bench.compare(
        "cold.epoch.8",
        &mut cpu,
        |bench, cpu| {
            let (took, spent) = epoch(bench, setup, (sources, READERS))?;
            cpu.push(spent);
            Ok(took.gb_per_s())
        },
        |bench, _| curl(bench),
    )?;
    if cpu != Series::default() {
        bench.record("cold.epoch.cpu", cpu.median(), COLD_CPU_S_PER_GB);
    }
    bench.compare(
        "cold.own-gets.8",
        &mut (),
        |bench, ()| {
            gets::fetch(bench.lab.plain(), (Set::Large, objects), READERS)
                .map(|took| took.gb_per_s())
        },
        |bench, ()| curl(bench),
    )
}

/// The first bytes of cold objects whose names are known, beside a GET on an open connection. Out of order and one at a
/// time, when all that was fetched ahead has arrived: in order most of them would be there before they are opened, and
/// the others wait for what is fetched beside them.
fn first_byte(bench: &mut Bench) -> Result<(), CompareError> {
    bench.lab.unshaped()?;
    let objects = bench.objects(Set::First);
    let sources = bench.mounted(&objects);
    let setup = setup(Set::First, DiskTier::On);
    bench.compare(
        "cold.first-byte",
        &mut (),
        |bench, ()| {
            let daemon = fresh(bench, &setup)?;
            let figure = first_bytes_alone(bench, &sources);
            daemon.stop();
            figure
        },
        |bench, ()| bare_gets(bench, &sources, &objects),
    )
}

fn first_bytes_alone(bench: &Bench, sources: &[Source]) -> Result<f64, CompareError> {
    let mut order: Vec<&Source> = sources.iter().collect();
    order.shuffle(&mut StdRng::seed_from_u64(bench.wanted.seed));
    let mut series = Series::default();
    for source in order {
        wait_until_quiet(bench)?;
        for time in first_bytes(std::slice::from_ref(source))? {
            series.push(time.as_secs_f64() * 1e3);
        }
    }
    Ok(series.median())
}

/// Waits until the lab sends no more.
#[expect(clippy::disallowed_methods, reason = "that nothing happens is no event")]
fn wait_until_quiet(bench: &Bench) -> Result<(), CompareError> {
    let mut sent = bench.lab.stats()?.body_bytes;
    loop {
        bench.check_interrupt()?;
        std::thread::sleep(QUIET_FOR);
        let now = bench.lab.stats()?.body_bytes;
        if now == sent {
            return Ok(());
        }
        sent = now;
    }
}

fn bare_gets(bench: &Bench, sources: &[Source], objects: &[Object]) -> Result<f64, CompareError> {
    let failed = |source| CompareError::Ask { whom: "the lab", what: "an object".into(), source };
    let mut client = BareClient::connect(bench.lab.host()).map_err(failed)?;
    let mut series = Series::default();
    for (object, source) in objects.iter().zip(sources) {
        let path = LabProcess::path(Set::First, &object.key);
        let started = Instant::now();
        let bytes = client.first_bytes(&path, FIRST_READ_BYTES).map_err(failed)?;
        series.push(started.elapsed().as_secs_f64() * 1e3);
        compare(source, 0, bytes)?;
    }
    Ok(series.median())
}
