//! `/v1/users`.

use axum::extract::{Extension, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::answer::{Answer, json_reply, time};
use super::gate::Caller;
use super::input::{Asked, Sent};
use crate::plane::{Plane, UserRecord};
use crate::principal::Grant;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    password: Zeroizing<String>,
    roles: Vec<Grant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RolesRequest {
    roles: Vec<Grant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordRequest {
    password: Zeroizing<String>,
    current: Option<Zeroizing<String>>,
}

fn shown(user: &UserRecord) -> Value {
    json!({"name": user.name, "roles": user.roles, "createdAt": time(user.created_ms)})
}

/// All users.
#[utoipa::path(get, path = "/v1/users", tag = "users", responses((status = 200, description = "Users with their roles")))]
pub(super) async fn list(State(plane): State<Plane>, Extension(caller): Extension<Caller>) -> Answer {
    let users: Vec<_> = plane.users(&caller.principal).await?.iter().map(shown).collect();
    Ok(json_reply(StatusCode::OK, &json!({"users": users})))
}

/// Makes a user.
#[utoipa::path(post, path = "/v1/users", tag = "users",
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{name, password, roles: [{client, role}]}`; client `*` is all"),
    responses((status = 201, description = "The user"), (status = 400, description = "What is wrong"), (status = 409, description = "There is one already")))]
pub(super) async fn create(State(plane): State<Plane>, Extension(caller): Extension<Caller>, sent: Sent) -> Answer {
    let new: CreateRequest = sent.read()?;
    let user = plane.create_user(&caller.principal, &new.name, new.password, new.roles).await?;
    Ok(json_reply(StatusCode::CREATED, &shown(&user)))
}

/// Gives a user other roles.
#[utoipa::path(patch, path = "/v1/users/{name}", tag = "users", params(("name" = String, Path, description = "The user")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{roles: [{client, role}]}`"),
    responses((status = 200, description = "The user"), (status = 404, description = "There is none"), (status = 409, description = "The last admin")))]
pub(super) async fn change(Asked { plane, caller, of: name }: Asked, sent: Sent) -> Answer {
    let asked: RolesRequest = sent.read()?;
    let user = plane.set_roles(&caller.principal, &name, asked.roles).await?;
    Ok(json_reply(StatusCode::OK, &shown(&user)))
}

/// Removes a user; its sessions end.
#[utoipa::path(delete, path = "/v1/users/{name}", tag = "users", params(("name" = String, Path, description = "The user")),
    responses((status = 200, description = "Removed"), (status = 404, description = "There is none"), (status = 409, description = "The last admin")))]
pub(super) async fn remove(Asked { plane, caller, of: name }: Asked) -> Answer {
    plane.remove_user(&caller.principal, &name).await?;
    Ok(json_reply(StatusCode::OK, &json!({"removed": name})))
}

/// Gives a user another password; one's own needs the present one as `current`.
#[utoipa::path(post, path = "/v1/users/{name}/password", tag = "users", params(("name" = String, Path, description = "The user")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{password, current?}`"),
    responses((status = 200, description = "Changed; the user's sessions have ended"), (status = 400, description = "What is wrong")))]
pub(super) async fn password(Asked { plane, caller, of: name }: Asked, sent: Sent) -> Answer {
    let asked: PasswordRequest = sent.read()?;
    plane.set_password(&caller.principal, &name, asked.current, asked.password).await?;
    Ok(json_reply(StatusCode::OK, &json!({"changed": name})))
}
