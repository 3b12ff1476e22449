//! Jobs against a store of known content.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// A bucket in memory whose pages are two entries long.
#[derive(Default)]
pub(crate) struct FakeStore {
    files: BTreeMap<String, u64>,
    cached: Mutex<BTreeMap<String, u64>>,
    failing: BTreeSet<String>,
    /// Files that never arrive.
    hanging: BTreeSet<String>,
    warmed: Mutex<Vec<String>>,
    running: Arc<AtomicUsize>,
    running_max: Arc<AtomicUsize>,
    listing_fails: bool,
}

/// Counts a file as given up when it is dropped unfinished.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeStore {
    pub(crate) fn with(files: &[(&str, u64)]) -> Self {
        let files = files.iter().map(|(key, size)| ((*key).to_owned(), *size)).collect();
        Self { files, ..Self::default() }
    }

    fn cached(self, files: &[(&str, u64)]) -> Self {
        let cached = files.iter().map(|(key, size)| ((*key).to_owned(), *size)).collect();
        Self { cached: Mutex::new(cached), ..self }
    }

    fn page(&self, request: &ListRequest) -> ListPage {
        let after = request.continuation.as_deref().unwrap_or_default();
        let mut entries = BTreeMap::new();
        for (key, size) in &self.files {
            let Some(rest) = key.strip_prefix(&request.prefix) else { continue };
            match rest.split_once('/').filter(|_| request.delimiter) {
                Some((folder, _)) => entries.insert(format!("{}{folder}/", request.prefix), None),
                None => entries.insert(key.clone(), Some(*size)),
            };
        }
        let max = usize::from(request.keys_max.unwrap_or(2));
        let rest: Vec<_> = entries.into_iter().filter(|(name, _)| name.as_str() > after).collect();
        let mut page = ListPage::default();
        for (name, size) in rest.iter().take(max) {
            match size {
                Some(size) => page.objects.push(listed(name, *size)),
                None => page.common_prefixes.push(name.clone()),
            }
        }
        page.next = (rest.len() > max).then(|| rest[max - 1].0.clone());
        page
    }
}

fn listed(key: &str, size_bytes: u64) -> ListedObject {
    ListedObject {
        key: key.to_owned(),
        etag: "\"e\"".to_owned(),
        size_bytes,
        modified: SystemTime::UNIX_EPOCH,
        storage_class: None,
    }
}

impl Store for FakeStore {
    fn list(&self, request: ListRequest) -> BoxFuture<'static, Result<ListPage, Fault>> {
        let page = self.page(&request);
        let fails = self.listing_fails;
        Box::pin(async move { if fails { Err("access denied".into()) } else { Ok(page) } })
    }

    fn warm(&self, file: ListedObject) -> BoxFuture<'static, Result<Warmed, Fault>> {
        self.warmed.lock().unwrap().push(file.key.clone());
        let fails = self.failing.contains(&file.key);
        let hangs = self.hanging.contains(&file.key);
        let (running, max) = (Arc::clone(&self.running), Arc::clone(&self.running_max));
        max.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let skipped_bytes = self.cached_bytes(&file);
        Box::pin(async move {
            let _running = Running(running);
            tokio::time::sleep(Duration::from_millis(1)).await;
            match (hangs, fails) {
                (true, _) => std::future::pending().await,
                (_, true) => Err("broken".into()),
                _ => Ok(Warmed {
                    fetched_bytes: file.size_bytes - skipped_bytes,
                    skipped_bytes,
                    memory_only_bytes: 0,
                }),
            }
        })
    }

    fn cached_bytes(&self, file: &ListedObject) -> u64 {
        self.cached.lock().unwrap().get(&file.key).copied().unwrap_or(0)
    }
}

/// A mount for tests of paths.
pub(crate) fn place(name: &str, mountpoint: &str, prefix: &str) -> Place {
    place_of(name, mountpoint, prefix, Arc::new(FakeStore::default()))
}

pub(crate) fn place_of(name: &str, mountpoint: &str, prefix: &str, store: Arc<FakeStore>) -> Place {
    let identity = format!("store/{name}").into();
    let (name, prefix) = (name.to_owned(), prefix.to_owned());
    Place { name, mountpoint: mountpoint.into(), prefix, identity, plans: Arc::default(), store }
}

const LIMITS: JobLimits = JobLimits { running_max: 2, finished_max: 3, workers: 4 };

const TREE: &[(&str, u64)] = &[
    ("p/a", 10),
    ("p/b", 20),
    ("p/folder/", 0),
    ("p/folder/c", 30),
    ("p/folder/deep/d", 40),
    ("p/folder-2/e", 50),
    ("other/f", 60),
];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn request(path: &str) -> WarmRequest {
    WarmRequest { path: path.to_owned(), recursive: true, ..WarmRequest::default() }
}

/// Runs one job of `store`, mounted with prefix `p/`, to its end.
fn run(store: &Arc<FakeStore>, request: &WarmRequest) -> WarmJob {
    let places = [place_of("m", "/mnt", "p/", Arc::clone(store))];
    runtime().block_on(async {
        let job = Jobs::new().start(request, &places, &LIMITS).unwrap();
        tokio::time::timeout(Duration::from_secs(10), job.ended()).await.unwrap();
        job.report()
    })
}

#[track_caller]
fn check_files(request: &WarmRequest, keys: &[&str]) {
    let store = Arc::new(FakeStore::with(TREE));
    let job = run(&store, request);
    assert_eq!(job.state, WarmState::Done, "{job:?}");
    let mut warmed = store.warmed.lock().unwrap().clone();
    warmed.sort();
    assert_eq!(warmed, keys, "{request:?}");
    assert_eq!(job.progress.files_warmed, keys.len() as u64);
    assert!(job.progress.listing_done);
}

/// Proves W12: the list is recursive and stays in the mount.
#[test]
fn a_job_warms_what_its_path_names_and_nothing_else() {
    check_files(&request(""), &["p/a", "p/b", "p/folder-2/e", "p/folder/c", "p/folder/deep/d"]);
    check_files(&request("folder"), &["p/folder/c", "p/folder/deep/d"]);
    check_files(&request("/mnt/folder/"), &["p/folder/c", "p/folder/deep/d"]);
    check_files(&request("a"), &["p/a"]);
    let flat = |path: &str| WarmRequest { recursive: false, ..request(path) };
    check_files(&flat(""), &["p/a", "p/b"]);
    check_files(&flat("folder"), &["p/folder/c"]);
}

/// Proves W12: what is cached is not fetched again.
#[test]
fn what_is_cached_is_skipped_and_the_rest_of_a_file_is_fetched() {
    let store = FakeStore::with(TREE).cached(&[("p/a", 10), ("p/b", 5)]);
    let job = run(&Arc::new(store), &request(""));
    let progress = &job.progress;
    assert_eq!((progress.files_total, progress.files_skipped, progress.files_warmed), (5, 1, 4));
    assert_eq!(
        (progress.bytes_total, progress.bytes_skipped, progress.bytes_warmed),
        (150, 15, 135)
    );
    assert_eq!(progress.bytes_remaining(), 0);
}

/// Proves W12: a failing file is counted and the job goes on.
#[test]
fn a_file_that_fails_does_not_end_the_job() {
    let store = FakeStore { failing: BTreeSet::from(["p/a".to_owned()]), ..FakeStore::with(TREE) };
    let job = run(&Arc::new(store), &request(""));
    assert_eq!((job.state, job.error), (WarmState::Done, None));
    assert_eq!((job.progress.files_failed, job.progress.files_warmed), (1, 4));
}

#[test]
fn a_job_takes_no_more_than_its_bound() {
    let bounded = WarmRequest { max_bytes: Some(79), ..request("") };
    let job = run(&Arc::new(FakeStore::with(TREE)), &bounded);
    assert_eq!((job.progress.files_total, job.progress.bytes_total), (2, 30));
    assert!(job.progress.stopped_at_max_bytes && job.progress.listing_done);
}

#[test]
fn no_more_files_are_under_way_than_there_are_workers() {
    let files: Vec<(String, u64)> = (0..50).map(|index| (format!("p/{index:03}"), 1)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(key, size)| (key.as_str(), *size)).collect();
    let store = Arc::new(FakeStore::with(&files));
    let job = run(&store, &WarmRequest { workers: Some(3), ..request("") });
    assert_eq!(job.progress.files_warmed, 50);
    assert_eq!(store.running_max.load(Ordering::SeqCst), 3);
}

#[test]
fn a_check_fetches_nothing_and_names_what_is_missing() {
    let store = Arc::new(FakeStore::with(TREE).cached(&[("p/a", 10), ("p/b", 5)]));
    let job = run(&store, &WarmRequest { check: true, ..request("") });
    assert!(store.warmed.lock().unwrap().is_empty());
    assert_eq!((job.progress.files_skipped, job.progress.files_missing), (1, 4));
    assert_eq!(job.progress.missing[0], "p/b");
}

#[test]
fn what_is_not_there_and_what_cannot_be_listed_fails_the_job() {
    let job = run(&Arc::new(FakeStore::with(TREE)), &request("nothing"));
    assert_eq!(job.state, WarmState::Failed);
    assert_eq!(job.error.unwrap(), "there is no file and no folder `p/nothing` in the bucket");
    let store = FakeStore { listing_fails: true, ..FakeStore::with(TREE) };
    let job = run(&Arc::new(store), &request(""));
    assert_eq!((job.state, job.error.as_deref()), (WarmState::Failed, Some("access denied")));
    let job = run(&Arc::new(FakeStore::default()), &WarmRequest::default());
    assert_eq!(job.state, WarmState::Failed, "an empty prefix");
}

/// Proves W12: a job can be cancelled.
#[test]
fn a_cancelled_job_gives_up_what_is_under_way() {
    let hanging = BTreeSet::from(["p/b".to_owned()]);
    let store = Arc::new(FakeStore { hanging, ..FakeStore::with(TREE) });
    let places = [place_of("m", "/mnt", "p/", Arc::clone(&store))];
    runtime().block_on(async {
        let job = Jobs::new().start(&request(""), &places, &LIMITS).unwrap();
        while job.report().progress.files_warmed < 4 {
            job.ended_within(Duration::from_millis(10)).await;
        }
        assert_eq!(store.running.load(Ordering::SeqCst), 1);
        job.cancel();
        job.ended().await;
        let report = job.report();
        assert_eq!((report.state, report.progress.files_warmed), (WarmState::Cancelled, 4));
        tokio::task::yield_now().await;
        assert_eq!(store.running.load(Ordering::SeqCst), 0, "the file goes on");
    });
}

#[test]
fn the_table_of_jobs_is_bounded() {
    let hanging = Arc::new(FakeStore {
        hanging: BTreeSet::from(["p/a".to_owned()]),
        ..FakeStore::with(TREE)
    });
    let places = [
        place_of("hangs", "/hangs", "p/", hanging),
        place_of("ends", "/ends", "p/", Arc::new(FakeStore::with(TREE))),
    ];
    runtime().block_on(async {
        let jobs = Jobs::new();
        let start = |path: &str| jobs.start(&request(path), &places, &LIMITS);
        let running = start("/hangs").unwrap();
        for _ in 0..6 {
            start("/ends").unwrap().ended().await;
        }
        let ids: Vec<u64> = jobs.list().iter().map(|job| job.id()).collect();
        assert_eq!(ids, [1, 4, 5, 6, 7], "the running one, those kept, and the last");
        assert!(matches!(jobs.get(2), Err(WarmError::NoSuchJob { id: 2 })));
        start("/hangs").unwrap();
        assert_eq!(jobs.running(), 2);
        assert!(matches!(start("/ends"), Err(WarmError::TooManyJobs { running: 2 })));
        running.cancel();
        running.ended().await;
        assert!(start("/ends").is_ok());
        let none = WarmRequest { workers: Some(0), ..request("/ends") };
        assert!(matches!(
            jobs.start(&none, &places, &LIMITS),
            Err(WarmError::BadWorkers { workers: 0 })
        ));
    });
}
