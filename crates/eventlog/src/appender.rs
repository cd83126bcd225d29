//! The appender: takes single events from any number of threads, packs them into frames, commits them in groups.
//!
//! Each partition has a pending buffer behind a short lock; an event is encoded straight into it. One thread for each lane
//! of the log gives it whatever is pending; what arrives meanwhile is the next group. There is no timer: under load groups
//! grow by themselves, without load an event leaves at once.
//!
//! Who wants to know when an event has been applied hands in a [`Ticket`]. The replica fetches the tickets of a frame
//! when it applies that frame ([`Appender::take_tickets`]); tickets of a frame that did not get into the log are failed
//! with the error.
//!
//! The chain of frames ([`crate::frame::Lineage`]) never shows a false hole:
//! - A frame that was certainly not written uses up no counter: the next frame of the partition takes it.
//! - After a frame whose outcome is unknown the appender goes on under a **new id**, whose counters start again. The
//!   old chain just ends, with or without that frame. (Sending the same bytes again until the outcome is known is the
//!   business of a backend that can tell a copy; this works with every one.)
//! - An id that was silent in a partition for half of what [`crate::frame::Lineage`] remembers is replaced likewise.

mod pending;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::AppendError;
use crate::frame::{AppenderId, EVENT_PREFIX_BYTES, FRAME_BYTES_MAX, FrameHeader, HEADER_BYTES, LINEAGE_SILENCE_MS};
use crate::{BATCH_BYTES, EventLog, LogTime, Partition, Position};

use pending::{Chain, Draft, Pending, Ready, Registry, TooLarge};

/// Somebody who waits for an event to be applied.
pub trait Ticket: Send + 'static {
    /// The event did not get into the log, or nobody knows. Called on the appender's thread: be quick.
    fn fail(self, error: &AppendError);
}

/// The limits of an [`Appender`].
#[derive(Clone, Copy, Debug)]
pub struct AppenderOptions {
    /// A frame that holds as much takes no further event, in bytes. Capped at [`FRAME_BYTES_MAX`].
    pub max_frame_bytes: usize,
    /// Bytes of events not in the log yet, past which [`SubmitError::Full`] is the answer.
    pub max_pending_bytes: usize,
    /// Events in the log whose tickets nobody has taken yet, past which [`SubmitError::Full`] is the answer.
    pub max_waiting_events: usize,
}

impl Default for AppenderOptions {
    fn default() -> Self {
        // A frame: large enough that headers and checks cost nothing, small enough for a NATS message. Pending: some
        // tenths of a second of a fast disk. Waiting: far more than requests that a server holds open.
        Self { max_frame_bytes: 256 << 10, max_pending_bytes: 64 << 20, max_waiting_events: 1 << 20 }
    }
}

/// Why an event was not taken. Nothing of it is in the log, nor will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much is under way; try again soon.
    #[error("too many events are waiting for the log")]
    Full,
    /// The log had no room a moment ago.
    #[error("the storage of the log is full")]
    StorageFull,
    /// The appender is closed.
    #[error("the appender is closed")]
    Closed,
    /// No frame can hold it.
    #[error("an event of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// The appender could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread that appends to the log")]
pub struct StartError(#[from] io::Error);

/// The largest event, in bytes, with its length prefix.
const EVENT_BYTES_MAX: usize = FRAME_BYTES_MAX - HEADER_BYTES;
/// How long submits are refused after the log said that it is full, in milliseconds: encoding for nothing is spared,
/// and the next one after it tries again.
const FULL_PAUSE_MS: u64 = 100;
/// An id that was silent for longer in a partition is given up, in milliseconds of log time.
const RENEW_AFTER_MS: u64 = LINEAGE_SILENCE_MS / 2;

struct Slot<T> {
    pending: Mutex<Pending<T>>,
    waiting: Mutex<Registry<T>>,
    /// Whether there is anything in `pending`; changed under its lock.
    dirty: AtomicBool,
}

struct Inner<T> {
    slots: Box<[Slot<T>]>,
    options: AppenderOptions,
    id: Mutex<AppenderId>,
    pending_bytes: AtomicUsize,
    waiting_events: AtomicUsize,
    started: Instant,
    /// Milliseconds after `started` until which submits are refused.
    full_until_ms: AtomicU64,
    idle: AtomicBool,
    closing: AtomicBool,
    wake: Notify,
}

/// Packs events into frames and commits them in groups.
pub struct Appender<T: Ticket> {
    /// One for each lane of the log: a lane that stalls holds up no other.
    lines: Box<[Line<T>]>,
    /// Which line each partition is in.
    line_of: Box<[usize]>,
}

impl<T: Ticket> Appender<T> {
    /// Starts its threads, one for each lane of the log. The limits are shared out among them.
    ///
    /// # Errors
    /// When the system gives no thread or no randomness.
    pub fn start<L: EventLog>(log: Arc<L>, options: AppenderOptions) -> Result<Self, StartError> {
        describe_metrics();
        let lanes = log.lanes().max(1);
        let options = AppenderOptions {
            max_frame_bytes: options.max_frame_bytes.min(FRAME_BYTES_MAX),
            max_pending_bytes: options.max_pending_bytes / lanes,
            max_waiting_events: options.max_waiting_events / lanes,
        };
        let line_of = log.partitions().iter().map(|partition| log.lane(partition) % lanes).collect();
        let lines = (0..lanes).map(|lane| Line::start(Arc::clone(&log), options, lane)).collect::<Result<_, _>>()?;
        Ok(Self { lines, line_of })
    }

    /// The id that a partition's frames are written under now; see the module's text for when it changes.
    ///
    /// # Panics
    /// When the log has no such partition.
    #[must_use]
    pub fn id(&self, partition: Partition) -> AppenderId {
        *self.line(partition).inner.id.lock()
    }

    fn line(&self, partition: Partition) -> &Line<T> {
        &self.lines[self.line_of[partition.index()]]
    }

    /// Encodes one event into the pending frame of its partition. Without a ticket nobody learns what became of it.
    ///
    /// `encode` runs under the partition's lock and only ever appends.
    ///
    /// # Errors
    /// Gives the ticket back, with the reason.
    ///
    /// # Panics
    /// When the log has no such partition.
    pub fn submit(
        &self,
        partition: Partition,
        encode: impl FnOnce(&mut Vec<u8>),
        ticket: Option<T>,
    ) -> Result<(), (SubmitError, Option<T>)> {
        self.line(partition).submit(partition, encode, ticket)
    }

    /// Puts encoded events into one frame of their partition, in this order: all of them get into the log, or none does. Refused,
    /// their tickets are dropped.
    ///
    /// # Errors
    /// Why none was taken.
    ///
    /// # Panics
    /// When the log has no such partition.
    pub fn submit_together(&self, partition: Partition, events: Vec<(Vec<u8>, T)>) -> Result<(), SubmitError> {
        let bytes = events.iter().map(|(event, _)| event.len() + EVENT_PREFIX_BYTES).sum();
        if bytes > EVENT_BYTES_MAX {
            return Err(SubmitError::TooLarge { bytes, limit: EVENT_BYTES_MAX });
        }
        let add = |pending: &mut Pending<T>| {
            pending.begin_frame();
            for (event, ticket) in events {
                // They fit, as their sum does.
                let _ =
                    pending.add(FRAME_BYTES_MAX, EVENT_BYTES_MAX, |out| out.extend_from_slice(&event), Some(ticket));
            }
            bytes
        };
        self.line(partition).take(partition, add)
    }

    /// The tickets of a frame, one entry per event, when it is a frame of this appender that somebody waits for. Called
    /// by the replica when it applies the frame, in order per partition; a second call finds none.
    #[must_use]
    pub fn take_tickets(&self, frame: &FrameHeader) -> Option<Vec<Option<T>>> {
        let line = self.lines.get(*self.line_of.get(frame.partition.index())?)?;
        line.inner.take_tickets(frame.partition, frame.appender, frame.counter)
    }

    /// Fails the tickets of all frames of a partition that nobody has taken: for a replica that can apply them no more.
    ///
    /// # Panics
    /// When the log has no such partition.
    pub fn fail_waiting(&self, partition: Partition, error: &AppendError) {
        self.line(partition).fail_waiting(partition, error);
    }

    /// Takes no more events, appends what is pending, and ends the threads. Blocks until that is done.
    pub fn close(&self) {
        self.lines.iter().for_each(|line| line.inner.close());
        self.lines.iter().for_each(Line::join);
    }
}

impl<T: Ticket> Drop for Appender<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// One thread with what it appends: the partitions of one lane of the log.
struct Line<T> {
    inner: Arc<Inner<T>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Ticket> Line<T> {
    fn start<L: EventLog>(log: Arc<L>, options: AppenderOptions, lane: usize) -> Result<Self, StartError> {
        // A slot for every partition, so that a partition's number is its place; those of other lanes stay empty.
        let slot = |_| Slot {
            pending: Mutex::new(Pending::new()),
            waiting: Mutex::new(Registry::new()),
            dirty: AtomicBool::new(false),
        };
        let inner = Arc::new(Inner {
            slots: log.partitions().iter().map(slot).collect(),
            options,
            id: Mutex::new(new_id()?),
            pending_bytes: AtomicUsize::new(0),
            waiting_events: AtomicUsize::new(0),
            started: Instant::now(),
            full_until_ms: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            wake: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let worker =
            Worker { inner: Arc::clone(&inner), log, chains: vec![Chain::default(); inner.slots.len()], turn: 0 };
        let name = format!("log-appender-{lane}");
        let thread = std::thread::Builder::new().name(name).spawn(move || runtime.block_on(worker.run()))?;
        Ok(Self { inner, thread: Mutex::new(Some(thread)) })
    }

    fn submit(
        &self,
        partition: Partition,
        encode: impl FnOnce(&mut Vec<u8>),
        ticket: Option<T>,
    ) -> Result<(), (SubmitError, Option<T>)> {
        let mut ticket = ticket;
        let mut too_large = None;
        let frame_bytes = self.inner.options.max_frame_bytes;
        let taken = self.take(partition, |pending| {
            pending.add(frame_bytes, EVENT_BYTES_MAX, encode, ticket.take()).unwrap_or_else(
                |(TooLarge(bytes), back)| {
                    (too_large, ticket) = (Some(bytes), back);
                    0
                },
            )
        });
        match (taken, too_large) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(bytes)) => Err((SubmitError::TooLarge { bytes, limit: EVENT_BYTES_MAX }, ticket)),
            (Err(error), _) => Err((error, ticket)),
        }
    }

    /// Has somebody add events to what a partition has pending, if it takes any; he says how many bytes he added.
    fn take(&self, partition: Partition, add: impl FnOnce(&mut Pending<T>) -> usize) -> Result<(), SubmitError> {
        let inner = &*self.inner;
        if inner.pending_bytes.load(Ordering::Relaxed) > inner.options.max_pending_bytes
            || inner.waiting_events.load(Ordering::Relaxed) > inner.options.max_waiting_events
        {
            return Err(SubmitError::Full);
        }
        let full_until_ms = inner.full_until_ms.load(Ordering::Relaxed);
        if full_until_ms != 0 && inner.elapsed_ms() < full_until_ms {
            return Err(SubmitError::StorageFull);
        }
        let slot = &inner.slots[partition.index()];
        let mut pending = slot.pending.lock();
        if pending.closed {
            return Err(SubmitError::Closed);
        }
        let bytes = add(&mut pending);
        if bytes == 0 {
            return Ok(());
        }
        inner.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_first = !slot.dirty.load(Ordering::Relaxed);
        if is_first {
            slot.dirty.store(true, Ordering::SeqCst);
        }
        drop(pending);
        // Only who made a partition dirty can find the thread idle: it looks at all of them after saying so.
        if is_first {
            inner.wake_if_idle();
        }
        Ok(())
    }

    fn fail_waiting(&self, partition: Partition, error: &AppendError) {
        let Some(slot) = self.inner.slots.get(partition.index()) else { return };
        let waiting = slot.waiting.lock().take_all();
        for tickets in waiting {
            self.inner.waiting_events.fetch_sub(tickets.len(), Ordering::Relaxed);
            tickets.into_iter().flatten().for_each(|ticket| ticket.fail(error));
        }
    }

    fn join(&self) {
        if let Some(thread) = self.thread.lock().take() {
            // A panic has been reported by the panic hook, and its tickets were failed.
            let _ = thread.join();
        }
    }
}

impl<T: Ticket> Inner<T> {
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wake_if_idle(&self) {
        if self.idle.load(Ordering::SeqCst) && self.idle.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        for slot in &self.slots {
            slot.pending.lock().closed = true;
        }
        self.closing.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn take_tickets(&self, partition: Partition, id: AppenderId, counter: u64) -> Option<Vec<Option<T>>> {
        let tickets = self.slots.get(partition.index())?.waiting.lock().take(id, counter)?;
        self.waiting_events.fetch_sub(tickets.len(), Ordering::Relaxed);
        Some(tickets)
    }
}

/// A group on its way into the log.
struct Group<T> {
    frames: Vec<(Partition, Draft<T>)>,
    event_bytes: usize,
}

/// What a frame of a group becomes part of, should it be written.
struct Written {
    partition: Partition,
    id: AppenderId,
    counter: u64,
    digest: u64,
    bytes: usize,
}

/// The thread's side.
struct Worker<T: Ticket, L> {
    inner: Arc<Inner<T>>,
    log: Arc<L>,
    chains: Vec<Chain>,
    /// The partition that is asked first, so that none starves.
    turn: usize,
}

impl<T: Ticket, L: EventLog> Worker<T, L> {
    async fn run(mut self) {
        loop {
            // Read before collecting: what was taken before the closing is then surely seen.
            let closing = self.inner.closing.load(Ordering::SeqCst);
            let group = self.collect();
            if !group.frames.is_empty() {
                self.commit(group).await;
            } else if closing {
                return;
            } else {
                self.wait().await;
            }
        }
    }

    async fn wait(&self) {
        let inner = &*self.inner;
        inner.idle.store(true, Ordering::SeqCst);
        if inner.slots.iter().all(|slot| !slot.dirty.load(Ordering::SeqCst)) {
            inner.wake.notified().await;
        }
        inner.idle.store(false, Ordering::SeqCst);
    }

    /// Takes what is pending, up to the size of a group.
    fn collect(&mut self) -> Group<T> {
        let count = self.inner.slots.len();
        let mut group = Group { frames: vec![], event_bytes: 0 };
        for n in 0..count {
            let index = (self.turn + n) % count;
            let slot = &self.inner.slots[index];
            if !slot.dirty.load(Ordering::SeqCst) {
                continue;
            }
            let mut pending = slot.pending.lock();
            while let Some(draft) = pending
                .drafts
                .pop_front_if(|draft| group.frames.is_empty() || group.event_bytes + draft.frame.len() <= BATCH_BYTES)
            {
                group.event_bytes += draft.frame.len() - HEADER_BYTES;
                if !draft.frame.is_empty() {
                    group.frames.push((Partition(index as u16), draft));
                }
            }
            if !pending.drafts.is_empty() {
                self.turn = index;
                break;
            }
            slot.dirty.store(false, Ordering::SeqCst);
        }
        group
    }

    async fn commit(&mut self, group: Group<T>) {
        let now = self.log.now();
        let is_silent = |chain: &Chain| chain.counter > 0 && now.ms().saturating_sub(chain.at.ms()) > RENEW_AFTER_MS;
        if group.frames.iter().any(|(partition, _)| is_silent(&self.chains[partition.index()])) {
            self.renew();
        }
        let id = *self.inner.id.lock();
        let (mut frames, mut written) =
            (Vec::with_capacity(group.frames.len()), Vec::with_capacity(group.frames.len()));
        let mut ends = self.chains.clone();
        for (partition, draft) in group.frames {
            let end = &mut ends[partition.index()];
            let ready = finish(draft, id, partition, *end);
            *end = Chain { counter: ready.counter, digest: ready.digest, at: now };
            written.push(Written {
                partition,
                id,
                counter: ready.counter,
                digest: ready.digest,
                bytes: ready.bytes.len(),
            });
            // Before the append: a replica may see the frame before the append returns.
            if !ready.tickets.is_empty() {
                self.inner.waiting_events.fetch_add(ready.events, Ordering::Relaxed);
                self.inner.slots[partition.index()].waiting.lock().insert(id, ready.counter, ready.tickets);
            }
            frames.push((partition, ready.bytes));
        }
        let outcome = Unsettled { inner: &self.inner, written: &written, settled: false };
        let began = Instant::now();
        let results = self.log.append(frames).await;
        let took = began.elapsed();
        outcome.settle();
        self.settle(&written, results, now, took);
        self.inner.pending_bytes.fetch_sub(group.event_bytes, Ordering::Relaxed);
    }

    fn settle(
        &mut self,
        written: &[Written],
        results: Vec<Result<Position, AppendError>>,
        at: LogTime,
        took: Duration,
    ) {
        let sizes = metrics::histogram!("cameo_frame_bytes");
        let (mut appended, mut lost_track) = (0, false);
        // A log that answers for too few frames has told nothing about the others.
        let missing = || Err(AppendError::Unknown("the log did not say".into()));
        let results = results.into_iter().chain(std::iter::repeat_with(missing));
        for (frame, result) in written.iter().zip(results) {
            match result {
                Ok(_) => {
                    appended += 1;
                    sizes.record(frame.bytes as f64);
                    self.chains[frame.partition.index()] = Chain { counter: frame.counter, digest: frame.digest, at };
                }
                Err(error) => {
                    metrics::counter!("cameo_append_failures_total", "reason" => error.reason()).increment(1);
                    lost_track |= matches!(error, AppendError::Unknown(_));
                    if error == AppendError::StorageFull {
                        let until_ms = self.inner.elapsed_ms() + FULL_PAUSE_MS;
                        self.inner.full_until_ms.store(until_ms, Ordering::Relaxed);
                    }
                    fail(&self.inner, frame, &error);
                }
            }
        }
        if lost_track {
            self.renew();
        }
        metrics::counter!("cameo_frames_total").increment(appended);
        if appended > 0 {
            metrics::histogram!("cameo_append_seconds").record(took.as_secs_f64());
        }
    }

    /// Goes on under a new id, whose counters start again.
    fn renew(&mut self) {
        let mut id = self.inner.id.lock();
        // Randomness was there at the start; should it be gone, the next number is as new.
        *id = new_id().unwrap_or(AppenderId(id.0.wrapping_add(1)));
        self.chains.fill(Chain::default());
    }
}

fn describe_metrics() {
    metrics::describe_counter!("cameo_frames_total", "Frames appended to the log by this process");
    metrics::describe_histogram!("cameo_frame_bytes", metrics::Unit::Bytes, "Size of an appended frame");
    metrics::describe_histogram!("cameo_append_seconds", metrics::Unit::Seconds, "Time to append one group of frames");
    metrics::describe_counter!("cameo_append_failures_total", "Frames that could not be appended, by reason");
    // Told from the start: Prometheus sees no rise of what was not there before.
    for error in [AppendError::StorageFull, AppendError::Unavailable("".into()), AppendError::Unknown("".into())] {
        metrics::counter!("cameo_append_failures_total", "reason" => error.reason()).increment(0);
    }
}

fn fail<T: Ticket>(inner: &Inner<T>, frame: &Written, error: &AppendError) {
    let tickets = inner.take_tickets(frame.partition, frame.id, frame.counter);
    tickets.into_iter().flatten().flatten().for_each(|ticket| ticket.fail(error));
}

impl<T: Ticket, L> Drop for Worker<T, L> {
    /// On the way out, be it by a panic: nobody waits for ever.
    fn drop(&mut self) {
        self.inner.close();
        let error = AppendError::Unavailable("the appender has ended".into());
        for slot in &self.inner.slots {
            let drafts = std::mem::take(&mut slot.pending.lock().drafts);
            drafts.into_iter().flat_map(|draft| draft.tickets).flatten().for_each(|ticket| ticket.fail(&error));
        }
    }
}

/// Fails the tickets of a group when the log's append does not come back but panics.
struct Unsettled<'a, T: Ticket> {
    inner: &'a Inner<T>,
    written: &'a [Written],
    settled: bool,
}

impl<T: Ticket> Unsettled<'_, T> {
    fn settle(mut self) {
        self.settled = true;
    }
}

impl<T: Ticket> Drop for Unsettled<'_, T> {
    fn drop(&mut self) {
        if !self.settled {
            let error = AppendError::Unknown("the log did not come back".into());
            self.written.iter().for_each(|frame| fail(self.inner, frame, &error));
        }
    }
}

fn finish<T>(draft: Draft<T>, id: AppenderId, partition: Partition, end: Chain) -> Ready<T> {
    let Draft { frame, tickets } = draft;
    let (events, counter) = (frame.events() as usize, end.counter + 1);
    let (bytes, digest) = frame.finish(id, partition, counter, end.digest);
    Ready { bytes: Bytes::clone(&bytes), counter, digest, events, tickets }
}

fn new_id() -> Result<AppenderId, io::Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(AppenderId(u128::from_le_bytes(id)))
}
