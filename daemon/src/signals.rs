//! SIGTERM, SIGINT and SIGHUP as events.
//!
//! The signals are blocked in every thread and taken by one that waits for nothing else, so no code
//! of ours ever runs inside a signal handler. Child processes start with an empty mask.

use std::sync::mpsc;

use nix::sys::signal::{SigSet, Signal};

use crate::run::Event;

/// Blocks the signals in this thread and those it will start, and starts the thread that turns
/// them into events. To be called before any other thread is started.
pub(crate) fn take(events: mpsc::Sender<Event>) -> std::io::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    std::thread::Builder::new().name("tenderfs-signal".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            let event = match signal {
                Signal::SIGHUP => Event::Reload,
                _ => Event::Terminate,
            };
            if events.send(event).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}
