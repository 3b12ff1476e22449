//! The file system that the disk tier would live on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;

use super::line::Line;

/// What was found out about a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    fstype: String,
    free_bytes: u64,
    /// Opening a new file with `O_DIRECT`: `None` if it worked, else why not.
    direct_error: Option<String>,
    rotational: bool,
}

/// Looks at the directory, or at the nearest one above it that exists.
pub fn cache_dir(dir: &Path) -> Line {
    const TOPIC: &str = "cache directory";
    let Some(existing) = dir.ancestors().find(|path| path.is_dir()) else {
        return Line::missing(
            TOPIC,
            format!("{} cannot be made", dir.display()),
            "choose another --cache-dir",
        );
    };
    match look(existing) {
        Ok(facts) => judge(dir, &facts),
        Err(error) => Line::missing(
            TOPIC,
            format!("{} cannot be written: {error}", existing.display()),
            "choose another --cache-dir, or make it yours with chown",
        ),
    }
}

fn look(dir: &Path) -> io::Result<Facts> {
    let probe = tempfile::Builder::new().prefix(".tenderfs-doctor").tempfile_in(dir)?;
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(probe.path());
    let volume = statvfs(dir)?;
    Ok(Facts {
        fstype: fstype(dir)?,
        free_bytes: volume.blocks_available() * volume.fragment_size(),
        direct_error: direct.err().map(|error| error.to_string()),
        rotational: is_rotational(dir),
    })
}

fn fstype(dir: &Path) -> io::Result<String> {
    /// Magic numbers of <linux/magic.h>.
    const NAMES: &[(i64, &str)] = &[
        (0xEF53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683E, "btrfs"),
        (0x2FC1_2FC1, "zfs"),
        (0xF2F5_2010, "f2fs"),
        (0x0102_1994, "tmpfs"),
        (0x794C_7630, "overlay"),
        (0x6969, "nfs"),
        (0x6573_5546, "fuse"),
        (0xFF53_4D42, "cifs"),
    ];
    let magic = statfs(dir)?.filesystem_type().0;
    let known = NAMES.iter().find(|(number, _)| *number == magic);
    Ok(known.map_or_else(|| format!("type {magic:#x}"), |(_, name)| (*name).to_owned()))
}

/// Whether the device below is a spinning disk; `false` where the system does not say.
fn is_rotational(dir: &Path) -> bool {
    let Ok(metadata) = fs::metadata(dir) else { return false };
    let device = metadata.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has its queue one directory up.
    ["queue/rotational", "../queue/rotational"]
        .iter()
        .find_map(|file| fs::read_to_string(block.join(file)).ok())
        .is_some_and(|text| text.trim() == "1")
}

fn judge(dir: &Path, facts: &Facts) -> Line {
    const TOPIC: &str = "cache directory";
    const FREE_WANTED_BYTES: u64 = 10 << 30;
    let found = format!(
        "{} on {}, {:.1} GB free",
        dir.display(),
        facts.fstype,
        gigabytes(facts.free_bytes)
    );
    let weaker = |why: &str, remedy: &str| Line::weaker(TOPIC, format!("{found}; {why}"), remedy);
    let local = "put --cache-dir on a local NVMe disk with ext4 or xfs";
    if let Some(error) = &facts.direct_error {
        return weaker(&format!("O_DIRECT does not work ({error})"), local);
    }
    match facts.fstype.as_str() {
        "nfs" | "fuse" | "cifs" => weaker("a network file system is no cache", local),
        "tmpfs" => weaker("it takes memory, not disk", local),
        "overlay" => weaker(
            "a container's own layer is slow and goes with it",
            "mount a volume for --cache-dir",
        ),
        _ if facts.rotational => {
            weaker("the device says that it spins (virtual disks may be wrong)", local)
        }
        _ if facts.free_bytes < FREE_WANTED_BYTES => {
            weaker("little room", "free some space or choose another --cache-dir")
        }
        _ => Line::ok(TOPIC, format!("{found}, O_DIRECT works")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with one digit after the point")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::super::line::State;
    use super::*;

    fn good() -> Facts {
        Facts {
            fstype: "ext4".to_owned(),
            free_bytes: 100 << 30,
            direct_error: None,
            rotational: false,
        }
    }

    #[test]
    fn weak_places_for_a_cache_are_named() {
        let dir = Path::new("/cache");
        assert_eq!(judge(dir, &good()).state, State::Ok);
        for (facts, word) in [
            (Facts { fstype: "nfs".to_owned(), ..good() }, "network"),
            (Facts { fstype: "tmpfs".to_owned(), ..good() }, "memory"),
            (Facts { rotational: true, ..good() }, "spins"),
            (Facts { free_bytes: 1, ..good() }, "little room"),
            (Facts { direct_error: Some("EINVAL".to_owned()), ..good() }, "O_DIRECT"),
        ] {
            let line = judge(dir, &facts);
            assert_eq!(line.state, State::Weaker);
            assert!(line.found.contains(word) && !line.remedy.is_empty(), "{line}");
        }
    }

    #[test]
    fn directory_that_does_not_exist_yet_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let line = cache_dir(&dir.path().join("a/b"));
        assert_ne!(line.state, State::Missing, "{line}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
