//! The command line's side of the admin API.
//!
//! A user names a path, not a socket: [`find`] asks every daemon of this user which mounts it serves and takes the one
//! whose mount point is nearest above the path.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use tenderfs_daemon::admin::model::{
    CachedObjects, EvictReport, EvictRequest, Mount, MountState, Pin, PinReport, PinRequest,
    PlanAccepted, PlanJob, Refusal, Status, VerifyReport, WarmCreated, WarmJob, WarmRequest,
};
use tenderfs_daemon::config::{Machine, admin_sockets, process_environment};

use crate::error::innermost;

/// How long a daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to read a plan, or a catalogue, of millions of lines.
const POST_TIMEOUT: Duration = Duration::from_mins(2);

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The client itself could not be made.
    #[error("cannot make a client for {socket}: {reason}", socket = socket.display())]
    Client {
        /// The admin socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nobody answers on the socket.
    #[error("no daemon answers on {socket} ({reason}); {HOW_TO_START}", socket = socket.display())]
    NoAnswer {
        /// The admin socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no daemon at all.
    #[error("no daemon answers: none of the sockets in {dir} leads to one; {HOW_TO_START}", dir = dir.display())]
    NoDaemon {
        /// Where sockets were looked for.
        dir: PathBuf,
    },
    /// There are several daemons, and nobody said which one is meant.
    #[error(
        "several daemons answer: name a path of the one you mean, or its socket with --socket: {sockets}"
    )]
    WhichDaemon {
        /// Their sockets.
        sockets: String,
    },
    /// The daemon has several mounts, and nobody said which one is meant.
    #[error("the daemon has several mounts: name the one you mean with --mount: {mounts}")]
    WhichMount {
        /// Every mount point that is served.
        mounts: String,
    },
    /// No daemon serves the path.
    #[error("no daemon serves {path}; the mounts are: {mounts}", path = path.display())]
    NotServed {
        /// As asked.
        path: PathBuf,
        /// Every mount point that is served.
        mounts: String,
    },
    /// The daemon refused, and said why.
    #[error("{error}; {hint}")]
    Refused {
        /// What went wrong.
        error: String,
        /// What to do.
        hint: String,
    },
    /// The daemon answered something else than expected.
    #[error("the daemon on {socket} answered {what}: is it of another version?", socket = socket.display())]
    Answer {
        /// The admin socket.
        socket: PathBuf,
        /// The status, or what was wrong with the body.
        what: String,
    },
}

const HOW_TO_START: &str =
    "start one with `tenderfs mount s3://BUCKET DIR` or `systemctl start tenderfsd`";

/// A daemon that can be asked.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
    http: Client,
}

impl AdminClient {
    /// The daemon behind a socket; whether there is one shows with the first question.
    pub fn new(socket: PathBuf) -> Result<AdminClient, AdminError> {
        let http = Client::builder()
            .unix_socket(socket.as_path())
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|error| AdminError::Client {
                socket: socket.clone(),
                reason: innermost(&error),
            })?;
        Ok(AdminClient { socket, http })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it does.
    pub async fn status(&self) -> Result<Status, AdminError> {
        self.ask(self.request(Method::GET, "v1/status")).await
    }

    /// Starts a warm job.
    pub async fn warm(&self, request: &WarmRequest) -> Result<WarmCreated, AdminError> {
        self.ask(self.request(Method::POST, "v1/warm").json(request)).await
    }

    /// How far a warm job is.
    pub async fn warm_job(&self, id: u64) -> Result<WarmJob, AdminError> {
        self.ask(self.request(Method::GET, &format!("v1/warm/{id}"))).await
    }

    /// Cancels a warm job; answers once it has ended, with where it stands.
    pub async fn cancel_warm_job(&self, id: u64) -> Result<WarmJob, AdminError> {
        self.ask(self.request(Method::DELETE, &format!("v1/warm/{id}"))).await
    }

    /// Starts to verify the disk tier.
    pub async fn verify(&self) -> Result<VerifyReport, AdminError> {
        self.ask(self.request(Method::POST, "v1/cache/verify")).await
    }

    /// How far the last verification is.
    pub async fn verification(&self) -> Result<VerifyReport, AdminError> {
        self.ask(self.request(Method::GET, "v1/cache/verify")).await
    }

    /// Ends the verification that runs.
    pub async fn cancel_verification(&self) -> Result<VerifyReport, AdminError> {
        self.ask(self.request(Method::DELETE, "v1/cache/verify")).await
    }

    /// The objects on disk that `path` means, the largest `top` of them.
    pub async fn cached_objects(&self, path: &Path, top: u32) -> Result<CachedObjects, AdminError> {
        let path = segment(&path.display().to_string());
        let route = format!("v1/cache/objects?top={top}&path={path}");
        self.ask(self.request(Method::GET, &route).timeout(POST_TIMEOUT)).await
    }

    /// Lets go of what is cached.
    pub async fn evict(&self, request: &EvictRequest) -> Result<EvictReport, AdminError> {
        let asked = self.request(Method::POST, "v1/cache/evict").json(request);
        self.ask(asked.timeout(POST_TIMEOUT)).await
    }

    /// Has what is named stay on disk.
    pub async fn pin(&self, request: &PinRequest) -> Result<PinReport, AdminError> {
        let asked = self.request(Method::POST, "v1/cache/pins").json(request);
        self.ask(asked.timeout(POST_TIMEOUT)).await
    }

    /// Lets go of the pin of `path`.
    pub async fn unpin(&self, path: &Path) -> Result<PinReport, AdminError> {
        let route = format!("v1/cache/pins?path={}", segment(&path.display().to_string()));
        self.ask(self.request(Method::DELETE, &route).timeout(POST_TIMEOUT)).await
    }

    /// What is to stay on disk.
    pub async fn pins(&self) -> Result<Vec<Pin>, AdminError> {
        self.ask(self.request(Method::GET, "v1/cache/pins")).await
    }

    /// Posts the plan `text` to the mount at `mountpoint`; `query` says of which epoch and rank.
    pub async fn post_plan(
        &self,
        (job, mountpoint): (&str, &str),
        query: &[(&str, u64)],
        text: Vec<u8>,
    ) -> Result<PlanAccepted, AdminError> {
        let query = query.iter().map(|(name, value)| format!("&{name}={value}"));
        let route = format!("v1/jobs/{}/plans?{}", segment(job), on(mountpoint));
        let route = query.fold(route, |route, part| route + &part);
        self.ask(self.request(Method::POST, &route).timeout(POST_TIMEOUT).body(text)).await
    }

    /// Every job with plans on the mount at `mountpoint`.
    pub async fn plan_jobs(&self, mountpoint: &str) -> Result<Vec<PlanJob>, AdminError> {
        self.ask(self.request(Method::GET, &format!("v1/jobs?{}", on(mountpoint)))).await
    }

    /// One job with plans on the mount at `mountpoint`.
    pub async fn plan_job(&self, job: &str, mountpoint: &str) -> Result<PlanJob, AdminError> {
        let route = format!("v1/jobs/{}/status?{}", segment(job), on(mountpoint));
        self.ask(self.request(Method::GET, &route)).await
    }

    /// Has the plans of a job forgotten.
    pub async fn cancel_plans(&self, job: &str, mountpoint: &str) -> Result<PlanJob, AdminError> {
        let route = format!("v1/jobs/{}?{}", segment(job), on(mountpoint));
        self.ask(self.request(Method::DELETE, &route)).await
    }

    fn request(&self, method: Method, route: &str) -> RequestBuilder {
        // The host is not looked up: the connection is the socket.
        self.http.request(method, format!("http://tenderfs/{route}"))
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, AdminError> {
        let response = request.send().await.map_err(|error| AdminError::NoAnswer {
            socket: self.socket.clone(),
            reason: innermost(&error),
        })?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.answer(innermost(&error)))?;
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
            return Err(match serde_json::from_slice::<Refusal>(&body) {
                Ok(Refusal { error, hint }) => AdminError::Refused { error, hint },
                Err(_) => self.answer(status.to_string()),
            });
        }
        serde_json::from_slice(&body).map_err(|error| self.answer(error.to_string()))
    }

    fn answer(&self, what: String) -> AdminError {
        AdminError::Answer { socket: self.socket.clone(), what }
    }
}

/// An answer as a document for programs.
pub fn json_text(answer: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(answer)
        .unwrap_or_else(|error| unreachable!("an answer has string keys only: {error}"))
}

/// A name as one part of a path.
fn segment(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect()
}

/// The part of a query that names a mount.
fn on(mountpoint: &str) -> String {
    format!("mount={}", segment(mountpoint))
}

/// Every daemon of this user that answers, with its status; at least one.
pub async fn all() -> Result<Vec<(AdminClient, Status)>, AdminError> {
    let machine = Machine::detect(&process_environment);
    let mut found = Vec::new();
    for socket in admin_sockets(&machine) {
        let client = AdminClient::new(socket)?;
        // The socket of a daemon that was killed is still there; it is no error that nobody answers.
        match client.status().await {
            Ok(status) => found.push((client, status)),
            Err(AdminError::NoAnswer { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if found.is_empty() { Err(AdminError::NoDaemon { dir: machine.run_dir }) } else { Ok(found) }
}

/// The daemon behind `socket` if that is given, else the only one of this user.
pub async fn only(socket: Option<&Path>) -> Result<AdminClient, AdminError> {
    if let Some(socket) = socket {
        return AdminClient::new(socket.to_path_buf());
    }
    let daemons = all().await?;
    match daemons.as_slice() {
        [(client, _)] => Ok(client.clone()),
        several => {
            let sockets = several.iter().map(|(client, _)| client.socket().display().to_string());
            Err(AdminError::WhichDaemon { sockets: sockets.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// The daemon that serves `path`, or the one behind `socket` if that is given.
pub async fn find(path: &Path, socket: Option<&Path>) -> Result<AdminClient, AdminError> {
    if let Some(socket) = socket {
        return AdminClient::new(socket.to_path_buf());
    }
    let daemons = all().await?;
    let mounts = || {
        daemons
            .iter()
            .enumerate()
            .flat_map(|(index, (_, status))| status.mounts.iter().map(move |mount| (index, mount)))
    };
    match nearest(mounts(), path) {
        Some(index) => Ok(daemons[index].0.clone()),
        None => Err(AdminError::NotServed {
            path: path.to_path_buf(),
            mounts: mounts()
                .map(|(_, mount)| mount.mountpoint.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The daemon that serves `path`, and the mount point above it; if there is no path, the only daemon
/// and its only mount.
pub async fn find_mount(
    path: Option<&Path>,
    socket: Option<&Path>,
) -> Result<(AdminClient, String), AdminError> {
    let client = match path {
        Some(path) => find(path, socket).await?,
        None => only(socket).await?,
    };
    let mounts = client.status().await?.mounts;
    let place = match path {
        Some(path) => nearest(mounts.iter().enumerate(), path),
        None if mounts.len() == 1 => Some(0),
        None => None,
    };
    let names = || mounts.iter().map(|mount| mount.mountpoint.as_str()).collect::<Vec<_>>();
    match (place, path) {
        (Some(place), _) => Ok((client, mounts[place].mountpoint.clone())),
        (None, Some(path)) => {
            Err(AdminError::NotServed { path: path.to_path_buf(), mounts: names().join(", ") })
        }
        (None, None) => Err(AdminError::WhichMount { mounts: names().join(", ") }),
    }
}

/// The number that belongs to the mount with the longest mount point above `path`.
fn nearest<'a>(mounts: impl Iterator<Item = (usize, &'a Mount)>, path: &Path) -> Option<usize> {
    mounts
        .filter(|(_, mount)| mount.state != MountState::Unmounted)
        .filter(|(_, mount)| path.starts_with(&mount.mountpoint))
        .max_by_key(|(_, mount)| mount.mountpoint.len())
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(mountpoint: &str, state: MountState) -> Mount {
        let json = serde_json::json!({
            "name": "a", "source": "s3://a", "mountpoint": mountpoint, "state": "mounted", "endpoint": "",
            "read_only": true, "read_bytes_max": 0, "read_ahead_bytes": 0, "features": [], "requests": 0,
            "errors": 0, "served_bytes": 0, "s3_requests": 0, "s3_errors": 0, "s3_received_bytes": 0,
        });
        Mount { state, ..serde_json::from_value(json).unwrap() }
    }

    #[test]
    fn path_belongs_to_the_nearest_mount_above_it() {
        let mounts = [
            mount("/mnt", MountState::Mounted),
            mount("/mnt/data", MountState::Mounted),
            mount("/mnt/data/gone", MountState::Unmounted),
        ];
        for (path, index) in [
            ("/mnt/data/a/b", Some(1)),
            ("/mnt/data", Some(1)),
            ("/mnt/database", Some(0)),
            ("/mnt/data/gone/a", Some(1)),
            ("/home", None),
        ] {
            assert_eq!(nearest(mounts.iter().enumerate(), Path::new(path)), index, "{path}");
        }
    }

    #[tokio::test]
    async fn socket_without_a_daemon_is_named_with_the_way_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let error = AdminClient::new(socket.clone()).unwrap().status().await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, AdminError::NoAnswer { .. }), "{text}");
        assert!(
            text.contains(socket.to_str().unwrap()) && text.contains("tenderfs mount"),
            "{text}"
        );
    }
}
