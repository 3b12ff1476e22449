//! What lies in an entry's header area and in the commands that hand the entry to the kernel: the
//! structures `fuse_uring_req_header` and `fuse_uring_cmd_req` of `linux/fuse.h`.
//!
//! ```text
//! header area, 288 bytes
//!   0   in_out          to us: fuse_in_header       to the kernel: fuse_out_header
//! 128   op_in           to us: the first structure of the request, as fuse_read_in
//! 256   flags           u64, none
//! 264   commit_id       u64, names the request when its answer is committed
//! 272   payload_bytes   u32, to us: names and values of the request; to the kernel: the answer
//! 276   padding         u32
//! 280   reserved        u64
//! command, the first 24 of 80 bytes
//!   0   flags           u64, none
//!   8   commit_id       u64, 0 to register
//!  16   queue           u16
//! ```
//!
//! Architecture invariant: total over all bytes; numbers are the machine's, as everywhere in FUSE.

use crate::abi::{InHeader, OutHeader, read_front};

/// `FUSE_IO_URING_CMD_REGISTER`: takes an entry's memory and waits for its first request.
pub(super) const REGISTER: u32 = 1;

/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: answers an entry's request and waits for the next.
pub(super) const COMMIT_AND_FETCH: u32 = 2;

/// Bytes of the header area.
pub(super) const HEADER_BYTES: usize = 288;

/// Bytes of the command of an SQE with 128 bytes.
pub(super) const COMMAND_BYTES: usize = 80;

/// Most bytes that the kernel puts into a payload with a request: the value of an extended
/// attribute (64 KiB) or the data of a WRITE, whose length is agreed at INIT, each with a name.
pub(super) const REQUEST_PAYLOAD_BYTES_MAX: usize = 128 << 10;

const OP_IN: usize = 128;
const COMMIT_ID: usize = 264;
const PAYLOAD_BYTES: usize = 272;

/// The command that registers an entry with `queue` (`commit_id` 0), or commits its answer.
pub(super) fn command(queue: u16, commit_id: u64) -> [u8; COMMAND_BYTES] {
    let mut command = [0; COMMAND_BYTES];
    command[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    command[16..18].copy_from_slice(&queue.to_ne_bytes());
    command
}

/// What the kernel wants to be told with the answer to the request in `header`.
pub(super) fn commit_id(header: &[u8; HEADER_BYTES]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[COMMIT_ID..COMMIT_ID + 8]);
    u64::from_ne_bytes(bytes)
}

/// Puts the request into `message` as a read of /dev/fuse would have given it. Parts that cannot
/// belong together are left out, so that the message is shorter than it says and does not decode.
pub(super) fn assemble(header: &[u8; HEADER_BYTES], payload: &[u8], message: &mut Vec<u8>) {
    message.clear();
    let fixed = size_of::<InHeader>();
    message.extend_from_slice(&header[..fixed]);
    let stated = read_front::<InHeader>(header).map_or(0, |(request, _)| request.len);
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[PAYLOAD_BYTES..PAYLOAD_BYTES + 4]);
    let stated = usize::try_from(stated).unwrap_or(usize::MAX);
    let payload_bytes = usize::try_from(u32::from_ne_bytes(bytes)).unwrap_or(usize::MAX);
    let op_bytes = stated.checked_sub(fixed).and_then(|body| body.checked_sub(payload_bytes));
    if let Some(op_bytes) = op_bytes
        && let Some(op_in) = header[OP_IN..2 * OP_IN].get(..op_bytes)
        && let Some(rest) = payload.get(..payload_bytes)
    {
        message.extend_from_slice(op_in);
        message.extend_from_slice(rest);
    }
}

/// States in `header` an answer whose header is `out` and that has `payload_bytes` in its payload.
pub(super) fn answer(header: &mut [u8; HEADER_BYTES], out: &[u8], payload_bytes: u32) {
    let fixed = size_of::<OutHeader>();
    header[..fixed].copy_from_slice(&out[..fixed]);
    header[PAYLOAD_BYTES..PAYLOAD_BYTES + 4].copy_from_slice(&payload_bytes.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{ByteValued, Opcode, ReadIn};
    use crate::request::{Op, Request};

    /// A header area as the kernel fills it, by the offsets of `linux/fuse.h` alone.
    fn filled(request: InHeader, op_in: &[u8], payload_bytes: u32) -> [u8; HEADER_BYTES] {
        let mut header = [0xAA; HEADER_BYTES];
        header[..40].copy_from_slice(request.as_slice());
        header[128..128 + op_in.len()].copy_from_slice(op_in);
        header[264..272].copy_from_slice(&77_u64.to_ne_bytes());
        header[272..276].copy_from_slice(&payload_bytes.to_ne_bytes());
        header
    }

    fn request(opcode: Opcode, len: u32) -> InHeader {
        InHeader { len, opcode: opcode as u32, unique: 42, nodeid: 7, ..InHeader::default() }
    }

    #[test]
    fn a_request_is_put_together_from_its_three_parts() {
        let read = ReadIn { fh: 3, offset: 4096, size: 8192, ..ReadIn::default() };
        let header = filled(request(Opcode::Read, 40 + 40), read.as_slice(), 0);
        let mut message = vec![1; 500];
        assemble(&header, &[9; 64], &mut message);
        let Op::Read { offset: 4096, size_bytes: 8192, .. } = Request::decode(&message).unwrap().op
        else {
            panic!("{message:?}");
        };
        assert_eq!(commit_id(&header), 77);

        let header = filled(request(Opcode::Lookup, 40 + 5), &[], 5);
        assemble(&header, b"name\0 and what was there before", &mut message);
        let looked_up = Request::decode(&message).unwrap();
        assert_eq!(looked_up.op, Op::Lookup { name: b"name".to_vec() });
    }

    #[test]
    fn parts_that_cannot_belong_together_do_not_decode() {
        for (len, payload_bytes) in [
            (0, 0),
            (39, 0),
            (40, 1),
            (45, 6),
            (u32::MAX, 0),
            (40 + 129, 0),
            (4096, 4000),
            (80, u32::MAX),
        ] {
            let header = filled(request(Opcode::Lookup, len), &[], payload_bytes);
            let mut message = Vec::new();
            assemble(&header, &[b'n'; 64], &mut message);
            let malformed = Request::decode(&message).unwrap_err();
            assert_eq!(malformed.unique.map(|unique| unique.0), Some(42), "{len} {payload_bytes}");
        }
    }

    #[test]
    fn an_answer_and_a_command_lie_where_the_kernel_looks() {
        let mut header = filled(request(Opcode::Read, 80), &[], 0);
        let out = OutHeader { len: 16 + 4096, error: 0, unique: 42 };
        answer(&mut header, out.as_slice(), 4096);
        assert_eq!(&header[..16], out.as_slice());
        assert_eq!(header[272..276], 4096_u32.to_ne_bytes());
        let command = command(3, 77);
        assert_eq!(command[..8], [0; 8]);
        assert_eq!(command[8..16], 77_u64.to_ne_bytes());
        assert_eq!(command[16..18], 3_u16.to_ne_bytes());
        assert!(command[18..].iter().all(|byte| *byte == 0));
    }
}
