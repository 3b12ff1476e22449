//! The FUSE wire: structures of `fuse_backend_rs::abi`, opcodes and bits of `linux/fuse.h`, and
//! the two conversions between structures and bytes.
//!
//! Invariant: every number of the protocol that the crate knows is named here or in
//! `fuse_backend_rs::abi::fuse_abi`. `Opcode::from(u32)` of that crate is not used: it transmutes,
//! and the gaps in the numbering (0, 7, 19) are no values of the enum.

pub(crate) use fuse_backend_rs::abi::fuse_abi::{
    AccessIn, Attr, AttrOut, BatchForgetIn, Dirent, EntryOut, ForgetIn, ForgetOne, FsOptions,
    FsyncIn, GETATTR_FH, GetattrIn, GetxattrIn, GetxattrOut, InHeader, InitIn, InitIn2, InitOut,
    InterruptIn, Kstatfs, LseekIn, LseekOut, NotifyInvalEntryOut, NotifyInvalInodeOut,
    NotifyOpcode, Opcode, OpenIn, OpenOut, OutHeader, ReadIn, ReleaseIn, StatfsOut,
};
pub(crate) use vm_memory::ByteValued;

/// Major version of the protocol. It has never been another one.
pub(crate) const MAJOR: u32 = 7;

/// The oldest minor version served: that of Linux 5.4, which knows `PARALLEL_DIROPS`, `MAX_PAGES`
/// and `EXPLICIT_INVAL_DATA`.
pub(crate) const MINOR_MIN: u32 = 31;

/// The newest minor version whose messages this crate knows (Linux 6.9).
pub(crate) const MINOR_MAX: u32 = 40;

/// The smallest buffer the kernel accepts in a read of /dev/fuse.
pub(crate) const READ_BUFFER_BYTES_MIN: usize = 8192;

/// Opcode `FUSE_TMPFILE`, younger than `fuse_abi::Opcode`.
pub(crate) const OPCODE_TMPFILE: u32 = 51;

/// Bit of INIT that `FsOptions` does not name, `FUSE_DIRECT_IO_ALLOW_MMAP`: `MAP_SHARED` works on files opened with `FOPEN_DIRECT_IO`.
pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;

/// Bit of INIT that `FsOptions` does not name, `FUSE_OVER_IO_URING`: requests come in entries of
/// rings once every queue has some.
pub(crate) const OVER_IO_URING: u64 = 1 << 41;
/// Bit of INIT that `FsOptions` does not name, `FUSE_PASSTHROUGH`: the kernel reads files that are
/// registered with it by itself.
pub(crate) const PASSTHROUGH: u64 = 1 << 37;

/// `max_stack_depth` of INIT: registered files may lie on a file system that is stacked on none,
/// such as ext4, xfs or tmpfs. With 0 there is no passthrough; with 2, for overlayfs, nothing could
/// be stacked on the mount.
pub(crate) const STACK_DEPTH: u32 = 1;

/// `FOPEN_PASSTHROUGH` of `fuse_open_out.open_flags`.
pub(crate) const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// Copies a `T` from the front of `bytes`; `None` if there are too few.
pub(crate) fn read_front<T: ByteValued + Default>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (front, rest) = bytes.split_at_checked(size_of::<T>())?;
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(front);
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_wire() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<InitIn>(), 16);
        assert_eq!(size_of::<InitIn2>(), 48);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<OpenOut>(), 16);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<LseekIn>(), 24);
    }

    #[test]
    fn a_structure_is_read_only_from_enough_bytes() {
        let bytes = 7_u64.to_le_bytes();
        let (value, rest) = read_front::<ForgetIn>(&bytes).unwrap();
        assert_eq!((value.nlookup, rest.len()), (7, 0));
        assert!(read_front::<ForgetIn>(&bytes[..7]).is_none());
    }
}
