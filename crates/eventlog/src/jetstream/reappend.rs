//! Giving a stream back the end that it lost, out of what nodes have kept of it (`recent.rs`). Only ever asked for by an
//! operator, and only after the place that each frame had: it is stored there again, or not at all.
//!
//! A frame that comes back has another server time, and the fold goes by the time of the log. So it says in a header which
//! time it had; readers believe that as far as it is not later than the server's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cameo_nats::{Publish, PublishError, RequestError, Stored};

use super::recent::{self, Kept};
use super::{JetStreamLog, LogTime, Partition, Position, frame};

/// Header of a frame that was appended again: its first log time, milliseconds since 1970.
pub(super) const AT: &str = "Cameo-At";
/// How long one frame is tried.
const PATIENCE: Duration = Duration::from_secs(10);

/// The log time of a message. Nobody can make it later than the server says.
pub(super) fn time(message: &Stored) -> LogTime {
    let first = message.header(AT).and_then(|text| text.parse().ok());
    LogTime(first.unwrap_or(u64::MAX).min(message.at_ms()))
}

/// Why frames are not appended again.
#[derive(Debug, thiserror::Error)]
pub enum ReappendError {
    /// What a node has kept cannot be read.
    #[error("cannot read {}", dir.display())]
    Io {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// NATS cannot be asked, or says no.
    #[error("the log's streams cannot be used")]
    Nats(#[from] RequestError),
    /// Nodes differ.
    #[error("stream {stream}, position {position}: two nodes have kept different frames; none can be appended")]
    Differ {
        /// Its number.
        stream: usize,
        /// Where.
        position: Position,
    },
    /// The stream goes on differently.
    #[error(
        "stream {stream} has another frame at position {position} than was read there, or nobody knows which was: it \
         went on after the loss, and what was lost cannot come before that any more; begin again from exported snapshots"
    )]
    Forked {
        /// Its number.
        stream: usize,
        /// Where.
        position: Position,
    },
    /// Some are missing.
    #[error(
        "stream {stream}: nobody has kept the frames from position {from} to {to}; those behind them cannot be appended"
    )]
    Gap {
        /// Its number.
        stream: usize,
        /// The first one that is missing.
        from: Position,
        /// The last one.
        to: Position,
    },
    /// A frame was not stored.
    #[error("stream {stream}, position {position}: the frame could not be appended; ask again what is missing")]
    Refused {
        /// Its number.
        stream: usize,
        /// Which.
        position: Position,
        /// What NATS said.
        source: PublishError,
    },
    /// It stands somewhere else.
    #[error("stream {stream}, position {position}: somebody else appended a frame there meanwhile")]
    Elsewhere {
        /// Its number.
        stream: usize,
        /// Which.
        position: Position,
    },
}

/// The end that a stream lost, as it can be appended again.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Number of the stream.
    pub stream: usize,
    /// The last position that it has.
    pub last: Position,
    /// The frames behind it, without a gap.
    frames: Vec<(Partition, Kept)>,
}

impl Missing {
    /// First and last position that is missing.
    #[must_use]
    pub fn span(&self) -> (Position, Position) {
        (self.last.next(), Position(self.last.0 + self.frames.len() as u64))
    }

    /// How many frames each partition misses, with the first and the last position of them.
    #[must_use]
    pub fn partitions(&self) -> BTreeMap<Partition, (usize, Position, Position)> {
        let mut of = BTreeMap::new();
        for (partition, kept) in &self.frames {
            let entry = of.entry(*partition).or_insert((0, kept.position, kept.position));
            *entry = (entry.0 + 1, entry.1, kept.position);
        }
        of
    }
}

impl JetStreamLog {
    /// What the streams have lost of what nodes have kept in these directories; empty when nothing is missing.
    ///
    /// # Errors
    /// When it cannot be told, or could not be appended in its place.
    pub async fn missing(&self, dirs: &[PathBuf]) -> Result<Vec<Missing>, ReappendError> {
        let mut all = Vec::new();
        for (stream, of) in self.0.streams.iter().enumerate() {
            let mut kept = BTreeMap::new();
            for dir in dirs {
                let io = |source| ReappendError::Io { dir: dir.clone(), source };
                for one in recent::read(dir, self.0.id, stream).map_err(io)? {
                    let position = one.position;
                    if kept.insert(position, one.clone()).is_some_and(|other: Kept| other.bytes != one.bytes) {
                        return Err(ReappendError::Differ { stream, position });
                    }
                }
            }
            // Afterwards: a running node keeps what is read meanwhile, and all of that is there.
            let Some(info) = self.0.nats.stream_info(&of.name).await? else { continue };
            let last = Position(info.last);
            let lost = kept.split_off(&last.next());
            // The newest one that should be there tells whether this is still the same stream.
            let newest = kept.pop_last().map(|(_, newest)| newest);
            if lost.is_empty() {
                self.check_newest(stream, newest).await?;
                continue;
            }
            self.check_end(stream, last, newest).await?;
            let mut frames = Vec::with_capacity(lost.len());
            let mut next = last.next();
            for (position, one) in lost {
                if position != next {
                    return Err(ReappendError::Gap { stream, from: next, to: Position(position.0 - 1) });
                }
                next = position.next();
                // It was checked when it was read.
                let Ok((header, ..)) = frame::check(&one.bytes) else { continue };
                frames.push((header.partition, one));
            }
            all.push(Missing { stream, last, frames });
        }
        Ok(all)
    }

    /// Whether a stream that goes as far as what nodes have read has the same there.
    async fn check_newest(&self, stream: usize, read: Option<Kept>) -> Result<(), ReappendError> {
        let Some(read) = read else { return Ok(()) };
        match self.0.nats.at(&self.0.streams[stream].name, read.position.0).await? {
            Some(there) if there.payload != read.bytes => {
                Err(ReappendError::Forked { stream, position: read.position })
            }
            // Nothing: it was trimmed.
            _ => Ok(()),
        }
    }

    /// Whether the last frame of a stream is the one that nodes have read there.
    async fn check_end(&self, stream: usize, last: Position, read: Option<Kept>) -> Result<(), ReappendError> {
        if last == Position::START {
            return Ok(());
        }
        let there = self.0.nats.at(&self.0.streams[stream].name, last.0).await?;
        match (there, read) {
            (Some(there), Some(read)) if read.position == last && there.payload == read.bytes => Ok(()),
            _ => Err(ReappendError::Forked { stream, position: last }),
        }
    }

    /// Appends them again, each in the place that it had; returns how many. May be asked for again after an error, for
    /// what is then missing.
    ///
    /// # Errors
    /// Where it ended, and why.
    pub async fn reappend(&self, missing: &Missing) -> Result<usize, ReappendError> {
        let stream = missing.stream;
        for (partition, kept) in &missing.frames {
            let Ok((header, ..)) = frame::check(&kept.bytes) else { continue };
            let id = format!("{}.{partition}.{}", header.appender, header.counter);
            // NATS may remember the id of what it has lost: then it says "duplicate" and stores nothing.
            for id in [id.clone(), format!("{id}.again")] {
                if self.put_back(stream, *partition, kept, id).await? {
                    break;
                }
            }
            if !self.stands(stream, kept).await? {
                return Err(ReappendError::Elsewhere { stream, position: kept.position });
            }
        }
        Ok(missing.frames.len())
    }

    async fn put_back(
        &self,
        stream: usize,
        partition: Partition,
        kept: &Kept,
        id: String,
    ) -> Result<bool, ReappendError> {
        let position = kept.position;
        let publish = Publish {
            subject: format!("{}.log.{stream}.{partition}", self.0.name),
            id,
            expected: None,
            // It lands in its place, or nowhere.
            headers: vec![
                ("Nats-Expected-Last-Sequence", (position.0 - 1).to_string()),
                (AT, kept.at.ms().to_string()),
            ],
            payload: kept.bytes.clone(),
        };
        match self.0.nats.publish(&publish, PATIENCE).await {
            Ok(ack) => Ok(ack.seq == position.0 && self.stands(stream, kept).await?),
            // Of several attempts an earlier one may have been stored.
            Err(PublishError::Conflict { .. }) => self.stands(stream, kept).await,
            Err(source) => Err(ReappendError::Refused { stream, position, source }),
        }
    }

    async fn stands(&self, stream: usize, kept: &Kept) -> Result<bool, ReappendError> {
        let there = self.0.nats.at(&self.0.streams[stream].name, kept.position.0).await?;
        Ok(there.is_some_and(|there| there.payload == kept.bytes))
    }
}
