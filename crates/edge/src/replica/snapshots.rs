//! The thread that takes snapshots: a partition as its checkpoint has it, copied into the store.
//!
//! Nodes that share a store do not agree on who takes one. Each looks how old a partition's newest snapshot is, and waits
//! a little longer than the next node by a number drawn from names; whoever is late finds a young one. Should two take
//! the same one all the same, it is stored once (`cameo-snapshot`).

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cameo_eventlog::EventLog;
use cameo_profile::{Partition, Position};
use cameo_snapshot::{Name, Plan, Put};
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpoint;
use super::{Inner, apply};
use crate::config::SnapshotConfig;

/// Requests to take snapshots that wait. One would do: they all ask for the same.
pub(super) const REQUESTS: usize = 4;
/// How often the thread looks whether something is due: a tenth of the pause between snapshots, within this.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Snapshots taken by one list: others may have taken some meanwhile.
const AT_ONCE: usize = 16;
/// How long a checkpoint is waited for that a request needs.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is there.
const CHECKPOINT_LOOK: Duration = Duration::from_millis(20);

/// What became of a partition's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// Taken, with so many bytes.
    Taken(u64),
    /// There was one of this position already.
    Current,
    /// The partition has no state yet, or has stopped.
    Nothing,
    /// It failed.
    Failed(String),
}

/// A partition, and what became of its snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTaken {
    /// Which.
    pub partition: Partition,
    /// Up to where the newest snapshot has it.
    pub position: Position,
    /// How.
    pub outcome: SnapshotOutcome,
}

/// Asks for snapshots now; answered when they are taken.
pub(super) type Request = oneshot::Sender<Result<Vec<SnapshotTaken>, String>>;

pub(super) struct Taker<L: EventLog> {
    inner: Arc<Inner<L>>,
    checkpoint: Checkpoint,
    config: SnapshotConfig,
    requests: mpsc::Receiver<Request>,
    /// When this run began: a partition without a snapshot is as old.
    began_ms: u64,
    failing: bool,
}

impl<L: EventLog> Taker<L> {
    pub(super) fn new(
        inner: Arc<Inner<L>>,
        checkpoint: Checkpoint,
        config: SnapshotConfig,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let began_ms = inner.log.now().ms();
        Self { inner, checkpoint, config, requests, began_ms, failing: false }
    }

    pub(super) fn run(mut self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            tracing::error!("no runtime for snapshots: none will be taken");
            return;
        };
        // Of a process that was killed; when it cannot be made, the first snapshot says so.
        let _ = fs::remove_dir_all(&self.config.work_dir);
        let _ = fs::create_dir_all(&self.config.work_dir);
        runtime.block_on(self.follow());
    }

    async fn follow(&mut self) {
        let inner = Arc::clone(&self.inner);
        let look = (self.config.every / 10).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
        loop {
            tokio::select! {
                () = inner.closed() => return,
                Some(request) = self.requests.recv() => {
                    let taken = tokio::select! {
                        taken = self.take_all() => taken,
                        () = inner.closed() => return,
                    };
                    // Whoever asked may have gone.
                    let _ = request.send(taken);
                }
                () = tokio::time::sleep(look), if !self.config.every.is_zero() => {
                    let round = tokio::select! {
                        round = self.round() => round,
                        () = inner.closed() => return,
                    };
                    self.note(round);
                }
            }
        }
    }

    fn note(&mut self, round: Result<(), String>) {
        match round {
            Ok(()) if self.failing => {
                tracing::info!("snapshots can be taken again");
                self.failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                self.inner.meters.snapshots_failed.increment(1);
                if !self.failing {
                    tracing::error!(
                        error,
                        "a snapshot could not be taken; it is tried again, and the log is not trimmed"
                    );
                }
                self.failing = true;
            }
        }
    }

    /// Takes what is due, and removes what is not needed.
    async fn round(&mut self) -> Result<(), String> {
        let plan = self.plan().await?;
        let now = self.inner.log.now().ms();
        let (mut taken, mut oldest) = (0, 0);
        for partition in self.inner.log.partitions().iter() {
            let newest = plan.of[partition.index()].first();
            let age_ms = now.saturating_sub(newest.map_or(self.began_ms, |newest| newest.at_ms));
            // A partition in which nothing has happened needs no newer one.
            if self.inner.slots[partition.index()].saved()
                > newest.map_or(Position::START, |newest| newest.name.position)
            {
                oldest = oldest.max(age_ms);
            }
            let due = self.config.every + self.stagger(partition);
            if u128::from(age_ms) < due.as_millis() || taken >= AT_ONCE {
                continue;
            }
            if self.take(partition, newest.map(|newest| newest.name.position)).await?.is_some() {
                taken += 1;
            }
        }
        self.inner.meters.snapshot_age.set(oldest as f64 / 1000.0);
        if taken > 0 {
            tracing::debug!(snapshots = taken, "took snapshots");
            self.plan().await?;
        }
        Ok(())
    }

    /// What is in the store; up to where it has the partitions becomes known, and what is not needed goes.
    async fn plan(&self) -> Result<Plan, String> {
        let log = &self.inner.log;
        let listed = self.config.store.list().await.map_err(|error| apply::describe(&error))?;
        // Nobody has applied more than there is.
        let plan =
            Plan::new(log.id(), log.partitions(), listed).only(|one| one.name.position <= log.last(one.name.partition));
        for (slot, floor) in self.inner.slots.iter().zip(plan.floors()) {
            slot.floor.store(floor.unwrap_or_default().0, Ordering::Release);
        }
        if self.config.removes {
            for outdated in plan.outdated() {
                self.config.store.remove(&outdated.name).await.map_err(|error| apply::describe(&error))?;
            }
        }
        Ok(plan)
    }

    /// So long a node waits more than it must, different for every node and partition.
    fn stagger(&self, partition: Partition) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.config.node, partition.0).hash(&mut hasher);
        self.config.every.mul_f64((hasher.finish() % 1000) as f64 / 4000.0)
    }

    /// With all that is applied now, of every partition.
    async fn take_all(&mut self) -> Result<Vec<SnapshotTaken>, String> {
        self.checkpointed().await?;
        let plan = self.plan().await?;
        let mut all = Vec::new();
        for partition in self.inner.log.partitions().iter() {
            let newest = plan.of[partition.index()].first().map(|newest| newest.name.position);
            let (position, outcome) = match self.take(partition, newest).await {
                Ok(Some((position, bytes))) => (position, SnapshotOutcome::Taken(bytes)),
                Ok(None) => match newest {
                    Some(newest) => (newest, SnapshotOutcome::Current),
                    None => (Position::START, SnapshotOutcome::Nothing),
                },
                Err(error) => (newest.unwrap_or_default(), SnapshotOutcome::Failed(error)),
            };
            all.push(SnapshotTaken { partition, position, outcome });
        }
        self.plan().await?;
        Ok(all)
    }

    /// Waits until the checkpoint has what is applied now.
    async fn checkpointed(&self) -> Result<(), String> {
        let targets: Vec<_> = self.inner.slots.iter().map(|slot| slot.state.read().position).collect();
        self.inner.checkpoint_wanted.notify_one();
        let since = Instant::now();
        let reached = || {
            let mut slots = self.inner.slots.iter().zip(&targets);
            slots.all(|(slot, target)| slot.saved() >= *target || slot.halted.get().is_some())
        };
        while !reached() {
            if since.elapsed() > CHECKPOINT_PATIENCE {
                return Err("no checkpoint can be written, from which snapshots are taken".into());
            }
            tokio::time::sleep(CHECKPOINT_LOOK).await;
        }
        Ok(())
    }

    /// Takes one, unless there is one of its position; its position and bytes.
    async fn take(&self, partition: Partition, newest: Option<Position>) -> Result<Option<(Position, u64)>, String> {
        // What made it stop may be in the checkpoint already.
        if self.inner.slots[partition.index()].halted.get().is_some() {
            return Ok(None);
        }
        let began = Instant::now();
        let path = self.config.work_dir.join(format!("take-{partition}"));
        let written = self.write(partition, newest, &path);
        let put = match written {
            Ok(None) => return Ok(None),
            Ok(Some(name)) => self.config.store.put(&name, &path).await.map(|put| (name, put)),
            Err(error) => return Err(format!("partition {partition}: {error}")),
        };
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
        // It is of no use any more, and the next start removes it if this does not.
        let _ = fs::remove_file(&path);
        let (name, put) = put.map_err(|error| format!("partition {partition}: {}", apply::describe(&error)))?;
        if put == Put::Stored {
            self.inner.meters.snapshots_taken.increment(1);
            self.inner.meters.snapshot_bytes.increment(bytes);
            self.inner.meters.snapshot_seconds.record(began.elapsed().as_secs_f64());
        }
        Ok(Some((name.position, bytes)))
    }

    fn write(&self, partition: Partition, newest: Option<Position>, path: &PathBuf) -> io::Result<Option<Name>> {
        /// Not an error: there is one already.
        #[derive(Debug, thiserror::Error)]
        #[error("there is a snapshot of this position")]
        struct Current;
        let made = self.checkpoint.snapshot(partition, self.inner.log.now().ms(), |head| {
            if newest.is_some_and(|newest| newest >= head.position) {
                return Err(io::Error::other(Current));
            }
            fs::File::create(path).map(io::BufWriter::new)
        });
        match made {
            Ok(Some((head, _))) => Ok(Some(Name { partition, position: head.position, log: head.log })),
            Ok(None) => Ok(None),
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Current>()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
