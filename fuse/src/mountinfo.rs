//! /proc/self/mountinfo: what is mounted where, without asking any file system.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where the kernel lists the mounts of this process's namespace.
pub(crate) const PATH: &str = "/proc/self/mountinfo";

/// Number of a mounted file system, as `st_dev` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountInfo {
    pub(crate) device: DeviceNumber,
    pub(crate) mountpoint: PathBuf,
    pub(crate) fstype: String,
    pub(crate) source: String,
}

impl MountInfo {
    pub(crate) fn is_fuse(&self) -> bool {
        self.fstype == "fuse" || self.fstype.starts_with("fuse.")
    }
}

/// The mount that a walk to `mountpoint` ends in: the last one listed.
pub(crate) fn topmost(mountpoint: &Path) -> io::Result<Option<MountInfo>> {
    let text = fs::read(PATH)?;
    Ok(parse(&text).filter(|mount| mount.mountpoint == mountpoint).last())
}

/// Every line that is one; the format is in `proc_pid_mountinfo(5)`.
pub(crate) fn parse(text: &[u8]) -> impl Iterator<Item = MountInfo> + '_ {
    text.split(|byte| *byte == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = parse_device(fields.nth(2)?)?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    // After the options comes any number of tags, then "-".
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let fstype = text(fields.next()?);
    let source = text(fields.next()?);
    Some(MountInfo { device, mountpoint, fstype, source })
}

fn parse_device(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Undoes the kernel's `\ooo` (space, tab, line feed, backslash, `#`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(byte) = octal(rest) {
            out.push(byte);
            rest = &rest[4..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn octal(bytes: &[u8]) -> Option<u8> {
    let [b'\\', high @ b'0'..=b'3', mid @ b'0'..=b'7', low @ b'0'..=b'7', ..] = bytes else {
        return None;
    };
    Some((high - b'0') << 6 | (mid - b'0') << 3 | (low - b'0'))
}

/// `path` as bytes without a NUL, if it has none.
pub(crate) fn has_nul(path: &Path) -> bool {
    path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, &str, &str, u32)>) {
        let got = parse_line(line.as_bytes());
        let expected = expected.map(|(mountpoint, fstype, source, minor)| MountInfo {
            device: DeviceNumber { major: 0, minor },
            mountpoint: mountpoint.into(),
            fstype: fstype.into(),
            source: source.into(),
        });
        assert_eq!(got, expected);
    }

    #[test]
    fn a_line_gives_device_mountpoint_type_and_source() {
        check(
            "36 35 0:57 / /mnt/data rw,nosuid - fuse.tenderfs s3://bucket/prefix rw,user_id=0",
            Some(("/mnt/data", "fuse.tenderfs", "s3://bucket/prefix", 57)),
        );
        check(
            "36 35 0:57 /sub /mnt/a\\040b\\011\\012\\134\\043 rw shared:1 master:2 - tmpfs a\\040b rw",
            Some(("/mnt/a b\t\n\\#", "tmpfs", "a b", 57)),
        );
        // A mount point called "-" is in a field before the separator is looked for.
        check("36 35 0:57 / - rw - tmpfs none rw", Some(("-", "tmpfs", "none", 57)));
        check("36 35 0:57 / /mnt\\9 rw - tmpfs \\04 rw", Some(("/mnt\\9", "tmpfs", "\\04", 57)));
    }

    #[test]
    fn a_line_that_is_none_is_passed_over() {
        for line in ["", "36 35 0:57 / /mnt rw", "36 35 x:y / /mnt rw - tmpfs none rw", "1 2 3 4 5"]
        {
            check(line, None);
        }
    }

    #[test]
    fn this_process_has_a_root_mount() {
        assert!(topmost(Path::new("/")).unwrap().is_some());
        assert!(topmost(Path::new("/no/such/mount")).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_text_parses(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&text).count();
        }

        #[test]
        fn what_the_kernel_escapes_comes_back(name in prop::collection::vec(1_u8.., 0..40)) {
            let escaped: Vec<u8> = name
                .iter()
                .flat_map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                    _ => vec![*byte],
                })
                .collect();
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
