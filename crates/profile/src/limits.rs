//! Every bound that the core knows, by name, with its source. Bounds of HTTP bodies and queues live with their owners.
//!
//! "Characters" are Unicode scalar values; "bytes" are bytes of UTF-8.

/// A client (tenant) code, in characters. Ours: it stands in paths, file names and NATS subjects.
pub const CLIENT_CODE_CHARS: usize = 64;
/// tntId and ECID, in characters (TARGET_API §1).
pub const TNT_ID_CHARS: usize = 128;
/// ECID, in characters (TARGET_API §1).
pub const ECID_CHARS: usize = 128;
/// thirdPartyId, in characters (TARGET_API §1).
pub const THIRD_PARTY_ID_CHARS: usize = 256;
/// A customer id, in characters. Ours: as a thirdPartyId.
pub const CUSTOMER_ID_CHARS: usize = 256;
/// The integration code of a customer id, in characters. Ours.
pub const INTEGRATION_CODE_CHARS: usize = 128;
/// sessionId, in characters (TARGET_API §1).
pub const SESSION_ID_CHARS: usize = 128;
/// eventId, in characters; the same as requestId (TARGET_API §1).
pub const EVENT_ID_CHARS: usize = 128;
/// Name of an mbox, in characters (TARGET_API §1).
pub const MBOX_NAME_CHARS: usize = 250;
/// Parameters of an mbox (TARGET_API §1).
pub const MBOX_PARAMETERS: usize = 100;
/// Name of an mbox parameter, in characters (TARGET_API §1).
pub const MBOX_PARAMETER_NAME_CHARS: usize = 128;
/// Value of an mbox parameter, in characters (TARGET_API §1).
pub const MBOX_PARAMETER_VALUE_CHARS: usize = 5000;
/// Profile parameters of one visit (TARGET_API §1).
pub const PROFILE_PARAMETERS: usize = 50;
/// Name of a profile parameter or attribute, in characters (TARGET_API §1).
pub const ATTRIBUTE_NAME_CHARS: usize = 128;
/// Value of a profile parameter of a visit, in characters (TARGET_API §1).
pub const PROFILE_PARAMETER_VALUE_CHARS: usize = 256;
/// Page URL and referrer, in characters (TARGET_API §1).
pub const URL_CHARS: usize = 4096;
/// User agent, in characters. Ours: servers in the field cut at 8 KB; no browser comes near this.
pub const USER_AGENT_CHARS: usize = 2048;
/// Order id, in characters (TARGET_API §1).
pub const ORDER_ID_CHARS: usize = 250;
/// A product id, in characters (TARGET_API §1).
pub const PRODUCT_ID_CHARS: usize = 128;
/// Product ids of an order (TARGET_API §1).
pub const ORDER_PRODUCTS: usize = 50;
/// Categories in one visit. Ours: as many as profile parameters.
pub const CATEGORIES: usize = 50;
/// One category, in characters. Ours: as a product id.
pub const CATEGORY_CHARS: usize = 128;
/// Categories that a profile keeps (TARGET_API §6).
pub const KEPT_CATEGORIES: usize = 5;
/// Customer ids in one visit. Ours.
pub const CUSTOMER_IDS: usize = 10;
/// Addresses that a profile of a plain visit remembers beside its home. Ours.
pub const OTHER_IDS: usize = 64;
/// Addresses linked to one profile. Ours; past it the one that did nothing for longest is let go: what it did stays, and
/// it begins anew.
pub const LINKED_ADDRESSES: usize = 1000;
/// Events and messages that wait in a partition to be carried to others, past which no further link is taken. Ours: each
/// is at most as large as an event, and normally gone within milliseconds.
pub const OUTBOX_MESSAGES: usize = 16_384;
/// Attributes in one message between partitions, in bytes; the rest follows. Ours: with the largest event beside it the
/// message still fits into a frame.
pub const MESSAGE_ATTRIBUTE_BYTES: usize = 160 * 1024;
/// What a message says of the addresses linked to a profile that moves, in bytes. Ours: with attributes and the largest event
/// beside it the message still fits into a frame. Past it the idlest addresses are let go as the profile moves.
pub const MESSAGE_PARTS_BYTES: usize = 192 * 1024;
/// What a message says of the addresses that point to those it links, in bytes; of more it says nothing. Ours: as above.
pub const MESSAGE_HELD_BYTES: usize = 48 * 1024;
/// The way that a message has come, in bytes; past it its chain of aliases is cut. Ours: as above.
pub const MESSAGE_TRAIL_BYTES: usize = 24 * 1024;
/// A profile with everything that its addresses brought, packed, in bytes. Ours: past it what another one brings is
/// counted, but its attributes are not kept.
pub const LINKED_PROFILE_BYTES: usize = 1 << 20;
/// Steps that a message makes at most; there its chain of aliases is cut. Ours: a walk has a handful of steps, and longer
/// chains come from customer ids that were linked to each other one by one.
pub const WALK_STEPS: u8 = 250;
/// How far ahead of the node's clock `occurredAt` may be, in milliseconds. Ours: room for clock skew, no more.
pub const OCCURRED_AT_AHEAD_MS: u64 = 5 * 60_000;
/// A profile, packed, in bytes: attributes, ids, counters (TARGET_API §3: "a profile's data ≤ 64 KB").
pub const PROFILE_BYTES: usize = 65_536;
/// Attributes that a profile holds. Ours.
pub const ATTRIBUTES: usize = 1000;
/// Removed attributes whose removal time a profile remembers, so that a late event cannot bring one back. Ours;
/// past it the oldest removal is forgotten.
pub const REMEMBERED_REMOVALS: usize = 64;
/// Attribute and category names a partition interns; past it names are stored in the profiles. Ours.
pub const INTERNED_NAMES: usize = 4096;
/// Idle time that ends a session, in milliseconds (TARGET_API §1).
pub const SESSION_IDLE_MS: u64 = 30 * 60_000;
/// Days without activity after which a profile is gone, unless its client says otherwise (TARGET_API §6).
pub const LIFETIME_DAYS_DEFAULT: u16 = 14;
/// The longest lifetime a client can set, in days (TARGET_API §6).
pub const LIFETIME_DAYS_MAX: u16 = 90;
/// How long an event id is remembered, in milliseconds of log time. Ours: longer than any client keeps retrying.
pub const EVENT_ID_WINDOW_MS: u64 = 60 * 60_000;
/// Event ids a partition remembers at most; past it the oldest is forgotten early. Ours: 16 partitions hold 4 million.
pub const EVENT_IDS_REMEMBERED: usize = 262_144;
/// Batch id, in characters: client, time and random part.
pub const BATCH_ID_CHARS: usize = 128;
/// Idempotency-Key, in characters. Ours: the usual bound in the field.
pub const IDEMPOTENCY_KEY_CHARS: usize = 255;
/// How long a batch's status is kept after its last change, in milliseconds of log time. Ours: as the log.
pub const BATCH_KEPT_MS: u64 = 30 * 86_400_000;
/// Batches a partition remembers; past it one is forgotten: of those that are closed the one unchanged for longest. Ours.
pub const BATCHES_REMEMBERED: usize = 4096;
/// Batches among them that may be open; past it the open one unchanged for longest is forgotten instead. Ours: a file
/// that is under way must not lose its place, and files that nobody ever completes must not push out all others.
pub const BATCHES_OPEN: usize = BATCHES_REMEMBERED / 2;
/// Row errors kept for the report of one batch. Ours; the report says when there were more.
pub const BATCH_ERRORS_KEPT: usize = 10_000;
/// Bytes of row errors a partition keeps over all batches; past it the oldest report is dropped. Ours.
pub const BATCH_ERROR_BYTES: usize = 4 << 20;
/// Rows in one batch (TARGET_API §3).
pub const BATCH_ROWS: u32 = 500_000;
/// One event as it stands in the log, in bytes. Ours: well under what a frame and a NATS message hold.
pub const EVENT_BYTES: usize = 512 * 1024;
