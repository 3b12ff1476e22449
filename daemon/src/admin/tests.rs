//! The API over a real socket, held to its own description.

use super::model::{State, WarmRequest, WarmState};
use super::*;
use crate::config::DaemonSettings;
use crate::plans::Plans;
use crate::warm::tests::{FakeStore, place_of};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// A daemon without mounts in the kernel.
struct Example {
    state: Mutex<State>,
    store: Arc<FakeStore>,
    scrub: Arc<Scrub>,
    plans: Arc<Plans>,
    pins: Mutex<Vec<Pin>>,
}

impl Backend for Example {
    fn state(&self) -> State {
        *self.state.lock().unwrap()
    }

    fn status(&self) -> model::Status {
        serde_json::from_value(example_status()).unwrap()
    }

    fn metrics(&self, warm: &WarmFacts<'_>) -> String {
        format!("tenderfs_warm_jobs_running {}\n", warm.running)
    }

    fn scrub(&self) -> Option<Arc<Scrub>> {
        Some(Arc::clone(&self.scrub))
    }

    fn warm_places(&self) -> Vec<Place> {
        let place = place_of("data", "/mnt/data", "", Arc::clone(&self.store));
        vec![Place { plans: Arc::clone(&self.plans), ..place }]
    }

    fn evict(&self, is_meant: &dyn Fn(&str, &str) -> bool) -> std::io::Result<Evicted> {
        let objects = u64::from(is_meant("store/data", "c"));
        Ok(Evicted { objects, bytes: 5 * objects })
    }

    fn cached(&self, is_meant: &dyn Fn(&str, &str) -> bool) -> std::io::Result<Vec<CachedObject>> {
        let object =
            CachedObject { key: "c".into(), size_bytes: 5, disk_bytes: 5, last_use_ms: 1000 };
        Ok(is_meant("store/data", "c").then_some(object).into_iter().collect())
    }

    fn pin(&self, pin: Pin) -> std::io::Result<Option<Pinned>> {
        let objects = u64::from(pin.holds("store/data", "c"));
        self.pins.lock().unwrap().push(pin);
        Ok(Some(Pinned { objects, bytes: 5 * objects, objects_beyond: 0 }))
    }

    fn unpin(&self, store: &str, key: &str) -> std::io::Result<Option<Pinned>> {
        let mut pins = self.pins.lock().unwrap();
        let before = pins.len();
        pins.retain(|pin| &*pin.store != store || &*pin.key != key);
        Ok((pins.len() < before).then(Pinned::default))
    }

    fn pins(&self) -> Vec<Pin> {
        self.pins.lock().unwrap().clone()
    }

    fn warm_limits(&self) -> JobLimits {
        JobLimits { running_max: 2, finished_max: 64, workers: 4 }
    }
}

fn example_status() -> Value {
    json!({
        "version": "0.1.0", "pid": 7, "started": "2026-01-01T00:00:00Z", "uptime_seconds": 5,
        "state": "ready", "cores": 2, "warm_jobs_running": 0,
        "memory": {"limit_bytes": 1, "used_bytes": 2, "arena_bytes": 3, "namespace_bytes": 4, "network_bytes": 5},
        "cache": {
            "memory": {"limit_bytes": 1, "hot_bytes": 2, "prefetch_bytes": 3, "free_bytes": 4, "lent_frames": 5},
            "disk": {"dir": "/c", "limit_bytes": 1, "used_bytes": 2, "objects": 3, "pending_write_bytes": 4, "writable": true},
            "reads": {"memory": 1, "disk": 2, "s3": 3, "errors": 4, "hit_ratio": 0.5, "wait_seconds": 0.25, "fetched_bytes": 6},
            "prefetch": {"issued_bytes": 1, "used_bytes": 2, "wasted_bytes": 3, "in_flight_bytes": 4},
        },
        "mounts": [{
            "name": "data", "source": "s3://data", "mountpoint": "/mnt/data", "state": "mounted",
            "endpoint": "https://s3", "read_only": true, "read_bytes_max": 1, "read_ahead_bytes": 2,
            "features": ["readdirplus"], "requests": 3, "errors": 4, "served_bytes": 5,
            "s3_requests": 6, "s3_errors": 7, "s3_received_bytes": 8,
            "s3_bill": {
                "list": {"requests": 1, "retries": 0, "errors": 0},
                "head": {"requests": 2, "retries": 0, "errors": 1},
                "get": {"requests": 3, "retries": 1, "errors": 1},
                "hedges": 1, "hedges_won": 1, "slow_downs": 1
            },
        }],
    })
}

/// A served example; what a test does with it runs on the server's own runtime.
struct Served {
    dir: tempfile::TempDir,
    backend: Arc<Example>,
    port: std::net::SocketAddr,
}

impl Served {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/admin.sock")
    }

    /// One request over the socket: status and body.
    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        exchange(stream, method, path, body.map(Value::to_string).unwrap_or_default()).await
    }

    async fn json(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, body) = self.ask(method, path, body).await;
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")),
        )
    }

    async fn port(&self, method: &str, path: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.port).await.unwrap();
        exchange(stream, method, path, String::new()).await
    }

    /// A job that is over.
    async fn ended_job(&self, request: &Value) -> Value {
        let (status, created) = self.json("POST", "/v1/warm", Some(request)).await;
        assert_eq!(status, 201, "{created}");
        let path = format!("/v1/warm/{}/events", created["id"]);
        let (_, events) = self.ask("GET", &path, None).await;
        let last = events.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(last).unwrap()
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    body: String,
) -> (u16, String) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // A server that refuses a body may close before it has read it.
    stream.write_all((head + &body).as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { unchunk(body) } else { body.to_owned() })
}

fn unchunk(body: &str) -> String {
    let (mut text, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = &after[(size + 2).min(after.len())..];
        if size == 0 {
            break;
        }
    }
    text
}

fn settings(socket: &Path) -> DaemonSettings {
    let settings = crate::config::load(None, crate::config::Overrides::new(), &|_| None).unwrap();
    DaemonSettings {
        admin_socket: socket.to_owned(),
        metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
        ..settings.daemon
    }
}

/// Runs `test` against a served example.
fn serving<F: Future<Output = ()>>(test: impl FnOnce(Arc<Served>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let bound = bind(&settings(&dir.path().join("run/admin.sock"))).unwrap();
        let files = [("train/a", 10), ("train/b", 20), ("c", 5)];
        let store = Arc::new(FakeStore::with(&files));
        let plans = Plans::new("/mnt/data".into(), String::new(), 1, Duration::from_mins(1));
        let plans = Arc::new(plans);
        let backend = Arc::new(Example {
            pins: Mutex::default(),
            state: Mutex::new(State::Ready),
            store,
            scrub: Arc::default(),
            plans,
        });
        let port = bound.metrics_address().unwrap();
        let shared =
            Shared { backend: Arc::clone(&backend) as Arc<dyn Backend>, jobs: Arc::default() };
        let server = tokio::spawn(server::serve(bound, shared));
        let test = test(Arc::new(Served { dir, backend, port }));
        tokio::time::timeout(Duration::from_secs(20), test).await.unwrap();
        server.abort();
    });
}

/// Every key of `value` is a property of its schema and every property is there.
#[track_caller]
fn fits(value: &Value, schema: &Value, document: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/components/schemas/");
        return fits(value, &document["components"]["schemas"][name], document, at);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let option = options.iter().find(|option| (option["type"] == "null") == value.is_null());
        return fits(value, option.unwrap(), document, at);
    }
    let mut known = BTreeSet::new();
    let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    for part in &parts {
        let part = match part["$ref"].as_str() {
            Some(name) => &document["components"]["schemas"][name.rsplit('/').next().unwrap()],
            None => part,
        };
        for (name, property) in part["properties"].as_object().into_iter().flatten() {
            known.insert(name.clone());
            assert!(value.get(name).is_some(), "{at}: {name} is described, not sent: {value}");
            fits(&value[name], property, document, &format!("{at}.{name}"));
        }
    }
    match value {
        Value::Object(map) if !known.is_empty() => {
            let sent: BTreeSet<_> = map.keys().cloned().collect();
            assert_eq!(sent, known, "{at}");
        }
        Value::Array(items) => {
            for item in items {
                fits(item, &schema["items"], document, at);
            }
        }
        _ => {}
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => return,
        one => vec![one.clone()],
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let matches = types.iter().any(|name| name == is || (name == "number" && is == "integer"));
    assert!(matches, "{at}: {value} is no {types:?}");
}

/// Asks every operation of the document and holds the answer to its schema.
#[test]
fn every_described_route_is_served_and_answers_as_described() {
    serving(|served| async move {
        let (_, document) = served.json("GET", "/v1/openapi.json", None).await;
        assert_eq!(document, serde_json::to_value(super::document()).unwrap());
        served.ended_job(&json!({"path": "/mnt/data", "recursive": true})).await;
        let mut operations = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                operations += 1;
                let body = operation.get("requestBody").map(|_| json!({"path": "c"}));
                let asked = path.replace("{id}", "1");
                let (status, answer) =
                    served.ask(&method.to_uppercase(), &asked, body.as_ref()).await;
                let response = &operation["responses"][status.to_string()];
                assert!(response.is_object(), "{method} {path} answered {status}: {answer}");
                let (kind, content) =
                    response["content"].as_object().unwrap().iter().next().unwrap();
                let json = match kind.as_str() {
                    "application/json" => answer,
                    "text/event-stream" => {
                        answer.lines().next().unwrap()["data: ".len()..].to_owned()
                    }
                    _ => continue,
                };
                let json = serde_json::from_str(&json).unwrap();
                fits(&json, &content["schema"], &document, path);
            }
        }
        assert_eq!(operations, 24);
    });
}

#[test]
fn what_is_not_described_is_refused_in_one_voice() {
    serving(|served| async move {
        for (method, path, body, expected) in [
            ("GET", "/", None, 404),
            ("GET", "/v1/secrets", None, 404),
            ("POST", "/v1/status", None, 405),
            ("GET", "/v1/warm/99", None, 404),
            ("GET", "/v1/warm/99/events", None, 404),
            ("DELETE", "/v1/warm/99", None, 404),
            ("GET", "/v1/warm/x", None, 400),
            ("POST", "/v1/warm", Some(json!({"path": "../etc"})), 400),
            ("POST", "/v1/warm", Some(json!({"path": "/etc"})), 404),
            ("POST", "/v1/warm", Some(json!({"mount": "x"})), 404),
            ("POST", "/v1/warm", Some(json!({"url": "http://x"})), 422),
            ("POST", "/v1/warm", Some(json!({"workers": 0})), 400),
            ("POST", "/v1/warm", Some(json!({"path": "x".repeat(70_000)})), 413),
            ("GET", "/v1/cache/objects?mount=x", None, 404),
            ("GET", "/v1/cache/objects?top=-1", None, 400),
            ("POST", "/v1/cache/evict", Some(json!({"path": "../etc"})), 400),
            ("POST", "/v1/cache/pins", Some(json!({"path": "../etc"})), 400),
            ("POST", "/v1/cache/pins", Some(json!({"path": "c", "ttl": 5})), 422),
            ("DELETE", "/v1/cache/pins?path=none", None, 404),
            ("POST", "/v1/cache/evict", Some(json!({"all": true, "path": "c"})), 400),
            ("GET", "/v1/jobs?mount=x", None, 404),
            ("GET", "/v1/jobs?mont=data", None, 400),
            ("GET", "/v1/jobs/x/status", None, 404),
            ("DELETE", "/v1/jobs/x", None, 404),
            ("POST", "/v1/jobs/.x/plans", Some(json!("a")), 400),
            ("POST", "/v1/jobs/x/plans?rank=1", Some(json!("a")), 400),
            ("POST", "/v1/jobs/x/plans?epoch=-1", Some(json!("a")), 400),
            ("POST", "/v1/jobs/x/plans", Some(json!("a//b")), 400),
        ] {
            let (status, refusal) = served.json(method, path, body.as_ref()).await;
            assert_eq!(status, expected, "{method} {path}: {refusal}");
            let refusal: model::Refusal = serde_json::from_value(refusal).unwrap();
            assert!(!refusal.error.is_empty() && !refusal.hint.is_empty(), "{method} {path}");
        }
    });
}

#[test]
fn the_port_shows_metrics_and_health_and_nothing_else() {
    serving(|served| async move {
        for path in ["/metrics", "/healthz", "/readyz"] {
            assert_eq!(served.port("GET", path).await.0, 200, "{path}");
            assert_eq!(served.port("POST", path).await.0, 405, "{path}");
        }
        for path in ["/", "/v1/status", "/v1/warm", "/v1/openapi.json", "/metrics/"] {
            assert_eq!(served.port("GET", path).await.0, 404, "{path}");
        }
        assert_eq!(served.port("GET", "/metrics").await.1, "tenderfs_warm_jobs_running 0\n");
    });
}

#[test]
fn readiness_follows_the_daemon() {
    serving(|served| async move {
        for (state, status) in [(State::Starting, 503), (State::Ready, 200), (State::Stopping, 503)]
        {
            *served.backend.state.lock().unwrap() = state;
            assert_eq!(served.ask("GET", "/readyz", None).await.0, status, "{state:?}");
            assert_eq!(served.ask("GET", "/healthz", None).await.0, 200);
        }
    });
}

#[test]
fn the_last_event_of_a_job_has_its_final_state() {
    serving(|served| async move {
        let request =
            WarmRequest { path: "train".to_owned(), recursive: true, ..WarmRequest::default() };
        let job = served.ended_job(&serde_json::to_value(&request).unwrap()).await;
        let job: model::WarmJob = serde_json::from_value(job).unwrap();
        assert_eq!((job.state, job.progress.files_warmed), (WarmState::Done, 2));
        let (_, listed) = served.json("GET", "/v1/warm", None).await;
        assert_eq!(listed.as_array().unwrap().len(), 1);
    });
}

#[test]
fn the_socket_is_private_and_belongs_to_one_living_daemon() {
    serving(|served| async move {
        let socket = served.socket();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));

        let second = bind(&settings(&socket)).err().unwrap();
        assert!(matches!(second, AdminError::InUse { .. }), "{second}");

        let stale = served.dir.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        let bound = bind(&settings(&stale)).unwrap();
        drop(bound);
        assert!(!stale.exists(), "a daemon that ends takes its socket away");

        let file = served.dir.path().join("file");
        std::fs::write(&file, "data").unwrap();
        assert!(matches!(bind(&settings(&file)).err(), Some(AdminError::NotASocket { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    serving(|served| async move {
        let other = served.dir.path().join("other.sock");
        let settings = DaemonSettings { metrics_listen: Some(served.port), ..settings(&other) };
        let error = bind(&settings).err().unwrap().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {} for metrics", served.port)),
            "{error}"
        );
        assert!(!other.exists());
    });
}

#[test]
fn heads_are_bounded() {
    serving(|served| async move {
        let stream = UnixStream::connect(served.socket()).await.unwrap();
        let path = format!("/{}", "x".repeat(40_000));
        let (status, _) = exchange(stream, "GET", &path, String::new()).await;
        assert!(matches!(status, 414 | 431), "{status}");
    });
}
