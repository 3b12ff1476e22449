//! Compares ways to read requests from /dev/fuse on a tokio-uring runtime; the figures are in
//! docs/decisions/0002-reading-dev-fuse.md. Needs root.
//!
//! `cargo run --release -p tenderfs-fuse --example reading -- MODE CORES [SECONDS [PAUSE]]`, with MODE one
//! of `uring-read` (a READ on the core's ring), `epoll` (readiness by the runtime's epoll, then
//! read(2)), `channel` (the crate's `Channel`: readiness that wakes one core), `ring` (the crate's
//! `Channel` by FUSE over io_uring; the figures are in docs/decisions/0005-fuse-over-io-uring.md).
//! With a further argument each answer is given after that many microseconds of a timer, as if a disk
//! had to be waited for.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use fuse_backend_rs::abi::fuse_abi as abi;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};
use tenderfs_fuse::{
    Access, Attr, Channel, Entry, Errno, Fh, Ino, MountOptions, Op, OpenFlags, ReadDirPlus,
    Received, Reply, Request, Session, TransportKind, Unmount, Wish, unmount,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use vm_memory::ByteValued;

const FILE_BYTES: u64 = 64 << 30;
static WASTED: AtomicU64 = AtomicU64::new(0);
static PAUSE_US: AtomicU64 = AtomicU64::new(0);

fn main() {
    let args: Vec<String> = env::args().collect();
    let seconds = args.get(3).map_or(2, |text| text.parse().unwrap());
    match args.get(1).map(String::as_str) {
        Some("load") => load(Path::new(&args[2]), &args[4..], seconds),
        Some(mode) => {
            let pause_us = args.get(4).map_or(0, |text| text.parse().unwrap());
            PAUSE_US.store(pause_us, Ordering::Relaxed);
            serve(mode, args[2].parse().unwrap(), seconds);
        }
        None => println!("reading uring-read|epoll|channel|ring CORES [SECONDS [PAUSE]]"),
    }
}

fn serve(mode: &str, cores: usize, seconds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut session = Session::mount(&MountOptions {
        source: "reading".into(),
        mountpoint: dir.path().into(),
        read_only: true,
        access: Access::OwnerOnly,
    })
    .unwrap();
    let negotiated = session
        .negotiate(&Wish {
            request_bytes_max: 1 << 20,
            read_ahead_bytes: 1 << 20,
            max_background: 64,
            congestion_threshold: 48,
            readdirplus: ReadDirPlus::Auto,
            transport: if mode == "ring" { TransportKind::Ring } else { TransportKind::Device },
            passthrough: false,
        })
        .unwrap();
    session.set_read_ahead(1 << 20).unwrap();
    let threads: Vec<_> = (0..cores)
        .map(|core| {
            let (device, negotiated, mode) =
                (session.device().unwrap(), negotiated.clone(), mode.to_owned());
            thread::spawn(move || {
                pin_to(core);
                tokio_uring::start(async move {
                    match mode.as_str() {
                        "channel" | "ring" => by_channel(device.open(&negotiated).unwrap()).await,
                        "epoll" => by_epoll(device.as_fd().try_clone_to_owned().unwrap()).await,
                        _ => by_uring(device.as_fd().try_clone_to_owned().unwrap()).await,
                    }
                });
            })
        })
        .collect();
    for (pattern, readers, bytes) in [
        ("random", 1, 4096),
        ("random", 8, 4096),
        ("sequential", 1, 1 << 20),
        ("sequential", 8, 1 << 20),
        ("sequential", 1, 4 << 20),
        ("sequential", 8, 4 << 20),
        ("buffered", 1, 1 << 20),
        ("buffered", 8, 1 << 20),
        ("stat", 1, 0),
        ("stat", 8, 0),
        ("open", 1, 0),
        ("open", 8, 0),
    ] {
        measure(mode, cores, dir.path(), seconds, (pattern, readers, bytes));
    }
    unmount(dir.path(), Unmount::Lazy).unwrap();
    drop(session);
    if mode != "uring-read" {
        for thread in threads {
            thread.join().unwrap();
        }
    }
    process::exit(0);
}

/// As the daemon does.
fn pin_to(core: usize) {
    let processors = thread::available_parallelism().unwrap().get();
    let mut set = CpuSet::new();
    set.set(core % processors).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn measure(mode: &str, cores: usize, dir: &Path, seconds: u64, load: (&str, usize, usize)) {
    let before = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let wasted = WASTED.load(Ordering::Relaxed);
    let (pattern, readers, bytes) = load;
    let mut child = process::Command::new(env::current_exe().unwrap())
        .arg("load")
        .arg(dir.join("data"))
        .arg(seconds.to_string())
        .args([pattern, &readers.to_string(), &bytes.to_string()])
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    // A daemon thread that sleeps in the kernel's read stops its core: give up rather than hang.
    let deadline = Instant::now() + Duration::from_secs(seconds + 5);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            println!("{mode:10} cores {cores} {pattern:10} readers {readers} STUCK");
            unmount(dir, Unmount::Lazy).unwrap();
            process::exit(1);
        }
        #[allow(clippy::disallowed_methods, reason = "polling a child from a plain thread")]
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let after = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|word| word.parse::<f64>().unwrap());
    let mut next = || numbers.next().unwrap();
    let (ops, elapsed, p50_us, p99_us) = (next(), next(), next(), next());
    let cpu_us = |usage: &nix::sys::resource::Usage| {
        let (user, system) = (usage.user_time(), usage.system_time());
        (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()
    };
    #[allow(clippy::cast_precision_loss, reason = "printed figures")]
    let per_op = |count: i64| count as f64 / ops;
    #[allow(clippy::cast_precision_loss, reason = "printed figures")]
    let gb_per_s = ops * bytes as f64 / elapsed / 1e9;
    let switches = |usage: &nix::sys::resource::Usage| {
        usage.voluntary_context_switches() + usage.involuntary_context_switches()
    };
    println!(
        "{mode:10} cores {cores} {pattern:10} readers {readers} x {bytes:7}: {:8.0} ops/s {gb_per_s:6.2} GB/s p50 {p50_us:6.1} us p99 {p99_us:6.1} us, daemon {:5.1} us CPU/op, {:4.2} switches/op, {:4.2} empty reads/op",
        ops / elapsed,
        per_op(cpu_us(&after) - cpu_us(&before)),
        per_op(switches(&after) - switches(&before)),
        per_op((WASTED.load(Ordering::Relaxed) - wasted).cast_signed()),
    );
}

/// Names that are looked up for the first time, or one file opened and closed.
fn metadata(file: &Path, args: &[String], seconds: u64) {
    let readers: usize = args[1].parse().unwrap();
    let start = Instant::now();
    let threads: Vec<_> = (0..readers)
        .map(|reader| {
            let (file, stat) = (file.to_owned(), args[0] == "stat");
            thread::spawn(move || {
                let mut latencies = Vec::with_capacity(1 << 20);
                while start.elapsed() < Duration::from_secs(seconds) {
                    let name = format!("{}-{reader}-{}", process::id(), latencies.len());
                    let before = Instant::now();
                    if stat {
                        std::fs::metadata(file.with_file_name(name)).unwrap();
                    } else {
                        drop(std::fs::File::open(&file).unwrap());
                    }
                    latencies.push(before.elapsed());
                }
                latencies
            })
        })
        .collect();
    let latencies = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    report(latencies, start.elapsed());
}

fn report(mut latencies: Vec<Duration>, elapsed: Duration) {
    latencies.sort_unstable();
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_secs_f64() * 1e6;
    println!("{} {} {} {}", latencies.len(), elapsed.as_secs_f64(), at(50), at(99));
}

/// The readers, in a process of their own so that the daemon's CPU time is its own.
fn load(file: &Path, args: &[String], seconds: u64) {
    let readers: usize = args[1].parse().unwrap();
    let bytes: usize = args[2].parse().unwrap();
    if bytes == 0 {
        return metadata(file, args, seconds);
    }
    let direct = args[0] != "buffered";
    let pages = FILE_BYTES / u64::try_from(bytes).unwrap();
    let start = Instant::now();
    let threads: Vec<_> = (0..readers)
        .map(|reader| {
            let (file, random) = (file.to_owned(), args[0] == "random");
            thread::spawn(move || {
                let flags = if direct { libc::O_DIRECT } else { 0 };
                let file = OpenOptions::new().read(true).custom_flags(flags).open(file).unwrap();
                let mut space = vec![0_u8; bytes + 4096];
                let skip = space.as_ptr().align_offset(4096);
                let buffer = &mut space[skip..skip + bytes];
                let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::try_from(reader).unwrap();
                let mut page = u64::try_from(reader).unwrap() * pages / 64;
                let mut latencies = Vec::with_capacity(1 << 20);
                while start.elapsed() < Duration::from_secs(seconds) {
                    if random {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        page = state % pages;
                    } else {
                        page = (page + 1) % pages;
                    }
                    let before = Instant::now();
                    file.read_exact_at(buffer, page * u64::try_from(bytes).unwrap()).unwrap();
                    latencies.push(before.elapsed());
                }
                latencies
            })
        })
        .collect();
    let latencies = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    report(latencies, start.elapsed());
}

async fn pause() {
    let pause_us = PAUSE_US.load(Ordering::Relaxed);
    if pause_us > 0 {
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
    }
}

/// The way of the crate.
async fn by_channel(channel: Channel) {
    let data: Rc<[u8]> = vec![7; 1 << 20].into();
    while let Received::Request(request) = channel.receive().await.unwrap() {
        WASTED.store(channel.counters().empty_wakeups.get(), Ordering::Relaxed);
        let (channel, data) = (channel.clone(), Rc::clone(&data));
        tokio_uring::spawn(async move {
            pause().await;
            let attr = attr(request.ino);
            let slices;
            let reply = match request.op {
                Op::Lookup { .. } => Reply::Entry(&entry()),
                Op::GetAttr { .. } => Reply::Attr(&attr, Duration::from_mins(1)),
                Op::Open { .. } => Reply::Open { fh: Fh(1), flags: OpenFlags::NONE },
                Op::Read { size_bytes, .. } => {
                    slices = [IoSlice::new(&data[..usize::try_from(size_bytes).unwrap()])];
                    Reply::Data(&slices)
                }
                Op::Unknown { .. } => Reply::Error(Errno::ENOSYS),
                _ => Reply::Empty,
            };
            channel.send(request.unique, &reply).unwrap();
        });
    }
}

/// A READ on the core's ring, of a blocking descriptor: with `O_NONBLOCK` it would fail at once.
async fn by_uring(fd: OwnedFd) {
    let fd = Rc::new(fd);
    let file = tokio_uring::fs::File::from_std(fd.try_clone().unwrap().into());
    let data: Rc<[u8]> = vec![7; 1 << 20].into();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let (result, back) = file.read_at(buffer, 0).await;
        buffer = back;
        match result {
            Ok(length) => {
                let request = Request::decode(&buffer[..length]).unwrap();
                let (fd, data) = (Rc::clone(&fd), Rc::clone(&data));
                tokio_uring::spawn(async move {
                    pause().await;
                    raw_answer(&fd, &data, &request);
                });
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            Err(_) => {}
        }
    }
}

/// The descriptor in the runtime's epoll, which wakes every core for each request.
async fn by_epoll(fd: OwnedFd) {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let fd = Rc::new(fd);
    let interest = Interest::READABLE | Interest::ERROR;
    // SAFETY: `fd` is open for as long as this function runs.
    let registered = unsafe { AsyncFd::register_with_interest(fd.as_raw_fd(), interest) };
    let registered = registered.unwrap();
    let data: Rc<[u8]> = vec![7; 1 << 20].into();
    let mut buffer = vec![0_u8; 64 << 10];
    let mut woken = false;
    loop {
        match nix::unistd::read(&*fd, &mut buffer) {
            Ok(length) => {
                woken = false;
                let request = Request::decode(&buffer[..length]).unwrap();
                let (fd, data) = (Rc::clone(&fd), Rc::clone(&data));
                tokio_uring::spawn(async move {
                    pause().await;
                    raw_answer(&fd, &data, &request);
                });
                let mut yielded = false;
                std::future::poll_fn(|context| {
                    if yielded {
                        return std::task::Poll::Ready(());
                    }
                    yielded = true;
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            }
            Err(nix::errno::Errno::EAGAIN) => {
                if std::mem::replace(&mut woken, true) {
                    WASTED.fetch_add(1, Ordering::Relaxed);
                }
                registered.ready(interest).await.unwrap().clear_ready();
            }
            Err(nix::errno::Errno::ENODEV) => return,
            Err(_) => {}
        }
    }
}

fn raw_answer(fd: &OwnedFd, data: &[u8], request: &Request) {
    let (body, payload): (Vec<u8>, &[u8]) = match request.op {
        Op::Lookup { .. } => {
            let attr = raw_attr();
            (
                abi::EntryOut {
                    nodeid: 2,
                    entry_valid: 60,
                    attr_valid: 60,
                    attr,
                    ..Default::default()
                }
                .as_slice()
                .to_vec(),
                &[],
            )
        }
        Op::GetAttr { .. } => {
            let mut attr = raw_attr();
            if request.ino == Ino::ROOT {
                attr.mode = libc::S_IFDIR | 0o755;
            }
            (abi::AttrOut { attr_valid: 60, attr, ..Default::default() }.as_slice().to_vec(), &[])
        }
        Op::Open { .. } => (abi::OpenOut { fh: 1, ..Default::default() }.as_slice().to_vec(), &[]),
        Op::Read { size_bytes, .. } => (vec![], &data[..usize::try_from(size_bytes).unwrap()]),
        _ => (vec![], &[]),
    };
    if !request.op.wants_reply() {
        return;
    }
    let len = u32::try_from(16 + body.len() + payload.len()).unwrap();
    let header = abi::OutHeader { len, error: 0, unique: request.unique.0 };
    let slices = [header.as_slice(), &body, payload].map(IoSlice::new);
    assert!(nix::sys::uio::writev(fd, &slices).unwrap() > 0);
}

fn raw_attr() -> abi::Attr {
    abi::Attr {
        ino: 2,
        size: FILE_BYTES,
        mode: libc::S_IFREG | 0o444,
        nlink: 1,
        blksize: 4096,
        ..Default::default()
    }
}

fn attr(ino: Ino) -> Attr {
    let mode = if ino == Ino::ROOT { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o444 };
    Attr {
        ino,
        size_bytes: FILE_BYTES,
        blocks: 0,
        mtime: std::time::UNIX_EPOCH,
        mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        block_bytes: 4096,
    }
}

fn entry() -> Entry {
    let ttl = Duration::from_mins(1);
    Entry { ino: Ino(2), generation: 0, attr: attr(Ino(2)), entry_ttl: ttl, attr_ttl: ttl }
}
