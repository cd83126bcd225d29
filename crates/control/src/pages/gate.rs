//! The guard of the pages: a session, and for what changes something the token of its forms.

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::MethodRouter;
use cameo_auth::routes::{Access, Guard};
use cameo_http::query::Pairs;
use cameo_http::{Refusal, body, query};
use http::Method;
use http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::layout;
use crate::api::gate::{CSRF_HEADER, cookie, is_csrf, is_safe, to_the_end};
use crate::api::peer;
use crate::plane::{Deed, Plane};
use crate::principal::Principal;
use crate::session::{Presence, Signed};

/// Bytes of a form. Ours: the most origins of a client, with room for escapes.
const FORM_BYTES: usize = 128 << 10;

/// Who looks at a page.
#[derive(Clone)]
pub(super) struct Viewer {
    pub(super) principal: Principal,
    pub(super) signed: Signed,
    /// The id of the session, as the cookie has it.
    pub(super) id: zeroize::Zeroizing<String>,
}

/// The fields of a form whose token was right.
#[derive(Clone, Default)]
pub(super) struct Form(pub(super) Pairs);

impl Form {
    /// A field without the white space around it; empty when it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.trim())
    }

    /// A field as it was typed: passwords may begin with a space.
    pub(super) fn verbatim(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// Every value of a field: check boxes.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
    }
}

#[derive(Clone)]
pub(super) struct PageGate {
    plane: Plane,
    presence: Presence,
}

impl PageGate {
    /// For what somebody opens or sends.
    pub(super) fn new(plane: Plane) -> Self {
        Self { plane, presence: Presence::Acting }
    }

    /// For streams: the browser begins them again for as long as a page is open, and nobody need be there.
    pub(super) fn watching(plane: Plane) -> Self {
        Self { plane, presence: Presence::Watching }
    }

    async fn admit(&self, access: Access, head: &Parts) -> Result<Viewer, Response> {
        let from = peer(&head.extensions);
        let id = cookie(&head.headers).unwrap_or_default();
        let Some((principal, signed)) = self.plane.session(id, self.presence, from) else {
            // Back to where it was going, if that is a page.
            let next = if head.method == Method::GET { head.uri.path() } else { "" };
            let next = utf8_percent_encode(next, NON_ALPHANUMERIC);
            return Err(layout::redirect(&format!("/admin/sign-in?next={next}")));
        };
        let viewer = Viewer { principal, signed, id: zeroize::Zeroizing::new(id.to_owned()) };
        if let Access::Role(action) = access
            && !viewer.principal.highest().is_some_and(|role| role.may(action))
        {
            let refused = self.plane.allow(&viewer.principal, Deed::of(action, None)).await;
            if let Err(problem) = refused {
                return Err(layout::problem(&self.plane, &viewer, &problem));
            }
        }
        Ok(viewer)
    }

    /// Checks the token of what changes something: in a header, or in the form.
    async fn open(&self, access: Access, request: Request) -> Result<Request, Response> {
        let (mut head, content) = request.into_parts();
        let viewer = match self.admit(access, &head).await {
            Ok(viewer) => viewer,
            Err(response) => return Err(body::refuse(content, response).await),
        };
        if is_safe(&head.method) {
            head.extensions.insert(viewer);
            return Ok(Request::from_parts(head, content));
        }
        let given = head.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok());
        if let Some(given) = given {
            if !is_csrf(&viewer.signed, given) {
                return Err(body::refuse(content, stale(&self.plane, &viewer)).await);
            }
            head.extensions.insert(viewer);
            head.extensions.insert(Form::default());
            return Ok(Request::from_parts(head, content));
        }
        let read = body::read(content, FORM_BYTES).await.map_err(Refusal::from);
        let form = match read.and_then(|whole| query::pairs(&whole.bytes)) {
            Ok(pairs) => Form(pairs),
            Err(refusal) => return Err(layout::refusal(&self.plane, &viewer, &refusal)),
        };
        if !is_csrf(&viewer.signed, form.get("csrf")) {
            return Err(stale(&self.plane, &viewer));
        }
        head.extensions.insert(viewer);
        head.extensions.insert(form);
        Ok(Request::from_parts(head, axum::body::Body::empty()))
    }
}

fn stale(plane: &Plane, viewer: &Viewer) -> Response {
    let text = "this form is not of your present session: go back, reload the page, and try again";
    layout::refusal(plane, viewer, &Refusal::new(403, text))
}

impl<S: Clone + Send + Sync + 'static> Guard<S> for PageGate {
    fn guard(&self, access: Access, route: MethodRouter<S>) -> MethodRouter<S> {
        match access {
            Access::Public => route,
            Access::Role(_) | Access::SignedIn => route.layer(from_fn_with_state((self.clone(), access), pass)),
            Access::Token(_) => panic!("a page takes no token"),
        }
    }
}

/// In front of a page: lets in, or turns away.
async fn pass(State((gate, access)): State<(PageGate, Access)>, request: Request, next: Next) -> Response {
    match gate.open(access, request).await {
        Ok(request) if is_safe(request.method()) => next.run(request).await,
        Ok(request) => to_the_end(next.run(request)).await,
        Err(response) => response,
    }
}
