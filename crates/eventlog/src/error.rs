//! What can go wrong with a log, by operation, in words that name the place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cameo_profile::{Partition, PartitionCount, Position};

use crate::frame;

/// Why a frame has no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room; nothing was written. It works again by itself when there is room.
    #[error("the storage of the log is full")]
    StorageFull,
    /// Nothing was written: safe to try again.
    #[error("the log is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The frame may or may not be in the log.
    #[error("the outcome of the append is unknown: {0}")]
    Unknown(Arc<str>),
}

impl AppendError {
    /// One word for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::StorageFull => "storage_full",
            Self::Unavailable(_) => "unavailable",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Why these cannot be frames of a log with so many partitions: a fault of the caller, found before anything is written.
pub(crate) fn unfit(frames: &[(Partition, Bytes)], count: PartitionCount) -> Option<String> {
    frames.iter().find_map(|(partition, bytes)| {
        if partition.0 >= count.get() {
            Some(format!("there is no partition {partition} among {}", count.get()))
        } else {
            // What is not a frame would stop every reader, and the next start.
            match frame::check(bytes) {
                Err(error) => Some(format!("a frame is none: {error}")),
                Ok((header, ..)) if header.partition != *partition => {
                    Some(format!("a frame of partition {} is given as one of {partition}", header.partition))
                }
                Ok(_) => None,
            }
        }
    })
}

/// Stored bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// The frames hit; when what names them is itself unreadable, the last good frame of each partition before it.
    pub frames: Vec<(Partition, Position)>,
    /// Whether `frames` are the ones hit.
    pub exact: bool,
}

/// Partitions that an error lists by name; of more it says how many.
const LISTED: usize = 16;

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}; ", self.file.display(), self.offset, self.what)?;
        f.write_str(if self.exact { "hit: " } else { "last good before it: " })?;
        if self.frames.is_empty() {
            f.write_str("no frame")?;
        }
        for (n, (partition, position)) in self.frames.iter().take(LISTED).enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}partition {partition} position {position}")?;
        }
        if self.frames.len() > LISTED {
            write!(f, " and {} more partitions", self.frames.len() - LISTED)?;
        }
        Ok(())
    }
}

impl std::error::Error for Damage {}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct IoError {
    /// What was tried: "read", "create".
    pub doing: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl IoError {
    /// For `map_err`.
    pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { doing, path, source }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another log of this one) has it open.
    #[error("the log in {} is in use by another process", dir.display())]
    InUse {
        /// The log's directory.
        dir: PathBuf,
    },
    /// P is fixed at creation.
    #[error("the log in {} was created with {} partitions, not {}; that cannot be changed", dir.display(), found.get(), asked.get())]
    OtherPartitions {
        /// The log's directory.
        dir: PathBuf,
        /// P of the log.
        found: PartitionCount,
        /// P that was asked for.
        asked: PartitionCount,
    },
    /// The file that describes the log cannot be understood.
    #[error("{} {what}", file.display())]
    BadMeta {
        /// The file.
        file: PathBuf,
        /// What is wrong with it; continues a sentence.
        what: String,
    },
    /// Stored frames are not what was written.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The streams of a log disagree, or are none of a log.
    #[error("stream {stream} {what}")]
    BadStream {
        /// Which.
        stream: String,
        /// What is wrong with it; continues a sentence.
        what: String,
    },
    /// NATS cannot be asked, or says no.
    #[error("the log's streams cannot be used")]
    Nats(#[from] cameo_nats::RequestError),
}

/// Why a reader cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Stored frames are not what was written.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// What it asks for has been trimmed away.
    #[error("partition {partition} position {wanted} was trimmed away; the log starts at {first}")]
    Trimmed {
        /// The partition.
        partition: Partition,
        /// The position that would come next.
        wanted: Position,
        /// The first one held.
        first: Position,
    },
    /// It claims to have read what the log does not have: the log lost frames, or it is another log's position.
    #[error("partition {partition} ends at position {last} in {}, before position {asked} that was read already", place.display())]
    Ahead {
        /// The partition.
        partition: Partition,
        /// The position after which it would go on.
        asked: Position,
        /// The last one in the log.
        last: Position,
        /// The file that the log ends in, or what else stores it.
        place: PathBuf,
    },
    /// No frame of this partition stands there.
    #[error("partition {partition} has no frame at position {position}")]
    NoFrame {
        /// The partition.
        partition: Partition,
        /// What was asked for.
        position: Position,
    },
    /// There is no such partition.
    #[error("the log has {} partitions; there is no partition {partition}", count.get())]
    NoSuchPartition {
        /// What was asked for.
        partition: Partition,
        /// P.
        count: PartitionCount,
    },
    /// The log is not what it was: acknowledged frames were lost or replaced.
    #[error("the log lost frames that were acknowledged: {0}")]
    Rewritten(String),
    /// NATS cannot be asked, or says no.
    #[error("the log's streams cannot be read")]
    Nats(#[from] cameo_nats::RequestError),
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why a trim stopped early. What it dropped before stays dropped.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] IoError),
    /// NATS cannot be asked, or says no.
    #[error("the log's streams cannot be trimmed")]
    Nats(#[from] cameo_nats::RequestError),
}
