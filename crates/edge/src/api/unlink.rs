//! `POST /v1/{client}/profiles/{kind}/{id}/unlink {kind, id}`: gives an address a profile of its own back (ADR 8).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use cameo_eventlog::EventLog;
use cameo_profile::event::Unlink;
use cameo_profile::{Event, Outcome};
use serde::Deserialize;

use super::native::{Target, address_of, caller, missing, profile, resolve};
use super::visit::{Object, Text};
use super::{App, write};
use cameo_http::{Family, Refusal, body, wording};

/// Bytes of the body: an id at its limit, in JSON's longest escapes.
const BODY_BYTES: usize = 4 << 10;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UnlinkRequest<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
}

/// Unlinks an address from a profile: it gets back what it brought and did, the profile keeps the rest.
#[utoipa::path(post, path = "/v1/{client}/profiles/{kind}/{id}/unlink", tag = "profiles", params(("client" = String, Path, description = "Client (tenant) code"), ("kind" = String, Path, description = "`tnt`, `tp`, `ecid` or `cust:CODE`"), ("id" = String, Path, description = "The id")),
    request_body(content = serde_json::Value, content_type = "application/json", description = "`{kind, id}` of the address that is to leave"),
    responses((status = 200, description = "The profile of the address that left"), (status = 400, description = "Refused; problem+json"),
        (status = 404, description = "No such profile, or the address is not linked to it"), (status = 409, description = "The address is the profile's home, or was linked anew meanwhile")))]
pub(super) async fn post<L: EventLog>(State(app): State<Arc<App<L>>>, target: Target, request: Request) -> Response {
    app.meters.updates.increment(1);
    let by = caller(request.extensions());
    let unlinked = async {
        let plain = body::check_plain(request.headers());
        let body = body::read(request.into_body(), BODY_BYTES).await?;
        plain?;
        unlink(&app, target, &body.bytes, by.as_deref()).await
    };
    unlinked.await.unwrap_or_else(|refusal| refusal.response(Family::Native))
}

async fn unlink<L: EventLog>(app: &App<L>, target: Target, body: &[u8], by: Option<&str>) -> Result<Response, Refusal> {
    let (client, address) = resolve(app, target)?;
    let client = &client.code;
    let Object(request): Object<UnlinkRequest<'_>> = wording::read(body)?;
    let leaving = address_of(400, &request.kind.0, &request.id.0)?;
    // Read first, so that one that is on its way has arrived.
    let home = app.replica.profile(client, address.as_address(), |profile| profile.home().as_str().to_owned()).await?;
    let Some(home) = home else { return Err(missing(client, &address)) };
    let of = app.replica.profile(client, leaving.as_address(), |profile| profile.home().as_str().to_owned()).await?;
    let (kind, id) = (&request.kind.0, super::visit::shorten(&request.id.0));
    if of.as_ref() != Some(&home) {
        return Err(Refusal::new(404, format!("{kind}:{id} is not linked to this profile")));
    }
    let Some(epoch) = app.replica.alias_epoch(client, leaving.as_address())? else {
        let text = format!("the profile lives at {kind}:{id} itself; unlink the other addresses from it instead");
        return Err(Refusal::new(409, text));
    };
    let event = Unlink { client: client.as_str(), address: leaving.as_address().as_str(), epoch, by };
    let partition = leaving.as_address().partition(client, app.replica.partitions());
    match app.replica.submit(partition, &Event::Unlink(event)).await? {
        Outcome::Unlink { found: true } => profile(app, client, &leaving, write::native).await,
        _ => Err(Refusal::new(409, format!("{kind}:{id} was linked to another profile at the same moment"))),
    }
}
