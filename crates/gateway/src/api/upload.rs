//! `POST /m2/{client}/profile/batchUpdate` and its v2 and v3 (TARGET_API §3): receives a file, validates it whole, and
//! makes a batch of it; or, as a dry run, only says what is wrong with it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::response::Response;
use bytes::Bytes;
use cameo_auth::Scope;
use cameo_auth::verifier::{Caller, Denied, Internal};
use cameo_http::body::{self, BodyError};
use cameo_http::refusal::{RETRY_BUSY, RETRY_UNAVAILABLE};
use cameo_http::{Refusal, query};
use cameo_profile::state::BatchHead;
use cameo_profile::{ClientCode, limits};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HOST};
use http::request::Parts;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::reply::{Shape, element, json_reply, xml_reply};
use super::{ClientPath, switch};
use crate::bounds;
use crate::gateway::App;
use crate::ledger::Ledger;
use crate::open::Opening;
use crate::parse::Version;
use crate::spool::{Encoding, Report, Spool, SpoolError, Spooled};

/// The caller's name for an upload, under which a retry is the same batch.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// What the compatible API says to a file that was taken.
const SUBMITTED: &str = "Batch submitted for processing";

/// Bulk update, v1: profiles that exist. Whatever the content type, a body that starts with `[` is a JSON array of rows,
/// one that starts with `{` is NDJSON, and any other is batch text.
#[utoipa::path(post, path = "/m2/{client}/profile/batchUpdate", operation_id = "batchUpdate", tag = "compatible", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("dryRun" = Option<bool>, Query, description = "Only report"),
    ("Idempotency-Key" = Option<String>, Header, description = "A retry with it is the same batch")),
    responses((status = 200, description = "Taken: XML with the status URL, or JSON if asked for"), (status = 400, description = "What is wrong, and where"),
        (status = 409, description = "The key belongs to another file"), (status = 413, description = "Too large"),
        (status = 429, description = "As many uploads as can be are under way"), (status = 507, description = "A disk is full")))]
pub(super) async fn v1<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    client: ClientPath,
    query: RawQuery,
    request: Request,
) -> Response {
    upload(app, Version::V1, client, query, request).await
}

/// Bulk update, v2: also makes profiles that are missing.
#[utoipa::path(post, path = "/m2/{client}/v2/profile/batchUpdate", operation_id = "batchUpdateV2", tag = "compatible", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("dryRun" = Option<bool>, Query, description = "Only report"),
    ("Idempotency-Key" = Option<String>, Header, description = "A retry with it is the same batch")),
    responses((status = 200, description = "As v1")))]
pub(super) async fn v2<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    client: ClientPath,
    query: RawQuery,
    request: Request,
) -> Response {
    upload(app, Version::V2, client, query, request).await
}

/// Bulk update, v3: as v2, and a cell of `\N` (JSON: null) removes its attribute.
#[utoipa::path(post, path = "/m2/{client}/v3/profile/batchUpdate", operation_id = "batchUpdateV3", tag = "compatible", params(
    ("client" = String, Path, description = "Client (tenant) code"), ("dryRun" = Option<bool>, Query, description = "Only report"),
    ("Idempotency-Key" = Option<String>, Header, description = "A retry with it is the same batch")),
    responses((status = 200, description = "As v1")))]
pub(super) async fn v3<L: Ledger>(
    State(app): State<Arc<App<L>>>,
    client: ClientPath,
    query: RawQuery,
    request: Request,
) -> Response {
    upload(app, Version::V3, client, query, request).await
}

/// What the head of a request asks for.
struct Asked {
    client: ClientCode,
    version: Version,
    dry_run: bool,
    key: Option<String>,
    encoding: Encoding,
}

enum Taken {
    Batch(BatchHead),
    DryRun(Report),
}

async fn upload<L: Ledger>(
    app: Arc<App<L>>,
    version: Version,
    client: ClientPath,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let shape = Shape::asked(&parts.headers);
    let origin = origin(&parts);
    let asked = match asked(&app, version, client, query.as_deref().unwrap_or_default(), &parts.headers) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(&app, shape, body, &refusal).await,
    };
    let Some(place) = app.enter() else {
        return refuse(&app, shape, body, &no_place(app.short_of_room.count())).await;
    };
    let (client, key, dry_run) = (asked.client.clone(), asked.key.clone(), asked.dry_run);
    let received = receive(&app, asked, body).await;
    // The body may have taken its time: a token that was revoked meanwhile applies nothing.
    if let Some(denied) = denied_by_now(&app, &client, &parts) {
        app.meters.uploads_refused.increment(1);
        return denied.answer(|refusal| shape.refuse(refusal));
    }
    let taken = match received {
        Err(refusal) => Err(refusal),
        Ok(spooled) if dry_run => Ok(Taken::DryRun(spooled.report)),
        Ok(spooled) => {
            let by = parts.extensions.get::<Caller>().map(|Caller(by)| Arc::clone(by));
            let opening = Opening { app: Arc::clone(&app), client: client.clone(), key, spooled, by, place };
            // On its own, so that a caller who goes away leaves no head without its rows.
            let opened = tokio::spawn(opening.run()).await;
            let lost = |_| Err(Refusal::new(500, "the batch was lost; an Idempotency-Key makes a retry safe"));
            opened.unwrap_or_else(lost).map(Taken::Batch)
        }
    };
    match taken {
        Ok(Taken::Batch(head)) => submitted(shape, &origin, &client, &head),
        Ok(Taken::DryRun(report)) => reported(shape, &report),
        Err(refusal) => {
            app.meters.uploads_refused.increment(1);
            shape.refuse(&refusal)
        }
    }
}

/// All places are taken. If uploads wait for the log's disk, that is why, and to come back in a moment would not help.
fn no_place(short_of_room: usize) -> Refusal {
    if short_of_room > 0 {
        let wait = if short_of_room == 1 { "1 upload waits" } else { &format!("{short_of_room} uploads wait") };
        let text = format!("the log's disk is full: {wait} for room; nothing was stored");
        return Refusal { retry_after: Some(RETRY_UNAVAILABLE), ..Refusal::new(507, text) };
    }
    let text = format!("{} uploads are under way; try again in a moment", bounds::UPLOADS);
    Refusal { retry_after: Some(RETRY_BUSY), ..Refusal::new(429, text) }
}

fn denied_by_now<L>(app: &App<L>, client: &ClientCode, parts: &Parts) -> Option<Denied> {
    if parts.extensions.get::<Internal>().is_some() {
        return None;
    }
    app.config.auth.check(client.as_str(), Scope::BulkWrite, &parts.headers).err()
}

async fn refuse<L>(app: &App<L>, shape: Shape, body: Body, refusal: &Refusal) -> Response {
    app.meters.uploads_refused.increment(1);
    body::refuse(body, shape.refuse(refusal)).await
}

fn asked<L: Ledger>(
    app: &App<L>,
    version: Version,
    client: ClientPath,
    query: &str,
    headers: &HeaderMap,
) -> Result<Asked, Refusal> {
    let client = app.client(client)?.code.clone();
    if app.is_closing() {
        let refusal = Refusal::new(503, "the server is shutting down");
        return Err(Refusal { retry_after: Some(RETRY_UNAVAILABLE), ..refusal });
    }
    let dry_run = switch(&query::pairs(query.as_bytes())?, "dryRun")?;
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length >= bounds::BODY_BYTES as u64) {
        return Err(too_large());
    }
    Ok(Asked { client, version, dry_run, key: key(headers)?, encoding: encoding(headers)? })
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |text: String| Refusal { field: Some("Idempotency-Key".into()), ..Refusal::new(400, text) };
    if values.next().is_some() {
        return Err(wrong("Idempotency-Key is given more than once".into()));
    }
    let key = value.to_str().map_err(|_| wrong("Idempotency-Key must be printable ASCII".into()))?;
    if key.is_empty() || key.len() > limits::IDEMPOTENCY_KEY_CHARS {
        let limit = limits::IDEMPOTENCY_KEY_CHARS;
        let text = format!("Idempotency-Key has {} characters; it takes 1 to {limit}", key.len());
        return Err(Refusal { limit: Some(limit), ..wrong(text) });
    }
    Ok(Some(key.into()))
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Plain) };
    let name = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    match (&*name, values.next()) {
        ("" | "identity", None) => Ok(Encoding::Plain),
        ("gzip" | "x-gzip", None) => Ok(Encoding::Gzip),
        ("zstd", None) => Ok(Encoding::Zstd),
        _ => {
            let refusal = Refusal::new(415, format!("Content-Encoding {name:?} is not taken; gzip and zstd are"));
            Err(Refusal { field: Some("Content-Encoding".into()), ..refusal })
        }
    }
}

fn too_large() -> Refusal {
    let text = format!("a bulk file must be under 50 MB ({} bytes), unpacked", bounds::BODY_BYTES);
    Refusal { limit: Some(bounds::BODY_BYTES), ..Refusal::new(413, text) }
}

/// Reads the body into the spool. Whatever goes wrong, the body has been read or its caller is gone.
async fn receive<L: Ledger>(app: &App<L>, asked: Asked, mut body: Body) -> Result<Spooled, Refusal> {
    let (sender, mut receiver) = mpsc::channel::<Option<Bytes>>(bounds::PIECES_WAITING);
    let folder = app.config.spool_dir.clone();
    let spooling = tokio::task::spawn_blocking(move || {
        let mut spool = Spool::start(&folder, asked.version, asked.encoding)?;
        while let Some(piece) = receiver.blocking_recv() {
            match piece {
                Some(piece) => spool.feed(&piece)?,
                None => return spool.finish(),
            }
        }
        Err(SpoolError::Aborted)
    });
    let end = Instant::now() + bounds::UPLOAD_TIME;
    let mut broken = None;
    loop {
        let patience = end.min(Instant::now() + body::PAUSE);
        let piece = match timeout_at(patience, body.frame()).await {
            Ok(None) => None,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Some(data),
                // Trailers.
                Err(_) => continue,
            },
            Ok(Some(Err(_))) => {
                broken = Some(BodyError::Broken);
                break;
            }
            Err(_) => {
                broken = Some(BodyError::TimedOut);
                break;
            }
        };
        let last = piece.is_none();
        if sender.send(piece).await.is_err() {
            // The spool has had enough; the rest is read and thrown away, so that the caller reads why.
            body::drain(body).await;
            break;
        }
        if last {
            break;
        }
    }
    drop(sender);
    let spooled = spooling.await.map_err(|_| Refusal::new(500, "the file could not be read"))?;
    match broken {
        Some(error) => Err(Refusal::new(error.status(), error.to_string())),
        None => spooled.map_err(refusal),
    }
}

fn refusal(error: SpoolError) -> Refusal {
    let text = error.to_string();
    match error {
        SpoolError::Refused(refused) => {
            let status = if refused.limit == Some(limits::BATCH_ROWS as usize) { 413 } else { 400 };
            let place = Some((refused.line as usize, refused.column as usize));
            Refusal { place, limit: refused.limit, ..Refusal::new(status, text) }
        }
        SpoolError::TooLarge => too_large(),
        SpoolError::Corrupt { .. } | SpoolError::Aborted => Refusal::new(400, text),
        SpoolError::Disk(source) => {
            use std::io::ErrorKind::{QuotaExceeded, StorageFull};
            let full = matches!(source.kind(), StorageFull | QuotaExceeded);
            tracing::error!(error = %source, "the spool cannot be written");
            let (status, text) = match full {
                true => (507, "the storage is full; nothing was stored, and it works again when there is room"),
                false => (503, "the spool cannot be written; nothing was stored"),
            };
            Refusal { retry_after: Some(RETRY_UNAVAILABLE), ..Refusal::new(status, text) }
        }
    }
}

/// Where the caller has reached us, for links: what a proxy says of the scheme counts, as it ends TLS. Of several in a
/// row the first one spoke with the caller.
fn origin(parts: &Parts) -> String {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let first = |protos: &str| protos.split(',').next().is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
    let scheme = if header("x-forwarded-proto").is_some_and(first) { "https" } else { "http" };
    let host = header(HOST.as_str()).or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    format!("{scheme}://{}", host.unwrap_or("localhost"))
}

fn submitted(shape: Shape, origin: &str, client: &ClientCode, head: &BatchHead) -> Response {
    let url = format!("{origin}/m2/{client}/profile/batchStatus?batchId={}", head.batch);
    match shape {
        Shape::Xml => xml_reply(|out| {
            element(out, "success", true);
            element(out, "batchStatus", &url);
            element(out, "message", SUBMITTED);
        }),
        Shape::Json => {
            json_reply(&json!({"success": true, "batchId": head.batch, "batchStatus": url, "message": SUBMITTED}))
        }
    }
}

/// What a dry run found.
fn reported(shape: Shape, report: &Report) -> Response {
    let message = "Dry run: nothing was stored";
    let counts = [
        ("batchSize", report.rows),
        ("rowsToApply", report.rows_to_apply),
        ("skippedRows", report.rows_skipped),
        ("failedRows", report.rows_failed),
    ];
    let truncated = report.errors.len() < report.rows_failed as usize;
    if shape == Shape::Xml {
        return xml_reply(|out| {
            element(out, "success", true);
            element(out, "dryRun", true);
            for (name, count) in counts {
                element(out, name, count);
            }
            element(out, "truncated", truncated);
            out.push_str("<errors>");
            for error in &report.errors {
                out.push_str("<error>");
                element(out, "line", error.line);
                if let Some(column) = &error.column {
                    element(out, "column", column);
                }
                element(out, "reason", &error.reason);
                out.push_str("</error>");
            }
            out.push_str("</errors>");
            element(out, "message", message);
        });
    }
    let errors = report.errors.iter().map(|e| json!({"line": e.line, "column": e.column, "reason": e.reason}));
    let mut body = json!({
        "success": true, "dryRun": true, "message": message, "truncated": truncated, "errors": errors.collect::<Vec<_>>(),
    });
    for (name, count) in counts {
        body[name] = json!(count);
    }
    json_reply(&body)
}
