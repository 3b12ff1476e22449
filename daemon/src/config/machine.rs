//! What the settings must know of the machine and the process: memory, processors, who runs it.

use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

/// The facts that `auto` values are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Processors the process may run on.
    pub processors: usize,
    /// Memory of the machine, or what its control groups allow if that is less.
    pub memory_bytes: u64,
    /// User that runs the process.
    pub uid: u32,
    /// Group that runs the process.
    pub gid: u32,
    /// Directory for sockets: `/run/tenderfs`, or the user's own.
    pub run_dir: PathBuf,
    /// Directory for the disk tier: `/var/cache/tenderfs`, or the user's own.
    pub cache_dir: PathBuf,
}

impl Machine {
    /// Looks at this machine. What cannot be read is taken as absent: no limit, one processor.
    pub fn detect(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(&read),
            uid,
            gid,
            run_dir: run_dir(uid, environment),
            cache_dir: cache_dir(uid, environment),
        }
    }

    /// A machine for tests: 4 processors, 16 GiB, root.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            processors: 4,
            memory_bytes: 16 << 30,
            uid: 0,
            gid: 0,
            run_dir: PathBuf::from("/run/tenderfs"),
            cache_dir: PathBuf::from("/var/cache/tenderfs"),
        }
    }
}

fn run_dir(uid: u32, environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match environment("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        _ if uid == 0 => PathBuf::from("/run/tenderfs"),
        Some(dir) => Path::new(&dir).join("tenderfs"),
        None => PathBuf::from(format!("/tmp/tenderfs-{uid}")),
    }
}

fn cache_dir(uid: u32, environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let named = |name| environment(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    if uid == 0 {
        return PathBuf::from("/var/cache/tenderfs");
    }
    named("XDG_CACHE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/tenderfs-{uid}")))
        .join("tenderfs")
}

/// The smaller of the machine's memory and the tightest `memory.max` above this process.
fn memory_bytes(read: &dyn Fn(&Path) -> Option<String>) -> u64 {
    let total = read(Path::new("/proc/meminfo")).and_then(|text| mem_total_bytes(&text));
    let group =
        read(Path::new("/proc/self/cgroup")).and_then(|text| group_limit_bytes(&text, read));
    total.into_iter().chain(group).min().unwrap_or(1 << 30)
}

/// `MemTotal` of `/proc/meminfo`.
fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The tightest `memory.max` of the control group (version 2) and its ancestors; `None` if there is
/// no limit.
fn group_limit_bytes(cgroup: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let group = root.join(path);
    let groups = group.ancestors().take_while(|ancestor| ancestor.starts_with(root));
    groups.filter_map(|group| read(&group.join("memory.max"))?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_machine_or_the_tightest_group_allows() {
        let read = |max_of_slice: &'static str| {
            move |path: &Path| match path.to_str()? {
                "/proc/meminfo" => Some("MemTotal:       16777216 kB\nMemFree: 1 kB\n".to_owned()),
                "/proc/self/cgroup" => Some("0::/jobs.slice/a.scope\n".to_owned()),
                "/sys/fs/cgroup/jobs.slice/a.scope/memory.max" => Some("max\n".to_owned()),
                "/sys/fs/cgroup/jobs.slice/memory.max" => Some(max_of_slice.to_owned()),
                _ => None,
            }
        };
        assert_eq!(memory_bytes(&read("max\n")), 16 << 30);
        assert_eq!(memory_bytes(&read("536870912\n")), 512 << 20);
        assert_eq!(memory_bytes(&|_| None), 1 << 30);
    }

    #[test]
    fn ordinary_users_have_directories_of_their_own() {
        let home = |name: &str| (name == "HOME").then(|| "/home/a".to_owned());
        let xdg = |name: &str| Some(format!("/xdg/{name}"));
        assert_eq!(run_dir(0, &xdg), Path::new("/run/tenderfs"));
        assert_eq!(run_dir(7, &xdg), Path::new("/xdg/XDG_RUNTIME_DIR/tenderfs"));
        assert_eq!(run_dir(7, &home), Path::new("/tmp/tenderfs-7"));
        assert_eq!(cache_dir(0, &home), Path::new("/var/cache/tenderfs"));
        assert_eq!(cache_dir(7, &home), Path::new("/home/a/.cache/tenderfs"));
        assert_eq!(cache_dir(7, &xdg), Path::new("/xdg/XDG_CACHE_HOME/tenderfs"));
    }
}
