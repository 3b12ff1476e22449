//! The bytes of one ranged GET, in order, whatever happens to the connections they come by.
//!
//! Invariant: what is yielded is the range asked for, of one version of the object, and nothing
//! else; a body that cannot be completed ends in an error, never early.

use std::rc::Rc;

use bytes::{Buf as _, Bytes};
use tenderfs_byterange::ByteRange;

use crate::answer::{self, Accepted, Asked, Ending};
use crate::checksum::Checksum;
use crate::client::{Answer, Core, Course, GetRequest};
use crate::counters::Operation;
use crate::error::{AnswerFault, Error};
use crate::retry::Importance;
use crate::signing::Ask;

/// The bytes of a ranged GET.
///
/// A connection that breaks, halts or lies is left and the rest asked for by another, by the retry
/// policy. Dropping a body closes its connection unless little of it is left.
pub struct Body {
    core: Rc<Core>,
    key: String,
    /// The version asked for, or that of the first answer if any was.
    etag: String,
    object_size_bytes: u64,
    importance: Importance,
    course: Course,
    /// What was not yielded yet; `None` once all was.
    left: Option<ByteRange>,
    /// `None` between two connections.
    stream: Option<Stream>,
    /// What the store says is the checksum of the whole object, if that is what was asked for.
    checksum: Option<Checksum>,
}

impl Body {
    /// Asks for `request` and waits for the head of a right answer.
    pub(crate) async fn open(core: Rc<Core>, request: GetRequest<'_>) -> Result<Self, Error> {
        let importance = request.importance;
        let course = Course::new(&core.bucket, Operation::Get, importance);
        let mut body = Self {
            core,
            key: request.key.to_owned(),
            etag: request.etag.to_owned(),
            object_size_bytes: request.object_size_bytes,
            importance,
            course,
            left: Some(request.range),
            stream: None,
            checksum: None,
        };
        loop {
            match body.connect(request.range).await {
                Ok(stream) => {
                    body.stream = Some(stream);
                    return Ok(body);
                }
                Err(error) => body.course.after(error).await?,
            }
        }
    }

    /// Reads the next bytes into the front of `room`, which must not be empty, and returns how many; 0
    /// after the last one. After an error nothing more comes, and what is in `room` means nothing.
    ///
    /// The future may be dropped at any time without losing bytes.
    pub async fn read(&mut self, room: &mut [u8]) -> Result<usize, Error> {
        debug_assert!(!room.is_empty(), "a read of nothing looks like the end");
        while let Some(left) = self.left {
            match self.step(left, room).await {
                Ok(count) => {
                    self.left = left.from(left.start() + count as u64);
                    if self.left.is_none() && self.checksum.is_none() {
                        self.settle();
                    }
                    return Ok(count);
                }
                Err(error) => {
                    self.stream = None;
                    self.course.after(error).await?;
                    self.core.bucket.counters().resumed.inc();
                }
            }
        }
        Ok(0)
    }

    /// Whether the store has sent a checksum of the bytes asked for, which are then the whole object.
    pub fn has_checksum(&self) -> bool {
        self.checksum.is_some()
    }

    /// Reads all bytes asked for into `room`, which is as long as they are, and compares them with
    /// the store's checksum; bytes that have another are asked for again by another connection.
    ///
    /// Nothing may have been read before.
    pub async fn read_checked(&mut self, room: &mut [u8]) -> Result<(), Error> {
        let whole = self.left;
        loop {
            let mut filled = 0;
            while filled < room.len() {
                match self.read(&mut room[filled..]).await? {
                    0 => break,
                    count => filled += count,
                }
            }
            let counters = self.core.bucket.counters();
            match &self.checksum {
                Some(checksum) if !checksum.is_of(room) => {
                    counters.checksum_mismatches.inc();
                    let algorithm = checksum.name();
                    // Closed, as whatever spoils bytes may be on its way.
                    self.stream = None;
                    self.course.after(Error::wrong(AnswerFault::Checksum { algorithm })).await?;
                    self.left = whole;
                }
                Some(_) => {
                    counters.checksums_compared.inc();
                    self.settle();
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    /// Reads the next of the bytes `left`, after connecting if need be.
    async fn step(&mut self, left: ByteRange, room: &mut [u8]) -> Result<usize, Error> {
        let stream = if let Some(stream) = &mut self.stream {
            stream
        } else {
            let stream = self.connect(left).await?;
            self.stream.insert(stream)
        };
        stream.read(&self.core, &self.course, left.len_bytes(), room).await
    }

    /// Asks for the bytes `left` and checks the head of the answer.
    async fn connect(&mut self, left: ByteRange) -> Result<Stream, Error> {
        let (key, etag) = (self.key.as_str(), self.etag.as_str());
        let is_whole = left.start() == 0 && left.end() == self.object_size_bytes;
        let ask = Ask::Get { key, etag, range: left, is_whole };
        let mut answer = self.course.within(self.core.ask(&ask, self.importance)).await?;
        let object_size_bytes = self.object_size_bytes;
        let asked = Asked { key, etag, range: left, object_size_bytes };
        let accepted = answer::check_get(&asked, answer.status, &answer.headers)?;
        let Accepted { skip_bytes, ending, etag } = accepted;
        if self.etag.is_empty() {
            self.etag = etag;
        }
        if is_whole {
            self.checksum = Checksum::of_whole(&answer.headers);
        }
        if ending == Ending::Announced && skip_bytes == 0 {
            answer.take_over(left.len_bytes());
        }
        Ok(Stream { answer, skip_bytes, ending, held: None, rest: Bytes::new() })
    }

    /// Lets go of the connection, for another request where that is possible.
    fn settle(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.answer.settle(&self.core);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The body of one answer.
struct Stream {
    answer: Answer,
    /// Bytes still to be thrown away.
    skip_bytes: u64,
    ending: Ending,
    /// The last bytes, until the end of the body has proved them to be the last.
    held: Option<Bytes>,
    /// Bytes that came and found no room yet.
    rest: Bytes,
}

impl Stream {
    /// Reads the next of `left_bytes` bytes into `room`; at least one.
    async fn read(
        &mut self,
        core: &Core,
        course: &Course,
        left_bytes: u64,
        room: &mut [u8],
    ) -> Result<usize, Error> {
        if let Some(read) = self.answer.read_bare(&core.bucket, course.left(), room).await {
            return read;
        }
        if self.rest.is_empty() {
            self.rest = self.next(core, course, left_bytes).await?;
        }
        let count = self.rest.len().min(room.len());
        self.rest.copy_to_slice(&mut room[..count]);
        Ok(count)
    }

    /// The next of `left_bytes` bytes, never more.
    async fn next(
        &mut self,
        core: &Core,
        course: &Course,
        left_bytes: u64,
    ) -> Result<Bytes, Error> {
        loop {
            let next = self.answer.next(&core.bucket, course.left()).await?;
            let Some(mut bytes) = next else {
                let missing_bytes = left_bytes;
                return self
                    .held
                    .take()
                    .ok_or_else(|| Error::wrong(AnswerFault::Truncated { missing_bytes }));
            };
            let skip = usize::try_from(self.skip_bytes).unwrap_or(usize::MAX).min(bytes.len());
            bytes.advance(skip);
            self.skip_bytes -= skip as u64;
            if bytes.is_empty() {
                continue;
            }
            if self.held.is_some() {
                return Err(Error::wrong(AnswerFault::TooLong));
            }
            let len_bytes = bytes.len() as u64;
            if len_bytes < left_bytes {
                return Ok(bytes);
            }
            match self.ending {
                Ending::Beyond => {
                    bytes.truncate(usize::try_from(left_bytes).unwrap_or(usize::MAX));
                    return Ok(bytes);
                }
                _ if len_bytes > left_bytes => return Err(Error::wrong(AnswerFault::TooLong)),
                Ending::Announced => return Ok(bytes),
                Ending::Unannounced => self.held = Some(bytes),
            }
        }
    }
}
