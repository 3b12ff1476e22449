//! The cache directory: whose it is, who uses it, and where things are in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::CacheError;
use crate::version::ObjectId;

/// Number of the disk format, `docs/DISK_FORMAT.md`: in the file `version` and in the catalogue.
pub(crate) const FORMAT: u64 = 1;

/// What the file `version` holds before the number of the format and the end of the line.
const VERSION_NAME: &str = "tenderfs cache ";

/// Bytes read of a file that should be tiny.
const TINY_BYTES: u64 = 256;

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// The cache directory, locked while this lives.
#[derive(Debug)]
pub(crate) struct CacheDir {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

/// What was found in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A cache of this format, or nothing.
    Ours,
    /// A cache of an older format: its catalogue is not to be parsed.
    Older,
}

impl CacheDir {
    /// Makes, checks and locks the directory.
    pub(crate) fn open(path: &Path) -> Result<(Self, Found), CacheError> {
        let path = std::path::absolute(path).map_err(failed("resolve", path))?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&path).map_err(|source| {
            if path.exists() && !path.is_dir() {
                return CacheError::NotADirectory { dir: path.clone() };
            }
            failed("create the cache directory", &path)(source)
        })?;
        check_owner(&path)?;
        if let Some(advice) = advice(&path) {
            tracing::warn!(path = %path.display(), advice, "a cache directory in an odd place");
        }
        let lock = lock(&path)?;
        let dir = Self { path, _lock: lock };
        let found = dir.check_version()?;
        for folder in [dir.objects_path(), dir.packs_path()] {
            builder.create(&folder).map_err(failed("create", &folder))?;
        }
        Ok((dir, found))
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the catalogue is.
    pub(crate) fn catalogue_path(&self) -> PathBuf {
        self.path.join("catalogue.redb")
    }

    /// Where an unreadable catalogue is moved; one at most.
    pub(crate) fn aside_path(&self) -> PathBuf {
        self.path.join("catalogue.aside")
    }

    /// Everything here that is no object.
    pub(crate) fn overhead_paths(&self) -> [PathBuf; 4] {
        let own = |name: &str| self.path.join(name);
        [self.catalogue_path(), self.aside_path(), own("lock"), own("version")]
    }

    /// Where the object files are.
    pub(crate) fn objects_path(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// Where the packs are.
    pub(crate) fn packs_path(&self) -> PathBuf {
        self.path.join("packs")
    }

    /// The file of pack `number`.
    pub(crate) fn pack_path(&self, number: u32) -> PathBuf {
        self.packs_path().join(format!("{number:08x}.pack"))
    }

    /// The file of object `id`.
    pub(crate) fn object_path(&self, id: ObjectId) -> PathBuf {
        self.folder(id).join(format!("{id}.data"))
    }

    /// Makes the folders of the file of object `id`, if they are missing.
    pub(crate) fn create_folders(&self, id: ObjectId) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.folder(id))
    }

    fn folder(&self, id: ObjectId) -> PathBuf {
        self.objects_path().join(format!("{:02x}", id.0[0]))
    }

    fn check_version(&self) -> Result<Found, CacheError> {
        let path = self.path.join("version");
        let marker = match open_own(&path, OpenOptions::new().read(true)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(TINY_BYTES).read_to_end(&mut bytes).map_err(failed("read", &path))?;
                read_marker(&bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Marker::Missing,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let found = match marker {
            Marker::Format(FORMAT) => return Ok(Found::Ours),
            Marker::Missing => Found::Ours,
            Marker::Format(older) if older < FORMAT => Found::Older,
            Marker::Format(format) => {
                return Err(CacheError::NewerFormat {
                    dir: self.path.clone(),
                    format,
                    known: FORMAT,
                });
            }
            Marker::Unknown => return Err(CacheError::UnknownFormat { dir: self.path.clone() }),
        };
        self.write_version(&path).map_err(failed("write", &path))?;
        Ok(found)
    }

    /// Writes the file `version`, whole or not at all: half of one would be refused.
    fn write_version(&self, path: &Path) -> io::Result<()> {
        let new = self.path.join("version.new");
        let mut file = open_own(&new, OpenOptions::new().write(true).create(true).truncate(true))?;
        writeln!(file, "{VERSION_NAME}{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.path)?.sync_all()
    }
}

/// What the file `version` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    /// There is none, or it is empty, as a crash leaves it while the directory is made.
    Missing,
    /// A cache of this format.
    Format(u64),
    /// Nothing that a version of TenderFS writes.
    Unknown,
}

fn read_marker(bytes: &[u8]) -> Marker {
    if bytes.is_empty() {
        return Marker::Missing;
    }
    let text = std::str::from_utf8(bytes).ok();
    let number = text.and_then(|text| text.strip_prefix(VERSION_NAME)?.strip_suffix('\n'));
    let plain = number.filter(|number| number.bytes().all(|digit| digit.is_ascii_digit()));
    plain.and_then(|number| number.parse().ok()).map_or(Marker::Unknown, Marker::Format)
}

/// Refuses a directory of somebody else; closes one of ours to others, unless it holds things
/// that are not a cache.
fn check_owner(path: &Path) -> Result<(), CacheError> {
    let metadata = fs::metadata(path).map_err(failed("look at", path))?;
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(CacheError::ForeignOwner { dir: path.into(), owner: metadata.uid(), own });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let is_cache = path.join("version").exists();
    let mut entries = fs::read_dir(path).map_err(failed("list", path))?;
    // A fresh file system has a folder of its own.
    let is_empty = !entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found"));
    if !is_cache && !is_empty {
        return Err(CacheError::OpenToOthers { dir: path.into(), mode });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(failed("close to other users", path))
}

/// What speaks against the file system that `path` is on; `None` if nothing is known to.
fn advice(path: &Path) -> Option<&'static str> {
    let kind = nix::sys::statfs::statfs(path).ok()?.filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC {
        Some("tmpfs is memory, and beside memory.limit: name a folder on a local disk as cache.dir")
    } else if kind == nix::sys::statfs::NFS_SUPER_MAGIC {
        Some(
            "NFS is slower than most stores and shared with others: name a folder on a local disk as cache.dir",
        )
    } else {
        None
    }
}

fn lock(dir: &Path) -> Result<File, CacheError> {
    let path = dir.join("lock");
    let mut file =
        open_own(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false))
            .map_err(|source| match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => CacheError::ReadOnly { dir: dir.to_owned() },
                _ => failed("open", &path)(source),
            })?;
    match file.try_lock() {
        Ok(()) => (),
        Err(fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = (&file).take(TINY_BYTES).read_to_string(&mut pid);
            let pid = match read {
                Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
                _ => "unknown".to_owned(),
            };
            return Err(CacheError::InUse { dir: dir.into(), pid });
        }
        Err(fs::TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    let mut write = || {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write().map_err(failed("write", &path))?;
    Ok(file)
}

/// Opens a file of ours: no link is followed, and nobody else may read it.
pub(crate) fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { doing, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_ours_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/cache");
        let (dir, found) = CacheDir::open(&path).unwrap();
        assert_eq!(found, Found::Ours);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        let second = CacheDir::open(&path).unwrap_err();
        let CacheError::InUse { pid, .. } = second else { panic!("{second}") };
        assert_eq!(pid, std::process::id().to_string());
        drop(dir);
        assert_eq!(CacheDir::open(&path).unwrap().1, Found::Ours);
    }

    #[test]
    fn a_directory_open_to_others_is_closed_only_if_it_is_a_cache() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("cache");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(path.join("lost+found")).unwrap();
        drop(CacheDir::open(&path).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        drop(CacheDir::open(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        let foreign = parent.path().join("home");
        fs::create_dir(&foreign).unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(foreign.join("thesis.tex"), "").unwrap();
        let error = CacheDir::open(&foreign).unwrap_err();
        assert!(matches!(error, CacheError::OpenToOthers { mode: 0o755, .. }), "{error}");
    }

    #[test]
    fn the_version_marker_is_read_strictly() {
        for (content, expected) in [
            ("", Marker::Missing),
            ("tenderfs cache 1\n", Marker::Format(1)),
            ("tenderfs cache 20\n", Marker::Format(20)),
            ("tenderfs cache 1", Marker::Unknown),
            ("tenderfs cache +1\n", Marker::Unknown),
            ("tenderfs cache \n", Marker::Unknown),
            ("tenderfs cache 99999999999999999999\n", Marker::Unknown),
            ("Python 3.12\n", Marker::Unknown),
        ] {
            assert_eq!(read_marker(content.as_bytes()), expected, "{content:?}");
        }
        assert_eq!(read_marker(&[0xff]), Marker::Unknown);
    }

    #[test]
    fn a_newer_or_unknown_format_is_refused_with_the_way_out_and_an_older_one_begun_anew() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("cache");
        drop(CacheDir::open(&path).unwrap());
        for content in ["tenderfs cache 2\n", "Python 3.12\n"] {
            fs::write(path.join("version"), content).unwrap();
            let text = CacheDir::open(&path).unwrap_err().to_string();
            assert!(text.contains(&format!("`rm -r {}`", path.display())), "{text}");
            assert_eq!(fs::read_to_string(path.join("version")).unwrap(), content, "left alone");
        }
        fs::write(path.join("version"), "tenderfs cache 0\n").unwrap();
        assert_eq!(CacheDir::open(&path).unwrap().1, Found::Older);
        assert_eq!(CacheDir::open(&path).unwrap().1, Found::Ours);
        fs::write(path.join("version"), "").unwrap();
        assert_eq!(CacheDir::open(&path).unwrap().1, Found::Ours);
        assert_eq!(fs::read_to_string(path.join("version")).unwrap(), "tenderfs cache 1\n");
    }

    #[test]
    fn a_directory_on_a_read_only_file_system_is_refused_with_the_way_out() {
        let parent = tempfile::tempdir().unwrap();
        let mount = |program: &str, arguments: &[&str]| {
            let mut command = std::process::Command::new(program);
            command.args(arguments).arg(parent.path()).status().is_ok_and(|status| status.success())
        };
        if !mount("mount", &["-t", "tmpfs", "-o", "ro,mode=700", "none"]) {
            eprintln!("skipped: nothing can be mounted here");
            return;
        }
        let refused = CacheDir::open(parent.path());
        assert!(mount("umount", &[]));
        let error = refused.unwrap_err();
        assert!(matches!(error, CacheError::ReadOnly { .. }), "{error}");
    }

    #[test]
    fn planted_links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("cache");
        drop(CacheDir::open(&path).unwrap());
        let precious = parent.path().join("precious");
        fs::write(&precious, "keep").unwrap();
        fs::remove_file(path.join("lock")).unwrap();
        std::os::unix::fs::symlink(&precious, path.join("lock")).unwrap();
        CacheDir::open(&path).unwrap_err();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "keep");
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let error = CacheDir::open(&file).unwrap_err();
        assert!(matches!(error, CacheError::NotADirectory { .. }), "{error}");
    }
}
