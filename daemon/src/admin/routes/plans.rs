//! The routes of plans: what jobs say that they will read.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::super::Shared;
use super::super::model::{PlanAccepted, PlanJob, Refusal};
use super::{ApiError, ApiPath, ApiQuery};
use crate::plans::{self, PlanError, PlanName, Plans};
use crate::warm;

/// Bytes of a plan at most, as it is sent and as it is unpacked.
const PLAN_BYTES_MAX: usize = 1 << 30;

/// The routes with their description.
pub(super) fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(plan_post).layer(DefaultBodyLimit::max(PLAN_BYTES_MAX)))
        .routes(routes!(job_list))
        .routes(routes!(job_status))
        .routes(routes!(job_cancel))
}

/// Which plan is posted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhichPlan {
    /// The epoch it is for.
    #[serde(default)]
    epoch: u64,
    /// The rank whose reads these are.
    #[serde(default)]
    rank: u32,
    /// How many ranks the job has.
    #[serde(default = "one")]
    world: u32,
    /// Name or mount point of the mount; needed if there are several.
    mount: Option<String>,
}

fn one() -> u32 {
    1
}

/// Which mount is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhichMount {
    /// Name or mount point of the mount; needed if there are several.
    mount: Option<String>,
}

/// Takes the order in which a rank of a job will read in an epoch: a line for each read with the path
/// and, if not the whole file is meant, a tab, the offset, a tab and the length. What comes next is
/// fetched before it is asked for. A plan posted again takes the place of the one before.
#[utoipa::path(
    post, path = "/v1/jobs/{job}/plans",
    params(("job" = String, Path, description = "Name of the job"), WhichPlan),
    request_body(content = String, content_type = "text/plain", description = "Also with `Content-Encoding: zstd`"),
    responses(
        (status = 201, body = PlanAccepted),
        (status = 400, body = Refusal),
        (status = 404, body = Refusal),
        (status = 413, body = Refusal),
        (status = 415, body = Refusal),
        (status = 429, body = Refusal),
    )
)]
async fn plan_post(
    State(shared): State<Shared>,
    ApiPath(job): ApiPath<String>,
    ApiQuery(which): ApiQuery<WhichPlan>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<PlanAccepted>), ApiError> {
    let plans = shared.plans(which.mount.as_deref())?;
    let name = PlanName { job, epoch: which.epoch, rank: which.rank, world: which.world };
    // A large plan takes a second to read, and the other routes are served meanwhile.
    let accepted = tokio::task::spawn_blocking(move || {
        let text = unpacked(&headers, body)?;
        plans.post(&name, &text).map_err(ApiError::from)
    });
    let accepted = accepted.await.map_err(|_| {
        let hint = "the daemon's log says more";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the plan failed", hint)
    })?;
    Ok((StatusCode::CREATED, Json(accepted?)))
}

fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(body),
        Some(b"zstd") => plans::unpack(&body, PLAN_BYTES_MAX).map(Bytes::from).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, error, "send zstd of at most 1 GiB of text")
        }),
        Some(_) => {
            let hint = "send it plain, or with `Content-Encoding: zstd`";
            let error = "this content encoding is not read";
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, hint))
        }
    }
}

/// Every job that has plans on a mount.
#[utoipa::path(
    get, path = "/v1/jobs", params(WhichMount),
    responses((status = 200, body = Vec<PlanJob>), (status = 400, body = Refusal), (status = 404, body = Refusal))
)]
async fn job_list(
    State(shared): State<Shared>,
    ApiQuery(which): ApiQuery<WhichMount>,
) -> Result<Json<Vec<PlanJob>>, ApiError> {
    Ok(Json(shared.plans(which.mount.as_deref())?.list()))
}

/// How far a job is with its plans, and how well they serve.
#[utoipa::path(
    get, path = "/v1/jobs/{job}/status",
    params(("job" = String, Path, description = "Name of the job"), WhichMount),
    responses((status = 200, body = PlanJob), (status = 400, body = Refusal), (status = 404, body = Refusal))
)]
async fn job_status(
    State(shared): State<Shared>,
    ApiPath(job): ApiPath<String>,
    ApiQuery(which): ApiQuery<WhichMount>,
) -> Result<Json<PlanJob>, ApiError> {
    let plans = shared.plans(which.mount.as_deref())?;
    Ok(Json(plans.status(&job)?))
}

/// Forgets a job and its plans, and answers with how far it was.
#[utoipa::path(
    delete, path = "/v1/jobs/{job}",
    params(("job" = String, Path, description = "Name of the job"), WhichMount),
    responses((status = 200, body = PlanJob), (status = 400, body = Refusal), (status = 404, body = Refusal))
)]
async fn job_cancel(
    State(shared): State<Shared>,
    ApiPath(job): ApiPath<String>,
    ApiQuery(which): ApiQuery<WhichMount>,
) -> Result<Json<PlanJob>, ApiError> {
    let plans = shared.plans(which.mount.as_deref())?;
    Ok(Json(plans.cancel(&job)?))
}

impl Shared {
    /// The plans of the mount that is meant.
    fn plans(&self, mount: Option<&str>) -> Result<Arc<Plans>, ApiError> {
        let places = self.backend.warm_places();
        let (place, _) = warm::find(mount, "", &places)?;
        Ok(Arc::clone(&place.plans))
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        let (status, hint) = match &error {
            PlanError::NoSuchJob { .. } => {
                (StatusCode::NOT_FOUND, "GET /v1/jobs lists the jobs with plans")
            }
            PlanError::BadName => (StatusCode::BAD_REQUEST, "name the job otherwise"),
            PlanError::NoSuchRank { .. } => {
                (StatusCode::BAD_REQUEST, "ranks count from 0: say `rank=` and `world=`")
            }
            PlanError::Line(_) => (
                StatusCode::BAD_REQUEST,
                "write a path, or a path, an offset and a length with tabs between them; nothing of the plan was taken",
            ),
            PlanError::Empty => (StatusCode::BAD_REQUEST, "send a line for each read"),
            PlanError::TooManyJobs | PlanError::TooManyEntries { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "cancel a job, or post a part of the plan")
            }
        };
        Self::new(status, error.to_string(), hint)
    }
}
