//! Visits from browsers: pages of the origins that a client allows may send them (Fetch standard, CORS protocol).
//!
//! The vendor's libraries for browsers send with credentials, so the reply names the origin and allows them. There is no
//! cookie here that they could bring along.

use std::time::Duration;

use cameo_auth::Verifier;
use cameo_auth::state::Client;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what it was allowed. Ours: a changed list counts within minutes.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What the vendor's SDKs put on their calls beside the content type.
const SDK_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-exc-sdk"),
    HeaderName::from_static("x-exc-sdk-version"),
    HeaderName::from_static("x-request-id"),
];

/// For native visits: the client is in the path.
pub(super) fn layer(auth: Verifier) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, parts: &Parts| {
        let client = parts.uri.path().split('/').nth(2).and_then(|code| auth.client(code));
        client.is_some_and(|client| allows(&client, origin))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::POST])
        .allow_headers([CONTENT_TYPE, AUTHORIZATION])
        .max_age(REMEMBERED)
}

/// For delivery calls: the client is in the query, of a preflight too.
pub(super) fn delivery_layer(auth: Verifier) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, parts: &Parts| {
        auth.state().named_by(parts.uri.query()).is_ok_and(|client| allows(client, origin))
    };
    let headers = [CONTENT_TYPE, AUTHORIZATION].into_iter().chain(SDK_HEADERS);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::POST])
        .allow_headers(headers.collect::<Vec<_>>())
        .allow_credentials(true)
        .max_age(REMEMBERED)
}

fn allows(client: &Client, origin: &HeaderValue) -> bool {
    client.record.allowed_origins.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes())
}

/// A browser's question before it sends a visit; the layer around this route answers it.
#[utoipa::path(options, path = "/v1/{client}/visits", tag = "visits", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "Which origins, methods and headers are allowed")))]
pub(super) async fn preflight() -> StatusCode {
    // Only what is no question comes through the layer.
    StatusCode::NO_CONTENT
}

/// A browser's question before it sends a delivery call; the layer around this route answers it.
#[utoipa::path(options, path = "/rest/v1/delivery", tag = "compatible",
    params(("client" = Option<String>, Query, description = "Client (tenant) code"), ("imsOrgId" = Option<String>, Query, description = "Its organisation")),
    responses((status = 200, description = "Which origins, methods and headers are allowed")))]
pub(super) async fn delivery_preflight() -> StatusCode {
    StatusCode::NO_CONTENT
}
