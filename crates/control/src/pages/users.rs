//! *Users*: who may sign in, and as what.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::Role;
use maud::{Markup, html};
use zeroize::Zeroizing;

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf, role_options};
use super::{Site, layout};
use crate::api::time;
use crate::plane::{Problem, UserRecord};
use crate::principal::Grant;
use crate::session::Flash;

/// The page.
pub(super) async fn page(State(site): State<Site>, Extension(viewer): Extension<Viewer>) -> Response {
    let users = match site.plane.users(&viewer.principal).await {
        Ok(users) => users,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let clients = site.plane.visible_clients(&viewer.principal);
    let content = html! {
        div.table { table {
            thead { tr { th { "User" } th { "Roles" } th { "Created" } th { "Change" } } }
            tbody { @for user in &users { (row(&viewer, user, &clients)) } }
        } }
        section {
            h2 { "New user" }
            form method="post" action="/admin/users" {
                (csrf(&viewer))
                label for="new-name" { "Name: a-z A-Z 0-9 . _ - @" }
                input id="new-name" name="name" required maxlength="64" autocomplete="off" autocapitalize="none";
                label for="new-password" { "Password, at least 12 characters" }
                input id="new-password" name="password" type="password" required minlength="12" autocomplete="new-password";
                (grant_fields("new", &clients, None))
                button { "Create user" }
            }
        }
    };
    Page { plane: &site.plane, viewer: &viewer, title: "Users", place: Some(Place::Users), client: None }.show(&content)
}

fn grant_fields(prefix: &str, clients: &[String], chosen: Option<&Grant>) -> Markup {
    html! {
        label for={ (prefix) "-role" } { "Role" }
        select id={ (prefix) "-role" } name="role" { (role_options(chosen.map(|grant| grant.role))) }
        label for={ (prefix) "-client" } { "For" }
        select id={ (prefix) "-client" } name="client" {
            option value="*" { "all clients" }
            @for client in clients { option value=(client) selected[chosen.is_some_and(|grant| grant.client == *client)] { (client) } }
        }
    }
}

fn row(viewer: &Viewer, user: &UserRecord, clients: &[String]) -> Markup {
    let base = format!("/admin/users/{}", user.name);
    let prefix: String = user.name.bytes().map(|byte| format!("{byte:02x}")).collect();
    html! {
        tr {
            th scope="row" data-label="User" { (user.name) }
            td data-label="Roles" {
                @for grant in &user.roles {
                    div { (grant.role.as_str()) " for " @if grant.client == "*" { "all clients" } @else { (grant.client) } }
                }
            }
            td data-label="Created" { (time(user.created_ms)) }
            td data-label="Change" { div.actions {
                details {
                    summary { "Role" span.visually-hidden { " of " (user.name) } }
                    form method="post" action={ (base) "/role" } {
                        (csrf(viewer))
                        p.hint { "A role for a client is added to those for other clients, and takes the place of one for all clients; a role for all clients takes the place of every other." }
                        (grant_fields(&prefix, clients, user.roles.first()))
                        button { "Give role" }
                    }
                }
                details {
                    summary { "Password" span.visually-hidden { " of " (user.name) } }
                    form method="post" action={ (base) "/password" } {
                        (csrf(viewer))
                        label for={ (prefix) "-password" } { "New password, at least 12 characters" }
                        input id={ (prefix) "-password" } name="password" type="password" required minlength="12" autocomplete="new-password";
                        button { "Set password" }
                    }
                }
                details {
                    summary { "Remove" span.visually-hidden { " " (user.name) } }
                    form method="post" action={ (base) "/remove" } {
                        (csrf(viewer)) button.danger { "Remove " (user.name) }
                    }
                }
            } }
        }
    }
}

fn back(site: &Site, viewer: &Viewer, done: Result<String, Problem>) -> Response {
    let flash = match done {
        Ok(text) => Flash::note(&text),
        Err(problem) => Flash::problem(&problem),
    };
    site.plane.leave_flash(&viewer.id, flash);
    layout::redirect("/admin/users")
}

fn grant(form: &Form) -> Result<Grant, Problem> {
    let role = Role::parse(form.get("role"));
    let role = role.ok_or_else(|| Problem::Invalid { field: "role", text: "choose a role".into() })?;
    Ok(Grant { client: form.get("client").to_owned(), role })
}

/// Makes a user.
pub(super) async fn create(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Extension(form): Extension<Form>,
) -> Response {
    let done = async {
        let password = Zeroizing::new(form.verbatim("password").to_owned());
        let user = site.plane.create_user(&viewer.principal, form.get("name"), password, vec![grant(&form)?]).await?;
        Ok(format!("User {} is created.", user.name))
    };
    back(&site, &viewer, done.await)
}

/// Gives a user a role.
pub(super) async fn role(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let done = async {
        let grant = grant(&form)?;
        let held = site.plane.users(&viewer.principal).await?.into_iter().find(|user| user.name == name);
        let held = held.ok_or_else(|| Problem::Missing(format!("user {name:?}")))?;
        let mut roles: Vec<_> = if grant.client == "*" {
            Vec::new()
        } else {
            held.roles.into_iter().filter(|other| other.client != grant.client && other.client != "*").collect()
        };
        roles.push(grant);
        site.plane.set_roles(&viewer.principal, &name, roles).await?;
        Ok(format!("The roles of {name} are changed; its sessions have ended."))
    };
    back(&site, &viewer, done.await)
}

/// Gives a user another password.
pub(super) async fn password(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    if name == viewer.principal.who {
        return layout::redirect("/admin/account");
    }
    let password = Zeroizing::new(form.verbatim("password").to_owned());
    let done = site.plane.set_password(&viewer.principal, &name, None, password).await;
    back(&site, &viewer, done.map(|()| format!("{name} has another password; its sessions have ended.")))
}

/// Removes a user.
pub(super) async fn remove(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
) -> Response {
    let done = site.plane.remove_user(&viewer.principal, &name).await;
    back(&site, &viewer, done.map(|()| format!("User {name} is removed.")))
}
