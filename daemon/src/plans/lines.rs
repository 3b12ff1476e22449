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
        let fault = |fault| LineFault {
            line: index + 1,
            fault,
            text: String::from_utf8_lossy(line).chars().take(REPEATED_MAX).collect(),
        };
        let line = std::str::from_utf8(line).map_err(|_| fault("not UTF-8"))?;
        let (path, span) = split(line).map_err(fault)?;
        base.key_of(path, &mut key).map_err(fault)?;
        entries.push(&key, span).map_err(|_| fault("too many entries"))?;
    }
    Ok(entries)
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
    match (number(offset)?, number(len_bytes)?) {
        (_, 0) => Err("a length of 0"),
        (offset, len_bytes) => {
            let range =
                ByteRange::at(offset, len_bytes).ok_or("offset and length are too large")?;
            Ok((path, Span::Part(range)))
        }
    }
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
