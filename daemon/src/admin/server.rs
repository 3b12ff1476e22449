//! HTTP on what was bound: few connections, short headers, short patience.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use super::listen::Bound;
use super::{Shared, routes};

/// Connections at one time on each of socket and port; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Time for a request's head, from the end of the request before.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// Pause after a connection could not be accepted, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves both until dropped.
pub(super) async fn serve(bound: Bound, shared: Shared) {
    if let Some(address) = bound.metrics_address() {
        info!(%address, "serving metrics");
    }
    let all = routes::all(shared.clone(), BODY_BYTES_MAX);
    let metrics = routes::metrics_only(shared);
    tokio::join!(serve_socket(&bound, all), serve_port(&bound, metrics));
}

async fn serve_socket(bound: &Bound, router: Router) -> Infallible {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.ok();
        match bound.socket.accept().await {
            Ok((stream, _)) if is_allowed(&stream) => answer(stream, router.clone(), slot),
            Ok(_) => {}
            Err(error) => pause(&error).await,
        }
    }
}

async fn serve_port(bound: &Bound, router: Router) {
    let Some(port) = &bound.port else { return };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.ok();
        match port.accept().await {
            Ok((stream, _)) => answer(stream, router.clone(), slot),
            Err(error) => pause(&error).await,
        }
    }
}

/// Whether the user at the other end is the daemon's own or root. The socket's mode says the same;
/// this holds even where the mode was changed.
fn is_allowed(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) => {
            let allowed = peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw();
            if !allowed {
                warn!(uid = peer.uid(), "turned away a user from the admin socket");
            }
            allowed
        }
        Err(error) => {
            warn!(%error, "turned away a connection to the admin socket without credentials");
            false
        }
    }
}

/// Answers the requests of one connection in a task of its own, which holds its slot.
fn answer<S>(stream: S, router: Router, slot: Option<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to the admin API ended early");
        }
        drop(slot);
    });
}

async fn pause(error: &std::io::Error) {
    warn!(%error, "cannot accept a connection to the admin API");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
