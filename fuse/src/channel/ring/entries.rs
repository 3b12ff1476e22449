//! The entries of one core: their memory, and the ring by which they go to the kernel and come back.
//!
//! Invariants:
//! - Memory of an entry is borrowed only while the server has the entry. While the kernel has it, it
//!   fills it whenever this thread enters or leaves the kernel, for whatever reason.
//! - Memory that the kernel may still write to is never given back: what the kernel has not returned
//!   when the entries are dropped stays mapped for the rest of the process's life, without pages.
#![allow(unsafe_code, reason = "submission of commands that name memory for the kernel to fill")]

use super::memory::Memory;
use super::slots::{Completed, Slot, Slots};
use super::wire;
use crate::abi::{InHeader, OutHeader, read_front};
use crate::errno::Errno;
use crate::reply::{Head, Payload, Reply};
use crate::request::Unique;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Entries of a queue. Each holds one request from its arrival to its answer, and what finds none
/// free waits in the kernel, so they must suffice for all that wait for S3 at a time: the requests
/// in the background (64 unless configured) and as many programs on one processor that each wait for
/// a read of their own.
const QUEUE_ENTRIES: u32 = 128;

/// Commands that are handed over by one call at most.
const SUBMISSIONS: u32 = 256;

/// Answers that may wait for more before they are handed over: what the kernel copies in the time of
/// a few calls.
const ANSWERS_WAITING_BYTES: usize = 64 << 10;

/// Offset of `len` in `struct io_uring_sqe`.
const SQE_LEN_OFFSET: usize = 24;

pub(super) type Ring = IoUring<Entry128, cqueue::Entry>;

/// What a core needs to know to make its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan<'a> {
    /// The kernel's queues that this core serves: the processors they are for.
    pub(super) queues: &'a [u16],
    /// Bytes of the largest request or answer.
    pub(super) payload_bytes: usize,
    /// Memory that answers may keep.
    pub(super) resident_bytes: usize,
}

pub(in crate::channel) struct Entries {
    /// Declared before the memory, so that it is closed first.
    ring: Ring,
    fd: OwnedFd,
    memory: Memory,
    slots: Slots,
    /// Entries with requests that were not taken yet.
    arrived: VecDeque<Slot>,
    /// Why the kernel returned an entry last.
    returned: Option<io::Error>,
    /// The queue of every [`QUEUE_ENTRIES`] entries.
    queues: Vec<u16>,
    resident_bytes: usize,
    /// Bytes of answers that were not handed over yet.
    waiting_bytes: usize,
    message: Vec<u8>,
}

impl Entries {
    /// Registers entries for the planned queues by the descriptor `fd` of the connection. On an
    /// error the kernel has none for one of them.
    pub(super) fn register(fd: OwnedFd, plan: &Plan<'_>) -> io::Result<Self> {
        let count = u32::try_from(plan.queues.len()).ok();
        let count = count.and_then(|queues| queues.checked_mul(QUEUE_ENTRIES));
        let count = count.filter(|count| *count > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let entries = usize::try_from(count).map_err(io::Error::other)?;
        let mut entries = Self {
            ring: build(count)?,
            fd,
            memory: Memory::map(entries, plan.payload_bytes)?,
            slots: Slots::new(count),
            arrived: VecDeque::with_capacity(entries),
            returned: None,
            queues: plan.queues.to_vec(),
            resident_bytes: plan.resident_bytes,
            waiting_bytes: 0,
            message: Vec::with_capacity(4096),
        };
        (0..count).map(Slot).try_for_each(|slot| entries.register_one(slot))?;
        entries.enter()?;
        let all_served = (0..count).step_by(QUEUE_ENTRIES as usize).all(|first| {
            (first..first + QUEUE_ENTRIES).any(|number| entries.slots.is_served(Slot(number)))
        });
        if all_served {
            return Ok(entries);
        }
        Err(entries.returned.take().unwrap_or(io::ErrorKind::Unsupported.into()))
    }

    /// Hands answers to the kernel and takes what it has for us. Does not wait, and calls the kernel
    /// only with answers.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Completions wait for room, which taking them makes.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.reap(),
                outcome => drop(outcome?),
            }
        }
        self.reap();
        self.waiting_bytes = 0;
        self.shed();
        Ok(())
    }

    fn reap(&mut self) {
        for done in self.ring.completion() {
            match self.slots.complete(done.user_data(), done.result()) {
                Completed::Request(slot) => self.arrived.push_back(slot),
                Completed::Returned => {
                    self.returned = Some(io::Error::from_raw_os_error(-done.result()));
                }
                Completed::Unexpected => {}
            }
        }
    }

    /// The message of the next request that has come, as a read of /dev/fuse would give it.
    pub(super) fn next_message(&mut self) -> Option<&[u8]> {
        let slot = self.arrived.pop_front()?;
        // SAFETY: `arrived` has entries that the kernel returned with a request, and an entry leaves
        // it before it can be answered.
        let (header, payload) = unsafe { self.memory.entry(slot) };
        wire::assemble(header, payload, &mut self.message);
        let unique = read_front::<InHeader>(header).map_or(0, |(header, _)| header.unique);
        self.slots.received(slot, unique, wire::commit_id(header));
        Some(&self.message)
    }

    /// The entry that has the request `unique`, if any has. It must be answered.
    pub(super) fn take(&mut self, unique: u64) -> Option<Slot> {
        self.slots.take(unique)
    }

    /// Puts an answer into `slot`, to go to the kernel with the next [`Entries::enter`]; an answer
    /// that has no room becomes an EIO, and the error says so.
    pub(super) fn answer(
        &mut self,
        slot: Slot,
        head: &Head,
        payload: Payload<'_>,
    ) -> io::Result<()> {
        let (out, fixed) = head.bytes().split_at(size_of::<OutHeader>());
        let answer_bytes = fixed.len() + payload.len_bytes();
        // SAFETY: `take` gives an entry whose request the server has, and gives it once; the kernel
        // gets it by `commit`, below.
        let (header, to) = unsafe { self.memory.entry(slot) };
        let Some(to) = to.get_mut(..answer_bytes) else {
            let unique = read_front::<OutHeader>(out).map_or(0, |(out, _)| out.unique);
            let (error, _) = Reply::Error(Errno::EIO).encode(Unique(unique));
            wire::answer(header, error.bytes(), 0);
            self.commit(slot, 0)?;
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let (front, mut to) = to.split_at_mut(fixed.len());
        front.copy_from_slice(fixed);
        let mut append = |bytes: &[u8]| {
            let (front, rest) = std::mem::take(&mut to).split_at_mut(bytes.len());
            front.copy_from_slice(bytes);
            to = rest;
        };
        match payload {
            Payload::None => {}
            Payload::One(bytes) => append(bytes),
            Payload::Many(slices) => slices.iter().for_each(|slice| append(slice)),
        }
        wire::answer(header, out, u32::try_from(answer_bytes).unwrap_or(u32::MAX));
        self.commit(slot, answer_bytes)
    }

    /// Whether there are answers to hand over.
    pub(super) fn has_answers(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether answers should be handed over before more of them are written.
    pub(super) fn has_many_answers(&self) -> bool {
        self.waiting_bytes >= ANSWERS_WAITING_BYTES
    }

    /// Whether requests have come that were not taken.
    pub(super) fn has_requests(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Entries that the kernel has.
    pub(super) fn in_kernel(&self) -> usize {
        self.slots.in_kernel()
    }

    fn queue(&self, slot: Slot) -> u16 {
        self.queues[(slot.0 / QUEUE_ENTRIES) as usize]
    }

    fn register_one(&mut self, slot: Slot) -> io::Result<()> {
        // SAFETY: the entry goes to the kernel below, for the first time: `registered` sees to that.
        let (address, segments) = unsafe { self.memory.describe(slot) };
        let mut entry = opcode::UringCmd80::new(types::Fd(self.fd.as_raw_fd()), wire::REGISTER)
            .cmd(wire::command(self.queue(slot), 0))
            .addr(Some(address))
            .build()
            .user_data(slot.0.into());
        set_len(&mut entry, segments);
        self.push(&entry)?;
        self.slots.registered(slot);
        Ok(())
    }

    fn commit(&mut self, slot: Slot, answer_bytes: usize) -> io::Result<()> {
        let commit_id = self.slots.answered(slot, answer_bytes);
        let fd = types::Fd(self.fd.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, wire::COMMIT_AND_FETCH)
            .cmd(wire::command(self.queue(slot), commit_id))
            .build()
            .user_data(slot.0.into());
        self.waiting_bytes += answer_bytes;
        self.push(&entry)
    }

    fn push(&mut self, entry: &Entry128) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.enter()?;
        }
        // SAFETY: `fd` is open for as long as the ring is. The only memory that the command makes
        // the kernel use is that of its entry: it stays mapped until the kernel has returned the
        // entry, see `drop`, and is not borrowed meanwhile.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(io::Error::other)
    }

    /// Gives memory back that answers have touched, beyond what may be kept. The kernel has looked
    /// at all answers, and a request that it puts into an entry ends before what is given back.
    fn shed(&mut self) {
        while let Some(slot) = self.slots.shed(self.resident_bytes) {
            // SAFETY: see above.
            unsafe { self.memory.discard(slot, wire::REQUEST_PAYLOAD_BYTES_MAX) };
        }
    }
}

impl AsRawFd for Entries {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // What is done is taken; an error leaves entries with the kernel, and so their memory.
        if self.enter().is_ok() && self.slots.in_kernel() == 0 {
            // SAFETY: the kernel has returned all entries, and gets none without `self`.
            unsafe { self.memory.unmap() };
        } else {
            self.memory.abandon();
        }
    }
}

/// A ring of 128-byte commands, whose completions are posted when this thread enters or leaves the
/// kernel and which wake it where it sleeps. Not with `DEFER_TASKRUN`, by which they are posted only
/// when the thread asks for them: a request that such a ring was given and nobody fetches outlives
/// even an abort of the connection, and its caller cannot be killed.
pub(super) fn build(entries: u32) -> io::Result<Ring> {
    let mut builder = Ring::builder();
    builder
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_cqsize(entries.next_power_of_two())
        .setup_clamp();
    builder.build(entries.min(SUBMISSIONS))
}

/// Sets what `opcode::UringCmd80` has no setter for: the number of segments at its address.
fn set_len(entry: &mut Entry128, len: u32) {
    let len_field = std::ptr::from_mut(entry).cast::<u8>();
    // SAFETY: an `Entry128` is the kernel's `struct io_uring_sqe` (`repr(C)`, 128 bytes), so that
    // the offset lies within it.
    let len_field = unsafe { len_field.add(SQE_LEN_OFFSET) };
    // SAFETY: the four bytes at that offset are the field `len`, a `u32` of which all bit patterns
    // are valid, and `entry` is borrowed by nobody else.
    unsafe { len_field.cast::<u32>().write_unaligned(len) };
}

/// Makes the kernel of a connection on which rings were agreed use /dev/fuse for all requests, by a
/// registration that it must refuse. It has waited for entries of every queue until now.
pub(in crate::channel) fn decline(fd: &OwnedFd) -> io::Result<()> {
    let mut ring = build(1)?;
    let command = opcode::UringCmd80::new(types::Fd(fd.as_raw_fd()), wire::REGISTER)
        .cmd(wire::command(u16::MAX, 0))
        .build();
    // SAFETY: `fd` is open until this returns, and no queue has this number, so that the kernel
    // looks at no memory.
    let pushed = unsafe { ring.submission().push(&command) };
    pushed.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(())
}
