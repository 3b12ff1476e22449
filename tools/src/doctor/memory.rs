//! Memory, as far as the daemon's arena, its rings and huge pages are concerned.

use std::fs;

use memmap2::MmapMut;
use nix::sys::resource::{Resource, getrlimit};

use super::line::Line;

/// Memory the daemon would like to lock for a ring's registered buffers.
const LOCKED_BYTES: usize = 64 << 20;
/// Descriptors a mount with many files on the disk tier may need.
const OPEN_FILES_WANTED: u64 = 65_536;

/// Whether memory can be locked, tried with as much as one core's registered buffers take.
pub fn memlock() -> Line {
    let tried = MmapMut::map_anon(LOCKED_BYTES).and_then(|map| map.lock());
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    judge_memlock(tried.is_ok(), limit)
}

fn judge_memlock(locked: bool, limit_bytes: u64) -> Line {
    let wanted = LOCKED_BYTES >> 20;
    if locked {
        return Line::ok("locked memory", format!("{wanted} MiB could be locked"));
    }
    Line::weaker(
        "locked memory",
        format!(
            "the limit is {} KiB, {wanted} MiB could not be locked: fewer registered buffers, slower disk reads",
            limit_bytes >> 10
        ),
        "LimitMEMLOCK=infinity in the systemd unit, or `ulimit -l unlimited`",
    )
}

/// Whether the arena may use huge pages.
pub fn huge_pages() -> Line {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    judge_huge_pages(&fs::read_to_string(FILE).unwrap_or_default())
}

fn judge_huge_pages(enabled: &str) -> Line {
    const TOPIC: &str = "huge pages";
    let chosen = enabled.split('[').nth(1).and_then(|rest| rest.split(']').next());
    match chosen {
        Some(mode @ ("always" | "madvise")) => Line::ok(TOPIC, format!("transparent, {mode}")),
        Some(mode) => Line::weaker(
            TOPIC,
            format!("transparent huge pages are set to {mode}"),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        None => Line::weaker(TOPIC, "this kernel has no transparent huge pages", ""),
    }
}

/// Whether enough files can be open.
pub fn open_files() -> Line {
    judge_open_files(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard))
}

fn judge_open_files(hard: u64) -> Line {
    const TOPIC: &str = "open files";
    if hard >= OPEN_FILES_WANTED {
        return Line::ok(TOPIC, format!("at most {hard}"));
    }
    Line::weaker(
        TOPIC,
        format!("at most {hard}, less than {OPEN_FILES_WANTED}"),
        "LimitNOFILE=1048576 in the systemd unit, or raise it in /etc/security/limits.conf",
    )
}

#[cfg(test)]
mod tests {
    use super::super::line::State;
    use super::*;

    #[test]
    fn huge_pages_are_ok_unless_turned_off() {
        for (text, state) in [
            ("always [madvise] never\n", State::Ok),
            ("[always] madvise never\n", State::Ok),
            ("always madvise [never]\n", State::Weaker),
            ("", State::Weaker),
        ] {
            assert_eq!(judge_huge_pages(text).state, state, "{text:?}");
        }
    }

    #[test]
    fn locked_memory_is_judged_by_the_attempt() {
        assert_eq!(judge_memlock(true, 0).state, State::Ok);
        let weaker = judge_memlock(false, 8 << 20);
        assert!(weaker.found.contains("8192 KiB") && !weaker.remedy.is_empty(), "{weaker}");
    }

    #[test]
    fn few_open_files_are_weaker() {
        assert_eq!(judge_open_files(1024).state, State::Weaker);
        assert_eq!(judge_open_files(OPEN_FILES_WANTED).state, State::Ok);
    }
}
