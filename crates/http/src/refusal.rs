//! Refusals, and the shape each family of paths gives them: problem+json, `{status, message}`, or XML.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::body::Body;
use axum::response::Response;
use cameo_profile::ids::Invalid;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::BodyError;

/// Seconds that a caller shall wait when queues are full.
pub const RETRY_BUSY: u16 = 1;
/// Seconds that a caller shall wait when the log is not there, or full.
pub const RETRY_UNAVAILABLE: u16 = 5;

/// Which shape errors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RFC 9457 (`/v1/…` and everything of ours).
    Native,
    /// `{status, message}` (`/rest/…`).
    Rest,
    /// `<response><success>false</success>…` (`/m2/…`).
    Xml,
}

impl Family {
    /// By the start of the path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path.split('/').nth(1) {
            Some("rest") => Self::Rest,
            Some("m2") => Self::Xml,
            _ => Self::Native,
        }
    }
}

/// Why a request, or one visit of it, is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// For people: what and where.
    pub message: Cow<'static, str>,
    /// The field to blame.
    pub field: Option<Cow<'static, str>>,
    /// The bound that was broken.
    pub limit: Option<usize>,
    /// Line and column of the body, counted from 1.
    pub place: Option<(usize, usize)>,
    /// Seconds.
    pub retry_after: Option<u16>,
}

impl Refusal {
    /// With a status and a text for people.
    pub fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), field: None, limit: None, place: None, retry_after: None }
    }

    /// 404 that names the client.
    #[must_use]
    pub fn unknown_client(code: &str) -> Self {
        let code: String = code.chars().filter(|c| !c.is_control()).take(64).collect();
        let refusal = Self::new(404, format!("there is no client {code:?} here"));
        Self { field: Some("client".into()), ..refusal }
    }

    fn title(&self) -> &'static str {
        StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
    }

    /// What stands beside the message: field, limit, line, column.
    #[must_use]
    pub fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Some(field) = &self.field {
            details.insert("field".into(), json!(field));
        }
        if let Some(limit) = self.limit {
            details.insert("limit".into(), json!(limit));
        }
        if let Some((line, column)) = self.place {
            details.insert("line".into(), json!(line));
            details.insert("column".into(), json!(column));
        }
        details
    }

    /// The message for a shape that has no fields for line and column.
    fn message_with_place(&self) -> Cow<'_, str> {
        match self.place {
            Some((line, column)) => format!("{} (line {line}, column {column})", self.message).into(),
            None => Cow::Borrowed(&self.message),
        }
    }

    /// The reply.
    #[must_use]
    pub fn response(&self, family: Family) -> Response {
        let (content_type, body) = match family {
            Family::Native => {
                let mut body = Map::new();
                body.insert("type".into(), json!("about:blank"));
                body.insert("title".into(), json!(self.title()));
                body.insert("status".into(), json!(self.status));
                body.insert("detail".into(), json!(self.message));
                body.extend(self.details());
                ("application/problem+json", Value::Object(body).to_string())
            }
            Family::Rest => {
                ("application/json", json!({"status": self.status, "message": self.message_with_place()}).to_string())
            }
            Family::Xml => ("application/xml; charset=UTF-8", xml(false, &self.message)),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `<response>` of the compatible update API (TARGET_API §2).
#[must_use]
pub fn xml(success: bool, message: &str) -> String {
    let mut out = String::with_capacity(96 + message.len());
    let _ = write!(out, "<response><success>{success}</success><message>");
    xml_text(&mut out, message);
    out.push_str("</message></response>");
    out
}

/// Writes text between tags.
pub fn xml_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // XML 1.0 has no way to write these.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let (limit, retry_after) = match error {
            BodyError::TooLarge { limit } => (Some(limit), None),
            BodyError::Busy => (None, Some(RETRY_BUSY)),
            BodyError::TimedOut | BodyError::TooSlow | BodyError::Broken => (None, None),
        };
        Self { limit, retry_after, ..Self::new(error.status(), error.to_string()) }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let limit = invalid.limit();
        Self { limit, field: Some(invalid.field.clone()), ..Self::new(400, invalid.to_string()) }
    }
}
