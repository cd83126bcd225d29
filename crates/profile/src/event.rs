//! What can happen to a profile, and how it stands in the log: one kind byte, then a MessagePack array.
//!
//! Layout of one event: `[kind: u8][body: MessagePack array, fields in the order of the struct]`.
//! Kind bytes are never reused. A field is only ever added at the end, with `#[serde(default)]`, so that every
//! version ever written can be read; `tests/golden` holds one of each.

use serde::{Deserialize, Serialize};

/// One entry of the log, borrowed from the frame it stands in.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A visitor did something on a page or in an app.
    Visit(Visit<'a>),
    /// A caller of the API changed attributes of one profile.
    Update(Update<'a>),
    /// A profile is to be forgotten.
    Erase(Erase<'a>),
    /// A bulk file has been validated; its rows follow.
    BatchOpened(BatchOpened<'a>),
    /// Rows of a bulk file that belong to this partition.
    BatchRows(BatchRows<'a>),
    /// Rows of a bulk file that failed validation, for its report.
    BatchErrors(BatchErrors<'a>),
    /// A client's settings, as far as the fold needs them.
    ClientSettings(ClientSettings<'a>),
    /// Every row of a bulk file has been applied.
    BatchClosed(BatchClosed<'a>),
    /// An address is to get a profile of its own back.
    Unlink(Unlink<'a>),
    /// An alias seems to lead nowhere any more.
    DropAlias(DropAlias<'a>),
    /// Messages from another partition have arrived.
    Relay(Relay<'a>),
    /// Messages to another partition have arrived there.
    Delivered(Delivered),
}

/// How an event came to the partition that it stands in (ADR 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Route {
    /// It stands where its address lives, and links nothing: all there was before links.
    #[default]
    Plain,
    /// It stands in the partition of the lowest address it names; the fold finds the profile from there.
    Enter,
    /// It stands at the home that the edge saw; the fold sends it to where it should have entered, if that was wrong.
    Direct,
}

impl From<u8> for Route {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::Plain,
            2 => Self::Direct,
            _ => Self::Enter,
        }
    }
}

impl From<Route> for u8 {
    fn from(route: Route) -> Self {
        match route {
            Route::Plain => 0,
            Route::Enter => 1,
            Route::Direct => 2,
        }
    }
}

/// A visit (design §5). It stands in the partition of `home`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Visit<'a> {
    /// The tenant.
    pub client: &'a str,
    /// Canonical text of the address at which it enters: the lowest that the visit named, or with [`Route::Direct`] the
    /// one the profile lives at.
    #[serde(borrow)]
    pub home: &'a str,
    /// The edge made up the tntId in `home`, as the caller named no id.
    pub generated: bool,
    /// The caller's id for this event; a second event with it, for the same visitor, changes nothing.
    pub event_id: Option<&'a str>,
    /// When it happened by the caller's word, in ms since 1970; else the log time counts.
    pub occurred_at: Option<u64>,
    /// The caller's session.
    pub session_id: Option<&'a str>,
    /// Profile parameters: attribute name and value.
    #[serde(borrow)]
    pub profile: Vec<(&'a str, &'a str)>,
    /// Categories viewed, in order.
    #[serde(borrow)]
    pub categories: Vec<&'a str>,
    /// Canonical text of the other addresses that the visit named; lowest first, unless the route is plain.
    #[serde(borrow)]
    pub other_ids: Vec<&'a str>,
    /// What history keeps of it beside the profile's own data.
    #[serde(borrow)]
    pub context: Option<VisitContext<'a>>,
    /// How it came here.
    #[serde(default)]
    pub route: Route,
    /// With [`Route::Direct`]: the lowest address that the visit named.
    #[serde(borrow, default)]
    pub via: &'a str,
    /// What only delivery calls bring along. Left out of the bytes where there is nothing, so it must stay the last field
    /// (another one goes into [`DeliveryData`]).
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Box<DeliveryData<'a>>>,
}

/// What a delivery call does to a profile beside what any visit does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeliveryData<'a> {
    /// It only makes an id known: no visit is counted, no session goes on.
    pub uncounted: bool,
    /// Profile parameters of notifications: when each was set by the caller's word in ms since 1970, name, value.
    #[serde(borrow)]
    pub timed: Vec<(u64, &'a str, &'a str)>,
}

/// Where and how a visit happened. The fold does not look at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VisitContext<'a> {
    /// Page URL.
    pub url: Option<&'a str>,
    /// Referring URL.
    pub referrer: Option<&'a str>,
    /// Name of the mbox.
    pub mbox: Option<&'a str>,
    /// mbox parameters.
    #[serde(borrow)]
    pub parameters: Vec<(&'a str, &'a str)>,
    /// An order placed with the visit.
    #[serde(borrow)]
    pub order: Option<Order<'a>>,
    /// User agent of the visitor.
    pub user_agent: Option<&'a str>,
    /// What a delivery call says beside that. Left out of the bytes where there is nothing, so it must stay the last field
    /// (another one goes into [`DeliveryContext`]).
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Box<DeliveryContext<'a>>>,
}

/// A delivery call: one visit with several parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeliveryContext<'a> {
    /// `web` or `mobile`.
    pub channel: &'a str,
    /// The visitor's offset from UTC.
    pub time_offset_minutes: Option<f64>,
    /// Host of the page, by the caller's word.
    pub host: Option<&'a str>,
    /// Where the visitor is, by the caller's word.
    #[serde(borrow)]
    pub geo: Option<Geo<'a>>,
    /// In the order in which they were applied.
    #[serde(borrow)]
    pub parts: Vec<Part<'a>>,
    /// Parameters, and parts with nothing else, that were not kept: together they are larger than an event may be.
    pub left_out: u32,
}

/// Where a visitor is, by the caller's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Geo<'a> {
    /// IPv4 or IPv6.
    pub ip: Option<&'a str>,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// ISO 3166-1 alpha-2.
    pub country: Option<&'a str>,
    /// ISO 3166-2.
    pub state: Option<&'a str>,
    /// City.
    pub city: Option<&'a str>,
    /// Postal code.
    pub zip: Option<&'a str>,
}

/// A page load, mbox, view or notification of a delivery call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part<'a> {
    /// `execute.pageLoad`, `execute.mbox`, `prefetch.pageLoad`, `prefetch.mbox`, `prefetch.view`, `click` or `display`.
    pub what: &'a str,
    /// Of an mbox or a view.
    pub name: Option<&'a str>,
    /// When a click or display happened by the caller's word, in ms since 1970.
    pub at: Option<u64>,
    /// Page URL, where it is another one than the visit's.
    pub url: Option<&'a str>,
    /// mbox parameters.
    #[serde(borrow)]
    pub parameters: Vec<(&'a str, &'a str)>,
    /// An order placed with it.
    #[serde(borrow)]
    pub order: Option<Order<'a>>,
    /// The product viewed.
    pub product: Option<&'a str>,
}

/// An order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Order<'a> {
    /// Order id.
    pub id: &'a str,
    /// Total, in the shop's currency.
    pub total: f64,
    /// Products bought.
    #[serde(borrow)]
    pub product_ids: Vec<&'a str>,
}

/// Attributes set and removed by a call (TARGET_API §2, design §5 PATCH). Never creates a profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Update<'a> {
    /// The tenant.
    pub client: &'a str,
    /// Canonical text of the profile's address.
    #[serde(borrow)]
    pub address: &'a str,
    /// The caller's id for this call (`requestId`, `Idempotency-Key`).
    pub event_id: Option<&'a str>,
    /// When it happened by the caller's word, in ms since 1970.
    pub occurred_at: Option<u64>,
    /// Attributes to set.
    #[serde(borrow)]
    pub set: Vec<(&'a str, &'a str)>,
    /// Attributes to remove.
    #[serde(borrow)]
    pub unset: Vec<&'a str>,
    /// How it came here.
    #[serde(default)]
    pub route: Route,
    /// With [`Route::Direct`]: the address that the call named.
    #[serde(borrow, default)]
    pub via: &'a str,
    /// Who made it, if known: `token:NAME`, `user:NAME` or `key:NAME`. Left out of the bytes where it is not, so it must stay
    /// the last field.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
}

/// A profile to forget (design §5 DELETE).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Erase<'a> {
    /// The tenant.
    pub client: &'a str,
    /// Canonical text of the profile's address.
    #[serde(borrow)]
    pub address: &'a str,
    /// Who made it, if known: `token:NAME`, `user:NAME` or `key:NAME`. Left out of the bytes where it is not, so it must stay
    /// the last field.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
}

/// The head of a bulk file, written to [`batch_partition_text`] once the whole file has been validated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchOpened<'a> {
    /// The tenant.
    pub client: &'a str,
    /// `CLIENT-EPOCHMS-RANDOM`.
    pub batch: &'a str,
    /// The caller's `Idempotency-Key`. The first batch with a key wins; see [`crate::state::BatchOpenedOutcome`].
    pub idempotency_key: Option<&'a str>,
    /// xxh3-128 of the decoded body, so that a key used for another file is noticed.
    #[serde(with = "serde_bytes_16")]
    pub digest: [u8; 16],
    /// 1, 2 or 3.
    pub api_version: u8,
    /// The gateway process that submits it, new at every start.
    pub opened_by: &'a str,
    /// When it was accepted, in ms since 1970: the time of every row's values.
    pub opened_at: u64,
    /// Data rows in the file.
    pub rows: u32,
    /// Rows that will be appended in `BatchRows`.
    pub rows_to_apply: u32,
    /// Rows that failed validation.
    pub rows_failed: u32,
    /// Rows without any value, which change nothing.
    pub rows_skipped: u32,
}

/// Some rows of a bulk file, in the order of the file, all of one partition.
///
/// A partition sees the rows of a batch in rising order of `line`; rows up to the highest it has seen are duplicates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchRows<'a> {
    /// The tenant.
    pub client: &'a str,
    /// The batch.
    pub batch: &'a str,
    /// `tnt` or `tp`: the kind of all ids in `rows`.
    pub kind: &'a str,
    /// Whether an unknown id gets a profile (v2, v3).
    pub create: bool,
    /// The time of the values, in ms since 1970: `opened_at` of the batch.
    pub occurred_at: u64,
    /// Attribute names; a row's values stand in this order.
    #[serde(borrow)]
    pub columns: Vec<&'a str>,
    /// The rows.
    #[serde(borrow)]
    pub rows: Vec<BatchRow<'a>>,
    /// Line of the row before these in this partition, 0 for the first ones. Rows that do not follow what the
    /// partition has seen are not applied, so that a lost event cannot be skipped over.
    pub after: u32,
    /// Who made it, if known: `token:NAME`, `user:NAME` or `key:NAME`. Left out of the bytes where it is not, so it must stay
    /// the last field.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
}

/// One row of a bulk file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchRow<'a> {
    /// Line of the file, counted from 1: what errors name, and what tells a repeated row from a new one.
    pub line: u32,
    /// The bare id.
    pub id: &'a str,
    /// Values by column; nothing = unchanged. May be shorter than the columns.
    #[serde(borrow)]
    pub values: Vec<Option<&'a str>>,
    /// Columns to remove (v3 `\N`).
    pub removed: Vec<u16>,
}

/// Failed rows of a batch, in the order of the file, written to [`batch_partition_text`] after its head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchErrors<'a> {
    /// The tenant.
    pub client: &'a str,
    /// The batch.
    pub batch: &'a str,
    /// The rows.
    #[serde(borrow)]
    pub errors: Vec<RowError<'a>>,
}

/// Why one row failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowError<'a> {
    /// Line of the file, counted from 1 (the header is line 1 of a CSV batch).
    pub line: u32,
    /// Name of the column, if one is to blame.
    pub column: Option<&'a str>,
    /// What is wrong, for people.
    pub reason: &'a str,
}

/// Settings that the fold needs. Written to every partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientSettings<'a> {
    /// The tenant.
    pub client: &'a str,
    /// Days without activity after which a profile is gone, 1–90.
    pub lifetime_days: u16,
}

/// What came of a bulk file, once every row has been applied. Written to its head's partition: the others forget what
/// they counted after a while, and a batch that is complete stays so for as long as its head is known. Then written to
/// the others that have rows of it, which learn that they may forget them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchClosed<'a> {
    /// The tenant.
    pub client: &'a str,
    /// The batch.
    pub batch: &'a str,
    /// Rows that changed a profile, new ones included.
    pub updated: u64,
    /// Rows that made a new profile.
    pub created: u64,
    /// Rows whose id is unknown (v1).
    pub not_found: u64,
    /// Rows that a profile could not take.
    pub failed: u64,
}

/// An address to be given a profile of its own again, without what others did (ADR 8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlink<'a> {
    /// The tenant.
    pub client: &'a str,
    /// Canonical text of the address that is to leave.
    pub address: &'a str,
    /// Epoch of the alias that the edge saw; another one has been set since by somebody else.
    pub epoch: u64,
    /// As of [`Erase::by`].
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
}

/// An alias whose home seems to have ended: the fold looks, and drops it if that is so (ADR 8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropAlias<'a> {
    /// The tenant.
    pub client: &'a str,
    /// Canonical text of the address.
    pub address: &'a str,
    /// Epoch of the alias that is meant.
    pub epoch: u64,
}

/// Messages that stood in another partition's outbox (ADR 8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay<'a> {
    /// The partition they come from.
    pub from: u16,
    /// Number of the first; the others follow without a gap.
    pub first: u64,
    /// The messages, as the outbox has them.
    #[serde(borrow)]
    pub messages: Vec<MessageBytes<'a>>,
}

/// Bytes of a message between partitions; what they say is `state/message.rs`'s business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageBytes<'a>(pub &'a [u8]);

impl Serialize for MessageBytes<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MessageBytes<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(from).map(Self)
    }
}

/// Messages of this partition's outbox that have arrived (ADR 8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The partition they went to.
    pub to: u16,
    /// Number of the last one that has arrived there.
    pub upto: u64,
}

/// The text whose partition holds the head of a batch: its key if it has one, so that two uploads with one key meet.
#[must_use]
pub fn batch_partition_text(batch: &str, idempotency_key: Option<&str>) -> String {
    match idempotency_key {
        Some(key) => ["key:", key].concat(),
        None => ["batch:", batch].concat(),
    }
}

/// An event could not be read from the log.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the event is empty")]
    Empty,
    /// A kind byte this version does not know.
    #[error("unknown event kind {0}; the log was written by a newer version")]
    UnknownKind(u8),
    /// The body is not what its kind says.
    #[error("the body of an event of kind {kind} does not decode")]
    Body {
        /// The kind byte.
        kind: u8,
        /// Why.
        source: rmp_serde::decode::Error,
    },
    /// A message from another partition is none of ours.
    #[error("message {number} of partition {from} does not decode")]
    Message {
        /// Where it comes from.
        from: u16,
        /// Its number.
        number: u64,
    },
}

/// Kind bytes. Never reused.
mod kind {
    pub(super) const VISIT: u8 = 1;
    pub(super) const UPDATE: u8 = 2;
    pub(super) const ERASE: u8 = 3;
    pub(super) const BATCH_OPENED: u8 = 4;
    pub(super) const BATCH_ROWS: u8 = 5;
    pub(super) const BATCH_ERRORS: u8 = 6;
    pub(super) const CLIENT_SETTINGS: u8 = 7;
    pub(super) const BATCH_CLOSED: u8 = 8;
    pub(super) const UNLINK: u8 = 9;
    pub(super) const DROP_ALIAS: u8 = 10;
    pub(super) const RELAY: u8 = 11;
    pub(super) const DELIVERED: u8 = 12;
}

impl<'a> Event<'a> {
    /// Appends the event's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Visit(e) => put(out, kind::VISIT, e),
            Self::Update(e) => put(out, kind::UPDATE, e),
            Self::Erase(e) => put(out, kind::ERASE, e),
            Self::BatchOpened(e) => put(out, kind::BATCH_OPENED, e),
            Self::BatchRows(e) => put(out, kind::BATCH_ROWS, e),
            Self::BatchErrors(e) => put(out, kind::BATCH_ERRORS, e),
            Self::ClientSettings(e) => put(out, kind::CLIENT_SETTINGS, e),
            Self::BatchClosed(e) => put(out, kind::BATCH_CLOSED, e),
            Self::Unlink(e) => put(out, kind::UNLINK, e),
            Self::DropAlias(e) => put(out, kind::DROP_ALIAS, e),
            Self::Relay(e) => put(out, kind::RELAY, e),
            Self::Delivered(e) => put(out, kind::DELIVERED, e),
        }
    }

    /// Reads an event that [`Self::encode`] wrote, in this version or an earlier one.
    ///
    /// # Errors
    /// When the bytes are none of ours; the caller names the position and stops (design, promise 5).
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&kind, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
        Ok(match kind {
            kind::VISIT => Self::Visit(take(kind, body)?),
            kind::UPDATE => Self::Update(take(kind, body)?),
            kind::ERASE => Self::Erase(take(kind, body)?),
            kind::BATCH_OPENED => Self::BatchOpened(take(kind, body)?),
            kind::BATCH_ROWS => Self::BatchRows(take(kind, body)?),
            kind::BATCH_ERRORS => Self::BatchErrors(take(kind, body)?),
            kind::CLIENT_SETTINGS => Self::ClientSettings(take(kind, body)?),
            kind::BATCH_CLOSED => Self::BatchClosed(take(kind, body)?),
            kind::UNLINK => Self::Unlink(take(kind, body)?),
            kind::DROP_ALIAS => Self::DropAlias(take(kind, body)?),
            kind::RELAY => Self::Relay(relay(take(kind, body)?)?),
            kind::DELIVERED => Self::Delivered(take(kind, body)?),
            other => return Err(DecodeError::UnknownKind(other)),
        })
    }

    /// The tenant it belongs to; empty for messages between partitions, which may be of several.
    #[must_use]
    pub fn client(&self) -> &'a str {
        match self {
            Self::Visit(e) => e.client,
            Self::Update(e) => e.client,
            Self::Erase(e) => e.client,
            Self::BatchOpened(e) => e.client,
            Self::BatchRows(e) => e.client,
            Self::BatchErrors(e) => e.client,
            Self::ClientSettings(e) => e.client,
            Self::BatchClosed(e) => e.client,
            Self::Unlink(e) => e.client,
            Self::DropAlias(e) => e.client,
            Self::Relay(_) | Self::Delivered(_) => "",
        }
    }
}

fn put<T: Serialize>(out: &mut Vec<u8>, kind: u8, body: &T) {
    out.push(kind);
    rmp_serde::encode::write(out, body).expect("plain data always encodes into memory");
}

fn take<'a, T: Deserialize<'a>>(kind: u8, body: &'a [u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind, source })
}

/// The fold cannot fail, so what it could not read is found here.
fn relay(relay: Relay<'_>) -> Result<Relay<'_>, DecodeError> {
    let bad = relay.messages.iter().zip(relay.first..).find(|(message, _)| !crate::state::is_message(message.0));
    match bad {
        Some((_, number)) => Err(DecodeError::Message { from: relay.from, number }),
        None => Ok(relay),
    }
}

/// 16 bytes as one MessagePack binary, not as an array of numbers.
mod serde_bytes_16 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 16], D::Error> {
        let bytes = <&[u8]>::deserialize(from)?;
        bytes.try_into().map_err(|_| D::Error::invalid_length(bytes.len(), &"16 bytes"))
    }
}

#[cfg(test)]
mod tests;
