//! `GET|PATCH|DELETE /v1/{client}/profiles/{kind}/{id}` (design §5).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use cameo_auth::state::Client;
use cameo_auth::verifier::Caller;
use cameo_eventlog::EventLog;
use cameo_profile::event::{Erase, Update};
use cameo_profile::ids::{self, Invalid, Problem};
use cameo_profile::state::UpdateOutcome;
use cameo_profile::{AddressBuf, ClientCode, Event, Kind, Outcome, limits};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Extensions, HeaderValue, StatusCode};
use serde::Deserialize;

use super::history;
use super::visit::{Fields, Object, Text, Time, Value, shorten};
use super::{App, route, write};
use crate::replica::Render;
use cameo_http::{Family, Refusal, body, query, wording};

/// Bytes of a PATCH: a whole profile (TARGET_API §3: 64 KB) with room for JSON's escapes.
const PATCH_BYTES: usize = 256 << 10;

pub(super) type Target = Result<Path<(String, String, String)>, PathRejection>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PatchRequest<'a> {
    #[serde(borrow)]
    set: Fields<'a>,
    #[serde(borrow)]
    unset: Vec<Text<'a>>,
    #[serde(borrow)]
    event_id: Option<Text<'a>>,
    occurred_at: Option<Time>,
}

/// A profile, as it is or as it read at an earlier moment.
#[utoipa::path(get, path = "/v1/{client}/profiles/{kind}/{id}", tag = "profiles", params(("client" = String, Path, description = "Client (tenant) code"), ("kind" = String, Path, description = "`tnt`, `tp`, `ecid` or `cust:CODE`"), ("id" = String, Path, description = "The id"),
        ("asOf" = Option<String>, Query, description = "Log time at which it is to be read: RFC 3339, or milliseconds since 1970"),
        ("contributions" = Option<bool>, Query, description = "`true`: also which id brought and did what; not with `asOf`")),
    responses((status = 200, description = "The profile. With contributions, also `contributions: [{kind, id, linkedTo?: {kind, id}, left?: true, createdAt, lastVisit?, visitCount?, categoryAffinities?, attributes: {NAME: {value, modifiedAt, shadowed?: true}}}]`, that of the id it lives at first; a profile without links has this one alone. `left`: the id follows another profile by now, what it did stays. `shadowed`: the profile shows another id's value, or the attribute was removed"), (status = 400, description = "`asOf` is no time, or in the future; `contributions` is neither `true` nor `false`, or stands beside `asOf`"), (status = 404, description = "None, or no such client"),
        (status = 410, description = "`asOf` is before what the log still holds of this profile")))]
pub(super) async fn get<L: EventLog>(
    State(app): State<Arc<App<L>>>,
    target: Target,
    RawQuery(query): RawQuery,
) -> Response {
    app.meters.profile_reads.increment(1);
    let read = async {
        let pairs = query::pairs(query.as_deref().unwrap_or_default().as_bytes())?;
        let by_parts = match query::one(&pairs, "contributions")? {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Invalid::other("contributions", "must be true or false").into()),
        };
        if let Some(time) = query::one(&pairs, "asOf")? {
            if by_parts {
                return Err(Invalid::other("contributions", "can only be read as they are now, without asOf").into());
            }
            return history::as_of(&app, target, time).await;
        }
        let (client, address) = resolve(&app, target)?;
        let client = &client.code;
        let render = if by_parts { write::native_by_parts } else { write::native };
        let mut response = profile(&app, client, &address, render).await?;
        app.tell_age(&mut response);
        Ok(response)
    };
    read.await.unwrap_or_else(|refusal: Refusal| refusal.response(Family::Native))
}

/// Sets and removes attributes: `{set: {}, unset: []}`.
#[utoipa::path(patch, path = "/v1/{client}/profiles/{kind}/{id}", tag = "profiles", params(("client" = String, Path, description = "Client (tenant) code"), ("kind" = String, Path, description = "`tnt`, `tp`, `ecid` or `cust:CODE`"), ("id" = String, Path, description = "The id")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{set?, unset?, eventId?, occurredAt?}`"),
    responses((status = 200, description = "The profile afterwards"), (status = 400, description = "Refused; problem+json"),
        (status = 404, description = "None, or no such client"), (status = 413, description = "The profile would be too large")))]
pub(super) async fn patch<L: EventLog>(State(app): State<Arc<App<L>>>, target: Target, request: Request) -> Response {
    app.meters.updates.increment(1);
    let changed = async {
        let plain = body::check_plain(request.headers());
        let by = caller(request.extensions());
        let body = body::read(request.into_body(), PATCH_BYTES).await?;
        plain?;
        change(&app, target, &body.bytes, by.as_deref()).await
    };
    changed.await.unwrap_or_else(|refusal| refusal.response(Family::Native))
}

/// Erases a profile.
#[utoipa::path(delete, path = "/v1/{client}/profiles/{kind}/{id}", tag = "profiles", params(("client" = String, Path, description = "Client (tenant) code"), ("kind" = String, Path, description = "`tnt`, `tp`, `ecid` or `cust:CODE`"), ("id" = String, Path, description = "The id")),
    responses((status = 204, description = "Erased"), (status = 404, description = "None, or no such client")))]
pub(super) async fn delete<L: EventLog>(State(app): State<Arc<App<L>>>, target: Target, request: Request) -> Response {
    app.meters.updates.increment(1);
    let by = caller(request.extensions());
    body::drain(request.into_body()).await;
    let erased = async {
        let (client, address) = resolve(&app, target)?;
        let client = &client.code;
        // One that is on its way is waited for: it must not come back afterwards.
        let ids = app
            .replica
            .profile(client, address.as_address(), |profile| profile.ids().map(AddressBuf::from).collect::<Vec<_>>());
        let held = app.replica.held(client, &ids.await?.unwrap_or_default())?;
        let partition = address.as_address().partition(client, app.replica.partitions());
        let event = Erase { client: client.as_str(), address: address.as_address().as_str(), by: by.as_deref() };
        match app.replica.submit(partition, &Event::Erase(event)).await? {
            Outcome::Erase { found: true } => {
                app.replica.freed(client, &held).await;
                Ok(StatusCode::NO_CONTENT)
            }
            _ => Err(missing(client, &address)),
        }
    };
    match erased.await {
        Ok(status) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response
        }
        Err(refusal) => refusal.response(Family::Native),
    }
}

pub(super) fn resolve<L: EventLog>(app: &App<L>, target: Target) -> Result<(Arc<Client>, AddressBuf), Refusal> {
    let Path((client, kind, id)) = target.map_err(|_| Refusal::new(400, "the path is not URL-encoded UTF-8"))?;
    let client = app.client(&client)?;
    Ok((client, address_of(404, &kind, &id)?))
}

/// An address by the words that paths have for its kind; `status` is that of a refusal of the kind.
pub(super) fn address_of(status: u16, kind: &str, id: &str) -> Result<AddressBuf, Refusal> {
    let kind = match kind {
        "tnt" => Kind::Tnt,
        "tp" => Kind::ThirdParty,
        "ecid" => Kind::Ecid,
        other => match other.strip_prefix("cust:") {
            Some(code) => Kind::Customer(code),
            None => {
                let text = "there are profiles by tnt, tp, ecid and cust:CODE only";
                return Err(Refusal { field: Some("kind".into()), ..Refusal::new(status, text) });
            }
        },
    };
    Ok(AddressBuf::of(kind, id)?)
}

pub(super) fn missing(client: &ClientCode, address: &AddressBuf) -> Refusal {
    let (kind, id) = address.as_address().parts();
    let code = match kind {
        Kind::Customer(code) => format!("[{code}]"),
        Kind::Tnt | Kind::ThirdParty | Kind::Ecid => String::new(),
    };
    Refusal::new(404, format!("there is no profile of client {client} with {}{code}={}", kind.field(), shorten(id)))
}

pub(super) async fn profile<L: EventLog>(
    app: &App<L>,
    client: &ClientCode,
    address: &AddressBuf,
    render: Render,
) -> Result<Response, Refusal> {
    let written = app.replica.profile(client, address.as_address(), |profile| {
        let mut out = Vec::with_capacity(1024);
        render(client.as_str(), profile, &mut out);
        out
    });
    written.await?.map(reply).ok_or_else(|| missing(client, address))
}

fn reply(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Who makes a change, if known.
pub(super) fn caller(extensions: &Extensions) -> Option<Arc<str>> {
    extensions.get::<Caller>().map(|Caller(by)| Arc::clone(by))
}

async fn change<L: EventLog>(app: &App<L>, target: Target, body: &[u8], by: Option<&str>) -> Result<Response, Refusal> {
    let (client, address) = resolve(app, target)?;
    let client = &client.code;
    let Object(request): Object<PatchRequest<'_>> = wording::read(body)?;
    let (set, unset) = check(&request, app.replica.now().0)?;
    let event_id = request.event_id.as_ref().map(|Text(id)| &**id);
    let way = route::choose_one(&app.replica, client, &address, event_id.is_some()).await?;
    let update = Update {
        client: client.as_str(),
        address: way.at.as_address().as_str(),
        event_id,
        occurred_at: request.occurred_at.map(|time| time.0),
        set,
        unset,
        route: way.route,
        via: way.via(&address),
        by,
    };
    let answer = app.replica.submit_rendered(way.partition, &Event::Update(update), Some(write::native)).await?;
    match (answer.outcome, answer.profile) {
        (Outcome::Update(UpdateOutcome::TooLarge), _) => {
            let text = "the profile would exceed 64 KB or 1,000 attributes; nothing was changed";
            Err(Refusal { limit: Some(limits::PROFILE_BYTES), ..Refusal::new(413, text) })
        }
        (Outcome::Update(UpdateOutcome::Updated | UpdateOutcome::Duplicate), Some(body)) => Ok(reply(body)),
        _ => Err(missing(client, &address)),
    }
}

type Checked<'r> = (Vec<(&'r str, &'r str)>, Vec<&'r str>);

fn check<'r>(request: &'r PatchRequest<'_>, now_ms: u64) -> Result<Checked<'r>, Refusal> {
    if let Some(Text(id)) = &request.event_id {
        ids::check_text(id, limits::EVENT_ID_CHARS, |_| false, || "eventId".into())?;
    }
    if request.occurred_at.is_some_and(|Time(ms)| ms > now_ms + limits::OCCURRED_AT_AHEAD_MS) {
        return Err(Invalid::other("occurredAt", "is more than 5 minutes ahead of the server's clock").into());
    }
    let mut seen = BTreeSet::new();
    let mut name = |section: &str, name: &'r Cow<'_, str>| -> Result<&'r str, Refusal> {
        let field = || format!("{section}.{}", shorten(name)).into();
        ids::check_attribute_name(name, field)?;
        if !seen.insert(&**name) {
            return Err(Invalid::other(field(), "is named more than once").into());
        }
        Ok(name)
    };
    let mut set = Vec::with_capacity(request.set.0.len());
    for (attribute, value) in &request.set.0 {
        let attribute = name("set", attribute)?;
        match value {
            Value::Text(text) => set.push((attribute, &**text)),
            Value::Not(what) => {
                let text = format!("must be text, a number or true/false, and is {what}; use unset to remove it");
                return Err(Invalid::other(format!("set.{}", shorten(attribute)), text).into());
            }
        }
    }
    let unset: Vec<_> =
        request.unset.iter().map(|Text(attribute)| name("unset", attribute)).collect::<Result<_, _>>()?;
    let count = set.len() + unset.len();
    if count == 0 {
        return Err(Refusal::new(400, "neither set nor unset names an attribute"));
    }
    if count > limits::ATTRIBUTES {
        let problem = Problem::TooMany { count, limit: limits::ATTRIBUTES };
        return Err(Invalid { field: "set and unset".into(), problem }.into());
    }
    Ok((set, unset))
}
