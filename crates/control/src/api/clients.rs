//! `/v1/clients` and `/v1/{client}/settings`.

use axum::extract::{Extension, State};
use cameo_auth::Action;
use cameo_auth::record::ClientRecord;
use cameo_http::Refusal;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::answer::{Answer, confirmation, json_reply, time};
use super::gate::Caller;
use super::input::{Asked, Sent};
use crate::plane::{NewClient, Plane, Settings};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SettingsRequest {
    code: Option<String>,
    enable_profile_api_authentication: Option<bool>,
    require_visit_tokens: Option<bool>,
    require_identity_signature: Option<bool>,
    lifetime_days: Option<u16>,
    allowed_origins: Option<Vec<String>>,
    #[serde(deserialize_with = "given")]
    ims_org_id: Option<Option<String>>,
    disabled: Option<bool>,
}

/// `null` takes a value away; what is not there leaves it.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl SettingsRequest {
    fn settings(self) -> Settings {
        Settings {
            require_authentication: self.enable_profile_api_authentication,
            require_visit_tokens: self.require_visit_tokens,
            require_identity_signature: self.require_identity_signature,
            lifetime_days: self.lifetime_days,
            allowed_origins: self.allowed_origins,
            ims_org_id: self.ims_org_id,
            disabled: self.disabled,
        }
    }
}

fn shown(record: &ClientRecord) -> Value {
    json!({
        "client": record.code, "createdAt": time(record.created_ms), "disabled": record.disabled,
        "enableProfileApiAuthentication": record.require_authentication,
        "requireVisitTokens": record.require_visit_tokens,
        "requireIdentitySignature": record.require_identity_signature, "lifetimeDays": record.lifetime_days,
        "allowedOrigins": record.allowed_origins, "imsOrgId": record.ims_org_id,
    })
}

/// The clients that the caller may see.
#[utoipa::path(get, path = "/v1/clients", tag = "clients", responses((status = 200, description = "Clients with their settings")))]
pub(super) async fn list(State(plane): State<Plane>, Extension(caller): Extension<Caller>) -> Answer {
    let clients: Vec<_> = plane.clients(&caller.principal).await?.iter().map(shown).collect();
    Ok(json_reply(StatusCode::OK, &json!({"clients": clients})))
}

/// Makes a client.
#[utoipa::path(post, path = "/v1/clients", tag = "clients",
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{code, …settings}`"),
    responses((status = 201, description = "Every node serves it"), (status = 400, description = "What is wrong"), (status = 409, description = "There is one already")))]
pub(super) async fn create(State(plane): State<Plane>, Extension(caller): Extension<Caller>, sent: Sent) -> Answer {
    let mut asked: SettingsRequest = sent.read()?;
    let missing = || Refusal { field: Some("code".into()), ..Refusal::new(400, "code is missing") };
    let code = asked.code.take().ok_or_else(missing)?;
    let new = NewClient { code, settings: asked.settings() };
    let (record, rollout) = plane.create_client(&caller.principal, new).await?;
    let mut body = shown(&record);
    body["confirmation"] = confirmation(&rollout.confirmed().await);
    Ok(json_reply(StatusCode::CREATED, &body))
}

/// The settings of a client.
#[utoipa::path(get, path = "/v1/{client}/settings", tag = "clients", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "The settings"), (status = 404, description = "There is no such client")))]
pub(super) async fn settings(Asked { plane, caller, of: client }: Asked) -> Answer {
    read(&plane, &caller, &client).await
}

/// The settings of a client.
#[utoipa::path(get, path = "/v1/clients/{code}", tag = "clients", params(("code" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "The settings"), (status = 404, description = "There is no such client")))]
pub(super) async fn one(Asked { plane, caller, of: client }: Asked) -> Answer {
    read(&plane, &caller, &client).await
}

async fn read(plane: &Plane, caller: &Caller, client: &str) -> Answer {
    let record = plane.client(&caller.principal, Action::SettingsRead, client).await?;
    Ok(json_reply(StatusCode::OK, &shown(&record)))
}

/// Changes settings of a client. Answered when every node goes by them.
#[utoipa::path(patch, path = "/v1/{client}/settings", tag = "clients", params(("client" = String, Path, description = "Client (tenant) code")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "Any of `enableProfileApiAuthentication`, `requireVisitTokens`, `requireIdentitySignature`, `lifetimeDays`, `allowedOrigins`; an admin also `imsOrgId`, `disabled`"),
    responses((status = 200, description = "The settings, and how each node was confirmed"), (status = 400, description = "What is wrong"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn change(Asked { plane, caller, of: client }: Asked, sent: Sent) -> Answer {
    write(&plane, &caller, &client, &sent).await
}

/// Changes settings of a client, or disables it. Answered when every node goes by them.
#[utoipa::path(patch, path = "/v1/clients/{code}", tag = "clients", params(("code" = String, Path, description = "Client (tenant) code")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "As `/v1/{client}/settings`"),
    responses((status = 200, description = "The settings, and how each node was confirmed"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn change_by_code(Asked { plane, caller, of: client }: Asked, sent: Sent) -> Answer {
    write(&plane, &caller, &client, &sent).await
}

async fn write(plane: &Plane, caller: &Caller, client: &str, sent: &Sent) -> Answer {
    plane.client(&caller.principal, Action::SettingsRead, client).await?;
    let asked: SettingsRequest = sent.read()?;
    if asked.code.is_some() {
        let text = "a client's code cannot be changed";
        return Err(Refusal { field: Some("code".into()), ..Refusal::new(400, text) }.into());
    }
    let settings = asked.settings();
    if settings == Settings::default() {
        return Err(Refusal::new(400, "no setting is named").into());
    }
    let (record, rollout) = plane.set(&caller.principal, client, settings).await?;
    let mut body = shown(&record);
    body["confirmation"] = confirmation(&rollout.confirmed().await);
    Ok(json_reply(StatusCode::OK, &body))
}
