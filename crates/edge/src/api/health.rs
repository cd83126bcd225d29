//! `/healthz`, `/readyz`, `/metrics` of the role.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use cameo_eventlog::EventLog;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::App;
use crate::replica::READY_LAG_FRAMES;

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Whether the process runs.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Yes"), (status = 503, description = "No, with reasons")))]
pub(super) async fn alive() -> Response {
    reply(StatusCode::OK, "application/json", json!({"status": "alive"}).to_string())
}

/// Whether it has caught up and may be sent requests; with `for=visits`, whether it takes visits, if only into its spool.
//
// A checkpoint that fails is told but does not make it unready: the log has everything.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    params(("for" = Option<String>, Query, description = "`visits`: yes also without the auth lease, as long as the spool has room")),
    responses((status = 200, description = "Yes"), (status = 503, description = "No, with reasons")))]
pub(super) async fn ready<L: EventLog>(State(app): State<Arc<App<L>>>, RawQuery(query): RawQuery) -> Response {
    let health = app.replica.health();
    let mut reasons: Vec<_> =
        health.halted.iter().map(|(partition, halt)| format!("partition {partition} has stopped: {halt}")).collect();
    if health.lag_frames > READY_LAG_FRAMES {
        reasons.push(format!("{} frames of the log are not applied yet", health.lag_frames));
    }
    let spool = app.spool.as_ref().map(|spool| spool.level());
    let into_spool = query.as_deref() == Some("for=visits") && spool.is_some_and(|level| level.bytes < level.max_bytes);
    if !app.config.auth.holds_lease() && !into_spool {
        reasons.push("the auth lease is not held: protected calls are refused until it is".into());
    }
    if app.config.draining.load(Ordering::Relaxed) {
        reasons.push("it is about to stop".into());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({
        "status": if reasons.is_empty() { "ready" } else { "not ready" },
        "reasons": reasons,
        "lagFrames": health.lag_frames,
        "checkpointFailing": health.checkpoint_failing,
    });
    if let Some(level) = spool {
        body["spool"] = json!({"visits": level.visits, "bytes": level.bytes, "maxBytes": level.max_bytes});
    }
    reply(status, "application/json", body.to_string())
}

/// Prometheus metrics.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "Text"), (status = 503, description = "No, with reasons")))]
pub(super) async fn metrics<L: EventLog>(State(app): State<Arc<App<L>>>) -> Response {
    app.replica.refresh_gauges();
    match &app.config.metrics {
        Some(handle) => reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", handle.render()),
        None => reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "this process records no metrics\n".into()),
    }
}
