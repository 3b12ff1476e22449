//! Waiting for what only polling can see: another process's files, mounts and counters.

use std::time::{Duration, Instant};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `look` finds something and returns it.
///
/// # Panics
///
/// After `limit`, naming `what` was waited for.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        pause();
    }
}

/// Lets other processes run before the next look.
#[allow(clippy::disallowed_methods, reason = "what is waited for sends no event to this process")]
pub(crate) fn pause() {
    std::thread::sleep(PAUSE);
}
