//! Every bound of the gateway, by name, with its source. Those of ids, names and rows stand in `cameo_profile::limits`.

/// A bulk file, decoded, is smaller than this, in bytes (TARGET_API §3: "under 50 MB"). What is sent is bounded alike.
pub const BODY_BYTES: usize = 50 << 20;
/// One line of a file, or one object of a JSON array, in bytes. Ours: the 64 KB that a profile holds, URL-encoded in
/// the worst way, and an id. A longer line fails alone and is never held in memory.
pub const LINE_BYTES: usize = 256 << 10;
/// Attributes that a header may name. Ours: no profile holds more.
pub const COLUMNS: usize = cameo_profile::limits::ATTRIBUTES;
/// Values of one row, in bytes: a profile holds no more (TARGET_API §3: "a profile's data ≤ 64 KB").
pub const ROW_BYTES: usize = cameo_profile::limits::PROFILE_BYTES;
/// Characters of a caller's text that an error repeats. Ours: enough to find it again.
pub const QUOTED_CHARS: usize = 64;
/// Uploads under way at once: from the first byte of the body until the last row is applied. Ours: each holds a spool
/// file and a few megabytes; past it a caller is told to come back.
pub const UPLOADS: usize = 8;
/// About how many bytes of rows make one event. Ours: an eighth of what an event may be, so that an unusually large
/// row still fits, and small enough that a frame takes several.
pub const CHUNK_BYTES: usize = 48 << 10;
/// Rows that wait for their event to fill, over all partitions of one upload, in bytes. Ours: with many partitions
/// events get smaller instead.
pub const CHUNKS_BYTES: usize = 4 << 20;
/// Events of one upload that are in the log's hands and not applied yet. Ours: two or three frames for every applier.
pub const EVENTS_IN_FLIGHT: usize = 48;
/// Batches on one page of a list. Ours; a cursor leads to the next.
pub const BATCHES_LISTED: usize = 100;
/// Pieces of a body that wait for the spool's thread. Ours: with the 64 KB of a connection's buffer half a megabyte.
pub const PIECES_WAITING: usize = 8;
/// How long the body of an upload may take. Ours: 50 MB at 100 KB/s, with room.
pub const UPLOAD_TIME: std::time::Duration = std::time::Duration::from_secs(600);
/// Bytes of one answer about batches; of what is larger there are several. Ours: half of what a NATS message holds.
pub const ANSWER_BYTES: usize = 500_000;
