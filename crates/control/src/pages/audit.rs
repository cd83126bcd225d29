//! *Audit*: who did what, newest first.

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use cameo_auth::Action;
use cameo_http::query;
use maud::html;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::gate::Viewer;
use super::layout::{Page, Place};
use super::{Site, layout};
use crate::api::time;
use crate::audit::{Filter, PAGE_DEFAULT};

/// The page.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    RawQuery(query): RawQuery,
) -> Response {
    let pairs = query::pairs(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let field = |name: &str| {
        let found = pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.trim().to_owned());
        found.filter(|value| !value.is_empty())
    };
    let mut client = field("client");
    if client.is_none() && !viewer.principal.may(Action::AuditRead, None) {
        // Who approves for one client sees that one's.
        let mut visible = site.plane.visible_clients(&viewer.principal).into_iter();
        client = visible.find(|code| viewer.principal.may(Action::AuditRead, Some(code)));
    }
    let filter = Filter {
        before: field("before").and_then(|text| text.parse().ok()),
        client: client.clone(),
        action: field("action"),
        who: field("who"),
        limit: PAGE_DEFAULT,
    };
    let found = match site.plane.audit(&viewer.principal, filter.clone()).await {
        Ok(found) => found,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut kept = String::new();
    for (name, value) in [("client", &filter.client), ("action", &filter.action), ("who", &filter.who)] {
        if let Some(value) = value {
            kept.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    let csv = match &filter.client {
        Some(client) => format!("/v1/{}/audit?format=csv&limit=1000{kept}", encode(client)),
        None => format!("/v1/audit?format=csv&limit=1000{kept}"),
    };
    let content = html! {
        form.search method="get" {
            div {
                label for="f-client" { "Client" }
                input id="f-client" name="client" value=(filter.client.as_deref().unwrap_or_default());
            }
            div {
                label for="f-action" { "Action" }
                input id="f-action" name="action" value=(filter.action.as_deref().unwrap_or_default()) placeholder="token, auth.switch";
            }
            div {
                label for="f-who" { "Who" }
                input id="f-who" name="who" value=(filter.who.as_deref().unwrap_or_default());
            }
            button { "Filter" }
        }
        p { a href=(csv) { "Download as CSV" } }
        div.table { table.audit {
            thead { tr { th { "When" } th { "Who" } th { "What" } th { "Client" } th { "On" } th { "From" } th { "Result" } th { "Detail" } } }
            tbody {
                @for entry in &found.entries {
                    tr {
                        td data-label="When" { (time(entry.at_ms)) }
                        td data-label="Who" { (entry.who) }
                        td data-label="What" { (entry.action) }
                        td data-label="Client" { (entry.client.as_deref().unwrap_or_default()) }
                        td data-label="On" { (entry.target.as_deref().unwrap_or_default()) }
                        td data-label="From" { (entry.from) }
                        td data-label="Result" data-state=(entry.result.as_str()) { (entry.result.as_str()) }
                        td data-label="Detail" { (entry.detail.as_deref().unwrap_or_default()) }
                    }
                }
            }
        } }
        @if let Some(next) = found.next { p { a href={ "/admin/audit?before=" (next) (kept) } { "Older entries" } } }
    };
    Page { plane: &site.plane, viewer: &viewer, title: "Audit", place: Some(Place::Audit), client: None }.show(&content)
}
