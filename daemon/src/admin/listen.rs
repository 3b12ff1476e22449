//! Where the admin API listens: its socket, private and one daemon's only, and its port.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::config::DaemonSettings;

/// Why the admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A daemon answers on the socket.
    #[error(
        "another daemon serves {}: stop it, or give this one its own daemon.admin_socket",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has its name.
    #[error("{} is there and is no socket: remove it, or choose another daemon.admin_socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the admin socket {}: {source}; choose another daemon.admin_socket", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port cannot be listened on.
    #[error(
        "cannot listen on {address} for metrics: {source}; choose another daemon.metrics_listen"
    )]
    Port {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What is listened on. Dropping it removes the socket file.
pub struct Bound {
    pub(super) socket: UnixListener,
    pub(super) port: Option<TcpListener>,
    path: PathBuf,
}

impl Bound {
    /// The port for metrics, if one was asked for; its number is known even if 0 was configured.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.port.as_ref().and_then(|port| port.local_addr().ok())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

/// Binds the socket (0600, in a directory made with 0700) and the port. A socket that a dead daemon
/// left is replaced, a living daemon's is not. Must run on a tokio runtime.
pub fn bind(settings: &DaemonSettings) -> Result<Bound, AdminError> {
    let path = settings.admin_socket.clone();
    let port = settings.metrics_listen.map(bind_port).transpose()?;
    clear(&path)?;
    let socket =
        bind_socket(&path).map_err(|source| AdminError::Socket { path: path.clone(), source })?;
    Ok(Bound { socket, port, path })
}

/// Makes room for the socket: removes one that nobody answers on.
fn clear(path: &Path) -> Result<(), AdminError> {
    let error = |source| AdminError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(error(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(AdminError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(error)
        }
        Ok(_) => Err(AdminError::InUse { path: path.to_owned() }),
        Err(source) => Err(error(source)),
    }
}

fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let socket = UnixListener::bind(path)?;
    // Whoever connected before this line is turned away by the check of its user.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

fn bind_port(address: SocketAddr) -> Result<TcpListener, AdminError> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().map_err(|source| AdminError::Port { address, source })
}
