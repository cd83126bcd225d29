//! The HTTP API of the edge: every route on one screen, and what handlers share.

mod fetch;
mod health;
pub(crate) mod ids;
mod native;
pub(crate) mod openapi;
#[cfg(test)]
mod tests;
mod update;
mod visit;
pub(crate) mod visits;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use cameo_eventlog::EventLog;
use cameo_http::Refusal;
use cameo_profile::ClientCode;

use crate::config::EdgeConfig;
use crate::metrics::ApiMeters;
use crate::replica::Replica;

/// What every handler has.
pub(crate) struct App<L: EventLog> {
    pub(crate) replica: Arc<Replica<L>>,
    pub(crate) config: EdgeConfig,
    pub(crate) meters: ApiMeters,
    pub(crate) ids: ids::Generator,
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
