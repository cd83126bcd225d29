//! What is known of a profile as a list to be read, newest first: entries of one or several addresses, by log time, each
//! with what its event says.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use cameo_eventlog::{EventLog, LogTime, Partition};
use cameo_profile::Event;
use cameo_profile::event::{BatchRows, DeliveryContext, Order, Route, Update, Visit, VisitContext};
use cameo_profile::state::{ELSEWHERE, Touch};
use cameo_profile::time::Iso8601;
use serde_json::{Map, Value, json};

use super::Entry;
use super::read::{Frames, HistoryError, Recorded};

/// Where a page ended; the next one begins with what is older. Text for callers: `time.partition.position.event.change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    at_ms: u64,
    partition: u16,
    position: u64,
    event: u32,
    change: u32,
}

/// Entries of a profile, newest first.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// Canonical text of the address it lives at.
    home: Box<str>,
    entries: Vec<Listed>,
    whole_since: Option<LogTime>,
}

/// An entry, and of which address it is.
#[derive(Debug)]
struct Listed {
    partition: Partition,
    address: Arc<str>,
    entry: Entry,
}

impl Cursor {
    fn of(partition: Partition, entry: &Entry) -> Self {
        let (position, event, change) = entry.order();
        Self { at_ms: entry.at.ms(), partition: partition.0, position: position.0, event, change }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let cursor = Self {
            at_ms: parts.next()?.parse().ok()?,
            partition: parts.next()?.parse().ok()?,
            position: parts.next()?.parse().ok()?,
            event: parts.next()?.parse().ok()?,
            change: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(cursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}.{}", self.at_ms, self.partition, self.position, self.event, self.change)
    }
}

impl Timeline {
    /// Of a profile that lives at `home`, with nothing in it.
    pub(super) fn new(home: &str) -> Self {
        Self { home: home.into(), entries: Vec::new(), whole_since: None }
    }

    /// Adds what is known of an address, and those of its entries that belong to the profile.
    pub(super) fn add(&mut self, address: &str, recorded: &Recorded, entries: Vec<Entry>) {
        let address: Arc<str> = address.into();
        self.whole_since = self.whole_since.max(recorded.whole_since());
        // What an address was linked to stands in the history of that; more of what it brought is no event of its own.
        let is_told = |entry: &Entry| {
            !matches!(entry.touch(), Some(Touch::Linked { .. } | Touch::Freed { .. } | Touch::More { .. }) | None)
        };
        let listed = entries.into_iter().filter(is_told).map(|entry| Listed {
            partition: recorded.partition,
            address: Arc::clone(&address),
            entry,
        });
        self.entries.extend(listed);
    }

    /// Puts the newest first, after the last was added.
    pub(super) fn sort(&mut self) {
        self.entries.sort_by_key(|listed| Reverse(listed.cursor()));
    }

    /// Nothing has happened that is known.
    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Since when nothing is missing; `None` when it is whole.
    pub(crate) const fn whole_since(&self) -> Option<LogTime> {
        self.whole_since
    }

    /// Up to `limit` entries that are older than a cursor, and where the next page begins, if there is one.
    pub(crate) fn page<L: EventLog>(
        &self,
        frames: &mut Frames<'_, L>,
        limit: usize,
        after: Option<Cursor>,
    ) -> Result<(Vec<Value>, Option<Cursor>), HistoryError> {
        let start = after.map_or(0, |after| self.entries.partition_point(|listed| listed.cursor() >= after));
        let (mut shown, mut last) = (Vec::with_capacity(limit.min(self.entries.len())), None);
        for listed in self.entries[start..].iter().take(limit) {
            last = Some(listed.cursor());
            if let Some(link) = self.link(listed) {
                shown.push(link);
                continue;
            }
            if let Some(waited) = self.waited(listed) {
                shown.push(waited);
                continue;
            }
            // What the log has trimmed in this very moment is left out, as all older ones will be.
            shown.extend(frames.event(listed.partition, &listed.entry, |event| {
                let mut told = told(&listed.entry, event);
                self.put_via(&mut told, listed, Some(event));
                Value::Object(told)
            })?);
        }
        let more = self.entries.len() - start > limit;
        Ok((shown, last.filter(|_| more)))
    }

    /// Something that came while the profile was on its way back, for some milliseconds: what it was, but not what was in it.
    fn waited(&self, listed: &Listed) -> Option<Value> {
        listed.entry.came().filter(|came| came.message == ELSEWHERE)?;
        let mut out = Map::new();
        out.insert("at".into(), time(listed.entry.at.ms()));
        let (kind, line) = match listed.entry.touch()? {
            Touch::Update { .. } => ("update", None),
            Touch::Row { line, .. } => ("batch", Some(*line)),
            _ => ("visit", None),
        };
        out.insert("type".into(), json!(kind));
        put(&mut out, "line", line);
        self.put_via(&mut out, listed, None);
        Some(Value::Object(out))
    }

    /// What linked an address to the profile, or took it away: the entry says all of it.
    fn link(&self, listed: &Listed) -> Option<Value> {
        let (kind, address, by) = match listed.entry.touch()? {
            Touch::Joined { address } => ("link", Some(address), None),
            Touch::Left { address } => ("leave", Some(address), None),
            Touch::TakenOut { address, by } => ("unlink", Some(address), by.as_deref()),
            Touch::GivenBack => ("return", None, None),
            _ => return None,
        };
        let mut out = Map::new();
        out.insert("at".into(), time(listed.entry.at.ms()));
        out.insert("type".into(), json!(kind));
        put(&mut out, "address", address.map(|address| &**address));
        put(&mut out, "by", by);
        self.put_via(&mut out, listed, None);
        Some(Value::Object(out))
    }

    /// By which address it came, where that is not the home.
    fn put_via(&self, out: &mut Map<String, Value>, listed: &Listed, event: Option<&Event<'_>>) {
        let direct = match event {
            Some(Event::Visit(event)) if event.route == Route::Direct => Some(event.via),
            Some(Event::Update(event)) if event.route == Route::Direct => Some(event.via),
            _ => None,
        };
        let came = listed.entry.came().map(|came| came.via.as_ref().map(|via| &*via.address));
        let via = came.unwrap_or(direct).unwrap_or(&listed.address);
        put(out, "via", (*via != *self.home).then_some(via));
    }
}

impl Listed {
    fn cursor(&self) -> Cursor {
        Cursor::of(self.partition, &self.entry)
    }
}

fn time(ms: u64) -> Value {
    json!(Iso8601::new(ms).as_str())
}

/// An entry with what its event says. Only what is there is named.
fn told(entry: &Entry, event: &Event<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("at".into(), time(entry.at.ms()));
    match event {
        Event::Visit(event) => visit(&mut out, entry, event),
        Event::Update(event) => update(&mut out, event),
        Event::BatchRows(event) => row(&mut out, entry, event),
        _ => {
            out.insert("type".into(), json!("other"));
        }
    }
    out
}

fn put(out: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        out.insert(name.into(), value.into());
    }
}

fn object(pairs: &[(&str, &str)]) -> Option<Value> {
    let object: Map<String, Value> = pairs.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

fn list(texts: &[&str]) -> Option<Value> {
    (!texts.is_empty()).then(|| json!(texts))
}

fn visit(out: &mut Map<String, Value>, entry: &Entry, event: &Visit<'_>) {
    out.insert("type".into(), json!("visit"));
    if entry.is_birth() {
        out.insert("created".into(), json!(true));
    }
    put(out, "occurredAt", event.occurred_at.map(time));
    put(out, "eventId", event.event_id);
    put(out, "sessionId", event.session_id);
    put(out, "addresses", list(&event.other_ids));
    put(out, "profile", object(&event.profile));
    put(out, "categories", list(&event.categories));
    let timed = event.delivery.as_ref().map(|delivery| {
        let timed =
            delivery.timed.iter().map(|&(ms, name, value)| json!({ "at": time(ms), "name": name, "value": value }));
        timed.collect::<Vec<_>>()
    });
    put(out, "timedProfile", timed.filter(|timed| !timed.is_empty()));
    if let Some(context) = &event.context {
        self::context(out, context);
    }
}

fn context(out: &mut Map<String, Value>, context: &VisitContext<'_>) {
    if context.url.is_some() || context.referrer.is_some() {
        let mut page = Map::new();
        put(&mut page, "url", context.url);
        put(&mut page, "referrer", context.referrer);
        out.insert("page".into(), Value::Object(page));
    }
    put(out, "mbox", context.mbox);
    put(out, "parameters", object(&context.parameters));
    put(out, "order", context.order.as_ref().map(order));
    put(out, "userAgent", context.user_agent);
    if let Some(delivery) = &context.delivery {
        put(out, "delivery", Some(self::delivery(delivery)));
    }
}

/// A delivery call: where the visitor is, and its parts in the order in which they were applied.
fn delivery(delivery: &DeliveryContext<'_>) -> Value {
    let mut out = Map::new();
    put(&mut out, "channel", Some(delivery.channel));
    put(&mut out, "timeOffsetInMinutes", delivery.time_offset_minutes);
    put(&mut out, "host", delivery.host);
    if let Some(geo) = &delivery.geo {
        let mut place = Map::new();
        put(&mut place, "ipAddress", geo.ip);
        put(&mut place, "latitude", geo.latitude);
        put(&mut place, "longitude", geo.longitude);
        put(&mut place, "countryCode", geo.country);
        put(&mut place, "stateCode", geo.state);
        put(&mut place, "city", geo.city);
        put(&mut place, "zip", geo.zip);
        out.insert("geo".into(), Value::Object(place));
    }
    let parts = delivery.parts.iter().map(|part| {
        let mut out = Map::new();
        put(&mut out, "what", Some(part.what));
        put(&mut out, "name", part.name);
        put(&mut out, "at", part.at.map(time));
        put(&mut out, "url", part.url);
        put(&mut out, "parameters", object(&part.parameters));
        put(&mut out, "order", part.order.as_ref().map(order));
        put(&mut out, "product", part.product);
        Value::Object(out)
    });
    out.insert("parts".into(), parts.collect());
    put(&mut out, "leftOut", (delivery.left_out > 0).then_some(delivery.left_out));
    Value::Object(out)
}

fn order(order: &Order<'_>) -> Value {
    json!({ "id": order.id, "total": order.total, "productIds": order.product_ids })
}

fn update(out: &mut Map<String, Value>, event: &Update<'_>) {
    out.insert("type".into(), json!("update"));
    put(out, "occurredAt", event.occurred_at.map(time));
    put(out, "eventId", event.event_id);
    put(out, "set", object(&event.set));
    put(out, "unset", list(&event.unset));
    put(out, "by", event.by);
}

fn row(out: &mut Map<String, Value>, entry: &Entry, event: &BatchRows<'_>) {
    out.insert("type".into(), json!("batch"));
    put(out, "occurredAt", Some(time(event.occurred_at)));
    put(out, "batchId", Some(event.batch));
    put(out, "by", event.by);
    let Some(Touch::Row { line, .. }) = entry.touch() else { return };
    put(out, "line", Some(*line));
    let Some(row) = event.rows.iter().find(|row| row.line == *line) else { return };
    let values = event.columns.iter().zip(&row.values);
    let set: Vec<_> = values.filter_map(|(&name, value)| value.map(|value| (name, value))).collect();
    let removed = row.removed.iter().filter_map(|&column| event.columns.get(usize::from(column)).copied());
    put(out, "set", object(&set));
    put(out, "unset", list(&removed.collect::<Vec<_>>()));
}

#[cfg(test)]
mod tests {
    use super::Cursor;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let cursor = Cursor { at_ms: 1_790_000_000_000, partition: 3, position: u64::MAX, event: 7, change: 500_000 };
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        for text in ["", "1", "1.2.3.4", "1.2.3.4.5.6", "1.2.3.4.x", "-1.2.3.4.5", "1.99999.3.4.5"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
