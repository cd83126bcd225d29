//! The two shapes that replies of the compatible paths have, by what the caller accepts.

use std::fmt::Write as _;

use axum::body::Body;
use axum::response::Response;
use cameo_http::refusal::xml_text;
use cameo_http::{Family, Refusal};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

/// XML unless the caller asks for JSON (TARGET_API §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Xml,
    Json,
}

impl Shape {
    /// Of JSON and XML the one that the caller names first.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let types = accepted.flat_map(|value| value.split(','));
        let known = types.filter_map(|item| match item.split(';').next().map(str::trim) {
            Some(kind) if kind.eq_ignore_ascii_case("application/json") => Some(Self::Json),
            Some(kind) if kind.to_ascii_lowercase().ends_with("/xml") => Some(Self::Xml),
            _ => None,
        });
        known.into_iter().next().unwrap_or(Self::Xml)
    }

    /// A refusal in this shape.
    pub(super) fn refuse(self, refusal: &Refusal) -> Response {
        if self == Self::Xml {
            return refusal.response(Family::Xml);
        }
        let mut body = refusal.details();
        body.insert("success".into(), json!(false));
        body.insert("message".into(), json!(refusal.message));
        let mut response = json_reply(&Value::Object(body));
        *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(seconds) = refusal.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// 200 with a body of this content type.
pub(super) fn reply(content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn json_reply(body: &Value) -> Response {
    reply("application/json", body.to_string())
}

/// `<response>` around what `fill` writes.
pub(super) fn xml_reply(fill: impl FnOnce(&mut String)) -> Response {
    let mut out = String::from("<response>");
    fill(&mut out);
    out.push_str("</response>");
    reply("application/xml; charset=UTF-8", out)
}

/// `<name>value</name>`.
pub(super) fn element(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = write!(out, "<{name}>");
    xml_text(out, &value.to_string());
    let _ = write!(out, "</{name}>");
}
