//! `GET /m2/{client}/profile/batchErrors`: which rows failed, where and why, as CSV or JSON.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use cameo_http::{Refusal, query};
use cameo_profile::state::{BatchHead, RowErrorOwned};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::ClientPath;
use super::reply::{Shape, json_reply, reply};
use crate::gateway::App;
use crate::ledger::Ledger;

/// Says in a CSV report, whose rows leave no place for it, that there were more failed rows than are kept.
const TRUNCATED: HeaderName = HeaderName::from_static("cameo-report-truncated");

/// The failed rows of a batch: line, column, reason.
#[utoipa::path(get, path = "/m2/{client}/profile/batchErrors", operation_id = "batchErrors", tag = "compatible", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("batchId" = String, Query, description = "The batch")),
    responses((status = 200, description = "CSV, or JSON if asked for"), (status = 404, description = "No such batch or client")))]
pub(super) async fn get<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    client: ClientPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let shape = Shape::asked(&headers);
    match look(&app, client, query.as_deref().unwrap_or_default()).await {
        Err(refusal) => shape.refuse(&refusal),
        Ok((head, errors, truncated)) if shape == Shape::Json => {
            let rows = errors.iter().map(|e| json!({"line": e.line, "column": e.column, "reason": e.reason}));
            let rows: Vec<_> = rows.collect();
            json_reply(&json!({"batchId": head.batch, "truncated": truncated, "errors": rows}))
        }
        Ok((_, errors, truncated)) => {
            let mut response = reply("text/csv; charset=utf-8; header=present", csv(&errors));
            if truncated {
                response.headers_mut().insert(TRUNCATED, HeaderValue::from_static("true"));
            }
            response
        }
    }
}

type Found = (BatchHead, Vec<RowErrorOwned>, bool);

async fn look<L: Ledger>(app: &App<L>, client: ClientPath, query: &str) -> Result<Found, Refusal> {
    let client = app.client(client)?;
    let client = &client.code;
    let head = app.batch_of_query(client, &query::pairs(query.as_bytes())?).await?;
    // Counted first, so that a row that fails in between is no reason to call the report short.
    let failed = app.status(client, head.clone()).await?.failed();
    let (errors, dropped) = app.ledger.errors(client.as_str(), &head.batch).await?;
    let truncated = dropped || (errors.len() as u64) < failed;
    Ok((head, errors, truncated))
}

/// RFC 4180, with plain line feeds, which every reader takes.
fn csv(errors: &[RowErrorOwned]) -> String {
    let mut out = String::from("line,column,reason\n");
    for error in errors {
        out.push_str(&error.line.to_string());
        for text in [error.column.as_deref().unwrap_or_default(), &error.reason] {
            out.push(',');
            cameo_http::csv::cell(&mut out, text);
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_when_they_must_be() {
        let error = |line, column: Option<&str>, reason: &str| RowErrorOwned {
            line,
            column: column.map(Into::into),
            reason: reason.into(),
        };
        let errors = [error(3, Some("a,b"), "is \"bad\""), error(4, None, "plain")];
        assert_eq!(csv(&errors), "line,column,reason\n3,\"a,b\",\"is \"\"bad\"\"\"\n4,,plain\n");
    }
}
