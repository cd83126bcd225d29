//! Checkpoints: a partition's pairs and its place in the log, in one local fjall database, written atomically.
//!
//! ```text
//! key                                     value
//! partition (u16, big-endian) 0 'l'       there while a snapshot is loaded: what else is there is half of it
//! partition (u16, big-endian) 0 'm'       MessagePack array: format, log id, position, log time, lineage
//! partition (u16, big-endian) pair key    pair value (cameo-profile, state/stored.rs)
//! ```
//! The index of history (history/store.rs) is a keyspace of the same database, written in the same step.
//! The database is reopened after a failed write: a full disk poisons it, and it must work again when there is room.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cameo_eventlog::frame::Lineage;
use cameo_eventlog::{EventLog, LogId, LogReader};
use cameo_profile::state::Changes;
use cameo_profile::{LogTime, Partition, PartitionCount, Position};
use cameo_snapshot::{Damage, Head, Reader, Writer};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Folded, cores};
use crate::history::Gap;
use crate::history::pending::Notes;
use crate::history::store::{self, NewImage};

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
    /// Another process has it open.
    #[error("the checkpoint in {} is in use by another process; give each node its own --data-dir", dir.display())]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// The index of history does not read.
    #[error("the checkpoint in {} cannot be used; {}", dir.display(), REBUILD)]
    Index {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with the index.
        source: Box<dyn std::error::Error + Send + Sync>,
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
        "the checkpoint in {} is of log {found}, partition {partition} at position {position}; this log is {expected}. Give \
         each node its own --data-dir; a node of a new log begins with an empty one",
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
    /// The log of this process ends before the checkpoint: acknowledged frames are missing from it.
    #[error("the checkpoint in {} is ahead of its log, which lost frames that were acknowledged: {reason}", dir.display())]
    AheadOfLog {
        /// Its directory.
        dir: PathBuf,
        /// The log's words: partition, positions, file.
        reason: String,
    },
    /// The log starts after the checkpoint: what lies between was trimmed, and no snapshot helps.
    #[error(
        "the checkpoint in {}, partition {partition}, is at position {position}, but the log starts at {first}: what \
         lies between was trimmed away, and {snapshots}",
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
        /// Why no snapshot could be used instead.
        snapshots: String,
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
const LOADING: [u8; 2] = [0, b'l'];
/// Bytes of pairs that are written together while a snapshot is loaded.
const LOAD_BATCH_BYTES: usize = 4 << 20;

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
    pub(super) notes: Notes,
    pub(super) images: Vec<NewImage>,
}

/// An open database with its keyspaces.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) database: Database,
    pairs: Keyspace,
    /// Of history.
    pub(super) index: Keyspace,
}

impl Open {
    fn at(dir: &Path) -> fjall::Result<Self> {
        let (database, pairs) = cameo_store::open(dir, KEYSPACE)?;
        let index = database.keyspace(store::KEYSPACE, KeyspaceCreateOptions::default)?;
        Ok(Self { database, pairs, index })
    }
}

/// What a checkpoint has of a partition.
pub(super) enum Found {
    /// All that the log does not have.
    Whole(Box<Folded>),
    /// Nothing.
    Nothing,
    /// Less than would be needed: the log starts after this position.
    Behind(Position),
}

/// Why a snapshot was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be used. Another one may do.
    #[error("the snapshot is damaged")]
    Damaged(#[from] Damage),
    /// The database does not take it.
    #[error("the checkpoint cannot be written")]
    Database(#[from] fjall::Error),
    /// The checkpoint is in use, or not of this log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub(super) struct Checkpoint(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    log: LogId,
    partitions: PartitionCount,
    /// `None` after a failure, until it could be reopened.
    open: Mutex<Option<Open>>,
}

impl Taken {
    /// Bytes of its pairs.
    pub(super) fn bytes(&self) -> usize {
        let puts = self.changes.puts.iter().map(|(key, value)| key.len() + value.len());
        puts.sum::<usize>() + self.changes.deletes.iter().map(Vec::len).sum::<usize>()
    }
}

impl Checkpoint {
    /// Opens the database and reads every partition.
    pub(super) fn open<L: EventLog>(dir: PathBuf, log: &L) -> Result<(Self, Vec<Found>), CheckpointError> {
        let unreadable = |source| CheckpointError::Database { dir: dir.clone(), source };
        let open = Open::at(&dir).map_err(|source| match source {
            fjall::Error::Locked => CheckpointError::InUse { dir: dir.clone() },
            source => unreadable(source),
        })?;
        let read = |partition| read(&dir, &open, log, partition);
        let found = cores::for_each(log.partitions(), read)?;
        let open = Mutex::new(Some(open));
        Ok((Self(Arc::new(Shared { dir, log: log.id(), partitions: log.partitions(), open })), found))
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Writes what was taken from one partition, all or nothing. Not yet durable: see [`Self::persist`].
    pub(super) fn write(&self, taken: &Taken) -> fjall::Result<()> {
        let Open { database, pairs, index } = self.database()?;
        let mut batch = database.batch();
        for pair in &taken.changes.deletes {
            batch.remove(&pairs, key(taken.partition, pair));
        }
        for (pair, value) in &taken.changes.puts {
            batch.insert(&pairs, key(taken.partition, pair), value.as_slice());
        }
        let mark = mark(self.0.log, taken.position, taken.at, taken.lineage.clone());
        batch.insert(&pairs, key(taken.partition, &MARK), mark);
        let place = (taken.position, taken.at);
        store::write(&mut batch, &index, taken.partition, place, &taken.notes, &taken.images)?;
        self.commit(&[&pairs, &index], batch)
    }

    fn commit(&self, keyspaces: &[&Keyspace], batch: OwnedWriteBatch) -> fjall::Result<()> {
        let written = cameo_store::commit(keyspaces, batch);
        if written.is_err() {
            *self.0.open.lock() = None;
        }
        written
    }

    /// Makes what was written durable.
    pub(super) fn persist(&self) -> fjall::Result<()> {
        let done = self.database()?.database.persist(PersistMode::SyncData);
        if done.is_err() {
            *self.0.open.lock() = None;
        }
        done
    }

    /// Writes a partition as it is in the checkpoint, of one moment; `None` when there is nothing of it.
    pub(super) fn snapshot<W: Write>(
        &self,
        partition: Partition,
        made_at_ms: u64,
        out: impl FnOnce(&Head) -> io::Result<W>,
    ) -> io::Result<Option<(Head, W)>> {
        let Open { database, pairs, .. } = self.database().map_err(io::Error::other)?;
        let moment = database.snapshot();
        let Some(mark) = moment.get(&pairs, key(partition, &MARK)).map_err(io::Error::other)? else { return Ok(None) };
        let mark: Mark = rmp_serde::from_slice(&mark).map_err(io::Error::other)?;
        let head = Head {
            log: LogId(mark.log),
            partitions: self.0.partitions,
            partition,
            position: Position(mark.position),
            at: LogTime(mark.at_ms),
            made_at_ms,
            lineage: mark.lineage,
        };
        let mut writer = Writer::new(out(&head)?, &head)?;
        for pair in moment.prefix(&pairs, partition.0.to_be_bytes()) {
            let (found, value) = pair.into_inner().map_err(io::Error::other)?;
            let rest = found.get(2..).unwrap_or_default();
            if rest != MARK && rest != LOADING {
                writer.pair(rest, &value)?;
            }
        }
        Ok(Some((head, writer.finish()?)))
    }

    /// Puts a snapshot in the place of what is there of its partition, and folds it. It counts as being of this log, at
    /// this position. Not yet durable: see [`Self::persist`].
    pub(super) fn load(&self, snapshot: &mut Reader, position: Position) -> Result<Folded, LoadError> {
        let head = snapshot.head().clone();
        let partition = head.partition;
        let nonsense = |error: &dyn std::error::Error| Damage::Nonsense(super::apply::describe(error));
        let lineage = Lineage::decode(&head.lineage).map_err(|error| nonsense(&error))?;
        let fresh = Folded::new(partition, self.0.partitions);
        let mut folded = Folded { lineage, position, at: head.at, ..fresh };
        let open = self.database()?;
        clear(&open, partition)?;
        let Open { database, pairs, index } = open;
        let (mut pair, mut value) = (Vec::new(), Vec::new());
        let (mut batch, mut bytes) = (database.batch(), 0);
        while snapshot.next(&mut pair, &mut value)? {
            folded.fold.restore(&pair, &value).map_err(|error| nonsense(&error))?;
            batch.insert(&pairs, key(partition, &pair), value.as_slice());
            bytes += pair.len() + value.len();
            if bytes >= LOAD_BATCH_BYTES {
                self.commit(&[&pairs], std::mem::replace(&mut batch, database.batch()))?;
                bytes = 0;
            }
        }
        batch.insert(&pairs, key(partition, &MARK), mark(self.0.log, position, head.at, head.lineage));
        batch.remove(&pairs, key(partition, &LOADING));
        // Its log may be another one: then what led to it has no positions here. Who never had anything lacks nothing.
        if head.at > LogTime(0) {
            store::write_gap(&mut batch, &index, partition, (position, head.at));
        }
        self.commit(&[&pairs, &index], batch)?;
        Ok(folded)
    }

    /// The index of history, unless the database has to be opened anew.
    pub(super) fn index(&self) -> Option<Keyspace> {
        self.0.open.lock().as_ref().map(|open| open.index.clone())
    }

    /// What is missing from the index of a partition that is at this place.
    pub(super) fn gaps(
        &self,
        partition: Partition,
        position: Position,
        at: LogTime,
    ) -> Result<Vec<Gap>, CheckpointError> {
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| CheckpointError::Index {
            dir: self.0.dir.clone(),
            source,
        };
        let index = self.database().map_err(|error| unreadable(error.into()))?.index;
        store::gaps(&index, partition, position, at).map_err(|error| unreadable(error.into()))
    }

    pub(super) fn database(&self) -> fjall::Result<Open> {
        let mut held = self.0.open.lock();
        if let Some(open) = &*held {
            return Ok(open.clone());
        }
        let open = Open::at(&self.0.dir)?;
        *held = Some(open.clone());
        Ok(open)
    }
}

fn mark(log: LogId, position: Position, at: LogTime, lineage: Vec<u8>) -> Vec<u8> {
    let mark = Mark { format: FORMAT, log: log.0, position: position.0, at_ms: at.0, lineage };
    rmp_serde::to_vec(&mark).expect("plain data always encodes into memory")
}

/// Takes out all there is of a partition, step by step: what a kill leaves is known to be half of something. Its history
/// goes too: what comes in its place may be of another log, whose positions are others.
fn clear(open: &Open, partition: Partition) -> fjall::Result<()> {
    let Open { database, pairs, index } = open;
    let mut batch = database.batch();
    batch.insert(pairs, key(partition, &LOADING), []);
    batch.remove(pairs, key(partition, &MARK));
    let mut bytes = 0;
    for pair in pairs.prefix(partition.0.to_be_bytes()) {
        let found = pair.key()?;
        if found.get(2..) == Some(&LOADING) {
            continue;
        }
        bytes += found.len();
        batch.remove(pairs, found);
        if bytes >= LOAD_BATCH_BYTES {
            std::mem::replace(&mut batch, database.batch()).commit()?;
            bytes = 0;
        }
    }
    for pair in index.prefix(partition.0.to_be_bytes()) {
        let found = pair.key()?;
        bytes += found.len();
        batch.remove(index, found);
        if bytes >= LOAD_BATCH_BYTES {
            std::mem::replace(&mut batch, database.batch()).commit()?;
            bytes = 0;
        }
    }
    batch.commit()
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

fn read<L: EventLog>(dir: &Path, open: &Open, log: &L, partition: Partition) -> Result<Found, CheckpointError> {
    let dir = dir.to_owned();
    let pairs = &open.pairs;
    let unreadable = |source| CheckpointError::Database { dir: dir.clone(), source };
    let damaged = |reason: String| CheckpointError::Damaged { dir: dir.clone(), partition, reason };
    if pairs.contains_key(key(partition, &LOADING)).map_err(unreadable)? {
        clear(open, partition).map_err(unreadable)?;
        pairs.remove(key(partition, &LOADING)).map_err(unreadable)?;
        return Ok(Found::Nothing);
    }
    let Some(mark) = pairs.get(key(partition, &MARK)).map_err(unreadable)? else {
        // Both are written in one step, so pairs without their position are not what was written.
        return match pairs.prefix(partition.0.to_be_bytes()).next() {
            None => Ok(Found::Nothing),
            Some(_) => Err(damaged("it has profiles and no position".into())),
        };
    };
    let mark: Mark = rmp_serde::from_slice(&mark).map_err(|error| damaged(error.to_string()))?;
    if mark.format != FORMAT {
        return Err(damaged(format!("its format is {}, this version reads {FORMAT}", mark.format)));
    }
    let position = Position(mark.position);
    if LogId(mark.log) != log.id() {
        let (found, expected) = (LogId(mark.log), log.id());
        return Err(CheckpointError::OtherLog { dir, partition, position, found, expected });
    }
    let last = log.last(partition);
    // Of a shared log the reader says so, once it is sure, and the partition stops. What is here stays as it is until then.
    if position > last && !log.is_shared() {
        let reason = lost(log, partition, position, last);
        return Err(CheckpointError::AheadOfLog { dir, reason });
    }
    if position.next() < log.first(partition) {
        return Ok(Found::Behind(position));
    }
    let lineage = Lineage::decode(&mark.lineage).map_err(|error| damaged(error.to_string()))?;
    let mut folded = Folded { lineage, position, at: LogTime(mark.at_ms), ..Folded::new(partition, log.partitions()) };
    for pair in pairs.prefix(partition.0.to_be_bytes()) {
        let (found, value) = pair.into_inner().map_err(unreadable)?;
        let rest = found.get(2..).unwrap_or_default();
        if rest != MARK {
            folded.fold.restore(rest, &value).map_err(|error| damaged(error.to_string()))?;
        }
    }
    Ok(Found::Whole(Box::new(folded)))
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
            notes: Notes::default(),
            images: Vec::new(),
        };
        {
            let (checkpoint, _) = Checkpoint::open(path.clone(), &log).unwrap();
            checkpoint.write(&taken).unwrap();
            let Open { pairs, .. } = checkpoint.database().unwrap();
            pairs.remove(key(Partition(1), &MARK)).unwrap();
            checkpoint.persist().unwrap();
        }
        let Err(error) = Checkpoint::open(path, &log) else { panic!("it counts as empty") };
        let text = error.to_string();
        assert!(matches!(error, CheckpointError::Damaged { partition: Partition(1), .. }), "{text}");
        assert!(text.contains("partition 1") && text.contains("position") && text.contains(REBUILD), "{text}");
    }
}
