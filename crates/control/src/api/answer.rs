//! Replies of the native admin API.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cameo_http::refusal::RETRY_UNAVAILABLE;
use cameo_http::{Family, Refusal};
use cameo_profile::time::Iso8601;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::plane::{Problem, Progress};

/// A moment as RFC 3339 text, in UTC with milliseconds.
pub(crate) fn time(ms: u64) -> String {
    Iso8601::new(ms).as_str().to_owned()
}

/// Minutes since 1970 as text.
pub(crate) fn minute(minutes: u32) -> String {
    time(u64::from(minutes) * 60_000)
}

/// JSON that no cache keeps: it may hold a secret.
pub(crate) fn json_reply(status: StatusCode, body: &Value) -> Response {
    typed(status, "application/json", body.to_string())
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let text = problem.to_string();
        match problem {
            Problem::Forbidden(_) => Self::new(403, text),
            Problem::Missing(_) => Self::new(404, text),
            Problem::Invalid { field, .. } => Self { field: Some(field.into()), ..Self::new(400, text) },
            Problem::Conflict(_) => Self::new(409, text),
            Problem::Throttled(seconds) => Self { retry_after: Some(seconds), ..Self::new(429, text) },
            Problem::Unavailable(_) => Self { retry_after: Some(RETRY_UNAVAILABLE), ..Self::new(503, text) },
            // Without Retry-After: what happened must be looked at first.
            Problem::Unknown(_) => Self::new(503, text),
        }
    }
}

/// A reply of the native paths, or why there is none.
pub(super) type Answer = Result<Response, NativeError>;

/// A refusal as problem+json.
#[derive(Debug)]
pub(super) struct NativeError(Refusal);

impl From<Refusal> for NativeError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Problem> for NativeError {
    fn from(problem: Problem) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for NativeError {
    fn into_response(self) -> Response {
        self.0.response(Family::Native)
    }
}

/// How a change reached every node.
pub(super) fn confirmation(progress: &Progress) -> Value {
    json!(progress)
}
