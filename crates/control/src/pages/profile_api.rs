//! *Implementation → Profile API*: the switch, the token, and everything else that opens the profile API.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::record::{EXPIRY_SECONDS_DEFAULT, PROFILE_API_TOKEN, TokenId};
use cameo_auth::{Action, Scope};
use maud::{Markup, html};

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf, duration};
use super::{Site, layout};
use crate::api::{minute, time};
use crate::plane::{Made, Problem, Rollout, Rotation, Settings, TokenView};
use crate::session::Flash;

/// Lives that the form offers, in seconds.
const LIVES: [(u64, &str); 6] = [
    (3600, "1 hour"),
    (86_400, "1 day"),
    (7 * 86_400, "7 days"),
    (EXPIRY_SECONDS_DEFAULT, "30 days"),
    (90 * 86_400, "90 days"),
    (365 * 86_400, "1 year"),
];
/// Overlaps that forms offer, in seconds.
pub(super) const GRACES: [(u64, &str); 5] = [
    (0, "none: the old one dies at once"),
    (300, "5 minutes"),
    (3600, "1 hour"),
    (86_400, "1 day"),
    (7 * 86_400, "7 days"),
];

fn href(client: &str) -> String {
    format!("/admin/c/{client}/profile-api")
}

/// The page.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
) -> Response {
    let read = async {
        let record = site.plane.client(&viewer.principal, Action::SettingsRead, &client).await?;
        let tokens = site.plane.tokens(&viewer.principal, &client).await?;
        Ok::<_, Problem>((record, tokens))
    };
    let (record, tokens) = match read.await {
        Ok(read) => read,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let may = |action| viewer.principal.may(action, Some(&client));
    let content = html! {
        (switch(&viewer, &client, record.require_authentication, may(Action::AuthSwitch)))
        (generated(&viewer, &client, &tokens, may(Action::TokenCreate)))
        section {
            h2 { "Tokens" }
            @if tokens.is_empty() { p { "There are none yet." } } @else { (list(&viewer, &client, &tokens, may(Action::TokenRotate))) }
            @if may(Action::TokenCreate) { (new_token(&viewer, &client)) }
        }
    };
    let page = Page {
        plane: &site.plane,
        viewer: &viewer,
        title: "Profile API",
        place: Some(Place::ProfileApi),
        client: Some(&client),
    };
    page.show(&content)
}

fn switch(viewer: &Viewer, client: &str, on: bool, may: bool) -> Markup {
    html! {
        section {
            h2 id="require" { "Require Authentication" }
            p id="require-hint" {
                @if on { "Fetch, update, bulk update and batch status need a token. Visits stay open." }
                @else { "Anybody who reaches this server can read and change profiles. Switch it on once your scripts send a token." }
            }
            @if may {
                form method="post" action={ (href(client)) "/require" } {
                    (csrf(viewer))
                    input type="hidden" name="on" value=(!on);
                    button.switch role="switch" aria-checked=(on) aria-labelledby="require" aria-describedby="require-hint" {
                        span.knob aria-hidden="true" {} span { @if on { "On" } @else { "Off" } }
                    }
                }
            } @else {
                p { strong { @if on { "On" } @else { "Off" } } }
            }
        }
    }
}

fn generated(viewer: &Viewer, client: &str, tokens: &[TokenView], may: bool) -> Markup {
    let held = tokens.iter().find(|token| token.record.name == PROFILE_API_TOKEN);
    html! {
        section {
            h2 { "Profile authentication token" }
            dl.facts {
                dt { "Expires In" }
                dd {
                    @match held {
                        None => { "no token yet" }
                        Some(token) if token.expired => { "expired" }
                        Some(token) => { (duration(token.expires_in)) }
                    }
                }
            }
            @if may {
                p.warning {
                    "Resetting the token makes calls with the current one fail: it is dead on every node when the page "
                    "comes back. For an overlap, rotate it in the list below."
                }
                form method="post" action={ (href(client)) "/generate" } {
                    (csrf(viewer))
                    button { "Generate New Profile Authentication Token" }
                }
            }
        }
    }
}

fn list(viewer: &Viewer, client: &str, tokens: &[TokenView], may: bool) -> Markup {
    html! {
        div.table {
            table {
                thead { tr { th { "Name" } th { "Opens" } th { "Expires in" } th { "Last used" } th { "Made by" } @if may { th { "Change" } } } }
                tbody {
                    @for token in tokens { (row(viewer, client, token, may)) }
                }
            }
        }
    }
}

fn row(viewer: &Viewer, client: &str, token: &TokenView, may: bool) -> Markup {
    let record = &token.record;
    let scopes: Vec<_> = record.scopes.iter().map(|scope| scope.as_str()).collect();
    let base = format!("/admin/c/{client}/tokens/{}", record.id.0);
    html! {
        tr {
            th scope="row" data-label="Name" { (record.name) }
            td data-label="Opens" { (scopes.join(", ")) }
            td data-label="Expires in" {
                @if token.expired { "expired" } @else { span title=(time(record.expires_ms)) { (duration(token.expires_in)) } }
                @if let Some(grace) = &record.grace { br; span.hint { "old secret good until " (time(grace.until_ms)) } }
            }
            td data-label="Last used" { @match token.last_used { Some(used) => { (minute(used)) } None => { "never" } } }
            td data-label="Made by" { (record.created_by) }
            @if may {
                td data-label="Change" { div.actions {
                    details {
                        summary { "Rotate" span.visually-hidden { " " (record.name) } }
                        form method="post" action={ (base) "/rotate" } {
                            (csrf(viewer))
                            label for={ "grace-" (record.id.0) } { "Overlap of old and new" }
                            select id={ "grace-" (record.id.0) } name="graceSeconds" {
                                @for (seconds, text) in GRACES { option value=(seconds) { (text) } }
                            }
                            button { "Rotate " (record.name) }
                        }
                    }
                    @if record.grace.is_some() {
                        form method="post" action={ (base) "/kill" } {
                            (csrf(viewer)) button.danger { "Kill old secret now" }
                        }
                    }
                    details {
                        summary { "Revoke" span.visually-hidden { " " (record.name) } }
                        form method="post" action={ (base) "/revoke" } {
                            (csrf(viewer))
                            p { "Calls with it fail from now on." }
                            button.danger { "Revoke " (record.name) }
                        }
                    }
                } }
            }
        }
    }
}

fn new_token(viewer: &Viewer, client: &str) -> Markup {
    html! {
        details {
            summary { "New named token" }
            form method="post" action={ "/admin/c/" (client) "/tokens" } {
                (csrf(viewer))
                label for="token-name" { "Name" }
                input id="token-name" name="name" required maxlength="100" autocomplete="off";
                fieldset {
                    legend { "Opens" }
                    @for scope in Scope::ALL {
                        label.check { input type="checkbox" name="scope" value=(scope.as_str()) checked[scope == Scope::ProfileRead]; " " (scope.as_str()) }
                    }
                }
                label for="token-life" { "Expires in" }
                select id="token-life" name="expiresIn" {
                    @for (seconds, text) in LIVES { option value=(seconds) selected[seconds == EXPIRY_SECONDS_DEFAULT] { (text) } }
                }
                button { "Create token" }
            }
        }
    }
}

/// Leaves what is to be said in the session, and goes back to the page.
fn back(site: &Site, viewer: &Viewer, client: &str, done: Result<Flash, Problem>) -> Response {
    site.plane.leave_flash(&viewer.id, done.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect(&href(client))
}

fn made(made: Made, text: &str) -> Flash {
    let secret = zeroize::Zeroizing::new(made.secret.reveal().to_owned());
    Flash { secret: Some(secret), ..Flash::change(text, made.rollout) }
}

/// Flips the switch.
pub(super) async fn require(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let on = form.get("on") == "true";
    let settings = Settings { require_authentication: Some(on), ..Settings::default() };
    let set = site.plane.set(&viewer.principal, &client, settings).await;
    let text = if on { "Authentication is required now." } else { "Authentication is not required any more." };
    back(&site, &viewer, &client, set.map(|(_, rollout)| Flash::change(text, rollout)))
}

/// Makes the profile API's token, or replaces it.
pub(super) async fn generate(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
) -> Response {
    let generated = site.plane.generate(&viewer.principal, &client).await;
    back(&site, &viewer, &client, generated.map(|token| made(token, "There is a new profile authentication token.")))
}

/// Makes a named token.
pub(super) async fn create(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let scopes = form.all("scope").iter().filter_map(|scope| Scope::parse(scope)).collect();
    let life = form.get("expiresIn").parse().ok();
    let created = site.plane.create_token(&viewer.principal, &client, form.get("name").to_owned(), scopes, life).await;
    back(&site, &viewer, &client, created.map(|token| made(token, "The token is made.")))
}

/// Replaces the secret of a token.
pub(super) async fn rotate(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path((client, id)): Path<(String, String)>,
    Extension(form): Extension<Form>,
) -> Response {
    let rotation = Rotation { grace_seconds: form.get("graceSeconds").parse().unwrap_or(0), expires_in: None };
    let rotated = site.plane.rotate_token(&viewer.principal, &client, &TokenId(id), rotation).await;
    let text = if rotation.grace_seconds == 0 {
        "The token is rotated; the old secret is dead.".to_owned()
    } else {
        format!("The token is rotated; the old secret is good for {} more.", duration(rotation.grace_seconds))
    };
    back(&site, &viewer, &client, rotated.map(|token| made(token, &text)))
}

fn ended(site: &Site, viewer: &Viewer, client: &str, done: Result<Rollout, Problem>, text: &str) -> Response {
    back(site, viewer, client, done.map(|rollout| Flash::change(text, rollout)))
}

/// Ends a running grace.
pub(super) async fn kill(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path((client, id)): Path<(String, String)>,
) -> Response {
    let killed = site.plane.kill_grace(&viewer.principal, &client, &TokenId(id)).await;
    ended(&site, &viewer, &client, killed, "The old secret is dead.")
}

/// Ends a token.
pub(super) async fn revoke(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path((client, id)): Path<(String, String)>,
) -> Response {
    let revoked = site.plane.revoke_token(&viewer.principal, &client, &TokenId(id)).await;
    ended(&site, &viewer, &client, revoked, "The token is revoked.")
}
