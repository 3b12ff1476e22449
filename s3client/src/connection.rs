//! One HTTP/1.1 connection, driven by whoever waits for its answer.
//!
//! Where the length of a body is known, hyper is taken off its connection once the head has come, and
//! the bytes are read from the socket into the memory of whoever wants them; the next request puts
//! a new hyper on it. That spares a copy of every byte.
//!
//! hyper splits a connection into a sender, a body and a driver that must be polled for the other
//! two to move. Usually the driver is a task of its own; here the waiting future polls it itself.
//! That spares a task switch for every chunk of a body, stops reading when nobody waits, and leaves
//! nothing running when a future is dropped.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::addressing::Place;
use crate::bucket::Bucket;
use crate::error::Error;
use crate::proxies::Proxy;
use crate::signing::NoBody;

/// Bytes that hyper reads from the socket at once: a head, and what comes with it.
const READ_BYTES: usize = 64 << 10;
/// Largest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Largest head of a proxy's answer.
const PROXY_HEAD_BYTES_MAX: usize = 8 << 10;
/// Bytes of a body that are read from the socket at once: they are still in the processor's cache when
/// their checksum is computed.
const BODY_READ_BYTES: usize = 256 << 10;

/// A connection to the store.
pub(crate) struct Connection {
    state: State,
    /// Whether an answer has already come by it.
    used: bool,
    /// Whether any byte has come since the last request.
    heard: Rc<Cell<bool>>,
    bucket: Arc<Bucket>,
}

/// Who reads from the socket.
enum State {
    /// hyper.
    Http(Http),
    /// Whoever wants the body.
    Bare(Stream),
    /// Nobody any more.
    Ended,
}

/// A connection in the hands of hyper.
struct Http {
    sender: http1::SendRequest<NoBody>,
    /// `None` once the connection has ended.
    driver: Option<Box<Driver>>,
}

type Driver = http1::Connection<TokioIo<Stream>, NoBody>;

impl Connection {
    /// Connects to `place`, or to the proxy that leads there, at one of `addresses`, in that order.
    pub(crate) async fn open(
        bucket: &Arc<Bucket>,
        place: &Place,
        addresses: &[SocketAddr],
    ) -> Result<Self, Error> {
        let proxy = place.proxy();
        let unreachable = |source| Error::Unreachable {
            endpoint: match proxy {
                Some(proxy) => format!("{} (by the proxy {})", place.label(), proxy.label()),
                None => place.label(),
            },
            source,
        };
        let mut socket =
            tcp(addresses, bucket.config().deadlines.connect).await.map_err(unreachable)?;
        if let Some(proxy) = proxy.filter(|_| place.encrypted()) {
            tunnel(&mut socket, place, proxy).await.map_err(unreachable)?;
        }
        let transport = match bucket.tls().filter(|_| place.encrypted()) {
            None => Transport::Plain(socket),
            Some(config) => {
                let name = server_name(place).map_err(unreachable)?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, socket).await;
                Transport::Tls(Box::new(stream.map_err(|error| tls_error(place, error))?))
            }
        };
        let heard = Rc::new(Cell::new(false));
        let stream = Stream { transport, heard: Rc::clone(&heard) };
        bucket.counters().connections_opened.inc();
        bucket.counters().connections_open.add(1);
        Ok(Self { state: State::Bare(stream), used: false, heard, bucket: Arc::clone(bucket) })
    }

    /// The bucket it leads to.
    pub(crate) fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Whether a request that just failed found the connection dead: it had served before, and no
    /// byte of an answer came.
    pub(crate) fn was_stale(&self) -> bool {
        self.used && !self.heard.get()
    }

    /// Whether the connection looks alive, after looking.
    pub(crate) async fn is_alive(&mut self) -> bool {
        poll_fn(|cx| {
            Poll::Ready(match &mut self.state {
                State::Http(http) => {
                    http.drive(cx);
                    http.driver.is_some() && !http.sender.is_closed()
                }
                // Neither an end nor bytes that nobody asked for.
                State::Bare(stream) => {
                    let mut byte = [0];
                    Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
                }
                State::Ended => false,
            })
        })
        .await
    }

    /// Sends `request` and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<NoBody>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let http = self.http().await?;
        poll_fn(|cx| {
            http.drive(cx);
            http.sender.poll_ready(cx)
        })
        .await?;
        let mut answer = Box::pin(http.sender.send_request(request));
        self.heard.set(false);
        let State::Http(http) = &mut self.state else { unreachable!("it was put there above") };
        let answer = poll_fn(|cx| {
            http.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await?;
        self.used = true;
        Ok(answer)
    }

    /// The connection in the hands of hyper, for a request.
    async fn http(&mut self) -> Result<&mut Http, hyper::Error> {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Bare(stream) => {
                let mut builder = http1::Builder::new();
                builder.max_header_size(HEAD_BYTES_MAX).read_buf_exact_size(Some(READ_BYTES));
                let (sender, driver) = builder.handshake(TokioIo::new(stream)).await?;
                State::Http(Http { sender, driver: Some(Box::new(driver)) })
            }
            other => other,
        };
        match &mut self.state {
            State::Http(http) => Ok(http),
            State::Bare(_) | State::Ended => unreachable!("an ended connection is not kept"),
        }
    }

    /// Waits for the next frame of `body`.
    pub(crate) async fn frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| {
            if let State::Http(http) = &mut self.state {
                http.drive(cx);
            }
            Pin::new(&mut *body).poll_frame(cx)
        })
        .await
    }

    /// Takes hyper off the connection, whose answer has a body of known length that is not framed;
    /// returns the first bytes of the body, which hyper had read already. `None` if the connection has
    /// ended: then they all come by [`Connection::frame`].
    pub(crate) fn take_over(&mut self, body: &mut Incoming) -> Option<Vec<Bytes>> {
        let State::Http(http) = &mut self.state else { return None };
        let parts = http.driver.take()?.into_parts();
        self.state = State::Bare(parts.io.into_inner());
        let mut early = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) {
            early.extend(frame.into_data());
        }
        early.push(parts.read_buf);
        early.retain(|bytes| !bytes.is_empty());
        Some(early)
    }

    /// Reads from the socket, for who has taken it over; 0 is the end of the connection.
    pub(crate) async fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let State::Bare(stream) = &mut self.state else { return Ok(0) };
        let most = room.len().min(BODY_READ_BYTES);
        let mut buffer = ReadBuf::new(&mut room[..most]);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await?;
        Ok(buffer.filled().len())
    }
}

/// Has `proxy` connect `socket` to `place` (RFC 9110, 9.3.6).
async fn tunnel(socket: &mut TcpStream, place: &Place, proxy: &Proxy) -> io::Result<()> {
    let host = match place.host_or_address() {
        url::Host::Ipv6(address) => format!("[{address}]:{}", place.port()),
        host => format!("{host}:{}", place.port()),
    };
    let mut request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    socket.write_all(&request).await?;
    let mut head = Vec::new();
    // Byte by byte, for what follows the head is the store's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_BYTES_MAX {
            return Err(io::Error::other("the proxy's answer to CONNECT has no end"));
        }
        head.push(socket.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).unwrap_or_default();
    if !line.starts_with("HTTP/1.") || !status.starts_with('2') || status.len() != 3 {
        return Err(io::Error::other(format!("the proxy refuses to connect: {line:?}")));
    }
    Ok(())
}

impl Http {
    /// Moves the connection on; afterwards it may have ended.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            // How it ended is told to whoever waits for an answer or a body.
            self.driver = None;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.bucket.counters().connections_open.add(-1);
    }
}

/// A socket to the first of `addresses` that answers.
async fn tcp(addresses: &[SocketAddr], deadline: Duration) -> io::Result<TcpStream> {
    // One dead address among several must not use up the time of the others.
    let share = deadline / u32::try_from(addresses.len().clamp(1, 3)).unwrap_or(1);
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Without it, every small request waits for the acknowledgement of the one before.
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(failure)
}

/// The name that the store's certificate must be for.
fn server_name(place: &Place) -> io::Result<ServerName<'static>> {
    match place.host() {
        Err(address) => Ok(ServerName::IpAddress(address.into())),
        Ok(name) => ServerName::try_from(name.to_owned()).map_err(io::Error::other),
    }
}

/// A handshake that failed: by TLS itself, or because the connection did.
fn tls_error(place: &Place, source: io::Error) -> Error {
    let endpoint = place.label();
    let cause = source.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    if cause.is_some() {
        Error::Tls { endpoint, source }
    } else {
        Error::Unreachable { endpoint, source }
    }
}

/// Bytes to and from the store.
struct Stream {
    transport: Transport,
    heard: Rc<Cell<bool>>,
}

/// How they are carried.
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { transport, heard } = self.get_mut();
        let before = buffer.filled().len();
        let read = match transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            heard.set(true);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
