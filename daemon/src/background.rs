//! The thread for what may block or is slow: the admin API and the renewal of credentials.

use std::sync::Arc;
use std::thread::JoinHandle;

use tenderfs_s3client::Credentials;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tracing::warn;

use crate::run::{Daemon, DaemonError};
use crate::{admin, notify};

/// The running thread; [`Background::stop`] ends it.
pub(crate) struct Background {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Background {
    /// Binds the admin API and serves it, and keeps `credentials` fresh.
    pub(crate) fn start(
        daemon: &Arc<Daemon>,
        credentials: Vec<Credentials>,
    ) -> Result<Self, DaemonError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(DaemonError::Runtime)?;
        let bound = runtime.block_on(async { admin::bind(&daemon.settings.load().daemon) })?;
        let (stop, stopped) = oneshot::channel();
        let daemon = Arc::clone(daemon);
        let thread = std::thread::Builder::new()
            .name("tenderfs-admin".to_owned())
            .spawn(move || {
                let local = LocalSet::new();
                for credentials in credentials {
                    local.spawn_local(credentials.keep_fresh());
                }
                local.spawn_local(notify::watchdog(daemon.cores.clone()));
                local.spawn_local(admin::serve(bound, daemon));
                // An error only says that the sender is gone, which means the same.
                drop(local.block_on(&runtime, stopped));
            })
            .map_err(DaemonError::Runtime)?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread; requests under way are dropped.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the admin thread ended by a panic");
        }
    }
}
