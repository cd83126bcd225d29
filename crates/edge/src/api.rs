//! The HTTP API of the edge: every route on one screen, and what handlers share.

pub mod body;
mod error;
mod fetch;
mod health;
mod ids;
mod native;
pub(crate) mod openapi;
mod query;
#[cfg(test)]
mod tests;
mod update;
mod visit;
mod visits;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{get, post};
use cameo_eventlog::EventLog;
use cameo_profile::ClientCode;

use crate::config::EdgeConfig;
use crate::metrics::ApiMeters;
use crate::replica::Replica;

use error::{Family, Refusal};

/// What every handler has.
pub(crate) struct App<L: EventLog> {
    pub(crate) replica: Arc<Replica<L>>,
    pub(crate) config: EdgeConfig,
    pub(crate) meters: ApiMeters,
}

impl<L: EventLog> App<L> {
    /// The tenant, or a 404 that says so.
    fn client(&self, code: &str) -> Result<&ClientCode, Refusal> {
        self.config.clients.find(code).ok_or_else(|| Refusal::unknown_client(code))
    }
}

/// Every route of the edge.
pub(crate) fn router<L: EventLog>(app: Arc<App<L>>) -> Router {
    Router::new()
        .route("/v1/{client}/visits", post(visits::post))
        .route("/v1/{client}/profiles/{kind}/{id}", get(native::get).patch(native::patch).delete(native::delete))
        .route("/rest/v1/profiles/{id}", get(fetch::by_tnt_id))
        .route("/rest/v1/profiles/thirdPartyId/{id}", get(fetch::by_third_party_id))
        .route("/rest/v1/profiles/marketingCloudVisitorId/{id}", get(fetch::by_ecid))
        .route("/m2/{client}/profile/update", get(update::get).post(update::post))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(app)
}

/// Answers for paths that no route serves and methods that a route does not take, in the shape of their family. The
/// binary puts it around the routers of all roles.
#[must_use]
pub fn with_fallbacks(router: Router) -> Router {
    router.fallback(not_found).method_not_allowed_fallback(wrong_method)
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
