//! Reads committed groups in order: from the memory tail when it keeps up, from the segment files when it is behind.
//! Each segment is read once, whatever number of partitions the reader follows.

use std::sync::Arc;

use cameo_profile::{Partition, Position};

use super::Shared;
use super::disk::DiskFile;
use super::random;
use super::scan::{Group, ScanError, Scanner};
use super::segment::SegmentHeader;
use super::view::{Found, Place, Segment, TailGroup, View};
use crate::error::{Damage, IoError, ReadError};
use crate::{BATCH_BYTES, LogReader, StoredFrame};

/// Reader of the embedded log.
pub struct EmbeddedReader {
    shared: Arc<Shared>,
    from: Vec<(Partition, Position)>,
    /// Per partition the last position handed out; `None` for those not asked for.
    read: Vec<Option<u64>>,
    /// The group it reads next, and where that stands.
    at: Option<(u64, Place)>,
    scanner: Option<(u64, Scanner)>,
    /// It was ahead of the log, and stays so: when the log has grown past it, other frames stand there.
    ahead: Option<(Partition, Position, Position)>,
}

/// What a look at the log gave.
enum Step {
    Frames(Vec<StoredFrame>),
    /// Nothing for this reader there; go on.
    Again,
    /// Everything committed has been read.
    Wait,
}

impl EmbeddedReader {
    pub(super) fn new(shared: Arc<Shared>, from: Vec<(Partition, Position)>) -> Self {
        Self { shared, from, read: vec![], at: None, scanner: None, ahead: None }
    }

    /// Checks where it is to start, and finds the group to start with.
    fn start(&mut self) -> Result<(u64, Place), ReadError> {
        if let Some((partition, asked, last)) = self.ahead {
            let place = self.shared.view.lock().last_file();
            return Err(ReadError::Ahead { partition, asked, last, place });
        }
        let count = self.shared.partitions;
        let mut read = vec![None; usize::from(count.get())];
        let view = self.shared.view.lock();
        for (partition, after) in &self.from {
            let (partition, after) = (*partition, *after);
            let Some(slot) = read.get_mut(partition.index()) else {
                return Err(ReadError::NoSuchPartition { partition, count });
            };
            let (first, last) = (view.first(partition), view.last(partition));
            if after > last {
                self.ahead = Some((partition, after, last));
                return Err(ReadError::Ahead { partition, asked: after, last, place: view.last_file() });
            }
            if after.next() < first {
                return Err(ReadError::Trimmed { partition, wanted: after.next(), first });
            }
            *slot = Some(after.0);
        }
        let at = view.start_of(&self.from);
        drop(view);
        self.read = read;
        self.at = Some(at);
        Ok(at)
    }

    fn step(&mut self) -> Result<Step, ReadError> {
        let (seq, place) = match self.at {
            Some(at) => at,
            None => self.start()?,
        };
        let shared = Arc::clone(&self.shared);
        let (segment, end) = {
            let view = shared.view.lock();
            match view.find(seq) {
                Found::NotYet => return Ok(Step::Wait),
                Found::Trimmed => return Err(self.overtaken(&view)),
                Found::InMemory(groups) => return Ok(self.step_in_memory(seq, place, groups)),
                Found::OnDisk(segment, end) => (segment, end),
            }
        };
        self.step_on_disk(seq, place, &segment, end)
    }

    fn step_in_memory<'a>(&mut self, seq: u64, place: Place, groups: impl Iterator<Item = &'a TailGroup>) -> Step {
        let (mut frames, mut bytes, mut at) = (vec![], 0, (seq, place));
        for group in groups {
            if bytes > 0 && bytes + group.bytes > BATCH_BYTES {
                break;
            }
            for frame in &group.frames {
                if let Some(read) = &mut self.read[frame.partition.index()]
                    && frame.position.0 > *read
                {
                    *read = frame.position.0;
                    bytes += frame.bytes.len();
                    frames.push(frame.clone());
                }
            }
            at = (at.0 + 1, group.next);
        }
        self.at = Some(at);
        if frames.is_empty() { Step::Again } else { Step::Frames(frames) }
    }

    fn step_on_disk(&mut self, seq: u64, place: Place, segment: &Segment, end: u64) -> Result<Step, ReadError> {
        let number = segment.header.number;
        let start = SegmentHeader::bytes_for(segment.header.base.len());
        // In another segment than the group before: the first group of this one.
        let offset = if place.number == number { place.offset } else { start };
        let mut scanner = match self.scanner.take() {
            Some((of, scanner)) if of == number && scanner.offset() == offset => scanner,
            _ => match DiskFile::open(&segment.path, None) {
                Ok(file) => Scanner::new(Arc::new(file), self.shared.seed, offset),
                Err(error) => {
                    let view = self.shared.view.lock();
                    // Trimmed between the look at the view and now.
                    if view.segments.front().is_some_and(|first| first.header.number > number) {
                        return Err(self.overtaken(&view));
                    }
                    return Err(IoError::at("open", &segment.path)(error).into());
                }
            },
        };
        let (mut frames, mut bytes, mut seq) = (vec![], 0, seq);
        while bytes < BATCH_BYTES {
            let read = &self.read;
            let group = match scanner.next(end, |partition| read.get(partition.index()).is_some_and(Option::is_some)) {
                Ok(Some(group)) => group,
                Ok(None) => break,
                Err(ScanError::Io(error)) => return Err(IoError::at("read", &segment.path)(error).into()),
                Err(ScanError::Bad(bad)) => {
                    return Err(self.damaged(segment, bad.offset, bad.what, bad.frames));
                }
            };
            if group.seq != seq {
                let what = format!("group {} stands where group {seq} belongs", group.seq);
                return Err(self.damaged(segment, group.start, what, vec![]));
            }
            bytes += self.take(segment, &group, &mut frames)?;
            seq += 1;
        }
        self.at = Some((seq, Place { number, offset: scanner.offset() }));
        self.scanner = Some((number, scanner));
        Ok(if frames.is_empty() { Step::Again } else { Step::Frames(frames) })
    }

    /// Adds what this reader wants of a group; returns its bytes.
    fn take(&mut self, segment: &Segment, group: &Group, out: &mut Vec<StoredFrame>) -> Result<usize, ReadError> {
        let mut taken = 0;
        for (entry, bytes) in group.frames() {
            let Some(Some(read)) = self.read.get_mut(entry.partition.index()) else { continue };
            if entry.position.0 <= *read {
                continue;
            }
            if entry.position.0 != *read + 1 {
                let what = format!("position {} stands where {} belongs", entry.position, *read + 1);
                return Err(self.damaged(segment, group.start, what, vec![(entry.partition, entry.position)]));
            }
            *read += 1;
            taken += bytes.len();
            let hint = random::hint(segment.header.number, group.start);
            out.push(StoredFrame { partition: entry.partition, position: entry.position, at: group.at, hint, bytes });
        }
        Ok(taken)
    }

    /// The log was trimmed past what this reader has read.
    fn overtaken(&self, view: &View) -> ReadError {
        let missed = self.places().map(|(partition, read)| (partition, read.next(), view.first(partition)));
        let (partition, wanted, first) = missed
            .clone()
            .find(|(_, wanted, first)| wanted < first)
            .or_else(|| missed.clone().next())
            .unwrap_or((Partition(0), Position::START, Position::START));
        ReadError::Trimmed { partition, wanted, first }
    }

    fn damaged(&self, segment: &Segment, offset: u64, what: String, frames: Vec<(Partition, Position)>) -> ReadError {
        let exact = !frames.is_empty();
        let frames = if exact { frames } else { self.places().collect() };
        ReadError::Damaged(Box::new(Damage { file: segment.path.clone(), offset, what, frames, exact }))
    }

    fn places(&self) -> impl Iterator<Item = (Partition, Position)> + Clone + '_ {
        let all = self.read.iter().enumerate();
        all.filter_map(|(index, read)| Some((Partition(index as u16), Position((*read)?))))
    }
}

impl LogReader for EmbeddedReader {
    async fn next_batch(&mut self) -> Result<Vec<StoredFrame>, ReadError> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Listening starts before the look, so that no commit falls between the two. Nothing is taken from the
            // reader's state before the only await, which makes dropping this future harmless.
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            match self.step()? {
                Step::Frames(frames) => return Ok(frames),
                Step::Again => {}
                Step::Wait => changed.await,
            }
        }
    }
}
