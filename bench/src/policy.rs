//! `policy`: which part of its reads a job would find cached, by what the cache keeps.
//!
//! A simulation without files or clock: uses of whole objects run through the decider that the cache has, and through
//! what bounds it. A hit rate counts the uses after an object's first: in passes over a data set, the epochs after the
//! first.

mod fifo;
mod optimal;
mod report;
mod uses;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use tenderfs_cache::{Keeper, Policy, Verdict};

use crate::cli::EXIT_OK;
use fifo::Fifo;
pub use report::{HitRates, PolicyReport};
use uses::Uses;
pub use uses::{LineFault, PolicyError};

/// Arguments of `policy`.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct PolicyArgs {
    /// Which objects are used: `shuffle` or `fixed` for passes over a data set in another order each time or always in
    /// the same, `trace:FILE` for the uses in a file
    #[arg(long, value_name = "shuffle|fixed|trace:FILE", value_parser = UsePattern::from_str)]
    pub pattern: UsePattern,
    /// Bytes of the cache as a part of those of all objects, above 0 and at most 1
    #[arg(long, value_parser = fraction)]
    pub fraction: f64,
    /// Objects of the data set, all of one size
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub objects: u32,
    /// Passes over the data set
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=20))]
    pub epochs: u32,
    /// Seed of every order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

const HELP: &str = "\
A trace has a use in each line: a key, or a key and the object's bytes after a comma, a blank or a tab. Empty lines \
and lines that begin with # are skipped. With no bytes an object has 1; a key with other bytes is another object.

`belady` knows the future: with objects of one size nothing hits more.

Exit codes: 0 all right, 1 the trace cannot be read or the result not be written, 2 wrong usage.";

/// Which objects are used, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsePattern {
    /// Passes, each in an order of its own.
    Shuffle,
    /// Passes in one order.
    Fixed,
    /// The uses in a file.
    Trace(PathBuf),
}

impl FromStr for UsePattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("trace", file)) if !file.is_empty() => Ok(Self::Trace(file.into())),
            None if text == "shuffle" => Ok(Self::Shuffle),
            None if text == "fixed" => Ok(Self::Fixed),
            _ => Err("write shuffle, fixed or trace:FILE"),
        }
    }
}

fn fraction(text: &str) -> Result<f64, &'static str> {
    match text.parse::<f64>() {
        Ok(fraction) if fraction > 0.0 && fraction <= 1.0 => Ok(fraction),
        _ => Err("write a number above 0 and at most 1"),
    }
}

/// Prints the hit rates, and writes them if that is asked for.
pub fn main(args: &PolicyArgs) -> Result<u8, PolicyError> {
    let report = simulate(args)?;
    print!("{report}");
    if let Some(path) = &args.json {
        fs::write(path, report.json() + "\n")
            .map_err(|source| PolicyError::Write { path: path.clone(), source })?;
    }
    Ok(EXIT_OK)
}

/// Runs the uses that the arguments ask for through every policy.
pub fn simulate(args: &PolicyArgs) -> Result<PolicyReport, PolicyError> {
    let uses = match &args.pattern {
        UsePattern::Shuffle => Uses::shuffled(args.objects, args.epochs, args.seed),
        UsePattern::Fixed => Uses::in_order(args.objects, args.epochs),
        UsePattern::Trace(path) => Uses::read(path)?,
    };
    let cache_bytes = part_of(uses.data_bytes(), args.fraction);
    let kept_by = |policy| {
        let mut keeper = Keeper::new(policy, cache_bytes);
        rate(&uses, |object| {
            let object = uses.object(object);
            keeper.used(object.id, object.bytes) == Verdict::Kept
        })
    };
    let mut fifo = Fifo::new(cache_bytes);
    let mut optimal = optimal::hits(&uses, cache_bytes).into_iter();
    let hit_rate = HitRates {
        lru: kept_by(Policy::Lru),
        fifo: rate(&uses, |object| fifo.used(object, uses.object(object).bytes)),
        pin: kept_by(Policy::Pin),
        auto: kept_by(Policy::Auto),
        belady: rate(&uses, |_| optimal.next() == Some(true)),
    };
    Ok(PolicyReport {
        pattern: args.pattern.clone(),
        fraction: args.fraction,
        seed: args.seed,
        objects: uses.object_count(),
        uses: uses.order().len(),
        cache_bytes,
        hit_rate,
    })
}

/// The part of the uses after an object's first that `is_hit` calls hits; it is asked for each use in turn.
fn rate(uses: &Uses, mut is_hit: impl FnMut(u32) -> bool) -> f64 {
    let mut seen = HashSet::new();
    let (mut hits, mut counted) = (0_u32, 0_u32);
    for object in uses.order() {
        let hit = is_hit(*object);
        if !seen.insert(*object) {
            counted += 1;
            hits += u32::from(hit);
        }
    }
    f64::from(hits) / f64::from(counted.max(1))
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a data set, rounded to bytes"
)]
fn part_of(bytes: u64, fraction: f64) -> u64 {
    (bytes as f64 * fraction).round() as u64
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> Result<PolicyArgs, String> {
        let line = format!("tenderfs-bench policy {line}");
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Policy(args)) => Ok(args),
            Ok(other) => panic!("not policy: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn rates(pattern: &str, fraction: f64) -> HitRates {
        let args = args(&format!("--pattern {pattern} --fraction {fraction}")).unwrap();
        simulate(&args).unwrap().hit_rate
    }

    #[track_caller]
    fn check(name: &str, rate: f64, expected: f64) {
        assert!((rate - expected).abs() <= 0.02, "{name}: {rate} is not within 0.02 of {expected}");
    }

    #[test]
    fn shuffled_passes_hit_what_theory_says() {
        for (f, lru) in [(0.1, 0.005), (0.25, 0.034), (0.5, 0.153), (0.75, 0.403), (0.9, 0.670)] {
            let rates = rates("shuffle", f);
            check("lru", rates.lru, lru);
            check("lru, by formula", rates.lru, f + (1.0 - f) * (1.0 - f).ln());
            check("pin", rates.pin, f);
            check("auto", rates.auto, f);
            check("belady", rates.belady, f);
            assert!(rates.fifo < f, "no policy passes f: {rates:?}");
        }
    }

    #[test]
    fn passes_in_one_order_never_hit_what_was_used_last() {
        for f in [0.1, 0.25, 0.5, 0.9] {
            let rates = rates("fixed", f);
            check("lru", rates.lru, 0.0);
            check("fifo", rates.fifo, 0.0);
            check("pin", rates.pin, f);
            check("auto", rates.auto, f);
            check("belady", rates.belady, f);
        }
    }

    #[test]
    fn a_cache_for_everything_hits_everything() {
        let HitRates { lru, fifo, pin, auto, belady } = rates("shuffle", 1.0);
        for rate in [lru, fifo, pin, auto, belady] {
            check("any", rate, 1.0);
        }
    }

    #[test]
    fn nothing_hits_more_than_what_knows_the_future() {
        // Skewed uses: object n is used 400 / n times, far apart.
        let mut lines: Vec<(u32, u32)> = Vec::new();
        for object in 1..200 {
            lines.extend((0..400 / object).map(|turn| (turn * object * 7919 % 10_007, object)));
        }
        lines.sort_unstable();
        let text: Vec<_> = lines.iter().map(|(_, object)| object.to_string()).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text.join("\n")).unwrap();
        let pattern = format!("trace:{}", file.path().display());
        for f in [0.05, 0.2, 0.6] {
            let HitRates { lru, fifo, pin, auto, belady } = rates(&pattern, f);
            assert!([lru, fifo, pin, auto].iter().all(|rate| *rate <= belady), "{f}");
            assert!(belady > lru && auto > 0.8 * lru.max(pin), "{f}: {lru} {pin} {auto} {belady}");
        }
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused() {
        for bad in [
            "--pattern shuffle",
            "--fraction 0.5",
            "--pattern shuffle --fraction 0",
            "--pattern shuffle --fraction 2",
            "--pattern shuffle --fraction nan",
            "--pattern shuffle --fraction -0.5",
            "--pattern random --fraction 0.5",
            "--pattern trace: --fraction 0.5",
            "--pattern fixed --fraction 0.5 --epochs 1",
            "--pattern fixed --fraction 0.5 --objects 0",
        ] {
            assert!(args(bad).is_err(), "{bad}");
        }
        let error = args("--pattern shuffle --fraction 2").unwrap_err();
        assert!(error.contains("above 0 and at most 1"), "{error}");
    }

    #[test]
    fn a_trace_that_is_not_there_is_named() {
        let args = args("--pattern trace:/nowhere/trace --fraction 0.5").unwrap();
        let error = simulate(&args).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/trace: No such file"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn json_has_the_rates_by_name() {
        let args = args("--pattern fixed --fraction 0.5 --objects 10").unwrap();
        let json: serde_json::Value =
            serde_json::from_str(&simulate(&args).unwrap().json()).unwrap();
        let names: Vec<_> = json["hit_rate"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["auto", "belady", "fifo", "lru", "pin"]);
        assert_eq!((&json["objects"], &json["uses"]), (&10.into(), &50.into()));
        assert_eq!(json["pattern"], "fixed");
    }
}
