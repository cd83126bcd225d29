//! The OpenAPI description of the admin API. A test holds it against the router.

use super::{audit, clients, cluster, compatible, identity, keys, tokens, users};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Cameo control plane", description = "Clients, tokens, users, audit."),
    paths(
        tokens::list,
        tokens::create,
        tokens::one,
        tokens::revoke,
        tokens::rotate,
        tokens::kill,
        clients::settings,
        clients::change,
        clients::list,
        clients::create,
        clients::one,
        clients::change_by_code,
        identity::facts,
        identity::rotate,
        users::list,
        users::create,
        users::change,
        users::remove,
        users::password,
        keys::list,
        keys::create,
        keys::remove,
        audit::of_client,
        audit::of_all,
        cluster::get,
        cluster::snapshots,
        cluster::take,
        compatible::token,
        compatible::generate,
        compatible::settings,
        compatible::flip
    )
)]
struct Api;

/// Every route of the admin API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    <Api as utoipa::OpenApi>::openapi()
}
