//! `/v1/{client}/identity-secret`: what a client's servers sign ids of persons with.

use cameo_auth::Action;
use cameo_auth::record::ClientRecord;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, confirmation, json_reply, time};
use super::input::{Asked, Sent};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RotateRequest {
    #[serde(default)]
    grace_seconds: u64,
}

/// When they were made and end; never a secret.
fn shown(record: &ClientRecord) -> Value {
    let secrets: Vec<_> = record
        .identity_secrets
        .iter()
        .map(|secret| {
            json!({"createdAt": time(secret.created_ms), "createdBy": secret.created_by, "until": secret.until_ms.map(time)})
        })
        .collect();
    json!({"requireIdentitySignature": record.require_identity_signature, "secrets": secrets})
}

/// The client's secrets for signatures: when they were made and end.
#[utoipa::path(get, path = "/v1/{client}/identity-secret", tag = "clients", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "Newest first, never a secret"), (status = 404, description = "There is no such client")))]
pub(super) async fn facts(Asked { plane, caller, of: client }: Asked) -> Answer {
    let record = plane.client(&caller.principal, Action::SettingsRead, &client).await?;
    Ok(json_reply(StatusCode::OK, &shown(&record)))
}

/// Makes a secret. It is in this reply and nowhere else; the one before ends when this is answered, or after its grace.
#[utoipa::path(post, path = "/v1/{client}/identity-secret", tag = "clients", params(("client" = String, Path, description = "Client (tenant) code")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{graceSeconds?}`; 0 to 7 days, default 0"),
    responses((status = 201, description = "The secret, once every node knows it"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn rotate(Asked { plane, caller, of: client }: Asked, sent: Sent) -> Answer {
    plane.client(&caller.principal, Action::TokenRotate, &client).await?;
    let how: RotateRequest = sent.read()?;
    let (record, secret, rollout) = plane.rotate_identity_secret(&caller.principal, &client, how.grace_seconds).await?;
    let mut body = shown(&record);
    body["identitySecret"] = json!(secret.reveal());
    body["confirmation"] = confirmation(&rollout.confirmed().await);
    Ok(json_reply(StatusCode::CREATED, &body))
}
