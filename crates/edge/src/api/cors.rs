//! Visits from browsers: pages of the origins that a client allows may send them (Fetch standard, CORS protocol).

use std::time::Duration;

use cameo_auth::Verifier;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what it was allowed. Ours: a changed list counts within minutes.
const REMEMBERED: Duration = Duration::from_secs(300);

pub(super) fn layer(auth: Verifier) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, parts: &Parts| {
        let client = parts.uri.path().split('/').nth(2).and_then(|code| auth.client(code));
        let allowed = client.as_ref().map_or(&[][..], |client| &client.record.allowed_origins);
        allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes())
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::POST])
        .allow_headers([CONTENT_TYPE, AUTHORIZATION])
        .max_age(REMEMBERED)
}

/// A browser's question before it sends a visit; the layer around this route answers it.
#[utoipa::path(options, path = "/v1/{client}/visits", tag = "visits", params(("client" = String, Path, description = "Client (tenant) code")),
    responses((status = 200, description = "Which origins, methods and headers are allowed")))]
pub(super) async fn preflight() -> StatusCode {
    // Only what is no question comes through the layer.
    StatusCode::NO_CONTENT
}
