//! Loading partitions from snapshots at the start, where the checkpoint has nothing, or less than the log needs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cameo_eventlog::EventLog;
use cameo_profile::{Partition, Position};
use cameo_snapshot::{Listed, Plan, Reader, Store, StoreError};
use tokio::runtime::Runtime;

use super::checkpoint::{Checkpoint, CheckpointError, Found, LoadError};
use super::{Folded, OpenError, apply, cores};
use crate::config::EdgeConfig;
use crate::metrics::ReplicaMeters;

/// How often snapshots are tried to be listed, and the pause between: a store that was just started may not answer yet.
const LIST_TRIES: u32 = 5;
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// What a checkpoint has, and where that is too little, the newest snapshot that is intact.
///
/// # Errors
/// When a partition can be had from neither, with its positions.
pub(super) fn complete<L: EventLog>(
    config: &EdgeConfig,
    log: &L,
    checkpoint: &Checkpoint,
    found: Vec<Found>,
    meters: &ReplicaMeters,
) -> Result<Vec<Folded>, OpenError> {
    let whole = |partition| log.first(partition) <= Position(1);
    // A log that has nothing yet needs no snapshot.
    let wanted = |partition: Partition, found: &Found| match found {
        Found::Whole(_) => false,
        Found::Nothing => log.last(partition) > Position::START || !whole(partition),
        Found::Behind(_) => true,
    };
    let none_wanted = !log.partitions().iter().zip(&found).any(|(partition, found)| wanted(partition, found));
    let plan = match &config.snapshots {
        Some(snapshots) if !none_wanted => match list(&snapshots.store) {
            Ok(listed) => Some((snapshots, Plan::new(log.id(), log.partitions(), listed))),
            Err(error) if log.partitions().iter().all(whole) => {
                let error = apply::describe(&error);
                tracing::warn!(error, "the snapshots cannot be listed; the whole log is replayed instead");
                None
            }
            Err(error) => return Err(OpenError::Snapshots(error)),
        },
        _ => None,
    };
    let began = Instant::now();
    let mut found: Vec<_> = found.into_iter().map(|found| parking_lot::Mutex::new(Some(found))).collect();
    let job = |partition: Partition| {
        let position = match found[partition.index()].lock().take() {
            Some(Found::Whole(folded)) => return Ok((*folded, false)),
            Some(Found::Behind(position)) => Some(position),
            Some(Found::Nothing) | None => None,
        };
        let why = match &plan {
            None => String::from("there are no snapshots"),
            Some((snapshots, plan)) => {
                let source = Source { store: &snapshots.store, work_dir: &snapshots.work_dir };
                match newest(source, &plan.of[partition.index()], log.first(partition), checkpoint, meters)? {
                    Ok(folded) => return Ok((folded, true)),
                    Err(why) => why,
                }
            }
        };
        if position.is_none() && whole(partition) {
            return Ok((Folded::new(partition, log.partitions()), false));
        }
        let (dir, position, first) = (checkpoint.dir().to_owned(), position.unwrap_or_default(), log.first(partition));
        Err(OpenError::from(CheckpointError::BehindLog { dir, partition, position, first, snapshots: why }))
    };
    let folded = cores::for_each(log.partitions(), job)?;
    found.clear();
    let loaded = folded.iter().filter(|(_, loaded)| *loaded).count();
    if loaded > 0 {
        checkpoint.persist().map_err(|error| unwritable(checkpoint, error))?;
        let profiles: usize = folded.iter().map(|(folded, _)| folded.fold.stats().profiles).sum();
        let seconds = began.elapsed().as_secs_f64();
        tracing::info!(partitions = loaded, profiles, seconds, "loaded from snapshots");
    }
    Ok(folded.into_iter().map(|(folded, _)| folded).collect())
}

fn unwritable(checkpoint: &Checkpoint, source: fjall::Error) -> OpenError {
    CheckpointError::Database { dir: checkpoint.dir().to_owned(), source }.into()
}

/// A runtime for what is asked of the store; the thread may be inside another one.
fn runtime() -> Result<Runtime, std::io::Error> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()
}

fn list(store: &Store) -> Result<Vec<Listed>, StoreError> {
    let listed = || {
        let runtime =
            runtime().map_err(|source| StoreError::Io { doing: "start a thread for", path: String::new(), source })?;
        runtime.block_on(async {
            let mut tries = 1;
            loop {
                match store.list().await {
                    Err(error) if tries < LIST_TRIES => {
                        tracing::warn!(error = apply::describe(&error), "the snapshots cannot be listed; trying again");
                        tries += 1;
                        tokio::time::sleep(LIST_AGAIN).await;
                    }
                    listed => return listed,
                }
            }
        })
    };
    std::thread::scope(|scope| scope.spawn(listed).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Where snapshots come from, and where they are put on their way.
#[derive(Clone, Copy)]
struct Source<'a> {
    store: &'a Store,
    work_dir: &'a Path,
}

/// The newest snapshot that is intact and reaches the log; the inner error says why there is none.
fn newest(
    source: Source<'_>,
    listed: &[Listed],
    first: Position,
    checkpoint: &Checkpoint,
    meters: &ReplicaMeters,
) -> Result<Result<Folded, String>, OpenError> {
    let mut why = String::from("there is no snapshot of it");
    for one in listed {
        let (name, position) = (one.name, one.name.position);
        if position.next() < first {
            why = format!("its newest usable snapshot is at position {position}, which does not reach the log");
            break;
        }
        let began = Instant::now();
        let path = source.work_dir.join(format!("load-{}", name.partition));
        let loaded = fetch(source.store, one, &path).and_then(|()| {
            let mut reader = Reader::open_as(&path, &name).map_err(|error| apply::describe(&error))?;
            match checkpoint.load(&mut reader, position) {
                Ok(folded) => Ok(Ok(folded)),
                Err(LoadError::Database(error)) => Ok(Err(error)),
                Err(error @ (LoadError::Damaged(_) | LoadError::Checkpoint(_))) => Err(apply::describe(&error)),
            }
        });
        // It is of no use any more, and the next start removes it if this does not.
        let _ = fs::remove_file(&path);
        match loaded {
            Ok(Ok(folded)) => {
                meters.snapshot_load_seconds.record(began.elapsed().as_secs_f64());
                return Ok(Ok(folded));
            }
            Ok(Err(error)) => return Err(unwritable(checkpoint, error)),
            Err(error) => {
                meters.snapshots_damaged.increment(1);
                let (partition, position) = (name.partition.0, position.0);
                let snapshot = name.to_string();
                tracing::error!(
                    eventlog.partition = partition,
                    eventlog.position = position,
                    snapshot,
                    error,
                    "a snapshot cannot be used; the one before it is tried"
                );
                why = format!("its snapshot {snapshot} cannot be used: {error}");
            }
        }
    }
    Ok(Err(why))
}

fn fetch(store: &Store, one: &Listed, into: &Path) -> Result<(), String> {
    let fetch = || {
        if let Some(dir) = into.parent() {
            fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        }
        let runtime = runtime().map_err(|error| error.to_string())?;
        runtime.block_on(store.get(&one.name, into)).map_err(|error| apply::describe(&error))
    };
    // A thread of its own, as this one may be inside a runtime.
    std::thread::scope(|scope| scope.spawn(fetch).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
