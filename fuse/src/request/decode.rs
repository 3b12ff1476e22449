//! Bytes of one read of /dev/fuse -> [`Request`].
//!
//! Invariant: total over all byte strings. Bytes behind what a structure needs are ignored, because
//! newer kernels append fields.

use super::{Caller, Fh, Ino, Listing, Mutation, Op, Request, Unique};
use crate::abi::{
    AccessIn, BatchForgetIn, ByteValued, ForgetIn, ForgetOne, FsyncIn, GETATTR_FH, GetattrIn,
    GetxattrIn, InHeader, InterruptIn, LseekIn, OPCODE_TMPFILE, Opcode, OpenIn, ReadIn, ReleaseIn,
    read_front,
};
use fuse_backend_rs::abi::fuse_abi::FlushIn;

/// Bytes that are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel sent a request that makes no sense (opcode {opcode:?}, {bytes} bytes): {fault}"
)]
pub struct Malformed {
    /// The request to answer with an error; `None` if there is no header.
    pub unique: Option<Unique>,
    /// The opcode of the header, if there is one.
    pub opcode: Option<u32>,
    /// How many bytes were read.
    pub bytes: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Fewer bytes than a header has.
    #[error("it is shorter than a header")]
    ShortHeader,
    /// The length in the header is not the number of bytes read.
    #[error("its header states {stated_bytes} bytes")]
    WrongLength {
        /// The length in the header.
        stated_bytes: u32,
    },
    /// Fewer bytes than the opcode's arguments need.
    #[error("its arguments are cut short")]
    ShortBody,
    /// A name that is empty, has a `/`, or lacks its NUL.
    #[error("its name is not one path component")]
    Name,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
    let malformed = |unique, opcode, fault| Malformed { unique, opcode, bytes: bytes.len(), fault };
    let Some((header, body)) = read_front::<InHeader>(bytes) else {
        return Err(malformed(None, None, Fault::ShortHeader));
    };
    let (unique, opcode) = (Unique(header.unique), header.opcode);
    let fail = |fault| malformed(Some(unique), Some(opcode), fault);
    if usize::try_from(header.len) != Ok(bytes.len()) {
        return Err(fail(Fault::WrongLength { stated_bytes: header.len }));
    }
    Ok(Request {
        unique,
        ino: Ino(header.nodeid),
        caller: Caller { uid: header.uid, gid: header.gid, pid: header.pid },
        op: decode_op(opcode, Body(body)).map_err(fail)?,
    })
}

const LOOKUP: u32 = Opcode::Lookup as u32;
const FORGET: u32 = Opcode::Forget as u32;
const BATCH_FORGET: u32 = Opcode::BatchForget as u32;
const GETATTR: u32 = Opcode::Getattr as u32;
const OPEN: u32 = Opcode::Open as u32;
const READ: u32 = Opcode::Read as u32;
const RELEASE: u32 = Opcode::Release as u32;
const FLUSH: u32 = Opcode::Flush as u32;
const FSYNC: u32 = Opcode::Fsync as u32;
const OPENDIR: u32 = Opcode::Opendir as u32;
const READDIR: u32 = Opcode::Readdir as u32;
const READDIRPLUS: u32 = Opcode::Readdirplus as u32;
const RELEASEDIR: u32 = Opcode::Releasedir as u32;
const FSYNCDIR: u32 = Opcode::Fsyncdir as u32;
const STATFS: u32 = Opcode::Statfs as u32;
const INTERRUPT: u32 = Opcode::Interrupt as u32;
const ACCESS: u32 = Opcode::Access as u32;
const GETXATTR: u32 = Opcode::Getxattr as u32;
const LISTXATTR: u32 = Opcode::Listxattr as u32;
const READLINK: u32 = Opcode::Readlink as u32;
const LSEEK: u32 = Opcode::Lseek as u32;
const DESTROY: u32 = Opcode::Destroy as u32;

fn decode_op(opcode: u32, mut body: Body<'_>) -> Result<Op, Fault> {
    Ok(match opcode {
        LOOKUP => Op::Lookup { name: body.name()? },
        FORGET => Op::Forget { lookups: body.take::<ForgetIn>()?.nlookup },
        BATCH_FORGET => Op::BatchForget(body.forgets()?),
        GETATTR => {
            let args = body.take::<GetattrIn>()?;
            Op::GetAttr { fh: (args.flags & GETATTR_FH != 0).then_some(Fh(args.fh)) }
        }
        OPEN => Op::Open { flags: body.take::<OpenIn>()?.flags.cast_signed() },
        READ => {
            let args = body.take::<ReadIn>()?;
            Op::Read {
                fh: Fh(args.fh),
                offset: args.offset,
                size_bytes: args.size,
                flags: args.flags.cast_signed(),
            }
        }
        RELEASE => Op::Release { fh: Fh(body.take::<ReleaseIn>()?.fh) },
        FLUSH => Op::Flush { fh: Fh(body.take::<FlushIn>()?.fh) },
        FSYNC => Op::Fsync { fh: Fh(body.take::<FsyncIn>()?.fh) },
        OPENDIR => Op::OpenDir { flags: body.take::<OpenIn>()?.flags.cast_signed() },
        READDIR => body.readdir(Listing::Plain)?,
        READDIRPLUS => body.readdir(Listing::Plus)?,
        RELEASEDIR => Op::ReleaseDir { fh: Fh(body.take::<ReleaseIn>()?.fh) },
        FSYNCDIR => Op::FsyncDir,
        STATFS => Op::StatFs,
        INTERRUPT => Op::Interrupt { target: Unique(body.take::<InterruptIn>()?.unique) },
        ACCESS => Op::Access { mask: body.take::<AccessIn>()?.mask },
        GETXATTR => {
            let size_bytes = body.take::<GetxattrIn>()?.size;
            Op::GetXattr { name: body.name()?, size_bytes }
        }
        LISTXATTR => Op::ListXattr { size_bytes: body.take::<GetxattrIn>()?.size },
        READLINK => Op::ReadLink,
        LSEEK => {
            let args = body.take::<LseekIn>()?;
            Op::Lseek { fh: Fh(args.fh), offset: args.offset, whence: args.whence }
        }
        DESTROY => Op::Destroy,
        _ => mutation(opcode).map_or(Op::Unknown { opcode }, Op::Mutation),
    })
}

/// The change that `opcode` asks for, `None` if it asks for none.
fn mutation(opcode: u32) -> Option<Mutation> {
    const MUTATIONS: [(u32, Mutation); 16] = [
        (Opcode::Setattr as u32, Mutation::SetAttr),
        (Opcode::Symlink as u32, Mutation::SymLink),
        (Opcode::Mknod as u32, Mutation::MkNod),
        (Opcode::Mkdir as u32, Mutation::MkDir),
        (Opcode::Unlink as u32, Mutation::Unlink),
        (Opcode::Rmdir as u32, Mutation::RmDir),
        (Opcode::Rename as u32, Mutation::Rename),
        (Opcode::Rename2 as u32, Mutation::Rename),
        (Opcode::Link as u32, Mutation::Link),
        (Opcode::Write as u32, Mutation::Write),
        (Opcode::Setxattr as u32, Mutation::SetXattr),
        (Opcode::Removexattr as u32, Mutation::RemoveXattr),
        (Opcode::Create as u32, Mutation::Create),
        (Opcode::Fallocate as u32, Mutation::Fallocate),
        (Opcode::CopyFileRange as u32, Mutation::CopyFileRange),
        (OPCODE_TMPFILE, Mutation::TmpFile),
    ];
    MUTATIONS.iter().find(|(known, _)| *known == opcode).map(|(_, mutation)| *mutation)
}

/// What is left of a request's arguments.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<T: ByteValued + Default>(&mut self) -> Result<T, Fault> {
        let (value, rest) = read_front(self.0).ok_or(Fault::ShortBody)?;
        self.0 = rest;
        Ok(value)
    }

    fn name(&mut self) -> Result<Vec<u8>, Fault> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Fault::Name)?;
        let (name, rest) = self.0.split_at(end);
        if name.is_empty() || name.contains(&b'/') {
            return Err(Fault::Name);
        }
        self.0 = &rest[1..];
        Ok(name.to_vec())
    }

    fn readdir(&mut self, listing: Listing) -> Result<Op, Fault> {
        let args = self.take::<ReadIn>()?;
        Ok(Op::ReadDir { fh: Fh(args.fh), offset: args.offset, size_bytes: args.size, listing })
    }

    fn forgets(&mut self) -> Result<Vec<(Ino, u64)>, Fault> {
        let count = self.take::<BatchForgetIn>()?.count;
        let count = usize::try_from(count).map_err(|_| Fault::ShortBody)?;
        // Checked before anything is allocated: the count is the sender's word.
        if self.0.len() / size_of::<ForgetOne>() < count {
            return Err(Fault::ShortBody);
        }
        (0..count)
            .map(|_| self.take::<ForgetOne>().map(|one| (Ino(one.nodeid), one.nlookup)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A request of `opcode` on inode 5 with `body`, of which the header states the true length.
    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let header = InHeader {
            len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap(),
            opcode,
            unique: 42,
            nodeid: 5,
            uid: 1000,
            gid: 1001,
            pid: 77,
            padding: 0,
        };
        [header.as_slice(), body].concat()
    }

    #[track_caller]
    fn check(opcode: u32, body: &[u8], expected: Result<Op, Fault>) {
        let got = Request::decode(&message(opcode, body));
        match (got, expected) {
            (Ok(request), Ok(op)) => {
                assert_eq!(request.op, op);
                assert_eq!((request.unique, request.ino), (Unique(42), Ino(5)));
                assert_eq!(request.caller, Caller { uid: 1000, gid: 1001, pid: 77 });
            }
            (Err(malformed), Err(fault)) => {
                assert_eq!(malformed.fault, fault);
                assert_eq!(malformed.unique, Some(Unique(42)));
                assert_eq!(malformed.opcode, Some(opcode));
            }
            (got, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table with a row per opcode")]
    fn every_opcode_becomes_its_variant() {
        let read = ReadIn { fh: 9, offset: 4096, size: 8192, flags: 0x4000, ..ReadIn::default() };
        let forgets = [
            BatchForgetIn { count: 2, dummy: 0 }.as_slice(),
            ForgetOne { nodeid: 2, nlookup: 3 }.as_slice(),
            ForgetOne { nodeid: 4, nlookup: 5 }.as_slice(),
        ]
        .concat();
        let open = OpenIn { flags: 0x8000, fuse_flags: 0 };
        let release = ReleaseIn { fh: 9, ..ReleaseIn::default() };
        let xattr = [GetxattrIn { size: 64, padding: 0 }.as_slice(), b"user.a\0"].concat();
        let fh = Fh(9);
        for (opcode, body, op) in [
            (LOOKUP, b"shard_042.bin\0".to_vec(), Op::Lookup { name: b"shard_042.bin".to_vec() }),
            (LOOKUP, b"\xff\xfe\0".to_vec(), Op::Lookup { name: b"\xff\xfe".to_vec() }),
            (FORGET, ForgetIn { nlookup: 7 }.as_slice().to_vec(), Op::Forget { lookups: 7 }),
            (BATCH_FORGET, forgets, Op::BatchForget(vec![(Ino(2), 3), (Ino(4), 5)])),
            (
                GETATTR,
                GetattrIn { flags: 0, dummy: 0, fh: 9 }.as_slice().to_vec(),
                Op::GetAttr { fh: None },
            ),
            (
                GETATTR,
                GetattrIn { flags: 1, dummy: 0, fh: 9 }.as_slice().to_vec(),
                Op::GetAttr { fh: Some(fh) },
            ),
            (OPEN, open.as_slice().to_vec(), Op::Open { flags: 0x8000 }),
            (
                READ,
                read.as_slice().to_vec(),
                Op::Read { fh, offset: 4096, size_bytes: 8192, flags: 0x4000 },
            ),
            (RELEASE, release.as_slice().to_vec(), Op::Release { fh }),
            (FLUSH, FlushIn { fh: 9, ..FlushIn::default() }.as_slice().to_vec(), Op::Flush { fh }),
            (FSYNC, FsyncIn { fh: 9, ..FsyncIn::default() }.as_slice().to_vec(), Op::Fsync { fh }),
            (OPENDIR, open.as_slice().to_vec(), Op::OpenDir { flags: 0x8000 }),
            (
                READDIR,
                read.as_slice().to_vec(),
                Op::ReadDir { fh, offset: 4096, size_bytes: 8192, listing: Listing::Plain },
            ),
            (
                READDIRPLUS,
                read.as_slice().to_vec(),
                Op::ReadDir { fh, offset: 4096, size_bytes: 8192, listing: Listing::Plus },
            ),
            (RELEASEDIR, release.as_slice().to_vec(), Op::ReleaseDir { fh }),
            (FSYNCDIR, vec![], Op::FsyncDir),
            (STATFS, vec![], Op::StatFs),
            (
                INTERRUPT,
                InterruptIn { unique: 40 }.as_slice().to_vec(),
                Op::Interrupt { target: Unique(40) },
            ),
            (ACCESS, AccessIn { mask: 4, padding: 0 }.as_slice().to_vec(), Op::Access { mask: 4 }),
            (GETXATTR, xattr, Op::GetXattr { name: b"user.a".to_vec(), size_bytes: 64 }),
            (
                LISTXATTR,
                GetxattrIn { size: 64, padding: 0 }.as_slice().to_vec(),
                Op::ListXattr { size_bytes: 64 },
            ),
            (READLINK, vec![], Op::ReadLink),
            (
                LSEEK,
                LseekIn { fh: 9, offset: 5, whence: 3, padding: 0 }.as_slice().to_vec(),
                Op::Lseek { fh, offset: 5, whence: 3 },
            ),
            (DESTROY, vec![], Op::Destroy),
            (Opcode::Write as u32, vec![0; 40], Op::Mutation(Mutation::Write)),
            (Opcode::Rename2 as u32, vec![], Op::Mutation(Mutation::Rename)),
            (OPCODE_TMPFILE, vec![], Op::Mutation(Mutation::TmpFile)),
            // The gaps in the numbering, an ioctl, a number of the future.
            (0, vec![], Op::Unknown { opcode: 0 }),
            (7, vec![], Op::Unknown { opcode: 7 }),
            (19, vec![], Op::Unknown { opcode: 19 }),
            (39, vec![1, 2, 3], Op::Unknown { opcode: 39 }),
            (4000, vec![], Op::Unknown { opcode: 4000 }),
        ] {
            check(opcode, &body, Ok(op));
        }
    }

    #[test]
    fn a_request_that_makes_no_sense_says_what_is_wrong() {
        let huge = BatchForgetIn { count: u32::MAX, dummy: 0 };
        for (opcode, body, fault) in [
            (LOOKUP, &b""[..], Fault::Name),
            (LOOKUP, b"\0", Fault::Name),
            (LOOKUP, b"no end", Fault::Name),
            (LOOKUP, b"a/b\0", Fault::Name),
            (READ, &[0; 39], Fault::ShortBody),
            (FORGET, &[0; 7], Fault::ShortBody),
            (BATCH_FORGET, huge.as_slice(), Fault::ShortBody),
            (GETXATTR, &[0; 8], Fault::Name),
        ] {
            check(opcode, body, Err(fault));
        }
        let mut long = message(STATFS, b"");
        long.push(0);
        let malformed = Request::decode(&long).unwrap_err();
        assert_eq!(malformed.fault, Fault::WrongLength { stated_bytes: 40 });
        let malformed = Request::decode(&long[..39]).unwrap_err();
        assert_eq!((malformed.unique, malformed.fault), (None, Fault::ShortHeader));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_request_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert!(bytes.len() >= 40);
                let _ = request.op.group();
            }
        }

        #[test]
        fn any_body_of_any_opcode_gives_a_request_or_an_error(
            opcode in 0_u32..60,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            match Request::decode(&message(opcode, &body)) {
                Ok(request) => prop_assert_eq!(request.unique, Unique(42)),
                Err(malformed) => prop_assert_eq!(malformed.opcode, Some(opcode)),
            }
        }
    }
}
