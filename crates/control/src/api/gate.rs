//! The guard of everything for people: finds out who asks, and turns away who may not at all. What exactly somebody may,
//! for which client, the [`Plane`] decides. What changes something gets its whole body first, and is carried to its end
//! even if the caller hangs up: a change without its line in the audit log must not be.

use std::future::Future;
use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cameo_auth::routes::{Access, Guard};
use cameo_auth::token::Digest;
use cameo_http::{Family, Refusal, body};
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::answer::NativeError;
use super::compatible::VendorError;
use super::input;
use crate::plane::{Credential, Deed, NotSignedIn, Plane};
use crate::principal::{Principal, Proof};
use crate::session::{Presence, Signed};

/// Name of the cookie that holds a session's id.
pub(crate) const COOKIE_NAME: &str = "cameo_session";
/// What a call of a session that changes something brings along.
pub(crate) const CSRF_HEADER: &str = "x-csrf-token";
const API_KEY_HEADER: &str = "x-api-key";

/// Who asks; handlers take it out of the request.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) session: Option<Signed>,
}

/// Which shape refusals have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Native,
    Compatible,
}

/// The guard of the admin API.
#[derive(Clone)]
pub(super) struct Gate {
    plane: Plane,
    shape: Shape,
}

impl Gate {
    pub(super) fn native(plane: Plane) -> Self {
        Self { plane, shape: Shape::Native }
    }

    pub(super) fn compatible(plane: Plane) -> Self {
        Self { plane, shape: Shape::Compatible }
    }
}

impl<S: Clone + Send + Sync + 'static> Guard<S> for Gate {
    fn guard(&self, access: Access, route: MethodRouter<S>) -> MethodRouter<S> {
        match access {
            Access::Public => route,
            Access::Role(_) | Access::SignedIn => route.layer(from_fn_with_state((self.clone(), access), pass)),
            Access::Token(_) => panic!("a route for tokens needs the verifier"),
        }
    }
}

/// Why a request is turned away at the gate.
#[derive(Debug)]
pub(crate) enum Turned {
    /// Nothing, or nothing that can be read, was brought along.
    Unknown,
    /// A name and a password that do not go together; which of them is wrong is not told.
    WrongPassword,
    /// An admin key that nobody has.
    WrongKey,
    Throttled(u16),
    /// Two ways of saying who one is.
    Ambiguous,
    /// A session without its token.
    Csrf,
    /// A page of another site, with the name and password that the browser keeps for this one.
    Elsewhere,
    Refused(Refusal),
}

impl Turned {
    pub(crate) fn refusal(self) -> (Refusal, bool) {
        match self {
            Self::Unknown => {
                let text =
                    "sign in with name and password (HTTP Basic) or an admin key (Authorization: Bearer, X-Api-Key)";
                (Refusal::new(401, text), true)
            }
            Self::WrongPassword => (Refusal::new(401, "the name or the password is wrong"), true),
            Self::WrongKey => (Refusal::new(401, "this admin key is not known"), true),
            Self::Throttled(seconds) => {
                let text = format!("too many failed attempts; try again in {seconds} seconds");
                (Refusal { retry_after: Some(seconds), ..Refusal::new(429, text) }, false)
            }
            Self::Ambiguous => {
                let text =
                    "there is more than one Authorization or X-Api-Key header: which of them counts is not guessed";
                (Refusal::new(400, text), false)
            }
            Self::Csrf => {
                let text = "a session's call must bring its token along in X-CSRF-Token";
                (Refusal::new(403, text), false)
            }
            Self::Elsewhere => {
                let text = "pages of other sites cannot change anything here with a password: use an admin key";
                (Refusal::new(403, text), false)
            }
            Self::Refused(refusal) => (refusal, false),
        }
    }
}

/// Who asks, by header or cookie.
pub(crate) async fn identify(plane: &Plane, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Turned> {
    if let Some(credential) = credential(headers)? {
        let is_key = matches!(credential, Credential::Key(_));
        let principal = plane.principal(credential, from).await.map_err(|why| match why {
            NotSignedIn::Wrong if is_key => Turned::WrongKey,
            NotSignedIn::Wrong => Turned::WrongPassword,
            NotSignedIn::Throttled(seconds) => Turned::Throttled(seconds),
        })?;
        return Ok(Caller { principal, session: None });
    }
    let id = cookie(headers).ok_or(Turned::Unknown)?;
    let (principal, signed) = plane.session(id, Presence::Acting, from).ok_or(Turned::Unknown)?;
    Ok(Caller { principal, session: Some(signed) })
}

/// The id of the session's cookie.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, id)| id)
}

/// Whether a text is the token of a session, in constant time.
pub(crate) fn is_csrf(signed: &Signed, text: &str) -> bool {
    Digest::of(signed.csrf.as_bytes()) == Digest::of(text.as_bytes())
}

fn credential(headers: &HeaderMap) -> Result<Option<Credential>, Turned> {
    let mut keys = headers.get_all(API_KEY_HEADER).iter();
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (key, value) = (keys.next(), values.next());
    if key.is_some() && value.is_some() || keys.next().is_some() || values.next().is_some() {
        return Err(Turned::Ambiguous);
    }
    let Some(value) = value else {
        let Some(key) = key else { return Ok(None) };
        let key = key.to_str().map_err(|_| Turned::Unknown)?;
        return Ok(Some(Credential::Key(Zeroizing::new(key.trim().to_owned()))));
    };
    let text = value.to_str().map_err(|_| Turned::Unknown)?;
    let (scheme, rest) = text.split_once(' ').ok_or(Turned::Unknown)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(Credential::Key(Zeroizing::new(rest.trim().to_owned()))));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Turned::Unknown);
    }
    let decoded = STANDARD.decode(rest.trim()).map(Zeroizing::new).map_err(|_| Turned::Unknown)?;
    let pair = std::str::from_utf8(&decoded).map_err(|_| Turned::Unknown)?;
    let (name, password) = pair.split_once(':').ok_or(Turned::Unknown)?;
    Ok(Some(Credential::Basic { name: name.to_owned(), password: Zeroizing::new(password.to_owned()) }))
}

/// Whether a method changes nothing.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a browser says that a page of another site sends this. Browsers say it in `Sec-Fetch-Site` where the
/// connection is one they trust, and in `Origin` otherwise; other programs say neither.
pub(crate) fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    !matches!((authority, host), (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host))
}

/// Runs to its end, whether or not the caller is still there to hear of it.
pub(crate) async fn to_the_end(work: impl Future<Output = Response> + Send + 'static) -> Response {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and the connection with it.
        Err(_) => Refusal::new(503, "the server stops").response(Family::Native),
    }
}

impl Gate {
    async fn admit(&self, access: Access, head: &Parts) -> Result<Caller, Turned> {
        if percent_decode_str(head.uri.path()).decode_utf8().is_err() {
            return Err(Turned::Refused(Refusal::new(400, "the path is not URL-encoded UTF-8")));
        }
        let caller = identify(&self.plane, &head.headers, input::peer(&head.extensions)).await?;
        if let Some(signed) = &caller.session
            && !is_safe(&head.method)
        {
            let given = head.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok());
            if !given.is_some_and(|given| is_csrf(signed, given)) {
                return Err(Turned::Csrf);
            }
        }
        // A browser adds a password that it remembers to whatever a page sends; a key it never adds by itself.
        if caller.principal.proof == Proof::Basic && !is_safe(&head.method) && is_from_elsewhere(&head.headers) {
            return Err(Turned::Elsewhere);
        }
        if let Access::Role(action) = access
            && !caller.principal.highest().is_some_and(|role| role.may(action))
        {
            // Whatever the client: nowhere. The plane refuses it, with a line in the audit log.
            let deed = Deed::of(action, None);
            self.plane.allow(&caller.principal, deed).await.map_err(|problem| Turned::Refused(problem.into()))?;
        }
        Ok(caller)
    }

    fn turn_away(&self, turned: Turned) -> Response {
        let (refusal, challenge) = turned.refusal();
        let mut response = match self.shape {
            Shape::Native => NativeError::from(refusal).into_response(),
            Shape::Compatible => VendorError::from(refusal).into_response(),
        };
        if challenge {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"cameo\", charset=\"UTF-8\""));
        }
        response
    }
}

/// In front of a route: lets in, or turns away.
async fn pass(State((gate, access)): State<(Gate, Access)>, request: Request, next: Next) -> Response {
    let (mut head, content) = request.into_parts();
    match gate.admit(access, &head).await {
        Ok(caller) => head.extensions.insert(caller),
        Err(turned) => return body::refuse(content, gate.turn_away(turned)).await,
    };
    if is_safe(&head.method) {
        return next.run(Request::from_parts(head, content)).await;
    }
    match body::read(content, input::BODY_BYTES).await {
        Ok(whole) => to_the_end(next.run(Request::from_parts(head, Body::from(whole.bytes)))).await,
        Err(error) => gate.turn_away(Turned::Refused(error.into())),
    }
}
