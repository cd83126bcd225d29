//! The way from the pages to profiles and batches: the routers of edge and gateway in the same process.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use cameo_auth::verifier::{Caller, Internal};
use http::Method;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::plane::Problem;
use crate::principal::Principal;

/// Bytes of an answer that is read whole.
const ANSWER_BYTES: usize = 4 << 20;

/// Routers that answer for the profile API. What passes is not asked for a token: the role has been checked here.
#[derive(Clone)]
pub struct Upstream {
    router: Router,
    /// Who asks, if somebody does by name.
    by: Option<Caller>,
}

impl Upstream {
    /// Over these routes.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router, by: None }
    }

    /// The same way, for somebody who makes a change.
    pub(super) fn by(&self, principal: &Principal) -> Self {
        // An admin key is `key:NAME` already.
        let kind = if principal.who.starts_with("key:") { "" } else { "user:" };
        Self { router: self.router.clone(), by: Some(Caller([kind, &principal.who].concat().into())) }
    }

    /// Sends a request on.
    pub(super) async fn send(&self, mut request: Request) -> Response {
        request.extensions_mut().insert(Internal);
        if let Some(by) = &self.by {
            request.extensions_mut().insert(by.clone());
        }
        let answered = self.router.clone().oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    }

    /// Asks and reads a JSON answer; what is refused becomes a problem with the words of the refusal.
    pub(super) async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Problem> {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(|error| Problem::Conflict(error.to_string()))?;
        let response = self.send(request).await;
        let status = response.status();
        let bytes = bytes(response).await?;
        let value: Value =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_default() };
        if status.is_success() {
            return Ok(value);
        }
        let text = value["detail"].as_str().unwrap_or("the request was refused").to_owned();
        Err(match status {
            // Missing or not as it should be: the words say it.
            status if status.is_server_error() => Problem::Unavailable(text),
            _ => Problem::Conflict(text),
        })
    }
}

async fn bytes(response: Response) -> Result<Bytes, Problem> {
    let read = axum::body::to_bytes(response.into_body(), ANSWER_BYTES).await;
    read.map_err(|error| Problem::Unavailable(error.to_string()))
}
