//! The S3 client alone: what it fetches, and what that costs, beside another client that does the same.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::bench::Bench;
use super::data::{Object, Set};
use super::error::CompareError;
use super::lab::{Door, LabProcess};
use super::reads::Took;
use super::rounds::Series;
use super::{gets, programs};

/// Streams at one time.
const STREAMS: usize = 16;

/// What both clients spent in each round, in CPU seconds for each GB.
#[derive(Debug, Default)]
struct Spent {
    own: Series,
    other: Series,
}

/// Measures the rows of the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    let rows = ["s3.plain.16", "s3.plain.cpu", "s3.tls.16", "s3.tls.cpu"];
    if programs::version("curl").is_none() {
        bench.not_measured(&rows, "curl is not installed: apt-get install curl");
        return Ok(());
    }
    bench.lab.unshaped()?;
    let objects = bench.objects(Set::Large);
    side_by_side(bench, &objects, ("s3.plain.16", "s3.plain.cpu"), LabProcess::plain)?;
    side_by_side(bench, &objects, ("s3.tls.16", "s3.tls.cpu"), LabProcess::encrypted)
}

fn side_by_side(
    bench: &mut Bench,
    objects: &[Object],
    (speed, cpu): (&'static str, &'static str),
    door: fn(&LabProcess) -> Door<'_>,
) -> Result<(), CompareError> {
    let mut spent = Spent::default();
    bench.compare(
        speed,
        &mut spent,
        |bench, spent| {
            let fetch = || gets::fetch(door(&bench.lab), (Set::Large, objects), STREAMS);
            let (took, cost) = costing(UsageWho::RUSAGE_SELF, fetch)?;
            spent.own.push(cost);
            Ok(took.gb_per_s())
        },
        |bench, spent| {
            let objects = (Set::Large, objects);
            let fetch = || programs::curl(door(&bench.lab), objects, STREAMS, bench.folder());
            let (took, cost) = costing(UsageWho::RUSAGE_CHILDREN, fetch)?;
            spent.other.push(cost);
            Ok(took.gb_per_s())
        },
    )?;
    if bench.wants(&[speed]) {
        bench.record(cpu, spent.own.median(), spent.other.median());
    }
    Ok(())
}

/// What `work` came to, and the CPU seconds that `who` spent on each GB of it.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn costing(
    who: UsageWho,
    work: impl Fn() -> Result<Took, CompareError>,
) -> Result<(Took, f64), CompareError> {
    let spent = || {
        let usage = getrusage(who).map_err(|error| CompareError::Start {
            program: "getrusage".to_owned(),
            source: error.into(),
        })?;
        let time = usage.user_time() + usage.system_time();
        Ok(time.num_microseconds() as f64 / 1e6)
    };
    let before: f64 = spent()?;
    let took = work()?;
    let seconds = spent()? - before;
    Ok((took, seconds / (took.bytes as f64 / 1e9)))
}
