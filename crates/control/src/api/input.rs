//! What callers send: small JSON bodies, and who they are.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::extract::Request;
use cameo_http::serve::Peer;
use cameo_http::{Refusal, body};
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderMap};
use serde::de::DeserializeOwned;

/// Bytes of a body. Ours: the most origins of a client, with room.
pub(super) const BODY_BYTES: usize = 64 << 10;

/// Reads a JSON object; an absent body is an empty one.
pub(super) async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let (head, content) = request.into_parts();
    if let Err(refusal) = check_type(&head.headers) {
        body::drain(content).await;
        return Err(refusal);
    }
    read_body(content).await
}

pub(super) async fn read_body<T: DeserializeOwned>(content: Body) -> Result<T, Refusal> {
    let whole = body::read(content, BODY_BYTES).await.map_err(Refusal::from)?;
    let bytes = if whole.bytes.trim_ascii().is_empty() { b"{}" } else { &*whole.bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        let place = (error.line() > 0).then(|| (error.line(), error.column()));
        // The library's words end with the place, which stands beside them.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        // Its types are no words of JSON.
        let text =
            text.replace("expected u16", "expected a whole number").replace("expected u64", "expected a whole number");
        Refusal { place, ..Refusal::new(400, format!("the body is not what is asked for: {text}")) }
    })
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
