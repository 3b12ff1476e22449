//! Ctrl-C and termination as a question that work asks between its steps.
//!
//! Invariant: a signal never ends the process by itself. Whoever works sees [`Interrupt::raised`] and returns, and what
//! was set up is taken down by its owners on the way out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the user wants to stop. Clones ask about the same signals.
#[derive(Debug, Clone)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    changed: watch::Receiver<bool>,
}

impl Interrupt {
    /// Watches for SIGINT, SIGTERM and SIGHUP from now on, on a thread of its own.
    pub fn watch() -> io::Result<Interrupt> {
        let raised = Arc::new(AtomicBool::new(false));
        let (change, changed) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _context = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?
        };
        let raise = Arc::clone(&raised);
        thread::Builder::new().name("tenderfs-signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    futures_util::future::select_all(
                        signals.iter_mut().map(|signal| Box::pin(signal.recv())),
                    )
                    .await;
                    raise.store(true, Ordering::Relaxed);
                    change.send_replace(true);
                }
            });
        })?;
        Ok(Interrupt { raised, changed })
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Returns once a signal has come.
    pub async fn wait(&self) {
        let mut changed = self.changed.clone();
        if changed.wait_for(|raised| *raised).await.is_err() {
            // The watching thread never ends; without it there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_is_seen_and_does_not_end_the_process() {
        let interrupt = Interrupt::watch().unwrap();
        assert!(!interrupt.raised());
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(interrupt.wait());
        assert!(interrupt.raised());
    }
}
