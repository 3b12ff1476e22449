//! INIT: what the kernel offers, what we wish, what is agreed.
//!
//! [`negotiate`] decides; reading and answering the message is the session's.

use crate::abi::{
    self, ByteValued, DIRECT_IO_ALLOW_MMAP, FsOptions, InHeader, InitIn, InitIn2, InitOut, MAJOR,
    MINOR_MAX, MINOR_MIN, OVER_IO_URING, Opcode, PASSTHROUGH, READ_BUFFER_BYTES_MIN, STACK_DEPTH,
    read_front,
};
use std::fmt;

/// Bytes of a request apart from the data of a WRITE, as libfuse reserves them.
const REQUEST_HEAD_BYTES: usize = 4096;

/// Room for a request without data. The kernel asks for 8 KiB; more lets one `BATCH_FORGET` carry
/// 4 000 inodes instead of 500.
const REQUEST_BYTES: usize = 64 << 10;

/// Pages in a request of a kernel that lets us say nothing about it.
const PAGES_DEFAULT: u32 = 32;

/// What the server would like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Largest READ. Rounded down to pages and capped by `/proc/sys/fs/fuse/max_pages_limit`
    /// (256 pages, 1 MiB, unless root raised it).
    pub request_bytes_max: u32,
    /// Read-ahead of the kernel. INIT can only lower it below 128 KiB; `Session::set_read_ahead`
    /// raises it.
    pub read_ahead_bytes: u32,
    /// Most requests in the background (read-ahead, asynchronous direct I/O) at a time.
    pub max_background: u16,
    /// From how many on the kernel calls the mount congested.
    pub congestion_threshold: u16,
    /// When directories are listed with attributes.
    pub readdirplus: ReadDirPlus,
    /// How requests shall travel.
    pub transport: TransportKind,
    /// Whether files may be registered for the kernel to read by itself.
    pub passthrough: bool,
}

/// How requests travel from the kernel and answers back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportKind {
    /// By reads and writes of /dev/fuse.
    Device,
    /// In entries of rings (FUSE over io_uring), where the kernel offers that.
    Ring,
}

/// When directories are listed with attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadDirPlus {
    /// Never.
    Off,
    /// When the kernel sees them used: at the start of each listing, and on after a lookup in it.
    Auto,
    /// Always.
    Always,
}

/// What was agreed with the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Minor version of the protocol that both sides speak; the major version is 7.
    pub minor: u32,
    /// Largest READ that will be asked.
    pub request_bytes_max: u32,
    /// Largest WRITE that will be asked.
    pub write_bytes_max: u32,
    /// Most requests in the background.
    pub max_background: u16,
    /// From how many on the kernel calls the mount congested.
    pub congestion_threshold: u16,
    read_ahead_bytes: u32,
    pages_max: u16,
    features: u64,
}

/// What the kernel's INIT and its settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) features: u64,
    /// `/proc/sys/fs/fuse/max_pages_limit`.
    pub(crate) pages_limit: u32,
    /// Bytes of a page.
    pub(crate) page_bytes: u32,
}

/// What to do about an INIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Answer with this.
    Accept(Negotiated),
    /// The kernel speaks a newer major version: answer with ours and it will ask again.
    AskAgain,
    /// The kernel is too old: answer `EPROTO`.
    Refuse,
}

/// Every feature that may be agreed, with its name. A feature that is not here is never asked for:
/// POSIX and BSD locks stay with the kernel, data is dropped only on notice (an inode never changes
/// its bytes), nothing is written back, links are not cached. `ASYNC_DIO` would read the requests of
/// one direct read side by side, but who waits for them cannot be interrupted, not even killed.
const FEATURES: [(u64, &str); 10] = [
    (FsOptions::ASYNC_READ.bits(), "async_read"),
    (FsOptions::DO_READDIRPLUS.bits(), "readdirplus"),
    (FsOptions::READDIRPLUS_AUTO.bits(), "readdirplus_auto"),
    (FsOptions::PARALLEL_DIROPS.bits(), "parallel_dirops"),
    (FsOptions::MAX_PAGES.bits(), "max_pages"),
    (FsOptions::EXPLICIT_INVAL_DATA.bits(), "explicit_inval_data"),
    (FsOptions::INIT_EXT.bits(), "init_ext"),
    (DIRECT_IO_ALLOW_MMAP, "direct_io_allow_mmap"),
    (OVER_IO_URING, "over_io_uring"),
    (PASSTHROUGH, "passthrough"),
];

/// What is agreed when the kernel makes `offer` and we have `wish`.
pub(crate) fn negotiate(offer: &Offer, wish: &Wish) -> Decision {
    match (offer.major, offer.minor) {
        (major, _) if major > MAJOR => return Decision::AskAgain,
        (MAJOR, minor) if minor >= MINOR_MIN => {}
        _ => return Decision::Refuse,
    }
    let mut wanted = FEATURES.iter().fold(0, |bits, (bit, _)| bits | bit);
    match wish.readdirplus {
        ReadDirPlus::Auto => {}
        ReadDirPlus::Always => wanted &= !FsOptions::READDIRPLUS_AUTO.bits(),
        ReadDirPlus::Off => {
            wanted &= !(FsOptions::DO_READDIRPLUS | FsOptions::READDIRPLUS_AUTO).bits();
        }
    }
    if wish.transport == TransportKind::Device {
        wanted &= !OVER_IO_URING;
    }
    if !wish.passthrough {
        wanted &= !PASSTHROUGH;
    }
    let mut features = offer.features & wanted;
    if features & FsOptions::INIT_EXT.bits() == 0 {
        features &= u64::from(u32::MAX);
    }
    let pages_limit = if features & FsOptions::MAX_PAGES.bits() == 0 {
        PAGES_DEFAULT
    } else {
        offer.pages_limit.clamp(1, u32::from(u16::MAX))
    };
    let pages = (wish.request_bytes_max / offer.page_bytes).clamp(1, pages_limit);
    Decision::Accept(Negotiated {
        minor: offer.minor.min(MINOR_MAX),
        request_bytes_max: pages * offer.page_bytes,
        write_bytes_max: offer.page_bytes,
        max_background: wish.max_background,
        congestion_threshold: wish.congestion_threshold.min(wish.max_background),
        read_ahead_bytes: wish.read_ahead_bytes,
        pages_max: u16::try_from(pages).unwrap_or(u16::MAX),
        features,
    })
}

impl Negotiated {
    /// Names of the features agreed, in the order of their bits.
    pub fn features(&self) -> impl Iterator<Item = &'static str> + '_ {
        FEATURES.iter().filter(|(bit, _)| self.features & bit != 0).map(|(_, name)| *name)
    }

    /// How requests will travel, unless a core finds no memory for its ring.
    pub fn transport(&self) -> TransportKind {
        if self.features & OVER_IO_URING == 0 { TransportKind::Device } else { TransportKind::Ring }
    }

    /// How large the kernel wants the payload of an entry of a ring.
    pub(crate) fn ring_payload_bytes(&self) -> usize {
        let bytes = self.request_bytes_max.max(self.write_bytes_max);
        usize::try_from(bytes).unwrap_or(usize::MAX).max(READ_BUFFER_BYTES_MIN)
    }

    /// Whether files may be registered for the kernel to read by itself. It may still refuse each.
    pub fn has_passthrough(&self) -> bool {
        self.features & PASSTHROUGH != 0
    }

    /// How large a buffer must be to hold any request.
    pub(crate) fn request_buffer_bytes(&self) -> usize {
        let write_bytes = usize::try_from(self.write_bytes_max).unwrap_or(usize::MAX);
        (write_bytes + REQUEST_HEAD_BYTES).max(REQUEST_BYTES).max(READ_BUFFER_BYTES_MIN)
    }

    /// The answer to INIT that says so.
    pub(crate) fn init_out(&self) -> InitOut {
        let low = u32::try_from(self.features & u64::from(u32::MAX)).unwrap_or(0);
        let high = u32::try_from(self.features >> 32).unwrap_or(0);
        InitOut {
            major: MAJOR,
            minor: self.minor,
            max_readahead: self.read_ahead_bytes,
            flags: low,
            max_background: self.max_background,
            congestion_threshold: self.congestion_threshold,
            max_write: self.write_bytes_max,
            time_gran: 1,
            max_pages: self.pages_max,
            map_alignment: 0,
            flags2: high,
            // The first of them is max_stack_depth.
            unused: [if self.has_passthrough() { STACK_DEPTH } else { 0 }, 0, 0, 0, 0, 0, 0],
        }
    }
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FUSE 7.{}, requests of {} bytes:", self.minor, self.request_bytes_max)?;
        self.features().try_for_each(|name| write!(f, " {name}"))
    }
}

/// The offer in the bytes of the kernel's first message, with the unique to answer; `None` if it is
/// no INIT.
pub(crate) fn parse_offer(bytes: &[u8], pages_limit: u32, page_bytes: u32) -> Option<(u64, Offer)> {
    let (header, body) = read_front::<InHeader>(bytes)?;
    if header.opcode != Opcode::Init as u32 {
        return None;
    }
    let (init, rest) = read_front::<InitIn>(body)?;
    let mut features = u64::from(init.flags);
    if features & FsOptions::INIT_EXT.bits() != 0
        && let Some((more, _)) = read_front::<InitIn2>(rest)
    {
        features |= u64::from(more.flags2) << 32;
    }
    let offer = Offer { major: init.major, minor: init.minor, features, pages_limit, page_bytes };
    Some((header.unique, offer))
}

/// The answer that makes a kernel of a newer major version ask again.
pub(crate) fn ask_again() -> InitOut {
    InitOut { major: MAJOR, minor: abi::MINOR_MAX, ..InitOut::default() }
}

/// The bytes of `out`.
pub(crate) fn init_out_bytes(out: &InitOut) -> &[u8] {
    out.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    fn offer() -> Offer {
        Offer { major: 7, minor: 45, features: ALL, pages_limit: 256, page_bytes: 4096 }
    }

    fn wish() -> Wish {
        Wish {
            request_bytes_max: 1 << 20,
            read_ahead_bytes: 1 << 20,
            max_background: 64,
            congestion_threshold: 48,
            readdirplus: ReadDirPlus::Auto,
            transport: TransportKind::Ring,
            passthrough: true,
        }
    }

    #[track_caller]
    fn accept(offer: &Offer, wish: &Wish) -> Negotiated {
        match negotiate(offer, wish) {
            Decision::Accept(negotiated) => negotiated,
            other => panic!("{other:?}"),
        }
    }

    /// Proves W01: `max_background` 64, congestion threshold 48, READDIRPLUS, local locks, explicit
    /// data-cache control.
    #[test]
    fn what_the_kernel_offers_is_taken_as_far_as_we_want_it() {
        let negotiated = accept(&offer(), &wish());
        let names: Vec<_> = negotiated.features().collect();
        assert_eq!(names, FEATURES.map(|(_, name)| name));
        let out = negotiated.init_out();
        assert_eq!((out.major, out.minor, out.time_gran), (7, MINOR_MAX, 1));
        assert_eq!((out.max_background, out.congestion_threshold), (64, 48));
        assert_eq!((out.max_pages, out.max_readahead), (256, 1 << 20));
        assert_eq!(out.flags2, 1 << (36 - 32) | 1 << (37 - 32) | 1 << (41 - 32));
        assert_eq!(out.unused[0], 1, "max_stack_depth");
        for (bit, name) in [
            (FsOptions::POSIX_LOCKS, "locks stay with the kernel"),
            (FsOptions::FLOCK_LOCKS, "locks stay with the kernel"),
            (FsOptions::AUTO_INVAL_DATA, "data is dropped on notice only"),
            (FsOptions::WRITEBACK_CACHE, "nothing is written back"),
            (FsOptions::CACHE_SYMLINKS, "links are not cached"),
            (FsOptions::HANDLE_KILLPRIV, "the kernel drops setuid bits"),
            (FsOptions::POSIX_ACL, "there are no ACLs"),
            (FsOptions::ASYNC_DIO, "a direct reader can be killed"),
        ] {
            assert_eq!(u64::from(out.flags) & bit.bits(), 0, "{name}");
        }
    }

    #[test]
    fn versions_before_7_31_are_refused_and_a_newer_major_asked_again() {
        for (major, minor, decision) in [
            (7, 30, Some(Decision::Refuse)),
            (6, 99, Some(Decision::Refuse)),
            (8, 0, Some(Decision::AskAgain)),
            (7, 31, None),
            (7, 99, None),
        ] {
            let got = negotiate(&Offer { major, minor, ..offer() }, &wish());
            match decision {
                Some(decision) => assert_eq!(got, decision, "{major}.{minor}"),
                None => assert!(matches!(got, Decision::Accept(_)), "{major}.{minor}"),
            }
        }
        assert_eq!(accept(&Offer { minor: 33, ..offer() }, &wish()).minor, 33);
    }

    #[test]
    fn request_length_is_whole_pages_within_the_kernels_limit() {
        let max_pages = FsOptions::MAX_PAGES.bits();
        for (wanted, limit, page, features, expected) in [
            (1 << 20, 256, 4096, ALL, 1 << 20),
            (4 << 20, 256, 4096, ALL, 1 << 20),
            (4 << 20, 1024, 4096, ALL, 4 << 20),
            (1 << 20, 256, 65536, ALL, 1 << 20),
            (5000, 256, 4096, ALL, 4096),
            (0, 256, 4096, ALL, 4096),
            (u32::MAX, u32::MAX, 4096, ALL, 65535 * 4096),
            (1 << 20, 256, 4096, ALL & !max_pages, 32 * 4096),
        ] {
            let offer = Offer { pages_limit: limit, page_bytes: page, features, ..offer() };
            let negotiated = accept(&offer, &Wish { request_bytes_max: wanted, ..wish() });
            assert_eq!(negotiated.request_bytes_max, expected, "{wanted} {limit} {page}");
            assert!(negotiated.request_buffer_bytes() >= 8192);
        }
    }

    #[test]
    fn flags_beyond_32_bits_need_the_extension() {
        let features = ALL & !FsOptions::INIT_EXT.bits();
        let out = accept(&Offer { features, ..offer() }, &wish()).init_out();
        assert_eq!(out.flags2, 0);
        assert_eq!(out.flags & (1 << 30), 0);
    }

    #[test]
    fn rings_are_agreed_on_if_both_sides_want_them() {
        for (offered, wished, agreed) in [
            (ALL, TransportKind::Ring, TransportKind::Ring),
            (ALL, TransportKind::Device, TransportKind::Device),
            (ALL & !OVER_IO_URING, TransportKind::Ring, TransportKind::Device),
            (ALL & !FsOptions::INIT_EXT.bits(), TransportKind::Ring, TransportKind::Device),
        ] {
            let offer = Offer { features: offered, ..offer() };
            let negotiated = accept(&offer, &Wish { transport: wished, ..wish() });
            assert_eq!(negotiated.transport(), agreed, "{offered:x} {wished:?}");
            assert_eq!(negotiated.ring_payload_bytes(), 1 << 20);
        }
        let wish = Wish { request_bytes_max: 4096, ..wish() };
        assert_eq!(accept(&offer(), &wish).ring_payload_bytes(), 8192);
    }

    #[test]
    fn readdirplus_follows_the_wish() {
        for (wanted, names) in [
            (ReadDirPlus::Off, vec![]),
            (ReadDirPlus::Auto, vec!["readdirplus", "readdirplus_auto"]),
            (ReadDirPlus::Always, vec!["readdirplus"]),
        ] {
            let negotiated = accept(&offer(), &Wish { readdirplus: wanted, ..wish() });
            let got: Vec<_> =
                negotiated.features().filter(|name| name.starts_with("readdir")).collect();
            assert_eq!(got, names);
        }
        let wish = Wish { max_background: 10, ..wish() };
        assert_eq!(accept(&offer(), &wish).congestion_threshold, 10);
    }

    #[test]
    fn passthrough_is_agreed_only_if_it_is_wished_and_offered() {
        for (wished, features, agreed) in
            [(true, ALL, true), (false, ALL, false), (true, ALL & !PASSTHROUGH, false)]
        {
            let offer = Offer { features, ..offer() };
            let negotiated = accept(&offer, &Wish { passthrough: wished, ..wish() });
            assert_eq!(negotiated.has_passthrough(), agreed, "{wished} {features:x}");
            assert_eq!(negotiated.init_out().unused[0], u32::from(agreed));
        }
    }

    #[test]
    fn an_offer_is_read_with_and_without_its_extension() {
        let header = InHeader { opcode: Opcode::Init as u32, unique: 2, ..InHeader::default() };
        let init = InitIn { major: 7, minor: 45, max_readahead: 0, flags: 1 << 30 | 1 };
        let more = InitIn2 { flags2: 1 << 4, ..InitIn2::default() };
        let long = [header.as_slice(), init.as_slice(), more.as_slice()].concat();
        let (unique, offer) = parse_offer(&long, 256, 4096).unwrap();
        assert_eq!((unique, offer.features), (2, 1 << 36 | 1 << 30 | 1));
        let short = [header.as_slice(), init.as_slice()].concat();
        assert_eq!(parse_offer(&short, 256, 4096).unwrap().1.features, 1 << 30 | 1);
        assert!(parse_offer(&short[..50], 256, 4096).is_none());
        let other = InHeader { opcode: Opcode::Lookup as u32, ..header };
        assert!(parse_offer(&[other.as_slice(), init.as_slice()].concat(), 256, 4096).is_none());
    }
}
