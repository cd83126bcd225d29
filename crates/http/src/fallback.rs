//! The answers for what no route takes.

use axum::Router;
use axum::extract::Request;
use axum::response::Response;

use crate::body;
use crate::count::CountLayer;
use crate::refusal::{Family, Refusal};
use crate::strict::StrictLayer;

/// Answers for paths that no route serves and methods that a route does not take, in the shape of their family; refuses
/// what no route may get (bad escapes in the path); and counts every answer (`cameo_http_requests_total`). The binary puts it around the routers of all roles.
pub fn with_fallbacks(router: Router) -> Router {
    router.fallback(not_found).method_not_allowed_fallback(wrong_method).layer(StrictLayer).layer(CountLayer::default())
}

async fn not_found(request: Request) -> Response {
    let family = Family::of(request.uri().path());
    let refusal = Refusal::new(404, format!("there is nothing at {}", request.uri().path()));
    body::refuse(request.into_body(), refusal.response(family)).await
}

async fn wrong_method(request: Request) -> Response {
    let family = Family::of(request.uri().path());
    let text = format!("{} is not allowed at {}", request.method(), request.uri().path());
    body::refuse(request.into_body(), Refusal::new(405, text).response(family)).await
}
