//! The demo's result: a table for people, JSON for machines.

use std::fmt::Write as _;

use serde::Serialize;

/// All that `--json` writes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Files of the data set.
    pub files: usize,
    /// Files whose MD5 differed from what was made, over all epochs.
    pub mismatches: usize,
    /// The epochs in the order they ran.
    pub epochs: Vec<Epoch>,
}

/// One measured pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epoch {
    /// `direct_one`, `direct_parallel`, `cold_one`, `cold`, `warm_disk` or `warm_page_cache`.
    pub name: &'static str,
    /// Bytes read.
    pub bytes: u64,
    /// Time spent reading, wall clock.
    pub seconds: f64,
    /// `bytes / seconds`, in 1e9 bytes a second.
    pub gb_per_s: f64,
    /// Median over the files of the time from open (or request) to the first bytes, in milliseconds.
    pub ttfb_ms: f64,
    /// GET requests the store saw during the epoch.
    pub s3_gets: u64,
    /// Body bytes the store sent for them.
    pub s3_bytes: u64,
    /// What the table says beside the figures.
    #[serde(skip)]
    pub note: String,
    /// Files read.
    #[serde(skip)]
    pub files: usize,
    /// Files among them with a wrong MD5.
    #[serde(skip)]
    pub mismatches: usize,
}

/// How figures come about, printed below the table.
const LEGEND: &str = "\
GB/s: 1e9 bytes by wall clock of reading. Readers read whole files into memory laid out beforehand; MD5s are compared
file by file once the clock has stopped, so that hashing is no part of the time. Passes over many files through the mount
list the directories first, as jobs do, within the time. first byte: median over the files, from open (direct: request)
to the first bytes. S3 columns: ";

impl Report {
    /// The table and its legend; `source` says where the S3 columns come from.
    pub fn table(&self, source: &str) -> String {
        let base = self.epochs.iter().find(|epoch| epoch.name == "direct_one");
        let base_gb_per_s = base.map_or(0.0, |epoch| epoch.gb_per_s);
        let head = [
            "epoch",
            "files",
            "MB",
            "seconds",
            "GB/s",
            "x direct_one",
            "first byte ms",
            "S3 GETs",
            "S3 MB",
            "MD5",
            "",
        ];
        let rows = self.epochs.iter().map(|epoch| epoch.row(base_gb_per_s));
        let rows: Vec<[String; 11]> =
            std::iter::once(head.map(str::to_owned)).chain(rows).collect();
        let mut text = align(&rows);
        text.push_str(LEGEND);
        text.push_str(source);
        text.push_str(".\n");
        let verdict = match self.mismatches {
            0 => format!("All {} files had the right MD5 in every epoch.\n", self.files),
            wrong => {
                format!("WRONG BYTES: {wrong} readings of files had another MD5 than was stored.\n")
            }
        };
        text.push_str(&verdict);
        text
    }
}

impl Epoch {
    fn row(&self, base_gb_per_s: f64) -> [String; 11] {
        let times = self.gb_per_s / base_gb_per_s;
        [
            self.name.to_owned(),
            self.files.to_string(),
            megabytes(self.bytes),
            format!("{:.3}", self.seconds),
            format!("{:.3}", self.gb_per_s),
            if times.is_finite() { format!("{times:.1}") } else { String::new() },
            format!("{:.2}", self.ttfb_ms),
            self.s3_gets.to_string(),
            megabytes(self.s3_bytes),
            if self.mismatches == 0 {
                "ok".to_owned()
            } else {
                format!("{} WRONG", self.mismatches)
            },
            self.note.clone(),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with one digit after the point")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// Columns as wide as their widest cell; the first and the last to the left, figures to the right.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let written = if column == 0 || column == N - 1 {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
            debug_assert!(written.is_ok(), "writing to a string does not fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(name: &'static str, gb_per_s: f64, mismatches: usize) -> Epoch {
        Epoch {
            name,
            bytes: 268_435_456,
            seconds: 3.0,
            gb_per_s,
            ttfb_ms: 20.5,
            s3_gets: 1,
            s3_bytes: 268_435_456,
            note: "one GET".to_owned(),
            files: 1,
            mismatches,
        }
    }

    #[test]
    fn table_has_aligned_columns_and_speed_relative_to_one_stream() {
        let report = Report {
            files: 1,
            mismatches: 0,
            epochs: vec![epoch("direct_one", 0.09, 0), epoch("cold_one", 0.9, 0)],
        };
        let text = report.table("the ledger");
        let lines: Vec<_> = text.lines().collect();
        let end = |line: &str, word: &str| line.find(word).unwrap() + word.len();
        assert_eq!(end(lines[0], "GB/s"), end(lines[2], "0.900"), "{text}");
        assert_eq!(end(lines[0], "x direct_one"), end(lines[2], "10.0"), "{text}");
        assert!(lines[1].contains("268.4") && lines[1].contains(" ok  one GET"), "{text}");
        assert!(text.contains("All 1 files had the right MD5"), "{text}");
    }

    #[test]
    fn wrong_bytes_are_shouted() {
        let report = Report { files: 1, mismatches: 2, epochs: vec![epoch("cold", 1.0, 2)] };
        let text = report.table("the ledger");
        assert!(text.contains("2 WRONG") && text.contains("WRONG BYTES: 2"), "{text}");
    }

    #[test]
    fn json_has_exactly_the_documented_fields() {
        let report = Report { files: 1, mismatches: 0, epochs: vec![epoch("cold", 1.0, 0)] };
        let json = serde_json::to_value(report).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<_> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&json), ["epochs", "files", "mismatches"]);
        let fields = ["bytes", "gb_per_s", "name", "s3_bytes", "s3_gets", "seconds", "ttfb_ms"];
        assert_eq!(keys(&json["epochs"][0]), fields);
    }
}
