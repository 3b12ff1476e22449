//! Error numbers as the kernel takes them in a reply.

use std::fmt;

/// An error number that a reply may carry: 1 to 511, which is what the kernel accepts from a FUSE
/// server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "` of errno(3).")]
                pub const $name: Self = Self(libc::$name);
            )*

            /// The name of errno(3), if it is one of those TenderFS uses.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM, ENOENT, EINTR, EIO, ENXIO, E2BIG, EBADF, EAGAIN, ENOMEM, EACCES, EBUSY, EEXIST, EXDEV,
    ENODEV, ENOTDIR, EISDIR, EINVAL, ENFILE, EMFILE, ENOTTY, EFBIG, ENOSPC, EROFS, ERANGE,
    ENAMETOOLONG, ENOSYS, ENOTEMPTY, ENODATA, EOVERFLOW, EOPNOTSUPP, ETIMEDOUT, ESTALE,
    ECONNABORTED, ECONNREFUSED, ENOTCONN, EPROTO,
}

impl Errno {
    /// The error number `raw`; anything the kernel would refuse in a reply becomes `EIO`.
    pub const fn from_raw(raw: i32) -> Self {
        if raw >= 1 && raw <= 511 { Self(raw) } else { Self::EIO }
    }

    /// The positive number of errno(3).
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_the_kernel_would_refuse_becomes_eio() {
        for (raw, expected) in [
            (libc::ENOENT, Errno::ENOENT),
            (0, Errno::EIO),
            (-2, Errno::EIO),
            (512, Errno::EIO),
            (i32::MIN, Errno::EIO),
        ] {
            assert_eq!(Errno::from_raw(raw), expected, "{raw}");
        }
        assert_eq!(Errno::from_raw(511).raw(), 511);
        assert_eq!(format!("{:?}", Errno::EROFS), "EROFS");
    }
}
