//! `POST /rest/v1/delivery`: visits as the vendor's callers and SDKs send them (TARGET_API §1, ADR 11).
//!
//! One call is one visit, whatever its parts: one event, so it is stored whole or not at all. It goes the way of native
//! visits from there on.

mod check;
mod merge;
mod reply;
mod request;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use cameo_auth::state::Client;
use cameo_eventlog::EventLog;
use cameo_http::{Family, Refusal, body, query, wording};
use cameo_profile::event::DeliveryData;
use cameo_profile::ids::{self, Invalid};
use cameo_profile::view::ProfileRef;
use cameo_profile::{Address, AddressBuf, Kind, Outcome};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::visit::{Delivery, Ids, Object, Text, VisitRequest};
use super::visits::{not_taken, place, with_event};
use super::{App, identity};
use crate::replica::{Answer, Render};
use request::{DeliveryRequest, inner, said};

/// Bytes of a body (TARGET_API §1).
const BODY_BYTES: usize = 60 << 20;
/// What some editors and shells put before text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A visit in the vendor's shape: page loads, mboxes, views and notifications of one moment.
#[utoipa::path(post, path = "/rest/v1/delivery", tag = "compatible",
    params(("client" = Option<String>, Query, description = "Client (tenant) code"),
        ("imsOrgId" = Option<String>, Query, description = "Its organisation, in the place of the client"),
        ("sessionId" = String, Query, description = "The caller's session, 1 to 128 characters")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "A delivery request; unknown fields are ignored"),
    responses((status = 200, description = "Stored, durable and readable; the sections that were asked for, without offers"),
        (status = 204, description = "The same, for `context.beacon`"),
        (status = 400, description = "`{status, message}`: what is wrong, by its field"), (status = 401, description = "The client asks for tokens at visits"),
        (status = 403, description = "An id without a good signature, or the client is disabled"), (status = 404, description = "Unknown client"),
        (status = 408, description = "The body came too slowly"), (status = 413, description = "Body too large"),
        (status = 415, description = "The body is compressed"), (status = 429, description = "Too much under way"),
        (status = 503, description = "The log is unavailable"), (status = 507, description = "The storage is full")))]
pub(super) async fn post<L: EventLog>(State(app): State<Arc<App<L>>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let known = (|| {
        let client = Arc::clone(app.config.auth.state().named_by(head.uri.query())?);
        body::check_plain(&head.headers)?;
        Ok((client, session(head.uri.query())?))
    })();
    let (client, session) = match known {
        Ok(known) => known,
        Err(refusal) => {
            let refusal: Refusal = refusal;
            not_taken(&app, &refusal);
            return body::refuse(content, refusal.response(Family::Rest)).await;
        }
    };
    let done = match body::read(content, BODY_BYTES).await {
        Ok(whole) => {
            let host = reply::edge_host(&head.uri, &head.headers);
            take(&app, &client, &session, &host, &whole.bytes).await
        }
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|refusal| {
        not_taken(&app, &refusal);
        refusal.response(Family::Rest)
    })
}

/// Nothing of a call is for a cache.
pub(super) async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn session(query: Option<&str>) -> Result<String, Refusal> {
    let pairs = query::pairs(query.unwrap_or_default().as_bytes())?;
    let id = query::one(&pairs, "sessionId")?.ok_or_else(|| Invalid::other("sessionId", "is missing in the query"))?;
    ids::check_session_id(id)?;
    Ok(id.to_owned())
}

async fn take<L: EventLog>(
    app: &App<L>,
    client: &Client,
    session: &str,
    host: &str,
    bytes: &[u8],
) -> Result<Response, Refusal> {
    let request = decode(bytes)?;
    check::check(&request)?;
    let visit = merge::visit(&request, session)?;
    let addresses = visit.addresses().map_err(in_id)?;
    identity::check(&app.config.auth, client, &addresses, &signatures(&request))?;
    let answer = send(app, client, &visit, Some(first_tnt_id as Render)).await?;
    let Outcome::Visit(outcome) = &answer.answer.outcome else {
        return Err(Refusal::new(503, "the visit was answered as something else"));
    };
    if outcome.duplicate { &app.meters.visits_duplicate } else { &app.meters.visits_accepted }.increment(1);
    let given = request.ids().and_then(|id| said(&id.tnt_id));
    let tnt_id = match (given, &outcome.first_tnt_id, answer.generated, answer.answer.profile) {
        (Some(given), ..) => given.to_owned(),
        (None, Some(first), ..) => first.to_string(),
        (None, None, Some(generated), _) => generated,
        (None, None, None, Some(known)) if !known.is_empty() => String::from_utf8_lossy(&known).into_owned(),
        (None, None, None, _) => device(app, client, &visit).await?,
    };
    if inner(&request.context).and_then(|context| context.beacon) == Some(true) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let made_up;
    let request_id = match said(&request.request_id) {
        Some(id) => id,
        None => {
            made_up = uuid().ok_or_else(|| Refusal::new(503, "the system has no randomness"))?;
            &made_up
        }
    };
    let told = reply::Told {
        client: client.code.as_str(),
        request_id,
        tnt_id: &tnt_id,
        edge_host: host,
        attributes_refused: outcome.attributes_refused,
    };
    let mut response = Response::new(Body::from(reply::write(&request, &told)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Reads a body.
fn decode(bytes: &[u8]) -> Result<DeliveryRequest<'_>, Refusal> {
    wording::read(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)).map(|Object(request)| request)
}

/// The signatures that a call brings along, by the kind of what they prove.
fn signatures<'r>(request: &'r DeliveryRequest<'_>) -> identity::Signatures<'r> {
    let own = request.ids().and_then(|id| id.identity_signature.as_ref());
    let mut all = identity::Signatures::default();
    own.into_iter().for_each(|fields| all.add(fields));
    request.details().filter_map(|details| details.parameters).for_each(|fields| all.add_parameters(fields));
    all
}

/// Ids are named as they stand in a call.
fn in_id(invalid: Invalid) -> Invalid {
    let name = match &*invalid.field {
        "ecid" => "marketingCloudVisitorId",
        other => other,
    };
    Invalid { field: format!("id.{name}").into(), ..invalid }
}

/// A visit that was answered.
struct Sent {
    answer: Answer,
    /// The tntId that was made up for it, where it named no id.
    generated: Option<String>,
}

async fn send<L: EventLog>(
    app: &App<L>,
    client: &Client,
    visit: &VisitRequest<'_>,
    render: Option<Render>,
) -> Result<Sent, Refusal> {
    let placed = place(app, &client.code, visit, app.replica.now().0)?;
    let mut call = app.replica.start_call(1);
    with_event(&client.code, visit, &placed, None, |event| call.add(placed.way.partition, event, render));
    let answer = call.wait().await.pop();
    let lost = || Refusal::new(503, "the visit was not answered");
    let answer = answer.ok_or_else(lost)??;
    app.replica.let_go(&client.code, &placed.held).await;
    let home = placed.addresses.first().filter(|_| placed.generated);
    let made = home.map(|address| address.as_address().parts().1.to_owned());
    Ok(Sent { answer, generated: made })
}

/// Makes up a tntId for a person who has none yet. A second event, and not part of the visit: a retry of the call must meet
/// its first try by the ids that both name.
async fn device<L: EventLog>(app: &App<L>, client: &Client, visit: &VisitRequest<'_>) -> Result<String, Refusal> {
    let made = app.ids.make(&client.code, None, app.replica.now().0, app.replica.partitions());
    let (address, _): (AddressBuf, _) =
        made.ok_or_else(|| Refusal::new(503, "the system has no randomness for an id"))?;
    let id = address.as_address().parts().1.to_owned();
    let link = VisitRequest {
        ids: Ids { tnt_id: Some(Text(id.as_str().into())), ..visit.ids.clone() },
        delivery: Some(Delivery { context: None, data: Some(DeliveryData { uncounted: true, timed: Vec::new() }) }),
        ..VisitRequest::default()
    };
    send(app, client, &link, None).await?;
    Ok(id)
}

/// The tntId that a profile has had for longest, as it is.
fn first_tnt_id(_: &str, profile: &ProfileRef<'_>, out: &mut Vec<u8>) {
    let mut ids = profile.ids().map(Address::parts);
    if let Some((_, id)) = ids.find(|(kind, _)| *kind == Kind::Tnt) {
        out.extend_from_slice(id.as_bytes());
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut out = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    Some(out)
}
