//! A replica: every partition of the log folded into memory, checkpoints on disk, and the way to append and wait.
//!
//! Threads: `appliers` own the partitions and are the only ones that apply events; the appender of `cameo-eventlog` has a
//! thread for each lane of the log; the `courier` carries messages between partitions; `upkeep` writes checkpoints, sweeps out
//! what has ended (which changes nothing that can be read) and trims; `snapshots` copies partitions out of the checkpoint into
//! the store of snapshots. Readers take a partition's read lock (ADR 0002).

mod apply;
mod call;
mod checkpoint;
mod cores;
mod courier;
mod error;
mod find;
mod load;
mod restore;
mod snapshots;
#[cfg(test)]
mod tests;
mod upkeep;

use std::fmt;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cameo_auth::node::NodeStatus;
use cameo_eventlog::frame::Lineage;
use cameo_eventlog::{Appender, AppenderOptions, EventLog};
use cameo_profile::{ClientCode, Event, LogTime, Outcome, Partition, PartitionCount, PartitionState, Position};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::config::EdgeConfig;
use crate::history;
use crate::metrics::ReplicaMeters;
use crate::spool::{Spool, SpoolError};

pub use call::{Answer, AnswerResult, PendingCall, Render};
pub use checkpoint::{CheckpointError, LoadError};
pub use error::SubmitError;
pub use restore::restore_partition;
pub use snapshots::{SnapshotOutcome, SnapshotTaken};

pub(crate) use apply::describe;
pub(crate) use find::Held;

use call::{Call, EventTicket};
use checkpoint::Checkpoint;
use courier::Courier;

/// Frames that a replica may be behind and still count as caught up. Ours: a busy log is always a few ahead.
pub(crate) const READY_LAG_FRAMES: u64 = 1000;

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The checkpoint is damaged, of another log, or ahead of this one.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Snapshots are needed and cannot be listed.
    #[error("a partition can only be loaded from a snapshot, and the snapshots cannot be listed")]
    Snapshots(#[source] cameo_snapshot::StoreError),
    /// A partition stopped while it caught up with this process's own log.
    #[error("partition {partition} cannot be replayed: {halt}")]
    Halted {
        /// Which.
        partition: Partition,
        /// Where and why.
        halt: Halt,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The appender could not be started.
    #[error(transparent)]
    Appender(#[from] cameo_eventlog::appender::StartError),
    /// The outage spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A client's settings could not be written to the log.
    #[error("the settings of client {client} could not be stored")]
    Settings {
        /// Whose.
        client: ClientCode,
        /// Why.
        source: SubmitError,
    },
}

/// Why and where a partition stopped for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The frame it could not take; `None` when the log itself could not be read on.
    pub position: Option<Position>,
    /// What is wrong, for people.
    pub reason: String,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "position {position}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// The state of a partition with its place in the log.
#[derive(Debug)]
struct Folded {
    fold: PartitionState,
    lineage: Lineage,
    position: Position,
    at: LogTime,
    /// What its events touched, as far as no checkpoint has it.
    history: history::Pending,
}

impl Folded {
    /// Before the first frame.
    fn new(partition: Partition, count: PartitionCount) -> Self {
        let fold = PartitionState::new(partition, count);
        Self {
            fold,
            lineage: Lineage::default(),
            position: Position::START,
            at: LogTime::default(),
            history: history::Pending::default(),
        }
    }
}

#[derive(Debug)]
struct Slot {
    state: RwLock<Folded>,
    halted: OnceLock<Halt>,
    /// Its position in the last durable checkpoint of this run: 0 before the first, so that the first trim waits for it.
    saved: AtomicU64,
    /// Up to where the snapshots that are needed have it; 0 while nobody knows.
    floor: AtomicU64,
    /// How many aliases `state` has: most calls need not look whether their address has one.
    aliases: AtomicUsize,
}

impl Slot {
    fn new(folded: Folded) -> Self {
        let aliases = AtomicUsize::new(folded.fold.links().aliases);
        let (saved, floor) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { state: RwLock::new(folded), halted: OnceLock::new(), saved, floor, aliases }
    }

    fn saved(&self) -> Position {
        Position(self.saved.load(Ordering::Acquire))
    }
}

struct Inner<L: EventLog> {
    log: Arc<L>,
    slots: Box<[Slot]>,
    appender: Appender<EventTicket>,
    /// Told after every batch of frames and at every halt.
    applied: Notify,
    /// Told when a checkpoint shall be written now.
    checkpoint_wanted: Notify,
    /// To whoever takes snapshots.
    snapshots: Option<mpsc::Sender<snapshots::Request>>,
    /// What carries messages between partitions, and those who wait for the end of a walk.
    courier: Courier,
    /// Turns true when the replica closes.
    closing: watch::Sender<bool>,
    /// Turns true when the log was trimmed past what a partition has.
    overtaken: watch::Sender<bool>,
    checkpoint_failing: AtomicBool,
    /// Where the index of history is.
    checkpoint: Checkpoint,
    /// Has not caught up yet with what was in the log at the start.
    catching_up: AtomicBool,
    /// Told after every checkpoint, whether or not it could be written.
    notes_taken: Notify,
    /// What is told of every visit that is applied.
    spool: Option<Arc<Spool>>,
    /// When the last checkpoint was written, or the replica opened.
    checkpointed: Mutex<Instant>,
    meters: ReplicaMeters,
}

impl<L: EventLog> Inner<L> {
    fn halt(&self, partition: Partition, halt: Halt) {
        // The first reason is the one that counts: a panic of the fold and the end of its reader may both say so.
        if self.slots[partition.index()].halted.set(halt.clone()).is_ok() {
            tracing::error!(eventlog.partition = partition.0, eventlog.halt = %halt, "the partition has stopped");
            self.meters.halted_partitions.increment(1.0);
        }
    }

    fn check(&self, partition: Partition) -> Result<(), SubmitError> {
        match self.slots[partition.index()].halted.get() {
            None => Ok(()),
            Some(halt) => Err(SubmitError::Elsewhere(apply::halted_text(partition, halt))),
        }
    }

    async fn closed(&self) {
        // The sender lives as long as `self`, so this only returns when it says so.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

impl Health {
    /// Whether it has caught up and no partition has stopped.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.halted.is_empty() && self.lag_frames <= READY_LAG_FRAMES
    }
}

/// Every partition of a log, in memory.
pub struct Replica<L: EventLog> {
    inner: Arc<Inner<L>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A partition as a replica has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDigest {
    /// Which.
    pub partition: Partition,
    /// Up to where its log is applied.
    pub position: Position,
    /// Of everything in it: equal on every replica that has applied the same frames of it.
    pub digest: u128,
    /// Why it has stopped, if it has.
    pub halted: Option<Halt>,
}

/// How a replica is doing, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Frames in the log that are not applied yet.
    pub lag_frames: u64,
    /// Partitions that stopped for good.
    pub halted: Vec<(Partition, Halt)>,
    /// The last checkpoint could not be written.
    pub checkpoint_failing: bool,
}

impl<L: EventLog> Replica<L> {
    /// Loads the checkpoint, replays the tail of the log, and follows it from then on. Blocks until it has caught up
    /// with what was in the log at the start. Partitions of a shared log that cannot be replayed have stopped then.
    ///
    /// # Errors
    /// When the checkpoint does not fit the log, or this process's own log cannot be replayed; names file, partition and
    /// position.
    pub fn open(config: &EdgeConfig, log: Arc<L>) -> Result<Self, OpenError> {
        Self::open_with(config, log, None)
    }

    /// As [`Self::open`], with the spool that it takes applied visits out of.
    pub(crate) fn open_with(config: &EdgeConfig, log: Arc<L>, spool: Option<Arc<Spool>>) -> Result<Self, OpenError> {
        let (checkpoint, found) = Checkpoint::open(config.checkpoint_dir.clone(), &*log)?;
        let meters = ReplicaMeters::new();
        let mut folded = load::complete(config, &*log, &checkpoint, found, &meters)?;
        for (partition, folded) in log.partitions().iter().zip(&mut folded) {
            folded.history = history::Pending::with_gaps(checkpoint.gaps(partition, folded.position, folded.at)?);
        }
        let appender = Appender::start(Arc::clone(&log), AppenderOptions::default())?;
        let slots = folded.into_iter().map(Slot::new);
        let (ask_snapshots, asked) = mpsc::channel(snapshots::REQUESTS);
        let inner = Arc::new(Inner {
            slots: slots.collect(),
            appender,
            applied: Notify::new(),
            checkpoint_wanted: Notify::new(),
            snapshots: config.snapshots.is_some().then_some(ask_snapshots),
            courier: Courier::default(),
            closing: watch::Sender::new(false),
            overtaken: watch::Sender::new(false),
            checkpoint_failing: AtomicBool::new(false),
            checkpoint: checkpoint.clone(),
            catching_up: AtomicBool::new(true),
            notes_taken: Notify::new(),
            spool,
            checkpointed: Mutex::new(Instant::now()),
            meters,
            log,
        });
        let replica = Self { inner, threads: Mutex::new(Vec::new()) };
        // Before it has caught up: what a long replay notes of history has to be written meanwhile.
        let upkeep = upkeep::Upkeep::new(Arc::clone(&replica.inner), checkpoint.clone(), config);
        replica.spawn("replica-upkeep".into(), move || upkeep.run())?;
        replica.start_appliers()?;
        replica.catch_up(None)?;
        replica.inner.catching_up.store(false, Ordering::Relaxed);
        replica.inner.notes_taken.notify_waiters();
        if let Some(config) = config.snapshots.clone() {
            let taker = snapshots::Taker::new(Arc::clone(&replica.inner), checkpoint, config, asked);
            replica.spawn("replica-snapshots".into(), move || taker.run())?;
        }
        let inner = Arc::clone(&replica.inner);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(OpenError::Thread)?;
        // What was under way when the process before ended: the node whose event it is from carries it at once.
        for partition in replica.partitions().iter() {
            if inner.slots[partition.index()].state.read().fold.links().outbox > 0 {
                inner.courier.wake(partition);
            }
        }
        replica.spawn("courier".into(), move || courier::run(&inner, &runtime))?;
        Ok(replica)
    }

    fn start_appliers(&self) -> Result<(), OpenError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let log = &self.inner.log;
        // Partitions that share a lane are read together, and no others: what ends the reader of one lane is not to stop
        // the partitions of another.
        let together = |partition: Partition| if log.lanes() > 1 { log.lane(partition) } else { partition.index() };
        let count = if log.lanes() > 1 { log.lanes() } else { cores.min(self.inner.slots.len()) };
        for n in 0..count {
            let partitions: Vec<_> = self.partitions().iter().filter(|p| together(*p) % count == n).collect();
            let inner = Arc::clone(&self.inner);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(OpenError::Thread)?;
            // Here, not on its thread: from now on the log knows what was read, and takes nothing if it lacks that.
            let from = partitions.iter().map(|&p| (p, inner.slots[p.index()].state.read().position)).collect();
            let reader = log.reader(from);
            self.spawn(format!("applier-{n}"), move || apply::run(&inner, &partitions, reader, &runtime))?;
        }
        Ok(())
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name).spawn(body).map_err(OpenError::Thread)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Waits until everything that is in the log now has been applied, or the time is over.
    fn catch_up(&self, patience: Option<Duration>) -> Result<(), OpenError> {
        let targets: Vec<_> = self.partitions().iter().map(|p| (p, self.inner.log.last(p))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(OpenError::Thread)?;
        let caught_up = async {
            for (partition, target) in targets {
                match self.applied_to(partition, target).await {
                    // Said when it stopped.
                    Err(_) if self.inner.log.is_shared() => {}
                    applied => applied.map_err(|halt| OpenError::Halted { partition, halt })?,
                }
            }
            Ok(())
        };
        // On a thread of its own, as the caller may be inside a runtime.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                runtime.block_on(async {
                    match patience {
                        None => caught_up.await,
                        Some(patience) => tokio::time::timeout(patience, caught_up).await.unwrap_or(Ok(())),
                    }
                })
            });
            waiting.join().unwrap_or_else(|_| Err(OpenError::Thread(std::io::Error::other("the thread panicked"))))
        })
    }

    async fn applied_to(&self, partition: Partition, target: Position) -> Result<(), Halt> {
        let slot = &self.inner.slots[partition.index()];
        loop {
            let mut applied = std::pin::pin!(self.inner.applied.notified());
            applied.as_mut().enable();
            if let Some(halt) = slot.halted.get() {
                return Err(halt.clone());
            }
            if slot.state.read().position >= target {
                return Ok(());
            }
            applied.await;
        }
    }

    /// Whether a partition has applied its log up to here.
    pub(crate) fn has_applied(&self, partition: Partition, upto: Position) -> bool {
        self.inner.slots[partition.index()].state.read().position >= upto
    }

    /// Whether a partition has stopped for good.
    pub(crate) fn has_stopped(&self, partition: Partition) -> bool {
        self.inner.check(partition).is_err()
    }

    /// P of the log.
    #[must_use]
    pub fn partitions(&self) -> PartitionCount {
        self.inner.log.partitions()
    }

    /// What the log would stamp now.
    #[must_use]
    pub fn now(&self) -> LogTime {
        self.inner.log.now()
    }

    /// For how long nothing has been heard from the log.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.inner.log.silence()
    }

    /// For how long nothing has been heard from what this partition's log is in.
    pub(crate) fn silence_of(&self, partition: Partition) -> Duration {
        self.inner.log.silence_of(partition)
    }

    /// For how long no append to what this partition's log is in has been answered.
    pub(crate) fn unanswered(&self, partition: Partition) -> Duration {
        self.inner.log.unanswered(partition)
    }

    /// Waits until the log has been trimmed past what a partition has, which has stopped then: only a snapshot brings it on,
    /// and snapshots are loaded at the start.
    pub async fn overtaken(&self) {
        // The sender lives as long as `self`, so this only returns when it says so.
        let _ = self.inner.overtaken.subscribe().wait_for(|overtaken| *overtaken).await;
    }

    /// Reads a partition as it is now.
    ///
    /// # Errors
    /// When the partition has stopped.
    pub fn read<R>(
        &self,
        partition: Partition,
        read: impl FnOnce(&PartitionState, LogTime) -> R,
    ) -> Result<R, SubmitError> {
        self.inner.check(partition)?;
        let state = self.inner.slots[partition.index()].state.read();
        Ok(read(&state.fold, self.inner.log.now()))
    }

    /// Reads a partition, and what its events touched that no checkpoint has yet.
    pub(crate) fn noted<R>(
        &self,
        partition: Partition,
        read: impl FnOnce(&PartitionState) -> R,
    ) -> Result<(history::pending::Notes, R), SubmitError> {
        self.inner.check(partition)?;
        let state = self.inner.slots[partition.index()].state.read();
        Ok((state.history.copy(), read(&state.fold)))
    }

    /// The index of history, unless it is being opened anew.
    pub(crate) fn index(&self) -> Option<fjall::Keyspace> {
        self.inner.checkpoint.index()
    }

    pub(crate) fn log(&self) -> &L {
        &self.inner.log
    }

    /// Appends one event and waits until it has been applied here.
    ///
    /// # Errors
    /// Says whether it may have been stored all the same.
    pub async fn submit(&self, partition: Partition, event: &Event<'_>) -> Result<Outcome, SubmitError> {
        self.submit_rendered(partition, event, None).await.map(|answer| answer.outcome)
    }

    /// As [`Self::submit`]; with `render`, the answer has the profile as it was right after the event.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_rendered(
        &self,
        partition: Partition,
        event: &Event<'_>,
        render: Option<Render>,
    ) -> Result<Answer, SubmitError> {
        let mut calls = self.start_call(1);
        calls.add(partition, event, render);
        let mut answers = calls.wait().await;
        answers.pop().unwrap_or_else(|| Err(SubmitError::Unknown("no answer".into())))
    }

    /// Appends encoded events in one frame, all or none, and waits until their partition has applied them; those for profiles
    /// elsewhere are on their way then.
    pub(crate) async fn submit_together(
        &self,
        partition: Partition,
        events: Vec<Vec<u8>>,
    ) -> Vec<Result<Answer, SubmitError>> {
        let call = Call::new(events.len());
        let ticket = |(slot, event)| (event, EventTicket::of_partition(&call, slot));
        let events = events.into_iter().enumerate().map(ticket).collect();
        match self.inner.check(partition).and_then(|()| Ok(self.inner.appender.submit_together(partition, events)?)) {
            Ok(()) => call.wait().await.into_iter().map(|answer| answer.map_err(Into::into)).collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// Starts a call of up to `events` events, which go into the log together as far as their partitions allow.
    #[must_use]
    pub fn start_call(&self, events: usize) -> PendingCall<L> {
        PendingCall::new(Arc::clone(&self.inner), events)
    }

    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        let applied: Vec<_> = self.partitions().iter().zip(&self.inner.slots).collect();
        let positions: Vec<_> = applied.iter().map(|(p, slot)| (*p, slot.state.read().position)).collect();
        let halted = |(partition, slot): (Partition, &Slot)| slot.halted.get().map(|halt| (partition, halt.clone()));
        Health {
            lag_frames: self.inner.log.behind(&positions),
            halted: applied.into_iter().filter_map(halted).collect(),
            checkpoint_failing: self.inner.checkpoint_failing.load(Ordering::Relaxed),
        }
    }

    /// For the node's heartbeat.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let health = self.health();
        let profiles = self.inner.slots.iter().map(|slot| slot.state.read().fold.stats().profiles as u64).sum();
        NodeStatus { lag_frames: health.lag_frames, profiles, ready: health.is_ready() }
    }

    /// Brings the gauges up to now, for somebody who reads the metrics.
    pub(crate) fn refresh_gauges(&self) {
        let meters = &self.inner.meters;
        let (mut profiles, mut bytes) = (0, 0);
        for slot in &self.inner.slots {
            let stats = slot.state.read().fold.stats();
            profiles += stats.profiles;
            bytes += stats.bytes;
        }
        meters.profiles.set(profiles as f64);
        meters.profile_bytes.set(bytes as f64);
        meters.lag_frames.set(self.health().lag_frames as f64);
        meters.checkpoint_age.set(self.inner.checkpointed.lock().elapsed().as_secs_f64());
    }

    /// A digest of every partition's state with the position it stands at; equal on every replica of the log.
    #[must_use]
    pub fn digests(&self) -> Vec<(Position, u128)> {
        self.partition_digests().into_iter().map(|one| (one.position, one.digest)).collect()
    }

    /// What it has of every partition. Looks at every profile, a partition at a time under its lock: blocks.
    #[must_use]
    pub fn partition_digests(&self) -> Vec<PartitionDigest> {
        let digest = |(partition, slot): (Partition, &Slot)| {
            let state = slot.state.read();
            let digest = state.fold.digest(state.at);
            PartitionDigest { partition, position: state.position, digest, halted: slot.halted.get().cloned() }
        };
        self.partitions().iter().zip(&self.inner.slots).map(digest).collect()
    }

    /// Takes a snapshot of every partition that has moved since its last one, with all that is applied now.
    ///
    /// # Errors
    /// When this replica takes none, is closing, or cannot write a checkpoint first.
    pub async fn take_snapshots(&self) -> Result<Vec<SnapshotTaken>, String> {
        let sender = self.inner.snapshots.as_ref().ok_or("this node has no store of snapshots")?;
        let (answer, taken) = oneshot::channel();
        sender.send(answer).await.map_err(|_| "the node is about to stop")?;
        taken.await.map_err(|_| "the node is about to stop")?
    }

    /// Appends what is pending, applies it, writes a last checkpoint, and ends the threads. Blocks.
    pub fn close(&self) {
        if *self.inner.closing.borrow() {
            return;
        }
        self.inner.appender.close();
        if let Err(error) = self.catch_up(Some(CLOSE_PATIENCE)) {
            tracing::error!(error = %apply::describe(&error), "could not apply everything before closing");
        }
        self.inner.closing.send_replace(true);
        for thread in self.threads.lock().drain(..) {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl<L: EventLog> Drop for Replica<L> {
    fn drop(&mut self) {
        self.close();
    }
}

/// How long closing waits for the log to deliver what was appended: a log that cannot be read now is read at the next start.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the sweeper looks for ended profiles. Ours: a look reads every profile of a partition once.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Ended profiles freed at one go, under the partition's lock. Ours: some milliseconds.
const SWEEP_BUDGET: usize = 20_000;
