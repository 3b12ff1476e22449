//! Which objects are used, one after the other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tenderfs_cache::{ObjectId, ObjectVersion};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The trace.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line of the trace.
    #[error("{path}: line {line}: {fault}")]
    Line {
        /// Which trace.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// The trace tells nothing.
    #[error("{path}: no object is used twice, so there is no hit to count")]
    NothingRepeats {
        /// Which.
        path: PathBuf,
    },
    /// The result.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What is wrong with a line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// Bytes of nothing.
    #[error("a key is missing")]
    NoKey,
    /// What follows the key is no number.
    #[error("`{text}` is not a number of bytes (write KEY or KEY,BYTES)")]
    NotBytes {
        /// It.
        text: String,
    },
    /// More than can be counted.
    #[error("all uses up to here have more bytes than can be counted")]
    TooManyBytes,
    /// More objects or uses than are simulated.
    #[error("a trace has at most {USES_MAX} uses")]
    TooLong,
}

/// Uses of a simulation at most: each takes about 20 bytes of memory.
const USES_MAX: usize = 100_000_000;

/// What is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct UsedObject {
    pub(super) id: ObjectId,
    pub(super) bytes: u64,
}

/// Objects and the order in which they are used; an object is a number from 0.
#[derive(Debug)]
pub(super) struct Uses {
    objects: Vec<UsedObject>,
    order: Vec<u32>,
}

impl Uses {
    /// Passes over the data set in one order.
    pub(super) fn in_order(objects: u32, epochs: u32) -> Self {
        let order = (0..epochs).flat_map(|_| 0..objects).collect();
        Self { objects: data_set(objects), order }
    }

    /// Passes over the data set, each in an order of its own.
    pub(super) fn shuffled(objects: u32, epochs: u32, seed: u64) -> Self {
        let mut uses = Self::in_order(objects, epochs);
        let mut rng = StdRng::seed_from_u64(seed);
        for epoch in uses.order.chunks_mut(uses.objects.len()) {
            epoch.shuffle(&mut rng);
        }
        uses
    }

    /// The uses in a file.
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        let text =
            fs::read(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
        let uses = Self::parse(&text).map_err(|(line, fault)| PolicyError::Line {
            path: path.to_owned(),
            line,
            fault,
        })?;
        if uses.order.len() == uses.objects.len() {
            return Err(PolicyError::NothingRepeats { path: path.to_owned() });
        }
        Ok(uses)
    }

    /// The uses in a text; an error has the number of its line.
    fn parse(text: &[u8]) -> Result<Self, (usize, LineFault)> {
        let mut known = HashMap::new();
        let mut uses = Self { objects: Vec::new(), order: Vec::new() };
        let mut used_bytes = 0_u64;
        for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
            let fail = |fault| (number, fault);
            let Some((key, bytes)) = parse_line(line).map_err(fail)? else { continue };
            if uses.order.len() == USES_MAX {
                return Err(fail(LineFault::TooLong));
            }
            // An empty object counts as a byte where uses are counted.
            let sum = used_bytes.checked_add(bytes.max(1));
            used_bytes = sum.ok_or_else(|| fail(LineFault::TooManyBytes))?;
            let next = u32::try_from(uses.objects.len()).map_err(|_| fail(LineFault::TooLong))?;
            let object = *known.entry((key, bytes)).or_insert(next);
            if object == next {
                uses.objects.push(UsedObject { id: id(key, bytes), bytes });
            }
            uses.order.push(object);
        }
        Ok(uses)
    }

    /// Bytes of all objects, each once.
    pub(super) fn data_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }

    pub(super) fn object_count(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn object(&self, number: u32) -> UsedObject {
        self.objects[number as usize]
    }

    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }
}

fn data_set(objects: u32) -> Vec<UsedObject> {
    (0..objects).map(|number| UsedObject { id: id(&number.to_string(), 1), bytes: 1 }).collect()
}

fn id(key: &str, size_bytes: u64) -> ObjectId {
    let (store, etag) = ("policy".into(), "".into());
    ObjectVersion { store, key: key.into(), etag, size_bytes }.id()
}

/// A key and its bytes; `None` if the line says nothing.
fn parse_line(line: &[u8]) -> Result<Option<(&str, u64)>, LineFault> {
    let line = str::from_utf8(line).map_err(|_| LineFault::NotUtf8)?.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let between = [',', ' ', '\t'];
    let Some((key, bytes)) = line.rsplit_once(between) else { return Ok(Some((line, 1))) };
    let key = key.trim_end_matches(between);
    if key.is_empty() {
        return Err(LineFault::NoKey);
    }
    match bytes.parse() {
        Ok(bytes) => Ok(Some((key, bytes))),
        Err(_) => Err(LineFault::NotBytes { text: bytes.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, order: &[u32], bytes: &[u64]) {
        let uses = Uses::parse(text.as_bytes()).unwrap();
        assert_eq!(uses.order, order);
        let found: Vec<_> = uses.objects.iter().map(|object| object.bytes).collect();
        assert_eq!(found, bytes);
    }

    #[test]
    fn a_line_is_a_key_and_perhaps_its_bytes() {
        check("a\nb\na", &[0, 1, 0], &[1, 1]);
        check("# of 2026\na,5\r\n\n b\t7 \na, 5\n", &[0, 1, 0], &[5, 7]);
        check("a b,5\na b 5\n", &[0, 0], &[5]);
        check("a,5\na,6\na,5\n", &[0, 1, 0], &[5, 6]);
        check("empty 0\n", &[0], &[0]);
    }

    #[track_caller]
    fn check_fault(text: &[u8], line: usize, message: &str) {
        let (number, fault) = Uses::parse(text).unwrap_err();
        assert_eq!((number, fault.to_string().as_str()), (line, message));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_told_by_its_number() {
        let bytes =
            |text: &str| format!("`{text}` is not a number of bytes (write KEY or KEY,BYTES)");
        check_fault(b"a\n\nb,many\n", 3, &bytes("many"));
        check_fault(b"a,-1", 1, &bytes("-1"));
        check_fault(b"a,1.5", 1, &bytes("1.5"));
        check_fault(b"a,", 1, &bytes(""));
        check_fault(b"a\n,5\n", 2, "a key is missing");
        check_fault(b"a\nb\n\xff\n", 3, "not UTF-8");
        let most = format!("a {}\na\n", u64::MAX);
        check_fault(most.as_bytes(), 2, "all uses up to here have more bytes than can be counted");
    }

    #[test]
    fn a_trace_without_repetition_has_no_hit_rate() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "a\nb\n"] {
            fs::write(file.path(), text).unwrap();
            let error = Uses::read(file.path()).unwrap_err();
            assert!(matches!(error, PolicyError::NothingRepeats { .. }), "{error}");
        }
    }

    #[test]
    fn each_shuffled_epoch_is_the_whole_data_set_in_another_order() {
        let uses = Uses::shuffled(100, 3, 1);
        let epochs: Vec<_> = uses.order.chunks(100).collect();
        assert_ne!(epochs[0], epochs[1]);
        for epoch in epochs {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(uses.order, Uses::shuffled(100, 3, 1).order);
        assert_ne!(uses.order, Uses::shuffled(100, 3, 2).order);
    }
}
