//! How fast the lab is, and how well it keeps to a shape.
//!
//! `cargo run --release -p tenderfs-lab --example lab_throughput [seconds per run] [runs] [part of a name]`
//!
//! Eight raw sockets on two threads ask signed GETs and throw the bytes away in the kernel (`MSG_TRUNC`), so that the
//! client costs as little as it can; one line of each run also copies them, as a client that uses the
//! bytes does. CPU time is that of the lab's own threads, from `schedstat`. The best of the runs is
//! printed for speed, all of them for shape. The last line of speed is the reference: the same requests to
//! a server that reads no further than their end and answers each with the same bytes, which is what
//! sockets and runtime cost.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::future::try_join_all;
use nix::sys::socket::{MsgFlags, recv};
use rusty_s3::actions::{ListObjectsV2, ListObjectsV2Response};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tenderfs_lab::{Content, Lab, Shape};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use url::Url;

type Failure = Box<dyn Error + Send + Sync>;

const CONNECTIONS: u64 = 8;
/// Threads that the clients share, as a client that uses the machine well does.
const CLIENT_THREADS: usize = 2;
const LARGE_BYTES: u64 = 8 << 20;
const SMALL_BYTES: u64 = 100 << 10;
const SMALL_OBJECTS: u64 = 1000;
/// What the names of the reference's threads begin with.
const BARE: &str = "bare-server";

/// What the clients do with the bytes.
#[derive(Clone, Copy, PartialEq)]
enum Bytes {
    Discarded,
    Copied,
}

/// One measurement.
#[derive(Clone, Copy)]
struct Measured {
    gets_per_second: f64,
    gigabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
}

/// A request, ready to be written, and the length of its body.
struct Ask {
    request: Vec<u8>,
    body_bytes: u64,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let runs: u32 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let run = Duration::from_secs_f64(seconds);
    let only = arguments.next().unwrap_or_default();

    let lab = Lab::builder().threads(2).start()?;
    lab.create_bucket("bench")?;
    lab.put("bench", "seeded", Content::seeded(1, 1 << 30))?;
    lab.put("bench", "bytes", Content::seeded(2, 256 << 20).read(0, 256 << 20))?;
    for number in 0..SMALL_OBJECTS {
        lab.put("bench", &format!("small/{number:04}"), Content::seeded(number, SMALL_BYTES))?;
    }
    println!("{CONNECTIONS} connections, {runs} runs of {seconds} s, best run of each:");
    let seeded = ranges(&lab, "seeded", 1 << 30)?;
    let bytes = ranges(&lab, "bytes", 256 << 20)?;
    let small = (0..SMALL_OBJECTS)
        .map(|number| ask(&lab, &format!("small/{number:04}"), None, SMALL_BYTES))
        .collect::<Result<Vec<Ask>, Failure>>()?;
    let loads = [
        ("8 MiB ranges, seeded object", &seeded, Bytes::Discarded),
        ("8 MiB ranges, object in memory", &bytes, Bytes::Discarded),
        ("8 MiB ranges, seeded, copied by the client", &seeded, Bytes::Copied),
        ("100 KiB objects", &small, Bytes::Discarded),
        ("100 KiB objects, copied by the client", &small, Bytes::Copied),
    ];
    for (name, asks, client) in loads.into_iter().filter(|(name, ..)| name.contains(&only)) {
        let results = (0..runs)
            .map(|_| measure(lab.address(), "tenderfs-lab", asks, client, run))
            .collect::<Result<Vec<Measured>, Failure>>()?;
        print_best(name, results);
    }
    if "100 KiB objects, from a bare server".contains(&only) {
        let address = bare_server()?;
        let results = (0..runs)
            .map(|_| measure(address, BARE, &small, Bytes::Discarded, run))
            .collect::<Result<Vec<Measured>, Failure>>()?;
        print_best("100 KiB objects, from a bare server", results);
    }
    if "list".contains(&only) {
        list(&lab)?;
    }
    shaped(&lab, [("8 MiB", &seeded), ("100 KiB", &small)], (runs, run), &only)
}

/// How well the lab keeps to each shape.
fn shaped(
    lab: &Lab,
    loads: [(&str, &Vec<Ask>); 2],
    (runs, run): (u32, Duration),
    only: &str,
) -> Result<(), Failure> {
    println!("shaped, asked and measured:");
    let shapes = [
        ("total 1 GB/s", Shape { total_bytes_per_second: Some(1_000_000_000), ..Shape::default() }),
        ("total 2 GB/s", Shape { total_bytes_per_second: Some(2_000_000_000), ..Shape::default() }),
        (
            "8 x 90 MB/s",
            Shape { connection_bytes_per_second: Some(90_000_000), ..Shape::default() },
        ),
        (
            "8 x 150 MB/s",
            Shape { connection_bytes_per_second: Some(150_000_000), ..Shape::default() },
        ),
    ];
    for (name, shape) in shapes.into_iter().filter(|(name, ..)| name.contains(only)) {
        lab.shape(shape);
        let asked = shape
            .total_bytes_per_second
            .unwrap_or_else(|| CONNECTIONS * shape.connection_bytes_per_second.unwrap_or(0));
        for (load, asks) in loads {
            let rates = (0..runs)
                .map(|_| {
                    let measured =
                        measure(lab.address(), "tenderfs-lab", asks, Bytes::Discarded, run)?;
                    Ok(measured.gigabytes_per_second)
                })
                .collect::<Result<Vec<f64>, Failure>>()?;
            let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.3}")).collect();
            #[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
            let asked = asked as f64 / 1e9;
            println!("  {name:14} {load:8} {asked:.3} GB/s: {}", rates.join(" "));
        }
    }
    Ok(())
}

fn print_best(name: &str, results: Vec<Measured>) {
    let best = results.into_iter().max_by(|a, b| a.gets_per_second.total_cmp(&b.gets_per_second));
    if let Some(best) = best {
        println!(
            "  {name:44} {:6.2} GB/s {:8.0} GETs/s {:.3} CPU s/GB",
            best.gigabytes_per_second, best.gets_per_second, best.cpu_seconds_per_gigabyte
        );
    }
}

/// Starts the reference on as many threads as the lab has, until the process ends.
fn bare_server() -> Result<SocketAddr, Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    for number in 0..2 {
        let listener = listener.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let accept = async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                spawn_local(async move { drop(answer(stream).await) });
            }
        };
        let work = move || LocalSet::new().block_on(&runtime, accept);
        std::thread::Builder::new()
            .name(format!("{BARE}-{number}"))
            .spawn(move || -> io::Result<()> { work() })?;
    }
    Ok(address)
}

/// Answers each request with the same bytes.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SMALL_BYTES}\r\n\r\n");
    // As far apart in memory as the lab's own small objects.
    let pool = Content::seeded(3, SMALL_OBJECTS * SMALL_BYTES);
    let mut starts = (0..SMALL_OBJECTS).map(|number| number * SMALL_BYTES).cycle();
    let mut request = Vec::with_capacity(4096);
    while stream.read_buf(&mut request).await? > 0 {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        request.clear();
        let start = starts.next().unwrap_or(0);
        let body = pool.read(start, start + SMALL_BYTES);
        let mut answer = Buf::chain(head.as_bytes(), body);
        stream.write_all_buf(&mut answer).await?;
    }
    Ok(())
}

/// Lists a million keys, by pages and by groups.
fn list(lab: &Lab) -> Result<(), Failure> {
    lab.create_bucket("keys")?;
    for number in 0..1_000_000 {
        let key = format!("group-{:03}/{number:07}", number % 1000);
        lab.put("keys", &key, Content::seeded(number, 1))?;
    }
    for (name, delimiter) in [("pages of 1000 keys", None), ("1000 groups of 1000 keys", Some("/"))]
    {
        let bucket = bucket(lab, "keys")?;
        let credentials = Credentials::new(lab.access_key(), lab.secret_key());
        let mut token = None;
        let (mut pages, mut entries) = (0, 0);
        let begin = Instant::now();
        loop {
            let mut action = bucket.list_objects_v2(Some(&credentials));
            if let Some(delimiter) = delimiter {
                action.with_delimiter(delimiter);
            }
            if let Some(token) = token {
                action.with_continuation_token(token);
            }
            let page = list_page(lab, &action.sign(Duration::from_hours(1)))?;
            pages += 1;
            entries += page.contents.len() + page.common_prefixes.len();
            token = page.next_continuation_token;
            if token.is_none() {
                break;
            }
        }
        let elapsed = begin.elapsed().as_secs_f64();
        println!("  a million keys, {name}: {entries} entries in {pages} pages, {elapsed:.3} s");
    }
    Ok(())
}

fn bucket(lab: &Lab, name: &str) -> Result<Bucket, Failure> {
    let (name, region) = (name.to_owned(), lab.region().to_owned());
    Ok(Bucket::new(lab.endpoint().parse()?, UrlStyle::Path, name, region)?)
}

/// A request for each 8 MiB of the object.
fn ranges(lab: &Lab, key: &str, size_bytes: u64) -> Result<Vec<Ask>, Failure> {
    let starts = (0..size_bytes).step_by(usize::try_from(LARGE_BYTES)?);
    starts.map(|start| ask(lab, key, Some(start), LARGE_BYTES)).collect()
}

fn ask(lab: &Lab, key: &str, start: Option<u64>, body_bytes: u64) -> Result<Ask, Failure> {
    let bucket = bucket(lab, "bench")?;
    let credentials = Credentials::new(lab.access_key(), lab.secret_key());
    let url = bucket.get_object(Some(&credentials), key).sign(Duration::from_hours(1));
    let range = start.map_or(String::new(), |start| {
        format!("Range: bytes={start}-{}\r\n", start + body_bytes - 1)
    });
    let query = url.query().unwrap_or("");
    let request =
        format!("GET {}?{query} HTTP/1.1\r\nHost: {}\r\n{range}\r\n", url.path(), lab.address());
    Ok(Ask { request: request.into_bytes(), body_bytes })
}

fn measure(
    server: SocketAddr,
    threads: &str,
    asks: &[Ask],
    client: Bytes,
    run: Duration,
) -> Result<Measured, Failure> {
    let (gets, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let cpu_before = cpu_of(threads)?;
    let begin = Instant::now();
    let repeat = async |number: u64| {
        let from = usize::try_from(number)? * asks.len() / usize::try_from(CONNECTIONS)?;
        let mut connection = Connection::open(server).await?;
        for ask in asks.iter().cycle().skip(from) {
            if begin.elapsed() >= run {
                break;
            }
            connection.get(ask, client).await?;
            gets.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(ask.body_bytes, Ordering::Relaxed);
        }
        Ok::<(), Failure>(())
    };
    std::thread::scope(|scope| {
        let work = |thread: u64| {
            let connections = (thread..CONNECTIONS).step_by(CLIENT_THREADS);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(try_join_all(connections.map(&repeat)))?;
            Ok::<(), Failure>(())
        };
        let clients: Vec<_> =
            (0..CLIENT_THREADS as u64).map(|thread| scope.spawn(move || work(thread))).collect();
        clients.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a client panicked")?)
    })?;
    let elapsed = begin.elapsed().as_secs_f64();
    let cpu = cpu_of(threads)? - cpu_before;
    #[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
    let (gets, gigabytes) = (gets.into_inner() as f64, bytes.into_inner() as f64 / 1e9);
    Ok(Measured {
        gets_per_second: gets / elapsed,
        gigabytes_per_second: gigabytes / elapsed,
        cpu_seconds_per_gigabyte: cpu / gigabytes,
    })
}

/// CPU seconds so far of the threads whose names begin so.
fn cpu_of(threads: &str) -> Result<f64, Failure> {
    let mut nanoseconds = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A client's thread may end meanwhile.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        if name.starts_with(threads) {
            let schedstat = fs::read_to_string(task.join("schedstat"))?;
            nanoseconds += schedstat.split(' ').next().unwrap_or("").parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// A client's connection.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 1 << 20] })
    }

    async fn get(&mut self, ask: &Ask, client: Bytes) -> Result<(), Failure> {
        self.stream.write_all(&ask.request).await?;
        let mut head = 0;
        // The head is copied, with what comes of the body in the same segment.
        let mut left = loop {
            head += self.receive(head..head + 4096, MsgFlags::empty()).await?;
            let end = self.buffer[..head].windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                if !self.buffer.starts_with(b"HTTP/1.1 20") {
                    return Err(String::from_utf8_lossy(&self.buffer[..head]).into());
                }
                break ask.body_bytes - u64::try_from(head - end - 4)?;
            }
        };
        let flags = match client {
            Bytes::Discarded => MsgFlags::MSG_TRUNC,
            Bytes::Copied => MsgFlags::empty(),
        };
        while left > 0 {
            let len = usize::try_from(left)?.min(self.buffer.len());
            left -= u64::try_from(self.receive(0..len, flags).await?)?;
        }
        Ok(())
    }

    /// Receives some bytes into that part of the buffer.
    async fn receive(&mut self, part: Range<usize>, flags: MsgFlags) -> Result<usize, Failure> {
        let (fd, room) = (self.stream.as_raw_fd(), &mut self.buffer[part]);
        let receive = || recv(fd, room, flags).map_err(io::Error::from);
        match self.stream.async_io(Interest::READABLE, receive).await? {
            0 => Err("the server closed the connection".into()),
            read => Ok(read),
        }
    }
}

/// A listing, on a connection of its own.
fn list_page(lab: &Lab, url: &Url) -> Result<ListObjectsV2Response, Failure> {
    let (path, query, host) = (url.path(), url.query().unwrap_or(""), lab.address());
    let mut stream = std::net::TcpStream::connect(host)?;
    write!(stream, "GET {path}?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
    ListObjectsV2::parse_response(body).map_err(|_| answer.clone().into())
}
