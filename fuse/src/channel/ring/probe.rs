//! Whether requests can come by rings on this machine, and what to do if not.

use super::entries;
use std::fs;
use std::io;

/// Root's switch.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Why requests come by /dev/fuse although rings were asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingObstacle {
    /// The kernel does not know them.
    #[error(
        "this kernel has no FUSE over io_uring: it needs Linux 6.14 or newer, built with \
         CONFIG_FUSE_IO_URING"
    )]
    Unknown,
    /// The kernel knows them and root has not allowed them.
    #[error(
        "FUSE over io_uring is switched off: run `echo Y > {SWITCH}` as root and mount again, or \
         put `options fuse enable_uring=1` into /etc/modprobe.d/fuse.conf"
    )]
    SwitchedOff,
    /// This process gets no ring.
    #[error(
        "cannot set up a ring: {source}: check sysctl kernel.io_uring_disabled and the \
         container's seccomp profile"
    )]
    Refused {
        /// Why.
        source: io::Error,
    },
    /// The kernel offers them, but they failed when they were set up.
    #[error("the kernel did not agree to FUSE over io_uring, although it is switched on")]
    NotAgreed,
}

/// What keeps requests of this machine's mounts from coming by rings; `None` if nothing does.
pub fn ring_obstacle() -> Option<RingObstacle> {
    let switch = fs::read_to_string(SWITCH).ok();
    match state(switch.as_deref()) {
        None => entries::build(1).err().map(|source| RingObstacle::Refused { source }),
        obstacle => obstacle,
    }
}

/// What the content of the switch says; `None` as its content if there is no such file.
fn state(switch: Option<&str>) -> Option<RingObstacle> {
    match switch.map(str::trim) {
        None => Some(RingObstacle::Unknown),
        Some("Y" | "1") => None,
        Some(_) => Some(RingObstacle::SwitchedOff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_is_named_with_its_remedy() {
        assert!(state(Some("Y\n")).is_none());
        let off = state(Some("N\n")).unwrap().to_string();
        assert!(off.contains("echo Y > /sys/module/fuse/parameters/enable_uring"), "{off}");
        assert!(state(None).unwrap().to_string().contains("Linux 6.14"));
    }
}
