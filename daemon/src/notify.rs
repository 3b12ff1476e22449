//! What the daemon tells systemd: ready, reloading, stopping, alive.
//!
//! Without `NOTIFY_SOCKET` in the environment every call does nothing, so callers never ask whether
//! systemd is there. A message that cannot be sent is logged, not an error: the daemon serves
//! whether or not its supervisor hears.

use futures_util::future::join_all;
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::cores::CoreHandle;

/// The mounts answer. `status` is one line for `systemctl status`.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd of the reload"),
    }
}

/// The daemon ends; what it waits for then is bounded by `daemon.shutdown_timeout`.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
}

/// Tells systemd that the daemon is alive, twice in each watchdog interval, as long as every core
/// answers. Ends at once if systemd expects no such signs. Runs on a tokio runtime with a timer. A
/// core that hangs keeps the sign from being sent, which is its purpose.
pub async fn watchdog(cores: Vec<CoreHandle>) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        if all_answer(&cores).await {
            send(&[NotifyState::Watchdog]);
        }
    }
}

/// Waits until every core has run a task; false if one has stopped.
async fn all_answer(cores: &[CoreHandle]) -> bool {
    let answers = cores.iter().map(|core| {
        let (sender, answer) = oneshot::channel();
        core.spawn(move |_| {
            Box::pin(async move {
                // Nobody waits any more when the daemon is on its way out.
                sender.send(()).ok();
            })
        });
        answer
    });
    join_all(answers).await.iter().all(Result::is_ok)
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
