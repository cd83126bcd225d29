//! The one check in front of the profile API, for edge and gateway alike: a tower layer that lets a request through or
//! answers it, and the same decision for a second look when an upload has arrived.
//!
//! Order matters and is the whole point: first the lease, then the state. A state read after the lease was seen to be
//! held is at least as fresh as the lease.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::{ArcSwap, Guard};
use axum::extract::Request;
use axum::response::Response;
use cameo_http::{Family, Refusal, body};
use cameo_profile::Address;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use tower::{Layer, Service};

use crate::clock::{Clock, Mono};
use crate::lease;
use crate::role::Scope;
use crate::seal::Verifying;
use crate::state::{AuthState, Client, Verdict};
use crate::token::{self, SecretKind};

#[cfg(test)]
mod tests;

/// Seconds after which a caller may try again when the node has no lease.
const RETRY_NO_LEASE: u16 = 1;
/// The query parameter by which RFC 6750 §2.3 would have tokens sent. Refused: URLs end up in logs.
const QUERY_TOKEN: &str = "access_token";

/// What a node knows, shared by its runtime and all requests.
pub(crate) struct Shared {
    pub(crate) state: ArcSwap<AuthState>,
    /// When the lease ends, on this machine's monotonic clock.
    pub(crate) until_ms: AtomicU64,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whose passes open every route.
    pub(crate) control: Option<Verifying>,
}

impl Shared {
    fn holds_lease(&self) -> bool {
        // Acquire: whoever sees a lease sees the state that it was earned with.
        lease::holds(Mono(self.until_ms.load(Ordering::Acquire)), self.clock.mono())
    }
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// This node cannot prove that it knows the latest.
    NoLease,
    /// The client is switched off.
    Disabled,
    /// There is no token.
    Missing,
    /// There is one, and it is not good: unknown, revoked, of another client, or no token at all.
    Unknown,
    /// It has ended by itself.
    Expired,
    /// It opens other things.
    Scope(Scope),
    /// Several `Authorization` headers.
    Ambiguous,
    /// A token in the query.
    InQuery,
    /// The request does not say clearly which client it is about.
    Client,
}

/// Visits as the vendor's callers send them (TARGET_API §1).
pub const DELIVERY: &str = "/rest/v1/delivery";

/// The header of a pass ([`crate::seal::Sealer::pass`]).
pub const PASS_HEADER: &str = "cameo-pass";

/// The header that names whom a pass is for, percent-encoded; signed with it.
pub const BY_HEADER: &str = "cameo-by";

/// Who makes a change, beside a request whose caller is known: `token:NAME` or `user:NAME`. A Rust value, as [`Internal`]:
/// it cannot come over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub Arc<str>);

/// Marks a request that comes from the control plane's own pages, for somebody whose role has been checked. It cannot come
/// over the network: it is a Rust value beside the request. A control plane in another process sends a pass instead, which
/// the verifier turns into this mark.
#[derive(Clone, Copy, Debug)]
pub struct Internal;

/// Asks what a node knows. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(pub(crate) Arc<Shared>);

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// One that knows these records and holds its lease for good, for tests of what stands behind it.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn fixed(records: Vec<crate::ClientRecord>) -> Self {
        Self(Arc::new(Shared {
            state: ArcSwap::from_pointee(AuthState::fixed(records)),
            until_ms: AtomicU64::new(u64::MAX),
            clock: Arc::new(crate::clock::SystemClock),
            control: None,
        }))
    }

    /// Gives one that is fixed its lease, or takes it away.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn hold(&self, holds: bool) {
        self.0.until_ms.store(if holds { u64::MAX } else { 0 }, Ordering::Release);
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> Guard<Arc<AuthState>> {
        self.0.state.load()
    }

    /// The client of a code, unless it is unknown.
    #[must_use]
    pub fn client(&self, code: &str) -> Option<Arc<Client>> {
        self.state().client(code).cloned()
    }

    /// Whether this node may decide on protected calls.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.0.holds_lease()
    }

    /// Decides on a call. A client that is unknown passes: the handler says so.
    ///
    /// # Errors
    /// Why it is denied.
    pub fn check(&self, client: &str, scope: Scope, headers: &HeaderMap) -> Result<(), Denied> {
        let leased = self.0.holds_lease();
        let state = self.state();
        let found = state.client(client);
        let record = found.map(|client| &client.record);
        if record.is_some_and(|record| record.disabled) {
            return Err(Denied::Disabled);
        }
        if scope == Scope::VisitsWrite {
            // Visits are open, and stay served without a lease, unless the client has asked for tokens there too.
            if record.is_none_or(|record| !record.require_visit_tokens) {
                return Ok(());
            }
        }
        if !leased {
            return Err(Denied::NoLease);
        }
        let Some(record) = record else { return Ok(()) };
        if scope != Scope::VisitsWrite && !record.require_authentication {
            return Ok(());
        }
        let digest = bearer(headers)?;
        match state.judge(client, &digest, scope, self.0.clock.unix_ms()) {
            Verdict::Good => Ok(()),
            Verdict::Unknown => Err(Denied::Unknown),
            Verdict::Expired => Err(Denied::Expired),
            Verdict::WrongScope => Err(Denied::Scope(scope)),
        }
    }

    /// Whether one of a client's secrets that are still good has signed an address.
    ///
    /// # Errors
    /// When this node may not decide.
    pub fn has_signed(&self, client: &str, address: Address<'_>, signature: &[u8; 32]) -> Result<bool, Denied> {
        if !self.0.holds_lease() {
            return Err(Denied::NoLease);
        }
        let (state, now_ms) = (self.state(), self.0.clock.unix_ms());
        let secrets = state.client(client).map_or(&[][..], |client| &client.record.identity_secrets);
        Ok(secrets.iter().any(|secret| secret.lives(now_ms) && secret.has_signed(client, address, signature)))
    }

    /// A layer that lets through what may.
    #[must_use]
    pub fn layer(&self, scope: Scope) -> VerifierLayer {
        VerifierLayer { verifier: self.clone(), scope }
    }
}

fn bearer(headers: &HeaderMap) -> Result<token::Digest, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Denied::Missing)?;
    if values.next().is_some() {
        return Err(Denied::Ambiguous);
    }
    let bytes = value.as_bytes();
    // RFC 9110 §11.1: the scheme is case-insensitive and one or more spaces follow it.
    let Some((scheme, rest)) = bytes.split_at_checked(6) else { return Err(Denied::Missing) };
    if !scheme.eq_ignore_ascii_case(b"bearer") || rest.first().is_some_and(|byte| *byte != b' ') {
        return Err(Denied::Missing);
    }
    token::digest_of(SecretKind::ProfileToken, rest.trim_ascii()).map_err(|_| Denied::Unknown)
}

impl Denied {
    /// The answer's status, text and `WWW-Authenticate` (RFC 6750 §3.1).
    fn refusal(self) -> (Refusal, Option<HeaderValue>) {
        let invalid = |text: &'static str, description: &'static str| {
            let header = format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
            (Refusal::new(401, text), HeaderValue::from_str(&header).ok())
        };
        let request = |text: &'static str| {
            (Refusal::new(400, text), Some(HeaderValue::from_static("Bearer error=\"invalid_request\"")))
        };
        match self {
            // RFC 6750 would leave the error out here; the API that Cameo speaks has it (TARGET_API §5).
            Self::Missing => {
                invalid("a token is required: send it as `Authorization: Bearer TOKEN`", "no bearer token was sent")
            }
            Self::Unknown => invalid("the token is unknown or revoked", "the token is unknown or revoked"),
            Self::Expired => invalid("the token has expired", "the token has expired"),
            Self::Scope(scope) => {
                let header = format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", scope.as_str());
                let text = format!("the token does not have the scope {}", scope.as_str());
                (Refusal::new(403, text), HeaderValue::from_str(&header).ok())
            }
            Self::Ambiguous => request("there is more than one Authorization header"),
            Self::InQuery => request(
                "a token in the query is not accepted, as URLs end up in logs: send it as `Authorization: Bearer TOKEN`, \
                 and rotate the one that was sent",
            ),
            Self::Client => (Refusal::new(400, "the request must name its client, once and without escapes"), None),
            Self::Disabled => (Refusal::new(403, "the client is disabled"), None),
            Self::NoLease => {
                let text = "this node cannot prove that its tokens and settings are up to date; try again in a moment";
                (Refusal { retry_after: Some(RETRY_NO_LEASE), ..Refusal::new(503, text) }, None)
            }
        }
    }

    /// As a refusal, for a handler that decides by itself.
    #[must_use]
    pub fn into_refusal(self) -> Refusal {
        self.refusal().0
    }

    /// The answer, in the shape of a family of paths.
    #[must_use]
    pub fn response(self, family: Family) -> Response {
        self.answer(|refusal| refusal.response(family))
    }

    /// The answer, in the caller's shape.
    pub fn answer(self, shape: impl FnOnce(&Refusal) -> Response) -> Response {
        let (refusal, challenge) = self.refusal();
        let mut response = shape(&refusal);
        if let Some(challenge) = challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// For the metric of denied calls.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoLease => "no_lease",
            Self::Disabled => "disabled",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Scope(_) => "scope",
            Self::Ambiguous => "ambiguous",
            Self::InQuery => "in_query",
            Self::Client => "client",
        }
    }
}

/// Has the metric of denied calls told from the start: Prometheus sees no rise of what was not there before.
pub(crate) fn describe_metrics() {
    metrics::describe_counter!("cameo_auth_denied_total", "Calls refused for their token or its lack, by reason");
    for denied in [
        Denied::NoLease,
        Denied::Disabled,
        Denied::Missing,
        Denied::Unknown,
        Denied::Expired,
        Denied::Scope(Scope::ProfileRead),
        Denied::Ambiguous,
        Denied::InQuery,
        Denied::Client,
    ] {
        metrics::counter!("cameo_auth_denied_total", "reason" => denied.label()).increment(0);
    }
}

/// Whose request it is: `/v1/{client}/…`, `/m2/{client}/…`, or `client=` of the query. `None` when it does not say, or
/// says it in a way that needs decoding: codes have no character that does, and a guard that read it otherwise than the
/// handler would be a hole.
fn client_of(request: &Request) -> Option<&str> {
    let mut segments = request.uri().path().split('/').skip(1);
    let plain = |code: &str| code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let code = match segments.next()? {
        "rest" => {
            let mut named = parameters(request).filter(|pair| is_named(pair, "client"));
            let code = named.next()?.strip_prefix("client=")?;
            named.next().is_none().then_some(code)?
        }
        _ => segments.next()?,
    };
    plain(code).then_some(code)
}

/// Whom a request names as the one it is for.
fn by(request: &Request) -> Option<&str> {
    request.headers().get(BY_HEADER)?.to_str().ok().filter(|by| !by.is_empty())
}

fn token_in_query(request: &Request) -> bool {
    parameters(request).any(|pair| is_named(pair, QUERY_TOKEN))
}

/// The parameters of the query, as they stand there.
fn parameters(request: &Request) -> impl Iterator<Item = &str> {
    request.uri().query().unwrap_or_default().split('&')
}

/// Whether a parameter has this name for a handler, which decodes names: `%63lient` is `client` there.
fn is_named(pair: &str, name: &str) -> bool {
    let raw = pair.split_once('=').map_or(pair, |(raw, _)| raw);
    raw == name || raw.contains('%') && percent_encoding::percent_decode_str(raw).eq(name.bytes())
}

/// Puts a [`VerifierService`] in front of a route.
#[derive(Clone, Debug)]
pub struct VerifierLayer {
    verifier: Verifier,
    scope: Scope,
}

impl<S> Layer<S> for VerifierLayer {
    type Service = VerifierService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifierService { inner, layer: self.clone() }
    }
}

/// Lets a request through to a route, or answers it.
#[derive(Clone, Debug)]
pub struct VerifierService<S> {
    inner: S,
    layer: VerifierLayer,
}

impl VerifierLayer {
    fn decide(&self, request: &Request) -> Result<(), Denied> {
        if request.extensions().get::<Internal>().is_some() {
            return Ok(());
        }
        if token_in_query(request) {
            return Err(Denied::InQuery);
        }
        if self.scope == Scope::VisitsWrite && request.uri().path() == DELIVERY {
            // The SDKs name an organisation. Where that leads nowhere, the handler says so.
            let state = self.verifier.state();
            let Ok(client) = state.named_by(request.uri().query()) else { return Ok(()) };
            return self.verifier.check(client.code.as_str(), self.scope, request.headers());
        }
        match client_of(request) {
            Some(client) => self.verifier.check(client, self.scope, request.headers()),
            None => Err(Denied::Client),
        }
    }

    /// Whether the control plane vouches for a request. Looked at only when nothing else opens the route.
    fn has_pass(&self, request: &Request) -> bool {
        let shared = &self.verifier.0;
        let (Some(control), Some(pass)) = (&shared.control, request.headers().get(PASS_HEADER)) else { return false };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let pass = pass.to_str().unwrap_or_default();
        let by = by(request).unwrap_or_default();
        control.passes(pass, request.method().as_str(), path, by, shared.clock.unix_ms() / 1000)
    }

    /// Who makes a change, when a token opened the route for it.
    fn caller(&self, request: &Request) -> Option<Caller> {
        if !matches!(self.scope, Scope::ProfileWrite | Scope::BulkWrite)
            || !request.headers().contains_key(AUTHORIZATION)
        {
            return None;
        }
        let client = client_of(request)?;
        let state = self.verifier.state();
        // Without authentication a token is not looked at, and proves nothing.
        state.client(client).filter(|client| client.record.require_authentication)?;
        let name = state.name_of(client, &bearer(request.headers()).ok()?)?;
        Some(Caller(["token:", &*name].concat().into()))
    }
}

impl<S> Service<Request> for VerifierService<S>
where
    S: Service<Request, Response = Response>,
    S::Error: 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match self.layer.decide(&request) {
            Ok(()) => {
                if let Some(caller) = self.layer.caller(&request) {
                    request.extensions_mut().insert(caller);
                }
                Either::Left(self.inner.call(request))
            }
            Err(_) if self.layer.has_pass(&request) => {
                request.extensions_mut().insert(Internal);
                let by = by(&request).map(|by| percent_encoding::percent_decode_str(by).decode_utf8_lossy().into());
                if let Some(by) = by {
                    request.extensions_mut().insert(Caller(by));
                }
                Either::Left(self.inner.call(request))
            }
            Err(denied) => {
                metrics::counter!("cameo_auth_denied_total", "reason" => denied.label()).increment(1);
                let response = denied.response(Family::of(request.uri().path()));
                // A little of what the caller still sends is read first, so that its connection can go on.
                Either::Right(body::refuse(request.into_body(), response).map(Ok).boxed())
            }
        }
    }
}
