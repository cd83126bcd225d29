//! `GET /rest/v1/profiles/…`: the compatible fetch (TARGET_API §4).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use cameo_eventlog::EventLog;
use cameo_profile::{AddressBuf, Kind};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use super::{App, write};
use cameo_http::{Family, Refusal, query};

type Id = Result<Path<String>, PathRejection>;

/// A profile by tntId, in the compatible shape.
#[utoipa::path(get, path = "/rest/v1/profiles/{id}", tag = "compatible", params(("client" = String, Query, description = "Client (tenant) code"), ("id" = String, Path, description = "The tntId")),
    responses((status = 200, description = "The profile"), (status = 404, description = "None, or no such client")))]
pub(super) async fn by_tnt_id<L: EventLog>(State(app): State<Arc<App<L>>>, id: Id, query: RawQuery) -> Response {
    answer(&app, Kind::Tnt, id, query).await
}

/// A profile by thirdPartyId, in the compatible shape.
#[utoipa::path(get, path = "/rest/v1/profiles/thirdPartyId/{id}", tag = "compatible", params(("client" = String, Query, description = "Client (tenant) code"), ("id" = String, Path, description = "The thirdPartyId")),
    responses((status = 200, description = "The profile"), (status = 404, description = "None, or no such client")))]
pub(super) async fn by_third_party_id<L: EventLog>(
    State(app): State<Arc<App<L>>>,
    id: Id,
    query: RawQuery,
) -> Response {
    answer(&app, Kind::ThirdParty, id, query).await
}

/// A profile by ECID, in the compatible shape.
#[utoipa::path(get, path = "/rest/v1/profiles/marketingCloudVisitorId/{id}", tag = "compatible", params(("client" = String, Query, description = "Client (tenant) code"), ("id" = String, Path, description = "The ECID")),
    responses((status = 200, description = "The profile"), (status = 404, description = "None, or no such client")))]
pub(super) async fn by_ecid<L: EventLog>(State(app): State<Arc<App<L>>>, id: Id, query: RawQuery) -> Response {
    answer(&app, Kind::Ecid, id, query).await
}

async fn answer<L: EventLog>(app: &App<L>, kind: Kind<'_>, id: Id, RawQuery(query): RawQuery) -> Response {
    app.meters.profile_reads.increment(1);
    fetch(app, kind, id, query.as_deref()).await.unwrap_or_else(|refusal| refusal.response(Family::Rest))
}

async fn fetch<L: EventLog>(app: &App<L>, kind: Kind<'_>, id: Id, query: Option<&str>) -> Result<Response, Refusal> {
    let Path(id) = id.map_err(|_| Refusal::new(400, format!("{} is not URL-encoded UTF-8", kind.field())))?;
    let pairs = query::pairs(query.unwrap_or_default().as_bytes())?;
    let client = query::one(&pairs, "client")?.ok_or_else(|| Refusal::new(400, "the parameter client is missing"))?;
    let client = app.client(client)?;
    let client = &client.code;
    let address = AddressBuf::of(kind, &id)?;
    let body = app.replica.profile(client, address.as_address(), |profile| {
        let mut out = Vec::with_capacity(1024);
        write::compatible(client.as_str(), (kind, &id), profile, &mut out);
        out
    });
    let body = body.await?;
    let Some(body) = body else {
        let by = match kind {
            Kind::ThirdParty => "third party id",
            Kind::Ecid => "marketingCloudVisitorId",
            Kind::Tnt | Kind::Customer(_) => "mboxPC",
        };
        return Err(Refusal::new(404, format!("No profile found for client {client} with {by}={id}")));
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    app.tell_age(&mut response);
    Ok(response)
}
