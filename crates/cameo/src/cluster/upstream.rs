//! The way from the control plane's pages to edges and gateway: HTTP or HTTPS, each request with a pass of the control plane.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use cameo_auth::seal::Sealer;
use cameo_auth::verifier::{BY_HEADER, Caller, PASS_HEADER};
use cameo_http::{Family, Refusal};
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// How long an edge may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Forward {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    edges: String,
    gateway: String,
    sealer: Sealer,
}

/// Sends everything on: batches to the gateway, the rest to the edges. At `https://` they are trusted by the authorities
/// in `ca`, or the system's.
pub(super) fn router(edges: &str, gateway: &str, ca: Option<&Path>, sealer: Sealer) -> anyhow::Result<Router> {
    let (edges, gateway) = (base(edges)?, base(gateway)?);
    let https = [&edges, &gateway].iter().any(|base| base.starts_with("https:"));
    let connector = cameo_client::tls::connector(https, ca, HttpConnector::new()).context("the way to other nodes")?;
    let client = Client::builder(TokioExecutor::new()).build(connector);
    Ok(Router::new().fallback(send_on).with_state(Forward { client, edges, gateway, sealer }))
}

fn base(url: &str) -> anyhow::Result<String> {
    let base = url.trim_end_matches('/').to_owned();
    let uri: Uri = base.parse().with_context(|| format!("{base:?} is not a URL"))?;
    let good = matches!(uri.scheme_str(), Some("http" | "https"));
    anyhow::ensure!(good, "{base:?} is not a URL that begins with http:// or https://");
    Ok(base)
}

/// Whether a path is one of the gateway's: `/m2/{client}/…/batch…` or `/v1/{client}/batches…`.
fn is_bulk(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    match (segments.next(), segments.nth(1)) {
        (Some("v1"), Some("batches")) => true,
        (Some("m2"), third) => third.into_iter().chain(segments).any(|segment| segment.starts_with("batch")),
        _ => false,
    }
}

/// The client's own words only say in which step it failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

async fn send_on(State(forward): State<Forward>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let by = request.extensions().get::<Caller>().map(|Caller(by)| by.to_string()).unwrap_or_default();
    // Names of people may have any letters, headers may not.
    let by = utf8_percent_encode(&by, NON_ALPHANUMERIC).to_string();
    let pass = forward.sealer.pass(request.method().as_str(), &path, &by, now);
    let unreachable = |why: String| Refusal::new(503, format!("no node answers: {why}")).response(Family::Native);
    let base = if is_bulk(request.uri().path()) { &forward.gateway } else { &forward.edges };
    let headers = (HeaderValue::try_from(pass), HeaderValue::try_from(by));
    let (Ok(uri), (Ok(pass), Ok(by))) = (format!("{base}{path}").parse(), headers) else {
        return unreachable("the path cannot be sent on".into());
    };
    *request.uri_mut() = uri;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().insert(PASS_HEADER, pass);
    request.headers_mut().insert(BY_HEADER, by);
    match tokio::time::timeout(PATIENCE, forward.client.request(request)).await {
        Ok(Ok(response)) => response.map(Body::new),
        Ok(Err(error)) => unreachable(cause(&error)),
        Err(_) => unreachable(format!("not within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_to_the_gateway_and_the_rest_to_the_edges() {
        for path in [
            "/v1/demo/batches",
            "/v1/demo/batches/x",
            "/m2/demo/v2/profile/batchUpdate",
            "/m2/demo/profile/batchStatus",
        ] {
            assert!(is_bulk(path), "{path}");
        }
        for path in
            ["/", "/v1/demo/profiles/tnt/batches", "/v1/batches", "/m2/demo/profile/update", "/rest/v1/profiles/batch"]
        {
            assert!(!is_bulk(path), "{path}");
        }
    }
}
