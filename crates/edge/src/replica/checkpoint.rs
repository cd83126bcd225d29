//! Checkpoints: a partition's pairs and its place in the log, in one local fjall database, written atomically.
//!
//! ```text
//! key                                     value
//! partition (u16, big-endian) 0 'm'       MessagePack array: format, log id, position, log time, lineage
//! partition (u16, big-endian) pair key    pair value (cameo-profile, state/stored.rs)
//! ```
//! The database is reopened after a failed write: a full disk poisons it, and it must work again when there is room.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cameo_eventlog::frame::Lineage;
use cameo_eventlog::{EventLog, LogId, LogReader};
use cameo_profile::state::Changes;
use cameo_profile::{LogTime, Partition, Position};
use fjall::{Database, Keyspace, PersistMode};
use serde::{Deserialize, Serialize};

use super::Folded;

/// Memtables waiting for the disk at which a write waits. Below the four at which fjall does.
const SEALED_MEMTABLES: usize = 3;
/// How long a write waits for them, and how often it looks.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
const FLUSH_LOOK: Duration = Duration::from_millis(20);

/// Name of the keyspace with all pairs.
const KEYSPACE: &str = "state";
/// Format of the mark; the pairs have a version of their own.
const FORMAT: u8 = 1;

/// What to do about a damaged one. It only saves time, and a log that was trimmed refuses to be read without it.
const REBUILD: &str = "move it away, and the profiles are rebuilt from the log";

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The database does not open or read.
    #[error("the checkpoint in {} cannot be read; {}", dir.display(), REBUILD)]
    Database {
        /// Its directory.
        dir: PathBuf,
        /// What the database said.
        source: fjall::Error,
    },
    /// A record is not what was written.
    #[error("the checkpoint in {}, partition {partition}, is damaged: {reason}; {}", dir.display(), REBUILD)]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// Which partition.
        partition: Partition,
        /// What is wrong.
        reason: String,
    },
    /// It was made of another log.
    #[error(
        "the checkpoint in {} is of log {found}, partition {partition} at position {position}; this log is {expected}",
        dir.display()
    )]
    OtherLog {
        /// Its directory.
        dir: PathBuf,
        /// Which partition.
        partition: Partition,
        /// Its position.
        position: Position,
        /// The log it was made of.
        found: LogId,
        /// The log that was opened.
        expected: LogId,
    },
    /// The log ends before the checkpoint: acknowledged frames are missing from it.
    #[error("the checkpoint in {} is ahead of its log, which lost frames that were acknowledged: {reason}", dir.display())]
    AheadOfLog {
        /// Its directory.
        dir: PathBuf,
        /// The log's words: partition, positions, file.
        reason: String,
    },
    /// The log starts after the checkpoint: what lies between was trimmed.
    #[error(
        "the checkpoint in {}, partition {partition}, is at position {position}, but the log starts at {first}: what \
         lies between was trimmed away",
        dir.display()
    )]
    BehindLog {
        /// Its directory.
        dir: PathBuf,
        /// Which partition.
        partition: Partition,
        /// Its position.
        position: Position,
        /// The first one of the log.
        first: Position,
    },
}

/// A partition's place in the log.
#[derive(Serialize, Deserialize)]
struct Mark {
    format: u8,
    log: u128,
    position: u64,
    at_ms: u64,
    lineage: Vec<u8>,
}

const MARK: [u8; 2] = [0, b'm'];

fn key(partition: Partition, rest: &[u8]) -> Vec<u8> {
    [&partition.0.to_be_bytes()[..], rest].concat()
}

/// What is taken from a partition under its lock, to be written without it.
pub(super) struct Taken {
    pub(super) partition: Partition,
    pub(super) changes: Changes,
    pub(super) position: Position,
    pub(super) at: LogTime,
    pub(super) lineage: Vec<u8>,
}

/// The database.
pub(super) struct Checkpoint {
    dir: PathBuf,
    log: LogId,
    /// `None` after a failure, until it could be reopened.
    open: Option<(Database, Keyspace)>,
}

impl Taken {
    /// Bytes of its pairs.
    pub(super) fn bytes(&self) -> usize {
        let puts = self.changes.puts.iter().map(|(key, value)| key.len() + value.len());
        puts.sum::<usize>() + self.changes.deletes.iter().map(Vec::len).sum::<usize>()
    }
}

impl Checkpoint {
    /// Opens the database and reads every partition; a missing one starts empty.
    pub(super) fn open<L: EventLog>(dir: PathBuf, log: &L) -> Result<(Self, Vec<Folded>), CheckpointError> {
        let unreadable = |source| CheckpointError::Database { dir: dir.clone(), source };
        let (database, pairs) = cameo_store::open(&dir, KEYSPACE).map_err(unreadable)?;
        let read = |partition| read(&dir, &pairs, log, partition);
        let folded = log.partitions().iter().map(read).collect::<Result<_, _>>()?;
        Ok((Self { dir, log: log.id(), open: Some((database, pairs)) }, folded))
    }

    /// Writes what was taken from one partition, all or nothing. Not yet durable: see [`Self::persist`].
    pub(super) fn write(&mut self, taken: &Taken) -> fjall::Result<()> {
        let (database, pairs) = self.database()?;
        // fjall waits without end while four memtables wait for a disk that may be full: here the wait ends before.
        let since = Instant::now();
        while pairs.sealed_memtable_count() >= SEALED_MEMTABLES {
            if since.elapsed() > FLUSH_PATIENCE {
                self.open = None;
                return Err(fjall::Error::Poisoned);
            }
            std::thread::sleep(FLUSH_LOOK);
        }
        let mut batch = database.batch();
        for pair in &taken.changes.deletes {
            batch.remove(&pairs, key(taken.partition, pair));
        }
        for (pair, value) in &taken.changes.puts {
            batch.insert(&pairs, key(taken.partition, pair), value.as_slice());
        }
        let mark = Mark {
            format: FORMAT,
            log: self.log.0,
            position: taken.position.0,
            at_ms: taken.at.0,
            lineage: taken.lineage.clone(),
        };
        let mark = rmp_serde::to_vec(&mark).expect("plain data always encodes into memory");
        batch.insert(&pairs, key(taken.partition, &MARK), mark);
        let written = batch.commit();
        if written.is_err() {
            self.open = None;
        }
        written
    }

    /// Makes what was written durable.
    pub(super) fn persist(&mut self) -> fjall::Result<()> {
        let done = self.database()?.0.persist(PersistMode::SyncData);
        if done.is_err() {
            self.open = None;
        }
        done
    }

    fn database(&mut self) -> fjall::Result<(Database, Keyspace)> {
        if let Some(open) = &self.open {
            return Ok(open.clone());
        }
        let open = cameo_store::open(&self.dir, KEYSPACE)?;
        self.open = Some(open.clone());
        Ok(open)
    }
}

/// What the log says to a reader that has read more than there is: it names the file that ends too early.
fn lost<L: EventLog>(log: &L, partition: Partition, position: Position, last: Position) -> String {
    let mut reader = log.reader(vec![(partition, position)]);
    let first = std::pin::pin!(reader.next_batch());
    match first.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => super::apply::describe(&error),
        _ => format!("partition {partition} ends at position {last}, before position {position}"),
    }
}

fn read<L: EventLog>(dir: &Path, pairs: &Keyspace, log: &L, partition: Partition) -> Result<Folded, CheckpointError> {
    let dir = dir.to_owned();
    let unreadable = |source| CheckpointError::Database { dir: dir.clone(), source };
    let damaged = |reason: String| CheckpointError::Damaged { dir: dir.clone(), partition, reason };
    let mut folded = Folded::default();
    let (last, first) = (log.last(partition), log.first(partition));
    let mut marked = false;
    if let Some(mark) = pairs.get(key(partition, &MARK)).map_err(unreadable)? {
        marked = true;
        let mark: Mark = rmp_serde::from_slice(&mark).map_err(|error| damaged(error.to_string()))?;
        if mark.format != FORMAT {
            return Err(damaged(format!("its format is {}, this version reads {FORMAT}", mark.format)));
        }
        folded.position = Position(mark.position);
        folded.at = LogTime(mark.at_ms);
        folded.lineage = Lineage::decode(&mark.lineage).map_err(|error| damaged(error.to_string()))?;
        let position = folded.position;
        if LogId(mark.log) != log.id() {
            let (found, expected) = (LogId(mark.log), log.id());
            return Err(CheckpointError::OtherLog { dir, partition, position, found, expected });
        }
        if position > last {
            let reason = lost(log, partition, position, last);
            return Err(CheckpointError::AheadOfLog { dir, reason });
        }
    }
    if folded.position.next() < first {
        return Err(CheckpointError::BehindLog { dir, partition, position: folded.position, first });
    }
    for pair in pairs.prefix(partition.0.to_be_bytes()) {
        let (found, value) = pair.into_inner().map_err(unreadable)?;
        let rest = found.get(2..).unwrap_or_default();
        if rest != MARK {
            // Both are written in one step, so pairs without their position are not what was written.
            if !marked {
                return Err(damaged("it has profiles and no position".into()));
            }
            folded.fold.restore(rest, &value).map_err(|error| damaged(error.to_string()))?;
        }
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use cameo_eventlog::MemoryLog;
    use cameo_profile::event::Visit;
    use cameo_profile::{Event, PartitionCount, PartitionState};

    use super::*;

    #[test]
    fn profiles_without_their_position_are_damage_and_no_empty_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let log = MemoryLog::new(PartitionCount::new(2).unwrap());
        let mut state = PartitionState::default();
        state.apply(LogTime(1), &Event::Visit(Visit { client: "demo", home: "tnt:a", ..Visit::default() }));
        let taken = Taken {
            partition: Partition(1),
            changes: state.take_changes(),
            position: Position(0),
            at: LogTime(1),
            lineage: Lineage::default().encode(),
        };
        {
            let (mut checkpoint, _) = Checkpoint::open(path.clone(), &log).unwrap();
            checkpoint.write(&taken).unwrap();
            let (_, pairs) = checkpoint.database().unwrap();
            pairs.remove(key(Partition(1), &MARK)).unwrap();
            checkpoint.persist().unwrap();
        }
        let Err(error) = Checkpoint::open(path, &log) else { panic!("it counts as empty") };
        let text = error.to_string();
        assert!(matches!(error, CheckpointError::Damaged { partition: Partition(1), .. }), "{text}");
        assert!(text.contains("partition 1") && text.contains("position") && text.contains(REBUILD), "{text}");
    }
}
