//! One group: the frames of one append, as they stand in a segment file. Codec only.
//!
//! Layout, version 1; integers are little-endian, offsets in bytes:
//! ```text
//!  0       4         6          8                16
//!  +-------+---------+----------+----------------+
//!  | magic | version | zero     | group seq      |
//!  | CMGR  | u16     | u16      | u64, from 1    |
//! 16-------+---------+----------+----------------+
//!  | log time, ms, u64                           |
//! 24---------------------+-----------------------+
//!  | frames, u32         | body length, u32      |
//! 32---------------------+-----------------------+
//!  | checksum of the table, u64                  |
//! 40---------------------------------------------+
//!  | checksum of bytes 0 to 40, u64              |
//! 48---------------------------------------------+
//!  | table, per frame 16 bytes: partition u16,   |
//!  | zero u16, length u32, position u64          |
//!  +---------------------------------------------+
//!  | body: the frames, back to back              |
//!  +---------------------------------------------+
//! ```
//! Both checksums are XXH3-64 seeded with a hash of the log's id, so that bytes a visitor sends, which stand in some
//! frame's body, can never pass for a group of this log when the reader of a damaged file looks for the next one.
//! The frames carry their own checksums.

use bytes::Bytes;
use cameo_profile::{LogTime, Partition, Position};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::LogId;
use crate::frame::FRAME_BYTES_MAX;

/// Bytes before the table.
pub(super) const HEAD_BYTES: usize = 48;
/// Bytes of a table entry.
pub(super) const ENTRY_BYTES: usize = 16;
/// Frames in one group at most. Ours: far more than an append ever has.
pub(super) const FRAMES_MAX: usize = 65_536;
/// Bytes of frames in one group at most, unless it is a single frame. Ours: what a reader takes in one batch.
pub(super) const BODY_BYTES_MAX: usize = crate::BATCH_BYTES;

pub(super) const MAGIC: [u8; 4] = *b"CMGR";
const VERSION: u16 = 1;

/// What the checksums of one log's groups are seeded with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u64);

impl Seed {
    pub(super) fn of(log: LogId) -> Self {
        Self(xxh3_64(&log.0.to_le_bytes()))
    }
}

/// The fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) at: LogTime,
    pub(super) frames: usize,
    pub(super) body: usize,
    table_checksum: u64,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) partition: Partition,
    pub(super) position: Position,
    pub(super) length: usize,
}

impl Head {
    /// Bytes of the whole group.
    pub(super) const fn group_bytes(&self) -> usize {
        HEAD_BYTES + self.frames * ENTRY_BYTES + self.body
    }

    /// Reads and checks the fixed part; what it says is within its limits.
    pub(super) fn decode(bytes: &[u8; HEAD_BYTES], seed: Seed) -> Result<Self, &'static str> {
        if bytes[..4] != MAGIC {
            return Err("no group starts here");
        }
        if eight(bytes, 40) != xxh3_64_with_seed(&bytes[..40], seed.0) {
            return Err("the checksum of the group's header is wrong");
        }
        if bytes[4..8] != [VERSION as u8, 0, 0, 0] {
            return Err("the group's format version is unknown to this release");
        }
        let (counts, frames) = (eight(bytes, 24), (eight(bytes, 24) & 0xffff_ffff) as usize);
        let body = (counts >> 32) as usize;
        if frames == 0 || frames > FRAMES_MAX || body > BODY_BYTES_MAX.max(FRAME_BYTES_MAX) {
            return Err("the group's header is intact but past its limits");
        }
        Ok(Self { seq: eight(bytes, 8), at: LogTime(eight(bytes, 16)), frames, body, table_checksum: eight(bytes, 32) })
    }

    /// Reads and checks the table, `frames × ENTRY_BYTES` long.
    pub(super) fn decode_table(&self, table: &[u8], seed: Seed) -> Result<Vec<Entry>, &'static str> {
        if xxh3_64_with_seed(table, seed.0) != self.table_checksum {
            return Err("the checksum of the group's table is wrong");
        }
        let entries: Vec<Entry> = table
            .as_chunks::<ENTRY_BYTES>()
            .0
            .iter()
            .map(|entry| Entry {
                partition: Partition(u16::from_le_bytes([entry[0], entry[1]])),
                length: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) as usize,
                position: Position(eight(entry, 8)),
            })
            .collect();
        let body: usize = entries.iter().map(|entry| entry.length).sum();
        if body != self.body {
            return Err("the group's table is intact but does not add up");
        }
        Ok(entries)
    }
}

/// Appends an encoded group to `out`.
pub(super) fn encode(out: &mut Vec<u8>, seed: Seed, seq: u64, at: LogTime, frames: &[(Partition, Position, Bytes)]) {
    let start = out.len();
    let body: usize = frames.iter().map(|(_, _, bytes)| bytes.len()).sum();
    out.reserve(HEAD_BYTES + frames.len() * ENTRY_BYTES + body);
    out.extend_from_slice(&[0; HEAD_BYTES]);
    for (partition, position, bytes) in frames {
        out.extend_from_slice(&partition.0.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&position.0.to_le_bytes());
    }
    let table = xxh3_64_with_seed(&out[start + HEAD_BYTES..], seed.0);
    for (_, _, bytes) in frames {
        out.extend_from_slice(bytes);
    }
    let head = &mut out[start..start + HEAD_BYTES];
    head[0..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    head[8..16].copy_from_slice(&seq.to_le_bytes());
    head[16..24].copy_from_slice(&at.ms().to_le_bytes());
    head[24..28].copy_from_slice(&(frames.len() as u32).to_le_bytes());
    head[28..32].copy_from_slice(&(body as u32).to_le_bytes());
    head[32..40].copy_from_slice(&table.to_le_bytes());
    let checksum = xxh3_64_with_seed(&head[..40], seed.0);
    head[40..48].copy_from_slice(&checksum.to_le_bytes());
}

fn eight(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
