//! `GET|POST /m2/{client}/profile/update`: the compatible single update (TARGET_API §2).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use cameo_eventlog::EventLog;
use cameo_profile::event::Update;
use cameo_profile::ids::{self, Invalid};
use cameo_profile::state::UpdateOutcome;
use cameo_profile::{AddressBuf, Event, Outcome, limits};
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::native::caller;
use super::visit::shorten;
use super::{App, route};
use cameo_http::query::Pairs;
use cameo_http::refusal::xml;
use cameo_http::{Family, Refusal, body, query};

/// Bytes of a query (TARGET_API §2: GET ≤ 8 KB).
const QUERY_BYTES: usize = 8 << 10;
/// Bytes of a form (TARGET_API §2: POST ≤ 60 KB).
const FORM_BYTES: usize = 60 << 10;

type Client = Result<Path<String>, PathRejection>;

/// Sets attributes of one profile by `profile.NAME=value` in the query.
#[utoipa::path(get, path = "/m2/{client}/profile/update", tag = "compatible", params(("client" = String, Path, description = "Client (tenant) code"),
    ("mboxPC" = Option<String>, Query, description = "tntId"), ("mbox3rdPartyId" = Option<String>, Query, description = "thirdPartyId")),
    responses((status = 200, description = "XML: taken"), (status = 400, description = "XML: refused")))]
pub(super) async fn get<L: EventLog>(
    State(app): State<Arc<App<L>>>,
    client: Client,
    query: RawQuery,
    request: Request,
) -> Response {
    update(&app, client, query, b"", caller(request.extensions())).await
}

/// Sets attributes of one profile by `profile.NAME=value` in query or form.
#[utoipa::path(post, path = "/m2/{client}/profile/update", tag = "compatible", params(("client" = String, Path, description = "Client (tenant) code"),
    ("mboxPC" = Option<String>, Query, description = "tntId"), ("mbox3rdPartyId" = Option<String>, Query, description = "thirdPartyId")),
    responses((status = 200, description = "XML: taken"), (status = 400, description = "XML: refused")))]
pub(super) async fn post<L: EventLog>(
    State(app): State<Arc<App<L>>>,
    client: Client,
    query: RawQuery,
    request: Request,
) -> Response {
    let plain = body::check_plain(request.headers());
    let by = caller(request.extensions());
    match plain.and(body::read(request.into_body(), FORM_BYTES).await.map_err(Refusal::from)) {
        Ok(form) => update(&app, client, query, &form.bytes, by).await,
        Err(refusal) => refusal.response(Family::Xml),
    }
}

async fn update<L: EventLog>(
    app: &App<L>,
    client: Client,
    RawQuery(query): RawQuery,
    form: &[u8],
    by: Option<Arc<str>>,
) -> Response {
    app.meters.updates.increment(1);
    match apply(app, client, query.as_deref().unwrap_or_default(), form, by.as_deref()).await {
        Ok(()) => {
            let mut response = Response::new(Body::from(xml(true, "Request successfully submitted")));
            let xml = HeaderValue::from_static("application/xml; charset=UTF-8");
            response.headers_mut().insert(CONTENT_TYPE, xml);
            response
        }
        Err(refusal) => refusal.response(Family::Xml),
    }
}

async fn apply<L: EventLog>(
    app: &App<L>,
    client: Client,
    query: &str,
    form: &[u8],
    by: Option<&str>,
) -> Result<(), Refusal> {
    let Path(client) = client.map_err(|_| Refusal::new(400, "the client is not URL-encoded UTF-8"))?;
    let client = app.client(&client)?;
    let client = &client.code;
    if query.len() > QUERY_BYTES {
        let text = format!("the query is {} bytes long; the limit is {QUERY_BYTES}, so use POST", query.len());
        return Err(Refusal { limit: Some(QUERY_BYTES), ..Refusal::new(414, text) });
    }
    let mut pairs = query::pairs(query.as_bytes())?;
    pairs.extend(query::pairs(form.trim_ascii_end())?);
    let address = address(&pairs)?;
    let set = attributes(&pairs)?;
    let event_id = event_id(&pairs)?;
    let way = route::choose_one(&app.replica, client, &address, event_id.is_some()).await?;
    let update = Update {
        client: client.as_str(),
        address: way.at.as_address().as_str(),
        event_id,
        occurred_at: None,
        set,
        unset: Vec::new(),
        route: way.route,
        via: way.via(&address),
        by,
    };
    match app.replica.submit(way.partition, &Event::Update(update)).await? {
        Outcome::Update(UpdateOutcome::TooLarge) => {
            Err(Refusal::new(413, "the profile would exceed 64 KB or 1,000 attributes; nothing was changed"))
        }
        // An unknown id creates no profile, and the reply is the same: the vendor's callers are told only that the
        // request was taken (TARGET_API §2).
        _ => Ok(()),
    }
}

fn address(pairs: &Pairs) -> Result<AddressBuf, Refusal> {
    match (query::one(pairs, "mboxPC")?, query::one(pairs, "mbox3rdPartyId")?) {
        (Some(id), None) => Ok(AddressBuf::tnt(id).map_err(|e| Invalid { field: "mboxPC".into(), ..e })?),
        (None, Some(id)) => {
            Ok(AddressBuf::third_party(id).map_err(|e| Invalid { field: "mbox3rdPartyId".into(), ..e })?)
        }
        (Some(_), Some(_)) => Err(Refusal::new(400, "mboxPC and mbox3rdPartyId are both given; name one")),
        (None, None) => Err(Refusal::new(400, "mboxPC or mbox3rdPartyId is missing")),
    }
}

/// A caller that retries says so by `requestId`; then the update counts once.
fn event_id(pairs: &Pairs) -> Result<Option<&str>, Refusal> {
    let id = query::one(pairs, "requestId")?;
    if let Some(id) = id {
        ids::check_text(id, limits::EVENT_ID_CHARS, |_| false, || "requestId".into())?;
    }
    Ok(id)
}

fn attributes(pairs: &Pairs) -> Result<Vec<(&str, &str)>, Refusal> {
    let (mut set, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, value) in pairs {
        let Some(bare) = name.strip_prefix("profile.") else { continue };
        ids::check_attribute_name(bare, || format!("profile.{}", shorten(bare)).into())?;
        // As in a bulk file, an empty value changes nothing and never deletes (TARGET_API §3).
        if value.is_empty() {
            continue;
        }
        if !seen.insert(bare) {
            return Err(Invalid::other(format!("profile.{}", shorten(bare)), "is given more than once").into());
        }
        set.push((bare, value.as_str()));
    }
    if set.is_empty() && !pairs.iter().any(|(name, _)| name.starts_with("profile.")) {
        return Err(Refusal::new(400, "no profile.NAME=value is given"));
    }
    Ok(set)
}
