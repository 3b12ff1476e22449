//! Everything at once, for as long as one likes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tenderfs_lab::{Fault, FaultRule, Latency, Operation};
use tenderfs_tests::{File, Stage, eventually, md5_of_file};

use super::{MIB, impatient_stage};

const READERS: usize = 16;
/// A read that takes longer hangs: its request may take 5 s, and be one of several.
const READ_LIMIT: Duration = Duration::from_mins(1);
/// What each fault happens with.
const PROBABILITY: f64 = 0.05;

fn faults() -> Vec<Fault> {
    vec![
        Fault::slow_down(),
        Fault::status(500),
        Fault::status(429),
        Fault::ResetBeforeHeaders,
        Fault::ResetInHeaders { after_bytes: 20 },
        Fault::ResetInBody { after_bytes: 100_000 },
        Fault::Truncate { after_bytes: 70_000 },
        Fault::WrongContentLength { by: 1 },
        Fault::TooLong { extra_bytes: 10 },
        Fault::NoContentLength,
        Fault::WrongRange,
        Fault::WrongTotal,
        Fault::FullBodyFor206,
        Fault::HangBeforeHeaders,
        Fault::HangInBody { after_bytes: 50_000 },
        Fault::Drip { bytes_per_second: 100 },
        Fault::Slow { first_byte: Latency::Fixed(Duration::from_millis(400)) },
        Fault::IgnoreIfMatch,
    ]
}

#[expect(clippy::disallowed_methods, reason = "how long is said from outside")]
fn length() -> Duration {
    let seconds = std::env::var("TENDERFS_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// What the readers have met.
#[derive(Default)]
struct Met {
    reads: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
    slowest_ms: AtomicU64,
}

impl Met {
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let begun = Instant::now();
        let read = read_once(path);
        let took = begun.elapsed();
        assert!(took < READ_LIMIT, "{}: {took:?}", path.display());
        let took = u64::try_from(took.as_millis()).unwrap();
        self.slowest_ms.fetch_max(took, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        match read {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap());
                assert!(
                    matches!(errno, Errno::EIO | Errno::ETIMEDOUT | Errno::ESTALE),
                    "{}: {errno}",
                    path.display()
                );
                *self.errors.lock().unwrap().entry(format!("{errno:?}")).or_default() += 1;
                None
            }
        }
    }
}

/// The whole file, and nothing of it is left in the page cache, so that it has to be found anew next time.
fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    let read = file.read_to_end(&mut bytes);
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    read.map(|_| bytes)
}

/// What the daemon holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    resident_kib: u64,
}

fn held(stage: &Stage) -> Held {
    let pid = stage.daemon().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Held {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// A stage with little room, so that S3 is asked without end.
fn stormy_stage() -> Option<Stage> {
    let mut stage = impatient_stage()?;
    stage.set("s3.hedging", true).set("s3.attempts_max", 10);
    stage.set("memory.limit", "256M").set("cache.size", "64M");
    stage.set_mount("attr_ttl", "1s").set_mount("entry_ttl", "1s");
    Some(stage)
}

/// `TENDERFS_STORM_SECONDS=1800 cargo test --workspace --test s3_faults -- storm --nocapture`
#[test]
fn a_storm_of_all_faults_gives_no_wrong_byte_and_leaves_nothing_behind() {
    let Some(mut stage) = stormy_stage() else { return };
    // Three times what the disk tier holds, so that S3 is asked without end.
    let files = stage.fill((0..96).map(|n| (format!("same/{n:02}"), MIB + n * 33_333)));
    let letter = |number: u64| vec![b'a' + u8::try_from(number % 26).unwrap(); 300_000];
    for number in 0..4 {
        stage.put(&format!("new/{number}"), letter(number));
    }
    stage.start();
    let before = held(&stage);
    let add = |(seed, fault): (u64, Fault)| {
        let rule = FaultRule::new(fault).operation(Operation::Get).probability(PROBABILITY, seed);
        stage.lab().faults().add(rule)
    };
    let rules: Vec<_> = (1..).zip(faults()).map(add).collect();
    let (met, length, done) = (Met::default(), length(), AtomicBool::new(false));
    let begun = Instant::now();
    let mut middle = None;
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (stage, files, met) = (&stage, &files, &met);
            scope.spawn(move || read_on(stage, files, met, reader, begun + length));
        }
        scope.spawn(|| {
            for number in 4.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                stage.put(&format!("new/{}", number % 4), letter(number));
                thread::park_timeout(Duration::from_millis(100));
            }
        });
        thread::park_timeout(length / 2);
        middle = Some(held(&stage));
        thread::park_timeout((length).saturating_sub(begun.elapsed()));
        done.store(true, Ordering::Relaxed);
    });
    let injected: u64 = rules.iter().map(|rule| stage.lab().faults().met(*rule)).sum();
    stage.lab().faults().clear();
    for file in &files {
        let path = stage.path(&file.key);
        eventually(Duration::from_mins(1), &file.key, || {
            let md5 = md5_of_file(&path).ok()?;
            assert_eq!(md5, file.md5(), "{}", file.key);
            Some(())
        });
    }
    eventually(Duration::from_secs(30), "all frames to come back", || {
        (stage.admin().metric("tenderfs_cache_lent_frames", &[]) < 0.5).then_some(())
    });
    let (middle, after) = (middle.unwrap(), held(&stage));
    eprintln!(
        "{} reads, {injected} faults in {:.0} s, slowest read {} ms, errors {:?}; {} descriptors before \
         and {} after; {} KiB resident before, {} in the middle, {} after",
        met.reads.into_inner(),
        begun.elapsed().as_secs_f64(),
        met.slowest_ms.into_inner(),
        met.errors.into_inner().unwrap(),
        before.descriptors,
        after.descriptors,
        before.resident_kib,
        middle.resident_kib,
        after.resident_kib,
    );
    assert!(injected > 50, "only {injected} faults were met");
    // Idle connections and files are kept, as many as there may be.
    assert!(after.descriptors <= before.descriptors + 2 * 32 + 128, "{before:?} {after:?}");
    // In a short storm memory may be touched for the first time to the end; no more than there may be.
    let is_long = length > Duration::from_mins(1);
    let first_half_kib = if is_long { middle.resident_kib } else { 256 << 10 };
    assert!(after.resident_kib <= first_half_kib * 11 / 10 + 16 * 1024, "{middle:?} {after:?}");
}

/// Reads files in an order of its own until `end`; every byte that comes is held against its object.
fn read_on(stage: &Stage, files: &[File], met: &Met, reader: usize, end: Instant) {
    for turn in 0_usize.. {
        if Instant::now() >= end {
            return;
        }
        let place = (turn * 31 + reader * 7) % (files.len() + 8);
        if let Some(file) = files.get(place) {
            if let Some(bytes) = met.read(&stage.path(&file.key)) {
                assert_eq!(bytes.len() as u64, file.size_bytes(), "{}", file.key);
                assert!(bytes == file.bytes(0, file.size_bytes()), "{} is wrong", file.key);
            }
        } else if let Some(bytes) = met.read(&stage.path(&format!("new/{}", place % 4))) {
            assert_eq!(bytes.len(), 300_000);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two versions in one read");
        }
    }
}
