//! The OpenAPI description of the gateway's routes. A test holds it against the router.

use super::{errors, native, status, upload};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Cameo gateway", description = "Bulk files."),
    paths(upload::v1, upload::v2, upload::v3, status::get, errors::get, native::list, native::one)
)]
struct Api;

/// Every route of the gateway.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut api = <Api as utoipa::OpenApi>::openapi();
    for name in ["batchStatus", "batchErrors"] {
        let Some(item) = api.paths.paths.get(&format!("/m2/{{client}}/profile/{name}")).cloned() else { continue };
        for (version, suffix) in [("v2", "V2"), ("v3", "V3")] {
            let mut item = item.clone();
            // Ids of operations are unique in a description.
            if let Some(get) = &mut item.get {
                get.operation_id = Some(format!("{name}{suffix}"));
            }
            api.paths.paths.insert(format!("/m2/{{client}}/{version}/profile/{name}"), item);
        }
    }
    api
}
