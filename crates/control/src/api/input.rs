//! What callers send: small JSON bodies, and who they are.

use std::net::{IpAddr, Ipv4Addr};

use cameo_http::serve::Peer;
use cameo_http::{Refusal, wording};
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderMap};
use serde::de::DeserializeOwned;

/// Bytes of a body, which the gate reads before a handler is called. Ours: the most origins of a client, with room.
pub(super) const BODY_BYTES: usize = 64 << 10;

/// Reads a JSON object; an absent body is an empty one.
pub(super) fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Refusal> {
    check_type(headers)?;
    read_body(body)
}

/// The same, whatever the body's type is said to be.
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
