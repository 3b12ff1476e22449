//! A small HTTP server whose answers are a function: it stands for the services that hand out
//! credentials, which answer a question with a document and are asked now and then.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest body of a question that is read.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeRequest {
    /// `GET`, `PUT` or `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// What came behind the head.
    pub body: String,
}

impl FakeRequest {
    /// The value of the header `name`, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A status and a body.
pub type FakeAnswer = (u16, String);

type Answers = dyn Fn(&FakeRequest) -> FakeAnswer + Send + Sync;

/// The server; it ends with its drop.
pub struct HttpFake {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl HttpFake {
    /// Serves on a free port of the loopback interface.
    pub fn start(
        answers: impl Fn(&FakeRequest) -> FakeAnswer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let (has_ended, answers): (_, Arc<Answers>) = (Arc::clone(&ended), Arc::new(answers));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if has_ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let answers = Arc::clone(&answers);
                // A client that goes away has no use for an answer.
                thread::spawn(move || drop(serve(&stream, &*answers)));
            }
        });
        Ok(Self { address, ended })
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for HttpFake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that waits for a client.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: &TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = FakeRequest {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..FakeRequest::default()
    };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0).min(BODY_BYTES_MAX)];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    let (status, body) = answers(&request);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} Answer\r\nContent-Length: {}\r\nConnection: close\r\n\
         x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_answers_what_was_asked() {
        let fake = HttpFake::start(|request| {
            (
                201,
                format!(
                    "{} {} {:?} {}",
                    request.method,
                    request.path,
                    request.header("x-a"),
                    request.body
                ),
            )
        })
        .unwrap();
        let mut stream = TcpStream::connect(fake.address).unwrap();
        write!(stream, "POST /a?b HTTP/1.1\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nPOST /a?b Some(\"1\") hi"), "{answer}");
    }
}
