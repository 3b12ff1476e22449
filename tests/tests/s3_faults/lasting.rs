//! Faults that last: the errno of docs/SEMANTICS.md, in time, with no more requests than tries; and
//! nothing of them is left once the store is well.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tenderfs_lab::{Attributes, Fault};
use tenderfs_tests::{File, Stage, eventually, md5_of_file};

use super::{
    ATTEMPTS_MAX, MIB, check_all, errno_of, errno_of_read, gets_of, impatient_stage, on_get,
    open_direct,
};

const FILE_BYTES: u64 = MIB + 17;

/// A fault of every GET, and what one read of a file that is open comes to.
struct Row {
    name: &'static str,
    fault: Fault,
    errnos: &'static [Errno],
    gets_max: usize,
}

/// A fault that may pass, so that it is tried again. A try whose connection had been kept and turns out
/// to be dead is made once more at once, as servers close those in good order.
const fn tried(name: &'static str, fault: Fault, errnos: &'static [Errno]) -> Row {
    Row { name, fault, errnos, gets_max: 2 * ATTEMPTS_MAX as usize }
}

/// A fault that says that it will not.
const fn final_(name: &'static str, fault: Fault, errnos: &'static [Errno]) -> Row {
    Row { name, fault, errnos, gets_max: 1 }
}

/// Keys that the store calls outdated are looked up again, and the request is made once more.
const fn renewed(name: &'static str, fault: Fault) -> Row {
    Row { name, fault, errnos: DENIED, gets_max: 2 }
}

fn s3_error(code: u16, error_code: &str) -> Fault {
    Fault::S3Error { code, error_code: error_code.to_owned() }
}

const BROKEN: &[Errno] = &[Errno::EIO];
/// Whichever deadline comes first.
const LATE: &[Errno] = &[Errno::EIO, Errno::ETIMEDOUT];
const DENIED: &[Errno] = &[Errno::EACCES];
const STALE: &[Errno] = &[Errno::ESTALE];

fn rows() -> Vec<Row> {
    vec![
        final_("403", s3_error(403, "AccessDenied"), DENIED),
        final_("401", Fault::status(401), DENIED),
        renewed("expired token", s3_error(400, "ExpiredToken")),
        renewed("invalid token", s3_error(400, "InvalidToken")),
        final_("404", s3_error(404, "NoSuchKey"), STALE),
        final_("412", s3_error(412, "PreconditionFailed"), STALE),
        final_("416", s3_error(416, "InvalidRange"), STALE),
        tried("another etag", Fault::EtagChanges, STALE),
        // Nobody is told our signature who is not the store.
        final_("another host", redirect("https://example.org/"), DENIED),
        final_("plain http elsewhere", redirect("http://192.0.2.1/"), DENIED),
        tried("no answer", Fault::HangBeforeHeaders, LATE),
        tried("halt in the body", Fault::HangInBody { after_bytes: 1000 }, LATE),
        tried("one byte a second", Fault::Drip { bytes_per_second: 1 }, LATE),
        tried("reset at byte 0", Fault::ResetBeforeHeaders, BROKEN),
        tried("reset in the header", Fault::ResetInHeaders { after_bytes: 10 }, BROKEN),
        tried("reset in the body", Fault::ResetInBody { after_bytes: 1000 }, BROKEN),
        tried("end before the body", Fault::Truncate { after_bytes: 0 }, BROKEN),
        tried("end in the body", Fault::Truncate { after_bytes: 1000 }, BROKEN),
        tried("length too large", Fault::WrongContentLength { by: 1 }, BROKEN),
        tried("length too small", Fault::WrongContentLength { by: -1 }, BROKEN),
        tried("another range", Fault::WrongRange, BROKEN),
        tried("another total", Fault::WrongTotal, BROKEN),
    ]
}

fn redirect(location: &str) -> Fault {
    Fault::Redirect { code: 307, location: location.to_owned() }
}

/// Opens the file of `row`, reads its last bytes once, and checks what that came to.
fn check(stage: &Stage, row: &Row, file: &File) {
    let open = open_direct(&stage.path(&file.key)).unwrap();
    let begun = Instant::now();
    let errno = errno_of_read(&open, MIB, row.name);
    let took = begun.elapsed();
    assert!(row.errnos.contains(&errno), "{}: {errno}", row.name);
    assert!(took < Duration::from_secs(15), "{}: {took:?}", row.name);
    let gets = gets_of(stage, &file.key).len();
    assert!((1..=row.gets_max).contains(&gets), "{}: {gets} GETs", row.name);
}

#[test]
fn a_fault_that_lasts_is_the_errno_that_says_what_it_is() {
    let Some(mut stage) = impatient_stage() else { return };
    stage.set_mount("attr_ttl", "100ms").set_mount("entry_ttl", "100ms");
    let rows = rows();
    let files = stage.fill(rows.iter().map(|row| (format!("lasting/{}", row.name), FILE_BYTES)));
    for (row, file) in rows.iter().zip(&files) {
        stage.lab().faults().add(on_get(&file.key, row.fault.clone()));
    }
    stage.start();
    thread::scope(|scope| {
        for (row, file) in rows.iter().zip(&files) {
            let stage = &stage;
            scope.spawn(move || check(stage, row, file));
        }
    });
    // Nothing of it is cached, neither bytes nor errors.
    stage.lab().faults().clear();
    for file in &files {
        let path = stage.path(&file.key);
        eventually(Duration::from_secs(20), &file.key, || {
            let md5 = md5_of_file(&path).ok()?;
            assert_eq!(md5, file.md5(), "{}", file.key);
            Some(())
        });
    }
}

/// A store that is over its limits is no reason to say that a file is not there.
#[test]
fn a_store_that_keeps_refusing_is_eio_and_gets_no_more_requests_than_tries() {
    for (name, fault) in
        [("500", Fault::status(500)), ("503", Fault::slow_down()), ("429", Fault::status(429))]
    {
        let Some(mut stage) = impatient_stage() else { return };
        let files = stage.fill([("file", FILE_BYTES)]);
        stage.lab().faults().add(on_get("file", fault.clone()));
        stage.start();
        check(&stage, &tried(name, fault, LATE), &files[0]);
        stage.lab().faults().clear();
        assert_eq!(md5_of_file(&stage.path("file")).unwrap(), files[0].md5(), "{name}");
    }
}

#[test]
fn an_archived_object_is_eacces_without_a_second_try_and_the_log_names_its_class() {
    let Some(mut stage) = impatient_stage() else { return };
    let files = stage.fill([("cold", FILE_BYTES), ("warm", FILE_BYTES)]);
    let class = Some("DEEP_ARCHIVE".to_owned());
    stage.put_with(&files[0], Attributes { storage_class: class, ..Attributes::default() });
    stage.start();
    assert_eq!(fs::metadata(stage.path("cold")).unwrap().len(), FILE_BYTES);
    let row = final_("archived", Fault::status(403), DENIED);
    check(&stage, &row, &files[0]);
    eventually(Duration::from_secs(10), "the log to name the storage class", || {
        stage.log_line("DEEP_ARCHIVE").then_some(())
    });
    assert_eq!(md5_of_file(&stage.path("warm")).unwrap(), files[1].md5());
}

#[test]
fn an_unreachable_store_is_an_io_error_within_its_deadline_and_cached_files_go_on() {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("s3.request_timeout", "4s").set("s3.attempts_max", 3);
    let files = stage.fill([("cached", 5 * MIB), ("cold", 5 * MIB), ("folder/unseen", 10)]);
    stage.start();
    assert_eq!(fs::read_dir(stage.mountpoint()).unwrap().count(), 3);
    check_all(&stage, &files[..1]);
    stage.stop_lab();
    let started = Instant::now();
    let read = errno_of(fs::read(stage.path("cold")), "a read from nowhere");
    assert!(matches!(read, Errno::EIO | Errno::ETIMEDOUT), "{read}");
    let looked =
        errno_of(fs::metadata(stage.path("folder/absent")), "a name S3 was never asked for");
    assert!(matches!(looked, Errno::EIO | Errno::ETIMEDOUT), "{looked}");
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    check_all(&stage, &files[..1]);
}
