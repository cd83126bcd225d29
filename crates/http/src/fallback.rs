//! The answers for what no route takes.

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};

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
    if is_for_a_browser(&request) {
        return page(&refusal);
    }
    body::refuse(request.into_body(), refusal.response(family)).await
}

/// Whether a person has typed, or followed, a wrong address of the admin pages.
fn is_for_a_browser(request: &Request) -> bool {
    let path = request.uri().path();
    let accepts = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    *request.method() == Method::GET && path.starts_with("/admin/") && accepts.contains("text/html")
}

/// A refusal for people.
fn page(refusal: &Refusal) -> Response {
    let mut text = String::new();
    for c in refusal.message.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            c => text.push(c),
        }
    }
    let mut response = Response::new(axum::body::Body::from(format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>Not found</title>\
         <p>Sorry, {text}.<p><a href=\"/admin\">All pages</a></html>\n"
    )));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

async fn wrong_method(request: Request) -> Response {
    let family = Family::of(request.uri().path());
    let text = format!("{} is not allowed at {}", request.method(), request.uri().path());
    body::refuse(request.into_body(), Refusal::new(405, text).response(family)).await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    async fn answer(path: &str, accept: &str) -> (StatusCode, String) {
        let request = Request::get(path).header(ACCEPT, accept).body(Body::empty()).unwrap();
        let response = with_fallbacks(Router::new()).oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_person_gets_a_page_and_a_program_a_problem() {
        let (status, page) = answer("/admin/no&pe", "text/html,*/*;q=0.8").await;
        assert_eq!(status, 404);
        assert!(page.contains("there is nothing at /admin/no&amp;pe.") && page.contains("href=\"/admin\""), "{page}");
        for (path, accept) in [("/admin/nope", "*/*"), ("/v1/nope", "text/html")] {
            let (status, problem) = answer(path, accept).await;
            assert!(status == 404 && problem.starts_with('{'), "{path}: {problem}");
        }
    }
}
