//! Signing in and out, and where the pages begin.

use axum::extract::{Extension, RawQuery, Request, State};
use axum::response::Response;
use cameo_http::serve::Encrypted;
use cameo_http::{Refusal, body, query};
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, StatusCode};
use maud::{Markup, html};
use zeroize::Zeroizing;

use super::gate::Viewer;
use super::{Site, layout};
use crate::api::gate::{COOKIE_NAME, is_from_elsewhere};
use crate::api::peer;
use crate::plane::NotSignedIn;

/// Bytes of the form.
const FORM_BYTES: usize = 4 << 10;

/// The server's own address leads to the pages.
pub(super) async fn root() -> Response {
    layout::redirect("/admin")
}

/// The first page: the profile API of the client that was chosen, or of the first one.
pub(super) async fn home(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    RawQuery(query): RawQuery,
) -> Response {
    let pairs = query::pairs(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let asked = pairs.iter().find(|(name, _)| name == "client").map(|(_, code)| code.clone());
    let visible = site.plane.visible_clients(&viewer.principal);
    let client = asked.filter(|asked| visible.contains(asked)).or_else(|| visible.first().cloned());
    match client {
        Some(client) => layout::redirect(&format!("/admin/c/{client}/profile-api")),
        None => layout::redirect("/admin/cluster"),
    }
}

/// Only paths of ours: a form that leads elsewhere would be a trap.
fn inside(next: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    if next.starts_with("/admin/") && next.chars().all(plain) && !next.contains("//") && !next.contains("..") {
        next
    } else {
        "/admin"
    }
}

fn page(status: StatusCode, next: &str, name: &str, wrong: Option<&str>) -> Response {
    let content: Markup = html! {
        main.sign-in id="main" {
            h1 { "Cameo" }
            @if let Some(wrong) = wrong { p.error role="alert" { (wrong) } }
            form method="post" action="/admin/sign-in" {
                input type="hidden" name="next" value=(next);
                label for="name" { "User" }
                input id="name" name="name" value=(name) autocomplete="username" required autocapitalize="none" autofocus;
                label for="password" { "Password" }
                input id="password" name="password" type="password" autocomplete="current-password" required;
                button { "Sign in" }
            }
        }
    };
    layout::document(status, "Sign in", &content)
}

/// The form.
pub(super) async fn form(RawQuery(query): RawQuery) -> Response {
    let pairs = query::pairs(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let next = pairs.iter().find(|(name, _)| name == "next").map_or("", |(_, value)| value.as_str());
    page(StatusCode::OK, inside(next), "", None)
}

/// Takes the form.
pub(super) async fn sign_in(State(site): State<Site>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    // Another site cannot sign its visitors in here under its own name.
    let elsewhere = is_from_elsewhere(&head.headers);
    let read = body::read(content, FORM_BYTES).await.map_err(Refusal::from);
    let pairs = match read.and_then(|whole| query::pairs(&whole.bytes)) {
        Ok(pairs) if !elsewhere => pairs,
        Ok(_) => return page(StatusCode::FORBIDDEN, "/admin", "", Some("Please sign in from this page.")),
        Err(refusal) => return page(StatusCode::BAD_REQUEST, "/admin", "", Some(&refusal.message)),
    };
    let field = |name: &str| pairs.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str());
    let (name, next) = (field("name").trim(), inside(field("next")));
    let password = Zeroizing::new(field("password").to_owned());
    match site.plane.sign_in(name, password, peer(&head.extensions)).await {
        Ok(id) => with_cookie(layout::redirect(next), &id, is_encrypted(&head.headers, head.extensions.get())),
        Err(NotSignedIn::Wrong) => page(StatusCode::UNAUTHORIZED, next, name, Some("User or password is wrong.")),
        Err(NotSignedIn::Throttled(seconds)) => {
            let text = format!("Too many failed attempts. Try again in {seconds} seconds.");
            let mut response = page(StatusCode::TOO_MANY_REQUESTS, next, name, Some(&text));
            response.headers_mut().insert("retry-after", HeaderValue::from(seconds));
            response
        }
    }
}

/// Whether nobody on the way reads along: TLS ends here, or at a proxy that says so.
fn is_encrypted(headers: &HeaderMap, encrypted: Option<&Encrypted>) -> bool {
    encrypted.is_some() || headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}

fn with_cookie(mut response: Response, id: &str, secure: bool) -> Response {
    let age = if id.is_empty() { "; Max-Age=0" } else { "" };
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_NAME}={id}; Path=/; HttpOnly; SameSite=Strict{age}{secure}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Ends the session.
pub(super) async fn sign_out(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    encrypted: Option<Extension<Encrypted>>,
    headers: HeaderMap,
) -> Response {
    site.plane.sign_out(&viewer.id);
    let secure = is_encrypted(&headers, encrypted.as_deref());
    with_cookie(layout::redirect("/admin/sign-in"), "", secure)
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn signing_in_leads_nowhere_else() {
        assert_eq!(inside("/admin/c/demo/batches"), "/admin/c/demo/batches");
        for trap in [
            "",
            "//evil.test",
            "https://evil.test",
            "/admin//evil.test",
            "/admin/\\evil.test",
            "/v1/users",
            "/admin/../v1/users",
        ] {
            assert_eq!(inside(trap), "/admin", "{trap}");
        }
    }
}
