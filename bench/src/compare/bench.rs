//! One run: what is wanted, where it runs, and the rows so far.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bars::{self, Bar, Suite};
use super::daemon::Ground;
use super::data::{self, Copied, Object, Scale, Set, Source};
use super::error::CompareError;
use super::interrupt::Interrupt;
use super::lab::LabProcess;
use super::report::Row;
use super::rounds::{Series, Side, turns};

/// How long one measurement of hits lasts at full size.
const HITS_FOR: Duration = Duration::from_millis(500);

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Suites.
    pub(super) suites: Vec<Suite>,
    /// Part of the names of rows; all if `None`.
    pub(super) only: Option<String>,
    /// Rounds of every comparison.
    pub(super) rounds: u16,
    /// Size of everything.
    pub(super) scale: Scale,
    /// Seed of data and orders.
    pub(super) seed: u64,
}

impl Wanted {
    /// Whether this row is to be measured.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.suites.iter().any(|suite| name.starts_with(suite.prefix()))
            && self.only.as_deref().is_none_or(|only| name.contains(only))
    }

    /// Every row to be measured.
    pub(super) fn rows(&self) -> Vec<&'static Bar> {
        bars::BARS.iter().filter(|bar| self.wants(bar.name)).collect()
    }

    /// An error if that is none.
    pub(super) fn check(&self) -> Result<(), CompareError> {
        if !self.rows().is_empty() {
            return Ok(());
        }
        let all = Wanted { only: None, ..self.clone() };
        let names: Vec<_> = all.rows().iter().map(|bar| bar.name).collect();
        Err(CompareError::NoRow {
            only: self.only.clone().unwrap_or_default(),
            names: names.join(", "),
        })
    }
}

/// The run.
#[derive(Debug)]
pub(super) struct Bench {
    /// What is asked for.
    pub(super) wanted: Wanted,
    /// The store.
    pub(super) lab: LabProcess,
    /// The daemon's folders.
    pub(super) ground: Ground,
    interrupt: Interrupt,
    rows: Vec<Row>,
}

impl Bench {
    /// Nothing measured yet.
    pub(super) fn new(
        wanted: Wanted,
        lab: LabProcess,
        ground: Ground,
        interrupt: Interrupt,
    ) -> Bench {
        Bench { wanted, lab, ground, interrupt, rows: Vec::new() }
    }

    /// The rows so far.
    pub(super) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Whether any of these rows is to be measured.
    pub(super) fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wanted.wants(name))
    }

    /// Whether any row of which the name begins so is to be measured.
    pub(super) fn wants_some(&self, prefix: &str) -> bool {
        self.wanted.rows().iter().any(|bar| bar.name.starts_with(prefix))
    }

    /// The objects of a set.
    pub(super) fn objects(&self, set: Set) -> Vec<Object> {
        data::objects(set, self.wanted.scale, self.wanted.seed)
    }

    /// The files of a set on the mount.
    pub(super) fn mounted(&self, objects: &[Object]) -> Vec<Source> {
        data::sources(&self.ground.mountpoint(), objects)
    }

    /// The folder for files of one's own.
    pub(super) fn folder(&self) -> &Path {
        &self.ground.folder
    }

    /// The same files on the native file system, beside the cache; written when they are first asked for.
    pub(super) fn native(&self, set: Set, copied: Copied) -> Result<PathBuf, CompareError> {
        let root = self.folder().join(match copied {
            Copied::Bytes => "native",
            Copied::Sizes => "native-sizes",
        });
        let root = root.join(set.prefix());
        if !root.exists() {
            data::copy(&root, &self.objects(set), copied).map_err(CompareError::file(&root))?;
        }
        Ok(root)
    }

    /// How long one measurement of hits lasts.
    pub(super) fn hits_for(&self) -> Duration {
        HITS_FOR.mul_f64(self.wanted.scale.0.clamp(0.1, 1.0))
    }

    /// An error once the user wants to stop.
    pub(super) fn check_interrupt(&self) -> Result<(), CompareError> {
        self.interrupt.check()
    }

    /// Measures a row: `subject` and `reference` take turns.
    pub(super) fn compare<C>(
        &mut self,
        name: &'static str,
        context: &mut C,
        mut subject: impl FnMut(&Bench, &mut C) -> Result<f64, CompareError>,
        mut reference: impl FnMut(&Bench, &mut C) -> Result<f64, CompareError>,
    ) -> Result<(), CompareError> {
        if !self.wanted.wants(name) {
            return Ok(());
        }
        let (mut values, mut references) = (Series::default(), Series::default());
        for side in turns(self.wanted.rounds) {
            self.check_interrupt()?;
            match side {
                Side::Subject => values.push(subject(self, context)?),
                Side::Reference => references.push(reference(self, context)?),
            }
        }
        let row = Row {
            spread: Some((values.spread(), references.spread())),
            ..Row::measured(bar(name), values.median(), references.median())
        };
        self.push(row);
        Ok(())
    }

    /// Measures a row that is held against a number.
    pub(super) fn against<C>(
        &mut self,
        (name, limit): (&'static str, f64),
        context: &mut C,
        mut subject: impl FnMut(&Bench, &mut C) -> Result<f64, CompareError>,
    ) -> Result<(), CompareError> {
        if !self.wanted.wants(name) {
            return Ok(());
        }
        let mut values = Series::default();
        for _ in 0..self.wanted.rounds {
            self.check_interrupt()?;
            values.push(subject(self, context)?);
        }
        let row = Row {
            spread: Some((values.spread(), 0.0)),
            ..Row::measured(bar(name), values.median(), limit)
        };
        self.push(row);
        Ok(())
    }

    /// Takes note of a figure that came along.
    pub(super) fn record(&mut self, name: &'static str, value: f64, reference: f64) {
        self.push(Row::measured(bar(name), value, reference));
    }

    /// Takes note of a figure that has nothing beside it.
    pub(super) fn record_alone(&mut self, name: &'static str, value: f64) {
        self.push(Row::alone(bar(name), value));
    }

    /// Takes note of rows that cannot be measured here.
    pub(super) fn not_measured(&mut self, names: &[&'static str], why: &str) {
        for name in names {
            self.push(Row::not_measured(bar(name), why.to_owned()));
        }
    }

    /// The value of a row that was measured.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name)?.value
    }

    fn push(&mut self, row: Row) {
        if !self.wanted.wants(row.name) {
            return;
        }
        let number = |figure: Option<f64>| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.3}"))
        };
        eprintln!(
            "{}: {} {} beside {} of {}, ratio {}",
            row.name,
            number(row.value),
            row.unit,
            number(row.reference),
            row.reference_name,
            number(row.ratio)
        );
        self.rows.push(row);
    }
}

/// Rows are named in the suites as in the table; the test of each suite's names keeps that true.
fn bar(name: &str) -> &'static Bar {
    bars::find(name).unwrap_or_else(|| unreachable!("{name} is not in the table of bars"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(suites: &[Suite], only: Option<&str>) -> Wanted {
        Wanted {
            suites: suites.to_vec(),
            only: only.map(str::to_owned),
            rounds: 1,
            scale: Scale(1.0),
            seed: 1,
        }
    }

    #[test]
    fn only_picks_rows_of_the_suites_asked_for() {
        let names = |suites: &[Suite], only| {
            wanted(suites, only).rows().iter().map(|bar| bar.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[Suite::Metadata], None), ["metadata.ls", "metadata.find"]);
        assert_eq!(names(&Suite::ALL, Some("first-byte")).len(), 3);
        assert_eq!(names(&[Suite::Cold], Some("first-byte")), ["cold.first-byte"]);
        assert_eq!(names(&Suite::ALL, None).len(), bars::BARS.len());
    }

    #[test]
    fn filter_that_picks_nothing_is_an_error_that_names_the_rows() {
        let error = wanted(&[Suite::Metadata], Some("nonsense")).check().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("nonsense") && text.contains("metadata.find"), "{text}");
        wanted(&Suite::ALL, None).check().unwrap();
    }
}
