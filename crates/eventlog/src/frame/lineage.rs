//! The chain of frames of every appender in one partition: finds frames that came twice, and frames that are missing.
//! This is how a loss inside the log engine is noticed. It is part of a replica's state and changes only by the log.
//!
//! Layout of its bytes in a checkpoint, version 1, little-endian: `[version: u8][count: u32]`, then per appender, by
//! rising id: `[id: u128][counter: u64][digest: u64][log time ms: u64]`.

use std::collections::BTreeMap;

use cameo_profile::LogTime;

use super::{AppenderId, FrameHeader};

/// An appender that was silent for longer, in milliseconds of log time, may be forgotten; it has to take a new id
/// before (the appender does so after half of it). Ours: a day outlives any retry.
pub const LINEAGE_SILENCE_MS: u64 = 24 * 60 * 60_000;
/// Appenders remembered per partition at most; past it the one silent for longest goes. Ours: a cluster of ten nodes
/// that restart every four minutes for a day.
const APPENDERS_MAX: usize = 4096;
/// Below this many nobody is forgotten at all: there is nothing to gain.
const APPENDERS_KEPT: usize = 64;

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 40;

/// What a frame is to what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// The next one: apply it.
    New,
    /// Seen before: drop it.
    Seen,
    /// Frames of this appender are missing before it.
    Hole {
        /// The counter that would be next.
        expected: u64,
        /// The counter it has.
        found: u64,
    },
    /// It follows another frame than the one seen before it, or is another frame than the one seen as this.
    BrokenDigest {
        /// The digest seen.
        expected: u64,
        /// The digest it names.
        found: u64,
    },
}

/// Bytes that are not a stored lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lineage of a partition cannot be read: {0}")]
pub struct LineageError(&'static str);

/// Per appender the last frame seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    appenders: BTreeMap<AppenderId, Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    counter: u64,
    digest: u64,
    at: LogTime,
}

impl Lineage {
    /// Nobody seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { appenders: BTreeMap::new() }
    }

    /// Judges the next frame of the partition, and remembers it when it is [`Admit::New`].
    pub fn admit(&mut self, header: &FrameHeader, digest: u64, at: LogTime) -> Admit {
        let (counter, expected) = match self.appenders.get(&header.appender) {
            Some(last) if header.counter < last.counter => return Admit::Seen,
            Some(last) if header.counter == last.counter && digest == last.digest => return Admit::Seen,
            Some(last) if header.counter == last.counter => {
                return Admit::BrokenDigest { expected: last.digest, found: digest };
            }
            Some(last) => (last.counter, last.digest),
            None => (0, 0),
        };
        if header.counter != counter + 1 {
            return Admit::Hole { expected: counter + 1, found: header.counter };
        }
        if header.prev_digest != expected {
            return Admit::BrokenDigest { expected, found: header.prev_digest };
        }
        if counter == 0 {
            self.make_room(at);
        }
        self.appenders.insert(header.appender, Last { counter: header.counter, digest, at });
        Admit::New
    }

    /// Appenders remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.appenders.len()
    }

    /// Whether no frame was ever admitted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.appenders.is_empty()
    }

    fn make_room(&mut self, now: LogTime) {
        if self.appenders.len() < APPENDERS_KEPT {
            return;
        }
        self.appenders.retain(|_, last| last.at.ms() + LINEAGE_SILENCE_MS >= now.ms());
        if self.appenders.len() >= APPENDERS_MAX
            && let Some(oldest) = self.appenders.iter().min_by_key(|(id, last)| (last.at, **id)).map(|(id, _)| *id)
        {
            self.appenders.remove(&oldest);
        }
    }

    /// For a checkpoint.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(5 + self.appenders.len() * ENTRY_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&(self.appenders.len() as u32).to_le_bytes());
        for (id, last) in &self.appenders {
            bytes.extend_from_slice(&id.0.to_le_bytes());
            for number in [last.counter, last.digest, last.at.ms()] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    /// From a checkpoint.
    ///
    /// # Errors
    /// When they are not what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, LineageError> {
        let Some((&[version, a, b, c, d], entries)) = bytes.split_first_chunk() else {
            return Err(LineageError("too short"));
        };
        if version != VERSION {
            return Err(LineageError("unknown version"));
        }
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() || entries.len() != u32::from_le_bytes([a, b, c, d]) as usize {
            return Err(LineageError("its length is not what it announces"));
        }
        let number = |entry: &[u8; ENTRY_BYTES], at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let mut appenders = BTreeMap::new();
        for entry in entries {
            let id = AppenderId(u128::from(number(entry, 0)) | u128::from(number(entry, 8)) << 64);
            let last = Last { counter: number(entry, 16), digest: number(entry, 24), at: LogTime(number(entry, 32)) };
            if appenders.insert(id, last).is_some() {
                return Err(LineageError("an appender stands in it twice"));
            }
        }
        Ok(Self { appenders })
    }
}
