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
    with_signposts(router, |_| None)
}

/// As [`with_fallbacks`]; `elsewhere` says who else serves a path, if somebody does: "the gateway".
pub fn with_signposts(
    router: Router,
    elsewhere: impl Fn(&str) -> Option<&'static str> + Clone + Send + Sync + 'static,
) -> Router {
    let not_found = move |request: Request| {
        let elsewhere = elsewhere(request.uri().path());
        not_found(request, elsewhere)
    };
    router.fallback(not_found).method_not_allowed_fallback(wrong_method).layer(StrictLayer).layer(CountLayer::default())
}

async fn not_found(request: Request, elsewhere: Option<&'static str>) -> Response {
    let family = Family::of(request.uri().path());
    let signpost = elsewhere.map(|who| format!(" here; {who} serves it")).unwrap_or_default();
    let refusal = Refusal::new(404, format!("there is nothing at {}{signpost}", request.uri().path()));
    body::refuse(request.into_body(), refusal.response(family)).await
}

async fn wrong_method(request: Request) -> Response {
    let family = Family::of(request.uri().path());
    let text = format!("{} is not allowed at {}", request.method(), request.uri().path());
    body::refuse(request.into_body(), Refusal::new(405, text).response(family)).await
}
