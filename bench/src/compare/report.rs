//! The result: a row for each figure, printed as a table and written as JSON.

use std::fmt;

use serde::Serialize;

use super::bars::{Bar, ratio};
use crate::report::Machine;

/// One figure beside its reference. The names of the fields are those of the JSON file and stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The row's name.
    pub name: &'static str,
    /// The median of the figure; `None` if it was not measured.
    pub value: Option<f64>,
    /// Unit of both figures.
    pub unit: &'static str,
    /// What it is held against.
    pub reference_name: &'static str,
    /// The median of that.
    pub reference: Option<f64>,
    /// How good the figure is: value / reference where more is better, reference / value where less is.
    pub ratio: Option<f64>,
    /// The least ratio; `None` if the figure only informs.
    pub bar: Option<f64>,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
    /// Spread of figure and reference over the rounds, as a share of their medians.
    #[serde(skip)]
    pub spread: Option<(f64, f64)>,
}

/// What a row comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At its bar or above.
    Reached,
    /// Below its bar.
    Below,
    /// Has no bar.
    Informs,
    /// Could not be measured here.
    NotMeasured,
}

impl Row {
    /// A measured row.
    pub fn measured(bar: &Bar, value: f64, reference: f64) -> Row {
        Row {
            name: bar.name,
            value: Some(value),
            unit: bar.unit,
            reference_name: bar.reference,
            reference: Some(reference),
            ratio: Some(ratio(bar.better, value, reference)),
            bar: bar.bar,
            not_measured: None,
            spread: None,
        }
    }

    /// A figure that only informs and has nothing beside it.
    pub fn alone(bar: &Bar, value: f64) -> Row {
        Row { reference: None, ratio: None, ..Row::measured(bar, value, 0.0) }
    }

    /// A row for which something is missing here.
    pub fn not_measured(bar: &Bar, why: String) -> Row {
        Row {
            value: None,
            reference: None,
            ratio: None,
            not_measured: Some(why),
            ..Row::measured(bar, 0.0, 0.0)
        }
    }

    /// Whether it is good enough.
    pub fn verdict(&self) -> Verdict {
        match (self.ratio, self.bar) {
            _ if self.not_measured.is_some() => Verdict::NotMeasured,
            (Some(ratio), Some(bar)) if ratio < bar => Verdict::Below,
            (_, Some(_)) => Verdict::Reached,
            (_, None) => Verdict::Informs,
        }
    }
}

/// All rows, with what they were measured on and with.
#[derive(Debug, Clone)]
pub struct Table {
    /// The machine.
    pub machine: Machine,
    /// Programs with their versions.
    pub versions: Vec<String>,
    /// Seed, size, rounds.
    pub conditions: String,
    /// The rows, in the order of measurement.
    pub rows: Vec<Row>,
}

impl Table {
    /// Rows below their bar.
    pub fn below(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.verdict() == Verdict::Below).collect()
    }

    /// Rows that could not be measured.
    pub fn not_measured(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.verdict() == Verdict::NotMeasured).collect()
    }

    /// The rows as a JSON array.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(&self.rows)
            .unwrap_or_else(|error| unreachable!("rows are plain values: {error}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processors, processor } = &self.machine;
        writeln!(f, "machine   {processors} x {processor}, Linux {kernel}")?;
        writeln!(f, "versions  {}", self.versions.join(", "))?;
        writeln!(f, "run       {}", self.conditions)?;
        let head = ["row", "value", "reference", "unit", "ratio", "bar"];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(cells));
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        let verdicts = std::iter::once("reference is").map(str::to_owned);
        let verdicts = verdicts.chain(self.rows.iter().map(remark));
        for (line, remark) in lines.iter().zip(verdicts) {
            // Names and units begin at the left, figures end at the right.
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                match column {
                    0 | 3 => write!(f, "{cell:width$}  ")?,
                    _ => write!(f, "{cell:>width$}  ")?,
                }
            }
            writeln!(f, "{remark}")?;
        }
        self.summary(f)
    }
}

impl Table {
    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.not_measured() {
            let why = row.not_measured.as_deref().unwrap_or_default();
            writeln!(f, "not measured: {}: {why}", row.name)?;
        }
        let below = self.below();
        let judged = self.rows.iter().filter(|row| row.bar.is_some() && row.ratio.is_some());
        if below.is_empty() {
            return writeln!(f, "every bar is reached ({})", judged.count());
        }
        writeln!(f, "below their bar: {} of {}", below.len(), judged.count())?;
        for row in below {
            let (ratio, bar) = (row.ratio.unwrap_or_default(), row.bar.unwrap_or_default());
            writeln!(f, "  {}: {ratio:.3} of {bar:.2}", row.name)?;
        }
        Ok(())
    }
}

/// Name, value, reference, unit, ratio and bar of a row, as they are printed.
fn cells(row: &Row) -> [String; 6] {
    let number = |figure: Option<f64>, spread: Option<f64>| match (figure, spread) {
        (None, _) => "-".to_owned(),
        (Some(figure), Some(spread)) => format!("{} ±{:.0}%", digits(figure), spread * 50.0),
        (Some(figure), None) => digits(figure),
    };
    [
        row.name.to_owned(),
        number(row.value, row.spread.map(|(value, _)| value)),
        number(row.reference, row.spread.map(|(_, reference)| reference)),
        row.unit.to_owned(),
        row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
        row.bar.map_or_else(|| "-".to_owned(), |bar| format!("{bar:.2}")),
    ]
}

fn remark(row: &Row) -> String {
    match row.verdict() {
        Verdict::Below => format!("{}; BELOW", row.reference_name),
        Verdict::NotMeasured => format!("{}; not measured", row.reference_name),
        Verdict::Reached | Verdict::Informs => row.reference_name.to_owned(),
    }
}

/// Three digits that matter, more only before the point.
fn digits(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::bars::{BARS, Better};

    const BAR: Bar =
        Bar { name: "x", unit: "u", reference: "r", better: Better::More, bar: Some(0.9) };

    #[track_caller]
    fn check(row: &Row, expected: Verdict) {
        assert_eq!(row.verdict(), expected, "{row:?}");
    }

    #[test]
    fn verdict_compares_the_ratio_with_the_bar() {
        check(&Row::measured(&BAR, 90.0, 100.0), Verdict::Reached);
        check(&Row::measured(&BAR, 89.9, 100.0), Verdict::Below);
        let less = Bar { better: Better::Less, bar: Some(0.5), ..BAR };
        check(&Row::measured(&less, 2.0, 1.0), Verdict::Reached);
        check(&Row::measured(&less, 2.1, 1.0), Verdict::Below);
        check(&Row::measured(&Bar { bar: None, ..BAR }, 1.0, 100.0), Verdict::Informs);
        check(&Row::not_measured(&BAR, "no fio".to_owned()), Verdict::NotMeasured);
    }

    fn table() -> Table {
        Table {
            machine: Machine { kernel: "6.18".into(), processors: 2, processor: "P".into() },
            versions: vec!["tenderfs-bench 0".into(), "fio-3".into()],
            conditions: "seed 1".into(),
            rows: vec![
                Row::measured(&BAR, 12.345, 100.0),
                Row::measured(&Bar { name: "y", ..BAR }, 95.0, 100.0),
                Row::not_measured(&Bar { name: "z", ..BAR }, "fio is not installed".into()),
            ],
        }
    }

    #[test]
    fn table_names_the_machine_each_row_and_what_is_below_its_bar() {
        let text = table().to_string();
        for part in ["2 x P, Linux 6.18", "fio-3", "seed 1", "12.3", "BELOW", "z: fio is not"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.contains("below their bar: 1 of 2\n  x: 0.123 of 0.90"), "{text}");
    }

    #[test]
    fn json_has_the_documented_fields_and_no_others() {
        let rows: serde_json::Value = serde_json::from_str(&table().json()).unwrap();
        let fields: Vec<_> = rows[0].as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["bar", "name", "ratio", "reference", "reference_name", "unit", "value"];
        assert_eq!(fields, expected);
        assert_eq!(rows[2]["value"], serde_json::Value::Null);
        assert_eq!(rows[2]["not_measured"], "fio is not installed");
    }

    #[test]
    fn every_row_fits_its_line() {
        let mut all = table();
        all.rows = BARS.iter().map(|bar| Row::measured(bar, 123_456.7, 98_765.4)).collect();
        assert!(all.to_string().lines().all(|line| line.chars().count() < 120), "{all}");
    }
}
