//! What a delivery call comes to: one visit. Its parts are taken in this order: `execute.pageLoad`, `execute.mboxes`,
//! `prefetch.pageLoad`, `prefetch.mboxes`, `prefetch.views`, and notifications, each list as it stands. Where two set a
//! profile parameter, the later one wins; of notifications the one with the later timestamp.
//!
//! Profile data is kept whole or the call is refused. What only history has (mbox parameters, orders) is kept up to a
//! bound, and the event says how much was left out.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use cameo_profile::event::{self, DeliveryContext, DeliveryData, Part};
use cameo_profile::ids::{self, Invalid};
use cameo_profile::limits;

use super::check::Place;
use super::request::{Context, DeliveryRequest, Details, Notification, each, inner, said};
use crate::api::identity;
use crate::api::visit::{CustomerId, Delivery, Fields, Ids, Page, Text, Value, VisitRequest};

/// What the parts of a call take in its event at most, in bytes. With a full profile, categories, addresses and ids it stays
/// below [`limits::EVENT_BYTES`].
const PARTS_BYTES: usize = 192 << 10;
/// What a part, or one of its parameters, takes beside its text, in bytes.
const OVERHEAD_BYTES: usize = 16;
/// Categories of a call. Ours: five are kept.
const CATEGORIES: usize = 500;
/// Categories of a call, in bytes. Ours.
const CATEGORY_BYTES: usize = 64 << 10;
/// What is kept of texts that have no limit in the API, in characters. Ours.
const PLACE_CHARS: usize = 64;
const HOST_CHARS: usize = 255;
/// The mbox parameter that names categories, with commas between (TARGET_API §6).
const CATEGORY_ID: &str = "user.categoryId";

/// The parts of a call put together.
#[derive(Default)]
struct Merged<'r> {
    profile: Vec<(&'r str, &'r str)>,
    profile_at: HashMap<&'r str, usize>,
    timed: HashMap<&'r str, (u64, &'r str)>,
    categories: Vec<&'r str>,
    last_categories: Vec<&'r str>,
    parts: Vec<Part<'r>>,
    parts_bytes: usize,
    left_out: u32,
}

/// The visit that a call comes to. The call has been checked.
pub(super) fn visit<'r>(request: &'r DeliveryRequest<'_>, session_id: &'r str) -> Result<VisitRequest<'r>, Invalid> {
    let mut merged = Merged::default();
    merged.take_all(request)?;
    merged.check_profile()?;
    let context = inner(&request.context);
    let address = context.and_then(|context| inner(&context.address));
    let page = address
        .map(|address| Page { url: said(&address.url).map(text), referrer: said(&address.referring_url).map(text) });
    let mut timed: Vec<_> = merged.timed.into_iter().map(|(name, (at, value))| (at, name, value)).collect();
    timed.sort_unstable();
    let data = (!timed.is_empty()).then_some(DeliveryData { uncounted: false, timed });
    let profile = merged.profile.into_iter();
    let context_of_call = context.map(|context| call_context(context, merged.parts, merged.left_out));
    Ok(VisitRequest {
        event_id: said(&request.request_id).map(text),
        session_id: Some(text(session_id)),
        ids: ids_of(request),
        page,
        profile: Fields(profile.map(|(name, value)| (name.into(), Value::Text(value.into()))).collect()),
        categories: merged.categories.into_iter().map(text).collect(),
        user_agent: context.and_then(|c| said(&c.user_agent)).map(|agent| text(cut(agent, limits::USER_AGENT_CHARS))),
        delivery: Some(Delivery { context: context_of_call, data }),
        ..VisitRequest::default()
    })
}

fn text(text: &str) -> Text<'_> {
    Text(Cow::Borrowed(text))
}

/// The first characters of a text.
fn cut(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(at, _)| &text[..at])
}

/// The ids that count. An empty one is none: callers send what they have of a visitor who is not signed in.
fn ids_of<'r>(request: &'r DeliveryRequest<'_>) -> Ids<'r> {
    let Some(id) = request.ids() else { return Ids::default() };
    let authenticated = each(&id.customer_ids).filter(|customer| customer.is_authenticated());
    Ids {
        tnt_id: said(&id.tnt_id).map(text),
        third_party_id: said(&id.third_party_id).map(text),
        ecid: said(&id.marketing_cloud_visitor_id).map(text),
        customer_ids: authenticated
            .map(|customer| CustomerId {
                id: text(said(&customer.id).unwrap_or_default()),
                integration_code: text(said(&customer.integration_code).unwrap_or_default()),
                ..CustomerId::default()
            })
            .collect(),
        ..Ids::default()
    }
}

fn call_context<'r>(context: &'r Context<'_>, parts: Vec<Part<'r>>, left_out: u32) -> DeliveryContext<'r> {
    let short = |text| said(text).map(|text| cut(text, PLACE_CHARS));
    let geo = inner(&context.geo).map(|geo| event::Geo {
        ip: short(&geo.ip_address),
        latitude: geo.latitude.map(|number| number.0),
        longitude: geo.longitude.map(|number| number.0),
        country: short(&geo.country_code),
        state: short(&geo.state_code),
        city: short(&geo.city),
        zip: short(&geo.zip),
    });
    DeliveryContext {
        channel: said(&context.channel).unwrap_or_default(),
        time_offset_minutes: context.time_offset_in_minutes.map(|number| number.0),
        host: inner(&context.browser).and_then(|browser| said(&browser.host)).map(|host| cut(host, HOST_CHARS)),
        geo,
        parts,
        left_out,
    }
}

/// Names and texts of fields; what was `null` is not there.
fn texts<'r>(fields: Option<&'r Fields<'_>>) -> impl Iterator<Item = (&'r str, &'r str)> {
    fields.into_iter().flat_map(|fields| &fields.0).filter_map(|(name, value)| match value {
        Value::Text(text) => Some((&**name, &**text)),
        Value::Not(_) => None,
    })
}

impl<'r> Merged<'r> {
    fn take_all(&mut self, request: &'r DeliveryRequest<'_>) -> Result<(), Invalid> {
        if let Some(execute) = inner(&request.execute) {
            if let Some(page) = inner(&execute.page_load) {
                self.take(Place("execute.pageLoad", None), "execute.pageLoad", None, page.details())?;
            }
            for (at, mbox) in each(&execute.mboxes).enumerate() {
                self.take(Place("execute.mboxes", Some(at)), "execute.mbox", said(&mbox.name), mbox.details())?;
            }
        }
        if let Some(prefetch) = inner(&request.prefetch) {
            if let Some(page) = inner(&prefetch.page_load) {
                self.take(Place("prefetch.pageLoad", None), "prefetch.pageLoad", None, page.details())?;
            }
            for (at, mbox) in each(&prefetch.mboxes).enumerate() {
                self.take(Place("prefetch.mboxes", Some(at)), "prefetch.mbox", said(&mbox.name), mbox.details())?;
            }
            for (at, view) in each(&prefetch.views).enumerate() {
                self.take(Place("prefetch.views", Some(at)), "prefetch.view", said(&view.name), view.details())?;
            }
        }
        for (at, notification) in each(&request.notifications).enumerate() {
            self.notified(Place("notifications", Some(at)), notification)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        place: Place,
        what: &'static str,
        name: Option<&'r str>,
        details: Details<'r, '_>,
    ) -> Result<(), Invalid> {
        for (name, value) in texts(details.profile_parameters) {
            match self.profile_at.entry(name) {
                Entry::Occupied(at) => self.profile[*at.get()].1 = value,
                Entry::Vacant(at) => {
                    at.insert(self.profile.len());
                    self.profile.push((name, value));
                }
            }
        }
        self.categories(place, &details)?;
        self.part(Part { what, name, ..Part::default() }, &details);
        Ok(())
    }

    fn notified(&mut self, place: Place, notification: &'r Notification<'_>) -> Result<(), Invalid> {
        let details = notification.details();
        let at = notification.timestamp.map_or(0, |at| at.0.unsigned_abs());
        for (name, value) in texts(details.profile_parameters) {
            let held = self.timed.entry(name).or_insert((at, value));
            if held.0 <= at {
                *held = (at, value);
            }
        }
        self.categories(place, &details)?;
        let named = inner(&notification.mbox).or_else(|| inner(&notification.view));
        let part = Part {
            what: said(&notification.kind).unwrap_or_default(),
            name: named.and_then(|named| said(&named.name)),
            at: Some(at),
            ..Part::default()
        };
        self.part(part, &details);
        Ok(())
    }

    /// Takes the categories of a part: those of the mbox parameter, then that of the product. Parts that follow each other
    /// and name the same are one view of it: a page gives each of its mboxes the category it is of.
    fn categories(&mut self, place: Place, details: &Details<'r, '_>) -> Result<(), Invalid> {
        let split = |text: &'r str| text.split(',').map(str::trim).filter(|category| !category.is_empty());
        let parameter = texts(details.parameters).find(|(name, _)| *name == CATEGORY_ID).map(|(_, value)| value);
        let mut found: Vec<_> = parameter.into_iter().flat_map(split).collect();
        if let Some(product) = details.product.and_then(|product| said(&product.category_id)) {
            let mut named: HashSet<_> = found.iter().copied().collect();
            found.extend(split(product).filter(|category| named.insert(category)));
        }
        if found.is_empty() || found == self.last_categories {
            return Ok(());
        }
        for category in &found {
            ids::check_text(
                category,
                limits::CATEGORY_CHARS,
                |_| false,
                || {
                    let field = if parameter.is_some() { "parameters.user.categoryId" } else { "product.categoryId" };
                    place.field(field)
                },
            )?;
        }
        self.categories.extend(&found);
        self.last_categories = found;
        self.check_categories()
    }

    /// Notes a part for history, as far as there is room.
    fn part(&mut self, part: Part<'r>, details: &Details<'r, '_>) {
        let mut part = Part {
            url: details.address.and_then(|address| said(&address.url)),
            order: details.order.map(|order| event::Order {
                id: said(&order.id).unwrap_or_default(),
                total: order.total.map_or(0.0, |total| total.0),
                product_ids: order.purchased_product_ids.iter().flatten().map(|Text(id)| &**id).collect(),
            }),
            product: details.product.and_then(|product| said(&product.id)),
            ..part
        };
        let of_order = part.order.as_ref().map_or(0, |order| {
            order.id.len() + order.product_ids.iter().map(|id| id.len() + OVERHEAD_BYTES).sum::<usize>()
        });
        let texts_bytes = [part.name, part.url, part.product].into_iter().flatten().map(str::len).sum::<usize>();
        if !self.fits(4 * OVERHEAD_BYTES + of_order + texts_bytes) {
            self.left_out += 1;
            return;
        }
        for (name, value) in texts(details.parameters) {
            // What proves an id is nobody's business afterwards.
            if identity::is_parameter(name) {
                continue;
            }
            if self.fits(name.len() + value.len() + OVERHEAD_BYTES) {
                part.parameters.push((name, value));
            } else {
                self.left_out += 1;
            }
        }
        self.parts.push(part);
    }

    fn fits(&mut self, bytes: usize) -> bool {
        let fits = self.parts_bytes + bytes <= PARTS_BYTES;
        if fits {
            self.parts_bytes += bytes;
        }
        fits
    }

    /// What no profile could hold is refused, not cut.
    fn check_profile(&self) -> Result<(), Invalid> {
        let timed = self.timed.iter().map(|(name, (_, value))| (*name, *value));
        let all = self.profile.iter().copied().chain(timed);
        let bytes: usize = all.map(|(name, value)| name.len() + value.len()).sum();
        let names = self.profile.len() + self.timed.keys().filter(|name| !self.profile_at.contains_key(*name)).count();
        if bytes > limits::PROFILE_BYTES || names > limits::ATTRIBUTES {
            let text = format!(
                "of the call together are {names} and {bytes} bytes; a profile holds {} and {}",
                limits::ATTRIBUTES,
                limits::PROFILE_BYTES
            );
            return Err(Invalid::other("profileParameters", text));
        }
        Ok(())
    }

    /// Asked after each part, so that what is too much is not gathered first.
    fn check_categories(&self) -> Result<(), Invalid> {
        let bytes: usize = self.categories.iter().map(|category| category.len()).sum();
        if self.categories.len() > CATEGORIES || bytes > CATEGORY_BYTES {
            let text = format!(
                "and product.categoryId of the call together name more than {CATEGORIES} categories, or {CATEGORY_BYTES} \
                 bytes of them"
            );
            return Err(Invalid::other(CATEGORY_ID, text));
        }
        Ok(())
    }
}
