//! What all pages share: the frame, the menu, what is said once, and the headers that keep a browser careful.

use axum::response::Response;
use cameo_auth::{Action, Role};
use cameo_http::Refusal;
use http::header::{CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::gate::Viewer;
use super::live;
use crate::api::typed;
use crate::plane::{Plane, Problem};
use crate::session::Flash;

/// Nothing from elsewhere, nothing inline.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// The mark of a browser's tab: a head in profile would be too small to see, so a C in relief.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
                    height='16' rx='4' fill='%23a24a2a'/%3E%3Cpath d='M11 5.5a4 4 0 1 0 0 5' fill='none' stroke='%23fff' \
                    stroke-width='2'/%3E%3C/svg%3E";

/// Which entry of the menu a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    ProfileApi,
    Settings,
    Profiles,
    Batches,
    Cluster,
    Audit,
    Clients,
    Users,
    Account,
}

/// A page of somebody who is signed in.
pub(super) struct Page<'a> {
    pub(super) plane: &'a Plane,
    pub(super) viewer: &'a Viewer,
    pub(super) title: &'a str,
    pub(super) place: Option<Place>,
    /// The client it is about.
    pub(super) client: Option<&'a str>,
}

impl Page<'_> {
    /// The page around its content.
    pub(super) fn show(&self, content: &Markup) -> Response {
        self.show_as(StatusCode::OK, content)
    }

    fn show_as(&self, status: StatusCode, content: &Markup) -> Response {
        let flash = self.plane.take_flash(&self.viewer.id);
        let body = html! {
            a.skip href="#main" { "Skip to content" }
            header.top {
                a.brand href="/admin" { "Cameo" }
                span.who {
                    a href="/admin/account" aria-current=[self.current(Place::Account)] { (self.viewer.principal.who) }
                    form method="post" action="/admin/sign-out" { (csrf(self.viewer)) button.quiet { "Sign out" } }
                }
            }
            div.frame {
                (self.menu())
                main id="main" tabindex="-1" {
                    h1 { (self.title) @if let Some(client) = self.client { " " span.of { (client) } } }
                    @if let Some(flash) = &flash { (said(flash)) }
                    (content)
                }
            }
        };
        document(status, self.title, &body)
    }

    fn current(&self, place: Place) -> Option<&'static str> {
        (self.place == Some(place)).then_some("page")
    }

    fn menu(&self) -> Markup {
        let principal = &self.viewer.principal;
        let visible = self.plane.visible_clients(principal);
        let client = self.client.map(str::to_owned).or_else(|| visible.first().cloned());
        let entry = |place: Place, href: String, text: &str| {
            html! { li { a href=(href) aria-current=[self.current(place)] { (text) } } }
        };
        html! {
            nav aria-label="Main" {
                @if let Some(client) = &client {
                    @if visible.len() > 1 {
                        form.switch-client method="get" action="/admin" {
                            label for="client" { "Client" }
                            select id="client" name="client" {
                                @for one in &visible { option value=(one) selected[one == client] { (one) } }
                            }
                            button.quiet { "Go" }
                        }
                    }
                    h2 { "Implementation" }
                    ul { (entry(Place::ProfileApi, format!("/admin/c/{client}/profile-api"), "Profile API")) }
                    h2 { "Client " (client) }
                    ul {
                        (entry(Place::Profiles, format!("/admin/c/{client}/profiles"), "Profiles"))
                        (entry(Place::Batches, format!("/admin/c/{client}/batches"), "Batches"))
                        (entry(Place::Settings, format!("/admin/c/{client}/settings"), "Settings"))
                    }
                }
                h2 { "Operation" }
                ul {
                    (entry(Place::Cluster, "/admin/cluster".into(), "Cluster"))
                    @if principal.highest().is_some_and(|role| role.may(Action::AuditRead)) {
                        (entry(Place::Audit, "/admin/audit".into(), "Audit"))
                    }
                    (entry(Place::Clients, "/admin/clients".into(), "Clients"))
                    @if principal.may(Action::UserManage, None) {
                        (entry(Place::Users, "/admin/users".into(), "Users"))
                    }
                }
            }
        }
    }
}

/// What a page says once, after what was done.
fn said(flash: &Flash) -> Markup {
    html! {
        section.flash.error[flash.error] role=(if flash.error { "alert" } else { "status" }) {
            p { (flash.text) }
            @if let Some(secret) = &flash.secret {
                label for="secret" { "Shown this once, so copy it now" }
                div.copy {
                    input id="secret" readonly value=(secret.as_str()) spellcheck="false" autocomplete="off";
                    button type="button" data-copy="#secret" { "Copy" }
                    span.hint aria-live="polite" data-copied {}
                }
            }
            @if let Some(rollout) = &flash.rollout { (live::confirmation(rollout)) }
        }
    }
}

/// The token that a form has to bring along.
pub(super) fn csrf(viewer: &Viewer) -> Markup {
    html! { input type="hidden" name="csrf" value=(viewer.signed.csrf.as_str()); }
}

/// A whole document.
pub(super) fn document(status: StatusCode, title: &str, body: &Markup) -> Response {
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Cameo" }
                link rel="icon" href=(ICON);
                link rel="stylesheet" href="/admin/style.css";
                script src="/admin/script.js" defer {}
            }
            body { (body) }
        }
    };
    careful(typed(status, "text/html; charset=utf-8", text.into_string()))
}

fn careful(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// 303: the browser asks for that page.
pub(super) fn redirect(to: &str) -> Response {
    let mut response = typed(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", String::new());
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    careful(response)
}

/// A page that says why there is no other.
pub(super) fn refusal(plane: &Plane, viewer: &Viewer, refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = status.canonical_reason().unwrap_or("Not possible");
    let page = Page { plane, viewer, title, place: None, client: None };
    page.show_as(
        status,
        &html! { p.error role="alert" { (refusal.message) "." } p { a href="/admin" { "Back to the start" } } },
    )
}

/// The same, of a problem.
pub(super) fn problem(plane: &Plane, viewer: &Viewer, why: &Problem) -> Response {
    refusal(plane, viewer, &Refusal::from(why.clone()))
}

/// Text as part of a path or a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// How long something is, for people: the two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in units.iter().skip(first).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 || parts.is_empty() {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.join(" ")
}

/// Roles that a form offers.
pub(super) fn role_options(chosen: Option<Role>) -> Markup {
    html! {
        @for role in Role::ALL { option value=(role.as_str()) selected[chosen == Some(role)] { (role.as_str()) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_its_two_largest_units() {
        assert_eq!(duration(0), "0 seconds");
        assert_eq!(duration(59), "59 seconds");
        assert_eq!(duration(3600), "1 hour");
        assert_eq!(duration(90_061), "1 day 1 hour");
        assert_eq!(duration(30 * 86_400 - 1), "29 days 23 hours");
    }
}
