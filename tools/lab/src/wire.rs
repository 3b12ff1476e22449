//! One connection's socket, between hyper and the kernel.
//!
//! Everything that is true of bytes on the wire happens here: they are counted, held back, cut off. The
//! wire follows the answers by their framing: a head ends with an empty line, and the length of the body
//! that follows was announced when the answer was given to hyper.
//!
//! Invariant: a byte of a body is in the ledger if and only if the kernel took it.

mod head;
mod outgoing;
mod queue;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use self::head::HeadScanner;
pub(crate) use self::outgoing::{Cut, Ending, Outgoing};
use crate::pace::Pace;
use crate::shape::bucket::{Link, piece_bytes};
use crate::timer::Timer;

/// Most buffers in one write; hyper gives no more.
const SLICES_MAX: usize = 64;
/// Most bytes that one read takes.
const INBOX_BYTES: usize = 64 * 1024;
/// How late timers are taken to be before one has fired, and at most.
const TIMER_LAG_NS: u64 = 50_000;
const TIMER_LAG_NS_MAX: u64 = 1_000_000;
/// How long a connection that is to be cut waits for the client to take what was sent.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How often it looks.
const DRAIN_STEP: Duration = Duration::from_millis(1);

/// What the service of a connection tells its wire.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Answers given to hyper that the socket has not taken whole, in order.
    outgoing: RefCell<VecDeque<Outgoing>>,
    /// Whether the connection is to end with RST in place of FIN.
    reset: Cell<bool>,
}

impl Line {
    /// Announces an answer that is about to be given to hyper.
    pub(crate) fn announce(&self, outgoing: Outgoing) {
        self.outgoing.borrow_mut().push_back(outgoing);
    }

    /// Makes the end of the connection a reset.
    pub(crate) fn reset_at_end(&self) {
        self.reset.set(true);
    }
}

/// A socket that counts, paces and cuts.
pub(crate) struct Wire {
    stream: TcpStream,
    line: Rc<Line>,
    pace: Arc<Pace>,
    /// The answer whose bytes come next.
    current: Option<Outgoing>,
    head: HeadScanner,
    /// The bandwidth of this connection alone.
    link: Link,
    /// Body bytes that may go now.
    allowance: u64,
    /// Becomes the allowance when the timer fires.
    promised: u64,
    timer: Timer,
    /// When the timer was to fire.
    timer_due: u64,
    /// How late timers have been of late. They are set earlier by it, so that pieces are on time on
    /// average, also on a machine that is busy.
    timer_lag: u64,
    /// Whether the client has said that it sends no more; hyper takes that for its end.
    peer_gone: bool,
    /// When a connection that is to be cut began to wait for the client.
    draining: Option<Instant>,
    /// What was read last.
    inbox: Box<[u8]>,
}

/// What the wire may do with the next bytes.
enum Leave {
    /// Hand over as many of them as this.
    Write(usize),
    /// End the connection.
    Cut(Ending),
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, line: Rc<Line>, pace: Arc<Pace>) -> Self {
        Self {
            stream,
            line,
            pace,
            current: None,
            head: HeadScanner::default(),
            link: Link::default(),
            allowance: 0,
            promised: 0,
            timer: Timer::default(),
            timer_due: 0,
            timer_lag: TIMER_LAG_NS,
            peer_gone: false,
            draining: None,
            inbox: vec![0; INBOX_BYTES].into(),
        }
    }

    /// Takes up the next announced answer, if none is being sent.
    fn take_up(&mut self) {
        if self.current.is_none() {
            self.current = self.line.outgoing.borrow_mut().pop_front();
            if let Some(outgoing) = &self.current {
                self.head = HeadScanner::default();
                self.link.begin(outgoing.due_ns);
                self.pace.begin(outgoing.due_ns);
            }
        }
    }

    /// Lets go of the answer being sent.
    fn put_down(&mut self, completed: bool) {
        if let Some(outgoing) = self.current.take() {
            outgoing.end(completed);
            self.link.end();
            self.pace.end();
        }
    }

    /// How many bytes of `slices` may go now.
    fn poll_leave(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<Leave>> {
        let given: usize = slices.iter().map(|slice| slice.len()).sum();
        let Some(outgoing) = &self.current else { return Poll::Ready(Ok(Leave::Write(given))) };
        let (cut, body_left) = (outgoing.cut, outgoing.body_left());
        let bytes_per_second = outgoing.bytes_per_second;
        let (head_bytes, head_ended) = self.head.look_ahead(slices);
        if let Some(left) = cut.left_in_head(self.head.seen()) {
            if left == 0 || head_bytes == 0 {
                return self.poll_ending(cx, cut.ending).map_ok(Leave::Cut);
            }
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            return Poll::Ready(Ok(Leave::Write(left.min(head_bytes))));
        }
        let body_given = if head_ended { (given - head_bytes) as u64 } else { 0 };
        if head_bytes == 0 && body_left == 0 {
            return self.poll_ending(cx, cut.ending).map_ok(Leave::Cut);
        }
        let wanted = body_given.min(body_left);
        // The head goes with the first bytes of the body if they may go, and else alone.
        let body = match self.poll_allowance(cx, wanted, bytes_per_second) {
            Poll::Ready(allowed) => wanted.min(allowed?),
            Poll::Pending if head_bytes > 0 => 0,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(Ok(Leave::Write(head_bytes + usize::try_from(body).unwrap_or(usize::MAX))))
    }

    /// Body bytes that may go now, of the `wanted`.
    fn poll_allowance(
        &mut self,
        cx: &mut Context<'_>,
        wanted: u64,
        drip: Option<u64>,
    ) -> Poll<io::Result<u64>> {
        let limits = self.pace.limits();
        let connection = [drip, limits.connection].into_iter().flatten().min();
        let Some(least) = [connection, limits.total].into_iter().flatten().min() else {
            return Poll::Ready(Ok(u64::MAX));
        };
        loop {
            if self.timer.is_set() {
                ready!(self.timer.poll_fired(cx))?;
                self.allowance = std::mem::take(&mut self.promised);
                let late = self.pace.now_ns().saturating_sub(self.timer_due);
                self.timer_lag = (self.timer_lag * 7 / 8 + late / 8).min(TIMER_LAG_NS_MAX);
            }
            if self.allowance > 0 || wanted == 0 {
                return Poll::Ready(Ok(self.allowance));
            }
            let now = self.pace.now_ns();
            let piece = wanted.min(piece_bytes(least));
            let own = connection.map_or(now, |rate| self.link.reserve(now, piece, rate));
            let shared = limits.total.map_or(now, |rate| self.pace.reserve(now, piece, rate));
            let due = own.max(shared).saturating_sub(self.timer_lag);
            self.promised = piece;
            if due > now {
                self.timer.set(Duration::from_nanos(due - now))?;
                self.timer_due = due;
            } else {
                self.allowance = std::mem::take(&mut self.promised);
            }
        }
    }

    /// Waits until the client has taken what was sent, and tells how the connection then ends.
    fn poll_ending(&mut self, cx: &mut Context<'_>, ending: Ending) -> Poll<io::Result<Ending>> {
        if ending == Ending::Hang {
            // Reading tells when the client gives up.
            return if self.peer_gone { Poll::Ready(Ok(Ending::Close)) } else { Poll::Pending };
        }
        let began = *self.draining.get_or_insert_with(Instant::now);
        loop {
            ready!(self.timer.poll_fired(cx))?;
            let waiting = queue::unsent_bytes(&self.stream).unwrap_or(0);
            if waiting == 0 || self.peer_gone || began.elapsed() > DRAIN_MAX {
                return Poll::Ready(Ok(ending));
            }
            self.timer.set(DRAIN_STEP)?;
        }
    }

    /// Writes what may go of `slices` and counts it.
    fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.take_up();
        let leave = match self.poll_leave(cx, slices) {
            Poll::Ready(leave) => leave?,
            Poll::Pending if self.peer_gone => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            Poll::Pending => return Poll::Pending,
        };
        match leave {
            Leave::Write(bytes) => self.poll_hand_over(cx, slices, bytes),
            Leave::Cut(ending) => Poll::Ready(Err(self.cut(ending))),
        }
    }

    /// The error that makes hyper drop the connection.
    fn cut(&self, ending: Ending) -> io::Error {
        if ending == Ending::Reset {
            self.line.reset_at_end();
        }
        io::Error::other("the connection was to be cut here")
    }

    /// Gives the kernel up to `bytes` of `slices`, under the lock of the ledger's entry.
    fn poll_hand_over(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        bytes: usize,
    ) -> Poll<io::Result<usize>> {
        let mut room = [IoSlice::new(&[]); SLICES_MAX];
        let count = first_bytes(slices, bytes, &mut room);
        let slices = &room[..count];
        let stream = Pin::new(&mut self.stream);
        let Some(outgoing) = &mut self.current else {
            return stream.poll_write_vectored(cx, slices);
        };
        let record = Arc::clone(&outgoing.record);
        let mut entry = record.entry();
        let written = ready!(stream.poll_write_vectored(cx, slices))?;
        let body = (written - self.head.advance(slices, written)) as u64;
        let body = outgoing.count(body);
        entry.body_bytes_sent += body;
        if entry.first_byte.is_none() {
            entry.first_byte = Some(record.now());
        }
        let whole = self.head.ended() && outgoing.is_whole();
        if whole {
            // Under the same lock: who has seen the last byte finds the answer completed.
            record.end(&mut entry, true);
        }
        drop(entry);
        self.allowance = self.allowance.saturating_sub(body);
        if whole {
            self.put_down(true);
        }
        Poll::Ready(Ok(written))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.reset.get() {
            // If it fails the client sees FIN, which is the next best end.
            drop(self.stream.set_zero_linger());
        }
        // An answer cut behind its last byte was sent whole, and so was one that the end delimits.
        let whole = self.head.ended() && self.current.as_ref().is_some_and(Outgoing::all_sent);
        self.put_down(whole);
        while let Some(outgoing) = self.line.outgoing.borrow_mut().pop_front() {
            outgoing.end(false);
        }
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Lending hyper's own buffer to the socket takes unsafe code; requests are small, and uploads pay
        // one copy.
        let this = &mut *self;
        let len = cursor.remaining().min(this.inbox.len());
        let mut buffer = ReadBuf::new(&mut this.inbox[..len]);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
        this.peer_gone |= buffer.filled().is_empty() && len > 0;
        cursor.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nobody writes behind the last byte, so an answer that is cut there is cut here.
        match &self.current {
            Some(outgoing) if self.head.ended() && outgoing.body_left() == 0 => {
                let ending = outgoing.cut.ending;
                let ending = ready!(self.poll_ending(cx, ending))?;
                Poll::Ready(Err(self.cut(ending)))
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An answer that only the end of the connection delimits is whole now.
        if let Some(outgoing) = &mut self.current {
            outgoing.shut();
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The first `bytes` bytes of `slices`, in `room`; returns how many slices they are.
fn first_bytes<'a>(
    slices: &'a [IoSlice<'_>],
    mut bytes: usize,
    room: &mut [IoSlice<'a>; SLICES_MAX],
) -> usize {
    let mut count = 0;
    for (place, slice) in room.iter_mut().zip(slices) {
        if bytes == 0 {
            break;
        }
        let len = slice.len().min(bytes);
        *place = IoSlice::new(&slice[..len]);
        bytes -= len;
        count += 1;
    }
    count
}
