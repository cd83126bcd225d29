//! The thread beside the hot path: checkpoints, the sweeper, and trimming of the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cameo_eventlog::EventLog;
use cameo_profile::{LogTime, Partition, PartitionState, Position};

use super::checkpoint::{Checkpoint, Taken};
use super::{Inner, SWEEP_BUDGET, SWEEP_EVERY, Slot, apply};
use crate::config::EdgeConfig;
use crate::history::store::{IndexError, NewImage};
use crate::history::tend::{Around, Tend};

/// How often the thread looks whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the log is asked to trim. Ours: a segment more or less for some minutes does not matter.
const TRIM_EVERY: Duration = Duration::from_secs(300);

/// Changes written before they are made durable, in bytes. Ours: all of them at once would double the memory of a
/// replica that has just taken a large bulk file.
const UNSYNCED_BYTES: usize = 32 << 20;

pub(super) struct Upkeep<L: EventLog> {
    inner: Arc<Inner<L>>,
    checkpoint: Checkpoint,
    every: Duration,
    retention: Option<Duration>,
    /// Whether the log keeps what is behind the snapshots that are needed.
    keeps_for_snapshots: bool,
    last_checkpoint: Instant,
    tend: Tend,
    /// When the walk through the index last came to its end; the first begins at once.
    tended: Option<Instant>,
}

/// How long the walk may go on each time that the thread looks. Ours: a tenth of the time. What an edge can fold touches some
/// ten thousand profiles a second, and the walk passes that many in this time, so it keeps up with what it tidies.
const TEND_BUDGET: Duration = Duration::from_millis(100);

/// Pause between two walks through the index of history. Ours: what it lets go is small, and takes its time.
const TEND_EVERY: Duration = Duration::from_secs(600);

impl<L: EventLog> Around for Inner<L> {
    fn first(&self, partition: Partition) -> Position {
        self.log.first(partition)
    }

    fn now(&self) -> LogTime {
        self.log.now()
    }

    fn read<R>(&self, partition: Partition, read: impl FnOnce(&PartitionState) -> R) -> Option<R> {
        self.check(partition).ok()?;
        Some(read(&self.slots.get(partition.index())?.state.read().fold))
    }
}

impl<L: EventLog> Upkeep<L> {
    pub(super) fn new(inner: Arc<Inner<L>>, checkpoint: Checkpoint, config: &EdgeConfig) -> Self {
        Self {
            inner,
            checkpoint,
            every: config.checkpoint_every,
            retention: config.retention,
            keeps_for_snapshots: config.snapshots.as_ref().is_some_and(|snapshots| !snapshots.every.is_zero()),
            last_checkpoint: Instant::now(),
            tend: Tend::default(),
            tended: None,
        }
    }

    pub(super) fn run(mut self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            tracing::error!("no runtime for upkeep: there will be no checkpoints");
            return;
        };
        runtime.block_on(async {
            let (mut sweep, mut trim) = (Instant::now(), Instant::now());
            self.tend();
            loop {
                let (closing, wanted) = tokio::select! {
                    () = self.inner.closed() => (true, true),
                    () = self.inner.checkpoint_wanted.notified() => (false, true),
                    () = tokio::time::sleep(LOOK_EVERY.min(self.every)) => (false, false),
                };
                if wanted || self.last_checkpoint.elapsed() >= self.every {
                    self.write_checkpoint();
                }
                if closing {
                    return;
                }
                if sweep.elapsed() >= SWEEP_EVERY {
                    self.sweep();
                    sweep = Instant::now();
                }
                self.tend();
                if trim.elapsed() >= TRIM_EVERY {
                    self.trim().await;
                    trim = Instant::now();
                }
            }
        });
    }

    /// Goes on with the walk through the index.
    fn tend(&mut self) {
        let rests = self.tended.is_some_and(|since| since.elapsed() < TEND_EVERY);
        if rests || self.inner.checkpoint_failing.load(Ordering::Relaxed) {
            return;
        }
        let mut walk = || -> Result<bool, IndexError> {
            let open = self.checkpoint.database()?;
            self.tend.walk(&open.database, &open.index, &*self.inner, TEND_BUDGET)
        };
        match walk() {
            Ok(false) => {}
            Ok(true) => self.tended = Some(Instant::now()),
            Err(error) => {
                tracing::warn!(error = apply::describe(&error), "the index of history could not be tended");
                self.tended = Some(Instant::now());
            }
        }
    }

    /// Saves every partition that moved; on failure its changes count as unsaved again.
    fn write_checkpoint(&mut self) {
        self.save();
        // Whoever waits for room looks again, and sees when there is none because checkpoints fail.
        self.inner.notes_taken.notify_waiters();
    }

    fn save(&mut self) {
        let began = Instant::now();
        let (mut written, mut unsynced_bytes) = (Vec::new(), 0);
        let mut failure = None;
        for partition in self.inner.log.partitions().iter() {
            let Some(taken) = self.take(partition) else { continue };
            // What has left the spool stays out of it before its effect can be in a checkpoint.
            let left = self.inner.spool.as_ref().map_or(Ok(()), |spool| spool.flush());
            let mut result = left.and_then(|()| self.checkpoint.write(&taken));
            unsynced_bytes += taken.bytes();
            written.push(taken);
            if result.is_ok() && unsynced_bytes > UNSYNCED_BYTES {
                result = self.persist(&mut written);
                unsynced_bytes = 0;
            }
            if let Err(error) = result {
                failure = Some(error);
                break;
            }
        }
        let failure = failure.or_else(|| self.persist(&mut written).err());
        let failing = failure.is_some();
        if let Some(error) = failure {
            for taken in written {
                self.inner.slots[taken.partition.index()].state.write().fold.put_back(taken.changes);
            }
            self.inner.meters.checkpoint_failures.increment(1);
            if !self.inner.checkpoint_failing.swap(true, Ordering::Relaxed) {
                let error = apply::describe(&error);
                tracing::error!(
                    error,
                    "a checkpoint could not be written; it is tried again, and the log is not trimmed"
                );
            }
            // Not at once again: a full disk does not get better by trying harder.
            self.last_checkpoint = Instant::now();
            return;
        }
        if self.inner.checkpoint_failing.swap(failing, Ordering::Relaxed) {
            tracing::info!("checkpoints can be written again");
        }
        self.inner.meters.checkpoint_seconds.record(began.elapsed().as_secs_f64());
        *self.inner.checkpointed.lock() = Instant::now();
        self.last_checkpoint = Instant::now();
    }

    /// Makes durable what was written: it need not be kept to be put back any more.
    fn persist(&mut self, written: &mut Vec<Taken>) -> fjall::Result<()> {
        if written.is_empty() {
            return Ok(());
        }
        self.checkpoint.persist()?;
        for taken in written.drain(..) {
            let slot = &self.inner.slots[taken.partition.index()];
            slot.state.write().history.written(taken.notes.blocks.len());
            slot.saved.store(taken.position.0, Ordering::Release);
        }
        Ok(())
    }

    fn take(&mut self, partition: Partition) -> Option<Taken> {
        let slot = &self.inner.slots[partition.index()];
        if slot.halted.get().is_some() || slot.state.read().position == slot.saved() {
            return None;
        }
        let mut state = slot.state.write();
        // Looked at again under the lock: a halt in the middle of a frame leaves a state of no position.
        if slot.halted.get().is_some() {
            return None;
        }
        let wanted = self.tend.wanted.extract_if(.., |wanted| wanted.partition == partition);
        let images = wanted.filter_map(|wanted| {
            let bytes = state.fold.image(&wanted.client, &wanted.address)?;
            Some(NewImage { client: wanted.client, address: wanted.address, bytes })
        });
        let images = images.collect();
        Some(Taken {
            partition,
            images,
            notes: state.history.take(),
            changes: state.fold.take_changes(),
            position: state.position,
            at: state.at,
            lineage: state.lineage.encode(),
        })
    }

    fn sweep(&self) {
        let now = self.inner.log.now();
        let freed: usize = self.inner.slots.iter().map(|slot| slot.state.write().fold.sweep(now, SWEEP_BUDGET)).sum();
        if freed > 0 {
            tracing::debug!(profiles.freed = freed, "swept profiles that had ended");
        }
    }

    async fn trim(&self) {
        let Some(retention) = self.retention else { return };
        let older_than = LogTime(self.inner.log.now().0.saturating_sub(retention.as_millis() as u64));
        let needed = |slot: &Slot| {
            let floor = if self.keeps_for_snapshots { slot.floor.load(Ordering::Acquire) } else { u64::MAX };
            slot.saved().min(Position(floor))
        };
        let upto: Vec<_> = self.inner.log.partitions().iter().zip(self.inner.slots.iter().map(needed)).collect();
        match self.inner.log.trim(&upto, older_than).await {
            Ok(trimmed) if trimmed.segments > 0 => {
                tracing::info!(eventlog.segments = trimmed.segments, eventlog.bytes = trimmed.bytes, "trimmed the log");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = apply::describe(&error), "the log could not be trimmed"),
        }
    }
}
