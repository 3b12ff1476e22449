//! Ctrl-C and termination as a question asked between measurements, so that what was set up is taken down by its owners.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use super::error::CompareError;

/// Whether the user wants to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for SIGINT, SIGTERM and SIGHUP from now on, on a thread of its own.
    pub(crate) fn watch() -> io::Result<Interrupt> {
        let raised = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _context = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?
        };
        let raise = Arc::clone(&raised);
        thread::Builder::new().name("bench-signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let all = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
                    futures_util::future::select_all(all).await;
                    raise.store(true, Ordering::Relaxed);
                }
            });
        })?;
        Ok(Interrupt(raised))
    }

    /// An error once a signal has come.
    pub(crate) fn check(&self) -> Result<(), CompareError> {
        if self.0.load(Ordering::Relaxed) { Err(CompareError::Interrupted) } else { Ok(()) }
    }
}
