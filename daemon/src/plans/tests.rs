use super::*;

const LEASE: Duration = Duration::from_mins(1);

fn plans() -> Plans {
    Plans::new("/mnt/data".into(), "p/".into(), 1 << 20, LEASE)
}

fn name(job: &str, epoch: u64, rank: u32) -> PlanName {
    PlanName { job: job.into(), epoch, rank, world: 2 }
}

/// Takes all that the window allows, which holds no bytes, so all there is.
fn keys(plans: &Plans) -> Vec<String> {
    std::iter::from_fn(|| plans.take()).map(|ticket| ticket.key.to_string()).collect()
}

#[test]
fn a_plan_is_taken_and_its_entries_are_handed_out_in_order() {
    let plans = plans();
    assert!(plans.take().is_none());
    let accepted = plans.post(&name("job", 0, 0), b"b\na\nb\t0\t5\n").unwrap();
    assert_eq!((accepted.entries, accepted.files, accepted.replaced), (3, 2, false));
    assert_eq!(keys(&plans), ["p/b", "p/a", "p/b"]);
    plans.observe_use("p/a", Use::Closed);
    let status = plans.status("job").unwrap();
    assert_eq!((status.epochs[0].used, status.epochs[0].taken), (1, 3));
    assert!(plans.post(&name("job", 0, 0), b"c").unwrap().replaced);
    assert_eq!(keys(&plans), ["p/c"]);
    plans.cancel("job").unwrap();
    assert!(!plans.is_active());
    let gone = PlanError::NoSuchJob { job: "job".into() };
    assert_eq!(plans.status("job").unwrap_err(), gone);
}

#[test]
fn ranks_take_turns_and_the_next_epoch_follows_the_last_entry() {
    let plans = plans();
    plans.post(&name("job", 1, 0), b"e1").unwrap();
    plans.post(&name("job", 0, 0), b"a\nb").unwrap();
    plans.post(&name("other", 0, 1), b"x").unwrap();
    assert_eq!(keys(&plans), ["p/a", "p/b", "p/e1", "p/x"]);
}

#[test]
fn an_epoch_is_given_up_once_the_next_is_well_begun() {
    let plans = plans();
    let lines = (0..100).map(|n| format!("f{n}")).collect::<Vec<_>>().join("\n");
    plans.post(&name("job", 0, 0), lines.as_bytes()).unwrap();
    plans.post(&name("job", 1, 0), lines.as_bytes()).unwrap();
    let epochs = || {
        plans.status("job").unwrap().epochs.iter().map(|e| (e.epoch, e.used)).collect::<Vec<_>>()
    };
    for n in 0..90 {
        plans.observe_use(&format!("p/f{n}"), Use::Closed);
    }
    assert_eq!(epochs(), [(0, 90), (1, 0)]);
    for n in 0..63 {
        plans.observe_use(&format!("p/f{n}"), Use::Closed);
    }
    assert_eq!(epochs(), [(0, 90), (1, 63)]);
    plans.observe_use("p/f63", Use::Closed);
    assert_eq!(epochs(), [(1, 64)]);
}

#[test]
fn what_a_rank_reads_is_no_use_of_another_ranks_next_epoch() {
    let plans = plans();
    let lines = |of: &str| (0..100).map(|n| format!("{of}{n}")).collect::<Vec<_>>().join("\n");
    for (epoch, rank, of) in [(0, 0, "a"), (0, 1, "b"), (1, 0, "b"), (1, 1, "a")] {
        plans.post(&name("job", epoch, rank), lines(of).as_bytes()).unwrap();
    }
    let epochs = || {
        let plans = plans.status("job").unwrap().epochs;
        plans.iter().map(|e| (e.rank, e.epoch, e.used)).collect::<Vec<_>>()
    };
    for n in 0..90 {
        assert!(plans.observe_use(&format!("p/a{n}"), Use::Closed));
    }
    assert_eq!(epochs(), [(0, 0, 90), (0, 1, 0), (1, 0, 0), (1, 1, 0)]);
    plans.observe_use("p/b0", Use::Closed);
    assert_eq!(epochs(), [(0, 0, 90), (0, 1, 0), (1, 0, 1), (1, 1, 0)]);
}

#[test]
fn a_job_that_is_silent_for_its_lease_is_forgotten() {
    let plans = plans();
    plans.post(&name("job", 0, 0), b"a").unwrap();
    plans.expire(Instant::now() + LEASE / 2);
    assert!(plans.is_active());
    plans.expire(Instant::now() + LEASE);
    assert!(!plans.is_active());
    assert_eq!(plans.counters.expired.get(), 1);
}

#[test]
fn the_lease_of_a_manifest_begins_with_its_first_read() {
    let plans = plans();
    plans.post_manifest(b"a\nb\n", "order.txt");
    plans.expire(Instant::now() + 2 * LEASE);
    assert!(plans.is_active());
    plans.observe_use("p/a", Use::Closed);
    plans.expire(Instant::now() + LEASE);
    assert!(!plans.is_active());
}

#[test]
fn what_cannot_be_taken_is_refused_whole() {
    let plans = plans();
    for bad in ["", ".x", "a/b", "é", &"x".repeat(129)] {
        assert_eq!(plans.post(&name(bad, 0, 0), b"a").unwrap_err(), PlanError::BadName, "{bad}");
    }
    let rank = PlanError::NoSuchRank { rank: 2, world: 2 };
    assert_eq!(plans.post(&name("job", 0, 2), b"a").unwrap_err(), rank);
    assert_eq!(plans.post(&name("job", 0, 0), b"\n\n").unwrap_err(), PlanError::Empty);
    let error = plans.post(&name("job", 0, 0), b"a\n../b\n").unwrap_err();
    assert!(matches!(error, PlanError::Line(LineFault { line: 2, .. })), "{error}");
    assert!(!plans.is_active());
    for job in 0..JOBS_MAX {
        plans.post(&name(&format!("j{job}"), 0, 0), b"a").unwrap();
    }
    assert_eq!(plans.post(&name("one-more", 0, 0), b"a").unwrap_err(), PlanError::TooManyJobs);
    plans.post(&name("j0", 1, 0), b"a").unwrap();
}

#[test]
fn packed_text_is_unpacked_within_a_bound() {
    // `printf 'a\nb\n' | zstd`
    let packed = [
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x21, 0x00, 0x00, 0x61, 0x0a, 0x62, 0x0a, 0x25, 0x50,
        0xb3, 0x23,
    ];
    let unpacked = unpack(&packed, 4);
    assert_eq!(unpacked.as_deref(), Ok(&b"a\nb\n"[..]));
    assert!(unpack(&packed, 3).is_err());
    assert!(unpack(b"a\nb\n", 100).is_err());
}
