//! The S3 server of the comparison: the lab in a process of its own, so that its processor time is its own and a
//! daemon that dies does not take it along.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tenderfs_lab::{Lab, LabError, Latency, Shape};

use super::child::{Child, own};
use super::data::{BUCKET, Scale, Set, objects};
use super::error::CompareError;
use super::http;
use crate::cli::LabArgs;

/// The key pair of the daemon's requests; others may come unsigned.
pub(super) const KEYS: (&str, &str) = ("tenderfs-bench", "tenderfs-bench-secret");

/// Where the lab is, as the child says it in one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Address {
    endpoint: String,
    control: String,
    region: String,
}

/// What the ledger counted since it was cleared.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Stats {
    /// Requests of any kind.
    pub(super) requests: u64,
    /// GETs of objects.
    pub(super) gets: u64,
    /// Bytes of bodies sent.
    pub(super) body_bytes: u64,
}

/// The running lab.
#[derive(Debug)]
pub(super) struct LabProcess {
    // Ends with its input, that is when this is dropped, however that comes about.
    _child: Child,
    address: Address,
}

/// `tenderfs-bench lab`: serves all sets until its input ends.
pub fn serve(args: &LabArgs) -> Result<(), LabError> {
    let lab = Lab::builder().credentials(KEYS.0, KEYS.1).allow_anonymous().start()?;
    lab.create_bucket(BUCKET)?;
    for set in Set::ALL {
        for object in objects(set, Scale(args.scale), args.seed) {
            lab.put(BUCKET, &format!("{}/{}", set.prefix(), object.key), object.content)?;
        }
    }
    let (endpoint, control) = (lab.endpoint(), lab.control_url());
    let address = Address { endpoint, control, region: lab.region().to_owned() };
    let line = serde_json::to_string(&address)
        .unwrap_or_else(|error| unreachable!("three strings: {error}"));
    println!("{line}");
    // Whatever ends the input ends the lab.
    drop(io::stdin().read_to_end(&mut Vec::new()));
    Ok(())
}

impl LabProcess {
    /// Starts it and waits until it has its objects.
    pub(super) fn start(
        scale: Scale,
        seed: u64,
        folder: &Path,
    ) -> Result<LabProcess, CompareError> {
        let mut command = own("lab")?;
        command.args(["--scale", &scale.0.to_string(), "--seed", &seed.to_string()]);
        let mut child = Child::start("lab", &mut command, folder)?;
        let mut line = String::new();
        if let Some(output) = child.output() {
            BufReader::new(output).read_line(&mut line).map_err(CompareError::file(folder))?;
        }
        match serde_json::from_str(&line) {
            Ok(address) => Ok(LabProcess { _child: child, address }),
            Err(_) => Err(child.failed("did not start")),
        }
    }

    /// `http://host:port` of S3.
    pub(super) fn endpoint(&self) -> &str {
        &self.address.endpoint
    }

    /// `host:port` of S3.
    pub(super) fn host(&self) -> &str {
        without_scheme(&self.address.endpoint)
    }

    /// Its region.
    pub(super) fn region(&self) -> &str {
        &self.address.region
    }

    /// The path of an object in a URL.
    pub(super) fn path(set: Set, key: &str) -> String {
        format!("/{BUCKET}/{}/{key}", set.prefix())
    }

    /// As fast as it goes.
    pub(super) fn unshaped(&self) -> Result<(), CompareError> {
        self.shape(&Shape::default())
    }

    /// The link of the cold suite, and nothing faster.
    pub(super) fn shape(&self, shape: &Shape) -> Result<(), CompareError> {
        let body = serde_json::to_string(shape)
            .unwrap_or_else(|error| unreachable!("plain values: {error}"));
        self.ask(("PUT", "/shape"), &body).map(drop)
    }

    /// Forgets what was asked so far.
    pub(super) fn clear_ledger(&self) -> Result<(), CompareError> {
        self.ask(("DELETE", "/ledger"), "").map(drop)
    }

    /// What was asked since the ledger was cleared.
    pub(super) fn stats(&self) -> Result<Stats, CompareError> {
        let answer = self.ask(("GET", "/stats"), "")?;
        serde_json::from_str(&answer)
            .map_err(|_| CompareError::Answer { whom: "the lab", answer: answer.clone() })
    }

    fn ask(&self, (method, path): (&str, &str), body: &str) -> Result<String, CompareError> {
        let failed = |source| CompareError::Ask { whom: "the lab", what: path.to_owned(), source };
        let stream = TcpStream::connect(without_scheme(&self.address.control)).map_err(failed)?;
        http::ask(stream, (method, path), body).map_err(failed)
    }
}

fn without_scheme(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

/// The shaped link: S3 as one host sees it in a good region, with a limit of the host's own.
pub(super) fn link() -> Shape {
    Shape {
        first_byte: Latency::Fixed(std::time::Duration::from_millis(20)),
        connection_bytes_per_second: Some(90_000_000),
        total_bytes_per_second: Some(LINK_BYTES_PER_SECOND),
        requests_per_second: None,
    }
}

/// What all connections of the shaped link carry together.
pub(super) const LINK_BYTES_PER_SECOND: u64 = 800_000_000;
