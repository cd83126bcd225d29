//! *Settings* of a client.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::Action;
use cameo_auth::record::ClientRecord;
use maud::{Markup, html};
use zeroize::Zeroizing;

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf, duration};
use super::profile_api::GRACES;
use super::{Site, layout};
use crate::api::time;
use crate::plane::{Problem, Settings};
use crate::session::Flash;

fn href(client: &str) -> String {
    format!("/admin/c/{client}/settings")
}

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
    let content = html! {
        @if may(Action::SettingsWrite) {
            (form(&viewer, &record, may(Action::ClientManage), may(Action::AuthSwitch)))
        } @else {
            (facts(&record))
        }
        (secrets(&viewer, &record, site.plane.unix_ms(), may(Action::TokenRotate)))
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
        form method="post" action=(href(&record.code)) {
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
                    " Visits may name a thirdPartyId, ECID or customer id only with a signature (make a secret first, below)"
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

/// What ids of persons are signed with, and the button that makes a new one.
fn secrets(viewer: &Viewer, record: &ClientRecord, now_ms: u64, may: bool) -> Markup {
    html! {
        section {
            h2 { "Secret for signatures of ids" }
            p.hint { "Your servers sign thirdPartyIds, ECIDs and customer ids with it, so that nobody else can name them in visits." }
            @if record.identity_secrets.is_empty() { p { "There is none yet." } }
            @for secret in &record.identity_secrets {
                p {
                    "Made " (time(secret.created_ms)) " by " (secret.created_by) ", "
                    @match secret.until_ms {
                        None => "in use."
                        Some(until) if until > now_ms => { "replaced, good until " (time(until)) "." }
                        Some(_) => "ended."
                    }
                }
            }
            @if may {
                form method="post" action={ (href(&record.code)) "/identity-secret" } {
                    (csrf(viewer))
                    @if record.identity_secrets.is_empty() {
                        button { "Make a secret" }
                    } @else {
                        label for="grace" { "Overlap with the secret in use" }
                        select id="grace" name="graceSeconds" {
                            @for (seconds, text) in GRACES { option value=(seconds) { (text) } }
                        }
                        button { "Replace the secret" }
                    }
                }
            }
        }
    }
}

/// Makes a secret; the one before ends, now or after a grace.
pub(super) async fn rotate_secret(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let grace = form.get("graceSeconds").parse().unwrap_or(0);
    let made = site.plane.rotate_identity_secret(&viewer.principal, &client, grace).await;
    let flash = made.map(|(record, secret, rollout)| {
        let text = match (record.identity_secrets.len(), grace) {
            (1, 0) => "There is a new secret for signatures of ids; no other one is good.".to_owned(),
            (1, _) => "There is a secret for signatures of ids.".to_owned(),
            _ => format!(
                "There is a new secret for signatures of ids; the one before is good for {} more.",
                duration(grace)
            ),
        };
        Flash { secret: Some(Zeroizing::new(secret.reveal().to_owned())), ..Flash::change(&text, rollout) }
    });
    site.plane.leave_flash(&viewer.id, flash.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect(&href(&client))
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
    layout::redirect(&href(&client))
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
