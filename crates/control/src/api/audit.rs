//! `/v1/audit` and `/v1/{client}/audit`: pages of the audit log, as JSON or CSV.

use axum::extract::{Extension, RawQuery, State};
use cameo_http::{Refusal, query};
use http::header::{ACCEPT, CONTENT_DISPOSITION, LINK};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, json_reply, time, typed};
use super::gate::Caller;
use super::input::Asked;
use crate::audit::{Entry, Filter, PAGE_DEFAULT, PAGE_MAX, csv};
use crate::plane::Plane;

fn shown(entry: &Entry) -> Value {
    json!({
        "id": entry.id, "at": time(entry.at_ms), "who": entry.who, "action": entry.action, "client": entry.client,
        "target": entry.target, "from": entry.from, "result": entry.result.as_str(), "detail": entry.detail,
    })
}

/// The audit log of a client, newest first.
#[utoipa::path(get, path = "/v1/{client}/audit", tag = "audit", params(("client" = String, Path, description = "Client (tenant) code"),
    ("limit" = Option<usize>, Query, description = "1 to 1,000; default 100"), ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ("action" = Option<String>, Query, description = "`token.rotate`, or `token` for all of a kind"), ("who" = Option<String>, Query, description = "User or key"), ("format" = Option<String>, Query, description = "`csv`")),
    responses((status = 200, description = "Entries; `next` when there are more"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn of_client(
    Asked { plane, caller, of: client }: Asked,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let filter = Filter { client: Some(client), ..Filter::default() };
    page(&plane, &caller, filter, query.as_deref(), &headers).await
}

/// The whole audit log, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(
    ("limit" = Option<usize>, Query, description = "1 to 1,000; default 100"), ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ("action" = Option<String>, Query, description = "`token.rotate`, or `token` for all of a kind"), ("who" = Option<String>, Query, description = "User or key"), ("format" = Option<String>, Query, description = "`csv`")),
    responses((status = 200, description = "Entries; `next` when there are more"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn of_all(
    State(plane): State<Plane>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    page(&plane, &caller, Filter::default(), query.as_deref(), &headers).await
}

async fn page(plane: &Plane, caller: &Caller, base: Filter, query: Option<&str>, headers: &HeaderMap) -> Answer {
    let pairs = query::pairs(query.unwrap_or_default().as_bytes())?;
    let number = |name: &'static str| -> Result<Option<u64>, Refusal> {
        let Some(text) = query::one(&pairs, name)? else { return Ok(None) };
        let wrong = |_| Refusal { field: Some(name.into()), ..Refusal::new(400, format!("{name} is not a number")) };
        text.parse().map(Some).map_err(wrong)
    };
    let limit = number("limit")?.unwrap_or(PAGE_DEFAULT as u64);
    if !(1..=PAGE_MAX as u64).contains(&limit) {
        let refusal = Refusal::new(400, format!("limit is 1 to {PAGE_MAX}"));
        return Err(Refusal { field: Some("limit".into()), limit: Some(PAGE_MAX), ..refusal }.into());
    }
    let filter = Filter {
        before: number("before")?,
        action: query::one(&pairs, "action")?.map(str::to_owned),
        who: query::one(&pairs, "who")?.map(str::to_owned),
        limit: usize::try_from(limit).unwrap_or(PAGE_MAX),
        ..base
    };
    let as_csv = match query::one(&pairs, "format")? {
        Some("csv") => true,
        Some("json") => false,
        Some(_) => {
            let refusal = Refusal::new(400, "format is csv or json");
            return Err(Refusal { field: Some("format".into()), ..refusal }.into());
        }
        None => {
            headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with("text/csv"))
        }
    };
    let found = plane.audit(&caller.principal, filter).await?;
    if as_csv {
        let mut response = typed(StatusCode::OK, "text/csv; charset=utf-8", csv(&found.entries));
        let name = HeaderValue::from_static("attachment; filename=\"cameo-audit.csv\"");
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
        // The rows have no room for it.
        if let Some(link) =
            found.next.and_then(|n| HeaderValue::from_str(&format!("<?before={n}&format=csv>; rel=\"next\"")).ok())
        {
            response.headers_mut().insert(LINK, link);
        }
        return Ok(response);
    }
    let entries: Vec<_> = found.entries.iter().map(shown).collect();
    let mut body = json!({"entries": entries});
    if let Some(next) = found.next {
        body["next"] = json!(next);
    }
    Ok(json_reply(StatusCode::OK, &body))
}
