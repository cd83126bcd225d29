//! `GET /v1/{client}/batches` and `…/{batchId}`: batches as JSON, with everything that is known of them.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use cameo_http::{Family, Refusal};
use cameo_profile::time::Iso8601;
use serde_json::{Value, json};

use super::ClientPath;
use super::reply::json_reply;
use super::status::fields;
use crate::bounds;
use crate::gateway::App;
use crate::ledger::Ledger;
use crate::status::Status;

/// The newest batches of a client, at most 100.
#[utoipa::path(get, path = "/v1/{client}/batches", operation_id = "batches", tag = "native", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "`{batches: […]}`, newest first"), (status = 404, description = "No such client")))]
pub(super) async fn list<L: Ledger>(State(app): State<Arc<App<L>>>, client: ClientPath) -> Response {
    answer(all(&app, client))
}

/// One batch.
#[utoipa::path(get, path = "/v1/{client}/batches/{batchId}", operation_id = "batch", tag = "native", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("batchId" = String, Path, description = "The batch")),
    responses((status = 200, description = "State and counters"), (status = 404, description = "No such batch or client")))]
pub(super) async fn one<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    answer(single(&app, path))
}

fn answer(found: Result<Value, Refusal>) -> Response {
    match found {
        Ok(body) => json_reply(&body),
        Err(refusal) => refusal.response(Family::Native),
    }
}

fn all<L: Ledger>(app: &App<L>, client: ClientPath) -> Result<Value, Refusal> {
    let client = app.client(client)?;
    let mut heads = app.ledger.heads(client.as_str())?;
    heads.sort_unstable_by(|a, b| (b.opened_at, &b.batch).cmp(&(a.opened_at, &a.batch)));
    heads.truncate(bounds::BATCHES_LISTED);
    let batches = heads.into_iter().map(|head| app.status(client, head).map(|status| shown(&status)));
    Ok(json!({"client": client.as_str(), "batches": batches.collect::<Result<Vec<_>, _>>()?}))
}

fn single<L: Ledger>(app: &App<L>, path: Result<Path<(String, String)>, PathRejection>) -> Result<Value, Refusal> {
    let Path((client, batch)) = path.map_err(|_| Refusal::new(400, "the path is not URL-encoded UTF-8"))?;
    let client = app.client_of(&client)?;
    Ok(shown(&app.status(client, app.batch(client, &batch)?)?))
}

fn shown(status: &Status) -> Value {
    let mut shown = fields(status, true);
    shown.insert("apiVersion".into(), json!(status.head.api_version));
    shown.insert("openedAt".into(), json!(Iso8601::new(status.head.opened_at).as_str()));
    shown.insert("rowsToApply".into(), json!(status.head.rows_to_apply));
    shown.insert("skippedRows".into(), json!(status.head.rows_skipped));
    shown.insert("createdProfiles".into(), json!(status.counted.created));
    Value::Object(shown)
}
