//! The admin pages: server-rendered, usable without a script, better with a little of it.
//!
//! What changes something is a form that posts, and is answered by a redirect to the page, so that a reload repeats
//! nothing. What the redirected page shall say once (a new secret, how a change reached the nodes) waits in the session.

mod account;
mod audit;
mod batches;
mod clients;
mod cluster;
mod contributions;
mod gate;
mod layout;
mod live;
mod profile_api;
mod profiles;
mod settings;
mod sign_in;
#[cfg(test)]
mod tests;
mod timeline;
mod upstream;
mod users;

use axum::Router;
use axum::response::Response;
use cameo_auth::routes::RouteAccess;
use cameo_auth::{Access, Action, Routes};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use crate::plane::Plane;
use gate::PageGate;
pub use upstream::Upstream;

const STYLE: &str = include_str!("pages/style.css");
const SCRIPT: &str = include_str!("pages/script.js");

/// What every page has.
#[derive(Clone)]
struct Site {
    plane: Plane,
    upstream: Upstream,
}

/// Every route of the pages, with what each asks for.
pub(crate) fn router(plane: &Plane, upstream: Upstream) -> (Router, Vec<RouteAccess>) {
    const IN: Access = Access::SignedIn;
    const fn role(action: Action) -> Access {
        Access::Role(action)
    }
    let (pages, mut table) = Routes::new(PageGate::new(plane.clone()))
        .get("/", Access::Public, sign_in::root)
        .get("/admin/style.css", Access::Public, style)
        .get("/admin/script.js", Access::Public, script)
        .get("/admin/sign-in", Access::Public, sign_in::form)
        .post("/admin/sign-in", Access::Public, sign_in::sign_in)
        .post("/admin/sign-out", IN, sign_in::sign_out)
        .get("/admin", IN, sign_in::home)
        .get("/admin/account", IN, account::page)
        .post("/admin/account", role(Action::PasswordChange), account::change)
        .get("/admin/c/{client}/profile-api", role(Action::TokenList), profile_api::page)
        .post("/admin/c/{client}/profile-api/require", role(Action::AuthSwitch), profile_api::require)
        .post("/admin/c/{client}/profile-api/generate", role(Action::TokenCreate), profile_api::generate)
        .post("/admin/c/{client}/tokens", role(Action::TokenCreate), profile_api::create)
        .post("/admin/c/{client}/tokens/{id}/rotate", role(Action::TokenRotate), profile_api::rotate)
        .post("/admin/c/{client}/tokens/{id}/kill", role(Action::TokenRevoke), profile_api::kill)
        .post("/admin/c/{client}/tokens/{id}/revoke", role(Action::TokenRevoke), profile_api::revoke)
        .get("/admin/c/{client}/settings", role(Action::SettingsRead), settings::page)
        .post("/admin/c/{client}/settings", role(Action::SettingsWrite), settings::change)
        .post("/admin/c/{client}/settings/identity-secret", role(Action::TokenRotate), settings::rotate_secret)
        .get("/admin/c/{client}/profiles", role(Action::ProfileRead), profiles::page)
        .get("/admin/c/{client}/profiles/export", role(Action::ProfileRead), timeline::export)
        .post("/admin/c/{client}/profiles/edit", role(Action::ProfileWrite), profiles::edit)
        .post("/admin/c/{client}/profiles/unlink", role(Action::ProfileWrite), contributions::unlink)
        .post("/admin/c/{client}/profiles/erase", role(Action::ProfileErase), profiles::erase)
        .get("/admin/c/{client}/batches", role(Action::BatchRead), batches::page)
        .post("/admin/c/{client}/batches/upload", role(Action::BatchUpload), batches::upload)
        .get("/admin/c/{client}/batches/{id}/errors.csv", role(Action::BatchRead), batches::errors)
        .get("/admin/cluster", role(Action::ClusterRead), cluster::page)
        .get("/admin/audit", role(Action::AuditRead), audit::page)
        .get("/admin/clients", role(Action::ClientList), clients::page)
        .post("/admin/clients", role(Action::ClientManage), clients::create)
        .post("/admin/clients/{client}/state", role(Action::ClientManage), clients::state)
        .get("/admin/users", role(Action::UserManage), users::page)
        .post("/admin/users", role(Action::UserManage), users::create)
        .post("/admin/users/{name}/role", role(Action::UserManage), users::role)
        .post("/admin/users/{name}/password", role(Action::UserManage), users::password)
        .post("/admin/users/{name}/remove", role(Action::UserManage), users::remove)
        .finish();
    let (streams, rest) = Routes::new(PageGate::watching(plane.clone()))
        .get("/admin/rollouts/{number}/events", role(Action::TokenList), live::rollout)
        .get("/admin/c/{client}/batches/events", role(Action::BatchRead), batches::events)
        .get("/admin/cluster/events", role(Action::ClusterRead), cluster::events)
        .finish();
    table.extend(rest);
    (pages.merge(streams).with_state(Site { plane: plane.clone(), upstream }), table)
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    let mut response = crate::api::typed(StatusCode::OK, content_type, text.to_owned());
    // They change with the binary only; a minute keeps a page's second load cheap.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}
