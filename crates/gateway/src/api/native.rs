//! `GET /v1/{client}/batches` and `…/{batchId}`: batches as JSON, with everything that is known of them.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use cameo_http::{Family, Refusal, query};
use cameo_profile::state::BatchHead;
use cameo_profile::time::Iso8601;
use serde_json::{Value, json};

use super::ClientPath;
use super::reply::json_reply;
use super::status::fields;
use crate::bounds;
use crate::gateway::App;
use crate::ledger::Ledger;
use crate::status::Status;

/// The batches of a client, newest first, a page at a time.
#[utoipa::path(get, path = "/v1/{client}/batches", operation_id = "batches", tag = "native", params(
    ("client" = String, Path, description = "Client (tenant) code"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many at most; 100 if not given"),
    ("after" = Option<String>, Query, description = "`next` of the page before: only what is older follows")),
    responses((status = 200, description = "`{client, batches: […], next}`, newest first; `next` is null on the last page"),
        (status = 400, description = "`limit` or `after` is wrong"), (status = 404, description = "No such client")))]
pub(super) async fn list<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    client: ClientPath,
    RawQuery(query): RawQuery,
) -> Response {
    answer(page(&app, client, query.as_deref().unwrap_or_default()).await)
}

/// One batch.
#[utoipa::path(get, path = "/v1/{client}/batches/{batchId}", operation_id = "batch", tag = "native", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("batchId" = String, Path, description = "The batch")),
    responses((status = 200, description = "State and counters"), (status = 404, description = "No such batch or client")))]
pub(super) async fn one<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    answer(single(&app, path).await)
}

fn answer(found: Result<Value, Refusal>) -> Response {
    match found {
        Ok(body) => json_reply(&body),
        Err(refusal) => refusal.response(Family::Native),
    }
}

async fn page<L: Ledger>(app: &App<L>, client: ClientPath, query: &str) -> Result<Value, Refusal> {
    let client = app.client(client)?;
    let client = &client.code;
    let pairs = query::pairs(query.as_bytes())?;
    let (limit, after) = (limit(&pairs)?, after(&pairs)?);
    let mut heads = app.ledger.heads(client.as_str()).await?;
    heads.retain(|head| after.is_none_or(|after| age(head) < after));
    heads.sort_unstable_by(|a, b| age(b).cmp(&age(a)));
    let more = heads.len() > limit;
    heads.truncate(limit);
    let next = heads.last().filter(|_| more).map(|head| head.batch.clone());
    let mut batches = Vec::with_capacity(heads.len());
    for head in heads {
        batches.push(shown(&app.status(client, head).await?));
    }
    Ok(json!({"client": client.as_str(), "batches": batches, "next": next}))
}

/// What the list goes by; the id tells those of one millisecond apart.
fn age(head: &BatchHead) -> (u64, &str) {
    (head.opened_at, &head.batch)
}

fn limit(pairs: &query::Pairs) -> Result<usize, Refusal> {
    let Some(limit) = query::one(pairs, "limit")? else { return Ok(bounds::BATCHES_LISTED) };
    let wrong = || {
        let refusal = Refusal::new(400, format!("limit must be a number from 1 to {}", bounds::BATCHES_LISTED));
        Refusal { field: Some("limit".into()), limit: Some(bounds::BATCHES_LISTED), ..refusal }
    };
    let limit = limit.parse().ok().filter(|limit| (1..=bounds::BATCHES_LISTED).contains(limit));
    limit.ok_or_else(wrong)
}

/// The place of a batch in the list. Its id says it, so that it need not be there any more.
fn after(pairs: &query::Pairs) -> Result<Option<(u64, &str)>, Refusal> {
    let Some(batch) = query::one(pairs, "after")? else { return Ok(None) };
    let opened_at = batch.rsplit('-').nth(1).and_then(|opened_at| opened_at.parse().ok());
    let wrong = || {
        let refusal = Refusal::new(400, "after must be what a page gave as next: the id of its last batch");
        Refusal { field: Some("after".into()), ..refusal }
    };
    Ok(Some((opened_at.ok_or_else(wrong)?, batch)))
}

async fn single<L: Ledger>(
    app: &App<L>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Value, Refusal> {
    let Path((client, batch)) = path.map_err(|_| Refusal::new(400, "the path is not URL-encoded UTF-8"))?;
    let client = app.client_of(&client)?;
    let client = &client.code;
    Ok(shown(&app.status(client, app.batch(client, &batch).await?).await?))
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
