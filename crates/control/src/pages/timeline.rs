//! The history of a profile as a timeline, and its export as a download: parts of the page *Profiles*.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_DISPOSITION;
use maud::{Markup, html};
use serde_json::Value;

use super::gate::Viewer;
use super::profiles::Which;
use super::{Site, layout};
use crate::plane::Problem;

/// Entries on one page.
const ENTRIES: usize = 20;
/// Characters of a value on the timeline; the export has all of it.
const VALUE_CHARS: usize = 120;

/// Where the entries of a profile are asked for.
pub(super) fn path(which: &Which, client: &str, after: &str) -> String {
    let after = if after.is_empty() { String::new() } else { format!("&after={}", layout::encode(after)) };
    format!("{}/history?limit={ENTRIES}{after}", which.path(client))
}

/// The entries, newest first, each with a link to the profile as it read then.
pub(super) fn shown(which: &Which, client: &str, after: &str, history: &Result<Value, Problem>) -> Markup {
    let history = match history {
        Ok(history) => history,
        Err(problem) => return html! { h2 { "History" } p role="status" { (problem) } },
    };
    let entries = history["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let href = which.href(client);
    html! {
        h2 id="history" { "History" }
        @if entries.is_empty() { p { "Nothing is recorded." } }
        ol.timeline {
            @for entry in entries {
                @let at = entry["at"].as_str().unwrap_or_default();
                li class={ "entry " (word(entry)) } {
                    div.when {
                        strong { (title(entry)) } " "
                        a href={ (href) "&asOf=" (at) } title="The profile as it read then" { time datetime=(at) { (at) } }
                    }
                    dl { @for (name, value) in lines(entry) { dt { (name) } dd { (value) } } }
                }
            }
        }
        p.pager {
            @if !after.is_empty() { a href={ (href) "#history" } { "Newest" } " " }
            @if let Some(next) = history["next"].as_str() { a href={ (href) "&after=" (next) "#history" } { "Older" } }
        }
        @if let Some(since) = history["completeSince"].as_str() {
            p.hint { "What was before " (since) " is not in the log any more, or was not recorded." }
        }
    }
}

/// What kind of entry it is, as a word of ours.
fn word(entry: &Value) -> &'static str {
    match entry["type"].as_str() {
        Some("visit") => "visit",
        Some("update") => "update",
        Some("batch") => "batch",
        Some("link") => "link",
        Some("unlink") => "unlink",
        Some("leave") => "leave",
        Some("return") => "return",
        _ => "other",
    }
}

fn title(entry: &Value) -> String {
    let created = entry["created"] == true;
    match word(entry) {
        "visit" if created => "First visit".into(),
        "visit" => "Visit".into(),
        "update" => "Update".into(),
        "batch" => format!("Row of a bulk file, line {}", entry["line"]),
        "link" => "Linked".into(),
        "unlink" => "Unlinked".into(),
        "leave" => "Follows another profile".into(),
        "return" => "Unlinked, with what it had brought and done".into(),
        _ => entry["type"].as_str().unwrap_or("Event").to_owned(),
    }
}

/// What an entry says, in lines.
fn lines(entry: &Value) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let mut text = |name, value: &Value| {
        let value = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
            Value::Object(pairs) => {
                pairs.iter().map(|(name, value)| format!("{name} = {}", plain(value))).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        lines.push((name, short(&value)));
    };
    text("by", &entry["by"]);
    text("address", &entry["address"]);
    text("by way of", &entry["via"]);
    text("addresses", &entry["addresses"]);
    text("occurred", &entry["occurredAt"]);
    text("session", &entry["sessionId"]);
    text("page", &entry["page"]["url"]);
    text("from", &entry["page"]["referrer"]);
    text("mbox", &entry["mbox"]);
    text("sets", &entry["profile"]);
    text("sets", &entry["set"]);
    text("removes", &entry["unset"]);
    text("categories", &entry["categories"]);
    text("parameters", &entry["parameters"]);
    text("order", &entry["order"]);
    text("batch", &entry["batchId"]);
    text("agent", &entry["userAgent"]);
    lines
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Its start, if it is long.
pub(super) fn short(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(VALUE_CHARS).collect();
    if chars.next().is_some() { start + "…" } else { start }
}

/// Everything that is held about a profile, as a file.
pub(super) async fn export(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let which = match Which::asked(&site, &viewer, &client, query).await {
        Ok((which, _)) => which,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let none = || layout::problem(&site.plane, &viewer, &Problem::Missing("such profile".into()));
    let Ok(request) = Request::get(format!("{}/export", which.path(&client))).body(Body::empty()) else {
        return none();
    };
    let mut response = site.upstream.send(request).await;
    if !response.status().is_success() {
        return none();
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{client}-profile-{seconds}.json\""));
    response.headers_mut().insert(CONTENT_DISPOSITION, name.unwrap_or(HeaderValue::from_static("attachment")));
    response
}
