//! A timer's descriptor, registered with the runtime.
#![allow(unsafe_code, reason = "tokio trusts the caller that the descriptor stays open")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What tokio asks of a descriptor, which nix's timer is not itself.
#[derive(Debug)]
pub(super) struct Descriptor(TimerFd);

impl Descriptor {
    /// A new timer that is not set, registered for reading.
    pub(super) fn register() -> io::Result<AsyncFd<Self>> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let descriptor = Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        // SAFETY: `descriptor` owns its timer, which is open until `descriptor` is dropped by the
        // `AsyncFd`; the field is private and never replaced, so `as_raw_fd` stays the same.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(registered?)
    }

    pub(super) fn timer(&self) -> &TimerFd {
        &self.0
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
