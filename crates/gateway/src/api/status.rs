//! `GET /m2/{client}/profile/batchStatus`: how far a batch is (TARGET_API §3).

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use cameo_http::{Refusal, query};
use cameo_profile::state::BatchHead;
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::reply::{Shape, element, json_reply, xml_reply};
use super::{ClientPath, switch};
use crate::gateway::App;
use crate::ledger::Ledger;
use crate::status::{Stage, Status};

/// How far a batch is; with `showDetails=true` also its counters.
#[utoipa::path(get, path = "/m2/{client}/profile/batchStatus", operation_id = "batchStatus", tag = "compatible", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("batchId" = String, Query, description = "The batch"),
    ("showDetails" = Option<bool>, Query, description = "Counters too")),
    responses((status = 200, description = "XML, or JSON if asked for"), (status = 404, description = "No such batch or client")))]
pub(super) async fn get<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    client: ClientPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let shape = Shape::asked(&headers);
    match look(&app, client, query.as_deref().unwrap_or_default()).await {
        Ok((status, details)) if shape == Shape::Xml => xml_reply(|out| {
            element(out, "batchId", &status.head.batch);
            element(out, "status", status.stage.text());
            element(out, "batchSize", status.head.rows);
            for (name, count) in counters(&status).into_iter().filter(|_| details) {
                element(out, name, count);
            }
        }),
        Ok((status, details)) => json_reply(&Value::Object(fields(&status, details))),
        Err(refusal) => shape.refuse(&refusal),
    }
}

async fn look<L: Ledger>(app: &App<L>, client: ClientPath, query: &str) -> Result<(Status, bool), Refusal> {
    let client = app.client(client)?;
    let client = &client.code;
    let pairs = query::pairs(query.as_bytes())?;
    let details = switch(&pairs, "showDetails")?;
    Ok((app.status(client, app.batch_of_query(client, &pairs).await?).await?, details))
}

fn counters(status: &Status) -> [(&'static str, u64); 4] {
    [
        ("consumedCount", status.consumed()),
        ("successfulUpdates", status.counted.updated),
        ("profilesNotFound", status.counted.not_found),
        ("failedUpdates", status.failed()),
    ]
}

const fn how_to_go_on(head: &BatchHead) -> &'static str {
    if head.idempotency_key.is_some() {
        "rows are missing and nobody is bringing them; send the same file again, to the same version of the API and under \
         the same Idempotency-Key, and it goes on where it stopped"
    } else {
        "rows are missing and nobody is bringing them; the batch has no Idempotency-Key, so it cannot be gone on with: \
         send the file again as a new batch, best under a key"
    }
}

/// As JSON; a batch that is stuck has a message that says how to go on. XML has no place for one.
pub(super) fn fields(status: &Status, details: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("batchId".into(), json!(status.head.batch));
    fields.insert("status".into(), json!(status.stage.text()));
    fields.insert("batchSize".into(), json!(status.head.rows));
    for (name, count) in counters(status).into_iter().filter(|_| details) {
        fields.insert(name.into(), json!(count));
    }
    if status.stage == Stage::Stuck {
        fields.insert("message".into(), json!(how_to_go_on(&status.head)));
    }
    fields
}
