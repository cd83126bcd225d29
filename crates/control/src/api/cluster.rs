//! `/v1/cluster`.

use axum::extract::{Extension, State};
use http::StatusCode;
use serde_json::json;

use super::answer::{Answer, json_reply};
use super::gate::Caller;
use crate::plane::Plane;

/// The nodes: roles, lag, lease, revision.
#[utoipa::path(get, path = "/v1/cluster", tag = "operations", responses((status = 200, description = "Every node that was heard")))]
pub(super) async fn get(State(plane): State<Plane>, Extension(caller): Extension<Caller>) -> Answer {
    Ok(json_reply(StatusCode::OK, &json!(plane.cluster(&caller.principal).await?)))
}
