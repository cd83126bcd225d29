//! *Settings* of a client.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::Action;
use cameo_auth::record::ClientRecord;
use maud::{Markup, html};

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf};
use super::{Site, layout};
use crate::plane::{Problem, Settings};
use crate::session::Flash;

/// The page.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
) -> Response {
    let record = match site.plane.client(&viewer.principal, Action::SettingsRead, &client).await {
        Ok(record) => record,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let may = |action| viewer.principal.may(action, Some(&client));
    let content = if may(Action::SettingsWrite) {
        form(&viewer, &record, may(Action::ClientManage), may(Action::AuthSwitch))
    } else {
        facts(&record)
    };
    let place = Some(Place::Settings);
    Page { plane: &site.plane, viewer: &viewer, title: "Settings", place, client: Some(&client) }.show(&content)
}

fn facts(record: &ClientRecord) -> Markup {
    html! {
        dl.facts {
            dt { "Profile lifetime" } dd { (record.lifetime_days) " days" }
            dt { "Allowed origins" } dd { @if record.allowed_origins.is_empty() { "none" } @else { (record.allowed_origins.join(", ")) } }
            dt { "Organisation (imsOrgId)" } dd { (record.ims_org_id.as_deref().unwrap_or("none")) }
            dt { "Signatures of ids" } dd { @if record.require_identity_signature { "required" } @else { "not required" } }
            dt { "Tokens for visits" } dd { @if record.require_visit_tokens { "required" } @else { "not required" } }
        }
    }
}

fn form(viewer: &Viewer, record: &ClientRecord, manage: bool, switch: bool) -> Markup {
    html! {
        form method="post" action={ "/admin/c/" (record.code) "/settings" } {
            (csrf(viewer))
            label for="lifetime" { "Profile lifetime, in days without activity (1 to 90)" }
            input id="lifetime" name="lifetimeDays" type="number" min="1" max="90" required value=(record.lifetime_days);
            label for="origins" { "Origins whose pages may send visits, one a line" }
            textarea id="origins" name="allowedOrigins" rows="4" spellcheck="false" placeholder="https://www.example.com" {
                (record.allowed_origins.join("\n"))
            }
            @if switch {
                label.check {
                    input type="checkbox" name="requireVisitTokens" value="true" checked[record.require_visit_tokens];
                    " Visits need a token with the scope visits:write"
                }
                input type="hidden" name="hasVisitTokens" value="true";
                label.check {
                    input type="checkbox" name="requireIdentitySignature" value="true" checked[record.require_identity_signature];
                    " Visits may name a thirdPartyId, ECID or customer id only with a signature (make a secret first: cameo identity rotate)"
                }
            }
            @if manage {
                label for="org" { "Organisation (imsOrgId) that official SDKs name instead of the client" }
                input id="org" name="imsOrgId" maxlength="128" autocomplete="off" value=(record.ims_org_id.as_deref().unwrap_or_default());
                input type="hidden" name="hasOrg" value="true";
            }
            button { "Save settings" }
        }
    }
}

/// Takes the form; only what differs is changed.
pub(super) async fn change(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let done = save(&site, &viewer, &client, &form).await;
    site.plane.leave_flash(&viewer.id, done.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect(&format!("/admin/c/{client}/settings"))
}

async fn save(site: &Site, viewer: &Viewer, client: &str, form: &Form) -> Result<Flash, Problem> {
    let held = site.plane.client(&viewer.principal, Action::SettingsWrite, client).await?;
    let days = form
        .get("lifetimeDays")
        .parse()
        .map_err(|_| Problem::Invalid { field: "lifetimeDays", text: "the lifetime is a number of days".into() })?;
    let origins: Vec<_> = form.get("allowedOrigins").split_whitespace().map(str::to_owned).collect();
    let org = Some(form.get("imsOrgId")).filter(|org| !org.is_empty()).map(str::to_owned);
    let visits = form.get("requireVisitTokens") == "true";
    let signatures = form.get("requireIdentitySignature") == "true";
    let settings = Settings {
        lifetime_days: (days != held.lifetime_days).then_some(days),
        allowed_origins: (origins != held.allowed_origins).then_some(origins),
        ims_org_id: (form.get("hasOrg") == "true" && org != held.ims_org_id).then_some(org),
        require_visit_tokens: (form.get("hasVisitTokens") == "true" && visits != held.require_visit_tokens)
            .then_some(visits),
        require_identity_signature: (form.get("hasVisitTokens") == "true"
            && signatures != held.require_identity_signature)
            .then_some(signatures),
        ..Settings::default()
    };
    if settings == Settings::default() {
        return Ok(Flash::note("Nothing was different."));
    }
    let (_, rollout) = site.plane.set(&viewer.principal, client, settings).await?;
    Ok(Flash::change("The settings are saved.", rollout))
}
