//! The admin API as the vendor has it (TARGET_API §5): token and switch of the profile API.

use axum::body::Bytes;
use axum::extract::RawQuery;
use axum::response::{IntoResponse, Response};
use cameo_auth::Action;
use cameo_auth::clock::{Clock as _, SystemClock};
use cameo_http::{Refusal, query};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::answer::{confirmation, time, typed};
use super::input::{self, Asked};
use crate::plane::{Problem, Settings, TokenView};

/// The vendor's media type, with its version.
const VENDOR_TYPE: &str = "application/vnd.adobe.target.v1+json";
/// The one scope there.
const SCOPE: &str = "profile_api";

/// What a secret is shown as when it cannot be shown any more.
const MASKED: &str = "cameo_pat_****************";

/// A reply in the vendor's shape, or why there is none.
type Answer = Result<Response, VendorError>;

/// A refusal in the vendor's shape.
#[derive(Debug)]
pub(super) struct VendorError(Refusal);

impl From<Refusal> for VendorError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Problem> for VendorError {
    fn from(problem: Problem) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for VendorError {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = match refusal.status {
            400 => "Bad.Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            406 => "NotAcceptable",
            409 => "Conflict",
            413 => "RequestTooLarge",
            415 => "UnsupportedMediaType",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "Unknown",
        };
        let body = json!({
            "httpStatus": refusal.status,
            "requestId": getrandom::u64().map(|n| format!("{n:016x}")).unwrap_or_default(),
            "requestTime": time(SystemClock.unix_ms()),
            "errors": [{"errorCode": code, "message": refusal.message, "meta": refusal.details()}],
        });
        let mut response = typed(status, VENDOR_TYPE, body.to_string());
        if let Some(seconds) = refusal.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn reply(headers: &HeaderMap, status: StatusCode, body: &Value) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = accepted.contains("application/json") && !accepted.contains(VENDOR_TYPE);
    typed(status, if plain { "application/json" } else { VENDOR_TYPE }, body.to_string())
}

/// Whether the caller takes what is sent here, and sends what is taken.
fn check_types(headers: &HeaderMap) -> Result<(), Refusal> {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let known = |item: &str| {
        matches!(
            item.split(';').next().unwrap_or_default().trim(),
            "" | "*/*" | "application/*" | "application/json" | VENDOR_TYPE
        )
    };
    if accepted.is_some_and(|accepted| !accepted.split(',').any(known)) {
        let text = format!("replies are {VENDOR_TYPE} or application/json");
        return Err(Refusal { field: Some("Accept".into()), ..Refusal::new(406, text) });
    }
    Ok(())
}

fn check_scope(query: Option<&str>) -> Result<(), Refusal> {
    let pairs = query::pairs(query.unwrap_or_default().as_bytes())?;
    match query::one(&pairs, "authorizationScope")? {
        None | Some(SCOPE) => Ok(()),
        Some(_) => {
            let refusal = Refusal::new(400, format!("authorizationScope can only be {SCOPE}"));
            Err(Refusal { field: Some("authorizationScope".into()), ..refusal })
        }
    }
}

fn shown(secret: &str, token: &TokenView) -> Value {
    json!({"accessToken": secret, "tokenType": "Bearer", "scope": SCOPE, "expiresIn": token.expires_in})
}

/// The profile API's token as it is, its secret masked: only a digest of it is kept.
#[utoipa::path(get, path = "/{client}/target/authentication/token", tag = "compatible", params(("client" = String, Path, description = "Client (tenant) code"), ("authorizationScope" = Option<String>, Query, description = "`profile_api`")),
    responses((status = 200, description = "The token, masked"), (status = 404, description = "None was generated")))]
pub(super) async fn token(
    Asked { plane, caller, of: client }: Asked,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    check_types(&headers)?;
    check_scope(query.as_deref())?;
    let found = plane.generated(&caller.principal, &client).await?;
    let missing = || Problem::Missing(format!("token of client {client} yet: generate one by POST"));
    Ok(reply(&headers, StatusCode::OK, &shown(MASKED, &found.ok_or_else(missing)?)))
}

/// Generates the profile API's token. Answered when no node accepts the one before any more.
#[utoipa::path(post, path = "/{client}/target/authentication/token", tag = "compatible", params(("client" = String, Path, description = "Client (tenant) code"), ("authorizationScope" = Option<String>, Query, description = "`profile_api`")),
    responses((status = 201, description = "The token; its secret is in this reply and nowhere else"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn generate(
    Asked { plane, caller, of: client }: Asked,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    // What the body says is not looked at: scripts send `{}` or nothing.
    check_types(&headers)?;
    check_scope(query.as_deref())?;
    let made = plane.generate(&caller.principal, &client).await?;
    let progress = made.rollout.confirmed().await;
    let mut body = shown(made.secret.reveal(), &made.token);
    body["confirmation"] = confirmation(&progress);
    Ok(reply(&headers, StatusCode::CREATED, &body))
}

/// Whether the profile API requires authentication.
#[utoipa::path(get, path = "/{client}/target/clients/settings", tag = "compatible", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "`{enableProfileApiAuthentication}`"), (status = 404, description = "There is no such client")))]
pub(super) async fn settings(Asked { plane, caller, of: client }: Asked, headers: HeaderMap) -> Answer {
    check_types(&headers)?;
    let record = plane.client(&caller.principal, Action::SettingsRead, &client).await?;
    let body = json!({"enableProfileApiAuthentication": record.require_authentication});
    Ok(reply(&headers, StatusCode::OK, &body))
}

/// Flips *Require Authentication*. Answered when every node goes by it.
#[utoipa::path(method(put, patch), path = "/{client}/target/clients/settings", tag = "compatible", params(("client" = String, Path, description = "Client (tenant) code")),
    request_body(content = serde_json::Value, content_type = "application/vnd.adobe.target.v1+json", description = "`{enableProfileApiAuthentication}`; other fields are ignored"),
    responses((status = 200, description = "The settings, and how each node was confirmed"), (status = 403, description = "The role does not allow it")))]
pub(super) async fn flip(Asked { plane, caller, of: client }: Asked, headers: HeaderMap, body: Bytes) -> Answer {
    check_types(&headers)?;
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match kind.as_deref() {
        None | Some("application/json" | VENDOR_TYPE | "application/x-www-form-urlencoded") => {}
        Some(other) => {
            let refusal = Refusal::new(415, format!("bodies are {VENDOR_TYPE} or application/json, not {other:?}"));
            return Err(Refusal { field: Some("Content-Type".into()), ..refusal }.into());
        }
    }
    plane.client(&caller.principal, Action::AuthSwitch, &client).await?;
    let asked: Map<String, Value> = input::read_body(&body)?;
    let wanted = match asked.get("enableProfileApiAuthentication") {
        Some(Value::Bool(wanted)) => *wanted,
        other => {
            let what = if other.is_some() { "must be true or false" } else { "is missing" };
            let refusal = Refusal::new(400, format!("enableProfileApiAuthentication {what}"));
            return Err(Refusal { field: Some("enableProfileApiAuthentication".into()), ..refusal }.into());
        }
    };
    let settings = Settings { require_authentication: Some(wanted), ..Settings::default() };
    let (record, rollout) = plane.set(&caller.principal, &client, settings).await?;
    let progress = rollout.confirmed().await;
    let body = json!({
        "enableProfileApiAuthentication": record.require_authentication, "confirmation": confirmation(&progress),
    });
    Ok(reply(&headers, StatusCode::OK, &body))
}
