//! The OpenAPI description of the edge's routes, for `/openapi.json`. A test holds it against the router.

use super::{cors, delivery, fetch, health, history, native, unlink, update, visits};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Cameo", description = "An event-sourced profile store: visits in, profiles out."),
    paths(
        cors::preflight,
        visits::post,
        cors::delivery_preflight,
        delivery::post,
        native::get,
        native::patch,
        native::delete,
        unlink::post,
        history::history,
        history::export,
        fetch::by_tnt_id,
        fetch::by_third_party_id,
        fetch::by_ecid,
        update::get,
        update::post,
        health::alive,
        health::ready,
        health::metrics,
    )
)]
struct Api;

/// Every route of the edge.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    <Api as utoipa::OpenApi>::openapi()
}
