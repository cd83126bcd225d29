//! One request that waits for its events to be applied: a slot for each answer, and one wake-up for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cameo_eventlog::{AppendError, EventLog, Ticket};
use cameo_profile::view::ProfileRef;
use cameo_profile::{Event, Outcome, Partition};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Inner, SubmitError};

/// Writes a profile into a reply, right after the event was applied: client code, profile, where to.
pub type Render = fn(&str, &ProfileRef<'_>, &mut Vec<u8>);

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// By the fold.
    pub outcome: Outcome,
    /// The profile after the event, if it was asked for and exists.
    pub profile: Option<Vec<u8>>,
}

/// An event that is not known to have been applied.
pub type AnswerResult = Result<Answer, AppendError>;

/// Shared by the events of a request.
#[derive(Debug)]
pub(super) struct Call {
    answers: Mutex<Vec<Option<AnswerResult>>>,
    left: AtomicUsize,
    done: Notify,
}

impl Call {
    pub(super) fn new(events: usize) -> Arc<Self> {
        let answers = Mutex::new(vec![None; events]);
        Arc::new(Self { answers, left: AtomicUsize::new(events), done: Notify::new() })
    }

    fn answer(&self, slot: usize, answer: AnswerResult) {
        self.answers.lock()[slot] = Some(answer);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// Waits for all answers; they stand in the order of the slots.
    pub(super) async fn wait(&self) -> Vec<AnswerResult> {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
        let lost = || Err(AppendError::Unknown("the replica lost track of the event".into()));
        std::mem::take(&mut *self.answers.lock()).into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }
}

/// One event's place in a [`Call`]. Dropped without an answer, it fails with an unknown outcome: nobody waits for ever.
#[derive(Debug)]
pub(super) struct EventTicket {
    call: Option<Arc<Call>>,
    slot: usize,
    pub(super) render: Option<Render>,
    /// An event that goes on to another partition is answered at the end of its walk.
    pub(super) walks: bool,
}

impl EventTicket {
    pub(super) fn new(call: &Arc<Call>, slot: usize, render: Option<Render>) -> Self {
        Self { call: Some(Arc::clone(call)), slot, render, walks: true }
    }

    /// Answered when the partition that it was appended to has applied it, wherever it goes on to.
    pub(super) fn of_partition(call: &Arc<Call>, slot: usize) -> Self {
        Self { call: Some(Arc::clone(call)), slot, render: None, walks: false }
    }

    pub(super) fn answer(mut self, answer: AnswerResult) {
        if let Some(call) = self.call.take() {
            call.answer(self.slot, answer);
        }
    }
}

impl Drop for EventTicket {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.answer(self.slot, Err(AppendError::Unknown("the replica stopped before applying it".into())));
        }
    }
}

impl Ticket for EventTicket {
    fn fail(self, error: &AppendError) {
        self.answer(Err(error.clone()));
    }
}

/// Events of one request on their way.
pub struct PendingCall<L: EventLog> {
    inner: Arc<Inner<L>>,
    call: Arc<Call>,
    /// Why an event was not even taken, by slot.
    refused: Vec<Option<SubmitError>>,
    added: usize,
}

impl<L: EventLog> PendingCall<L> {
    pub(super) fn new(inner: Arc<Inner<L>>, events: usize) -> Self {
        Self { inner, call: Call::new(events), refused: vec![None; events], added: 0 }
    }

    /// Encodes an event into its partition's next frame. Answers come in the order of the calls.
    pub fn add(&mut self, partition: Partition, event: &Event<'_>, render: Option<Render>) {
        let ticket = EventTicket::new(&self.call, self.added, render);
        self.put(partition, event, ticket);
    }

    /// As [`Self::add`]; of one that goes on to other partitions nobody waits for the end.
    pub(crate) fn add_at_entry(&mut self, partition: Partition, event: &Event<'_>) {
        let ticket = EventTicket::of_partition(&self.call, self.added);
        self.put(partition, event, ticket);
    }

    fn put(&mut self, partition: Partition, event: &Event<'_>, ticket: EventTicket) {
        let slot = self.added;
        self.added += 1;
        let refused = match self.inner.check(partition) {
            Err(error) => Some((error, ticket)),
            Ok(()) => {
                let submitted = self.inner.appender.submit(partition, |out| event.encode(out), Some(ticket));
                submitted.err().and_then(|(error, ticket)| Some((error.into(), ticket?)))
            }
        };
        if let Some((error, ticket)) = refused {
            self.refused[slot] = Some(error);
            ticket.answer(Err(AppendError::Unavailable("refused".into())));
        }
    }

    /// Leaves a slot to an event that does not go to the log: it is answered as one that was not stored.
    pub(crate) fn skip(&mut self) {
        let slot = self.added;
        self.added += 1;
        self.refused[slot] = Some(SubmitError::Unavailable("earlier visits wait in the spool".into()));
        EventTicket::new(&self.call, slot, None).answer(Err(AppendError::Unavailable("in the spool".into())));
    }

    /// Waits until every event has been applied or refused.
    pub async fn wait(mut self) -> Vec<Result<Answer, SubmitError>> {
        for slot in self.added..self.refused.len() {
            EventTicket::new(&self.call, slot, None).answer(Err(AppendError::Unavailable("never added".into())));
        }
        let answers = self.call.wait().await;
        let refused = self.refused.drain(..);
        answers
            .into_iter()
            .zip(refused)
            .map(|(answer, refused)| refused.map_or(answer.map_err(Into::into), Err))
            .collect()
    }
}
