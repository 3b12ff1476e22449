//! Listings that are none, or have no end: an error in time, and no name is lost that can be told.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tenderfs_lab::{Endless, Fault, FaultRule, Malformation, Mark, Operation};
use tenderfs_tests::{Stage, md5_of_file};

use super::{ATTEMPTS_MAX, check_all, errno_of, impatient_stage};

/// Every listing below `prefix` meets `fault`; its directory is known before.
fn afflicted(stage: &Stage, prefix: &str, fault: Fault) {
    assert!(fs::metadata(stage.path(prefix)).unwrap().is_dir(), "{prefix}");
    let rule = FaultRule::new(fault).operation(Operation::List).prefix(format!("{prefix}/"));
    stage.lab().faults().add(rule);
}

fn names(stage: &Stage, folder: &str) -> std::io::Result<Vec<String>> {
    let entries = fs::read_dir(stage.path(folder))?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

#[test]
fn a_listing_that_cannot_be_is_eio_and_the_names_are_there_once_it_is_one() {
    let Some(mut stage) = impatient_stage() else { return };
    let faults = [
        ("cut-off", Fault::MalformedListing(Malformation::CutOff)),
        ("not-xml", Fault::MalformedListing(Malformation::NotXml)),
        ("other-root", Fault::MalformedListing(Malformation::OtherRoot)),
        ("deep", Fault::MalformedListing(Malformation::DeeplyNested)),
        ("bomb", Fault::MalformedListing(Malformation::EntityBomb)),
        ("same-token", Fault::EndlessListing(Endless::SameToken)),
        ("same-page", Fault::EndlessListing(Endless::SamePage)),
        ("empty-pages", Fault::EndlessListing(Endless::EmptyPages)),
        ("refused", Fault::status(500)),
    ];
    let keys = faults.iter().flat_map(|(name, _)| [format!("{name}/a"), format!("{name}/b")]);
    stage.fill(keys.map(|key| (key, 100)));
    stage.start();
    for (name, fault) in faults {
        afflicted(&stage, name, fault);
        let mark = stage.lab().ledger().mark();
        let begun = Instant::now();
        let errno = errno_of(names(&stage, name), name);
        assert!(matches!(errno, Errno::EIO | Errno::ETIMEDOUT), "{name}: {errno}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {:?}", begun.elapsed());
        let lists = lists_since(&stage, mark);
        // Pages without entries are borne for a while, as stores that filter send some.
        let lists_max = if name == "empty-pages" { 70 } else { 2 * usize::from(ATTEMPTS_MAX) };
        assert!(lists <= lists_max, "{name}: {lists} LISTs");
        stage.lab().faults().clear();
        assert_eq!(names(&stage, name).unwrap(), ["a", "b"], "{name}");
    }
}

fn lists_since(stage: &Stage, mark: Mark) -> usize {
    let entries = stage.lab().ledger().since(mark);
    entries.iter().filter(|entry| entry.operation == Operation::List).count()
}

#[test]
fn what_a_listing_lacks_hides_nothing_that_can_be_told() {
    let Some(mut stage) = impatient_stage() else { return };
    let files =
        stage.fill([("no-etags/a", 70_000), ("bad-sizes/a", 70_000), ("not-utf8/a", 70_000)]);
    stage.start();
    afflicted(&stage, "no-etags", Fault::MalformedListing(Malformation::NoEtags));
    assert_eq!(names(&stage, "no-etags").unwrap(), ["a"]);
    assert_eq!(md5_of_file(&stage.path("no-etags/a")).unwrap(), files[0].md5());
    // Entries that make no sense are left out; the directory is there.
    for (name, malformation) in
        [("bad-sizes", Malformation::BadSizes), ("not-utf8", Malformation::NotUtf8)]
    {
        afflicted(&stage, name, Fault::MalformedListing(malformation));
        assert!(names(&stage, name).is_ok(), "{name}");
    }
}

/// The listing shows a file that is gone when it is read.
#[test]
fn a_file_that_went_after_its_listing_is_enoent_by_name_and_its_siblings_stay() {
    let Some(mut stage) = impatient_stage() else { return };
    stage.set_mount("attr_ttl", "100ms").set_mount("entry_ttl", "100ms");
    let files = stage.fill([("folder/gone", 5000), ("folder/stays", 5000)]);
    stage.start();
    assert_eq!(names(&stage, "folder").unwrap(), ["gone", "stays"]);
    stage.lab().delete(stage.bucket(), "folder/gone").unwrap();
    let path = stage.path("folder/gone");
    tenderfs_tests::eventually(Duration::from_secs(10), "the name to go", || {
        let errno = Errno::from_raw(fs::read(&path).err()?.raw_os_error()?);
        // Until the listing is asked for again, the handle is stale.
        assert!(matches!(errno, Errno::ENOENT | Errno::ESTALE), "{errno}");
        (errno == Errno::ENOENT).then_some(())
    });
    assert_eq!(md5_of_file(&stage.path("folder/stays")).unwrap(), files[1].md5());
    assert_eq!(names(&stage, "folder").unwrap(), ["stays"]);
}

#[test]
fn a_listing_that_fails_at_first_is_asked_again() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("dir/a", 1000), ("dir/b", 1000)]);
    stage.start();
    let rule = FaultRule::new(Fault::slow_down()).operation(Operation::List).times(2);
    stage.lab().faults().add(rule);
    assert_eq!(names(&stage, "dir").unwrap(), ["a", "b"]);
    check_all(&stage, &files);
}
