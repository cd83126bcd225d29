//! `POST /v1/{client}/visits`: one visit or up to 10,000, in four encodings.

mod decode;
pub(crate) mod probe;
pub(crate) mod queued;
mod spooled;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use cameo_auth::state::Client;
use cameo_eventlog::EventLog;
use cameo_profile::event::{Order, Route, Visit, VisitContext};
use cameo_profile::{AddressBuf, ClientCode, Event, Kind, Outcome, PartitionCount};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::visit::{Fields, Text, Value, VisitRequest};
use super::{App, HEARD_WITHIN, identity, route, write};
use crate::replica::{Answer, Held, Render, SubmitError};
use cameo_http::{Family, Refusal, body, query};

use decode::{Encoding, decode};

/// Bytes of a body: as the delivery API's (TARGET_API §1).
const BODY_BYTES: usize = 60 << 20;

/// A visit on its way, with what its reply needs.
struct Sent<'b> {
    /// Slot of its answer; or why it was refused.
    slot: Result<usize, Refusal>,
    placed: Option<Placed>,
    /// Kept for the spool, where there is one.
    visit: Option<(VisitRequest<'b>, Way)>,
}

/// Which way a visit takes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Log,
    /// Into the spool, so as not to overtake those that wait there: the log itself may be well.
    Behind,
    /// Into the spool, as the log is not heard from.
    Silent,
}

/// Where a visit goes.
#[derive(Clone)]
pub(super) struct Placed {
    pub(super) way: route::Way,
    /// What it named or was given, lowest first.
    pub(super) addresses: Vec<AddressBuf>,
    /// The lowest was made up.
    pub(super) generated: bool,
    /// Where the addresses were linked before, if the event may link them to others.
    pub(super) held: Vec<Held>,
}

impl Placed {
    /// As an event with an event id goes, whatever the visit had.
    fn entering(&self, client: &ClientCode, count: PartitionCount) -> Self {
        let way = self.addresses.first().map(|lowest| route::Way::entering(client, lowest, count));
        Self { way: way.unwrap_or_else(|| self.way.clone()), ..self.clone() }
    }
}

/// What became of a visit.
enum Became {
    Applied(Answer),
    /// It is in the outage spool, under this event id if it named none; with the id that was made up for it before.
    Spooled {
        event_id: Option<String>,
        first_tnt_id: Option<Box<str>>,
    },
}

/// Visits in: one JSON object, a JSON list, NDJSON or MessagePack; up to 10,000.
#[utoipa::path(post, path = "/v1/{client}/visits", tag = "visits",
    params(("client" = String, Path, description = "Client (tenant) code"), ("return" = Option<String>, Query, description = "`profile`: the profile after the visit")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "A visit, or a list of visits"),
    responses((status = 200, description = "Stored, durable and readable; a result for each visit"),
        (status = 202, description = "Of visits whose status is `spooled`: durable at this node, not readable yet; they are counted once when the log is back"),
        (status = 400, description = "Refused; problem+json"), (status = 404, description = "Unknown client"),
        (status = 408, description = "The body came too slowly"), (status = 413, description = "Body too large or too many visits"),
        (status = 415, description = "The body is compressed"), (status = 429, description = "Too much under way"),
        (status = 503, description = "The log is unavailable"), (status = 507, description = "The storage is full")))]
pub(super) async fn post<L: EventLog>(
    State(app): State<Arc<App<L>>>,
    client: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let (head, content) = request.into_parts();
    let known = client.map_err(|_| Refusal::new(400, "the client is not URL-encoded UTF-8"));
    let known = known.and_then(|Path(client)| {
        body::check_plain(&head.headers)?;
        // Looked at before the record, which is as new as the lease says.
        let leased = app.config.auth.holds_lease();
        let (client, render) = (app.client(&client)?, returned(query.as_deref())?);
        // Visits are open, what is known of a visitor is not; nor where nobody can tell whether it still is.
        let render = render.filter(|_| leased && !client.record.require_authentication);
        Ok((client, render))
    });
    let (client, render) = match known {
        Ok(known) => known,
        Err(refusal) => return body::refuse(content, refusal.response(Family::Native)).await,
    };
    let done = match body::read(content, BODY_BYTES).await {
        Ok(whole) => take(&app, &client, head.headers.get(CONTENT_TYPE), render, &whole.bytes).await,
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|refusal| {
        not_taken(&app, &refusal);
        refusal.response(Family::Native)
    })
}

/// `?return=profile`.
fn returned(query: Option<&str>) -> Result<Option<Render>, Refusal> {
    let Some(query) = query else { return Ok(None) };
    let pairs = query::pairs(query.as_bytes())?;
    match query::one(&pairs, "return")? {
        None => Ok(None),
        Some("profile") => Ok(Some(write::native)),
        Some(_) => {
            let refusal = Refusal::new(400, "return can only be \"profile\"");
            Err(Refusal { field: Some("return".into()), ..refusal })
        }
    }
}

async fn take<L: EventLog>(
    app: &App<L>,
    known: &Client,
    content_type: Option<&HeaderValue>,
    render: Option<Render>,
    bytes: &[u8],
) -> Result<Response, Refusal> {
    let decoded = decode(Encoding::of(content_type, bytes), bytes)?;
    let (client, now_ms) = (&known.code, app.replica.now().0);
    let mut call = app.replica.start_call(decoded.visits.len());
    let mut slots = 0;
    let mut sent = Vec::with_capacity(decoded.visits.len());
    for visit in decoded.visits {
        let added = visit.and_then(|visit| {
            let placed = place(app, client, &visit, now_ms)?;
            identity::check(&app.config.auth, known, &placed.addresses, &visit.signatures())?;
            let way = way(app, client, &placed);
            if way == Way::Log {
                with_event(client, &visit, &placed, None, |event| call.add(placed.way.partition, event, render));
            } else {
                call.skip();
            }
            Ok((placed, visit, way))
        });
        sent.push(match added {
            Ok((placed, visit, way)) => {
                slots += 1;
                let visit = app.spool.is_some().then_some((visit, way));
                Sent { slot: Ok(slots - 1), placed: Some(placed), visit }
            }
            Err(refusal) => Sent { slot: Err(refusal), placed: None, visit: None },
        });
    }
    let answers = call.wait().await;
    let held = sent.iter().filter_map(|sent| sent.placed.as_ref()).flat_map(|placed| placed.held.iter().cloned());
    app.replica.let_go(client, &held.collect::<Vec<_>>()).await;
    let became = match &app.spool {
        Some(spool) => spooled::fall_back(app, spool, client, &sent, answers, now_ms).await,
        None => answers.into_iter().map(|answer| answer.map(Became::Applied)).collect(),
    };
    if decoded.single {
        return one(app, sent, became);
    }
    Ok(many(app, sent, became))
}

fn way<L: EventLog>(app: &App<L>, client: &ClientCode, placed: &Placed) -> Way {
    let partition = placed.way.partition;
    // The log's way says why a partition has stopped.
    let Some(spool) = app.spool.as_ref().filter(|_| !app.replica.has_stopped(partition)) else { return Way::Log };
    if app.replica.silence_of(partition).max(app.replica.unanswered(partition)) > HEARD_WITHIN {
        return Way::Silent;
    }
    // Where it enters by its lowest address: earlier visits of the same device may wait there.
    let enters = placed.addresses.first().map(|lowest| lowest.as_address().partition(client, app.replica.partitions()));
    if spool.holds(partition) || enters.is_some_and(|enters| spool.holds(enters)) { Way::Behind } else { Way::Log }
}

/// Whether a refusal is no fault of the visit: too much is under way, or a part of the log is not there.
fn is_passing(refusal: &Refusal) -> bool {
    refusal.status == 429 || refusal.status >= 500
}

/// Counts a visit that was not taken, or a call of which nothing was.
pub(super) fn not_taken<L: EventLog>(app: &App<L>, refusal: &Refusal) {
    if is_passing(refusal) { &app.meters.visits_failed } else { &app.meters.visits_refused }.increment(1);
}

/// Where a visit goes.
pub(super) fn place<L: EventLog>(
    app: &App<L>,
    client: &ClientCode,
    visit: &VisitRequest<'_>,
    now_ms: u64,
) -> Result<Placed, Refusal> {
    let mut addresses = visit.addresses()?;
    addresses.sort_by(|a, b| a.as_address().height().cmp(&b.as_address().height()));
    addresses.dedup();
    visit.check(now_ms)?;
    if let Some(way) = route::choose(&app.replica, client, &addresses, visit.event_id().is_some())? {
        let links = addresses.len() > 1 && way.route == Route::Enter;
        let held = if links { app.replica.held(client, &addresses)? } else { Vec::new() };
        return Ok(Placed { way, addresses, generated: false, held });
    }
    let generated = app.ids.make(client, visit.event_id(), now_ms, app.replica.partitions());
    let (address, partition) = generated.ok_or_else(|| Refusal::new(503, "the system has no randomness for an id"))?;
    let way = route::Way { partition, route: Route::Enter, at: address.clone() };
    Ok(Placed { way, addresses: vec![address], generated: true, held: Vec::new() })
}

/// Builds the event around what the request holds, and hands it over; `made_up` are event id and time for one that has
/// none.
pub(super) fn with_event(
    client: &ClientCode,
    visit: &VisitRequest<'_>,
    placed: &Placed,
    made_up: Option<(&str, u64)>,
    use_it: impl FnOnce(&Event<'_>),
) {
    let others = placed.addresses.iter().skip(1).map(|address| address.as_address().as_str());
    let event = Visit {
        client: client.as_str(),
        home: placed.way.at.as_address().as_str(),
        generated: placed.generated,
        event_id: visit.event_id().or(made_up.map(|(id, _)| id)),
        occurred_at: visit.occurred_at.map(|time| time.0).or(made_up.map(|(_, now_ms)| now_ms)),
        session_id: visit.session_id(),
        profile: texts(&visit.profile),
        categories: visit.categories(),
        other_ids: others.collect(),
        context: context(visit),
        route: placed.way.route,
        via: placed.addresses.first().map_or("", |lowest| placed.way.via(lowest)),
        delivery: visit.delivery.as_ref().and_then(|delivery| delivery.data.clone()).map(Box::new),
    };
    use_it(&Event::Visit(event));
}

fn texts<'v>(fields: &'v Fields<'_>) -> Vec<(&'v str, &'v str)> {
    let text = |(name, value): &'v (std::borrow::Cow<'_, str>, Value<'_>)| match value {
        Value::Text(text) => Some((&**name, &**text)),
        Value::Not(_) => None,
    };
    fields.0.iter().filter_map(text).collect()
}

fn context<'v>(visit: &'v VisitRequest<'_>) -> Option<VisitContext<'v>> {
    let text = |value: &'v Option<Text<'_>>| value.as_ref().map(|Text(text)| &**text);
    let context = VisitContext {
        url: visit.page.as_ref().and_then(|page| text(&page.url)),
        referrer: visit.page.as_ref().and_then(|page| text(&page.referrer)),
        mbox: text(&visit.mbox),
        parameters: texts(&visit.parameters),
        order: visit.order.as_ref().map(|order| Order {
            id: &order.id.0,
            total: order.total,
            product_ids: order.product_ids.iter().map(|Text(id)| &**id).collect(),
        }),
        user_agent: text(&visit.user_agent),
        delivery: visit.delivery.as_ref().and_then(|delivery| delivery.context.clone()).map(Box::new),
    };
    (context != VisitContext::default()).then_some(context)
}

/// The reply to a single visit.
fn one<L: EventLog>(
    app: &App<L>,
    mut sent: Vec<Sent<'_>>,
    mut became: Vec<Result<Became, SubmitError>>,
) -> Result<Response, Refusal> {
    let Some(Sent { slot, placed, .. }) = sent.pop() else { return Err(Refusal::new(400, "the body has no visit")) };
    slot?;
    // The call had room for exactly this one.
    let became = became.swap_remove(0)?;
    let mut out = b"{\"status\":".to_vec();
    let status = tell(app, &mut out, placed.as_ref(), &became);
    out.push(b'}');
    Ok(json_reply(status, out))
}

/// The reply to a list: a result for each, in order.
fn many<L: EventLog>(app: &App<L>, sent: Vec<Sent<'_>>, became: Vec<Result<Became, SubmitError>>) -> Response {
    let mut results = Vec::with_capacity(sent.len() * 64);
    let (mut accepted, mut spooled, mut failed, mut worst) = (0, 0, 0, None::<Refusal>);
    let total = sent.len();
    for (index, Sent { slot, placed, .. }) in sent.into_iter().enumerate() {
        if index > 0 {
            results.push(b',');
        }
        results.extend_from_slice(format!("{{\"index\":{index},\"status\":").as_bytes());
        let result = match slot {
            Err(refusal) => Err((refusal, false)),
            Ok(slot) => {
                became[slot].as_ref().map_err(|error| (error.clone().into(), matches!(error, SubmitError::Unknown(_))))
            }
        };
        match result {
            Ok(became) if tell(app, &mut results, placed.as_ref(), became) == StatusCode::OK => accepted += 1,
            Ok(_) => spooled += 1,
            Err((refusal, unknown)) => {
                not_taken(app, &refusal);
                let passing = is_passing(&refusal);
                failed += usize::from(passing);
                // Not a fault of the visit, and perhaps stored all the same: its error says what to do.
                write::string(&mut results, if passing { "failed" } else { "refused" });
                results.extend_from_slice(b",\"error\":");
                let mut error = refusal.details();
                error.insert("status".into(), refusal.status.into());
                error.insert("message".into(), refusal.message.as_ref().into());
                results.extend_from_slice(serde_json::Value::Object(error).to_string().as_bytes());
                // With one of unknown outcome among them, nobody may say of the call that nothing was stored.
                if passing && (unknown || worst.is_none()) {
                    worst = Some(refusal);
                }
            }
        }
        results.push(b'}');
    }
    let refused = total - accepted - spooled - failed;
    // Nothing at all was stored, as far as is known: the caller should come back with the whole call.
    if let (0, Some(refusal)) = (accepted + spooled, worst) {
        return refusal.response(Family::Native);
    }
    let mut out = format!("{{\"accepted\":{accepted},\"refused\":{refused},").into_bytes();
    for (name, count) in [("spooled", spooled), ("failed", failed)] {
        if count > 0 {
            out.extend_from_slice(format!("\"{name}\":{count},").as_bytes());
        }
    }
    out.extend_from_slice(b"\"results\":[");
    out.append(&mut results);
    out.extend_from_slice(b"]}");
    json_reply(if spooled > 0 { StatusCode::ACCEPTED } else { StatusCode::OK }, out)
}

/// Says what became of a visit that was taken, from its status on; 200 when it can be read now.
fn tell<L: EventLog>(app: &App<L>, out: &mut Vec<u8>, placed: Option<&Placed>, became: &Became) -> StatusCode {
    let addresses = placed.map_or(&[][..], |placed| &placed.addresses);
    match became {
        Became::Applied(answer) => {
            out.reserve(96 + answer.profile.as_ref().map_or(0, Vec::len));
            out.extend_from_slice(b"\"accepted\"");
            accepted(app, out, addresses, answer);
            StatusCode::OK
        }
        Became::Spooled { event_id, first_tnt_id } => {
            app.meters.visits_spooled.increment(1);
            out.extend_from_slice(b"\"spooled\"");
            ids(out, addresses, first_tnt_id.as_deref());
            if let Some(event_id) = event_id {
                out.extend_from_slice(b",\"eventId\":");
                write::string(out, event_id);
            }
            StatusCode::ACCEPTED
        }
    }
}

/// The ids of an accepted visit, a warning if there is one, and the profile if it was asked for.
fn accepted<L: EventLog>(app: &App<L>, out: &mut Vec<u8>, addresses: &[AddressBuf], answer: &Answer) {
    let Outcome::Visit(visit) = &answer.outcome else { return };
    if visit.duplicate { &app.meters.visits_duplicate } else { &app.meters.visits_accepted }.increment(1);
    ids(out, addresses, visit.first_tnt_id.as_deref());
    if visit.attributes_refused {
        out.extend_from_slice(b",\"warning\":{\"field\":\"profile\",\"message\":");
        write::string(
            out,
            "the profile would exceed 64 KB or 1,000 attributes: the visit was counted, its attributes were not stored",
        );
        out.push(b'}');
    }
    if let Some(profile) = &answer.profile {
        out.extend_from_slice(b",\"profile\":");
        out.extend_from_slice(profile);
    }
}

fn ids(out: &mut Vec<u8>, addresses: &[AddressBuf], first_tnt_id: Option<&str>) {
    for address in addresses {
        let (kind, id) = address.as_address().parts();
        if matches!(kind, Kind::Customer(_)) {
            continue;
        }
        out.push(b',');
        write::string(out, kind.field());
        out.push(b':');
        write::string(out, first_tnt_id.unwrap_or(id));
    }
}

fn json_reply(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
