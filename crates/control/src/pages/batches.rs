//! *Batches*: what was uploaded and how far it is, and a form to upload another.

use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::Response;
use cameo_auth::Action;
use cameo_http::{body, query};
use http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::gate::Viewer;
use super::layout::{Page, Place};
use super::live::{self, Look};
use super::{Site, layout};
use crate::api::json_reply;
use crate::plane::{Deed, Problem};

/// The page.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
) -> Response {
    if let Err(problem) = site.plane.client(&viewer.principal, Action::BatchRead, &client).await {
        return layout::problem(&site.plane, &viewer, &problem);
    }
    let now = list(&site, &client).await;
    let content = html! {
        @if viewer.principal.may(Action::BatchUpload, Some(&client)) { (upload_form(&viewer, &client)) }
        section {
            h2 { "Recent uploads" }
            (live::region(&format!("/admin/c/{client}/batches/events"), &now))
        }
    };
    let place = Some(Place::Batches);
    Page { plane: &site.plane, viewer: &viewer, title: "Batches", place, client: Some(&client) }.show(&content)
}

fn upload_form(viewer: &Viewer, client: &str) -> Markup {
    html! {
        section {
            h2 { "Upload a bulk file" }
            form data-upload={ "/admin/c/" (client) "/batches/upload" } data-csrf=(viewer.signed.csrf.as_str()) {
                label for="file" { "File: text, JSON or NDJSON, under 50 MB" }
                input id="file" name="file" type="file" required;
                label for="version" { "Profiles that are not there" }
                select id="version" name="version" {
                    option value="v2" { "are created (v2)" }
                    option value="v3" { "are created; \\N removes an attribute (v3)" }
                    option value="v1" { "are left out (v1)" }
                }
                label.check { input type="checkbox" name="dryRun" value="true"; " Dry run: only check the file" }
                button { "Upload" }
                progress max="100" value="0" aria-label="Upload" hidden {}
                div.report role="status" {}
            }
            noscript { p { "Uploading from this page needs a script; " code { "cameo bulk upload FILE" } " does it from a shell." } }
        }
    }
}

async fn list(site: &Site, client: &str) -> Markup {
    let found = site.upstream.json(Method::GET, &format!("/v1/{client}/batches"), None).await;
    let batches = match found {
        Ok(found) => found["batches"].as_array().cloned().unwrap_or_default(),
        Err(problem) => return html! { p.error { (problem) } },
    };
    html! {
        @if batches.is_empty() { p { "There are none yet." } } @else {
            div.table { table {
                thead { tr { th { "Batch" } th { "Opened" } th { "State" } th { "Rows" } th { "Updated" } th { "Not found" } th { "Failed" } } }
                tbody { @for batch in &batches { (row(client, batch)) } }
            } }
        }
    }
}

fn row(client: &str, batch: &Value) -> Markup {
    let text = |name: &str| batch[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| batch[name].as_u64().unwrap_or(0);
    let (id, state) = (text("batchId"), text("status"));
    let (size, consumed, failed) = (number("batchSize"), number("consumedCount"), number("failedUpdates"));
    html! {
        tr {
            th scope="row" data-label="Batch" { code { (id) } }
            td data-label="Opened" { (text("openedAt")) }
            td data-label="State" data-state=(state) {
                (state)
                @if state != "complete" { " " progress max=(size.max(1)) value=(consumed) aria-label={ "Progress of " (id) } {} }
            }
            td data-label="Rows" { (consumed) " of " (size) }
            td data-label="Updated" { (number("successfulUpdates")) }
            td data-label="Not found" { (number("profilesNotFound")) }
            td data-label="Failed" {
                (failed)
                @if failed > 0 { " " a href={ "/admin/c/" (client) "/batches/" (id) "/errors.csv" } { "report" span.visually-hidden { " of " (id) } } }
            }
        }
    }
}

/// The list, as it changes.
pub(super) async fn events(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
) -> Response {
    if let Err(problem) = site.plane.client(&viewer.principal, Action::BatchRead, &client).await {
        return layout::problem(&site.plane, &viewer, &problem);
    }
    let watched = site.clone();
    live::events(&site, &viewer, move || {
        let (site, client) = (watched.clone(), client.clone());
        async move { Look { html: list(&site, &client).await, last: false } }
    })
}

fn refusal(status: StatusCode, problem: &Problem) -> Response {
    json_reply(status, &json!({"success": false, "message": problem.to_string()}))
}

/// Passes a file on to the gateway; answers as it does, in JSON.
pub(super) async fn upload(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let deed = Deed::of(Action::BatchUpload, Some(&client));
    if let Err(problem) = site.plane.client(&viewer.principal, Action::BatchUpload, &client).await {
        let status = if matches!(problem, Problem::Missing(_)) { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
        return body::refuse(request.into_body(), refusal(status, &problem)).await;
    }
    let pairs = query::pairs(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let field = |name: &str| pairs.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str());
    let version = match field("version") {
        "v1" => "",
        "v3" => "v3/",
        _ => "v2/",
    };
    let dry_run = field("dryRun") == "true";
    let path = format!("/m2/{client}/{version}profile/batchUpdate?dryRun={dry_run}");
    let (head, content) = request.into_parts();
    let mut onward = Request::new(content);
    *onward.method_mut() = Method::POST;
    let Ok(uri) = path.parse() else {
        return refusal(StatusCode::BAD_REQUEST, &Problem::Missing("such client".into()));
    };
    *onward.uri_mut() = uri;
    for (name, value) in &head.headers {
        if matches!(name.as_str(), "content-length" | "content-encoding" | "idempotency-key" | "host") {
            onward.headers_mut().append(name, value.clone());
        }
    }
    onward.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    let response = site.upstream.by(&viewer.principal).send(onward).await;
    let refused;
    let result = if response.status().is_success() {
        Ok(Some(if dry_run { "dry run".to_owned() } else { "uploaded".to_owned() }))
    } else {
        refused = Problem::Conflict(format!("the file was refused with {}", response.status().as_u16()));
        Err(&refused)
    };
    site.plane.note(&viewer.principal, deed, result).await;
    response
}

/// The rows of a batch that failed, as CSV.
pub(super) async fn errors(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path((client, id)): Path<(String, String)>,
) -> Response {
    if let Err(problem) = site.plane.client(&viewer.principal, Action::BatchRead, &client).await {
        return layout::problem(&site.plane, &viewer, &problem);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let uri = format!("/m2/{client}/profile/batchErrors?batchId={id}").parse::<http::Uri>();
    let (true, Ok(uri)) = (id.chars().all(plain), uri) else {
        return layout::problem(&site.plane, &viewer, &Problem::Missing("such batch".into()));
    };
    let mut request = Request::new(axum::body::Body::empty());
    *request.uri_mut() = uri;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/csv"));
    let mut response = site.upstream.send(request).await;
    if !response.status().is_success() {
        return layout::problem(&site.plane, &viewer, &Problem::Missing("such batch".into()));
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{id}-errors.csv\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    response
}
