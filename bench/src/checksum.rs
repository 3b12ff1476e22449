//! Whether readers got the right bytes.
//!
//! Every chunk has one remembered CRC-32C: that of its first reading. Every later reading of the chunk, by whichever
//! reader, must have the same. After the run [`second_reading`] reads all files once more, in order, and must agree
//! too; with a [`Manifest`] each whole file must also have the expected MD5. Without a manifest this proves that all
//! readings agree, not that they are what the source holds: a file system that is wrong in the same way every time
//! is found by the manifest only.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use md5::{Digest, Md5};

use crate::data_set::DataSet;
use crate::load::{Buffer, OpenFile};

/// Marks a remembered checksum apart from a chunk nobody has read.
const SEEN: u64 = 1 << 32;
/// How many differences are named; all are counted.
const NAMED_MAX: usize = 10;

/// What was seen of each chunk, shared by all readers.
#[derive(Debug)]
pub struct Checksums {
    chunks: Vec<AtomicU64>,
    compared: AtomicU64,
    mismatches: AtomicU64,
    named: Mutex<Vec<String>>,
}

impl Checksums {
    /// Nothing seen yet of so many chunks.
    pub fn new(chunks: usize) -> Checksums {
        Checksums {
            chunks: (0..chunks).map(|_| AtomicU64::new(0)).collect(),
            compared: AtomicU64::new(0),
            mismatches: AtomicU64::new(0),
            named: Mutex::new(Vec::new()),
        }
    }

    /// Takes note of what one reader got for a chunk. `false` if another reading of it differed.
    pub fn note(&self, chunk: usize, bytes: &[u8]) -> bool {
        let crc = u64::from(crc32c::crc32c(bytes)) | SEEN;
        match self.chunks[chunk].compare_exchange(0, crc, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(seen) => {
                self.compared.fetch_add(1, Ordering::Relaxed);
                seen == crc
            }
        }
    }

    /// Counts a difference and remembers it in words if it is one of the first.
    pub fn differs(&self, what: impl FnOnce() -> String) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
        let mut named = self.named.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if named.len() < NAMED_MAX {
            named.push(what());
        }
    }

    /// Chunk readings that had an earlier one to be compared with.
    pub fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// Differences found.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }

    /// The first differences, in words.
    pub fn named(&self) -> Vec<String> {
        self.named.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// One number for names, lengths and bytes of the whole data set; equal data sets read right have equal numbers.
    pub fn data_hash(&self, set: &DataSet) -> u32 {
        let mut hash = 0;
        for (index, file) in set.files().iter().enumerate() {
            hash = crc32c::crc32c_append(
                hash,
                set.relative_path(index).as_os_str().as_encoded_bytes(),
            );
            hash = crc32c::crc32c_append(hash, &file.len_bytes.to_le_bytes());
            for chunk in set.chunks_of(index) {
                let crc = self.chunks[chunk].load(Ordering::Relaxed);
                hash = crc32c::crc32c_append(hash, &crc.to_le_bytes());
            }
        }
        hash
    }
}

/// Why a manifest of expected MD5s cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read the manifest {path}: {source}")]
    Read {
        /// The manifest.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line is not what `md5sum` prints.
    #[error("{path}:{line}: expected 32 hex digits, two characters and a path, as md5sum prints")]
    Line {
        /// The manifest.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// Expected MD5s by path relative to the directory measured.
#[derive(Debug, Default)]
pub struct Manifest(HashMap<PathBuf, String>);

impl Manifest {
    /// Reads what `md5sum` printed. A leading `./` of a path is dropped, empty lines are skipped.
    pub fn read(path: &Path) -> Result<Manifest, ManifestError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ManifestError::Read { path: path.to_path_buf(), source })?;
        Manifest::parse(&text)
            .map_err(|line| ManifestError::Line { path: path.to_path_buf(), line })
    }

    /// The same from text; the error is the number of the bad line.
    fn parse(text: &str) -> Result<Manifest, usize> {
        let mut expected = HashMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let (digest, rest) = line.split_at_checked(32).ok_or(index + 1)?;
            let name = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"));
            let name = name.filter(|name| !name.is_empty()).ok_or(index + 1)?;
            if !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(index + 1);
            }
            let name = name.strip_prefix("./").unwrap_or(name);
            expected.insert(PathBuf::from(name), digest.to_ascii_lowercase());
        }
        Ok(Manifest(expected))
    }

    /// Files named.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no file is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the manifest that the data set does not have.
    fn absent_from(&self, set: &DataSet) -> Vec<&Path> {
        let present: std::collections::HashSet<_> =
            (0..set.files().len()).map(|index| set.relative_path(index)).collect();
        let mut absent: Vec<_> =
            self.0.keys().map(PathBuf::as_path).filter(|name| !present.contains(name)).collect();
        absent.sort_unstable();
        absent
    }
}

/// Reads every file once more in order, `threads` files at a time, and compares. Returns how many files were read whole.
/// Reading errors count as differences: what cannot be read again has not been proven.
pub fn second_reading(
    set: &DataSet,
    checksums: &Checksums,
    manifest: Option<&Manifest>,
    threads: usize,
) -> usize {
    for name in manifest.map(|manifest| manifest.absent_from(set)).unwrap_or_default() {
        checksums.differs(|| format!("{}: expected but not there", name.display()));
    }
    let next = AtomicUsize::new(0);
    let whole = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, set.files().len()) {
            scope.spawn(|| {
                let mut buffer = Buffer::new(set.chunk_bytes());
                loop {
                    let file = next.fetch_add(1, Ordering::Relaxed);
                    if file >= set.files().len() {
                        break;
                    }
                    match read_again(set, file, checksums, &mut buffer) {
                        Ok(digest) => {
                            whole.fetch_add(1, Ordering::Relaxed);
                            compare_digest(set, file, &digest, (checksums, manifest));
                        }
                        Err(error) => checksums
                            .differs(|| format!("{}: {error}", set.relative_path(file).display())),
                    }
                }
            });
        }
    });
    whole.into_inner()
}

fn compare_digest(
    set: &DataSet,
    file: usize,
    digest: &str,
    (checksums, manifest): (&Checksums, Option<&Manifest>),
) {
    let Some(manifest) = manifest else { return };
    let name = set.relative_path(file);
    match manifest.0.get(name) {
        Some(expected) if expected == digest => {}
        Some(expected) => {
            checksums.differs(|| format!("{}: MD5 {digest}, expected {expected}", name.display()));
        }
        None => checksums.differs(|| format!("{}: not in the manifest", name.display())),
    }
}

/// The second reading of one file: each chunk is compared with what the run saw, the MD5 of the whole is returned.
fn read_again(
    set: &DataSet,
    file: usize,
    checksums: &Checksums,
    buffer: &mut Buffer,
) -> io::Result<String> {
    let open = OpenFile::open(&set.files()[file].path, crate::load::Caching::Kernel)?;
    let mut digest = Md5::new();
    for index in set.chunks_of(file) {
        let chunk = set.chunk(index);
        let bytes = open.read(chunk.offset, chunk.len_bytes, buffer)?;
        digest.update(bytes);
        if !checksums.note(index, bytes) {
            checksums.differs(|| {
                let name = set.relative_path(file).display().to_string();
                format!("{name}: the chunk at byte {} read differently again", chunk.offset)
            });
        }
    }
    Ok(format!("{:x}", digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_reader_of_a_chunk_is_compared_with_the_first() {
        let checksums = Checksums::new(2);
        assert!(checksums.note(0, b"abc"));
        assert!(checksums.note(0, b"abc"));
        assert!(!checksums.note(0, b"abd"));
        assert!(checksums.note(1, b""), "an empty chunk is seen, not absent");
        assert!(!checksums.note(1, b"x"));
        assert_eq!(checksums.compared(), 3);
    }

    #[test]
    fn manifest_takes_what_md5sum_prints() {
        let text =
            "900150983cd24fb0d6963f7d28e17f72  ./a b\n\n900150983CD24FB0D6963F7D28E17F72 *c\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.len(), 2);
        assert_eq!(manifest.0[Path::new("c")], "900150983cd24fb0d6963f7d28e17f72");
        for bad in ["x", "900150983cd24fb0d6963f7d28e17f7z  a", "900150983cd24fb0d6963f7d28e17f72a"]
        {
            assert_eq!(Manifest::parse(bad).unwrap_err(), 1, "{bad}");
        }
    }

    fn set_with(bytes: &[u8]) -> (tempfile::TempDir, DataSet) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), bytes).unwrap();
        let set = DataSet::list(dir.path(), 4096).unwrap();
        (dir, set)
    }

    #[test]
    fn file_that_changed_since_the_run_is_a_mismatch() {
        let (dir, set) = set_with(&[1; 10_000]);
        let checksums = Checksums::new(set.chunk_count());
        assert_eq!(second_reading(&set, &checksums, None, 1), 1);
        assert_eq!(checksums.mismatches(), 0);
        let mut bytes = vec![1; 10_000];
        bytes[9_999] = 2;
        fs::write(dir.path().join("f"), bytes).unwrap();
        second_reading(&set, &checksums, None, 1);
        assert_eq!(checksums.mismatches(), 1);
        assert!(checksums.named()[0].contains("byte 8192"), "{:?}", checksums.named());
    }

    #[test]
    fn manifest_finds_wrong_missing_and_unnamed_files() {
        let (_dir, set) = set_with(b"abc");
        let check = |manifest: &str| {
            let checksums = Checksums::new(set.chunk_count());
            second_reading(&set, &checksums, Some(&Manifest::parse(manifest).unwrap()), 1);
            checksums.mismatches()
        };
        assert_eq!(check("900150983cd24fb0d6963f7d28e17f72  f"), 0);
        assert_eq!(check("900150983cd24fb0d6963f7d28e17f73  f"), 1, "wrong");
        assert_eq!(check("900150983cd24fb0d6963f7d28e17f72  g"), 2, "missing and unnamed");
    }
}
