//! The S3 server of the comparison: the lab in a process of its own, so that its processor time is its own and a
//! daemon that dies does not take it along.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tenderfs_lab::{Content, Lab, LabError, Latency, Shape, TlsFront};

use super::child::{Child, own};
use super::data::{BUCKET, Object, Set};
use super::error::CompareError;
use super::http;
use crate::cli::LabArgs;

/// The key pair of the daemon's requests; others may come unsigned.
pub(crate) const KEYS: (&str, &str) = ("tenderfs-bench", "tenderfs-bench-secret");

/// Where the lab is, as the child says it in one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Address {
    endpoint: String,
    control: String,
    region: String,
    /// The same in TLS.
    encrypted: String,
    /// The certificate of that.
    ca_bundle: PathBuf,
}

/// A way to ask the lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door<'l> {
    /// `scheme://host:port`.
    pub(crate) endpoint: &'l str,
    /// Whom to trust there.
    pub(crate) ca_bundle: Option<&'l Path>,
    /// The region to sign for.
    pub(crate) region: &'l str,
}

/// What the ledger counted since it was cleared.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Stats {
    /// Requests of any kind.
    pub(crate) requests: u64,
    /// GETs of objects.
    pub(crate) gets: u64,
    /// Bytes of bodies sent.
    pub(crate) body_bytes: u64,
}

/// The running lab.
#[derive(Debug)]
pub(crate) struct LabProcess {
    // Ends with its input, that is when this is dropped, however that comes about.
    _child: Child,
    address: Address,
}

/// An object to be served, as a line of JSON says it to the child.
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    key: String,
    seed: u64,
    bytes: u64,
}

/// `tenderfs-bench lab`: serves the objects of a list until its input ends.
pub fn serve(args: &LabArgs) -> Result<(), CompareError> {
    let list = fs::read_to_string(&args.objects).map_err(CompareError::file(&args.objects))?;
    let served = |line: &str| {
        serde_json::from_str(line).map_err(|_| CompareError::Answer {
            whom: "the list of objects",
            answer: line.to_owned(),
        })
    };
    let objects = list.lines().map(served).collect::<Result<Vec<Served>, _>>()?;
    let certificate = args.objects.with_extension("pem");
    serve_objects(&objects, certificate).map_err(|source| CompareError::Lab { source })
}

fn serve_objects(objects: &[Served], ca_bundle: PathBuf) -> Result<(), LabError> {
    let lab = Lab::builder().credentials(KEYS.0, KEYS.1).allow_anonymous().start()?;
    lab.create_bucket(BUCKET)?;
    for object in objects {
        lab.put(BUCKET, &object.key, Content::seeded(object.seed, object.bytes))?;
    }
    let (endpoint, control) = (lab.endpoint(), lab.control_url());
    let thread = |source| LabError::Thread { source };
    let front = TlsFront::start(&lab, &["127.0.0.1"]).map_err(thread)?;
    fs::write(&ca_bundle, front.certificate()).map_err(thread)?;
    let encrypted = format!("https://127.0.0.1:{}", front.port());
    let region = lab.region().to_owned();
    let address = Address { endpoint, control, region, encrypted, ca_bundle };
    let line = serde_json::to_string(&address)
        .unwrap_or_else(|error| unreachable!("plain values: {error}"));
    println!("{line}");
    // Whatever ends the input ends the lab.
    drop(io::stdin().read_to_end(&mut Vec::new()));
    Ok(())
}

impl LabProcess {
    /// Starts it and waits until it has its objects.
    pub(crate) fn start(objects: &[Object], folder: &Path) -> Result<LabProcess, CompareError> {
        let list = folder.join("objects.jsonl");
        fs::write(&list, lines_of(objects)).map_err(CompareError::file(&list))?;
        let mut command = own("lab")?;
        command.arg("--objects").arg(&list);
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
    pub(crate) fn endpoint(&self) -> &str {
        &self.address.endpoint
    }

    /// `host:port` of S3.
    pub(crate) fn host(&self) -> &str {
        without_scheme(&self.address.endpoint)
    }

    /// Its region.
    pub(crate) fn region(&self) -> &str {
        &self.address.region
    }

    /// Asks in plain HTTP.
    pub(crate) fn plain(&self) -> Door<'_> {
        Door { endpoint: self.endpoint(), ca_bundle: None, region: self.region() }
    }

    /// Asks in TLS.
    pub(crate) fn encrypted(&self) -> Door<'_> {
        let Address { encrypted, ca_bundle, region, .. } = &self.address;
        Door { endpoint: encrypted, ca_bundle: Some(ca_bundle), region }
    }

    /// The path of an object in a URL.
    pub(crate) fn path(set: Set, key: &str) -> String {
        format!("/{BUCKET}/{}/{key}", set.prefix())
    }

    /// As fast as it goes.
    pub(crate) fn unshaped(&self) -> Result<(), CompareError> {
        self.shape(&Shape::default())
    }

    /// The link of the cold suite, and nothing faster.
    pub(crate) fn shape(&self, shape: &Shape) -> Result<(), CompareError> {
        let body = serde_json::to_string(shape)
            .unwrap_or_else(|error| unreachable!("plain values: {error}"));
        self.ask(("PUT", "/shape"), &body).map(drop)
    }

    /// Forgets what was asked so far.
    pub(crate) fn clear_ledger(&self) -> Result<(), CompareError> {
        self.ask(("DELETE", "/ledger"), "").map(drop)
    }

    /// What was asked since the ledger was cleared.
    pub(crate) fn stats(&self) -> Result<Stats, CompareError> {
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

/// The list of objects, which all are seeded.
fn lines_of(objects: &[Object]) -> String {
    let line = |object: &Object| {
        let Content::Seeded { seed, size_bytes: bytes } = object.content else {
            unreachable!("the bytes of {} follow from a seed", object.key)
        };
        let served = Served { key: object.key.clone(), seed, bytes };
        let line = serde_json::to_string(&served)
            .unwrap_or_else(|error| unreachable!("plain values: {error}"));
        line + "\n"
    };
    objects.iter().map(line).collect()
}

fn without_scheme(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

/// The shaped link: S3 as one host sees it in a good region, with a limit of the host's own.
pub(crate) fn link() -> Shape {
    Shape {
        first_byte: Latency::Fixed(std::time::Duration::from_millis(20)),
        connection_bytes_per_second: Some(90_000_000),
        total_bytes_per_second: Some(LINK_BYTES_PER_SECOND),
        requests_per_second: None,
    }
}

/// What all connections of the shaped link carry together.
pub(crate) const LINK_BYTES_PER_SECOND: u64 = 800_000_000;
