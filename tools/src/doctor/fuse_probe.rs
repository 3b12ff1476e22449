//! What the kernel's FUSE can do, asked of the kernel itself: a throw-away mount, its INIT, a backing file.
//!
//! Nothing is inferred from a version. The mount exists for some milliseconds on a fresh temporary directory; it is
//! detached before this returns, and a kernel that never sends INIT cannot hold us because the mount call itself sends it.

#![allow(unsafe_code, reason = "one ioctl without a safe wrapper: FUSE_DEV_IOC_BACKING_OPEN")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::line::Line;

/// Bits of INIT's flags (`linux/fuse.h`): flags2 holds those from 32 up.
const INIT_EXT: u64 = 1 << 30;
const MAX_PAGES: u64 = 1 << 22;
const PASSTHROUGH: u64 = 1 << 37;
const OVER_IO_URING: u64 = 1 << 41;
/// Bytes of `fuse_in_header`, before the body of a request.
const IN_HEADER_BYTES: usize = 40;
/// Bytes of `fuse_out_header` and `fuse_init_out` together.
const INIT_REPLY_BYTES: usize = 16 + 64;
/// Read-ahead tried, in KiB: what the daemon sets by default.
const READ_AHEAD_KIB: u32 = 1024;

/// The kernel's answers.
#[derive(Debug)]
pub struct Facts {
    minor: u32,
    offered: u64,
    /// Taking a file of the cache directory as backing file.
    passthrough: io::Result<()>,
    /// Raising the read-ahead of the mount.
    read_ahead: io::Result<()>,
}

/// INIT as the kernel sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Init {
    unique: u64,
    minor: u32,
    flags: u64,
}

/// Makes the throw-away mount. `backing_dir` is where a backing file would lie: the cache directory if it exists.
pub fn probe(backing_dir: &Path) -> io::Result<Facts> {
    let dir = tempfile::Builder::new().prefix("tenderfs-doctor").tempdir()?;
    let mut device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
    mount(Some("tenderfs-doctor"), dir.path(), Some("fuse"), flags, Some(data.as_str()))?;
    let facts = ask(&mut device, dir.path(), backing_dir);
    umount2(dir.path(), MntFlags::MNT_DETACH)?;
    facts
}

fn ask(device: &mut File, mountpoint: &Path, backing_dir: &Path) -> io::Result<Facts> {
    let mut request = vec![0; 64 << 10];
    let got = device.read(&mut request)?;
    let init = parse_init(&request[..got]).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the kernel's first request is no INIT")
    })?;
    device.write_all(&init_reply(init))?;
    Ok(Facts {
        minor: init.minor,
        offered: init.flags,
        passthrough: try_backing_file(device, backing_dir),
        read_ahead: try_read_ahead(mountpoint),
    })
}

/// The INIT in a request, or `None` if it is another request or too short.
fn parse_init(request: &[u8]) -> Option<Init> {
    const OPCODE_INIT: u32 = 26;
    let word = |at: usize| Some(u32::from_le_bytes(request.get(at..at + 4)?.try_into().ok()?));
    if word(4)? != OPCODE_INIT {
        return None;
    }
    let unique = u64::from_le_bytes(request.get(8..16)?.try_into().ok()?);
    let body = |field: usize| word(IN_HEADER_BYTES + 4 * field);
    let low = u64::from(body(3)?);
    let high = if low & INIT_EXT == 0 { 0 } else { u64::from(body(4)?) };
    Some(Init { unique, minor: body(1)?, flags: low | high << 32 })
}

/// The reply that takes what is asked about, and nothing else.
fn init_reply(init: Init) -> [u8; INIT_REPLY_BYTES] {
    let taken = init.flags & (INIT_EXT | MAX_PAGES | PASSTHROUGH);
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    let mut reply = [0; INIT_REPLY_BYTES];
    let mut put = |at: usize, bytes: &[u8]| reply[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &u32::try_from(INIT_REPLY_BYTES).unwrap_or_default().to_le_bytes());
    put(8, &init.unique.to_le_bytes());
    put(16, &7_u32.to_le_bytes());
    put(20, &init.minor.to_le_bytes());
    put(24, &(READ_AHEAD_KIB << 10).to_le_bytes());
    put(28, &half(taken).to_le_bytes());
    put(32, &64_u16.to_le_bytes());
    put(34, &48_u16.to_le_bytes());
    put(36, &4096_u32.to_le_bytes());
    put(40, &1_u32.to_le_bytes());
    put(44, &256_u16.to_le_bytes());
    put(48, &half(taken >> 32).to_le_bytes());
    // max_stack_depth: backing files may not lie on a stacked file system themselves.
    put(52, &1_u32.to_le_bytes());
    reply
}

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

mod ioctl {
    #![allow(missing_docs, reason = "the macro gives its function no place for a doc comment")]
    use super::BackingMap;

    nix::ioctl_write_ptr!(fuse_backing_open, 229, 1, BackingMap);
}

fn try_backing_file(device: &File, backing_dir: &Path) -> io::Result<()> {
    let file = tempfile::tempfile_in(backing_dir)?;
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: `device` is an open /dev/fuse, `map` is the structure that this ioctl reads and outlives the call, and the
    // kernel keeps its own reference to the file until the device is closed.
    unsafe { ioctl::fuse_backing_open(device.as_raw_fd(), &raw const map) }?;
    Ok(())
}

/// Raises the read-ahead of the mount as the daemon does, and looks whether it took.
fn try_read_ahead(mountpoint: &Path) -> io::Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = mountpoint.to_string_lossy();
    let device = mountinfo
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let device = fields.nth(2)?;
            (fields.nth(1)? == wanted).then(|| device.to_owned())
        })
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the mount is not in /proc/self/mountinfo")
        })?;
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    fs::write(&file, READ_AHEAD_KIB.to_string())?;
    match fs::read_to_string(&file)?.trim() {
        kib if kib == READ_AHEAD_KIB.to_string() => Ok(()),
        kib => Err(io::Error::other(format!("it stays at {kib} KiB"))),
    }
}

/// The lines of the answer.
pub fn lines(probed: &io::Result<Facts>) -> Vec<Line> {
    let facts = match probed {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let found = format!("not probed ({error})");
            return vec![Line::weaker(
                "FUSE features",
                found,
                "run `tenderfs doctor` as root to know",
            )];
        }
        Err(error) => {
            let found = format!("a throw-away mount failed: {error}");
            return vec![Line::missing(
                "FUSE features",
                found,
                "look at `dmesg`; in a container: --cap-add SYS_ADMIN and an AppArmor profile that allows mount",
            )];
        }
    };
    let limit = fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit").ok();
    vec![
        protocol_line(facts.minor),
        passthrough_line(facts),
        read_ahead_line(facts),
        request_line(limit.as_deref()),
        ring_line(facts),
    ]
}

fn protocol_line(minor: u32) -> Line {
    /// The first with everything the daemon relies on.
    const MINOR_MIN: u32 = 31;
    let found = format!("the kernel speaks 7.{minor}");
    if minor < MINOR_MIN {
        return Line::missing(
            "FUSE protocol",
            found,
            "use Linux 5.4 or newer: at least 7.31 is needed",
        );
    }
    Line::ok("FUSE protocol", found)
}

fn passthrough_line(facts: &Facts) -> Line {
    const TOPIC: &str = "FUSE passthrough";
    if facts.offered & PASSTHROUGH == 0 {
        return Line::weaker(
            TOPIC,
            "this kernel does not offer it: reads of cached files go through the daemon",
            "use a kernel with CONFIG_FUSE_PASSTHROUGH",
        );
    }
    match &facts.passthrough {
        Ok(()) => Line::ok(TOPIC, "a file of the cache can back a mounted file"),
        Err(error) => Line::weaker(
            TOPIC,
            format!("offered, but a file of the cache was refused: {error}"),
            "needs CAP_SYS_ADMIN, and a cache directory on ext4 or xfs rather than overlayfs",
        ),
    }
}

fn read_ahead_line(facts: &Facts) -> Line {
    const TOPIC: &str = "kernel read-ahead";
    match &facts.read_ahead {
        Ok(()) => Line::ok(TOPIC, format!("can be raised to {READ_AHEAD_KIB} KiB")),
        Err(error) => Line::weaker(
            TOPIC,
            format!("stays at 128 KiB, so buffered reads are slower by half: {error}"),
            "run as root with /sys writable, or a udev rule on SUBSYSTEM==\"bdi\" that sets read_ahead_kb",
        ),
    }
}

fn request_line(max_pages_limit: Option<&str>) -> Line {
    const TOPIC: &str = "request size";
    /// 256 pages of 4 KiB: the kernel's own default where it has the limit at all.
    const PAGES_WANTED: u32 = 256;
    match max_pages_limit.and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(pages) if pages < PAGES_WANTED => Line::weaker(
            TOPIC,
            format!("at most {} KiB", u64::from(pages) * 4),
            format!("sysctl fs.fuse.max_pages_limit={PAGES_WANTED}"),
        ),
        Some(pages) => Line::ok(TOPIC, format!("up to {} KiB", u64::from(pages) * 4)),
        None => Line::ok(TOPIC, "up to 1024 KiB"),
    }
}

fn ring_line(facts: &Facts) -> Line {
    let found = if facts.offered & OVER_IO_URING == 0 {
        "not offered; not needed"
    } else {
        "offered; not needed"
    };
    Line::ok("FUSE over io_uring", found)
}

#[cfg(test)]
mod tests {
    use super::super::line::State;
    use super::*;

    fn facts(offered: u64, passthrough: io::Result<()>) -> Facts {
        Facts { minor: 45, offered, passthrough, read_ahead: Ok(()) }
    }

    fn init_request(flags: u32, flags2: u32) -> Vec<u8> {
        let mut request = vec![0; IN_HEADER_BYTES + 64];
        request[4..8].copy_from_slice(&26_u32.to_le_bytes());
        request[8..16].copy_from_slice(&77_u64.to_le_bytes());
        for (field, value) in [7, 45, 0, flags, flags2].into_iter().enumerate() {
            let at = IN_HEADER_BYTES + 4 * field;
            request[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        request
    }

    #[test]
    fn init_is_read_with_both_halves_of_its_flags() {
        let ext = u32::try_from(INIT_EXT).unwrap();
        let init = parse_init(&init_request(ext, 1 << 5)).unwrap();
        assert_eq!(init, Init { unique: 77, minor: 45, flags: INIT_EXT | PASSTHROUGH });
        assert_eq!(
            parse_init(&init_request(1, 1 << 5)).unwrap().flags,
            1,
            "no INIT_EXT, no flags2"
        );
        assert_eq!(parse_init(&[0; 100]), None);
        assert_eq!(parse_init(&init_request(0, 0)[..50]), None);
    }

    #[test]
    fn reply_takes_only_what_was_offered() {
        let reply = init_reply(Init { unique: 77, minor: 45, flags: INIT_EXT | OVER_IO_URING });
        assert_eq!(reply[8..16], 77_u64.to_le_bytes());
        assert_eq!(u64::from(u32::from_le_bytes(reply[28..32].try_into().unwrap())), INIT_EXT);
        assert_eq!(reply[48..52], [0; 4], "neither passthrough nor the ring");
    }

    #[test]
    fn passthrough_is_ok_only_when_the_kernel_took_a_file() {
        assert_eq!(passthrough_line(&facts(PASSTHROUGH, Ok(()))).state, State::Ok);
        let refused = passthrough_line(&facts(PASSTHROUGH, Err(io::Error::other("no"))));
        assert_eq!(refused.state, State::Weaker);
        assert!(refused.remedy.contains("CAP_SYS_ADMIN"), "{refused}");
        assert_eq!(passthrough_line(&facts(0, Ok(()))).state, State::Weaker);
    }

    #[test]
    fn who_may_not_mount_is_told_that_nothing_was_probed() {
        let denied = Err(io::Error::from_raw_os_error(nix::libc::EPERM));
        let lines = lines(&denied);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].state == State::Weaker && lines[0].remedy.contains("root"));
    }

    #[test]
    fn small_requests_are_weaker() {
        assert_eq!(request_line(Some("64\n")).state, State::Weaker);
        assert_eq!(request_line(Some("256\n")).state, State::Ok);
        assert_eq!(request_line(None).state, State::Ok);
    }

    #[test]
    fn kernel_of_this_machine_answers_if_we_may_ask() {
        let may = nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists();
        if !may {
            return;
        }
        let probed = probe(&std::env::temp_dir());
        if let Ok(facts) = &probed {
            assert!(facts.minor >= 23, "{facts:?}");
        }
        assert!(!lines(&probed).is_empty());
        let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!left.contains("tenderfs-doctor"), "the throw-away mount is gone");
    }
}
