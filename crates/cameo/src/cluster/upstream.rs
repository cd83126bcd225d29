//! The way from the control plane's pages to the edges: HTTP, each request with a pass of the control plane.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use cameo_auth::seal::Sealer;
use cameo_auth::verifier::PASS_HEADER;
use cameo_http::{Family, Refusal};
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// How long an edge may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Forward {
    client: Client<HttpConnector, Body>,
    base: String,
    sealer: Sealer,
}

/// Sends everything on to a URL.
pub(super) fn router(base: &str, sealer: Sealer) -> anyhow::Result<Router> {
    let base = base.trim_end_matches('/').to_owned();
    let uri: Uri = base.parse().with_context(|| format!("{base:?} is not a URL"))?;
    anyhow::ensure!(uri.scheme_str() == Some("http"), "{base:?} is not a URL that begins with http://");
    let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    Ok(Router::new().fallback(forward).with_state(Forward { client, base, sealer }))
}

async fn forward(State(forward): State<Forward>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let pass = forward.sealer.pass(request.method().as_str(), &path, now);
    let unreachable = |why: String| Refusal::new(503, format!("no edge answers: {why}")).response(Family::Native);
    let (Ok(uri), Ok(pass)) = (format!("{}{path}", forward.base).parse(), HeaderValue::try_from(pass)) else {
        return unreachable("the path cannot be sent on".into());
    };
    *request.uri_mut() = uri;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().insert(PASS_HEADER, pass);
    match tokio::time::timeout(PATIENCE, forward.client.request(request)).await {
        Ok(Ok(response)) => response.map(Body::new),
        Ok(Err(error)) => unreachable(error.to_string()),
        Err(_) => unreachable(format!("not within {} s", PATIENCE.as_secs())),
    }
}
