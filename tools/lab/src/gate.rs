//! What a request passes on its way in and its answer on the way out: the ledger, the faults, the
//! allowance, the region, s3s, the latency.
//!
//! Invariant: every request that arrives ends in the ledger, whatever becomes of its connection.

mod clock;
mod reply;
mod spoil;

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_RANGE;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use s3s::service::S3Service;

use self::reply::Reply;
pub(crate) use self::reply::ReplyBody;
use crate::fault::{Fault, Faults};
use crate::ledger::{Ledger, Record};
use crate::pace::Pace;
use crate::request::{Facts, Operation, signed_region};
use crate::service::{Directive, escape_controls};
use crate::timer;
use crate::wire::{Line, Outgoing};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// What all connections share.
pub(crate) struct Gate {
    pub(crate) s3: S3Service,
    pub(crate) ledger: Ledger,
    pub(crate) faults: Faults,
    pub(crate) pace: Arc<Pace>,
    /// The region that signatures must name; empty if any will do.
    pub(crate) region: String,
    /// What a host that carries a bucket's name ends with.
    pub(crate) domain: Option<String>,
}

/// The connection is to be dropped without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was to be dropped without an answer")]
pub(crate) struct Dropped;

/// Ends the request in the ledger if it goes away unanswered.
struct Unanswered(Option<Arc<Record>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            let mut entry = record.entry();
            record.end(&mut entry, false);
        }
    }
}

impl Gate {
    /// Answers one request of the connection that `line` belongs to.
    pub(crate) async fn answer(
        &self,
        line: Rc<Line>,
        connection: u64,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Dropped> {
        let arrived = self.pace.now_ns();
        let facts = Facts::of(&request, self.domain.as_deref());
        let record = self.ledger.enter(&facts, connection);
        let mut unanswered = Unanswered(Some(Arc::clone(&record)));
        let fault = self.faults.decide(&facts);
        record.entry().fault = fault.as_ref().map(Fault::name);
        let head_only = facts.operation == Operation::Head
            || facts.operation == Operation::HeadBucket
            || request.method() == http::Method::HEAD;

        let latency = u64::try_from(self.latency(fault.as_ref()).as_nanos()).unwrap_or(u64::MAX);
        let due = arrived.saturating_add(latency);
        if fault == Some(Fault::HangBeforeHeaders) {
            pending::<()>().await;
        }
        let instead = if self.pace.allows(arrived) {
            self.instead(&request, fault.as_ref())
        } else {
            Some(Reply::error(503, reply::error_code(503), None))
        };
        let mut reply = match instead {
            Some(reply) => reply,
            None => self.operate(request, &facts, fault.as_ref()).await,
        };
        let mut outgoing = Outgoing::new(record, 0);
        if let Some(fault) = &fault {
            spoil::spoil(&mut reply, &mut outgoing, &facts, fault);
        }
        if due > arrived {
            timer::sleep(Duration::from_nanos(due.saturating_sub(self.pace.now_ns()))).await;
        }
        outgoing.due_ns = due;
        if fault == Some(Fault::ResetBeforeHeaders) {
            line.reset_at_end();
            return Err(Dropped);
        }
        let id = HeaderValue::from_str(&format!("{:016X}", outgoing.record.seq()));
        reply.headers.extend(id.ok().map(|id| (REQUEST_ID, id)));
        let response = reply.into_response(head_only, &mut outgoing);
        outgoing.record.entry().status = response.status().as_u16();
        unanswered.0 = None;
        line.announce(outgoing);
        Ok(response)
    }

    fn latency(&self, fault: Option<&Fault>) -> Duration {
        let slow = match fault {
            Some(Fault::Slow { first_byte }) => self.pace.draw(*first_byte),
            _ => Duration::ZERO,
        };
        self.pace.first_byte() + slow
    }

    /// The answer that a fault or a wrong region gives in place of the operation's.
    fn instead(&self, request: &Request<Incoming>, fault: Option<&Fault>) -> Option<Reply> {
        match fault {
            Some(Fault::Status { code, retry_after }) => {
                return Some(Reply::error(*code, reply::error_code(*code), *retry_after));
            }
            Some(Fault::S3Error { code, error_code }) => {
                return Some(Reply::error(*code, error_code, None));
            }
            Some(Fault::ClockBehind { seconds }) => {
                if let Some(reply) = clock::refusal(request, Timestamp::now(), *seconds) {
                    return Some(reply);
                }
            }
            Some(Fault::Redirect { code, location }) => {
                return Some(Reply::redirect(*code, location));
            }
            _ => {}
        }
        let signed = signed_region(request)?;
        let in_query = !request.headers().contains_key(http::header::AUTHORIZATION);
        let wrong = !self.region.is_empty() && signed != self.region;
        wrong.then(|| Reply::wrong_region(&signed, &self.region, in_query))
    }

    /// Has s3s do what is asked.
    async fn operate(
        &self,
        request: Request<Incoming>,
        facts: &Facts,
        fault: Option<&Fault>,
    ) -> Reply {
        let mut request = request.map(s3s::Body::from);
        if let Some(directive) = fault.and_then(directive) {
            request.extensions_mut().insert(directive);
        }
        let Ok(response) = self.s3.call(request).await else {
            return Reply::error(500, "InternalError", None);
        };
        let Some(mut reply) = Reply::collect(response).await else {
            return Reply::error(500, "InternalError", None);
        };
        if reply.status == StatusCode::NOT_MODIFIED {
            reply.slices.clear();
        }
        if reply.status == StatusCode::OK && reply.headers.contains_key(CONTENT_RANGE) {
            // s3s answers 200 to a HEAD with a range.
            reply.status = StatusCode::PARTIAL_CONTENT;
        }
        if facts.operation == Operation::List {
            reply.slices = reply.slices.into_iter().map(escape_controls).collect();
        }
        reply
    }
}

/// What the fault asks of the operation.
fn directive(fault: &Fault) -> Option<Directive> {
    let none = Directive::default();
    match fault {
        Fault::FullBodyFor206 => Some(Directive { ignore_range: true, ..none }),
        Fault::WrongRange => Some(Directive { shift_range: true, ..none }),
        Fault::IgnoreIfMatch => Some(Directive { ignore_if_match: true, ..none }),
        Fault::EndlessListing(endless) => Some(Directive { endless: Some(*endless), ..none }),
        _ => None,
    }
}
