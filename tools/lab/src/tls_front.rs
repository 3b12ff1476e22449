//! TLS in front of the lab: what it says and hears is encrypted on another port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::lab::Lab;

/// A port by which a [`Lab`] is spoken to in TLS, with a certificate that nobody vouches for. It ends with
/// its drop.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    certificate: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TlsFront {
    /// Encrypts for `lab` on a free port of the loopback interface, as any of `names`.
    pub fn start(lab: &Lab, names: &[&str]) -> io::Result<Self> {
        let (config, certificate) = certified(names).map_err(io::Error::other)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, inside) = (listener.local_addr()?, lab.address());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("lab-tls".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    _ = serve(listener, TlsAcceptor::from(config), inside) => {}
                }
            });
        })?;
        Ok(Self { address, certificate, stop: Some(stop), thread: Some(thread) })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate as PEM, for whoever is to trust it.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            drop(thread.join());
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    acceptor: TlsAcceptor,
    inside: SocketAddr,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (outer, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            outer.set_nodelay(true)?;
            let mut outer = acceptor.accept(outer).await?;
            let mut inner = TcpStream::connect(inside).await?;
            inner.set_nodelay(true)?;
            tokio::io::copy_bidirectional_with_sizes(&mut outer, &mut inner, COPY_BYTES, COPY_BYTES)
                .await
        });
    }
}

/// Bytes that are copied at once.
const COPY_BYTES: usize = 256 << 10;

/// A server's side for `names`, and its certificate as PEM.
fn certified(
    names: &[&str],
) -> Result<(Arc<ServerConfig>, String), Box<dyn std::error::Error + Send + Sync>> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    Ok((Arc::new(config), cert.pem()))
}
