//! The log: P partitions, each an ordered, durable sequence of frames. The only writer of truth in Cameo.
//!
//! What it is: the [`EventLog`] trait and its promises, the frame codec ([`frame`]), the [`Appender`] that packs
//! events into frames and commits them in groups, the backends ([`embedded`] for one process, [`jetstream`] for a cluster,
//! [`memory`] for tests),
//! and the conformance suite that every backend passes.
//!
//! What it is not: it does not know what an event means. Events are bytes.
//!
//! Invariants:
//! - A frame that [`EventLog::append`] has returned a position for is durable (as far as the backend was told to be),
//!   and every reader sees it at that position, after all lower positions of its partition.
//! - Positions rise within a partition, with gaps where partitions share them (JetStream); log times never fall.
//! - A reader never skips: what it cannot read intact is an error that names the position.
//! - [`EventLog::frame`] gives the very bytes that stand at a position, or says that they were trimmed, for any hint.

pub mod appender;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod error;
pub mod frame;
pub mod jetstream;
pub mod memory;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
pub use cameo_profile::{LogTime, Partition, PartitionCount, Position};

pub use appender::{Appender, AppenderOptions, SubmitError, Ticket};
pub use clock::Clock;
pub use embedded::{Durability, EmbeddedLog, EmbeddedOptions};
pub use error::{AppendError, Damage, IoError, OpenError, ReadError, TrimError};
pub use jetstream::{JetStreamLog, JetStreamOptions, Missing, ReappendError};
pub use memory::MemoryLog;

/// The most bytes of frames that one batch of a reader holds, unless a single frame is larger. Ours: large enough to
/// keep a core busy for some milliseconds, small enough that a few readers do not matter.
pub const BATCH_BYTES: usize = 8 << 20;

/// Which log this is: random, fixed at creation. A checkpoint of another log does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub u128);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where a backend finds a frame again without looking for it: opaque, and good for as long as the frame is held.
/// The default says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint(pub u64);

/// One frame as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFrame {
    /// Its partition.
    pub partition: Partition,
    /// Its place there.
    pub position: Position,
    /// When the log took it.
    pub at: LogTime,
    /// For [`EventLog::frame`].
    pub hint: Hint,
    /// The encoded frame, for [`frame::Frame::decode`].
    pub bytes: Bytes,
}

/// What a trim removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Units of storage dropped (segments of the embedded log).
    pub segments: usize,
    /// Bytes given back.
    pub bytes: u64,
}

/// An ordered, durable log of P partitions. Any number of callers append and read at the same time.
pub trait EventLog: Send + Sync + 'static {
    /// Reads frames of some partitions in order.
    type Reader: LogReader;

    /// Which log this is.
    fn id(&self) -> LogId;

    /// P, fixed when the log was created.
    fn partitions(&self) -> PartitionCount;

    /// What the log would stamp now. Never falls.
    fn now(&self) -> LogTime;

    /// The last position of a partition; [`Position::START`] when nothing was ever appended. Where partitions share
    /// their positions, it may be one of another partition: nothing of this one is behind it.
    fn last(&self, partition: Partition) -> Position;

    /// The first position still held; the one after [`Self::last`] when none is.
    fn first(&self, partition: Partition) -> Position;

    /// Whether nodes share it, and it is not this process's alone. Where a partition of a shared log cannot be read, it stops by
    /// itself, and the node serves the others; any other log is read whole, or not at all.
    fn is_shared(&self) -> bool {
        false
    }

    /// How many lanes appends have: groups of partitions that do not wait for one another.
    fn lanes(&self) -> usize {
        1
    }

    /// The lane of a partition, below [`Self::lanes`].
    fn lane(&self, partition: Partition) -> usize {
        let _ = partition;
        0
    }

    /// Frames between these positions and the end; where positions have gaps, at most so many.
    fn behind(&self, read: &[(Partition, Position)]) -> u64 {
        read.iter().map(|(partition, position)| self.last(*partition).0.saturating_sub(position.0)).sum()
    }

    /// For how long this process has not heard from the log: what others appended meanwhile is not known here.
    fn silence(&self) -> Duration {
        Duration::ZERO
    }

    /// The same for what one partition is in: a part of the log that is silent leaves the others alone.
    fn silence_of(&self, _partition: Partition) -> Duration {
        self.silence()
    }

    /// For how long no append to what a partition is in has been answered, although one was made; zero when the last one was.
    /// A part of the log may be heard from all the same.
    fn unanswered(&self, _partition: Partition) -> Duration {
        Duration::ZERO
    }

    /// Appends a group; one result per frame, in order. May block its thread: call it from a thread of one's own.
    ///
    /// The frames of one partition land as a prefix of what was given: once one of them has failed, no later one of
    /// that partition lands. [`AppendError::Unknown`] is the only error after which a frame may be in the log.
    /// A dropped future leaves every outcome unknown.
    fn append(
        &self,
        frames: Vec<(Partition, Bytes)>,
    ) -> impl Future<Output = Vec<Result<Position, AppendError>>> + Send;

    /// Reads the given partitions, each after the given position. What is wrong with a position (trimmed away, or
    /// past the end) is said by [`LogReader::next_batch`]: by its first call, unless the log may not know its own end yet.
    fn reader(&self, from: Vec<(Partition, Position)>) -> Self::Reader;

    /// Reads the one frame at a position. `hint` is what a reader said of it, or the default; it decides how long this
    /// takes, never what it gives. May block its thread on a read from disk.
    ///
    /// Where the clocks of several servers stamp a log, the frame's time may be lower than what a reader of the whole
    /// partition said, as that does not fall.
    fn frame(
        &self,
        partition: Partition,
        position: Position,
        hint: Hint,
    ) -> impl Future<Output = Result<StoredFrame, ReadError>> + Send;

    /// Drops what is at or before `upto` **and** older than `older_than`, in whole units of storage: it may keep more,
    /// never less. Partitions that are not named keep everything.
    fn trim(
        &self,
        upto: &[(Partition, Position)],
        older_than: LogTime,
    ) -> impl Future<Output = Result<Trimmed, TrimError>> + Send;
}

/// Reads frames of some partitions, in order within each.
pub trait LogReader: Send + 'static {
    /// The next frames, at most [`BATCH_BYTES`] (or one frame); waits when there are none. An empty batch only says that
    /// [`Self::passed`] has something new.
    /// Cancel-safe: a dropped call loses nothing. May block its thread on a read from disk.
    ///
    /// After an error every further call fails too.
    fn next_batch(&mut self) -> impl Future<Output = Result<Vec<StoredFrame>, ReadError>> + Send;

    /// Up to where partitions have been read although no frame of theirs stands there: where partitions share their
    /// positions, an idle one moves on with the others. Only what is new since the last call, and only up to what
    /// [`Self::next_batch`] has returned.
    fn passed(&mut self) -> Vec<(Partition, Position)> {
        Vec::new()
    }
}
