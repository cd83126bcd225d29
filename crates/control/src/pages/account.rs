//! One's own account: roles, and another password.

use axum::extract::{Extension, State};
use axum::response::Response;
use maud::html;
use zeroize::Zeroizing;

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf};
use super::{Site, layout};
use crate::session::Flash;

/// The page.
pub(super) async fn page(State(site): State<Site>, Extension(viewer): Extension<Viewer>) -> Response {
    let content = html! {
        dl.facts {
            dt { "User" } dd { (viewer.principal.who) }
            @for grant in &viewer.principal.grants {
                dt { @if grant.client == "*" { "All clients" } @else { "Client " (grant.client) } } dd { (grant.role.as_str()) }
            }
        }
        section {
            h2 { "Change password" }
            form method="post" action="/admin/account" {
                (csrf(&viewer))
                label for="current" { "Present password" }
                input id="current" name="current" type="password" required autocomplete="current-password";
                label for="password" { "New password, at least 12 characters" }
                input id="password" name="password" type="password" required minlength="12" autocomplete="new-password";
                p.hint { "You will be asked to sign in again." }
                button { "Change password" }
            }
        }
    };
    Page { plane: &site.plane, viewer: &viewer, title: "Account", place: Some(Place::Account), client: None }
        .show(&content)
}

/// Takes the form. All sessions of the user end, this one included.
pub(super) async fn change(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Extension(form): Extension<Form>,
) -> Response {
    let field = |name: &str| Zeroizing::new(form.verbatim(name).to_owned());
    let who = viewer.principal.who.clone();
    let changed = site.plane.set_password(&viewer.principal, &who, Some(field("current")), field("password")).await;
    match changed {
        Ok(()) => layout::redirect("/admin/sign-in"),
        Err(problem) => {
            site.plane.leave_flash(&viewer.id, Flash::problem(&problem));
            layout::redirect("/admin/account")
        }
    }
}
