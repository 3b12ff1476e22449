//! A timer that is right to tens of microseconds; the runtime's own is to a millisecond.

mod descriptor;

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use self::descriptor::Descriptor;

/// A timer that can be set again and again. It holds a descriptor from the first time on.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    descriptor: Option<AsyncFd<Descriptor>>,
    set: bool,
}

impl Timer {
    /// Whether it was set and has not fired.
    pub(crate) fn is_set(&self) -> bool {
        self.set
    }

    /// Sets it to fire after this time, in place of what it was set to.
    pub(crate) fn set(&mut self, after: Duration) -> io::Result<()> {
        let descriptor = match self.descriptor.take() {
            Some(descriptor) => descriptor,
            None => Descriptor::register()?,
        };
        // A time of zero would stop it.
        let after = TimeSpec::from_duration(after.max(Duration::from_nanos(1)));
        descriptor.get_ref().timer().set(Expiration::OneShot(after), TimerSetTimeFlags::empty())?;
        self.descriptor = Some(descriptor);
        self.set = true;
        Ok(())
    }

    /// Waits until it has fired; at once if it is not set.
    pub(crate) fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(descriptor) = self.descriptor.as_ref().filter(|_| self.set) else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let mut ready = ready!(descriptor.poll_read_ready(cx))?;
            // Not ready after all: what it was set to before had fired.
            if let Ok(fired) = ready.try_io(|descriptor| Ok(descriptor.get_ref().timer().wait()?)) {
                self.set = false;
                return Poll::Ready(fired);
            }
        }
    }
}

/// Waits this long: never less, and as little more as the machine allows.
pub(crate) async fn sleep(time: Duration) {
    let mut timer = Timer::default();
    let precise = !time.is_zero() && timer.set(time).is_ok();
    if precise && poll_fn(|cx| timer.poll_fired(cx)).await.is_ok() {
        return;
    }
    // Out of descriptors: a millisecond more is better than an error.
    tokio::time::sleep(time).await;
}
