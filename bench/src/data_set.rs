//! The files below a directory, seen as one line of chunks.
//!
//! Invariant: chunk `i` of the line is always the same bytes of the same file, so that what two readers saw of it can
//! be compared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum DataSetError {
    /// A directory or file could not be listed.
    #[error("cannot list {path}: {source}")]
    List {
        /// What was listed.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is nothing to read.
    #[error("{path} holds no file with bytes in it: give a directory with data")]
    Empty {
        /// The directory given.
        path: PathBuf,
    },
}

/// One file of the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Full path.
    pub path: PathBuf,
    /// Length in bytes, never 0.
    pub len_bytes: u64,
    /// Position of its first chunk in the line of all chunks.
    pub first_chunk: usize,
}

/// Every file with bytes below a directory, in the order of their paths.
#[derive(Debug, Clone)]
pub struct DataSet {
    root: PathBuf,
    files: Vec<DataFile>,
    chunk_bytes: u64,
    chunks: usize,
}

/// A chunk of the line, as bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the file.
    pub file: usize,
    /// Offset of the first byte.
    pub offset: u64,
    /// Bytes, at most the chunk size, never 0.
    pub len_bytes: u64,
}

impl DataSet {
    /// Lists `root` recursively. Symbolic links are not followed, empty files are left out.
    pub fn list(root: &Path, chunk_bytes: u64) -> Result<DataSet, DataSetError> {
        let mut found = Vec::new();
        let mut directories = vec![root.to_path_buf()];
        while let Some(directory) = directories.pop() {
            let list = |source| DataSetError::List { path: directory.clone(), source };
            for entry in fs::read_dir(&directory).map_err(list)? {
                let entry = entry.map_err(list)?;
                let path = entry.path();
                let metadata = entry
                    .metadata()
                    .map_err(|source| DataSetError::List { path: path.clone(), source })?;
                if metadata.is_dir() {
                    directories.push(path);
                } else if metadata.is_file() && metadata.len() > 0 {
                    found.push((path, metadata.len()));
                }
            }
        }
        found.sort();
        DataSet::from_files(root, found, chunk_bytes)
    }

    fn from_files(
        root: &Path,
        found: Vec<(PathBuf, u64)>,
        chunk_bytes: u64,
    ) -> Result<DataSet, DataSetError> {
        let mut chunks = 0;
        let mut files = Vec::with_capacity(found.len());
        for (path, len_bytes) in found {
            files.push(DataFile { path, len_bytes, first_chunk: chunks });
            chunks += usize::try_from(len_bytes.div_ceil(chunk_bytes)).unwrap_or(usize::MAX);
        }
        if files.is_empty() {
            return Err(DataSetError::Empty { path: root.to_path_buf() });
        }
        Ok(DataSet { root: root.to_path_buf(), files, chunk_bytes, chunks })
    }

    /// The files, in the order of their paths.
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// Chunks of all files together.
    pub fn chunk_count(&self) -> usize {
        self.chunks
    }

    /// Bytes of a full chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Bytes of all files together.
    pub fn len_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len_bytes).sum()
    }

    /// Where the chunk `index` of the line lies.
    pub fn chunk(&self, index: usize) -> Chunk {
        debug_assert!(index < self.chunks);
        let file = self.files.partition_point(|file| file.first_chunk <= index) - 1;
        let DataFile { len_bytes, first_chunk, .. } = self.files[file];
        let offset = u64::try_from(index - first_chunk).unwrap_or(u64::MAX) * self.chunk_bytes;
        Chunk { file, offset, len_bytes: (len_bytes - offset).min(self.chunk_bytes) }
    }

    /// The chunks of one file, as indices of the line.
    pub fn chunks_of(&self, file: usize) -> std::ops::Range<usize> {
        let end = self.files.get(file + 1).map_or(self.chunks, |next| next.first_chunk);
        self.files[file].first_chunk..end
    }

    /// The path of a file as it stands in a manifest: relative to the directory measured.
    pub fn relative_path(&self, file: usize) -> &Path {
        let path = &self.files[file].path;
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_files() -> DataSet {
        let files = vec![("a".into(), 10), ("b".into(), 8), ("c".into(), 1)];
        DataSet::from_files(Path::new(""), files, 4).unwrap()
    }

    #[test]
    fn chunks_of_all_files_stand_in_one_line_without_gap_or_overlap() {
        let set = three_files();
        let seen: Vec<_> = (0..set.chunk_count())
            .map(|i| set.chunk(i))
            .map(|c| (c.file, c.offset, c.len_bytes))
            .collect();
        assert_eq!(seen, [(0, 0, 4), (0, 4, 4), (0, 8, 2), (1, 0, 4), (1, 4, 4), (2, 0, 1)]);
        assert_eq!(set.chunks_of(1), 3..5);
        assert_eq!(set.chunks_of(2), 5..6);
        assert_eq!(set.len_bytes(), 19);
    }

    #[test]
    fn directory_without_bytes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("empty"), b"").unwrap();
        assert!(matches!(DataSet::list(dir.path(), 4096), Err(DataSetError::Empty { .. })));
    }

    #[test]
    fn listing_is_recursive_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/2"), b"xx").unwrap();
        fs::write(dir.path().join("a"), b"x").unwrap();
        let set = DataSet::list(dir.path(), 4096).unwrap();
        let names: Vec<_> = (0..2).map(|i| set.relative_path(i).to_path_buf()).collect();
        assert_eq!(names, [PathBuf::from("a"), PathBuf::from("b/2")]);
    }
}
