//! The limits of a delivery call (TARGET_API §1). The first one that is broken refuses the call, by the path of its field.

use std::borrow::Cow;
use std::fmt;

use cameo_profile::ids::{self, Invalid, Problem};
use cameo_profile::limits;

use super::request::{Address, DeliveryRequest, Details, Mbox, each, inner, said};
use crate::api::identity::SIGNATURES;
use crate::api::visit::{Fields, Text, Value, check_value, shorten};

/// mboxes of a call, executed and prefetched (TARGET_API §1).
const MBOXES: usize = 50;
/// Views of a call. Ours: as mboxes.
const VIEWS: usize = 50;
/// Notifications of a call. Ours: more than a page shows and clicks between two calls.
const NOTIFICATIONS: usize = 250;
/// Customer ids of a call, in whatever state (the vendor's OpenAPI, `VisitorId`).
const CUSTOMER_IDS: usize = 50;
/// A product id of an order, in characters (TARGET_API §1).
const PURCHASED_ID_CHARS: usize = 50;
/// The categories of a product, in characters. Ours: as those of the mbox parameter that names them too.
const PRODUCT_CATEGORIES_CHARS: usize = limits::MBOX_PARAMETER_VALUE_CHARS;
/// A view's key, in characters (the vendor's OpenAPI, `ViewRequest`).
const VIEW_KEY_CHARS: usize = 512;
/// Id of a notification, in characters (the vendor's OpenAPI, `Notification`).
const NOTIFICATION_ID_CHARS: usize = 200;
/// Name of a view, in characters (the vendor's OpenAPI, `ViewRequest`).
const VIEW_NAME_CHARS: usize = 128;

/// Where a part stands in the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(pub(super) &'static str, pub(super) Option<usize>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        self.1.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

impl Place {
    pub(super) fn field(self, name: impl fmt::Display) -> Cow<'static, str> {
        format!("{self}.{name}").into()
    }
}

fn missing(field: impl Into<Cow<'static, str>>) -> Invalid {
    Invalid::other(field, "is missing")
}

fn count(field: &'static str, count: usize, limit: usize) -> Result<(), Invalid> {
    if count > limit {
        return Err(Invalid { field: field.into(), problem: Problem::TooMany { count, limit } });
    }
    Ok(())
}

/// Checks everything but the ids that become addresses, and what the parts come to together.
pub(super) fn check(request: &DeliveryRequest<'_>) -> Result<(), Invalid> {
    if let Some(id) = said(&request.request_id) {
        ids::check_text(id, limits::EVENT_ID_CHARS, |_| false, || "requestId".into())?;
    }
    if let Some(id) = request.ids() {
        count("id.customerIds", each(&id.customer_ids).len(), CUSTOMER_IDS)?;
        let authenticated = each(&id.customer_ids).filter(|customer| customer.is_authenticated()).count();
        count("id.customerIds in state authenticated", authenticated, limits::CUSTOMER_IDS)?;
        if let Some(signatures) = &id.identity_signature {
            count("id.identitySignature", signatures.0.len(), SIGNATURES)?;
            signatures.check_single("id.identitySignature")?;
        }
    }
    let context = inner(&request.context).ok_or_else(|| missing("context"))?;
    match context.channel.as_ref().map(|Text(channel)| &**channel) {
        Some("web" | "mobile") => {}
        Some(_) => return Err(Invalid::other("context.channel", "can only be \"web\" or \"mobile\"")),
        None => return Err(missing("context.channel")),
    }
    address(Place("context", None), inner(&context.address))?;
    execute_and_prefetch(request)?;
    count("notifications", each(&request.notifications).len(), NOTIFICATIONS)?;
    for (index, notification) in each(&request.notifications).enumerate() {
        let place = Place("notifications", Some(index));
        let id = said(&notification.id).ok_or_else(|| missing(place.field("id")))?;
        ids::check_length(id, NOTIFICATION_ID_CHARS, || place.field("id"))?;
        match said(&notification.kind) {
            Some("click" | "display") => {}
            Some(_) => return Err(Invalid::other(place.field("type"), "can only be \"click\" or \"display\"")),
            None => return Err(missing(place.field("type"))),
        }
        let at = notification.timestamp.ok_or_else(|| missing(place.field("timestamp")))?;
        if at.0 < 0 {
            return Err(Invalid::other(place.field("timestamp"), "must be milliseconds since 1970"));
        }
        for (named, limit, field) in [
            (&notification.mbox, limits::MBOX_NAME_CHARS, "mbox.name"),
            (&notification.view, VIEW_NAME_CHARS, "view.name"),
        ] {
            if let Some(name) = inner(named).and_then(|named| said(&named.name)) {
                ids::check_text(name, limit, |_| false, || place.field(field))?;
            }
        }
        details(place, notification.details())?;
    }
    Ok(())
}

fn execute_and_prefetch(request: &DeliveryRequest<'_>) -> Result<(), Invalid> {
    let (execute, prefetch) = (inner(&request.execute), inner(&request.prefetch));
    let executed = execute.map_or(0, |execute| each(&execute.mboxes).len());
    let prefetched = prefetch.map_or(0, |prefetch| each(&prefetch.mboxes).len());
    match (executed, prefetched) {
        (_, 0) => count("execute.mboxes", executed, MBOXES)?,
        (0, _) => count("prefetch.mboxes", prefetched, MBOXES)?,
        _ => count("execute.mboxes and prefetch.mboxes together", executed + prefetched, MBOXES)?,
    }
    if let Some(execute) = execute {
        if let Some(page) = inner(&execute.page_load) {
            details(Place("execute.pageLoad", None), page.details())?;
        }
        each(&execute.mboxes).enumerate().try_for_each(|(at, one)| mbox(Place("execute.mboxes", Some(at)), one))?;
    }
    let Some(prefetch) = prefetch else { return Ok(()) };
    if let Some(page) = inner(&prefetch.page_load) {
        details(Place("prefetch.pageLoad", None), page.details())?;
    }
    each(&prefetch.mboxes).enumerate().try_for_each(|(at, one)| mbox(Place("prefetch.mboxes", Some(at)), one))?;
    count("prefetch.views", each(&prefetch.views).len(), VIEWS)?;
    for (index, view) in each(&prefetch.views).enumerate() {
        let place = Place("prefetch.views", Some(index));
        if let Some(name) = said(&view.name) {
            ids::check_text(name, VIEW_NAME_CHARS, |_| false, || place.field("name"))?;
        }
        ids::check_length(said(&view.key).unwrap_or_default(), VIEW_KEY_CHARS, || place.field("key"))?;
        details(place, view.details())?;
    }
    Ok(())
}

fn mbox(place: Place, mbox: &Mbox<'_>) -> Result<(), Invalid> {
    let Text(name) = mbox.name.as_ref().ok_or_else(|| missing(place.field("name")))?;
    ids::check_text(name, limits::MBOX_NAME_CHARS, |_| false, || place.field("name"))?;
    details(place, mbox.details())
}

fn address(place: Place, address: Option<&Address<'_>>) -> Result<(), Invalid> {
    let Some(address) = address else { return Ok(()) };
    for (text, field) in [(&address.url, "address.url"), (&address.referring_url, "address.referringUrl")] {
        ids::check_length(said(text).unwrap_or_default(), limits::URL_CHARS, || place.field(field))?;
    }
    Ok(())
}

fn details(place: Place, details: Details<'_, '_>) -> Result<(), Invalid> {
    address(place, details.address)?;
    if let Some(parameters) = details.parameters {
        let value = |name: &str, value: &Value<'_>| {
            let field = || place.field(format_args!("parameters.{}", shorten(name)));
            ids::check_text(name, limits::MBOX_PARAMETER_NAME_CHARS, |_| false, field)?;
            checked(value, limits::MBOX_PARAMETER_VALUE_CHARS, field)
        };
        fields(place, "parameters", parameters, limits::MBOX_PARAMETERS, value)?;
    }
    if let Some(parameters) = details.profile_parameters {
        let value = |name: &str, value: &Value<'_>| {
            let field = || place.field(format_args!("profileParameters.{}", shorten(name)));
            if name.starts_with("profile.") {
                // So the vendor has it; stored as it is, it would be read under another name than was meant.
                return Err(Invalid::other(field(), "must be named without profile. before it"));
            }
            ids::check_attribute_name(name, field)?;
            checked(value, limits::PROFILE_PARAMETER_VALUE_CHARS, field)
        };
        fields(place, "profileParameters", parameters, limits::PROFILE_PARAMETERS, value)?;
    }
    if let Some(product) = details.product {
        let id = said(&product.id).unwrap_or_default();
        ids::check_length(id, limits::PRODUCT_ID_CHARS, || place.field("product.id"))?;
        let categories = said(&product.category_id).unwrap_or_default();
        ids::check_length(categories, PRODUCT_CATEGORIES_CHARS, || place.field("product.categoryId"))?;
    }
    let Some(order) = details.order else { return Ok(()) };
    ids::check_length(said(&order.id).unwrap_or_default(), limits::ORDER_ID_CHARS, || place.field("order.id"))?;
    let products = order.purchased_product_ids.as_deref().unwrap_or_default();
    if products.len() > limits::ORDER_PRODUCTS {
        let problem = Problem::TooMany { count: products.len(), limit: limits::ORDER_PRODUCTS };
        return Err(Invalid { field: place.field("order.purchasedProductIds"), problem });
    }
    for (index, Text(id)) in products.iter().enumerate() {
        let field = || place.field(format_args!("order.purchasedProductIds[{index}]"));
        ids::check_text(id, PURCHASED_ID_CHARS, |_| false, field)?;
    }
    Ok(())
}

fn fields(
    place: Place,
    section: &str,
    fields: &Fields<'_>,
    limit: usize,
    check: impl Fn(&str, &Value<'_>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    if fields.0.len() > limit {
        let problem = Problem::TooMany { count: fields.0.len(), limit };
        return Err(Invalid { field: place.field(section), problem });
    }
    fields.0.iter().try_for_each(|(name, value)| check(name, value))?;
    fields.check_single(&place.field(section))
}

/// `null` is as good as nothing.
fn checked(value: &Value<'_>, limit: usize, field: impl FnOnce() -> Cow<'static, str>) -> Result<(), Invalid> {
    if *value == Value::Not("null") { Ok(()) } else { check_value(value, limit, field) }
}
