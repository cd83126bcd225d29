//! *Clients*: the tenants, and for an admin a form to make one and a way to switch one off.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::Action;
use maud::html;

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf};
use super::{Site, layout};
use crate::api::time;
use crate::plane::{NewClient, Problem, Settings};
use crate::session::Flash;

/// The page.
pub(super) async fn page(State(site): State<Site>, Extension(viewer): Extension<Viewer>) -> Response {
    let clients = match site.plane.clients(&viewer.principal).await {
        Ok(clients) => clients,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let manage = viewer.principal.may(Action::ClientManage, None);
    let content = html! {
        div.table { table {
            thead { tr { th { "Client" } th { "State" } th { "Lifetime" } th { "Authentication" } th { "Organisation" } th { "Created" } @if manage { th { "Change" } } } }
            tbody {
                @for client in &clients {
                    tr {
                        th scope="row" data-label="Client" { a href={ "/admin?client=" (client.code) } { (client.code) } }
                        td data-label="State" data-state=(if client.disabled { "refused" } else { "done" }) { @if client.disabled { "disabled" } @else { "enabled" } }
                        td data-label="Lifetime" { (client.lifetime_days) " days" }
                        td data-label="Authentication" { @if client.require_authentication { "required" } @else { "not required" } }
                        td data-label="Organisation" { (client.ims_org_id.as_deref().unwrap_or("none")) }
                        td data-label="Created" { (time(client.created_ms)) }
                        @if manage {
                            td data-label="Change" {
                                form method="post" action={ "/admin/clients/" (client.code) "/state" } {
                                    (csrf(&viewer))
                                    input type="hidden" name="disabled" value=(!client.disabled);
                                    button.danger[!client.disabled] { @if client.disabled { "Enable " (client.code) } @else { "Disable " (client.code) } }
                                }
                            }
                        }
                    }
                }
            }
        } }
        @if manage {
            section {
                h2 { "New client" }
                form method="post" action="/admin/clients" {
                    (csrf(&viewer))
                    label for="code" { "Code: a-z A-Z 0-9 - _" }
                    input id="code" name="code" required maxlength="64" pattern="[A-Za-z0-9_\\-]+" autocomplete="off";
                    label for="days" { "Profile lifetime in days (1 to 90)" }
                    input id="days" name="lifetimeDays" type="number" min="1" max="90" value="14" required;
                    label for="org" { "Organisation (imsOrgId), if official SDKs call" }
                    input id="org" name="imsOrgId" maxlength="128" autocomplete="off";
                    button { "Create client" }
                }
            }
        }
    };
    Page { plane: &site.plane, viewer: &viewer, title: "Clients", place: Some(Place::Clients), client: None }
        .show(&content)
}

fn back(site: &Site, viewer: &Viewer, done: Result<Flash, Problem>) -> Response {
    site.plane.leave_flash(&viewer.id, done.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect("/admin/clients")
}

/// Makes a client.
pub(super) async fn create(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Extension(form): Extension<Form>,
) -> Response {
    let settings = Settings {
        lifetime_days: form.get("lifetimeDays").parse().ok(),
        ims_org_id: Some(Some(form.get("imsOrgId").to_owned()).filter(|org| !org.is_empty())),
        ..Settings::default()
    };
    let new = NewClient { code: form.get("code").to_owned(), settings };
    let created = site.plane.create_client(&viewer.principal, new).await;
    back(
        &site,
        &viewer,
        created.map(|(record, rollout)| Flash::change(&format!("Client {} is created.", record.code), rollout)),
    )
}

/// Switches a client off or on.
pub(super) async fn state(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let disabled = form.get("disabled") == "true";
    let settings = Settings { disabled: Some(disabled), ..Settings::default() };
    let text = format!("Client {client} is {}.", if disabled { "disabled" } else { "enabled" });
    let set = site.plane.set(&viewer.principal, &client, settings).await;
    back(&site, &viewer, set.map(|(_, rollout)| Flash::change(&text, rollout)))
}
