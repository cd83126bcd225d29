//! The HTTP API of the edge: every route on one screen, and what handlers share.

mod cors;
mod delivery;
mod fetch;
mod health;
pub(crate) mod history;
mod identity;
pub(crate) mod ids;
mod native;
pub(crate) mod openapi;
mod route;
#[cfg(test)]
mod tests;
mod unlink;
mod update;
mod visit;
pub(crate) mod visits;
pub(crate) mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use cameo_auth::routes::RouteAccess;
use cameo_auth::state::Client;
use cameo_auth::verifier::DELIVERY;
use cameo_auth::{Access, Routes, Scope};
use cameo_eventlog::EventLog;
use cameo_http::Refusal;
use http::{HeaderName, Method};
use tokio::sync::Semaphore;

use crate::config::EdgeConfig;
use crate::metrics::ApiMeters;
use crate::replica::Replica;
use crate::spool::Spool;

/// What every handler has.
pub(crate) struct App<L: EventLog> {
    pub(crate) replica: Arc<Replica<L>>,
    pub(crate) config: EdgeConfig,
    pub(crate) spool: Option<Arc<Spool>>,
    pub(crate) meters: ApiMeters,
    pub(crate) ids: ids::Generator,
    /// Where visits that come by another way than a request are under way.
    pub(crate) lanes: visits::queued::Lanes,
    /// A permit for each reader of history.
    pub(crate) history_readers: Arc<Semaphore>,
}

/// Seconds for which the log has not been heard from, in the answer to a read: what was appended elsewhere since is not
/// in it. Left out while the log answers.
const DATA_AGE: HeaderName = HeaderName::from_static("cameo-data-age");
/// A log that is looked at every second is heard from within so many.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

impl<L: EventLog> App<L> {
    /// Says in the answer to a read how old it may be.
    fn tell_age(&self, response: &mut Response) {
        let silence = self.replica.silence();
        if silence > HEARD_WITHIN {
            response.headers_mut().insert(DATA_AGE, silence.as_secs().into());
        }
    }

    /// The tenant, or a 404 that says so.
    fn client(&self, code: &str) -> Result<Arc<Client>, Refusal> {
        self.config.auth.client(code).ok_or_else(|| Refusal::unknown_client(code))
    }
}

/// Every route of the edge, with what each asks for.
pub(crate) fn router<L: EventLog>(app: Arc<App<L>>) -> (Router, Vec<RouteAccess>) {
    const READ: Access = Access::Token(Scope::ProfileRead);
    const WRITE: Access = Access::Token(Scope::ProfileWrite);
    let guard = || app.config.auth.clone();
    let visits = Routes::new(guard()).post("/v1/{client}/visits", Access::Token(Scope::VisitsWrite), visits::post).on(
        Method::OPTIONS,
        "/v1/{client}/visits",
        Access::Public,
        cors::preflight,
    );
    let delivery = Routes::new(guard()).post(DELIVERY, Access::Token(Scope::VisitsWrite), delivery::post).on(
        Method::OPTIONS,
        DELIVERY,
        Access::Public,
        cors::delivery_preflight,
    );
    let others = Routes::new(guard())
        .get("/v1/{client}/profiles/{kind}/{id}", READ, native::get)
        .get("/v1/{client}/profiles/{kind}/{id}/history", READ, history::history)
        .get("/v1/{client}/profiles/{kind}/{id}/export", READ, history::export)
        .patch("/v1/{client}/profiles/{kind}/{id}", WRITE, native::patch)
        .delete("/v1/{client}/profiles/{kind}/{id}", WRITE, native::delete)
        .post("/v1/{client}/profiles/{kind}/{id}/unlink", WRITE, unlink::post)
        .get("/rest/v1/profiles/{id}", READ, fetch::by_tnt_id)
        .get("/rest/v1/profiles/thirdPartyId/{id}", READ, fetch::by_third_party_id)
        .get("/rest/v1/profiles/marketingCloudVisitorId/{id}", READ, fetch::by_ecid)
        .get("/m2/{client}/profile/update", WRITE, update::get)
        .post("/m2/{client}/profile/update", WRITE, update::post)
        .get("/healthz", Access::Public, health::alive)
        .get("/readyz", Access::Public, health::ready)
        .get("/metrics", Access::Public, health::metrics);
    let (visits, mut table) = visits.finish();
    let (delivery, rest) = delivery.finish();
    table.extend(rest);
    let (others, rest) = others.finish();
    table.extend(rest);
    // Outside the guard, so that a page can read why it was refused.
    let delivery = delivery.layer(map_response(delivery::no_store)).layer(cors::delivery_layer(guard()));
    let router = visits.layer(cors::layer(guard())).merge(delivery).merge(others);
    (router.with_state(app), table)
}
