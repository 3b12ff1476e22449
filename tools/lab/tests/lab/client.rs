//! A client that hides nothing: it says what came, and how the connection ended.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rusty_s3::{Bucket, Credentials, Method, S3Action, UrlStyle};
use tenderfs_lab::{Content, Entry, Lab, LabBuilder};
use url::Url;

/// Longest wait for a byte before the client takes the server to hang.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With all the bytes that its head promised.
    Whole,
    /// The server closed the connection before.
    Closed,
    /// The server reset the connection before.
    Reset,
    /// Nothing came for the time that the client waits.
    Silence,
}

/// An answer, or what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// 0 if not even that came.
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes of the head that came.
    pub(crate) head_bytes: usize,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the first element of this name holds.
    pub(crate) fn element(&self, name: &str) -> String {
        self.elements(name).into_iter().next().unwrap_or_default()
    }

    /// What every element of this name holds.
    pub(crate) fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        let rest = text.split(&open).skip(1);
        rest.filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
    }
}

/// A connection to the lab.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes read behind the answer before.
    ahead: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(url: &Url) -> Self {
        let address = (url.host_str().unwrap(), url.port().unwrap());
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let connection = Self { stream, ahead: Vec::new() };
        connection.wait_at_most(PATIENCE);
        connection
    }

    /// Sets how long the client waits for a byte.
    pub(crate) fn wait_at_most(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    pub(crate) fn send(&mut self, method: &str, url: &Url, headers: &[(&str, &str)], body: &[u8]) {
        let target =
            url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let mut lines = vec![format!("{method} {target} HTTP/1.1")];
        if !headers.iter().any(|(name, _)| *name == "Host") {
            lines.push(format!("Host: {host}"));
        }
        lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            lines.push(format!("Content-Length: {}", body.len()));
        }
        let request = format!("{}\r\n\r\n", lines.join("\r\n"));
        self.stream.write_all(request.as_bytes()).unwrap();
        self.stream.write_all(body).unwrap();
    }

    pub(crate) fn receive(&mut self, method: &str) -> Answer {
        let mut bytes = std::mem::take(&mut self.ahead);
        let mut answer = Answer {
            status: 0,
            headers: Vec::new(),
            head_bytes: 0,
            body: Vec::new(),
            end: End::Whole,
        };
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if let Some(end) = self.read(&mut bytes) {
                (answer.head_bytes, answer.end) = (bytes.len(), end);
                return answer;
            }
        };
        let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        answer.head_bytes = head_end;
        answer.status = lines.next().unwrap()[9..12].parse().unwrap();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            answer.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        answer.body = bytes.split_off(head_end);
        if answer.header("transfer-encoding") == "chunked" {
            answer.end = self.read_chunks(&mut answer.body);
            return answer;
        }
        let bodiless = method == "HEAD" || matches!(answer.status, 204 | 304);
        let length = if bodiless { 0 } else { answer.header("content-length").parse().unwrap() };
        while answer.body.len() < length {
            if let Some(end) = self.read(&mut answer.body) {
                answer.end = end;
                break;
            }
        }
        if answer.body.len() > length {
            self.ahead = answer.body.split_off(length);
        }
        answer
    }

    /// Reads more; tells how the connection ended, if it did.
    fn read(&mut self, bytes: &mut Vec<u8>) -> Option<End> {
        let mut room = vec![0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => Some(End::Closed),
            Ok(read) => {
                bytes.extend_from_slice(&room[..read]);
                None
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(End::Reset),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Some(End::Silence)
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn read_chunks(&mut self, bytes: &mut Vec<u8>) -> End {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                if let Some(end) = self.read(bytes) {
                    return end;
                }
            };
            let length = String::from_utf8_lossy(&bytes[..line]).into_owned();
            let length = usize::from_str_radix(&length, 16).unwrap();
            while bytes.len() < line + 2 + length + 2 {
                if let Some(end) = self.read(bytes) {
                    return end;
                }
            }
            body.extend_from_slice(&bytes[line + 2..line + 2 + length]);
            bytes.drain(..line + 2 + length + 2);
            if length == 0 {
                *bytes = body;
                return End::Whole;
            }
        }
    }

    /// How the connection ends when nothing more is asked of it.
    pub(crate) fn end(&mut self) -> End {
        let mut rest = Vec::new();
        loop {
            if let Some(end) = self.read(&mut rest) {
                return end;
            }
        }
    }

    /// The first bytes of an answer, and no more than that.
    pub(crate) fn receive_some(&mut self) -> usize {
        let mut bytes = Vec::new();
        assert_eq!(self.read(&mut bytes), None);
        bytes.len()
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(method: &str, url: &Url, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut connection = Connection::open(url);
    connection.send(method, url, headers, body);
    connection.receive(method)
}

/// A lab with a bucket, and what signs for it.
pub(crate) struct Rig {
    pub(crate) lab: Lab,
    pub(crate) bucket: Bucket,
    pub(crate) credentials: Credentials,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Lab::builder())
    }

    pub(crate) fn with(builder: LabBuilder) -> Self {
        let lab = builder.start().unwrap();
        lab.create_bucket("data").unwrap();
        let bucket = bucket(&lab, "data", "us-east-1");
        let credentials = Credentials::new(lab.access_key(), lab.secret_key());
        Self { lab, bucket, credentials }
    }

    pub(crate) fn get(&self, key: &str, headers: &[(&str, &str)]) -> Answer {
        ask("GET", &self.get_url(key), headers, &[])
    }

    pub(crate) fn get_url(&self, key: &str) -> Url {
        self.bucket.get_object(Some(&self.credentials), key).sign(SIGNED_FOR)
    }

    pub(crate) fn head(&self, key: &str, headers: &[(&str, &str)]) -> Answer {
        let url = self.bucket.head_object(Some(&self.credentials), key).sign(SIGNED_FOR);
        ask("HEAD", &url, headers, &[])
    }

    pub(crate) fn put(&self, key: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let url = self.bucket.put_object(Some(&self.credentials), key).sign(SIGNED_FOR);
        ask("PUT", &url, headers, body)
    }

    /// A listing of version 2 with these parameters.
    pub(crate) fn list(&self, parameters: &[(&str, &str)]) -> Answer {
        ask("GET", &self.list_url(parameters), &[], &[])
    }

    pub(crate) fn list_url(&self, parameters: &[(&str, &str)]) -> Url {
        self.signed(Method::Get, "/data", &[parameters, &[("list-type", "2")]].concat())
    }

    /// A signed URL for what rusty-s3 has no action for.
    pub(crate) fn signed(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Url {
        let (url, mut query) = (format!("{}{path}", self.lab.endpoint()), query.to_vec());
        query.sort_unstable();
        rusty_s3::signing::sign(
            &jiff::Timestamp::now(),
            method,
            url.parse().unwrap(),
            self.lab.access_key(),
            self.lab.secret_key(),
            None,
            "us-east-1",
            SIGNED_FOR.as_secs(),
            query.iter().copied(),
            std::iter::empty::<(&str, &str)>(),
        )
    }

    /// Seeded content put under `key`.
    pub(crate) fn seeded(&self, key: &str, size_bytes: u64) -> Content {
        let content = Content::seeded(size_bytes, size_bytes);
        self.lab.put("data", key, content.clone()).unwrap();
        content
    }

    /// The only entry of the ledger, ended.
    #[track_caller]
    pub(crate) fn only_entry(&self) -> Entry {
        assert!(self.lab.ledger().wait_idle(PATIENCE), "{:?}", self.lab.ledger().entries());
        let mut entries = self.lab.ledger().entries();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }
}

pub(crate) const SIGNED_FOR: Duration = Duration::from_hours(1);

pub(crate) fn bucket(lab: &Lab, name: &str, region: &str) -> Bucket {
    let endpoint = lab.endpoint().parse().unwrap();
    Bucket::new(endpoint, UrlStyle::Path, name.to_owned(), region.to_owned()).unwrap()
}
