//! The few words of HTTP that control endpoints need: one request a connection, the answer read to its end.
//!
//! The bare GET that first bytes are compared with is here too: it is meant to be the least that a client can do.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Sends a request and returns the body of its answer; any status but 200 and 201 is an error.
pub(crate) fn ask(
    mut stream: impl Read + Write,
    (method, path): (&str, &str),
    body: &str,
) -> io::Result<String> {
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if matches!(status_of(head), Some("200" | "201")) {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(format!("{}: {body}", head.lines().next().unwrap_or_default())))
    }
}

/// The status in the first line of an answer.
fn status_of(head: &str) -> Option<&str> {
    head.split(' ').nth(1)
}

/// A connection that stays open between GETs.
#[derive(Debug)]
pub(crate) struct BareClient {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl BareClient {
    /// Connects to `host:port`.
    pub(crate) fn connect(host: &str) -> io::Result<BareClient> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(BareClient { stream, host: host.to_owned(), buffer: vec![0; HEAD_BYTES_MAX * 2] })
    }

    /// Fetches the first `count` bytes of an object, which must fit into 64 KiB.
    pub(crate) fn first_bytes(&mut self, path: &str, count: usize) -> io::Result<&[u8]> {
        let last = count - 1;
        write!(
            self.stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nRange: bytes=0-{last}\r\n\r\n",
            self.host
        )?;
        let mut filled = 0;
        loop {
            let got = self.stream.read(&mut self.buffer[filled..])?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += got;
            let Some(start) = body_start(&self.buffer[..filled]) else { continue };
            if status_of(&String::from_utf8_lossy(&self.buffer[..start])) != Some("206") {
                let head = String::from_utf8_lossy(&self.buffer[..start]).into_owned();
                return Err(io::Error::other(head));
            }
            if filled >= start + count {
                return Ok(&self.buffer[start..start + count]);
            }
        }
    }
}

/// Where the body begins, once the head is there.
fn body_start(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    struct Answers(Cursor<&'static str>);

    impl Read for Answers {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Answers {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_the_statuses_200_and_201_are_answers() {
        let ask = |text| ask(Answers(Cursor::new(text)), ("GET", "/"), "");
        assert_eq!(ask("HTTP/1.0 200 OK\r\na: b\r\n\r\nbody").unwrap(), "body");
        assert_eq!(ask("HTTP/1.0 201 Created\r\n\r\n{}").unwrap(), "{}");
        let refused = ask("HTTP/1.0 404 Not Found\r\n\r\nno such thing").unwrap_err();
        assert!(refused.to_string().contains("404 Not Found: no such thing"), "{refused}");
        assert!(ask("HTTP/1.0 200 OK\r\n").is_err());
    }
}
