//! The text of plans and manifests.

use std::path::Path;

use tenderfs_byterange::ByteRange;

use super::entries::{Entries, Span};
use crate::namespace::is_reachable;

/// A line that says nothing that could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}: {text:?}")]
pub struct LineFault {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: &'static str,
    /// Its beginning.
    pub text: String,
}

impl LineFault {
    fn new(index: usize, fault: &'static str, line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line).chars().take(REPEATED_MAX).collect();
        Self { line: index + 1, fault, text }
    }
}

/// Most characters of a line that a fault repeats.
const REPEATED_MAX: usize = 120;

/// Where the paths of a plan belong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    /// Absolute paths are below this.
    pub(crate) mountpoint: &'a Path,
    /// Prefix of the mount's keys; empty, or ends with `/`.
    pub(crate) prefix: &'a str,
}

/// Reads `path` or `path TAB offset TAB length` from each line. Lines may end in CR LF, the text may
/// begin with a byte order mark, and empty lines are passed over.
pub(crate) fn read_plan(text: &[u8], base: Base<'_>) -> Result<Entries, LineFault> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut entries = Entries::default();
    let mut key = String::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let fault = |fault| LineFault::new(index, fault, line);
        let line = std::str::from_utf8(line).map_err(|_| fault("not UTF-8"))?;
        let (path, span) = split(line).map_err(fault)?;
        base.key_of(path, &mut key).map_err(fault)?;
        entries.push(&key, span).map_err(|_| fault("too many entries"))?;
    }
    Ok(entries)
}

/// What could be read of a manifest.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    pub(crate) entries: Entries,
    /// Lines that could not be read; the first of them are in `faults`.
    pub(crate) bad_lines: u64,
    pub(crate) faults: Vec<LineFault>,
}

/// Faults of a manifest that are named.
const FAULTS_NAMED: usize = 10;

/// Names that a line with braces stands for at most.
const EXPANDED_MAX: u64 = 10_000_000;

/// Reads the lines that a plan has, and beside them `path,offset,length`, JSON objects with `path` (or
/// `key`) and perhaps `offset` and `length`, and names with ranges in braces such as
/// `shard-{000000..000999}.tar`. Blanks around a line are nothing of it, and lines that begin with `#`
/// are passed over. A line that cannot be read is passed over.
pub(crate) fn read_manifest(text: &[u8], base: Base<'_>) -> Manifest {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut manifest = Manifest::default();
    let mut key = String::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let read = manifest_line(line, |path, span| {
            base.key_of(path, &mut key)?;
            manifest.entries.push(&key, span).map_err(|_| "too many entries")
        });
        if let Err(fault) = read {
            manifest.bad_lines += 1;
            if manifest.faults.len() < FAULTS_NAMED {
                manifest.faults.push(LineFault::new(index, fault, line));
            }
        }
    }
    manifest
}

fn manifest_line(
    line: &[u8],
    mut entry: impl FnMut(&str, Span) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    if line.starts_with("{\"") {
        let object: JsonEntry =
            serde_json::from_str(line).map_err(|_| "not a JSON object with a path")?;
        let span = match (object.offset, object.length) {
            (None, None) => Span::Whole,
            (offset, Some(length)) => part(offset.unwrap_or(0), length)?,
            (Some(_), None) => return Err("an offset without a length"),
        };
        return entry(&object.path, span);
    }
    if line.contains('\t') {
        let (path, span) = split(line)?;
        return entry(path, span);
    }
    if let Some((path, span)) = split_at_commas(line) {
        return entry(path, span?);
    }
    match braces(line) {
        Some(_) if expanded(line).is_none() => Err("ranges in braces that are empty or too long"),
        Some(range) => expand(line, range, &mut entry),
        None => entry(line, Span::Whole),
    }
}

/// A line of JSON.
#[derive(serde::Deserialize)]
struct JsonEntry {
    #[serde(alias = "key")]
    path: String,
    offset: Option<u64>,
    length: Option<u64>,
}

/// `path,offset,length`; `None` if the line does not end in two numbers: names may have commas.
fn split_at_commas(line: &str) -> Option<(&str, Result<Span, &'static str>)> {
    let mut fields = line.rsplitn(3, ',');
    let length = fields.next()?.trim().parse().ok()?;
    let offset = fields.next()?.trim().parse().ok()?;
    Some((fields.next()?, part(offset, length)))
}

/// A range in braces: where it stands, its first and last number, and how many digits they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Braces {
    start: usize,
    end: usize,
    first: u64,
    last: u64,
    digits: usize,
}

/// The first `{FIRST..LAST}` of a name.
fn braces(name: &str) -> Option<Braces> {
    let mut from = 0;
    while let Some(start) = name[from..].find('{').map(|at| from + at) {
        let end = start + name[start..].find('}')? + 1;
        let numbers = name[start + 1..end - 1].split_once("..");
        let parsed = numbers.and_then(|(first, last)| {
            let digits = if first.starts_with('0') { first.len() } else { 1 };
            Some(Braces {
                start,
                end,
                first: first.parse().ok()?,
                last: last.parse().ok()?,
                digits,
            })
        });
        if parsed.is_some() {
            return parsed;
        }
        from = start + 1;
    }
    None
}

/// How many names the braces of `name` stand for; `None` if that is none, or too many.
fn expanded(name: &str) -> Option<u64> {
    let (mut rest, mut names) = (name, 1_u64);
    while let Some(range) = braces(rest) {
        let numbers = range.last.checked_sub(range.first)?.checked_add(1)?;
        names = names.checked_mul(numbers).filter(|names| *names <= EXPANDED_MAX)?;
        rest = &rest[range.end..];
    }
    Some(names)
}

/// Every name that the braces of `name` stand for, the first braces counting slowest.
fn expand(
    name: &str,
    range: Braces,
    entry: &mut impl FnMut(&str, Span) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    for number in range.first..=range.last {
        let (before, after) = (&name[..range.start], &name[range.end..]);
        let one = format!("{before}{number:0digits$}{after}", digits = range.digits);
        match braces(&one) {
            Some(next) => expand(&one, next, entry)?,
            None => entry(&one, Span::Whole)?,
        }
    }
    Ok(())
}

fn split(line: &str) -> Result<(&str, Span), &'static str> {
    let mut fields = line.split('\t');
    let path = fields.next().unwrap_or_default();
    let Some(offset) = fields.next() else { return Ok((path, Span::Whole)) };
    let len_bytes = fields.next().ok_or("an offset without a length")?;
    if fields.next().is_some() {
        return Err("more than a path, an offset and a length");
    }
    let number = |text: &str| text.parse::<u64>().map_err(|_| "offset or length is no number");
    Ok((path, part(number(offset)?, number(len_bytes)?)?))
}

fn part(offset: u64, len_bytes: u64) -> Result<Span, &'static str> {
    if len_bytes == 0 {
        return Err("a length of 0");
    }
    ByteRange::at(offset, len_bytes).map(Span::Part).ok_or("offset and length are too large")
}

impl Base<'_> {
    /// The key of `path`, which is relative to the mount or absolute below its mount point.
    fn key_of(self, path: &str, key: &mut String) -> Result<(), &'static str> {
        let below = if path.starts_with('/') {
            let mountpoint = self.mountpoint.to_str().unwrap_or_default();
            let below = path.strip_prefix(mountpoint.trim_end_matches('/'));
            let below = below.and_then(|below| below.strip_prefix('/'));
            below.ok_or("an absolute path that is not below the mount point")?
        } else {
            path.strip_prefix("./").unwrap_or(path)
        };
        key.clear();
        key.push_str(self.prefix);
        key.push_str(below);
        if is_reachable(below) { Ok(()) } else { Err("not the path of a file in the mount") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(String, Span)>, LineFault> {
        let base = Base { mountpoint: Path::new("/mnt/data"), prefix: "p/" };
        let entries = read_plan(text, base)?;
        let get = |place| entries.get(place).map(|(key, span)| (key.to_owned(), span));
        Ok((0..entries.len()).filter_map(get).collect())
    }

    #[test]
    fn lines_are_paths_with_or_without_a_range() {
        let text = "\u{feff}a/b.tar\r\n\n./c d\t10\t5\n/mnt/data/é\na/b.tar";
        let part = Span::Part(ByteRange::at(10, 5).unwrap());
        let expected = [
            ("p/a/b.tar", Span::Whole),
            ("p/c d", part),
            ("p/é", Span::Whole),
            ("p/a/b.tar", Span::Whole),
        ];
        let expected: Vec<_> = expected.map(|(key, span)| (key.to_owned(), span)).into();
        assert_eq!(read(text.as_bytes()), Ok(expected));
        assert_eq!(read(b""), Ok(Vec::new()));
    }

    #[test]
    fn a_manifest_may_be_written_in_any_of_the_usual_ways() {
        let text = [
            "# in the order of training",
            " a,b.tar\t",
            "c.bin,10,5",
            "d.bin\t10\t5",
            r#"{"path": "e.bin", "offset": 10, "length": 5}"#,
            r#"{"key": "f"}"#,
            "g-{08..11}.tar",
            "h{1..2}/{x}-{0..1}",
            "{k}",
            "a,b.tar",
        ];
        let base = Base { mountpoint: Path::new("/mnt/data"), prefix: "p/" };
        let manifest = read_manifest(text.join("\r\n").as_bytes(), base);
        assert_eq!(manifest.faults, []);
        let entries = &manifest.entries;
        let part = Span::Part(ByteRange::at(10, 5).unwrap());
        let found: Vec<_> = (0..entries.len()).filter_map(|place| entries.get(place)).collect();
        let whole = |key| (key, Span::Whole);
        let expected = [
            whole("p/a,b.tar"),
            ("p/c.bin", part),
            ("p/d.bin", part),
            ("p/e.bin", part),
            whole("p/f"),
            whole("p/g-08.tar"),
            whole("p/g-09.tar"),
            whole("p/g-10.tar"),
            whole("p/g-11.tar"),
            whole("p/h1/{x}-0"),
            whole("p/h1/{x}-1"),
            whole("p/h2/{x}-0"),
            whole("p/h2/{x}-1"),
            whole("p/{k}"),
            whole("p/a,b.tar"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn braces_that_stand_for_more_than_fits_are_a_bad_line() {
        for (name, names) in [
            ("{0..9999999}", Some(10_000_000)),
            ("{0..10000000}", None),
            ("{0..9999}/{0..999}", Some(10_000_000)),
            ("{0..9999}/{0..1000}", None),
            ("{0..18446744073709551615}", None),
            ("{5..4}", None),
            ("{a}/{1..3}", Some(3)),
        ] {
            assert_eq!(expanded(name), names, "{name}");
        }
    }

    #[test]
    fn a_bad_line_of_a_manifest_is_passed_over_and_named() {
        let text = b"\xef\xbb\xbfa\n../b\nc,1,0\nd{5..4}\n{\"offset\": 1}\n\xff\nb\n";
        let base = Base { mountpoint: Path::new("/mnt/data"), prefix: "" };
        let manifest = read_manifest(text, base);
        assert_eq!((manifest.entries.len(), manifest.bad_lines), (2, 5));
        let lines: Vec<_> = manifest.faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, fault) in [
            (&b"a\t1"[..], "an offset without a length"),
            (b"a\t1\t2\t3", "more than a path, an offset and a length"),
            (b"a\tx\t2", "offset or length is no number"),
            (b"a\t-1\t2", "offset or length is no number"),
            (b"a\t1\t0", "a length of 0"),
            (b"a\t18446744073709551615\t2", "offset and length are too large"),
            (b"/mnt/database/a", "an absolute path that is not below the mount point"),
            (b"../a", "not the path of a file in the mount"),
            (b"a//b", "not the path of a file in the mount"),
            (b"a/", "not the path of a file in the mount"),
            (b"\xff\xfe", "not UTF-8"),
        ] {
            let error = read(&[b"ok\n", line].concat()).unwrap_err();
            assert_eq!((error.line, error.fault), (2, fault), "{}", line.escape_ascii());
        }
    }
}
