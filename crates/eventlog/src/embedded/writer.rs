//! The one writer of the segment files: groups, rolling to the next file, and coming back from failures.
//!
//! After a failed **write** the file is shortened to its last good byte: then nothing was written, and the append says
//! so. When that fails too, the outcome is unknown, and the log takes nothing until it succeeds.
//!
//! After a failed **sync** nothing can be read back to find out: the system may have dropped the unwritten pages and
//! still show them as they should be. But all bytes up to the last good one were synced before, by a sync that
//! succeeded; only what came after is in doubt, plus the block that the two share. So the file is shortened to the
//! last good byte, which drops the doubtful bytes for good, and its tail (the last group, and at least
//! [`REWRITE_BYTES`]) is read back, checked, written again in place and synced. When all of that succeeds the group is
//! certainly gone and the append says so; until it does, its outcome is unknown and the log takes nothing.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cameo_profile::{Partition, Position};

use super::disk::{DiskFile, Faults, is_full, sync_dir};
use super::group::{self, Seed};
use super::random;
use super::scan::Scanner;
use super::segment::{self, SegmentHeader};
use super::view::Segment;
use super::{Durability, Shared};
use crate::StoredFrame;
use crate::error::AppendError;

/// Zeros laid out ahead of the groups, in bytes: a sync that does not change the file's size takes two thirds of the
/// time (0.16 against 0.26 ms for 4 KB on ext4).
const AHEAD_BYTES: u64 = 1 << 20;
/// Groups larger than this get no zeros laid out: they would be written twice for no gain.
const AHEAD_GROUP_BYTES: usize = 128 << 10;
/// How much of the tail is written again after a failed sync, in bytes: at least the block of any file system.
const REWRITE_BYTES: u64 = 64 << 10;
/// Space the log leaves free, in bytes, so that checkpoints can still be written when it is full; on a small file
/// system [`RESERVE_PERCENT`] of it.
const RESERVE_BYTES: u64 = 64 << 20;
/// See [`RESERVE_BYTES`].
const RESERVE_PERCENT: u64 = 2;
/// How old the knowledge of free space may be. Ours: at 500 MB a second less than the reserve is written meanwhile.
const RESERVE_AGE: Duration = Duration::from_millis(100);
/// What the buffer for encoding groups may keep between appends, in bytes.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// How far the last append got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// The file ends with its last good group (or zeros).
    Good,
    /// An incomplete group stands behind it.
    Dirty,
    /// A complete group stands behind it whose sync failed.
    Doubtful,
}

pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) durability: Durability,
    pub(super) segment_bytes: u64,
    pub(super) seed: Seed,
    pub(super) faults: Option<Faults>,
    file: Arc<DiskFile>,
    number: u64,
    end: u64,
    last_group: Option<u64>,
    header_bytes: u64,
    /// Up to here the file is laid out; at least `end`.
    laid_out: u64,
    condition: Condition,
    /// When it last asked, and what it learned.
    room: Option<(Instant, bool)>,
    failing: bool,
    buffer: Vec<u8>,
}

/// Where the writer starts.
pub(super) struct Start {
    pub(super) file: Arc<DiskFile>,
    pub(super) number: u64,
    pub(super) end: u64,
    pub(super) last_group: Option<u64>,
    pub(super) header_bytes: u64,
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        durability: Durability,
        segment_bytes: u64,
        seed: Seed,
        faults: Option<Faults>,
        start: Start,
    ) -> io::Result<Self> {
        let Start { file, number, end, last_group, header_bytes } = start;
        let laid_out = file.len()?;
        Ok(Self {
            dir,
            durability,
            segment_bytes,
            seed,
            faults,
            file,
            number,
            end,
            last_group,
            header_bytes,
            laid_out,
            condition: Condition::Good,
            room: None,
            failing: false,
            buffer: vec![],
        })
    }

    /// Appends one group: all of it or nothing.
    pub(super) fn append(
        &mut self,
        shared: &Shared,
        frames: &[(Partition, Bytes)],
    ) -> Result<Vec<Position>, AppendError> {
        let result = self.try_append(shared, frames);
        // Once when it begins to fail and once when that is over, however often it is tried between.
        let failing = result.is_err();
        if failing != std::mem::replace(&mut self.failing, failing) {
            let file = self.file.path().display();
            match &result {
                Err(error) => tracing::error!(eventlog.file = %file, %error, "the log does not take appends"),
                Ok(_) => tracing::info!(eventlog.file = %file, "the log takes appends again"),
            }
        }
        result
    }

    fn try_append(&mut self, shared: &Shared, frames: &[(Partition, Bytes)]) -> Result<Vec<Position>, AppendError> {
        if self.condition != Condition::Good {
            self.repair().map_err(|error| self.refused("cannot be repaired after a failure", &error))?;
        }
        self.check_room()?;
        if self.end >= self.segment_bytes && self.last_group.is_some() {
            self.roll(shared).map_err(|error| self.refused("cannot start a new segment", &error))?;
        }
        let (seq, placed) = Self::place(shared, frames);
        let at = shared.clock.now();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        group::encode(&mut self.buffer, self.seed, seq, at, &placed);
        let end = self.end + self.buffer.len() as u64;
        self.lay_out(end);
        if let Err(error) = self.file.write_at(&self.buffer, self.end) {
            return Err(self.failed_write(&error));
        }
        if self.durability == Durability::Fsync
            && let Err(error) = self.file.sync()
        {
            return Err(self.failed_sync(&error));
        }
        let hint = random::hint(self.number, self.end);
        self.last_group = Some(self.end);
        self.end = end;
        self.laid_out = self.laid_out.max(end);
        let positions = placed.iter().map(|(_, position, _)| *position).collect();
        let stored =
            placed.into_iter().map(|(partition, position, bytes)| StoredFrame { partition, position, at, hint, bytes });
        shared.view.lock().commit(stored.collect(), end);
        shared.changed.notify_waiters();
        Ok(positions)
    }

    /// The group's number, and the position each frame will have.
    fn place(shared: &Shared, frames: &[(Partition, Bytes)]) -> (u64, Vec<(Partition, Position, Bytes)>) {
        let view = shared.view.lock();
        // Tables of the few partitions of a group are short: a scan backwards finds the frame before.
        let mut placed: Vec<(Partition, Position, Bytes)> = Vec::with_capacity(frames.len());
        let mut last = view.last.clone();
        for (partition, bytes) in frames {
            last[partition.index()] += 1;
            placed.push((*partition, Position(last[partition.index()]), bytes.clone()));
        }
        (view.next_seq, placed)
    }

    /// Writes zeros ahead of small groups. Zeros behind the groups are harmless, so failing to is no failure.
    fn lay_out(&mut self, end: u64) {
        if end <= self.laid_out || self.buffer.len() > AHEAD_GROUP_BYTES || self.durability == Durability::Buffered {
            return;
        }
        let zeros = vec![0; (end - self.laid_out + AHEAD_BYTES) as usize];
        if self.file.write_at(&zeros, self.laid_out).is_ok() {
            self.laid_out += zeros.len() as u64;
        }
    }

    fn failed_write(&mut self, error: &io::Error) -> AppendError {
        self.condition = Condition::Dirty;
        if is_full(error) {
            self.room = Some((Instant::now(), false));
        }
        match self.repair() {
            Ok(()) => self.refused("cannot be written", error),
            Err(_) => self.unknown("was written in part at most", error),
        }
    }

    fn failed_sync(&mut self, error: &io::Error) -> AppendError {
        self.condition = Condition::Doubtful;
        match self.repair() {
            Ok(()) => self.refused("could not be made durable; the group was taken back", error),
            Err(_) => self.unknown("could not be made durable", error),
        }
    }

    fn unknown(&self, what: &str, error: &io::Error) -> AppendError {
        AppendError::Unknown(format!("{} {what}: {error}", self.file.path().display()).into())
    }

    fn refused(&self, what: &str, error: &io::Error) -> AppendError {
        if is_full(error) {
            return AppendError::StorageFull;
        }
        AppendError::Unavailable(format!("{} {what}: {error}", self.file.path().display()).into())
    }

    /// Brings the file back to its last good group.
    fn repair(&mut self) -> io::Result<()> {
        self.file.truncate(self.end)?;
        self.laid_out = self.end;
        if self.condition == Condition::Doubtful {
            self.rewrite_tail()?;
        }
        self.condition = Condition::Good;
        Ok(())
    }

    fn rewrite_tail(&mut self) -> io::Result<()> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the end of the segment does not read back");
        match self.last_group {
            Some(start) => {
                let mut scanner = Scanner::new(Arc::clone(&self.file), self.seed, start);
                scanner.next(self.end, |_| true).ok().flatten().ok_or_else(damaged)?;
            }
            None => {
                let mut header = vec![0; self.header_bytes as usize];
                self.file.read_at(&mut header, 0)?;
                SegmentHeader::decode(&header).map_err(|_| damaged())?;
            }
        }
        let block = self.end.saturating_sub(1) / REWRITE_BYTES * REWRITE_BYTES;
        let from = self.last_group.unwrap_or(0).min(block);
        let mut tail = vec![0; (self.end - from) as usize];
        self.file.read_at(&mut tail, from)?;
        self.file.write_at(&tail, from)?;
        self.file.sync()
    }

    /// Whether the file system has more than the reserve, as of a moment ago.
    fn check_room(&mut self) -> Result<(), AppendError> {
        let has_room = match self.room {
            Some((asked, has_room)) if asked.elapsed() < RESERVE_AGE => has_room,
            _ => {
                // Not being able to ask is no reason to refuse.
                let has_room = self
                    .file
                    .free_space()
                    .is_ok_and(|(free, size)| free >= RESERVE_BYTES.min(size / 100 * RESERVE_PERCENT))
                    || self.file.free_space().is_err();
                self.room = Some((Instant::now(), has_room));
                has_room
            }
        };
        if has_room { Ok(()) } else { Err(AppendError::StorageFull) }
    }

    /// Seals the segment and starts the next.
    fn roll(&mut self, shared: &Shared) -> io::Result<()> {
        // Its length is what the next header vouches for.
        self.file.truncate(self.end)?;
        self.laid_out = self.end;
        self.file.sync()?;
        let header = {
            let view = shared.view.lock();
            SegmentHeader {
                log: shared.id,
                number: self.number + 1,
                first_seq: view.next_seq,
                before: shared.clock.now(),
                previous_bytes: self.end,
                base: view.last.clone().into_boxed_slice(),
            }
        };
        let segment = create(&self.dir, header, self.faults.as_ref())?;
        if let Err(error) = shared.remember(&self.dir, |meta| meta.last_segment = self.number + 1) {
            // Tried again by the next append, from the start.
            let _ = fs::remove_file(&segment.0.path);
            return Err(error);
        }
        (self.file, self.number) = (segment.1, self.number + 1);
        (self.end, self.laid_out, self.last_group) = (self.header_bytes, self.header_bytes, None);
        shared.view.lock().roll(Arc::new(segment.0), self.end);
        Ok(())
    }
}

/// Creates a segment file that holds only its header, durably; leaves nothing behind when it fails.
pub(super) fn create(
    dir: &std::path::Path,
    header: SegmentHeader,
    faults: Option<&Faults>,
) -> io::Result<(Segment, Arc<DiskFile>)> {
    let path = segment::path(dir, header.number);
    // A failed attempt before may have left its file; a new one shares no doubtful pages with it.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let file = DiskFile::create(&path, faults.cloned())?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        sync_dir(dir)?;
        Ok(file)
    };
    match write() {
        Ok(file) => Ok((Segment { header, path }, Arc::new(file))),
        Err(error) => {
            // An unfinished file is also recognised and removed at the next start.
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}
