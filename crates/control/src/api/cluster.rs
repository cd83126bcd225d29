//! `/v1/cluster`: nodes, digests of their partitions, snapshots.

use axum::extract::{Extension, RawQuery, State};
use cameo_http::{Refusal, query};
use http::StatusCode;
use serde_json::json;

use super::answer::{Answer, json_reply, time};
use super::gate::Caller;
use crate::plane::Plane;

/// The nodes: roles, lag, lease, revision; with `digests=true` also what each has of every partition.
#[utoipa::path(get, path = "/v1/cluster", tag = "operations",
    params(("digests" = Option<bool>, Query, description = "`true`: asks every edge for position and digest of each partition")),
    responses((status = 200, description = "Every node that was heard")))]
pub(super) async fn get(
    State(plane): State<Plane>,
    Extension(caller): Extension<Caller>,
    RawQuery(raw): RawQuery,
) -> Answer {
    let pairs = query::pairs(raw.unwrap_or_default().as_bytes())?;
    let cluster = match query::one(&pairs, "digests")? {
        Some("true") => plane.cluster_with_partitions(&caller.principal).await?,
        None | Some("false") => plane.cluster(&caller.principal).await?,
        Some(_) => {
            let refusal = Refusal::new(400, "digests is true or false");
            return Err(Refusal { field: Some("digests".into()), ..refusal }.into());
        }
    };
    Ok(json_reply(StatusCode::OK, &json!(cluster)))
}

/// Snapshots of partitions that are there, by partition, newest first.
#[utoipa::path(get, path = "/v1/cluster/snapshots", tag = "operations", responses((status = 200, description = "All of them"), (status = 503, description = "Their store cannot be asked")))]
pub(super) async fn snapshots(State(plane): State<Plane>, Extension(caller): Extension<Caller>) -> Answer {
    let snapshots = plane.snapshots(&caller.principal).await?;
    let shown = snapshots.iter().map(|one| {
        json!({"partition": one.partition, "position": one.position, "log": one.log, "at": time(one.at_ms), "bytes": one.bytes})
    });
    Ok(json_reply(StatusCode::OK, &json!({"snapshots": shown.collect::<Vec<_>>()})))
}

/// Takes a snapshot of every partition that has moved since its last one.
#[utoipa::path(post, path = "/v1/cluster/snapshots", tag = "operations", responses((status = 200, description = "What became of each partition's"), (status = 503, description = "No edge could do it")))]
pub(super) async fn take(State(plane): State<Plane>, Extension(caller): Extension<Caller>) -> Answer {
    let (node, partitions) = plane.take_snapshots(&caller.principal).await?;
    Ok(json_reply(StatusCode::OK, &json!({"node": node, "partitions": partitions})))
}
