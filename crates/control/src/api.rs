//! The admin API: every route on one screen, and what handlers share.

mod answer;
mod audit;
mod clients;
mod cluster;
mod compatible;
pub(crate) mod gate;
mod identity;
mod input;
mod keys;
mod openapi;
#[cfg(test)]
mod tests;
mod tokens;
mod users;

use axum::Router;
use cameo_auth::routes::RouteAccess;
use cameo_auth::{Access, Action, Routes};
use http::Method;

use crate::plane::Plane;

pub(crate) use answer::{json_reply, minute, time, typed};
pub(crate) use input::peer;
pub use openapi::openapi;

/// Every route of the admin API, with what each asks for.
pub(crate) fn router(plane: &Plane) -> (Router, Vec<RouteAccess>) {
    const fn role(action: Action) -> Access {
        Access::Role(action)
    }
    const SETTINGS: &str = "/{client}/target/clients/settings";
    const TOKEN: &str = "/{client}/target/authentication/token";
    let native = Routes::new(gate::Gate::native(plane.clone()))
        .get("/v1/{client}/tokens", role(Action::TokenList), tokens::list)
        .post("/v1/{client}/tokens", role(Action::TokenCreate), tokens::create)
        .get("/v1/{client}/tokens/{id}", role(Action::TokenList), tokens::one)
        .delete("/v1/{client}/tokens/{id}", role(Action::TokenRevoke), tokens::revoke)
        .post("/v1/{client}/tokens/{id}/rotate", role(Action::TokenRotate), tokens::rotate)
        .post("/v1/{client}/tokens/{id}/kill", role(Action::TokenRevoke), tokens::kill)
        .get("/v1/{client}/settings", role(Action::SettingsRead), clients::settings)
        .patch("/v1/{client}/settings", Access::SignedIn, clients::change)
        .get("/v1/{client}/identity-secret", role(Action::SettingsRead), identity::facts)
        .post("/v1/{client}/identity-secret", role(Action::TokenRotate), identity::rotate)
        .get("/v1/{client}/audit", role(Action::AuditRead), audit::of_client)
        .get("/v1/audit", role(Action::AuditRead), audit::of_all)
        .get("/v1/clients", role(Action::ClientList), clients::list)
        .post("/v1/clients", role(Action::ClientManage), clients::create)
        .get("/v1/clients/{code}", role(Action::SettingsRead), clients::one)
        .patch("/v1/clients/{code}", Access::SignedIn, clients::change_by_code)
        .get("/v1/users", role(Action::UserManage), users::list)
        .post("/v1/users", role(Action::UserManage), users::create)
        .patch("/v1/users/{name}", role(Action::UserManage), users::change)
        .delete("/v1/users/{name}", role(Action::UserManage), users::remove)
        .post("/v1/users/{name}/password", role(Action::PasswordChange), users::password)
        .get("/v1/keys", role(Action::KeyManage), keys::list)
        .post("/v1/keys", role(Action::KeyManage), keys::create)
        .delete("/v1/keys/{id}", role(Action::KeyManage), keys::remove)
        .get("/v1/cluster", role(Action::ClusterRead), cluster::get)
        .get("/v1/cluster/snapshots", role(Action::ClusterRead), cluster::snapshots)
        .post("/v1/cluster/snapshots", role(Action::SnapshotTake), cluster::take);
    let compatible = Routes::new(gate::Gate::compatible(plane.clone()))
        .get(TOKEN, role(Action::TokenList), compatible::token)
        .post(TOKEN, role(Action::TokenCreate), compatible::generate)
        .get(SETTINGS, role(Action::SettingsRead), compatible::settings)
        .on(Method::PUT, SETTINGS, role(Action::AuthSwitch), compatible::flip)
        .patch(SETTINGS, role(Action::AuthSwitch), compatible::flip);
    let (native, mut table) = native.finish();
    let (compatible, rest) = compatible.finish();
    table.extend(rest);
    (native.merge(compatible).with_state(plane.clone()), table)
}
