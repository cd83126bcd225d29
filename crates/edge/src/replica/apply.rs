//! The applier: takes frames from the log and folds them into the partitions it owns. Nobody else applies events.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cameo_eventlog::frame::{Admit, Frame};
use cameo_eventlog::{AppendError, EventLog, LogReader, ReadError, StoredFrame};
use cameo_profile::{Address, Event, LogTime, Outcome, Partition, PartitionState, Position};
use tokio::runtime::Runtime;

use super::call::{Answer, EventTicket};
use super::{Folded, Halt, Inner};
use crate::history::pending::{PENDING_BYTES, Place};

/// How often stopped partitions are looked at for events that were on their way.
const STOPPED_LOOK: Duration = Duration::from_millis(50);

/// Runs until the replica closes. A panic in the fold stops the partitions, as an error does: what it left behind is a
/// state of no position.
pub(super) fn run<L: EventLog>(inner: &Inner<L>, partitions: &[Partition], reader: L::Reader, runtime: &Runtime) {
    let followed = catch_unwind(AssertUnwindSafe(|| runtime.block_on(follow(inner, partitions, reader))));
    if followed.is_err() {
        runtime.block_on(stop_all(inner, partitions, "its applier panicked"));
    }
}

async fn follow<L: EventLog>(inner: &Inner<L>, partitions: &[Partition], mut reader: L::Reader) {
    loop {
        let batch = tokio::select! {
            batch = reader.next_batch() => batch,
            () = inner.closed() => return,
        };
        match batch {
            Ok(frames) => {
                for frame in &frames {
                    apply(inner, frame);
                    make_room(inner, frame.partition).await;
                }
                for (partition, position) in reader.passed() {
                    pass(inner, partition, position);
                }
                // One wake-up a batch for whoever waits for a position.
                inner.applied.notify_waiters();
            }
            Err(error) => {
                if matches!(error, ReadError::Trimmed { .. }) {
                    inner.overtaken.send_replace(true);
                }
                return stop_all(inner, partitions, &describe(&error)).await;
            }
        }
    }
}

/// Stops partitions whose log cannot be read on. Their tickets would wait for ever, as no frame comes to take them, so
/// they are failed as they come: an event may have been on its way when its partition stopped.
async fn stop_all<L: EventLog>(inner: &Inner<L>, partitions: &[Partition], reason: &str) {
    for &partition in partitions {
        inner.halt(partition, Halt { position: None, reason: reason.to_owned() });
    }
    inner.applied.notify_waiters();
    let error = AppendError::Unknown(format!("the partition has stopped: {reason}").into());
    loop {
        for &partition in partitions {
            inner.appender.fail_waiting(partition, &error);
        }
        if tokio::time::timeout(STOPPED_LOOK, inner.closed()).await.is_ok() {
            return;
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn apply<L: EventLog>(inner: &Inner<L>, stored: &StoredFrame) {
    let slot = &inner.slots[stored.partition.index()];
    if slot.halted.get().is_some() {
        // Its tickets are dropped, which answers them: nobody knows what became of the events.
        if let Ok(frame) = Frame::decode(&stored.bytes) {
            drop(inner.appender.take_tickets(frame.header()));
        }
        return;
    }
    let began = Instant::now();
    let mut answers = Vec::new();
    {
        let mut state = slot.state.write();
        // Dropped before the lock is.
        let _guard = HaltOnPanic { inner, stored };
        if let Err(reason) = fold(inner, &mut state, stored, &mut answers) {
            // Under the lock: a state of no position must never reach a checkpoint.
            inner.halt(stored.partition, Halt { position: Some(stored.position), reason });
            return;
        }
    }
    for (ticket, answer) in answers {
        ticket.answer(Ok(answer));
    }
    inner.meters.apply_seconds.record(began.elapsed().as_secs_f64());
}

/// Asks for a checkpoint when the notes of history fill their room. A replica that is still catching up waits for it:
/// nobody waits for its answers yet, and nothing of what it replays shall be missing from the index.
async fn make_room<L: EventLog>(inner: &Inner<L>, partition: Partition) {
    let slot = &inner.slots[partition.index()];
    loop {
        let mut taken = std::pin::pin!(inner.notes_taken.notified());
        taken.as_mut().enable();
        if slot.state.read().history.bytes() < PENDING_BYTES / 2 {
            return;
        }
        // A full disk gets no better by trying harder.
        if inner.checkpoint_failing.load(Ordering::Relaxed) {
            return;
        }
        inner.checkpoint_wanted.notify_one();
        if !inner.catching_up.load(Ordering::Relaxed) {
            return;
        }
        tokio::select! {
            () = taken => {}
            () = inner.closed() => return,
        }
    }
}

/// A partition has been read up to here, though its last frame stands before.
fn pass<L: EventLog>(inner: &Inner<L>, partition: Partition, position: Position) {
    let slot = &inner.slots[partition.index()];
    let mut state = slot.state.write();
    if slot.halted.get().is_none() && position > state.position {
        state.position = position;
    }
}

/// Stops the partition when the fold panics, still under its lock: a state of no position must never reach a checkpoint.
struct HaltOnPanic<'a, L: EventLog> {
    inner: &'a Inner<L>,
    stored: &'a StoredFrame,
}

impl<L: EventLog> Drop for HaltOnPanic<'_, L> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let halt = Halt { position: Some(self.stored.position), reason: "the fold panicked".into() };
            self.inner.halt(self.stored.partition, halt);
        }
    }
}

fn fold<L: EventLog>(
    inner: &Inner<L>,
    state: &mut Folded,
    stored: &StoredFrame,
    answers: &mut Vec<(EventTicket, Answer)>,
) -> Result<(), String> {
    let frame = Frame::decode(&stored.bytes).map_err(|error| describe(&error))?;
    if frame.header().partition != stored.partition {
        return Err(format!("the frame was made for partition {}", frame.header().partition));
    }
    if stored.position <= state.position {
        // Delivered again: its effect is in the state, and its place is before the state's.
        return Ok(());
    }
    let tickets = inner.appender.take_tickets(frame.header());
    let is_own = tickets.is_some();
    let mut tickets = tickets.unwrap_or_default().into_iter();
    // A reader knows the times of what it has read; a checkpoint may know a later one.
    let at = stored.at.max(state.at);
    match state.lineage.admit(frame.header(), frame.digest(), at) {
        Admit::New => {
            let place = Place::of(stored, at);
            // Whose profile cannot be told from events: how it is after the frame is kept.
            let mut whole: BTreeSet<(Box<str>, Box<str>)> = BTreeSet::new();
            for (number, bytes) in (0..).zip(frame.events()) {
                let event = Event::decode(bytes).map_err(|error| describe(&error))?;
                let outcome = state.fold.apply(at, &event);
                if let (Some(spool), Event::Visit(visit)) = (&inner.spool, &event) {
                    spool.applied(stored.partition, visit);
                }
                let Folded { fold, history, .. } = &mut *state;
                for (change, touched) in (0..).zip(fold.touched()) {
                    history.push(&place, number, change, touched);
                    if touched.what.is_whole() {
                        whole.insert((touched.client.clone(), touched.address.clone()));
                    }
                }
                if let Event::ClientSettings(settings) = &event {
                    history.push_settings(&place, number, settings.client, settings.lifetime_days);
                }
                match (tickets.next().flatten(), outcome) {
                    // Parked under the lock: its end cannot be applied before.
                    (Some(ticket), Outcome::Forwarded(saga)) if ticket.walks => inner.courier.park(saga, ticket),
                    (Some(ticket), outcome) => {
                        let answer = answer(&state.fold, at, &event, outcome, &ticket);
                        answers.push((ticket, answer));
                    }
                    (None, _) => {}
                }
                for done in state.fold.completed() {
                    if let Some(ticket) = inner.courier.unpark(done) {
                        let profile = rendered(&state.fold, at, &done.client, &done.home, &ticket);
                        answers.push((ticket, Answer { outcome: done.outcome.clone(), profile }));
                    }
                }
            }
            for (client, address) in whole {
                let image = state.fold.image(&client, &address).unwrap_or_default();
                state.history.push_image(&place, &client, &address, &image);
            }
            let stats = state.fold.links();
            inner.slots[stored.partition.index()].aliases.store(stats.aliases, Ordering::Release);
            if is_own && stats.outbox > 0 {
                inner.courier.wake(stored.partition);
            }
        }
        Admit::Seen => tracing::warn!(
            eventlog.partition = stored.partition.0,
            eventlog.position = stored.position.0,
            "a frame stands in the log twice; the copy is dropped"
        ),
        Admit::Hole { expected, found } => {
            return Err(format!("frames of an appender are missing: number {expected} should come, {found} came"));
        }
        Admit::BrokenDigest { expected, found } => {
            return Err(format!("a frame follows {found:016x}, but {expected:016x} came before it"));
        }
    }
    state.position = stored.position;
    state.at = at;
    Ok(())
}

fn answer(state: &PartitionState, at: LogTime, event: &Event<'_>, outcome: Outcome, ticket: &EventTicket) -> Answer {
    let told_again;
    let home = match (&outcome, event) {
        (Outcome::Visit(visit), Event::Visit(event)) => match &visit.first_tnt_id {
            Some(id) => {
                told_again = ["tnt:", id].concat();
                &told_again
            }
            None => event.home,
        },
        (_, Event::Update(event)) => event.address,
        _ => return Answer { outcome, profile: None },
    };
    let profile = rendered(state, at, event.client(), home, ticket);
    Answer { outcome, profile }
}

/// The profile that lives at `home`, if the ticket asks for it.
fn rendered(state: &PartitionState, at: LogTime, client: &str, home: &str, ticket: &EventTicket) -> Option<Vec<u8>> {
    let render = ticket.render?;
    let profile = state.profile(client, Address::from_canonical(home), at)?;
    let mut bytes = Vec::with_capacity(1024);
    render(client, &profile, &mut bytes);
    Some(bytes)
}

/// Why a partition that has stopped takes nothing.
pub(super) fn halted_text(partition: Partition, halt: &Halt) -> String {
    format!("partition {partition} has stopped: {halt}")
}
