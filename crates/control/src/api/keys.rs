//! `/v1/keys`: admin keys, for scripts.

use axum::extract::{Extension, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, json_reply, time};
use super::gate::Caller;
use super::input::{Asked, Sent};
use crate::plane::{KeyRecord, Plane};
use crate::principal::Grant;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateRequest {
    name: String,
    roles: Vec<Grant>,
    expires_in: Option<u64>,
}

fn shown(key: &KeyRecord) -> Value {
    json!({
        "id": key.id, "name": key.name, "roles": key.roles, "createdBy": key.created_by,
        "createdAt": time(key.created_ms), "expiresAt": time(key.expires_ms),
    })
}

/// All admin keys, never with a secret.
#[utoipa::path(get, path = "/v1/keys", tag = "users", responses((status = 200, description = "Keys with their roles")))]
pub(super) async fn list(State(plane): State<Plane>, Extension(caller): Extension<Caller>) -> Answer {
    let keys: Vec<_> = plane.keys(&caller.principal).await?.iter().map(shown).collect();
    Ok(json_reply(StatusCode::OK, &json!({"keys": keys})))
}

/// Makes an admin key. Its secret is in this reply and nowhere else.
#[utoipa::path(post, path = "/v1/keys", tag = "users",
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{name, roles: [{client, role}], expiresIn?}`"),
    responses((status = 201, description = "The key with its secret"), (status = 400, description = "What is wrong"), (status = 409, description = "The name is taken")))]
pub(super) async fn create(State(plane): State<Plane>, Extension(caller): Extension<Caller>, sent: Sent) -> Answer {
    let new: CreateRequest = sent.read()?;
    let made = plane.create_key(&caller.principal, &new.name, new.roles, new.expires_in).await?;
    let body = json!({"key": shown(&made.key), "apiKey": made.secret.reveal()});
    Ok(json_reply(StatusCode::CREATED, &body))
}

/// Ends an admin key.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "users", params(("id" = String, Path, description = "Id of the key")),
    responses((status = 200, description = "Ended"), (status = 404, description = "There is none")))]
pub(super) async fn remove(Asked { plane, caller, of: id }: Asked) -> Answer {
    plane.remove_key(&caller.principal, &id).await?;
    Ok(json_reply(StatusCode::OK, &json!({"revoked": id})))
}
