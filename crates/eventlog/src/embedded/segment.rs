//! A segment file: its name and its header, which tells what stood in the log before it. Codec only.
//!
//! Layout, version 1; integers are little-endian, offsets in bytes:
//! ```text
//!  0       4         6        8              16
//!  +-------+---------+--------+--------------+
//!  | magic | version | P      | number       |
//!  | CMSG  | u16     | u16    | u64, from 1  |
//! 16-------+---------+--------+--------------+
//!  | log id, u128                            |
//! 32-----------------------------------------+
//!  | seq of its first group, u64             |
//! 40-----------------------------------------+
//!  | log time of the group before it, ms     |
//! 48-----------------------------------------+
//!  | bytes of the segment before it, u64;    |
//!  | 0 in the first                          |
//! 56-----------------------------------------+
//!  | per partition the last position before  |
//!  | it, P × u64                             |
//!  +-----------------------------------------+
//!  | checksum of all before it, XXH3-64      |
//!  +-----------------------------------------+
//!  | groups ...                              |
//!  | zeros, as far as space was laid out     |
//!  +-----------------------------------------+
//! ```
//! The header makes a segment findable by position without an index file, and a shortened or missing predecessor
//! evident. It is written and synced before the first group.

use std::path::{Path, PathBuf};

use cameo_profile::{LogTime, PartitionCount};
use xxhash_rust::xxh3::xxh3_64;

use crate::LogId;

const MAGIC: [u8; 4] = *b"CMSG";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 56;
const SUFFIX: &str = "seg";

/// What the log knows of a segment without reading its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) log: LogId,
    pub(super) number: u64,
    pub(super) first_seq: u64,
    /// Log time of the last group before it.
    pub(super) before: LogTime,
    /// Bytes of the segment before it.
    pub(super) previous_bytes: u64,
    /// Per partition the last position before it.
    pub(super) base: Box<[u64]>,
}

impl SegmentHeader {
    /// Bytes of the header of a log with so many partitions.
    pub(super) fn bytes(partitions: PartitionCount) -> u64 {
        Self::bytes_for(usize::from(partitions.get()))
    }

    pub(super) const fn bytes_for(partitions: usize) -> u64 {
        (FIXED_BYTES + partitions * 8 + 8) as u64
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + self.base.len() * 8 + 8);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.base.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.log.0.to_le_bytes());
        for number in [self.first_seq, self.before.ms(), self.previous_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for position in &self.base {
            out.extend_from_slice(&position.to_le_bytes());
        }
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `bytes` is as long as [`Self::bytes`] says.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some((head, checksum)) = bytes.split_last_chunk() else {
            return Err("it is shorter than a segment's header");
        };
        if !head.starts_with(&MAGIC) || head.len() < FIXED_BYTES {
            return Err("it does not start like a segment of the log");
        }
        if xxh3_64(head) != u64::from_le_bytes(*checksum) {
            return Err("the checksum of the segment's header is wrong");
        }
        if head[4..6] != VERSION.to_le_bytes() {
            return Err("the segment's format version is unknown to this release");
        }
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let base: Box<[u64]> = (FIXED_BYTES..head.len()).step_by(8).map(number).collect();
        if base.len() != usize::from(u16::from_le_bytes([head[6], head[7]])) {
            return Err("the segment has another number of partitions than its log");
        }
        Ok(Self {
            log: LogId(u128::from(number(16)) | u128::from(number(24)) << 64),
            number: number(8),
            first_seq: number(32),
            before: LogTime(number(40)),
            previous_bytes: number(48),
            base,
        })
    }
}

/// `00000000000000000007.seg`: names sort as numbers.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{SUFFIX}"))
}

/// The number in a file's name, if it is a segment's.
pub(super) fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.strip_suffix('.')?;
    if name.len() == 20 { name.parse().ok() } else { None }
}
