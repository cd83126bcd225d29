//! What readers see of the log: which segments there are, how far they are committed, and the newest frames in memory.
//! The writer changes it only after a group is as durable as it is going to be.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use cameo_profile::{Partition, Position};

use super::segment::SegmentHeader;
use crate::StoredFrame;

/// A segment that groups can be read from.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
}

/// Where a group starts: which segment, which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) offset: u64,
}

/// A committed group in memory.
pub(super) struct TailGroup {
    pub(super) frames: Vec<StoredFrame>,
    pub(super) bytes: usize,
    /// Where the group after it starts.
    pub(super) next: Place,
}

/// The newest groups, bounded by bytes; consecutive.
pub(super) struct Tail {
    groups: VecDeque<TailGroup>,
    first_seq: u64,
    bytes: usize,
    limit: usize,
    /// Where the first of them starts, and per partition the last position before it.
    start: Place,
    base: Vec<u64>,
}

impl Tail {
    fn push(&mut self, group: TailGroup) {
        self.bytes += group.bytes;
        self.groups.push_back(group);
        while self.bytes > self.limit
            && let Some(old) = self.groups.pop_front()
        {
            self.bytes -= old.bytes;
            self.first_seq += 1;
            self.start = old.next;
            for frame in old.frames {
                self.base[frame.partition.index()] = frame.position.0;
            }
        }
    }
}

/// Everything committed.
pub(super) struct View {
    /// Consecutive; never empty.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// Where the next group will start, in the last segment.
    pub(super) end: u64,
    /// What it will be called.
    pub(super) next_seq: u64,
    /// Per partition the last position.
    pub(super) last: Vec<u64>,
    tail: Tail,
}

/// Where a reader finds a group.
pub(super) enum Found<'a> {
    /// Not committed yet.
    NotYet,
    /// In memory: this one and all after it.
    InMemory(Box<dyn Iterator<Item = &'a TailGroup> + 'a>),
    /// In this segment, whose groups end at that byte.
    OnDisk(Arc<Segment>, u64),
    /// Nowhere any more.
    Trimmed,
}

impl View {
    pub(super) fn new(segments: VecDeque<Arc<Segment>>, end: u64, next_seq: u64, last: Vec<u64>, limit: usize) -> Self {
        let number = segments.back().map_or(0, |segment| segment.header.number);
        let start = Place { number, offset: end };
        let tail = Tail { groups: VecDeque::new(), first_seq: next_seq, bytes: 0, limit, start, base: last.clone() };
        Self { segments, end, next_seq, last, tail }
    }

    /// A group was committed that ends at `end` of the last segment.
    pub(super) fn commit(&mut self, frames: Vec<StoredFrame>, end: u64) {
        for frame in &frames {
            self.last[frame.partition.index()] = frame.position.0;
        }
        self.end = end;
        self.next_seq += 1;
        let bytes = frames.iter().map(|frame| frame.bytes.len()).sum();
        let next = Place { number: self.segments.back().map_or(0, |segment| segment.header.number), offset: end };
        self.tail.push(TailGroup { frames, bytes, next });
    }

    /// A new segment was started; the next group will stand in it.
    pub(super) fn roll(&mut self, segment: Arc<Segment>, end: u64) {
        self.segments.push_back(segment);
        self.end = end;
    }

    /// The file that the log ends in.
    pub(super) fn last_file(&self) -> PathBuf {
        self.segments.back().map(|segment| segment.path.clone()).unwrap_or_default()
    }

    pub(super) fn first(&self, partition: Partition) -> Position {
        let base = self.segments.front().and_then(|segment| segment.header.base.get(partition.index()));
        Position(base.copied().unwrap_or_default()).next()
    }

    pub(super) fn last(&self, partition: Partition) -> Position {
        Position(self.last.get(partition.index()).copied().unwrap_or_default())
    }

    /// The latest group from which reading after all these positions misses nothing, and where it starts.
    pub(super) fn start_of(&self, from: &[(Partition, Position)]) -> (u64, Place) {
        let behind: Vec<_> = from.iter().filter(|(partition, after)| *after < self.last(*partition)).collect();
        let number = self.segments.back().map_or(0, |segment| segment.header.number);
        if behind.is_empty() {
            return (self.next_seq, Place { number, offset: self.end });
        }
        if behind.iter().all(|(partition, after)| after.0 >= self.tail.base[partition.index()]) {
            return (self.tail.first_seq, self.tail.start);
        }
        let misses_nothing = |segment: &Segment| {
            behind.iter().all(|(partition, after)| segment.header.base[partition.index()] <= after.0)
        };
        let at = self.segments.partition_point(|segment| misses_nothing(segment)).saturating_sub(1);
        let header = &self.segments[at].header;
        (header.first_seq, Place { number: header.number, offset: SegmentHeader::bytes_for(header.base.len()) })
    }

    pub(super) fn find(&self, seq: u64) -> Found<'_> {
        if seq >= self.next_seq {
            return Found::NotYet;
        }
        if let Some(at) = seq.checked_sub(self.tail.first_seq) {
            return Found::InMemory(Box::new(self.tail.groups.range(at as usize..)));
        }
        match self.segments.partition_point(|segment| segment.header.first_seq <= seq) {
            0 => Found::Trimmed,
            after => {
                let end = self.segments.get(after).map_or(self.end, |next| next.header.previous_bytes);
                Found::OnDisk(Arc::clone(&self.segments[after - 1]), end)
            }
        }
    }

    /// Segments that end at or before `upto` and are older than `older_than_ms`, oldest first; never the last one.
    pub(super) fn trimmable(&self, upto: &[u64], older_than_ms: u64) -> usize {
        // What a segment holds ends where its successor begins.
        let droppable = |next: &Segment| {
            next.header.before.ms() < older_than_ms
                && next
                    .header
                    .base
                    .iter()
                    .zip(upto)
                    .zip(&self.segments[0].header.base)
                    .all(|((end, upto), start)| end <= upto || end == start)
        };
        self.segments.iter().skip(1).take_while(|next| droppable(next)).count()
    }
}
