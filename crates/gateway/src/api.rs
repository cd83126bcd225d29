//! The HTTP API of the gateway: every route on one screen, and what handlers share.

mod errors;
mod native;
pub(crate) mod openapi;
mod reply;
mod status;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use cameo_auth::routes::RouteAccess;
use cameo_auth::state::Client;
use cameo_auth::{Access, Routes, Scope};
use cameo_http::{Refusal, query};
use cameo_profile::ClientCode;
use cameo_profile::state::BatchHead;

use crate::gateway::App;
use crate::ledger::Ledger;
use crate::status::Status;

/// Every route of the gateway, with what each asks for.
pub(crate) fn router<L: Ledger>(app: Arc<App<L>>) -> (Router, Vec<RouteAccess>) {
    const BULK: Access = Access::Token(Scope::BulkWrite);
    let (router, table) = Routes::new(app.config.auth.clone())
        .post("/m2/{client}/profile/batchUpdate", BULK, upload::v1)
        .post("/m2/{client}/v2/profile/batchUpdate", BULK, upload::v2)
        .post("/m2/{client}/v3/profile/batchUpdate", BULK, upload::v3)
        .get("/m2/{client}/profile/batchStatus", BULK, status::get)
        .get("/m2/{client}/v2/profile/batchStatus", BULK, status::get)
        .get("/m2/{client}/v3/profile/batchStatus", BULK, status::get)
        .get("/m2/{client}/profile/batchErrors", BULK, errors::get)
        .get("/m2/{client}/v2/profile/batchErrors", BULK, errors::get)
        .get("/m2/{client}/v3/profile/batchErrors", BULK, errors::get)
        .get("/v1/{client}/batches", BULK, native::list)
        .get("/v1/{client}/batches/{batchId}", BULK, native::one)
        .finish();
    (router.with_state(app), table)
}

/// The client of a path, if it decodes.
type ClientPath = Result<Path<String>, PathRejection>;

impl<L: Ledger> App<L> {
    /// The tenant, or a 404 that says so.
    fn client(&self, path: ClientPath) -> Result<Arc<Client>, Refusal> {
        let Path(code) = path.map_err(|_| Refusal::new(400, "the client is not URL-encoded UTF-8"))?;
        self.client_of(&code)
    }

    fn client_of(&self, code: &str) -> Result<Arc<Client>, Refusal> {
        self.config.auth.client(code).ok_or_else(|| Refusal::unknown_client(code))
    }

    /// The batch that `batchId` of the query names.
    async fn batch_of_query(&self, client: &ClientCode, pairs: &query::Pairs) -> Result<BatchHead, Refusal> {
        let batch = query::one(pairs, "batchId")?;
        let batch = batch.ok_or_else(|| Refusal::new(400, "batchId is missing"))?;
        self.batch(client, batch).await
    }

    async fn batch(&self, client: &ClientCode, batch: &str) -> Result<BatchHead, Refusal> {
        let head = self.ledger.head(client.as_str(), batch).await?;
        head.ok_or_else(|| {
            let batch: String = batch.chars().filter(|c| !c.is_control()).take(128).collect();
            let text = format!("client {client} has no batch {batch:?}");
            Refusal { field: Some("batchId".into()), ..Refusal::new(404, text) }
        })
    }

    async fn status(&self, client: &ClientCode, head: BatchHead) -> Result<Status, Refusal> {
        Ok(crate::status::of(&*self.ledger, &self.running, self.config.sole_gateway, client, head).await?)
    }
}

/// A switch of the query: `true`, `false` or not there.
fn switch(pairs: &query::Pairs, name: &'static str) -> Result<bool, Refusal> {
    match query::one(pairs, name)? {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => {
            let refusal = Refusal::new(400, format!("{name} must be true or false"));
            Err(Refusal { field: Some(name.into()), ..refusal })
        }
    }
}
