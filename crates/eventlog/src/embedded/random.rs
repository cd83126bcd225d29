//! Reads one frame by its position. A hint names segment and offset of its group; without a good one the heads of the
//! segment's groups are walked through. Reads from the file, also what the memory tail has: whoever asks for a single
//! frame asks for an old one.

use cameo_profile::{Partition, Position};
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::disk::DiskFile;
use super::group::{ENTRY_BYTES, Entry, HEAD_BYTES, Head, Seed};
use super::scan;
use super::segment::SegmentHeader;
use super::view::Segment;
use crate::error::{Damage, IoError, ReadError};
use crate::{Hint, LogTime, StoredFrame};

/// Bits of a hint that hold the offset; the segment's number stands above them.
const OFFSET_BITS: u32 = 40;

/// Where a group starts, unless the numbers are past anything a disk holds.
pub(super) const fn hint(segment: u64, offset: u64) -> Hint {
    if segment >> (64 - OFFSET_BITS) != 0 || offset >> OFFSET_BITS != 0 {
        return Hint(0);
    }
    Hint(segment << OFFSET_BITS | offset)
}

/// Head and table of a group.
struct Table {
    at: LogTime,
    start: u64,
    entries: Vec<Entry>,
    /// Where the group after it starts.
    end: u64,
}

/// One segment, and where its groups end.
struct Place<'a> {
    segment: &'a Segment,
    file: DiskFile,
    seed: Seed,
    end: u64,
}

pub(super) fn read(
    shared: &Shared,
    partition: Partition,
    position: Position,
    hint: Hint,
) -> Result<StoredFrame, ReadError> {
    let count = shared.partitions;
    if partition.0 >= count.get() {
        return Err(ReadError::NoSuchPartition { partition, count });
    }
    let (segment, end) = segment_of(shared, partition, position)?;
    let file = match DiskFile::open_to_read(&segment.path) {
        Ok(file) => file,
        Err(error) => {
            // Trimmed between the look at the view and now?
            segment_of(shared, partition, position)?;
            return Err(IoError::at("open", &segment.path)(error).into());
        }
    };
    let place = Place { segment: &segment, file, seed: shared.seed, end };
    if let Some(frame) = place.hinted(partition, position, hint) {
        return Ok(frame);
    }
    place.search(partition, position)
}

/// The segment that holds a position, and where its groups end.
fn segment_of(shared: &Shared, partition: Partition, position: Position) -> Result<(Arc<Segment>, u64), ReadError> {
    let view = shared.view.lock();
    let (first, last) = (view.first(partition), view.last(partition));
    if position == Position::START || position > last {
        return Err(ReadError::NoFrame { partition, position });
    }
    if position < first {
        return Err(ReadError::Trimmed { partition, wanted: position, first });
    }
    let after = view.segments.partition_point(|segment| segment.header.base[partition.index()] < position.0);
    let end = view.segments.get(after).map_or(view.end, |next| next.header.previous_bytes);
    // The first segment begins before the first position that is held.
    let segment = view.segments.get(after.saturating_sub(1)).cloned();
    segment.map(|segment| (segment, end)).ok_or(ReadError::NoFrame { partition, position })
}

impl Place<'_> {
    /// By the hint, if it is good.
    fn hinted(&self, partition: Partition, position: Position, hint: Hint) -> Option<StoredFrame> {
        let (number, offset) = (hint.0 >> OFFSET_BITS, hint.0 & ((1 << OFFSET_BITS) - 1));
        let start = SegmentHeader::bytes_for(self.segment.header.base.len());
        if hint.0 == 0 || number != self.segment.header.number || offset < start {
            return None;
        }
        let table = self.table(offset).ok()?;
        self.frame(&table, partition, position).ok().flatten()
    }

    fn search(&self, partition: Partition, position: Position) -> Result<StoredFrame, ReadError> {
        let mut offset = SegmentHeader::bytes_for(self.segment.header.base.len());
        while offset < self.end {
            let table = self.table(offset)?;
            if let Some(frame) = self.frame(&table, partition, position)? {
                return Ok(frame);
            }
            offset = table.end;
        }
        Err(ReadError::NoFrame { partition, position })
    }

    fn table(&self, start: u64) -> Result<Table, ReadError> {
        let bad = |what: &str| self.damaged(start, what.to_owned(), vec![]);
        let within = |bytes: usize| start.checked_add(bytes as u64).is_some_and(|end| end <= self.end);
        if !within(HEAD_BYTES) {
            return Err(bad("a group is cut off by the end"));
        }
        let mut head = [0; HEAD_BYTES];
        self.bytes(&mut head, start)?;
        let head = Head::decode(&head, self.seed).map_err(bad)?;
        if !within(head.group_bytes()) {
            return Err(bad("a group is cut off by the end"));
        }
        let mut table = vec![0; head.frames * ENTRY_BYTES];
        self.bytes(&mut table, start + HEAD_BYTES as u64)?;
        let entries = head.decode_table(&table, self.seed).map_err(bad)?;
        Ok(Table { at: head.at, start, entries, end: start + head.group_bytes() as u64 })
    }

    /// The frame, if it stands in this group.
    fn frame(&self, table: &Table, partition: Partition, position: Position) -> Result<Option<StoredFrame>, ReadError> {
        let mut offset = table.start + (HEAD_BYTES + table.entries.len() * ENTRY_BYTES) as u64;
        for entry in &table.entries {
            if (entry.partition, entry.position) == (partition, position) {
                let mut bytes = vec![0; entry.length];
                self.bytes(&mut bytes, offset)?;
                let bytes = Bytes::from(bytes);
                if let Some(what) = scan::wrong_frame(&bytes, *entry) {
                    return Err(self.damaged(offset, what, vec![(partition, position)]));
                }
                let hint = hint(self.segment.header.number, table.start);
                return Ok(Some(StoredFrame { partition, position, at: table.at, hint, bytes }));
            }
            offset += entry.length as u64;
        }
        Ok(None)
    }

    fn bytes(&self, out: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.file.read_at(out, offset).map_err(|error| IoError::at("read", &self.segment.path)(error).into())
    }

    fn damaged(&self, offset: u64, what: String, frames: Vec<(Partition, Position)>) -> ReadError {
        let exact = !frames.is_empty();
        ReadError::Damaged(Box::new(Damage { file: self.segment.path.clone(), offset, what, frames, exact }))
    }
}
