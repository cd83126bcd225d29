//! `/healthz`, `/readyz` and `/metrics` of a role that holds no profiles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cameo_auth::Verifier;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use utoipa::OpenApi;

#[derive(Clone)]
struct Operations {
    auth: Verifier,
    draining: Arc<AtomicBool>,
    metrics: PrometheusHandle,
}

/// The routes.
pub(super) fn router(auth: Verifier, draining: Arc<AtomicBool>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(Operations { auth, draining, metrics })
}

/// Their description.
pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

#[derive(OpenApi)]
#[openapi(paths(alive, ready, render))]
struct Description;

fn reply(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Whether the process runs.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Yes")))]
async fn alive() -> Response {
    reply(StatusCode::OK, &json!({"status": "alive"}))
}

/// Whether it may be sent requests.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, description = "Yes"), (status = 503, description = "No, with reasons")))]
async fn ready(State(operations): State<Operations>) -> Response {
    let mut reasons = Vec::new();
    if !operations.auth.holds_lease() {
        reasons.push("the auth lease is not held: the control bucket cannot be followed");
    }
    if operations.draining.load(Ordering::Relaxed) {
        reasons.push("it is about to stop");
    }
    let (status, word) =
        if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    reply(status, &json!({"status": word, "reasons": reasons}))
}

/// Prometheus metrics.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "Text")))]
async fn render(State(operations): State<Operations>) -> Response {
    let text = operations.metrics.render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
