//! Reads the groups of one segment in order and checks them. Used when the log is opened and by readers behind the
//! memory tail. It never looks past the end it is given, and never allocates by what a file says without having that
//! many bytes.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cameo_profile::{LogTime, Partition, Position};

use super::disk::DiskFile;
use super::group::{ENTRY_BYTES, Entry, HEAD_BYTES, Head, Seed};
use crate::frame;

/// Bytes read at once, unless a group is larger. Ours: past this reading gets no faster.
const CHUNK_BYTES: u64 = 1 << 20;

/// A group that was read and checked.
pub(super) struct Group {
    pub(super) seq: u64,
    pub(super) at: LogTime,
    pub(super) entries: Vec<Entry>,
    /// The frames, back to back.
    pub(super) body: Bytes,
    /// Where it starts in the file.
    pub(super) start: u64,
}

impl Group {
    /// Its frames with their places.
    pub(super) fn frames(&self) -> impl Iterator<Item = (Entry, Bytes)> + '_ {
        self.entries.iter().scan(0, |at, entry| {
            let start = *at;
            *at += entry.length;
            Some((*entry, self.body.slice(start..*at)))
        })
    }
}

/// Why the next group cannot be had.
pub(super) enum ScanError {
    Io(io::Error),
    Bad(Bad),
}

/// Bytes that are not an intact group.
pub(super) struct Bad {
    /// Where the group starts.
    pub(super) start: u64,
    /// Where the trouble is.
    pub(super) offset: u64,
    pub(super) what: String,
    /// The frames that are hit, when the table could be read.
    pub(super) frames: Vec<(Partition, Position)>,
}

/// Goes through a segment group by group.
pub(super) struct Scanner {
    file: Arc<DiskFile>,
    seed: Seed,
    offset: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl Scanner {
    pub(super) fn new(file: Arc<DiskFile>, seed: Seed, offset: u64) -> Self {
        Self { file, seed, offset, chunk: Bytes::new(), chunk_at: offset }
    }

    /// Where the next group starts.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next group that lies before `end`; none when `end` is reached. Frames of partitions that are not `wanted`
    /// are not checked. After an error it stays where it is.
    pub(super) fn next(&mut self, end: u64, wanted: impl Fn(Partition) -> bool) -> Result<Option<Group>, ScanError> {
        let start = self.offset;
        if start >= end {
            return Ok(None);
        }
        let bad = |offset: u64, what: String, frames| Err(ScanError::Bad(Bad { start, offset, what, frames }));
        let short = |need: usize| format!("a group of {need} bytes is cut off by the end after {}", end - start);
        if !self.fill(HEAD_BYTES, end)? {
            return bad(start, short(HEAD_BYTES), vec![]);
        }
        let at = (start - self.chunk_at) as usize;
        let head = match self.chunk[at..].first_chunk().map(|bytes| Head::decode(bytes, self.seed)) {
            Some(Ok(head)) => head,
            Some(Err(what)) => return bad(start, what.to_owned(), vec![]),
            None => return bad(start, short(HEAD_BYTES), vec![]),
        };
        let body_at = HEAD_BYTES + head.frames * ENTRY_BYTES;
        if !self.fill(body_at, end)? {
            return bad(start, short(head.group_bytes()), vec![]);
        }
        let at = (start - self.chunk_at) as usize;
        let entries = match head.decode_table(&self.chunk[at + HEAD_BYTES..at + body_at], self.seed) {
            Ok(entries) => entries,
            Err(what) => return bad(start, what.to_owned(), vec![]),
        };
        if !self.fill(head.group_bytes(), end)? {
            let frames = entries.iter().map(|entry| (entry.partition, entry.position)).collect();
            return bad(start, short(head.group_bytes()), frames);
        }
        let at = (start - self.chunk_at) as usize;
        let body = self.chunk.slice(at + body_at..at + head.group_bytes());
        let group = Group { seq: head.seq, at: head.at, entries, body, start };
        let mut frame_at = start + body_at as u64;
        for (entry, bytes) in group.frames() {
            if wanted(entry.partition)
                && let Some(what) = wrong_frame(&bytes, entry)
            {
                return bad(frame_at, what, vec![(entry.partition, entry.position)]);
            }
            frame_at += bytes.len() as u64;
        }
        self.offset = start + head.group_bytes() as u64;
        Ok(Some(group))
    }

    /// Makes `need` bytes from the current offset available; false when they are not there before `end`.
    fn fill(&mut self, need: usize, end: u64) -> Result<bool, ScanError> {
        let need = need as u64;
        if self.offset + need > end {
            return Ok(false);
        }
        if self.offset >= self.chunk_at && self.offset + need <= self.chunk_at + self.chunk.len() as u64 {
            return Ok(true);
        }
        // Bounded: `end` is the size of the file or less.
        let mut chunk = vec![0; need.max(CHUNK_BYTES).min(end - self.offset) as usize];
        self.file.read_at(&mut chunk, self.offset).map_err(ScanError::Io)?;
        self.chunk = Bytes::from(chunk);
        self.chunk_at = self.offset;
        Ok(true)
    }
}

/// What is wrong with a frame's bytes, if anything.
pub(super) fn wrong_frame(bytes: &Bytes, entry: Entry) -> Option<String> {
    match frame::check(bytes) {
        Err(error) => Some(format!("a frame is not what was written: {error}")),
        Ok((header, ..)) if header.partition != entry.partition => {
            Some(format!("a frame of partition {} stands as one of {}", header.partition, entry.partition))
        }
        Ok(_) => None,
    }
}
