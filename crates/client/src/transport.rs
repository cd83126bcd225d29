//! HTTP/1.1, with TLS or without, with a pool of connections, timeouts, and retries of calls that say they can be repeated.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::error::Error;
use crate::tls;

/// How often a call is tried that may be repeated.
pub(crate) const TRIES: u32 = 5;
/// The first pause between tries; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause. When the server asks for more, its refusal goes to the caller: to come back earlier would be rude,
/// and to wait longer a surprise.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long nothing may happen: no byte of the body goes out, and no answer comes.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a reply that are read: far more than any reply of the API.
const REPLY_BYTES: usize = 64 << 20;
/// Characters of an error text that are passed on.
const MESSAGE_CHARS: usize = 1000;

/// The body of a request.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pool: Pool<HttpsConnector<HttpConnector>, Body>,
    url: String,
    token: Option<HeaderValue>,
}

/// A request that can be made again.
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    retry: bool,
}

impl Call {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: HeaderMap::new(), body: Bytes::new(), retry: false }
    }

    pub(crate) fn json(mut self, body: Vec<u8>) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = body.into();
        self
    }

    pub(crate) fn accept_json(mut self) -> Self {
        self.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        self
    }

    pub(crate) fn retry(mut self, retry: bool) -> Self {
        self.retry = retry;
        self
    }
}

/// An answer of any status.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    retry_after: Option<u64>,
    pub(crate) body: Bytes,
}

impl Transport {
    pub(crate) fn new(url: &str, ca: Option<&Path>) -> Result<Self, Error> {
        let bad = || Error::BadUrl { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let https = uri.scheme_str() == Some("https");
        if !(https || uri.scheme_str() == Some("http")) || uri.authority().is_none() || uri.query().is_some() {
            return Err(bad());
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let pool = Pool::builder(TokioExecutor::new()).build(tls::connector(https, ca, connector)?);
        Ok(Self { pool, url: url.trim_end_matches('/').to_owned(), token: None })
    }

    pub(crate) fn set_token(&mut self, token: &str) -> Result<(), Error> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Error::BadToken)?;
        // Keeps it out of debug output.
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(())
    }

    pub(crate) fn set_basic(&mut self, user: &str, password: &str) -> Result<(), Error> {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {pair}")).map_err(|_| Error::BadToken)?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(())
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a call, and reads a JSON reply of success.
    pub(crate) async fn json(&self, call: Call) -> Result<Value, Error> {
        let reply = self.send(call).await?;
        serde_json::from_slice(&reply.body).map_err(|error| Error::BadReply(error.to_string()))
    }

    /// Sends a call until it succeeds, is refused for good, or has been tried often enough.
    pub(crate) async fn send(&self, call: Call) -> Result<Reply, Error> {
        repeat(if call.retry { TRIES } else { 1 }, || self.once(&call)).await
    }

    async fn once(&self, call: &Call) -> Result<Reply, Error> {
        let body = Full::new(call.body.clone()).map_err(|never| match never {}).boxed();
        self.exchange(&call.method, &call.path, &call.headers, body, &AtomicU64::new(0)).await
    }

    /// One request, one reply of success. `sent` rises while the body is sent.
    pub(crate) async fn exchange(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Body,
        sent: &AtomicU64,
    ) -> Result<Reply, Error> {
        let unreachable = |reason: String| Error::Unreachable { url: self.url.clone(), reason };
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            format!("{}{path}", self.url).parse().map_err(|_| Error::BadUrl { url: format!("{}{path}", self.url) })?;
        *request.headers_mut() = headers.clone();
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let exchange = async {
            let response = self.pool.request(request).await.map_err(|error| match tls::distrust(&error) {
                Some(reason) => Error::Untrusted { url: self.url.clone(), reason },
                None if tls::is_not_tls(&error) => Error::NotTls { url: self.url.clone() },
                None => unreachable(describe(&error)),
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, REPLY_BYTES).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return Error::BadReply(format!("it is longer than {REPLY_BYTES} bytes"));
                }
                // Half a reply is none: what it would have said is not known.
                unreachable(format!("the reply broke off: {}", describe(&*error)))
            })?;
            Ok(Reply { status: head.status, retry_after: seconds(&head.headers), body: body.to_bytes() })
        };
        let reply = patiently(exchange, SILENCE, sent)
            .await
            .ok_or_else(|| unreachable(format!("nothing for {} seconds", SILENCE.as_secs())))??;
        if reply.status.is_success() {
            return Ok(reply);
        }
        let message = message(&reply);
        Err(Error::Refused { status: reply.status.as_u16(), message, retry_after: reply.retry_after })
    }
}

/// Does `attempt` again, up to so many times in all, while it fails in a way that passes.
pub(crate) async fn repeat<T, F: Future<Output = Result<T, Error>>>(
    tries: u32,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..tries {
        let error = match attempt().await {
            Err(error) if is_passing(&error) => error,
            done => return done,
        };
        let asked = match error {
            Error::Refused { retry_after, .. } => retry_after.map(Duration::from_secs),
            _ => None,
        };
        let wait = asked.unwrap_or(pause);
        if wait > LONGEST_PAUSE {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    attempt().await
}

/// Waits for `work` as long as `sent` rises now and then; `None` when nothing happened for `silence`.
async fn patiently<T>(work: impl Future<Output = T>, silence: Duration, sent: &AtomicU64) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut before = sent.load(Ordering::Relaxed);
    loop {
        if let Ok(done) = tokio::time::timeout(silence, &mut work).await {
            return Some(done);
        }
        let now = sent.load(Ordering::Relaxed);
        if now == before {
            return None;
        }
        before = now;
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Refused { status: 429 | 502 | 503 | 504 | 507, .. })
}

fn seconds(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The server's words: of a problem, of `{status, message}`, of `/readyz`, of XML, or as they are.
fn message(reply: &Reply) -> String {
    let text = String::from_utf8_lossy(&reply.body);
    let of_json = serde_json::from_str::<Value>(&text).ok().and_then(|json| {
        if let Some(reasons) = json.get("reasons").and_then(Value::as_array) {
            let reasons: Vec<_> = reasons.iter().filter_map(Value::as_str).collect();
            return Some(format!("not ready: {}", reasons.join("; ")));
        }
        let found = json.get("detail").or_else(|| json.get("message"))?.as_str()?;
        Some(found.to_owned())
    });
    let of_xml = || {
        let (_, rest) = text.split_once("<message>")?;
        let (inner, _) = rest.split_once("</message>")?;
        Some(inner.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    };
    let found = of_json.or_else(of_xml).unwrap_or_else(|| text.trim().to_owned());
    if found.is_empty() {
        return reply.status.canonical_reason().unwrap_or("no reason given").to_owned();
    }
    // They end up on terminals and in logs, on one line.
    found.chars().take(MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A header of ours.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// 128 random bits as text; two calls never share one.
pub(crate) fn random_id() -> String {
    let mut random = [0; 16];
    // Without randomness there is no id, and the server refuses an empty one by name.
    match getrandom::fill(&mut random) {
        Ok(()) => format!("{:032x}", u128::from_le_bytes(random)),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for good in ["http://127.0.0.1:8080", "http://cameo.test/", "http://[::1]:80"] {
            assert!(Transport::new(good, None).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:8080", "https://", "http://", "ftp://x", "http://x?y"] {
            assert!(matches!(Transport::new(bad, None), Err(Error::BadUrl { .. })), "{bad}");
        }
    }

    #[test]
    fn the_servers_words_are_found_in_every_family() {
        let of = |body: &str| {
            message(&Reply { status: StatusCode::BAD_REQUEST, retry_after: None, body: body.to_owned().into() })
        };
        assert_eq!(of("{\"detail\":\"a\",\"status\":400}"), "a");
        assert_eq!(of("{\"status\":404,\"message\":\"b\"}"), "b");
        assert_eq!(of("{\"status\":\"not ready\",\"reasons\":[\"d\",\"e\"]}"), "not ready: d; e");
        assert_eq!(of("<response><success>false</success><message>c &lt;d&gt;</message></response>"), "c <d>");
        assert_eq!(of("plain"), "plain");
        assert_eq!(of(""), "Bad Request");
    }

    #[test]
    fn a_token_does_not_show() {
        let mut transport = Transport::new("http://x", None).unwrap();
        transport.set_token("cameo_pat_secret").unwrap();
        assert!(!format!("{transport:?}").contains("secret"));
    }
}
