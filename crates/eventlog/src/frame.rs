//! The frame: what is appended to a partition in one piece. Header and events; what an event means is not known here.
//!
//! Layout, version 1; integers are little-endian, offsets in bytes:
//! ```text
//!  0       4        6          8                    16
//!  +-------+--------+----------+--------------------+
//!  | magic | version| partition| checksum           |
//!  | CMFR  | u16    | u16      | u64                |
//! 16-------+--------+----------+--------------------+
//!  | appender id, u128: new for every start of a process      |
//! 32--------------------------------------------------+
//!  | counter, u64: 1, 2, 3 ... per appender and partition     |
//! 40--------------------------------------------------+
//!  | checksum of this appender's previous frame in the        |
//!  | partition, u64; 0 when the counter is 1                  |
//! 48----------------------+---------------------------+
//!  | events, u32          | body length, u32          |
//! 56----------------------+---------------------------+
//!  | body: per event its length, u32, and its bytes           |
//!  +----------------------------------------------------------+
//! ```
//! The checksum is XXH3-64 over bytes 16 to the end, seeded with bytes 0 to 8, so that it covers all but itself. It is
//! also the frame's **digest**: each frame names the digest of the one before, so the frames of an appender form a
//! chain that [`Lineage`] checks. It finds accidents, not forgers: whoever writes to the log's storage is trusted.

mod lineage;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use cameo_profile::Partition;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use lineage::{Admit, LINEAGE_SILENCE_MS, Lineage, LineageError};

/// The newest format version, and the only one so far.
pub const VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 56;
/// The largest frame, in bytes: a NATS message holds 1 MiB with its headers, so that both backends can take it.
pub const FRAME_BYTES_MAX: usize = 1_000_000;
/// Bytes that stand before each event.
pub const EVENT_PREFIX_BYTES: usize = 4;

const MAGIC: [u8; 4] = *b"CMFR";

/// Who wrote a frame: random, new per process start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppenderId(pub u128);

impl fmt::Display for AppenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Format version.
    pub version: u16,
    /// The partition it was made for.
    pub partition: Partition,
    /// Who made it.
    pub appender: AppenderId,
    /// Its number among the appender's frames for the partition, from 1.
    pub counter: u64,
    /// Digest of the appender's frame before it there; 0 for the first.
    pub prev_digest: u64,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not even a header.
    #[error("{found} bytes are too few for a frame header of {HEADER_BYTES}")]
    TooShort {
        /// Bytes given.
        found: usize,
    },
    /// Larger than any frame.
    #[error("{found} bytes are more than a frame's limit of {FRAME_BYTES_MAX}")]
    TooLong {
        /// Bytes given.
        found: usize,
    },
    /// Something else, or overwritten.
    #[error("it does not start like a frame (found {found:02x?})")]
    NotAFrame {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Written by a newer release, or damaged.
    #[error("frame format version {found} is unknown; this release knows version {VERSION}")]
    UnknownVersion {
        /// The version found.
        found: u16,
    },
    /// Cut off, or with something behind it.
    #[error("the header announces {announced} bytes of events; there are {found}")]
    WrongLength {
        /// What the header says.
        announced: u64,
        /// What is there.
        found: u64,
    },
    /// Some byte differs from what was written.
    #[error("checksum {computed:016x} differs from the stored {stored:016x}")]
    Checksum {
        /// In the header.
        stored: u64,
        /// Of the bytes.
        computed: u64,
    },
    /// The checksum holds but the contents make no sense: a fault of the writer.
    #[error("it is intact, but {0}")]
    Nonsense(&'static str),
}

/// A frame that has been checked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Frame {
    header: FrameHeader,
    digest: u64,
    events: u32,
    bytes: Bytes,
}

impl Frame {
    /// Checks everything: size, version, checksum, and that the events fill the body. Copies nothing.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let (header, events, digest) = check(bytes)?;
        // Walked once here, so that iteration cannot fail.
        let mut walk = Events { rest: &bytes[HEADER_BYTES..], left: events };
        for _ in 0..events {
            if walk.next().is_none() {
                return Err(FrameError::Nonsense("its events do not fit into its body"));
            }
        }
        if !walk.rest.is_empty() {
            return Err(FrameError::Nonsense("its body is longer than its events"));
        }
        Ok(Self { header, digest, events, bytes: bytes.clone() })
    }

    /// What it says about itself.
    #[must_use]
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// What the appender's next frame of this partition carries as [`FrameHeader::prev_digest`].
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The encoded frame.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its events, in order.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        Events { rest: &self.bytes[HEADER_BYTES..], left: self.events }
    }
}

/// Checks a frame as far as its storage is concerned: size, version, checksum. Its events are not looked at.
///
/// # Errors
/// Says what is wrong.
pub fn check(bytes: &[u8]) -> Result<(FrameHeader, u32, u64), FrameError> {
    let found = bytes.len();
    if found > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { found });
    }
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(FrameError::TooShort { found });
    };
    let magic = four(head, 0);
    if magic != MAGIC {
        return Err(FrameError::NotAFrame { found: magic });
    }
    let version = two(head, 4);
    if version != VERSION {
        return Err(FrameError::UnknownVersion { found: version });
    }
    let (announced, found) = (u64::from(u32::from_le_bytes(four(head, 52))), body.len() as u64);
    if announced != found {
        return Err(FrameError::WrongLength { announced, found });
    }
    let (stored, computed) = (eight(head, 8), checksum(bytes));
    if stored != computed {
        return Err(FrameError::Checksum { stored, computed });
    }
    let header = FrameHeader {
        version,
        partition: Partition(two(head, 6)),
        appender: AppenderId(u128::from(eight(head, 16)) | u128::from(eight(head, 24)) << 64),
        counter: eight(head, 32),
        prev_digest: eight(head, 40),
    };
    if header.counter == 0 {
        return Err(FrameError::Nonsense("its counter is 0"));
    }
    Ok((header, u32::from_le_bytes(four(head, 48)), stored))
}

/// Over all but the checksum itself; `bytes` has at least a header.
fn checksum(bytes: &[u8]) -> u64 {
    let seed = bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
    xxh3_64_with_seed(bytes.get(16..).unwrap_or_default(), seed)
}

fn two(head: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([head[at], head[at + 1]])
}

fn four(head: &[u8; HEADER_BYTES], at: usize) -> [u8; 4] {
    [head[at], head[at + 1], head[at + 2], head[at + 3]]
}

fn eight(head: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// The events of a frame, in order, borrowed from it.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Events<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let (length, rest) = self.rest.split_first_chunk()?;
        let (event, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        self.left -= 1;
        Some(event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Events<'_> {}

/// A frame in the making: events go in one by one, the header is written last.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    /// Where the last complete event ends: what stands behind it is left over from an encoder that panicked.
    end: usize,
    events: u32,
}

impl FrameBuilder {
    /// Empty, with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(HEADER_BYTES));
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes, end: HEADER_BYTES, events: 0 }
    }

    /// Adds one event, encoded straight into the frame; `encode` only ever appends. Returns the bytes it took.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.end;
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(&[0; EVENT_PREFIX_BYTES]);
        encode(&mut self.bytes);
        let length = self.bytes.len().saturating_sub(start + EVENT_PREFIX_BYTES);
        // A length past u32 is refused by the appender's limits long before.
        let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[start..start + EVENT_PREFIX_BYTES].copy_from_slice(&prefix);
        self.end = self.bytes.len();
        self.events += 1;
        length + EVENT_PREFIX_BYTES
    }

    /// Takes the last event out again: `bytes` is what [`Self::push`] returned for it.
    pub(crate) fn pop(&mut self, bytes: usize) -> Vec<u8> {
        self.events -= 1;
        self.end -= bytes;
        self.bytes.split_off(self.end)
    }

    /// Puts in an event that [`Self::pop`] took out of another frame.
    pub(crate) fn push_popped(&mut self, event: &[u8]) {
        self.bytes.extend_from_slice(event);
        self.end = self.bytes.len();
        self.events += 1;
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u32 {
        self.events
    }

    /// Bytes so far, with the header.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end
    }

    /// Whether there is no event yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Writes the header; the digest comes with the frame.
    #[must_use]
    pub fn finish(
        mut self,
        appender: AppenderId,
        partition: Partition,
        counter: u64,
        prev_digest: u64,
    ) -> (Bytes, u64) {
        self.bytes.truncate(self.end);
        let body = u32::try_from(self.bytes.len() - HEADER_BYTES).unwrap_or(u32::MAX);
        let head = &mut self.bytes[..HEADER_BYTES];
        head[0..4].copy_from_slice(&MAGIC);
        head[4..6].copy_from_slice(&VERSION.to_le_bytes());
        head[6..8].copy_from_slice(&partition.0.to_le_bytes());
        head[16..32].copy_from_slice(&appender.0.to_le_bytes());
        head[32..40].copy_from_slice(&counter.to_le_bytes());
        head[40..48].copy_from_slice(&prev_digest.to_le_bytes());
        head[48..52].copy_from_slice(&self.events.to_le_bytes());
        head[52..56].copy_from_slice(&body.to_le_bytes());
        let digest = checksum(&self.bytes);
        self.bytes[8..16].copy_from_slice(&digest.to_le_bytes());
        (Bytes::from(self.bytes), digest)
    }
}
