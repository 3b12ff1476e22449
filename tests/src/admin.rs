//! A client of the admin API over its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Nothing the tests ask takes longer.
const DEADLINE: Duration = Duration::from_mins(1);

/// Speaks to one daemon's admin socket.
#[derive(Debug)]
pub struct Admin {
    socket: PathBuf,
    runtime: Runtime,
    client: Client,
}

/// What the daemon answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

impl Admin {
    /// A client of the socket at `socket`, which need not be there yet.
    pub fn new(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = Client::builder()
            .unix_socket(socket)
            .timeout(DEADLINE)
            // The daemon may close a connection that is idle.
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client without TLS can always be built");
        Self { socket: socket.to_owned(), runtime, client }
    }

    /// The socket this client speaks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET `path`; a stream of events is read to its end.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None)
    }

    /// POST `body` as JSON to `path`.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body))
    }

    /// POST `text` to `path` as it is.
    #[track_caller]
    pub fn post_text(&self, path: &str, text: String) -> Answer {
        self.ask(path, self.client.post(format!("http://localhost{path}")).body(text))
    }

    /// DELETE `path`.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None)
    }

    /// The sum of the samples of metric `name` that have all these labels, 0 if there are none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.get("/metrics").text;
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    #[track_caller]
    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.client.request(method, format!("http://localhost{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.ask(path, request)
    }

    #[track_caller]
    fn ask(&self, path: &str, request: RequestBuilder) -> Answer {
        let answer = self.runtime.block_on(async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>(Answer { status, text: response.text().await? })
        });
        answer.unwrap_or_else(|error| panic!("{path} over {}: {error:?}", self.socket.display()))
    }
}
