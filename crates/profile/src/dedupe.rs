//! Event ids seen lately, so that a retried event changes nothing.
//!
//! Bounded by time ([`limits::EVENT_ID_WINDOW_MS`]) and number ([`limits::EVENT_IDS_REMEMBERED`]), both measured by
//! the log alone, so that every replica forgets the same ids at the same position.

use std::collections::{HashMap, VecDeque};

use xxhash_rust::xxh3::Xxh3Default;

use crate::limits;
use crate::time::LogTime;
use crate::varint;

/// A 128-bit hash of client, visitor and event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EventKey(u128);

impl EventKey {
    /// Of a visit. The same event id of two visitors is two events; `address` is empty when the edge made up the visitor's id.
    pub(crate) fn visit(client: u32, address: &str, event_id: &str) -> Self {
        Self::new(&[], client, address, event_id)
    }

    /// Of an update: another event than a visit of the same id, as servers use one id for all that belongs to a request.
    pub(crate) fn update(client: u32, address: &str, event_id: &str) -> Self {
        Self::new(b"update", client, address, event_id)
    }

    fn new(kind: &[u8], client: u32, address: &str, event_id: &str) -> Self {
        let mut hash = Xxh3Default::new();
        hash.update(kind);
        hash.update(&client.to_le_bytes());
        hash.update(&(address.len() as u64).to_le_bytes());
        hash.update(address.as_bytes());
        hash.update(event_id.as_bytes());
        Self(hash.digest128())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    key: EventKey,
    at: LogTime,
    /// The id that was made up for the visitor, to be told again.
    tnt_id: Option<Box<str>>,
}

/// The ids of one partition, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventIds {
    seen: VecDeque<Seen>,
    /// Number of the first in `seen`; numbers rise for ever.
    first: u64,
    by_key: HashMap<EventKey, u64, Passthrough>,
    /// What the last checkpoint has: numbers from `.0` up to `.1`.
    saved: (u64, u64),
}

/// The keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passthrough(u64);

impl std::hash::BuildHasher for Passthrough {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for Passthrough {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 ^= value as u64 ^ (value >> 64) as u64;
    }
}

impl EventIds {
    /// `Some` when the event has been seen; with the id that was made up then.
    pub(crate) fn find(&self, key: EventKey) -> Option<Option<&str>> {
        let number = *self.by_key.get(&key)?;
        let seen = self.seen.get(usize::try_from(number - self.first).ok()?)?;
        Some(seen.tnt_id.as_deref())
    }

    /// Remembers an event, and forgets what is past the bounds.
    pub(crate) fn insert(&mut self, key: EventKey, at: LogTime, tnt_id: Option<&str>) {
        self.push(Seen { key, at, tnt_id: tnt_id.map(Into::into) });
        while let Some(oldest) = self.seen.front() {
            let old = oldest.at.0 + limits::EVENT_ID_WINDOW_MS <= at.0;
            if !old && self.seen.len() <= limits::EVENT_IDS_REMEMBERED {
                break;
            }
            self.by_key.remove(&oldest.key);
            self.seen.pop_front();
            self.first += 1;
        }
    }

    fn push(&mut self, seen: Seen) {
        self.by_key.insert(seen.key, self.first + self.seen.len() as u64);
        self.seen.push_back(seen);
    }

    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }

    /// All ids with their numbers, as stored.
    pub(crate) fn stored(&self, from: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let start = self.first.max(from);
        self.seen.iter().skip(skip).enumerate().map(move |(i, seen)| (start + i as u64, encode(seen)))
    }

    /// Numbers that the last checkpoint has and that are forgotten now, and the first that it has not; then counts all
    /// as saved.
    pub(crate) fn take_changes(&mut self) -> (std::ops::Range<u64>, u64) {
        let end = self.first + self.seen.len() as u64;
        let (from, to) = std::mem::replace(&mut self.saved, (self.first, end));
        (from..self.first.min(to), to)
    }

    /// The checkpoint that took these changes was not written.
    pub(crate) fn put_back(&mut self, removed_from: u64, added_from: u64) {
        self.saved = (self.saved.0.min(removed_from), self.saved.1.min(added_from));
    }

    /// Takes an id from a checkpoint; numbers come without a gap.
    pub(crate) fn restore(&mut self, number: u64, bytes: &[u8]) -> bool {
        if self.seen.is_empty() {
            self.first = number;
        } else if number != self.first + self.seen.len() as u64 {
            return false;
        }
        let Some(seen) = decode(bytes) else { return false };
        self.push(seen);
        self.saved = (self.first, number + 1);
        true
    }
}

/// Layout: `key (16 bytes, little-endian), log time (varint), [tntId (text to the end)]`.
fn encode(seen: &Seen) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.extend_from_slice(&seen.key.0.to_le_bytes());
    varint::put(&mut out, seen.at.0);
    out.extend_from_slice(seen.tnt_id.as_deref().unwrap_or_default().as_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Seen> {
    let mut from = varint::Reader::new(bytes);
    let key = EventKey(u128::from_le_bytes(from.take(16).try_into().ok()?));
    let at = LogTime(from.varint());
    let tnt_id = std::str::from_utf8(from.rest()).ok()?;
    (!from.is_bad()).then(|| Seen { key, at, tnt_id: (!tnt_id.is_empty()).then(|| tnt_id.into()) })
}
