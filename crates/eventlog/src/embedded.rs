//! The embedded log: our own segment files for one process, one write-ahead log for all partitions, so that one sync
//! covers whatever all of them have ready. ADR 0001 says why these are files of our own.
//!
//! A directory holds `log.json` (which log this is), `lock`, and segments `00000000000000000001.seg` and up. Formats:
//! `segment` (file and header), `group` (what one append wrote), [`crate::frame`] (a frame).
//!
//! Not here: what a frame's events mean; retention policy (the caller says what may be trimmed).

mod disk;
mod group;
mod meta;
mod random;
mod reader;
mod recover;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Rising};
use crate::error::{AppendError, IoError, OpenError, ReadError, TrimError, unfit};
use crate::{EventLog, Hint, LogId, LogTime, Partition, PartitionCount, Position, StoredFrame, Trimmed};

pub use reader::EmbeddedReader;

use disk::Faults;
use group::Seed;
use meta::Meta;
use recover::Walk;
use segment::SegmentHeader;
use view::View;
use writer::{Start, Writer};

/// What an acknowledged append has survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disk: a power cut loses nothing acknowledged.
    #[default]
    Fsync,
    /// It is in the system's memory: a crash of this process loses nothing, a power cut loses the last seconds, and
    /// may leave a hole before the end that stops the next start.
    Buffered,
}

/// How to open an embedded log.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Its directory; created when missing.
    pub dir: PathBuf,
    /// P: `None` takes what the log was created with, or the default for a new one.
    pub partitions: Option<PartitionCount>,
    /// When an append is acknowledged.
    pub durability: Durability,
    /// Size past which a new segment is started, in bytes.
    pub segment_bytes: u64,
    /// Frames kept in memory for readers that keep up, in bytes.
    pub tail_bytes: usize,
    /// Where log time comes from.
    pub clock: Clock,
}

/// Default size of a segment, in bytes. Ours: trimming works in whole segments; one is read in a tenth of a second.
const SEGMENT_BYTES: u64 = 128 << 20;
/// Default size of the memory tail, in bytes. Ours: some seconds of a busy log.
const TAIL_BYTES: usize = 32 << 20;

impl EmbeddedOptions {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            partitions: None,
            durability: Durability::default(),
            segment_bytes: SEGMENT_BYTES,
            tail_bytes: TAIL_BYTES,
            clock: Clock::system(),
        }
    }
}

/// What writer and readers share.
struct Shared {
    id: LogId,
    partitions: PartitionCount,
    seed: Seed,
    clock: Rising,
    view: Mutex<View>,
    /// Told after every commit.
    changed: Notify,
    /// As it stands in the file.
    meta: Mutex<Meta>,
}

impl Shared {
    /// Changes the log's description, in the file first.
    fn remember(&self, dir: &Path, change: impl FnOnce(&mut Meta)) -> io::Result<()> {
        let mut stored = self.meta.lock();
        let mut meta = stored.clone();
        change(&mut meta);
        meta::save(dir, &meta)?;
        *stored = meta;
        Ok(())
    }
}

/// An [`EventLog`] in segment files of this machine.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    dir: PathBuf,
    writer: Mutex<Writer>,
    /// Held as long as the log is open.
    _lock: File,
}

impl EmbeddedLog {
    /// Opens the log in a directory, or creates one: takes the directory's lock, reads the segments, cuts off a torn
    /// end. Blocks.
    ///
    /// # Errors
    /// When another process has it, when P differs, when stored frames are damaged (naming file, partition and
    /// position), or when the file system fails.
    pub fn open(options: EmbeddedOptions) -> Result<Self, OpenError> {
        Self::open_with(options, None)
    }

    fn open_with(options: EmbeddedOptions, faults: Option<Faults>) -> Result<Self, OpenError> {
        let EmbeddedOptions { dir, partitions, durability, segment_bytes, tail_bytes, clock } = options;
        let lock = meta::lock(&dir)?;
        let meta = meta::read(&dir)?;
        if let Some((found, asked)) = meta.as_ref().map(|meta| meta.partitions).zip(partitions)
            && found != asked
        {
            return Err(OpenError::OtherPartitions { dir, found, asked });
        }
        let (meta, recovered) = match meta {
            Some(meta) => {
                let recovered = recover::recover(&dir, &meta, faults.as_ref())?;
                (meta, recovered)
            }
            None => create(&dir, partitions.unwrap_or(PartitionCount::DEFAULT), &clock, faults.as_ref())?,
        };
        let (id, seed) = (meta.id, Seed::of(meta.id));
        let recover::Recovered { segments, file, end, last_group, state: Walk { next_seq, at, last } } = recovered;
        let header_bytes = SegmentHeader::bytes(meta.partitions);
        let number = segments.back().map_or(0, |segment| segment.header.number);
        let start = Start { file, number, end, last_group, header_bytes };
        let writer = Writer::new(dir.clone(), durability, segment_bytes, seed, faults, start)
            .map_err(IoError::at("read", &dir))?;
        let shared = Shared {
            id,
            partitions: meta.partitions,
            seed,
            clock: Rising::new(clock, at),
            view: Mutex::new(View::new(segments, end, next_seq, last, tail_bytes)),
            changed: Notify::new(),
            meta: Mutex::new(meta),
        };
        Ok(Self { shared: Arc::new(shared), dir, writer: Mutex::new(writer), _lock: lock })
    }

    fn append_now(&self, frames: &[(Partition, Bytes)]) -> Vec<Result<Position, AppendError>> {
        if let Some(what) = unfit(frames, self.shared.partitions) {
            return vec![Err(AppendError::Unavailable(what.into())); frames.len()];
        }
        let mut writer = self.writer.lock();
        let mut results = Vec::with_capacity(frames.len());
        let mut rest = frames;
        while !rest.is_empty() {
            let (group, after) = rest.split_at(group_length(rest));
            match writer.append(&self.shared, group) {
                Ok(positions) => results.extend(positions.into_iter().map(Ok)),
                Err(error) => {
                    results.extend(std::iter::repeat_n(Err(error.clone()), group.len()));
                    // Not even tried: certainly not written.
                    let after_error = match error {
                        AppendError::Unknown(what) => AppendError::Unavailable(what),
                        error => error,
                    };
                    results.extend(std::iter::repeat_n(Err(after_error), after.len()));
                    break;
                }
            }
            rest = after;
        }
        results
    }
}

/// How many of the frames go into the next group.
fn group_length(frames: &[(Partition, Bytes)]) -> usize {
    let mut bytes = 0;
    let fitting = frames.iter().take(group::FRAMES_MAX).take_while(|(_, frame)| {
        bytes += frame.len();
        bytes <= group::BODY_BYTES_MAX
    });
    fitting.count().max(1)
}

/// Creates a log: its first segment, then its description, which makes it one.
fn create(
    dir: &Path,
    partitions: PartitionCount,
    clock: &Clock,
    faults: Option<&Faults>,
) -> Result<(Meta, recover::Recovered), OpenError> {
    recover::check_vacant(dir, partitions)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| IoError {
        doing: "draw a random id for",
        path: dir.to_owned(),
        source: io::Error::other(error),
    })?;
    let now = Rising::new(clock.clone(), LogTime(0)).now();
    let id = LogId(u128::from_le_bytes(id));
    let meta = Meta { id, partitions, created_at: now, first_segment: 1, last_segment: 1 };
    let state = Walk { next_seq: 1, at: now, last: vec![0; usize::from(partitions.get())] };
    let header = SegmentHeader {
        log: id,
        number: 1,
        first_seq: state.next_seq,
        before: state.at,
        previous_bytes: 0,
        base: state.last.clone().into_boxed_slice(),
    };
    let end = SegmentHeader::bytes(partitions);
    let (segment, file) =
        writer::create(dir, header, faults).map_err(IoError::at("create the first segment in", dir))?;
    meta::save(dir, &meta).map_err(IoError::at("describe the log in", dir))?;
    let segments = VecDeque::from([Arc::new(segment)]);
    Ok((meta, recover::Recovered { segments, file, end, last_group: None, state }))
}

impl EventLog for EmbeddedLog {
    type Reader = EmbeddedReader;

    fn id(&self) -> LogId {
        self.shared.id
    }

    fn partitions(&self) -> PartitionCount {
        self.shared.partitions
    }

    fn now(&self) -> LogTime {
        self.shared.clock.now()
    }

    fn last(&self, partition: Partition) -> Position {
        self.shared.view.lock().last(partition)
    }

    fn first(&self, partition: Partition) -> Position {
        self.shared.view.lock().first(partition)
    }

    async fn append(&self, frames: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        self.append_now(&frames)
    }

    fn reader(&self, from: Vec<(Partition, Position)>) -> EmbeddedReader {
        EmbeddedReader::new(Arc::clone(&self.shared), from)
    }

    async fn frame(&self, partition: Partition, position: Position, hint: Hint) -> Result<StoredFrame, ReadError> {
        random::read(&self.shared, partition, position, hint)
    }

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        let mut limits = vec![0; usize::from(self.shared.partitions.get())];
        for (partition, position) in upto {
            if let Some(limit) = limits.get_mut(partition.index()) {
                *limit = position.0;
            }
        }
        // Described as gone first, then taken out of sight, then deleted: what a crash leaves behind is removed by the
        // next start, and a reader that finds a file gone sees why.
        let first = {
            let view = self.shared.view.lock();
            let count = view.trimmable(&limits, older_than.ms());
            if count == 0 {
                return Ok(Trimmed::default());
            }
            view.segments[count].header.number
        };
        self.shared
            .remember(&self.dir, |meta| meta.first_segment = first)
            .map_err(IoError::at("describe the log in", &self.dir))?;
        let dropped: Vec<_> = {
            let mut view = self.shared.view.lock();
            let count = view.segments.partition_point(|segment| segment.header.number < first);
            view.segments.drain(..count).collect()
        };
        let mut trimmed = Trimmed::default();
        for segment in &dropped {
            let bytes = fs::metadata(&segment.path).map_or(0, |meta| meta.len());
            fs::remove_file(&segment.path).map_err(IoError::at("remove", &segment.path))?;
            trimmed = Trimmed { segments: trimmed.segments + 1, bytes: trimmed.bytes + bytes };
        }
        Ok(trimmed)
    }
}
