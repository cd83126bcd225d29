//! Brings the rows of a validated file into the log, as often as it takes.
//!
//! Each attempt asks the partitions how far they are, reads the spool again, and appends what is missing, in order and
//! with a bounded number of events in flight. What an earlier attempt, or another process, appended in the meantime is
//! dropped by the fold: a row counts once. When all are applied the batch is closed: its head has the counts for good.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cameo_profile::event::{BatchClosed, BatchErrors, RowError};
use cameo_profile::state::{BatchHead, BatchPart};
use cameo_profile::{ClientCode, Event, Outcome, Partition, ids};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::bounds;
use crate::chunk::{Batch, Chunk};
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::Meters;
use crate::parse::{Item, Row, RowFailure, Version};
use crate::spool::Spooled;
use crate::status;

/// The first pause after an attempt that failed; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long an attempt waits for rows that go on to another partition, and how often it looks.
const ARRIVAL: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LONGEST_LOOK: Duration = Duration::from_millis(200);
/// How long attempts go on without a single row of progress. Ours: past it the batch reads as stuck, and the same
/// upload with its key resumes it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// Batches that this process is submitting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<HashSet<Key>>>);

/// A client and its batch.
type Key = (ClientCode, Box<str>);

/// The right to submit a batch; while it lives nobody else in this process does.
#[derive(Debug)]
pub(crate) struct Turn {
    running: Running,
    key: Key,
}

impl Running {
    pub(crate) fn begin(&self, client: &ClientCode, batch: &str) -> Option<Turn> {
        let key: Key = (client.clone(), batch.into());
        self.0.lock().insert(key.clone()).then(|| Turn { running: self.clone(), key })
    }

    pub(crate) fn has(&self, client: &ClientCode, batch: &str) -> bool {
        self.0.lock().contains(&(client.clone(), batch.into()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.running.0.lock().remove(&self.key);
    }
}

/// Submissions that wait for room on the log's disk, in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShortOfRoom(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Waits(ShortOfRoom);

impl ShortOfRoom {
    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Waits {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(self.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file to bring into the log.
pub(crate) struct Submission<L> {
    pub(crate) ledger: Arc<L>,
    pub(crate) client: ClientCode,
    pub(crate) head: BatchHead,
    /// Where the head lives.
    pub(crate) head_partition: Partition,
    pub(crate) spooled: Arc<Spooled>,
    /// Who uploaded it, if known.
    pub(crate) by: Option<Arc<str>>,
    pub(crate) version: Version,
    pub(crate) turn: Turn,
    pub(crate) meters: Arc<Meters>,
    /// What the metrics have of it.
    pub(crate) metered: BatchPart,
    pub(crate) short_of_room: ShortOfRoom,
    /// Turns true when the gateway has waited long enough for what is under way.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Why an attempt did not come to its end.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("rows did not follow what their partition had seen")]
    DoesNotFollow,
    #[error("some rows are for linked addresses and are still on their way to their profiles")]
    OnTheWay,
    #[error("the spool cannot be read: {0}")]
    Spool(std::io::Error),
    #[error("the log does not take an event of a file: {0}")]
    Thread(tokio::task::JoinError),
}

impl<L: Ledger> Submission<L> {
    /// Runs to the end. `reported` is told when the failed rows are in the log, and dropped at the first failure:
    /// nobody shall wait for what may take long.
    pub(crate) async fn run(mut self, reported: oneshot::Sender<()>) {
        self.metered = self.counted().await.unwrap_or_default();
        self.attempts(reported).await;
        self.meter().await;
        // What reads as no longer under way has been counted.
        drop(self.turn);
    }

    /// Adds to the metrics what has been applied since the last call.
    async fn meter(&mut self) {
        let Some(now) = self.counted().await else { return };
        // A partition that has forgotten its part counts less than before.
        let before = std::mem::replace(&mut self.metered, now);
        self.meters.rows_updated.increment(now.updated.saturating_sub(before.updated));
        self.meters.rows_not_found.increment(now.not_found.saturating_sub(before.not_found));
        self.meters.rows_failed.increment(now.failed.saturating_sub(before.failed));
    }

    async fn attempts(&mut self, reported: oneshot::Sender<()>) {
        let (mut waiting, mut reported, mut pause) = (Some(reported), false, FIRST_PAUSE);
        let (mut applied, mut progress_at) = (0, Instant::now());
        let mut waits = None;
        loop {
            let error = match self.attempt(&mut reported, &mut waiting).await {
                Ok(()) => return,
                Err(error) => error,
            };
            waiting = None;
            if matches!(error, AttemptError::Ledger(LedgerError::StorageFull)) {
                waits.get_or_insert_with(|| self.short_of_room.enter());
            } else {
                waits = None;
            }
            let now_applied = self.counted().await.map_or(applied, |part| part.consumed());
            if now_applied > applied {
                (applied, progress_at, pause) = (now_applied, Instant::now(), FIRST_PAUSE);
            }
            let batch = &*self.head.batch;
            if progress_at.elapsed() > GIVE_UP_AFTER || matches!(error, AttemptError::Spool(_)) {
                tracing::error!(batch.id = batch, %error, "gave up on a batch; the same upload with its key resumes it");
                return;
            }
            tracing::warn!(batch.id = batch, %error, pause.ms = pause.as_millis(), "could not append all rows yet");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // An error means that the gateway is gone, which is as good as a stop.
                _ = self.stop.wait_for(|stop| *stop) => {
                    tracing::warn!(batch.id = batch, "stopped before all rows were appended");
                    return;
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What the partitions counted, together; nothing if they cannot be read.
    async fn counted(&self) -> Option<BatchPart> {
        let parts = self.ledger.parts(self.client.as_str(), &self.head.batch).await.ok()?;
        Some(status::sum(&parts))
    }

    async fn attempt(
        &mut self,
        reported: &mut bool,
        waiting: &mut Option<oneshot::Sender<()>>,
    ) -> Result<(), AttemptError> {
        if !*reported {
            self.report().await?;
            *reported = true;
        }
        if let Some(waiting) = waiting.take() {
            // The caller may have gone.
            let _ = waiting.send(());
        }
        if self.is_closed().await? {
            // By somebody else meanwhile. The partitions may have forgotten their rows by now.
            return Ok(());
        }
        self.rows().await?;
        self.arrive().await?;
        self.meter().await;
        self.close().await
    }

    /// Waits until every row has been counted where its profile lives: one for a linked address goes on from the partition
    /// that it was appended to.
    async fn arrive(&self) -> Result<(), AttemptError> {
        let (since, mut pause) = (Instant::now(), FIRST_LOOK);
        loop {
            let parts = self.ledger.parts(self.client.as_str(), &self.head.batch).await?;
            if status::sum(&parts).consumed() >= u64::from(self.head.rows_to_apply) {
                return Ok(());
            }
            if since.elapsed() > ARRIVAL {
                return Err(AttemptError::OnTheWay);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    async fn is_closed(&self) -> Result<bool, LedgerError> {
        let closed = |head: &BatchHead| head.closed.is_some();
        let (client, batch) = (self.client.as_str(), &*self.head.batch);
        Ok(self.ledger.head(client, batch).await?.as_ref().is_some_and(closed))
    }

    /// Says that every row has been applied, and what came of them: first where the head is, then where rows are.
    async fn close(&self) -> Result<(), AttemptError> {
        let parts = self.ledger.parts(self.client.as_str(), &self.head.batch).await?;
        let BatchPart { updated, created, not_found, failed, .. } = status::sum(&parts);
        let client = self.client.as_str();
        let event = BatchClosed { client, batch: &self.head.batch, updated, created, not_found, failed };
        let event = Event::BatchClosed(event);
        self.ledger.append(self.head_partition, &event).await?;
        let has_rows = |partition: &Partition| {
            let part = &parts[partition.index()];
            part.high_line > 0 || part.consumed() > 0
        };
        let others = self.ledger.partitions().iter().filter(|partition| *partition != self.head_partition);
        let others: Vec<_> = others.filter(has_rows).collect();
        for some in others.chunks(bounds::EVENTS_IN_FLIGHT) {
            let told: Vec<_> = some.iter().map(|partition| self.ledger.append(*partition, &event)).collect();
            for told in told {
                // The batch is complete by the word of its head; who misses this keeps its part for longer, no more.
                let _ = told.await;
            }
        }
        Ok(())
    }

    /// Appends the failed rows, ahead of all others: the fold keeps them by rising lines.
    async fn report(&self) -> Result<(), AttemptError> {
        let errors = &self.spooled.report.errors;
        let last = self.ledger.last_error(self.client.as_str(), &self.head.batch).await?;
        let missing = &errors[errors.partition_point(|error| error.line <= last)..];
        let mut rest = missing;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|error| {
                bytes += error.reason.len() + error.column.as_ref().map_or(0, String::len) + 16;
                bytes <= bounds::CHUNK_BYTES
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let event = BatchErrors {
                client: self.client.as_str(),
                batch: &self.head.batch,
                errors: some.iter().map(row_error).collect(),
            };
            self.ledger.append(self.head_partition, &Event::BatchErrors(event)).await?;
        }
        Ok(())
    }

    /// Appends every row that its partition has not seen, and waits until all are applied.
    async fn rows(&self) -> Result<(), AttemptError> {
        let parts = self.ledger.parts(self.client.as_str(), &self.head.batch).await?;
        if status::sum(&parts).consumed() >= u64::from(self.head.rows_to_apply) {
            return Ok(());
        }
        let (sender, mut receiver) = mpsc::channel(bounds::EVENTS_IN_FLIGHT);
        let stopped = Arc::new(AtomicBool::new(false));
        let mut appending = Appending {
            ledger: Arc::clone(&self.ledger),
            client: self.client.clone(),
            head: self.head.clone(),
            by: self.by.clone(),
            version: self.version,
            chunk_bytes: (bounds::CHUNKS_BYTES / parts.len().max(1)).min(bounds::CHUNK_BYTES),
            chunks: parts.iter().map(|part| Chunk::following(part.high_line)).collect(),
            seen: parts.iter().map(|part| part.high_line).collect(),
            address: String::new(),
        };
        let (spooled, stop) = (Arc::clone(&self.spooled), Arc::clone(&stopped));
        let reading = tokio::task::spawn_blocking(move || {
            let ledger = Arc::clone(&appending.ledger);
            let mut hand_over = |partition, event: &Event<'_>| {
                // Made before there is room for it: one event more than the bound.
                let applied = ledger.append(partition, event);
                !stop.load(Ordering::Relaxed) && sender.blocking_send(applied).is_ok()
            };
            spooled.replay(|item| appending.take(item, &mut hand_over))?;
            appending.rest(&mut hand_over);
            Ok(())
        });
        // Past a failure the rest is waited for all the same, so that the next attempt starts from what is known.
        let mut failure = None;
        while let Some(applied) = receiver.recv().await {
            let done: Result<(), AttemptError> = match applied.await {
                Ok(Outcome::BatchRows { follow: false }) => Err(AttemptError::DoesNotFollow),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                stopped.store(true, Ordering::Relaxed);
                failure.get_or_insert(error);
            }
        }
        let read: std::io::Result<()> = reading.await.map_err(AttemptError::Thread)?;
        match failure {
            Some(failure) => Err(failure),
            None => read.map_err(AttemptError::Spool),
        }
    }
}

fn row_error(failure: &RowFailure) -> RowError<'_> {
    RowError { line: failure.line, column: failure.column.as_deref(), reason: &failure.reason }
}

/// Sorts rows into partitions and makes events of them.
struct Appending<L> {
    ledger: Arc<L>,
    client: ClientCode,
    head: BatchHead,
    by: Option<Arc<str>>,
    version: Version,
    chunk_bytes: usize,
    /// By partition.
    chunks: Vec<Chunk>,
    /// The highest line that each partition has, by partition.
    seen: Vec<u32>,
    address: String,
}

impl<L: Ledger> Appending<L> {
    fn take(&mut self, item: Item<'_>, hand_over: &mut impl FnMut(Partition, &Event<'_>) -> bool) -> bool {
        let Item::Row(row) = item else { return true };
        let partition = self.partition(&row);
        if row.line <= self.seen[partition.index()] {
            return true;
        }
        let mut goes_on = true;
        if !self.chunks[partition.index()].takes(&row) {
            goes_on = self.give(partition, hand_over);
        }
        let chunk = &mut self.chunks[partition.index()];
        chunk.push(&row);
        if chunk.bytes() >= self.chunk_bytes {
            goes_on &= self.give(partition, hand_over);
        }
        goes_on
    }

    fn rest(&mut self, hand_over: &mut impl FnMut(Partition, &Event<'_>) -> bool) {
        for partition in self.ledger.partitions().iter() {
            if !self.chunks[partition.index()].is_empty() && !self.give(partition, hand_over) {
                return;
            }
        }
    }

    fn give(&mut self, partition: Partition, hand_over: &mut impl FnMut(Partition, &Event<'_>) -> bool) -> bool {
        let batch = Batch {
            client: self.client.as_str(),
            batch: &self.head.batch,
            create: self.version.creates(),
            occurred_at: self.head.opened_at,
            by: self.by.as_deref(),
        };
        self.chunks[partition.index()].give(batch, |event| hand_over(partition, event))
    }

    fn partition(&mut self, row: &Row<'_>) -> Partition {
        self.address.clear();
        self.address.extend([row.kind.prefix(), ":", row.id]);
        ids::partition_of(&self.client, &self.address, self.ledger.partitions())
    }
}
