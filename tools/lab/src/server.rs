//! Threads, sockets, connections.
//!
//! Each thread runs a current-thread runtime; a connection stays on the thread it was given to, by turns.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::control::{self, Control};
use crate::gate::Gate;
use crate::wire::{Line, Wire};

/// hyper hands over this much of a body at once if it comes in pieces.
const BUFFER_BYTES: usize = 2 << 20;

/// The threads of a lab. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// A connection and its number.
type Accepted = (std::net::TcpStream, u64);

impl Server {
    /// Serves `gate` on `listener` and `control` on its own, on `count` threads.
    pub(crate) fn start(
        gate: &Arc<Gate>,
        listener: TcpListener,
        control: (Arc<Control>, TcpListener),
        count: usize,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        control.1.set_nonblocking(true)?;
        let (stop, stopped) = watch::channel(false);
        let mut server = Self { stop, threads: Vec::new() };
        // Each entry is a descriptor, of which the process may open so many.
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let mut doors = Some((listener, senders, control));
        for (index, receiver) in receivers.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (gate, mut stopped) = (Arc::clone(gate), stopped.clone());
            let doors = doors.take();
            let work = move || {
                let tasks = LocalSet::new();
                let main = async move {
                    if let Some((listener, senders, (control, control_listener))) = doors {
                        spawn_local(accept(listener, senders));
                        spawn_local(control::serve(control, control_listener));
                    }
                    spawn_local(receive(receiver, gate));
                    // An error says that the server is gone, which stops as well.
                    drop(stopped.wait_for(|stop| *stop).await);
                };
                tasks.block_on(&runtime, main);
            };
            let name = format!("tenderfs-lab-{index}");
            server.threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

/// Accepts connections and gives them to the threads by turns.
async fn accept(listener: TcpListener, threads: Vec<mpsc::UnboundedSender<Accepted>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let number = Cell::new(0u64);
    each_connection(&listener, |stream| {
        let turn = number.replace(number.get() + 1);
        let thread = &threads[usize::try_from(turn).unwrap_or(0) % threads.len()];
        if let Ok(stream) = stream.into_std() {
            // A thread that is gone takes its connections with it.
            drop(thread.send((stream, turn)));
        }
    })
    .await;
}

/// Calls `handle` with every connection, for ever.
pub(crate) async fn each_connection(
    listener: &tokio::net::TcpListener,
    mut handle: impl FnMut(TcpStream),
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => handle(stream),
            // Out of descriptors: give the connections there are time to end.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn receive(mut connections: mpsc::UnboundedReceiver<Accepted>, gate: Arc<Gate>) {
    while let Some((stream, number)) = connections.recv().await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            spawn_local(serve(stream, number, Arc::clone(&gate)));
        }
    }
}

fn serve(stream: TcpStream, number: u64, gate: Arc<Gate>) -> impl Future<Output = ()> {
    let line = Rc::new(Line::default());
    // Without it every small answer waits 40 ms for an acknowledgement.
    drop(stream.set_nodelay(true));
    let wire = Wire::new(stream, Rc::clone(&line), Arc::clone(&gate.pace));
    let service = service_fn(move |request| {
        let (gate, line) = (Arc::clone(&gate), Rc::clone(&line));
        async move { gate.answer(line, number, request).await }
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER_BYTES);
    let connection = builder.serve_connection(wire, service);
    async move {
        // How a connection ended is in the ledger.
        drop(connection.await);
    }
}
