//! The control bucket: one totally ordered stream of keyed entries, which the control plane changes by compare-and-set
//! and every node watches whole.
//!
//! Promises of every backend, stated by the conformance suite (`conformance`):
//! - Revisions rise by every accepted write, over all keys, and are never used twice, also after a restart.
//! - [`Bucket::put`] with [`Expected::At`] or [`Expected::Absent`] succeeds for at most one of several writers.
//! - [`Bucket::get`] sees every write that was answered before it was called.
//! - A [`Watch`] delivers in the order of revisions, none twice. An entry that a later one of its key has replaced may be
//!   left out; nothing else may. So a watch that lags may be past R without the effect of R: what replaced it is still to
//!   come. Whoever has applied a change that is marked as the [last](Change::last) one knows the effect of everything up
//!   to it.
//! - A watch that cannot prove that what comes next follows what it has delivered ends and says so ([`WatchEnd`]): places
//!   are given twice where a store comes back with an older disk (ADR 13).
//! - What [`Bucket::put`] answered with [`Durability::Durable`] survives a power cut. Heartbeats need not.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod jetstream;
mod local;

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use jetstream::NatsBucket;
pub use local::{LocalBucket, OpenError};

/// Bytes of one value. Ours: a client's record with its most tokens and origins stays below it.
pub const VALUE_BYTES: usize = 128 << 10;
/// Characters of a key.
pub const KEY_CHARS: usize = 200;

/// A place in the bucket's order; the first write has 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of an entry: `kind.name`, of `a-z A-Z 0-9 - _ . =`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

/// A text that cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key of the control bucket has 1 to {KEY_CHARS} of a-z A-Z 0-9 - _ . = and neither starts nor ends with a dot"
)]
pub struct BadKey;

impl Key {
    /// Checks it.
    ///
    /// # Errors
    /// When a backend could not take it.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let dots = text.starts_with('.') || text.ends_with('.') || text.contains("..");
        if text.is_empty() || text.len() > KEY_CHARS || dots || !text.chars().all(fits) {
            return Err(BadKey);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows `kind.`, if the key is of that kind.
    #[must_use]
    pub fn name_of(&self, kind: &str) -> Option<&str> {
        self.0.strip_prefix(kind)?.strip_prefix('.')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an entry is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub value: Bytes,
    /// When it was written.
    pub revision: Revision,
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which entry.
    pub key: Key,
    /// Its new value; `None` when it was deleted.
    pub value: Option<Bytes>,
    /// Its place.
    pub revision: Revision,
    /// Whether nothing was behind it when it was taken out of the bucket: the watch had caught up, and what it has
    /// delivered is every entry as it stood at this revision.
    pub last: bool,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// The key has no entry.
    Absent,
    /// The key's entry is of this revision.
    At(Revision),
}

/// What an answered write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    Durable,
    /// Not even the end of the process that holds the bucket, where it is one: for heartbeats.
    Ephemeral,
}

/// Why a write did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Somebody else was first. Nothing was written: read again, decide again.
    #[error("somebody else has changed it meanwhile")]
    Conflict,
    /// Nothing was written.
    #[error("nothing was stored: {0}")]
    Unavailable(String),
    /// Nobody knows. Reading tells.
    #[error("it is not known whether it was stored: {0}")]
    Unknown(String),
}

/// The bucket cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control bucket cannot be read: {0}")]
pub struct Unreadable(pub String);

/// Why a watch has ended, by what whoever follows the bucket has to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// It cannot go on for now. A new one from the last revision goes on where it was.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Something was not heard, and whether what was read before still stands there nobody can say: all is read again,
    /// from the beginning.
    #[error("the control bucket is read again from its beginning: {0}")]
    Missed(String),
    /// What was read is not there any more: places are given a second time. All is read again, from the beginning, and
    /// what was proven by what was read is proven no more.
    #[error("the control bucket has lost what was read of it: {0}")]
    Lost(String),
}

/// A watch that goes on until it is dropped.
pub trait Watch: Send {
    /// The next change; waits for it. May be dropped half-way without losing one.
    ///
    /// # Errors
    /// When the watch has ended, then and at every further call.
    fn next(&mut self) -> BoxFuture<'_, Result<Change, WatchEnd>>;
}

/// A control bucket.
pub trait Bucket: Send + Sync + 'static {
    /// The entry of a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Unreadable>>;

    /// Writes the entry of a key, and says at which place.
    ///
    /// # Errors
    /// Says whether it may have been stored.
    fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Revision, PutError>>;

    /// Deletes the entry of a key, durably.
    ///
    /// # Errors
    /// Says whether it may have been deleted.
    fn delete(&self, key: Key, expected: Expected) -> BoxFuture<'_, Result<Revision, PutError>>;

    /// Everything after a revision, and what is still to come. After revision 0, that is every entry.
    ///
    /// # Errors
    /// When it cannot be read.
    fn watch(&self, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, Unreadable>>;
}
