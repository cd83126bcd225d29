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
