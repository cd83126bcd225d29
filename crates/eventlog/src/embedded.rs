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
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Rising};
use crate::error::{AppendError, IoError, OpenError, TrimError, unfit};
use crate::{EventLog, LogId, LogTime, Partition, PartitionCount, Position, Trimmed};

pub use reader::EmbeddedReader;

use disk::Faults;
use group::Seed;
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
}

/// An [`EventLog`] in segment files of this machine.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
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
        let meta = match meta::read(&dir)? {
            Some(meta) => meta,
            None => create_meta(&dir, partitions, &clock)?,
        };
        if let Some(asked) = partitions.filter(|asked| *asked != meta.partitions) {
            return Err(OpenError::OtherPartitions { dir, found: meta.partitions, asked });
        }
        let (id, seed) = (meta.id, Seed::of(meta.id));
        let recovered = match recover::recover(&dir, id, meta.partitions, faults.as_ref())? {
            Some(recovered) => recovered,
            None => first_segment(&dir, &meta, &clock, faults.as_ref())?,
        };
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
        };
        Ok(Self { shared: Arc::new(shared), writer: Mutex::new(writer), _lock: lock })
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

fn create_meta(
    dir: &std::path::Path,
    partitions: Option<PartitionCount>,
    clock: &Clock,
) -> Result<meta::Meta, OpenError> {
    let has_segments = fs::read_dir(dir)
        .map_err(IoError::at("list", dir))?
        .flatten()
        .any(|entry| segment::number(&entry.path()).is_some());
    if has_segments {
        let what = "is missing, but there are segments of a log beside it".to_owned();
        return Err(OpenError::BadMeta { file: dir.join("log.json"), what });
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| IoError {
        doing: "draw a random id for",
        path: dir.to_owned(),
        source: std::io::Error::other(error),
    })?;
    let meta =
        meta::Meta { id: LogId(u128::from_le_bytes(id)), partitions: partitions.unwrap_or(PartitionCount::DEFAULT) };
    meta::create(dir, &meta, Rising::new(clock.clone(), LogTime(0)).now())?;
    Ok(meta)
}

fn first_segment(
    dir: &std::path::Path,
    meta: &meta::Meta,
    clock: &Clock,
    faults: Option<&Faults>,
) -> Result<recover::Recovered, OpenError> {
    let state = Walk {
        next_seq: 1,
        at: Rising::new(clock.clone(), LogTime(0)).now(),
        last: vec![0; usize::from(meta.partitions.get())],
    };
    let header = SegmentHeader {
        log: meta.id,
        number: 1,
        first_seq: state.next_seq,
        before: state.at,
        previous_bytes: 0,
        base: state.last.clone().into_boxed_slice(),
    };
    let end = SegmentHeader::bytes(meta.partitions);
    let (segment, file) =
        writer::create(dir, header, faults).map_err(IoError::at("create the first segment in", dir))?;
    Ok(recover::Recovered { segments: VecDeque::from([Arc::new(segment)]), file, end, last_group: None, state })
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

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        let mut limits = vec![0; usize::from(self.shared.partitions.get())];
        for (partition, position) in upto {
            if let Some(limit) = limits.get_mut(partition.index()) {
                *limit = position.0;
            }
        }
        // Taken out of sight first, then deleted: a reader that finds the file gone sees why. A file that a crash
        // leaves behind is simply still part of the log, as they go oldest first.
        let dropped: Vec<_> = {
            let mut view = self.shared.view.lock();
            let count = view.trimmable(&limits, older_than.ms());
            view.segments.drain(..count).collect()
        };
        let mut trimmed = Trimmed::default();
        for segment in &dropped {
            let bytes = fs::metadata(&segment.path).map_or(0, |meta| meta.len());
            fs::remove_file(&segment.path).map_err(IoError::at("remove", &segment.path))?;
            // One by one, so that a power cut cannot leave a hole.
            if let Some(dir) = segment.path.parent() {
                disk::sync_dir(dir).map_err(IoError::at("sync", dir))?;
            }
            trimmed = Trimmed { segments: trimmed.segments + 1, bytes: trimmed.bytes + bytes };
        }
        Ok(trimmed)
    }
}
