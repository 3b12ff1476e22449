//! The control endpoint: what the Rust API orders and asks, over HTTP on a port of its own.
//!
//! | request | meaning |
//! |---|---|
//! | `GET /ledger?since=N` | `{"next": M, "dropped": D, "entries": [..]}`: the [`Entry`](crate::Entry)s from `seq` N on, as JSON; pass `next` as the next `since` |
//! | `DELETE /ledger` | forgets all entries |
//! | `GET /shape`, `PUT /shape` | the [`Shape`]: `{"first_byte": {"distribution": {"median": 0.02, "p99": 0.1}}, "connection_bytes_per_second": 90000000, "total_bytes_per_second": null, "requests_per_second": 200}`; latency is `"zero"`, `{"fixed": s}`, `{"uniform": {"min": s, "max": s}}` or that |
//! | `GET /faults` | `[{"id": 0, "rule": {..}, "seen": 9, "met": 1}]` |
//! | `POST /faults` | adds a [`FaultRule`], `{"on": {"operation": "get", "bucket": "b", "key": {"prefix": "p/"}, "when": {"nth": [3]}}, "times": 1, "fault": {"reset_in_body": {"after_bytes": 100}}}`; answers `{"id": 0}` |
//! | `DELETE /faults`, `DELETE /faults/0` | takes all rules away, or one |
//! | `GET /stats` | `{"requests": .., "gets": .., "body_bytes": .., "under_way": .., "dropped": ..}`, over the entries kept |
//!
//! Keys are `{"exact": k}`, `{"prefix": k}` or `{"glob": k}`; `when` is `"always"`, `{"nth": [n]}`,
//! `{"from": n}`, `{"every": n}` or `{"probability": {"probability": p, "seed": n}}`. What is left out
//! matches all. Errors are `{"error": ".."}` with status 400, 404 or 405. Bodies are at most 1 MiB.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::spawn_local;

use crate::fault::{FaultId, FaultRule, Faults};
use crate::ledger::{Ledger, Mark};
use crate::pace::Pace;
use crate::server::each_connection;
use crate::shape::Shape;

/// Most bytes that a request may carry.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What can be controlled.
pub(crate) struct Control {
    pub(crate) ledger: Ledger,
    pub(crate) faults: Faults,
    pub(crate) pace: Arc<Pace>,
}

type Answer = Response<Full<Bytes>>;

pub(crate) async fn serve(control: Arc<Control>, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    each_connection(&listener, |stream| {
        let control = Arc::clone(&control);
        let service = service_fn(move |request| {
            let control = Arc::clone(&control);
            async move { Ok::<_, Infallible>(control.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        spawn_local(async move {
            // A client of the control endpoint that goes away needs no word.
            drop(connection.await);
        });
    })
    .await;
}

impl Control {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return error(StatusCode::BAD_REQUEST, "the body is not whole, or too large");
        };
        let path = parts.uri.path().trim_end_matches('/');
        let query = parts.uri.query().unwrap_or("");
        self.route(&parts.method, path, query, &body.to_bytes())
    }

    fn route(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
        match (path, method) {
            ("/ledger", &Method::GET) => self.ledger_since(query),
            ("/ledger", &Method::DELETE) => {
                self.ledger.clear();
                done()
            }
            ("/shape", &Method::GET) => json_answer(&self.pace.shape()),
            ("/shape", &Method::PUT) => with_body(body, |shape: Shape| {
                self.pace.set_shape(shape);
                done()
            }),
            ("/faults", &Method::GET) => json_answer(&self.faults.rules_in_force()),
            ("/faults", &Method::POST) => with_body(body, |rule: FaultRule| {
                json_answer(&json!({"id": self.faults.add(rule)}))
            }),
            ("/faults", &Method::DELETE) => {
                self.faults.clear();
                done()
            }
            ("/stats", &Method::GET) => self.stats(),
            ("/ledger" | "/shape" | "/faults" | "/stats", _) => {
                error(StatusCode::METHOD_NOT_ALLOWED, "no such method here")
            }
            (_, &Method::DELETE) => {
                let id = path.strip_prefix("/faults/").and_then(|id| id.parse().ok());
                if id.is_some_and(|id| self.faults.remove(FaultId(id))) {
                    done()
                } else {
                    error(StatusCode::NOT_FOUND, "no such rule")
                }
            }
            _ => error(StatusCode::NOT_FOUND, "see /ledger, /shape, /faults, /stats"),
        }
    }

    fn ledger_since(&self, query: &str) -> Answer {
        let since = query.split('&').find_map(|pair| pair.strip_prefix("since="));
        let Ok(since) = since.unwrap_or("0").parse() else {
            return error(StatusCode::BAD_REQUEST, "`since` is a number");
        };
        let entries = self.ledger.since(Mark(since));
        let next = entries.last().map_or(since, |entry| entry.seq + 1);
        json_answer(&json!({"next": next, "dropped": self.ledger.dropped(), "entries": entries}))
    }

    fn stats(&self) -> Answer {
        let entries = self.ledger.entries();
        json_answer(&json!({
            "requests": entries.len(),
            "gets": self.ledger.gets(),
            "body_bytes": self.ledger.body_bytes(),
            "under_way": self.ledger.under_way(),
            "dropped": self.ledger.dropped(),
        }))
    }
}

fn with_body<T: DeserializeOwned>(body: &[u8], act: impl FnOnce(T) -> Answer) -> Answer {
    match serde_json::from_slice(body) {
        Ok(value) => act(value),
        Err(source) => error(StatusCode::BAD_REQUEST, &source.to_string()),
    }
}

fn json_answer(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, body),
        Err(source) => error(StatusCode::INTERNAL_SERVER_ERROR, &source.to_string()),
    }
}

fn done() -> Answer {
    answer(StatusCode::OK, b"{}".to_vec())
}

fn error(status: StatusCode, message: &str) -> Answer {
    answer(status, json!({"error": message}).to_string().into_bytes())
}

fn answer(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
