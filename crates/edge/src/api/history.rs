//! `GET /v1/{client}/profiles/{kind}/{id}/history`, `…?asOf=TIME` and `…/export` (design §5): what happened to a profile,
//! told from the log.
//!
//! Times are the log's: `asOf` asks for what a reader would have seen at that moment, whatever `occurredAt` events that
//! came later have.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use cameo_auth::state::Client;
use cameo_eventlog::{EventLog, LogTime, Partition};
use cameo_http::{Family, Refusal, query};
use cameo_profile::ids::Invalid;
use cameo_profile::time::Iso8601;
use cameo_profile::{AddressBuf, Kind};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::native::{self, Target};
use super::{App, write};
use crate::history::read::{AsOf, Frames, HistoryError};
use crate::history::timeline::{Cursor, Timeline};
use crate::replica::Replica;

/// Readers of history at once: each may read hundreds of frames from the disk or the network. Ours.
pub(crate) const READERS: usize = 8;
/// Entries of a page unless it is told, and at most.
const LIMIT: (usize, usize) = (50, 200);
/// Pieces of an export on their way to the caller.
const PIECES: usize = 4;
/// Entries of one piece.
const PIECE_ENTRIES: usize = 100;

/// Which profile.
pub(super) struct Asked {
    client: Arc<Client>,
    /// By which address it was asked for.
    asked: AddressBuf,
    /// The address that it lives at; the one that was asked for when that leads to no profile.
    address: AddressBuf,
    partition: Partition,
}

impl Asked {
    async fn read<L: EventLog>(app: &App<L>, target: Target) -> Result<Self, Refusal> {
        let (client, asked) = native::resolve(app, target)?;
        // As profiles are read: an alias may outlive its profile, and another one live there that knows nothing of it.
        let home = app.replica.profile(&client.code, asked.as_address(), |profile| profile.home().into()).await?;
        let address = home.unwrap_or_else(|| asked.clone());
        let partition = address.as_address().partition(&client.code, app.replica.partitions());
        Ok(Self { client, asked, address, partition })
    }

    fn missing(&self) -> Refusal {
        native::missing(&self.client.code, &self.asked)
    }

    /// The kind of its id, without the code of a customer id.
    fn kind_word(&self) -> &'static str {
        match self.address.as_address().parts().0 {
            Kind::Tnt => "tnt",
            Kind::ThirdParty => "tp",
            Kind::Ecid => "ecid",
            Kind::Customer(_) => "cust",
        }
    }
}

/// What happened to a profile, newest first.
#[utoipa::path(get, path = "/v1/{client}/profiles/{kind}/{id}/history", tag = "profiles", params(("client" = String, Path, description = "Client (tenant) code"), ("kind" = String, Path, description = "`tnt`, `tp`, `ecid` or `cust:CODE`"), ("id" = String, Path, description = "The id"),
        ("limit" = Option<usize>, Query, description = "Entries of a page, 1–200; 50 unless told"), ("after" = Option<String>, Query, description = "`next` of the page before")),
    responses((status = 200, description = "`{client, entries, next?, completeSince?}`"), (status = 400, description = "Refused; problem+json"), (status = 404, description = "Nothing is known of it, or no such client"),
        (status = 429, description = "Too many readers of history"), (status = 503, description = "The log or the index cannot be read now")))]
pub(super) async fn history<L: EventLog>(
    State(app): State<Arc<App<L>>>,
    target: Target,
    RawQuery(query): RawQuery,
) -> Response {
    app.meters.profile_reads.increment(1);
    let read = async {
        let asked = Asked::read(&app, target).await?;
        let pairs = query::pairs(query.unwrap_or_default().as_bytes())?;
        let limit = limit(query::one(&pairs, "limit")?)?;
        let after = query::one(&pairs, "after")?.map(cursor).transpose()?;
        let body = reading(&app, move |replica, runtime| page(replica, runtime, &asked, limit, after)).await??;
        let mut response = json_reply(Body::from(body));
        app.tell_age(&mut response);
        Ok(response)
    };
    read.await.unwrap_or_else(|refusal: Refusal| refusal.response(Family::Native))
}

/// Everything that is held about a profile, as one JSON file.
#[utoipa::path(get, path = "/v1/{client}/profiles/{kind}/{id}/export", tag = "profiles", params(("client" = String, Path, description = "Client (tenant) code"), ("kind" = String, Path, description = "`tnt`, `tp`, `ecid` or `cust:CODE`"), ("id" = String, Path, description = "The id")),
    responses((status = 200, description = "A download: `{client, exportedAt, kind, id, profile, history: {completeSince?, entries}}`"), (status = 404, description = "Nothing is known of it, or no such client"),
        (status = 429, description = "Too many readers of history"), (status = 503, description = "The log or the index cannot be read now")))]
pub(super) async fn export<L: EventLog>(State(app): State<Arc<App<L>>>, target: Target) -> Response {
    app.meters.profile_reads.increment(1);
    let read = async {
        let asked = Asked::read(&app, target).await?;
        let name = format!("{}-{}-{}.json", asked.client.code, asked.kind_word(), app.replica.now().ms());
        let body = exported(&app, asked).await?;
        let mut response = json_reply(body);
        let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
        response
            .headers_mut()
            .insert(CONTENT_DISPOSITION, disposition.unwrap_or(HeaderValue::from_static("attachment")));
        app.tell_age(&mut response);
        Ok(response)
    };
    read.await.unwrap_or_else(|refusal: Refusal| refusal.response(Family::Native))
}

/// The profile as it read at a moment that is past.
pub(super) async fn as_of<L: EventLog>(app: &Arc<App<L>>, target: Target, time: &str) -> Result<Response, Refusal> {
    let (client, asked) = native::resolve(app, target)?;
    let now = app.replica.now();
    let time = moment(time, now)?;
    let found = reading(app, move |replica, runtime| {
        let code = &client.code;
        let profile = replica.as_of(runtime, code, asked.as_address(), time, |profile| {
            let mut out = Vec::with_capacity(1024);
            write::native(code.as_str(), profile, &mut out);
            out
        });
        profile.map(|profile| (profile, native::missing(code, &asked)))
    });
    let (found, missing) = found.await?.map_err(refusal)?;
    match found {
        AsOf::Found(body) => {
            let mut response = json_reply(Body::from(body));
            app.tell_age(&mut response);
            Ok(response)
        }
        AsOf::None => Err(Refusal { message: format!("{} at {time}", missing.message).into(), ..missing }),
        AsOf::TooEarly(since) => {
            let text = match since {
                Some(since) => {
                    format!("is before what the log still holds of this profile; it can be told from {since} on")
                }
                None => "is before what the log still holds of this profile".into(),
            };
            Err(Refusal { field: Some("asOf".into()), ..Refusal::new(410, format!("asOf {text}")) })
        }
    }
}

fn moment(text: &str, now: LogTime) -> Result<LogTime, Refusal> {
    let ms = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
    };
    let Some(ms) = ms else {
        let text = "must be a time: RFC 3339 text like 2026-08-18T17:53:39.003Z, or milliseconds since 1970";
        return Err(Invalid::other("asOf", text).into());
    };
    if ms > now.ms() {
        return Err(Invalid::other("asOf", format!("is in the future; the log's time is {now}")).into());
    }
    Ok(LogTime(ms))
}

fn limit(text: Option<&str>) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(LIMIT.0) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT.1).contains(limit));
    limit.ok_or_else(|| Invalid::other("limit", format!("must be a number from 1 to {}", LIMIT.1)).into())
}

fn cursor(text: &str) -> Result<Cursor, Refusal> {
    Cursor::parse(text).ok_or_else(|| Invalid::other("after", "must be the next of the page before").into())
}

/// Runs what may block on disk and log on a thread where that is allowed; only so many at once.
async fn reading<L: EventLog, R: Send + 'static>(
    app: &Arc<App<L>>,
    read: impl FnOnce(&Replica<L>, Handle) -> R + Send + 'static,
) -> Result<R, Refusal> {
    let permit = permit(app)?;
    let (replica, runtime) = (Arc::clone(&app.replica), Handle::current());
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        read(&replica, runtime)
    });
    done.await.map_err(|_| Refusal::new(500, "history could not be read"))
}

fn permit<L: EventLog>(app: &App<L>) -> Result<OwnedSemaphorePermit, Refusal> {
    let busy = || Refusal {
        retry_after: Some(cameo_http::refusal::RETRY_BUSY),
        ..Refusal::new(429, "too many readers of history; try again in a moment")
    };
    Arc::clone(&app.history_readers).try_acquire_owned().map_err(|_| busy())
}

fn refusal(error: HistoryError) -> Refusal {
    let text = crate::replica::describe(&error);
    match error {
        HistoryError::Stopped(error) => error.into(),
        HistoryError::Closed | HistoryError::Log(_) => {
            tracing::warn!(error = text, "history could not be read");
            Refusal { retry_after: Some(cameo_http::refusal::RETRY_UNAVAILABLE), ..Refusal::new(503, text) }
        }
        HistoryError::Index(_) | HistoryError::Disagrees { .. } => {
            tracing::error!(error = text, "history could not be read");
            Refusal::new(500, text)
        }
    }
}

fn page<L: EventLog>(
    replica: &Replica<L>,
    runtime: Handle,
    asked: &Asked,
    limit: usize,
    after: Option<Cursor>,
) -> Result<Vec<u8>, Refusal> {
    let timeline = timeline(replica, asked)?;
    let mut frames = Frames::new(replica.log(), runtime);
    let (entries, next) = timeline.page(&mut frames, limit, after).map_err(refusal)?;
    let mut page = json!({ "client": asked.client.code.as_str(), "entries": entries });
    if let Some(next) = next {
        page["next"] = json!(next.to_string());
    }
    if let Some(since) = timeline.whole_since() {
        page["completeSince"] = json!(Iso8601::new(since.ms()).as_str());
    }
    Ok(page.to_string().into_bytes())
}

/// What is known of a profile; a refusal when that is nothing.
fn timeline<L: EventLog>(replica: &Replica<L>, asked: &Asked) -> Result<Timeline, Refusal> {
    let (client, address) = (asked.client.code.as_str(), asked.address.as_address());
    let timeline = replica.timeline(&asked.client.code, address).map_err(refusal)?;
    if timeline.is_empty() {
        let lives = replica.read(asked.partition, |state, now| state.profile(client, address, now).is_some())?;
        if !lives {
            return Err(asked.missing());
        }
    }
    Ok(timeline)
}

/// The body of an export, made while it is sent: a long history is never in memory whole.
async fn exported<L: EventLog>(app: &Arc<App<L>>, asked: Asked) -> Result<Body, Refusal> {
    let permit = permit(app)?;
    let (replica, runtime) = (Arc::clone(&app.replica), Handle::current());
    let (sender, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES);
    let (begun, head) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let start =
            timeline(&replica, &asked).and_then(|timeline| Ok((export_head(&replica, &asked, &timeline)?, timeline)));
        let (head, timeline) = match start {
            Ok(start) => start,
            Err(refusal) => return drop(begun.send(Err(refusal))),
        };
        if begun.send(Ok(())).is_err() || sender.blocking_send(Ok(head.into())).is_err() {
            return;
        }
        let mut frames = Frames::new(replica.log(), runtime);
        let mut after = None;
        loop {
            let piece = match timeline.page(&mut frames, PIECE_ENTRIES, after) {
                Ok((entries, next)) => {
                    let comma = if after.is_some() { "," } else { "" };
                    let texts: Vec<_> = entries.iter().map(ToString::to_string).collect();
                    let end = if next.is_none() { "]}}" } else { "" };
                    let comma = if texts.is_empty() { "" } else { comma };
                    after = next;
                    Ok([comma, &texts.join(","), end].concat().into())
                }
                // The connection is broken off, so that half an export does not pass for a whole one.
                Err(error) => Err(std::io::Error::other(refusal(error).message)),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed || after.is_none() {
                return;
            }
        }
    });
    head.await.map_err(|_| Refusal::new(500, "history could not be read"))??;
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    Ok(Body::from_stream(pieces))
}

/// Everything up to the entries of the history.
fn export_head<L: EventLog>(replica: &Replica<L>, asked: &Asked, timeline: &Timeline) -> Result<Vec<u8>, Refusal> {
    let (client, address) = (asked.client.code.as_str(), asked.address.as_address());
    let (kind, id) = address.parts();
    let profile = replica.read(asked.partition, |state, now| {
        let mut out = Vec::with_capacity(1024);
        match state.profile(client, address, now) {
            Some(profile) => write::native_by_parts(client, &profile, &mut out),
            None => out.extend_from_slice(b"null"),
        }
        out
    })?;
    let mut out = Vec::with_capacity(profile.len() + 256);
    let head = json!({ "client": client, "exportedAt": Iso8601::new(replica.now().ms()).as_str(),
        "kind": asked.kind_word(), "field": kind.field(), "id": id });
    out.extend_from_slice(head.to_string().trim_end_matches('}').as_bytes());
    out.extend_from_slice(b",\"profile\":");
    out.extend_from_slice(&profile);
    out.extend_from_slice(b",\"history\":{");
    if let Some(since) = timeline.whole_since() {
        out.extend_from_slice(format!("\"completeSince\":\"{}\",", Iso8601::new(since.ms()).as_str()).as_bytes());
    }
    out.extend_from_slice(b"\"entries\":[");
    Ok(out)
}

fn json_reply(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
