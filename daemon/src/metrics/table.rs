//! The rows, in the order in which they are shown.

use super::{Row, Samples, Sources, Type};

mod cache;
mod disk;
mod mounts;
mod process;
mod s3;

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&Sources<'_>, &mut Samples<'_>),
) -> Row {
    Row { name, kind: Type::Counter, meaning, labels, read }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&Sources<'_>, &mut Samples<'_>),
) -> Row {
    Row { name, kind: Type::Gauge, meaning, labels, read }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&Sources<'_>, &mut Samples<'_>),
) -> Row {
    Row { name, kind: Type::Histogram, meaning, labels, read }
}

/// Every row of the table.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    [process::ROWS, cache::ROWS, disk::ROWS, mounts::ROWS, s3::ROWS].into_iter().flatten()
}
