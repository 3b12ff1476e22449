//! The routes of what is cached by name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::backend::rfc3339;
use super::super::model::{
    CachedObject, CachedObjects, EvictReport, EvictRequest, Pin, PinReport, PinRequest, Refusal,
};
use super::super::{Backend, Shared};
use super::{ApiError, ApiJson, ApiQuery};
use crate::warm;

/// Objects that are listed unless a number is asked for, and at most.
const LISTED: usize = 100;
const LISTED_MAX: usize = 100_000;

/// The routes with their description.
pub(super) fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(cached_objects))
        .routes(routes!(evict))
        .routes(routes!(pin, pins, unpin))
}

/// Which objects are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhichObjects {
    /// Name or mount point of the mount; needed if there are several and `path` is not absolute.
    mount: Option<String>,
    /// A file or folder of the mount; absolute, or relative to the mount. Empty: all of the mount.
    #[serde(default)]
    path: String,
    /// How many at most, the largest on disk first; 100 unless given.
    top: Option<usize>,
}

/// What is on disk, the largest first.
#[utoipa::path(
    get, path = "/v1/cache/objects", params(WhichObjects),
    responses(
        (status = 200, body = CachedObjects),
        (status = 400, body = Refusal),
        (status = 404, body = Refusal),
        (status = 500, body = Refusal),
    )
)]
async fn cached_objects(
    State(shared): State<Shared>,
    ApiQuery(which): ApiQuery<WhichObjects>,
) -> Result<Json<CachedObjects>, ApiError> {
    let meant = Meant::new(&shared, which.mount.as_deref(), &which.path)?;
    let top = which.top.unwrap_or(LISTED).min(LISTED_MAX);
    let prefix = meant.prefix.clone();
    let mut objects =
        blocking(shared, move |backend| backend.cached(&|store, key| meant.is_it(store, key)))
            .await?;
    let total_objects = objects.len() as u64;
    let total_bytes = objects.iter().map(|object| object.disk_bytes).sum();
    objects.sort_by(|a, b| b.disk_bytes.cmp(&a.disk_bytes).then_with(|| a.key.cmp(&b.key)));
    objects.truncate(top);
    let describe = |object: tenderfs_cache::CachedObject| CachedObject {
        path: object.key.strip_prefix(&prefix).unwrap_or(&object.key).to_owned(),
        size_bytes: object.size_bytes,
        disk_bytes: object.disk_bytes,
        last_use: rfc3339(UNIX_EPOCH + Duration::from_millis(object.last_use_ms)),
    };
    let objects = objects.into_iter().map(describe).collect();
    Ok(Json(CachedObjects { objects, total_objects, total_bytes }))
}

/// Lets go of what is cached of a file or folder, or of all: the next read fetches it again. Who reads
/// it now goes on.
#[utoipa::path(
    post, path = "/v1/cache/evict", request_body = EvictRequest,
    responses(
        (status = 200, body = EvictReport),
        (status = 400, body = Refusal),
        (status = 404, body = Refusal),
        (status = 500, body = Refusal),
    )
)]
async fn evict(
    State(shared): State<Shared>,
    ApiJson(request): ApiJson<EvictRequest>,
) -> Result<Json<EvictReport>, ApiError> {
    if request.all && (request.mount.is_some() || !request.path.is_empty()) {
        let error = "`all` goes without a mount and a path";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, error, "say one of them"));
    }
    let meant = if request.all {
        None
    } else {
        Some(Meant::new(&shared, request.mount.as_deref(), &request.path)?)
    };
    let evicted = blocking(shared, move |backend| {
        backend.evict(&|store, key| meant.as_ref().is_none_or(|meant| meant.is_it(store, key)))
    })
    .await?;
    tracing::info!(
        objects = evicted.objects,
        bytes = evicted.bytes,
        all = request.all,
        path = request.path,
        "evicted because it was asked for"
    );
    Ok(Json(EvictReport { objects: evicted.objects, bytes: evicted.bytes }))
}

/// Has a file or folder stay on disk, whatever else the cache is asked to hold, from its next use on; what
/// is on disk of it stays at once.
#[utoipa::path(
    post, path = "/v1/cache/pins", request_body = PinRequest,
    responses(
        (status = 200, body = PinReport),
        (status = 400, body = Refusal),
        (status = 404, body = Refusal),
        (status = 409, body = Refusal),
        (status = 500, body = Refusal),
    )
)]
async fn pin(
    State(shared): State<Shared>,
    ApiJson(request): ApiJson<PinRequest>,
) -> Result<Json<PinReport>, ApiError> {
    let meant = Meant::new(&shared, request.mount.as_deref(), &request.path)?;
    let ends_ms = request.ttl_seconds.map(|ttl| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ends = now.saturating_add(Duration::from_secs(ttl));
        u64::try_from(ends.as_millis()).unwrap_or(u64::MAX - 1)
    });
    let pin = tenderfs_cache::Pin { ends_ms, ..meant.named };
    let pinned = blocking(shared, move |backend| backend.pin(pin)).await?;
    let Some(pinned) = pinned else {
        let hint = "set cache.dir";
        return Err(ApiError::new(StatusCode::CONFLICT, "there is no disk tier", hint));
    };
    let tenderfs_cache::Pinned { objects, bytes, objects_beyond } = pinned;
    tracing::info!(path = request.path, objects, bytes, objects_beyond, "pinned");
    Ok(Json(PinReport { objects, bytes, objects_beyond }))
}

/// What is to stay on disk.
#[utoipa::path(get, path = "/v1/cache/pins", responses((status = 200, body = Vec<Pin>)))]
async fn pins(State(shared): State<Shared>) -> Json<Vec<Pin>> {
    let describe = |pin: tenderfs_cache::Pin| Pin {
        store: pin.store.into(),
        key: pin.key.into(),
        ends: pin.ends_ms.map(|ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms))),
    };
    Json(shared.backend.pins().into_iter().map(describe).collect())
}

/// Which pin is let go of.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhichPin {
    /// Name or mount point of the mount; needed if there are several and `path` is not absolute.
    mount: Option<String>,
    /// The file or folder that was pinned, by just this name.
    #[serde(default)]
    path: String,
}

/// Lets go of a pin: what it held stays as long as the policy keeps it.
#[utoipa::path(
    delete, path = "/v1/cache/pins", params(WhichPin),
    responses(
        (status = 200, body = PinReport),
        (status = 400, body = Refusal),
        (status = 404, body = Refusal),
        (status = 500, body = Refusal),
    )
)]
async fn unpin(
    State(shared): State<Shared>,
    ApiQuery(which): ApiQuery<WhichPin>,
) -> Result<Json<PinReport>, ApiError> {
    let meant = Meant::new(&shared, which.mount.as_deref(), &which.path)?;
    let tenderfs_cache::Pin { store, key, .. } = meant.named;
    let pinned = blocking(shared, move |backend| backend.unpin(&store, &key)).await?;
    let Some(tenderfs_cache::Pinned { objects, bytes, objects_beyond }) = pinned else {
        let hint = "GET /v1/cache/pins lists what is";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "that is not pinned", hint));
    };
    Ok(Json(PinReport { objects, bytes, objects_beyond }))
}

/// The objects that a path of a mount means.
struct Meant {
    /// Prefix of the mount.
    prefix: String,
    /// What would pin them for ever.
    named: tenderfs_cache::Pin,
}

impl Meant {
    fn new(shared: &Shared, mount: Option<&str>, path: &str) -> Result<Self, ApiError> {
        let places = shared.backend.warm_places();
        let (place, path) = warm::find(mount, path, &places)?;
        let key = format!("{}{path}", place.prefix);
        let key = key.strip_suffix('/').unwrap_or(&key).into();
        let named = tenderfs_cache::Pin { store: (*place.identity).into(), key, ends_ms: None };
        Ok(Self { prefix: place.prefix.clone(), named })
    }

    fn is_it(&self, store: &str, key: &str) -> bool {
        self.named.holds(store, key)
    }
}

/// Runs what reads the catalogue, aside of the other routes.
async fn blocking<T: Send + 'static>(
    shared: Shared,
    work: impl FnOnce(&dyn Backend) -> std::io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(move || work(&*shared.backend)).await;
    let failed = |error: String| {
        let hint = "the daemon's log says more";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error, hint)
    };
    done.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}
