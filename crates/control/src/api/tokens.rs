//! `/v1/{client}/tokens`: several named tokens of a client.

use axum::response::Response;
use cameo_auth::record::TokenId;
use cameo_auth::{Action, Scope};
use cameo_http::Refusal;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, confirmation, json_reply, minute, time};
use super::input::{Asked, Sent};
use crate::plane::{Made, Problem, Rollout, Rotation, TokenView};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateRequest {
    name: String,
    scopes: Vec<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RotateRequest {
    #[serde(default)]
    grace_seconds: u64,
    expires_in: Option<u64>,
    #[serde(default)]
    kill_now: bool,
}

/// A token as it is shown: never its secret.
pub(super) fn shown(token: &TokenView) -> Value {
    let record = &token.record;
    let scopes: Vec<_> = record.scopes.iter().map(|scope| scope.as_str()).collect();
    let mut body = json!({
        "id": record.id.0, "name": record.name, "scopes": scopes,
        "createdAt": time(record.created_ms), "createdBy": record.created_by,
        "expiresAt": time(record.expires_ms), "expiresIn": token.expires_in, "expired": token.expired,
    });
    if let Some(used) = token.last_used {
        body["lastUsedAt"] = json!(minute(used));
    }
    if let Some(grace) = &record.grace {
        body["graceUntil"] = json!(time(grace.until_ms));
    }
    body
}

async fn with_secret(status: StatusCode, made: Made) -> Response {
    let progress = made.rollout.confirmed().await;
    let body = json!({
        "token": shown(&made.token), "accessToken": made.secret.reveal(), "tokenType": "Bearer",
        "confirmation": confirmation(&progress),
    });
    json_reply(status, &body)
}

async fn done(name: &str, id: &str, rollout: Rollout) -> Response {
    let progress = rollout.confirmed().await;
    json_reply(StatusCode::OK, &json!({name: id, "confirmation": confirmation(&progress)}))
}

pub(super) fn scopes(names: &[String]) -> Result<Vec<Scope>, Refusal> {
    let one = |name: &String| {
        Scope::parse(name).ok_or_else(|| {
            let known = Scope::ALL.map(Scope::as_str).join(", ");
            let text = format!("scopes name {:?}; there are {known}", crate::audit::text(name));
            Refusal { field: Some("scopes".into()), ..Refusal::new(400, text) }
        })
    };
    names.iter().map(one).collect()
}

/// The tokens of a client, never with a secret.
#[utoipa::path(get, path = "/v1/{client}/tokens", tag = "tokens", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "The tokens, with the minute they were last used"), (status = 401, description = "Not signed in"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn list(Asked { plane, caller, of: client }: Asked) -> Answer {
    let tokens = plane.tokens(&caller.principal, &client).await?;
    let tokens: Vec<_> = tokens.iter().map(shown).collect();
    Ok(json_reply(StatusCode::OK, &json!({"client": client, "tokens": tokens})))
}

/// Makes a token. Its secret is in this reply and nowhere else.
#[utoipa::path(post, path = "/v1/{client}/tokens", tag = "tokens", params(("client" = String, Path, description = "Client (tenant) code")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{name, scopes, expiresIn?}`; expiresIn in seconds, 1 hour to 1 year, default 30 days"),
    responses((status = 201, description = "The token with its secret, once every node knows it"), (status = 400, description = "What is wrong"), (status = 409, description = "The name is taken")))]
pub(super) async fn create(Asked { plane, caller, of: client }: Asked, sent: Sent) -> Answer {
    // A role that may not is told so before what it sent is judged.
    plane.client(&caller.principal, Action::TokenCreate, &client).await?;
    let new: CreateRequest = sent.read()?;
    let scopes = scopes(&new.scopes)?;
    let made = plane.create_token(&caller.principal, &client, new.name, scopes, new.expires_in).await?;
    Ok(with_secret(StatusCode::CREATED, made).await)
}

/// One token, never with its secret.
#[utoipa::path(get, path = "/v1/{client}/tokens/{id}", tag = "tokens", params(("client" = String, Path, description = "Client (tenant) code"), ("id" = String, Path, description = "Id of the token")),
    responses((status = 200, description = "The token"), (status = 404, description = "There is none")))]
pub(super) async fn one(Asked { plane, caller, of: (client, id) }: Asked<(String, String)>) -> Answer {
    let tokens = plane.tokens(&caller.principal, &client).await?;
    let found = tokens.iter().find(|token| token.record.id.0 == id);
    let missing = || Problem::Missing(format!("token {:?}", crate::audit::text(&id)));
    Ok(json_reply(StatusCode::OK, &shown(found.ok_or_else(missing)?)))
}

/// Ends a token, and an old secret of it. Answered when no node accepts it any more.
#[utoipa::path(delete, path = "/v1/{client}/tokens/{id}", tag = "tokens", params(("client" = String, Path, description = "Client (tenant) code"), ("id" = String, Path, description = "Id of the token")),
    responses((status = 200, description = "Dead on every node; says how each was confirmed"), (status = 404, description = "There is none")))]
pub(super) async fn revoke(Asked { plane, caller, of: (client, id) }: Asked<(String, String)>) -> Answer {
    let rollout = plane.revoke_token(&caller.principal, &client, &TokenId(id.clone())).await?;
    Ok(done("revoked", &id, rollout).await)
}

/// Replaces the secret of a token. Answered when no node accepts the old one any more, unless a grace was asked for.
#[utoipa::path(post, path = "/v1/{client}/tokens/{id}/rotate", tag = "tokens", params(("client" = String, Path, description = "Client (tenant) code"), ("id" = String, Path, description = "Id of the token")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{graceSeconds?, expiresIn?, killNow?}`; graceSeconds 0 to 7 days, default 0; killNow ends a running grace too, as graceSeconds 0 does"),
    responses((status = 200, description = "The token with its new secret; says how each node was confirmed"), (status = 404, description = "There is none")))]
pub(super) async fn rotate(Asked { plane, caller, of: (client, id) }: Asked<(String, String)>, sent: Sent) -> Answer {
    plane.client(&caller.principal, Action::TokenRotate, &client).await?;
    let how: RotateRequest = sent.read()?;
    if how.kill_now && how.grace_seconds > 0 {
        let text = "killNow ends old secrets now; graceSeconds keeps one: name one of the two";
        return Err(Refusal { field: Some("killNow".into()), ..Refusal::new(400, text) }.into());
    }
    let rotation = Rotation { grace_seconds: how.grace_seconds, expires_in: how.expires_in };
    let made = plane.rotate_token(&caller.principal, &client, &TokenId(id), rotation).await?;
    Ok(with_secret(StatusCode::OK, made).await)
}

/// Ends a running grace: the old secret dies now, the new one lives.
#[utoipa::path(post, path = "/v1/{client}/tokens/{id}/kill", tag = "tokens", params(("client" = String, Path, description = "Client (tenant) code"), ("id" = String, Path, description = "Id of the token")),
    responses((status = 200, description = "The old secret is dead on every node"), (status = 404, description = "There is no such token"), (status = 409, description = "No grace is running")))]
pub(super) async fn kill(Asked { plane, caller, of: (client, id) }: Asked<(String, String)>) -> Answer {
    let rollout = plane.kill_grace(&caller.principal, &client, &TokenId(id.clone())).await?;
    Ok(done("killed", &id, rollout).await)
}
