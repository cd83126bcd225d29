//! The ids of a profile and what each brought and did: a part of the page *Profiles*, and the button that takes one out.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::Action;
use http::Method;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::gate::{Form, Viewer};
use super::layout::csrf;
use super::profiles::Which;
use super::timeline::short;
use super::{Site, layout};
use crate::plane::{Deed, Problem};
use crate::session::Flash;

/// Ids that the page lists; a person may have a thousand.
const IDS: usize = 100;
/// Attributes that it lists for each of them.
const ATTRIBUTES: usize = 30;

/// The parts of a profile, if it has several.
pub(super) fn several(profile: &Value) -> &[Value] {
    profile["contributions"].as_array().filter(|parts| parts.len() > 1).map_or(&[], Vec::as_slice)
}

/// The id whose value of an attribute is shown.
pub(super) fn owner(parts: &[Value], attribute: &str) -> Option<String> {
    let owns =
        |part: &&Value| part["attributes"][attribute].is_object() && !is_shadowed(&part["attributes"][attribute]);
    parts.iter().find(owns).map(name)
}

fn is_shadowed(attribute: &Value) -> bool {
    attribute["shadowed"] == true
}

fn text<'v>(of: &'v Value, field: &str) -> &'v str {
    of[field].as_str().unwrap_or_default()
}

/// Kind and id, by the words of the paths.
fn name(address: &Value) -> String {
    format!("{} {}", text(address, "kind"), text(address, "id"))
}

fn moment(of: &Value, field: &str) -> Markup {
    html! { time datetime=(text(of, field)) { (text(of, field)) } }
}

/// The table.
pub(super) fn shown(viewer: &Viewer, client: &str, which: &Which, parts: &[Value], may_unlink: bool) -> Markup {
    html! {
        h2 { "Ids" }
        p.hint { "What each id brought and did. One that is unlinked gets it back, as a profile of its own." }
        div.table { table.ids {
            thead { tr { th { "Id" } th { "Visits" } th { "Brought" } @if may_unlink { th { "Change" } } } }
            tbody { @for (at, part) in parts.iter().take(IDS).enumerate() {
                tr {
                    th scope="row" data-label="Id" { div {
                        span.kind { (text(part, "kind")) } " " (text(part, "id"))
                        @if let Some(note) = note(at, part) { div.hint { (note) } }
                    } }
                    td data-label="Visits" { div {
                        (part["visitCount"].as_u64().unwrap_or(0))
                        div.hint { "since " (moment(part, "createdAt")) }
                        @if part["lastVisit"].is_string() { div.hint { "last " (moment(part, "lastVisit")) } }
                    } }
                    td data-label="Brought" { (brought(part)) }
                    @if may_unlink {
                        td data-label="Change" { @if at > 0 && part["left"] != true { (form(viewer, client, which, part)) } }
                    }
                }
            } }
        } }
        @if parts.len() > IDS {
            p.hint { "and " (parts.len() - IDS) " more: " code { "cameo profile get --json" } " has all of them." }
        }
    }
}

fn note(at: usize, part: &Value) -> Option<String> {
    if at == 0 {
        return Some("the profile lives here".into());
    }
    if part["left"] == true {
        return Some("has left: it follows another profile now".into());
    }
    let to = &part["linkedTo"];
    Some(format!("linked to {}", name(to))).filter(|_| to.is_object())
}

fn brought(part: &Value) -> Markup {
    let none = serde_json::Map::new();
    let attributes = part["attributes"].as_object().unwrap_or(&none);
    let categories = part["categoryAffinities"].as_array().map(Vec::as_slice).unwrap_or_default();
    let points = |of: &Value| format!("{} {:.2}", text(of, "category"), of["points"].as_f64().unwrap_or_default());
    html! {
        @if attributes.is_empty() && categories.is_empty() { span.hint { "nothing" } }
        ul.brought {
            @for (name, held) in attributes.iter().take(ATTRIBUTES) {
                li {
                    (name) " = " (short(text(held, "value")))
                    @if is_shadowed(held) { " " span.hint { "(not shown)" } }
                }
            }
            @if attributes.len() > ATTRIBUTES { li.hint { "and " (attributes.len() - ATTRIBUTES) " more attributes" } }
            @if !categories.is_empty() {
                li { span.hint { "Affinity: " } (categories.iter().map(points).collect::<Vec<_>>().join(", ")) }
            }
        }
    }
}

fn form(viewer: &Viewer, client: &str, which: &Which, part: &Value) -> Markup {
    html! {
        details {
            summary { "Unlink" span.visually-hidden { " " (name(part)) } }
            form method="post" action={ "/admin/c/" (client) "/profiles/unlink" } {
                (csrf(viewer)) (which.fields())
                input type="hidden" name="leavingKind" value=(text(part, "kind"));
                input type="hidden" name="leavingId" value=(text(part, "id"));
                p { "It takes along what it brought. A login links it again." }
                button.danger { "Unlink" span.visually-hidden { " " (name(part)) } }
            }
        }
    }
}

/// Takes an id out of a profile.
pub(super) async fn unlink(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let which = Which::read(|name| form.get(name).to_owned());
    let (kind, id) = (form.get("leavingKind"), form.get("leavingId"));
    let target = format!("{kind}:{id}");
    let deed = Deed::of(Action::ProfileWrite, Some(&client)).on(&target);
    let done = async {
        site.plane.client(&viewer.principal, Action::ProfileWrite, &client).await?;
        let (path, body) = (format!("{}/unlink", which.path(&client)), json!({"kind": kind, "id": id}));
        let done = site.upstream.by(&viewer.principal).json(Method::POST, &path, Some(&body)).await;
        let done = done.map(|_| Flash::note(&format!("{kind} {id} has a profile of its own now.")));
        let detail = format!("unlinked from {}", which.target());
        site.plane.note(&viewer.principal, deed, done.as_ref().map(|_| Some(detail))).await;
        done
    };
    let done: Result<_, Problem> = done.await;
    site.plane.leave_flash(&viewer.id, done.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect(&which.href(&client))
}
