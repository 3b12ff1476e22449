//! Buckets over a folder: `root/bucket/key`.
//!
//! Invariant: no key leads out of its bucket's folder: components are checked, and no symbolic link is
//! followed below the root.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use md5::{Digest, Md5};

use super::listing::{self, Key, ListQuery};
use super::{
    Attributes, Listed, ListedPage, Object, StorageError, no_such_bucket, no_such_key,
    whole_seconds,
};
use crate::content::{Content, hex};

/// Longest name of a file that Linux takes.
const COMPONENT_BYTES_MAX: usize = 255;
/// How long a walk over a bucket's folder answers listings. Short, for others may write the folder.
const INDEX_TTL: Duration = Duration::from_secs(1);
/// Begins the name of a file that is not yet whole; such names are no keys.
const UNFINISHED: &str = ".tenderfs-lab-";

#[derive(Debug)]
pub(crate) struct FolderStore {
    root: PathBuf,
    indexes: Mutex<BTreeMap<String, Index>>,
    unfinished: AtomicU64,
}

/// The keys of a bucket as a walk found them.
#[derive(Debug)]
struct Index {
    walked: Instant,
    keys: Arc<BTreeMap<Key, Facts>>,
}

/// What a listing says of a file.
#[derive(Debug)]
struct Facts {
    size_bytes: u64,
    modified: SystemTime,
    etag: String,
}

impl FolderStore {
    pub(crate) fn open(root: &Path) -> Result<Self, StorageError> {
        let root = root.canonicalize().map_err(|source| io_error(root, source))?;
        if !root.is_dir() {
            return Err(io_error(&root, io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { root, indexes: Mutex::default(), unfinished: AtomicU64::new(0) })
    }

    pub(crate) fn buckets(&self) -> Result<Vec<(String, SystemTime)>, StorageError> {
        let mut buckets = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(|source| io_error(&self.root, source))? {
            let entry = entry.map_err(|source| io_error(&self.root, source))?;
            let Ok(metadata) = entry.metadata() else { continue };
            if let (true, Ok(name)) = (metadata.is_dir(), entry.file_name().into_string()) {
                buckets.push((
                    name,
                    metadata.created().or(metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH),
                ));
            }
        }
        buckets.sort();
        Ok(buckets)
    }

    pub(crate) fn create_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        check_component(bucket, bucket)?;
        let path = self.root.join(bucket);
        fs::create_dir(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => {
                StorageError::BucketExists { bucket: bucket.to_owned() }
            }
            _ => io_error(&path, source),
        })
    }

    pub(crate) fn delete_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        let path = self.bucket_path(bucket)?;
        if !self.walk(bucket)?.is_empty() {
            return Err(StorageError::BucketNotEmpty { bucket: bucket.to_owned() });
        }
        self.forget(bucket);
        fs::remove_dir_all(&path).map_err(|source| io_error(&path, source))
    }

    pub(crate) fn check_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        self.bucket_path(bucket).map(|_| ())
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Result<Arc<Object>, StorageError> {
        let path = self.bucket_path(bucket)?;
        let components = components(key).map_err(|_| no_such_key(key))?;
        let path = resolve(path, &components).ok_or_else(|| no_such_key(key))?;
        let file = open_file(&path).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO) => no_such_key(key),
            _ => io_error(&path, source),
        })?;
        let metadata = file.metadata().map_err(|source| io_error(&path, source))?;
        if !metadata.is_file() {
            return Err(no_such_key(key));
        }
        let bytes = super::mapped::map(&file).map_err(|source| io_error(&path, source))?;
        let modified = metadata.modified().map_err(|source| io_error(&path, source))?;
        let attributes = Attributes {
            modified: Some(modified),
            etag: Some(etag_of(&metadata)),
            ..Attributes::default()
        };
        Ok(Arc::new(Object::new(Content::Bytes(bytes), attributes, modified)))
    }

    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        object: &Object,
    ) -> Result<Arc<Object>, StorageError> {
        let mut folder = self.bucket_path(bucket)?;
        let components = components(key)?;
        let [parents @ .., name] = &components[..] else { return Err(no_such_key(key)) };
        for parent in parents {
            folder.push(parent);
            match fs::create_dir(&folder) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error(&folder, source));
                }
                _ => {}
            }
            if !is_folder(&folder) {
                return Err(invalid(key, "a symbolic link or a file stands in its way"));
            }
        }
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = folder.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        let path = folder.join(name);
        let written = write_file(&unfinished, object).and_then(|()| fs::rename(&unfinished, &path));
        if let Err(source) = written {
            // The first error is the one to tell; a file left behind is no key.
            drop(fs::remove_file(&unfinished));
            return Err(io_error(&path, source));
        }
        self.forget(bucket);
        self.object(bucket, key)
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Result<bool, StorageError> {
        let path = self.bucket_path(bucket)?;
        let Ok(components) = components(key) else { return Ok(false) };
        let Some(path) = resolve(path, &components) else { return Ok(false) };
        match fs::remove_file(&path) {
            Ok(()) => {
                self.forget(bucket);
                Ok(true)
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    pub(crate) fn list(
        &self,
        bucket: &str,
        query: &ListQuery<'_>,
    ) -> Result<ListedPage, StorageError> {
        let keys = self.index(bucket)?;
        let page = listing::list(&keys, query);
        let listed = |(key, facts): (&Arc<str>, &Facts)| Listed {
            key: Arc::clone(key),
            size_bytes: facts.size_bytes,
            etag: facts.etag.clone(),
            modified: facts.modified,
            storage_class: None,
        };
        Ok(ListedPage {
            objects: page.objects.into_iter().map(listed).collect(),
            prefixes: page.prefixes,
            next: page.next,
        })
    }

    fn bucket_path(&self, bucket: &str) -> Result<PathBuf, StorageError> {
        check_component(bucket, bucket).map_err(|_| no_such_bucket(bucket))?;
        let path = self.root.join(bucket);
        if is_folder(&path) { Ok(path) } else { Err(no_such_bucket(bucket)) }
    }

    fn index(&self, bucket: &str) -> Result<Arc<BTreeMap<Key, Facts>>, StorageError> {
        let fresh = |index: &&Index| index.walked.elapsed() < INDEX_TTL;
        if let Some(index) = self.indexes().get(bucket).filter(fresh) {
            return Ok(Arc::clone(&index.keys));
        }
        let keys = Arc::new(self.walk(bucket)?);
        let index = Index { walked: Instant::now(), keys: Arc::clone(&keys) };
        self.indexes().insert(bucket.to_owned(), index);
        Ok(keys)
    }

    fn walk(&self, bucket: &str) -> Result<BTreeMap<Key, Facts>, StorageError> {
        let mut keys = BTreeMap::new();
        let mut folders = vec![(self.bucket_path(bucket)?, String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                // A name that is not UTF-8 is no key; what vanished meanwhile is not listed.
                let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata())
                else {
                    continue;
                };
                let key = format!("{prefix}{name}");
                if metadata.is_dir() {
                    folders.push((entry.path(), format!("{key}/")));
                } else if metadata.is_file() && !name.starts_with(UNFINISHED) {
                    let facts = Facts {
                        size_bytes: metadata.len(),
                        modified: whole_seconds(
                            metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                        ),
                        etag: etag_of(&metadata),
                    };
                    keys.insert(Key(key.into()), facts);
                }
            }
        }
        Ok(keys)
    }

    fn forget(&self, bucket: &str) {
        self.indexes().remove(bucket);
    }

    fn indexes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Index>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path below `path`, if every folder on the way is a folder and no symbolic link.
fn resolve(mut path: PathBuf, components: &[&str]) -> Option<PathBuf> {
    for (index, component) in components.iter().enumerate() {
        if index > 0 && !is_folder(&path) {
            return None;
        }
        path.push(component);
    }
    Some(path)
}

/// Whether a folder, and no symbolic link to one, is at `path`.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn write_file(path: &Path, object: &Object) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    for slice in object.content.slices(0, u64::MAX) {
        file.write_all(&slice)?;
    }
    Ok(())
}

/// The components of a key that can be a file's path.
fn components(key: &str) -> Result<Vec<&str>, StorageError> {
    key.split('/').map(|component| check_component(key, component)).collect()
}

fn check_component<'a>(name: &str, component: &'a str) -> Result<&'a str, StorageError> {
    let reason = match component {
        "" => "a component of the path is empty",
        "." | ".." => "a component of the path is `.` or `..`",
        _ if component.contains(['\0', '/']) => "a component holds a byte that no file name has",
        _ if component.len() > COMPONENT_BYTES_MAX => "a component is longer than 255 bytes",
        _ if component.starts_with(UNFINISHED) => "the name is kept for unfinished files",
        _ => return Ok(component),
    };
    Err(invalid(name, reason))
}

fn etag_of(metadata: &Metadata) -> String {
    let facts = format!(
        "{}.{:09} {} {}",
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
        metadata.ino()
    );
    format!("{}-1", hex(&Md5::digest(facts)))
}

fn invalid(name: &str, reason: &'static str) -> StorageError {
    StorageError::InvalidName { name: name.to_owned(), reason }
}

fn io_error(path: &Path, source: io::Error) -> StorageError {
    StorageError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Start;
    use super::*;

    fn object(text: &'static str) -> Object {
        Object::new(text.into(), Attributes::default(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn files_are_objects_and_escapes_are_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        store.create_bucket("data").unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("data/link")).unwrap();
        store.put("data", "a/b.txt", &object("hello")).unwrap();
        store.put("data", "a/b.txt", &object("hello again")).unwrap();

        let got = store.object("data", "a/b.txt").unwrap();
        assert_eq!(&got.content.read(0, 100)[..], b"hello again");
        for key in [
            "../secret",
            "a/../../secret",
            "link/secret",
            "link",
            "a",
            "a/",
            "/a",
            "a//b",
            "a/b.txt/c",
        ] {
            assert!(
                matches!(store.object("data", key), Err(StorageError::NoSuchKey { .. })),
                "{key}"
            );
        }
        for key in ["../x", "link/x", "a/./x", "x/", "a/b.txt/c", "\0"] {
            assert!(store.put("data", key, &object("x")).is_err(), "{key}");
        }
        for bucket in ["..", ".", "", "secret", "a/b"] {
            assert!(
                matches!(store.check_bucket(bucket), Err(StorageError::NoSuchBucket { .. })),
                "{bucket}"
            );
        }
        assert!(store.delete("data", "a/b.txt").unwrap());
        assert!(!store.delete("data", "../secret").unwrap());
        store.delete_bucket("data").unwrap();
        assert!(folder.path().join("secret").exists());
    }

    #[test]
    fn listing_shows_what_get_gives() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        store.create_bucket("data").unwrap();
        for key in ["a/1", "a/2", "b"] {
            store.put("data", key, &object("text")).unwrap();
        }
        let query =
            ListQuery { prefix: "", delimiter: Some("/"), start: Start::First, entries_max: 9 };
        let page = store.list("data", &query).unwrap();
        assert_eq!(page.prefixes, ["a/"]);
        assert_eq!(&*page.objects[0].key, "b");
        assert_eq!(page.objects[0].etag, store.object("data", "b").unwrap().etag);
        assert!(store.delete_bucket("data").is_err());
    }
}
