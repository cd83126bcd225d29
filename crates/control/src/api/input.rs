//! What callers send: small JSON bodies, and who they are.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::Bytes;
use axum::extract::{Extension, FromRequest, FromRequestParts, Path, Request};
use axum::response::{IntoResponse, Response};
use cameo_http::serve::Peer;
use cameo_http::{Refusal, wording};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use serde::de::DeserializeOwned;

use super::gate::Caller;
use crate::plane::Plane;

/// Bytes of a body, which the gate reads before a handler is called. Ours: the most origins of a client, with room.
pub(super) const BODY_BYTES: usize = 64 << 10;

/// Who asks, and about what: what the path names.
pub(super) struct Asked<P = String> {
    pub(super) plane: Plane,
    pub(super) caller: Caller,
    pub(super) of: P,
}

impl<P: DeserializeOwned + Send> FromRequestParts<Plane> for Asked<P> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, plane: &Plane) -> Result<Self, Response> {
        let caller = Extension::from_request_parts(parts, plane).await.map_err(IntoResponse::into_response)?;
        let of = Path::from_request_parts(parts, plane).await.map_err(IntoResponse::into_response)?;
        Ok(Self { plane: plane.clone(), caller: caller.0, of: of.0 })
    }
}

/// A body as it came; it is read once the caller is known to be one who may.
pub(super) struct Sent {
    headers: HeaderMap,
    body: Bytes,
}

impl FromRequest<Plane> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, plane: &Plane) -> Result<Self, Response> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, plane).await.map_err(IntoResponse::into_response)?;
        Ok(Self { headers, body })
    }
}

impl Sent {
    /// Reads a JSON object; an absent body is an empty one.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        check_type(&self.headers)?;
        read_body(&self.body)
    }
}

/// Reads a JSON object, whatever the body's type is said to be; an absent body is an empty one.
pub(super) fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let bytes = if body.trim_ascii().is_empty() { b"{}" } else { body };
    wording::read(bytes)
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // curl says so when nobody tells it otherwise.
    if matches!(&*kind, "application/json" | "application/x-www-form-urlencoded") || kind.ends_with("+json") {
        return Ok(());
    }
    let text = format!("the body must be application/json, not {kind:?}");
    Err(Refusal { field: Some("Content-Type".into()), ..Refusal::new(415, text) })
}

/// Where a request came from.
pub(crate) fn peer(extensions: &Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip())
}
