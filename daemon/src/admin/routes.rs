//! The routes: each a straight line from a request to what the daemon says.

mod inventory;
mod plans;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use futures_util::{Stream, StreamExt, stream};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::model::{
    self, Cache, Mount, Refusal, Status, VerifyReport, WarmCreated, WarmJob, WarmRequest, WarmState,
};
use crate::scrub::Scrub;
use crate::warm::{Job, WarmError};

#[derive(OpenApi)]
#[openapi(info(
    title = "TenderFS admin API",
    description = "What the TenderFS daemon tells and does over its Unix socket.",
))]
struct Document;

/// All routes with the document that describes them. A route cannot be served without being
/// described, for both come from the same annotation.
fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(mounts))
        .routes(routes!(cache))
        .routes(routes!(verify_start, verify_get, verify_cancel))
        .routes(routes!(warm_create, warm_list))
        .routes(routes!(warm_get, warm_cancel))
        .routes(routes!(warm_events))
        .merge(inventory::described())
        .merge(plans::described())
        .routes(routes!(openapi))
        .routes(routes!(metrics))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    described().into_openapi()
}

/// Everything, for the Unix socket.
pub(super) fn all(shared: Shared, body_bytes_max: usize) -> Router {
    let (router, _) = described().split_for_parts();
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(shared)
}

/// What a port may show to the network: three routes, nothing else, `GET` only.
pub(super) fn metrics_only(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", routing::get(metrics))
        .route("/healthz", routing::get(healthz))
        .route("/readyz", routing::get(readyz))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(shared)
}

/// The daemon as a whole.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json(shared.status())
}

/// Every mount.
#[utoipa::path(get, path = "/v1/mounts", responses((status = 200, body = Vec<Mount>)))]
async fn mounts(State(shared): State<Shared>) -> Json<Vec<Mount>> {
    Json(shared.status().mounts)
}

/// What is cached, and how well it serves.
#[utoipa::path(get, path = "/v1/cache", responses((status = 200, body = Cache)))]
async fn cache(State(shared): State<Shared>) -> Json<Cache> {
    Json(shared.status().cache)
}

/// Starts to compare all that is on disk with its checksums; what is wrong is dropped and fetched
/// again when it is read. Joins the pass that does so already.
#[utoipa::path(
    post, path = "/v1/cache/verify",
    responses((status = 200, body = VerifyReport), (status = 409, body = Refusal))
)]
async fn verify_start(State(shared): State<Shared>) -> Result<Json<VerifyReport>, ApiError> {
    Ok(Json(shared.scrub()?.request()))
}

/// The last verification of the disk tier, asked for or not.
#[utoipa::path(
    get, path = "/v1/cache/verify",
    responses(
        (status = 200, body = VerifyReport),
        (status = 404, body = Refusal),
        (status = 409, body = Refusal),
    )
)]
async fn verify_get(State(shared): State<Shared>) -> Result<Json<VerifyReport>, ApiError> {
    shared.scrub()?.report().map(Json).ok_or_else(no_pass)
}

/// Ends the verification that runs, and answers with the last one.
#[utoipa::path(
    delete, path = "/v1/cache/verify",
    responses(
        (status = 200, body = VerifyReport),
        (status = 404, body = Refusal),
        (status = 409, body = Refusal),
    )
)]
async fn verify_cancel(State(shared): State<Shared>) -> Result<Json<VerifyReport>, ApiError> {
    shared.scrub()?.cancel().map(Json).ok_or_else(no_pass)
}

fn no_pass() -> ApiError {
    let error = "nothing was verified since the daemon started";
    ApiError::new(StatusCode::NOT_FOUND, error, "POST /v1/cache/verify starts it")
}

/// Starts to bring a file or folder into the cache.
#[utoipa::path(
    post, path = "/v1/warm", request_body = WarmRequest,
    responses(
        (status = 201, body = WarmCreated),
        (status = 400, body = Refusal),
        (status = 404, body = Refusal),
        (status = 429, body = Refusal),
    )
)]
async fn warm_create(
    State(shared): State<Shared>,
    ApiJson(request): ApiJson<WarmRequest>,
) -> Result<(StatusCode, Json<WarmCreated>), ApiError> {
    let job = shared.jobs.start(
        &request,
        &shared.backend.warm_places(),
        &shared.backend.warm_limits(),
    )?;
    Ok((StatusCode::CREATED, Json(WarmCreated { id: job.id() })))
}

/// Every warm job that is remembered, oldest first.
#[utoipa::path(get, path = "/v1/warm", responses((status = 200, body = Vec<WarmJob>)))]
async fn warm_list(State(shared): State<Shared>) -> Json<Vec<WarmJob>> {
    Json(shared.jobs.list().iter().map(|job| job.report()).collect())
}

/// One warm job.
#[utoipa::path(
    get, path = "/v1/warm/{id}", params(("id" = u64, Path, description = "Id of the job")),
    responses((status = 200, body = WarmJob), (status = 404, body = Refusal))
)]
async fn warm_get(
    State(shared): State<Shared>,
    ApiPath(id): ApiPath<u64>,
) -> Result<Json<WarmJob>, ApiError> {
    Ok(Json(shared.jobs.get(id)?.report()))
}

/// Cancels a warm job and answers with where it stands; one that is over stays as it is.
#[utoipa::path(
    delete, path = "/v1/warm/{id}", params(("id" = u64, Path, description = "Id of the job")),
    responses((status = 200, body = WarmJob), (status = 404, body = Refusal))
)]
async fn warm_cancel(
    State(shared): State<Shared>,
    ApiPath(id): ApiPath<u64>,
) -> Result<Json<WarmJob>, ApiError> {
    let job = shared.jobs.get(id)?;
    job.cancel();
    job.ended().await;
    Ok(Json(job.report()))
}

/// A warm job five times a second, as server-sent events; the last one has its final state.
#[utoipa::path(
    get, path = "/v1/warm/{id}/events", params(("id" = u64, Path, description = "Id of the job")),
    responses(
        (status = 200, body = WarmJob, content_type = "text/event-stream"),
        (status = 404, body = Refusal),
    )
)]
async fn warm_events(
    State(shared): State<Shared>,
    ApiPath(id): ApiPath<u64>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let events = reports(shared.jobs.get(id)?).map(|report| Ok(event(&report)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// The reports of a job until its last, which is sent once.
fn reports(job: Arc<Job>) -> impl Stream<Item = WarmJob> {
    stream::unfold(Some((job, false)), |next| async move {
        let (job, waits) = next?;
        if waits {
            job.ended_within(Duration::from_millis(200)).await;
        }
        let report = job.report();
        let next = (report.state == WarmState::Running).then_some((job, true));
        Some((report, next))
    })
}

fn event(report: &WarmJob) -> Event {
    match serde_json::to_string(report) {
        Ok(json) => Event::default().data(json),
        Err(error) => Event::default().event("error").data(error.to_string()),
    }
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = serde_json::Value)))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

/// All metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4"))
)]
async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics())
}

/// Whether the process serves requests at all.
#[utoipa::path(
    get, path = "/healthz",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether every mount answers.
#[utoipa::path(
    get, path = "/readyz",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = String, content_type = "text/plain"),
    )
)]
async fn readyz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.backend.state() {
        model::State::Ready => (StatusCode::OK, "ready\n"),
        model::State::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        model::State::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

impl Shared {
    fn scrub(&self) -> Result<Arc<Scrub>, ApiError> {
        self.backend.scrub().ok_or_else(|| {
            let hint = "give the daemon a cache.dir";
            ApiError::new(StatusCode::CONFLICT, "there is no disk tier", hint)
        })
    }
}

async fn no_such_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such route", "GET /v1/openapi.json lists the routes")
}

async fn no_such_method() -> ApiError {
    let hint = "GET /v1/openapi.json lists the routes and their methods";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route has no such method", hint)
}

/// A body that must be JSON of this type; the refusal speaks as all refusals do.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
struct ApiJson<T>(T);

/// A parameter of the path; the refusal speaks as all refusals do.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
struct ApiPath<T>(T);

/// Parameters after the `?`; the refusal speaks as all refusals do.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
struct ApiQuery<T>(T);

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        let hint = "/v1/openapi.json describes the parameters";
        Self::new(rejection.status(), rejection.body_text(), hint)
    }
}

/// A refusal with its status.
struct ApiError {
    status: StatusCode,
    refusal: Refusal,
}

impl ApiError {
    fn new(status: StatusCode, error: impl Into<String>, hint: &str) -> Self {
        Self { status, refusal: Refusal { error: error.into(), hint: hint.to_owned() } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.refusal)).into_response()
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let hint = "send JSON with `Content-Type: application/json`; /v1/openapi.json describes it";
        Self::new(rejection.status(), rejection.body_text(), hint)
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), "an id is a number: GET /v1/warm")
    }
}

impl From<WarmError> for ApiError {
    fn from(error: WarmError) -> Self {
        let (status, hint) = match &error {
            WarmError::NoSuchJob { .. } => (StatusCode::NOT_FOUND, "GET /v1/warm lists the jobs"),
            WarmError::NoSuchMount { .. } | WarmError::NotUnderAMount { .. } => {
                (StatusCode::NOT_FOUND, "GET /v1/mounts lists the mounts")
            }
            WarmError::WhichMount => {
                (StatusCode::BAD_REQUEST, "say `mount`, or give an absolute path under one")
            }
            WarmError::BadPath { .. } => {
                (StatusCode::BAD_REQUEST, "give a path without `.`, `..` and empty parts")
            }
            WarmError::BadWorkers { .. } => {
                (StatusCode::BAD_REQUEST, "give `workers` from 1 to 1024")
            }
            WarmError::TooManyJobs { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "wait for a job to end, or cancel one")
            }
        };
        Self::new(status, error.to_string(), hint)
    }
}
