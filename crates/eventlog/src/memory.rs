//! A log in memory, for tests: the promises of [`EventLog`] without durability, and failures on demand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Rising};
use crate::error::{AppendError, ReadError, TrimError, unfit};
use crate::{
    BATCH_BYTES, EventLog, Hint, LogId, LogReader, LogTime, Partition, PartitionCount, Position, StoredFrame, Trimmed,
};

/// What the next append of a [`MemoryLog`] shall do instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// [`AppendError::StorageFull`].
    StorageFull,
    /// [`AppendError::Unavailable`].
    Unavailable,
    /// [`AppendError::Unknown`], and the frames are in the log.
    UnknownButWritten,
    /// [`AppendError::Unknown`], and they are not.
    UnknownAndLost,
}

struct Frames {
    /// Per partition what is held, consecutive.
    held: Vec<VecDeque<StoredFrame>>,
    /// Per partition the last position.
    last: Vec<u64>,
    failures: VecDeque<Failure>,
    /// How every append fails while nobody can read either, and since when.
    outage: Option<(Failure, Instant)>,
}

struct Shared {
    id: LogId,
    partitions: PartitionCount,
    clock: Rising,
    frames: Mutex<Frames>,
    changed: Notify,
}

/// An [`EventLog`] that forgets everything when it is dropped. Unbounded: not for servers.
#[derive(Clone)]
pub struct MemoryLog(Arc<Shared>);

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(partitions: PartitionCount) -> Self {
        Self::with_clock(partitions, Clock::system())
    }

    /// An empty log whose time comes from `clock`.
    #[must_use]
    pub fn with_clock(partitions: PartitionCount, clock: Clock) -> Self {
        let mut id = [0; 16];
        // A test that runs where there is no randomness has one log only.
        let _ = getrandom::fill(&mut id);
        let count = usize::from(partitions.get());
        let frames = Frames {
            held: vec![VecDeque::new(); count],
            last: vec![0; count],
            failures: VecDeque::new(),
            outage: None,
        };
        Self(Arc::new(Shared {
            id: LogId(u128::from_le_bytes(id)),
            partitions,
            clock: Rising::new(clock, LogTime(0)),
            frames: Mutex::new(frames),
            changed: Notify::new(),
        }))
    }

    /// Makes an append fail: each call one append, in order.
    pub fn fail_next(&self, failure: Failure) {
        self.0.frames.lock().failures.push_back(failure);
    }

    /// Cuts everybody off, or brings the log back: meanwhile every append fails like this, and nobody reads on.
    pub fn cut_off(&self, failure: Option<Failure>) {
        let mut frames = self.0.frames.lock();
        // Another way to fail is the same outage.
        let since = frames.outage.map_or_else(Instant::now, |(_, since)| since);
        frames.outage = failure.map(|failure| (failure, since));
        drop(frames);
        self.0.changed.notify_waiters();
    }

    fn append_now(&self, group: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        let mut frames = self.0.frames.lock();
        if let Some(what) = unfit(&group, self.0.partitions) {
            return vec![Err(AppendError::Unavailable(what.into())); group.len()];
        }
        let failure = frames.failures.pop_front().or(frames.outage.map(|(failure, _)| failure));
        let unknown = AppendError::Unknown("a test wants it so".into());
        let failed = |error: AppendError| vec![Err(error); group.len()];
        match failure {
            Some(Failure::StorageFull) => return failed(AppendError::StorageFull),
            Some(Failure::Unavailable) => return failed(AppendError::Unavailable("a test wants it so".into())),
            Some(Failure::UnknownAndLost) => return failed(unknown),
            Some(Failure::UnknownButWritten) | None => {}
        }
        let at = self.0.clock.now();
        let mut results = Vec::with_capacity(group.len());
        for (partition, bytes) in group {
            let index = partition.index();
            let position = Position(frames.last[index]).next();
            frames.last[index] = position.0;
            frames.held[index].push_back(StoredFrame { partition, position, at, hint: Hint::default(), bytes });
            results.push(if failure.is_some() { Err(unknown.clone()) } else { Ok(position) });
        }
        drop(frames);
        self.0.changed.notify_waiters();
        results
    }
}

impl EventLog for MemoryLog {
    type Reader = MemoryReader;

    fn id(&self) -> LogId {
        self.0.id
    }

    fn partitions(&self) -> PartitionCount {
        self.0.partitions
    }

    fn now(&self) -> LogTime {
        self.0.clock.now()
    }

    fn last(&self, partition: Partition) -> Position {
        Position(self.0.frames.lock().last.get(partition.index()).copied().unwrap_or_default())
    }

    fn first(&self, partition: Partition) -> Position {
        let frames = self.0.frames.lock();
        let held = frames.held.get(partition.index()).map_or(0, VecDeque::len) as u64;
        Position(frames.last.get(partition.index()).map_or(0, |last| last - held)).next()
    }

    fn silence(&self) -> Duration {
        self.0.frames.lock().outage.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    async fn append(&self, frames: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        self.append_now(frames)
    }

    fn reader(&self, from: Vec<(Partition, Position)>) -> MemoryReader {
        let ahead = from.iter().copied().find_map(|(partition, asked)| {
            let last = self.last(partition);
            (asked > last).then_some((partition, asked, last))
        });
        MemoryReader { log: self.clone(), next: from.into_iter().map(|(p, after)| (p, after.next())).collect(), ahead }
    }

    async fn frame(&self, partition: Partition, position: Position, _: Hint) -> Result<StoredFrame, ReadError> {
        let frames = self.0.frames.lock();
        let Some(held) = frames.held.get(partition.index()) else {
            return Err(ReadError::NoSuchPartition { partition, count: self.0.partitions });
        };
        let first = Position(frames.last[partition.index()] - held.len() as u64).next();
        if position != Position::START && position < first {
            return Err(ReadError::Trimmed { partition, wanted: position, first });
        }
        let frame = position.0.checked_sub(first.0).and_then(|n| held.get(usize::try_from(n).ok()?));
        frame.cloned().ok_or(ReadError::NoFrame { partition, position })
    }

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        let mut frames = self.0.frames.lock();
        let mut trimmed = Trimmed::default();
        for (partition, position) in upto {
            let Some(held) = frames.held.get_mut(partition.index()) else { continue };
            while let Some(frame) = held.pop_front_if(|frame| frame.position <= *position && frame.at < older_than) {
                trimmed = Trimmed { segments: trimmed.segments + 1, bytes: trimmed.bytes + frame.bytes.len() as u64 };
            }
        }
        Ok(trimmed)
    }
}

/// Reader of a [`MemoryLog`].
pub struct MemoryReader {
    log: MemoryLog,
    next: Vec<(Partition, Position)>,
    ahead: Option<(Partition, Position, Position)>,
}

impl MemoryReader {
    fn take(&mut self) -> Result<Vec<StoredFrame>, ReadError> {
        if let Some((partition, asked, last)) = self.ahead {
            return Err(ReadError::Ahead { partition, asked, last, place: "memory".into() });
        }
        let frames = self.log.0.frames.lock();
        if frames.outage.is_some() {
            return Ok(vec![]);
        }
        let (mut out, mut bytes) = (vec![], 0);
        for (partition, next) in &mut self.next {
            let partition = *partition;
            let Some(held) = frames.held.get(partition.index()) else {
                return Err(ReadError::NoSuchPartition { partition, count: self.log.0.partitions });
            };
            let first = Position(frames.last[partition.index()] - held.len() as u64).next();
            if *next < first {
                return Err(ReadError::Trimmed { partition, wanted: *next, first });
            }
            for frame in held.iter().skip((next.0 - first.0) as usize) {
                if bytes > 0 && bytes + frame.bytes.len() > BATCH_BYTES {
                    break;
                }
                bytes += frame.bytes.len();
                *next = frame.position.next();
                out.push(frame.clone());
            }
        }
        Ok(out)
    }
}

impl LogReader for MemoryReader {
    async fn next_batch(&mut self) -> Result<Vec<StoredFrame>, ReadError> {
        let log = self.log.clone();
        loop {
            let mut changed = std::pin::pin!(log.0.changed.notified());
            changed.as_mut().enable();
            let frames = self.take()?;
            if !frames.is_empty() {
                return Ok(frames);
            }
            changed.await;
        }
    }
}
