//! One request that waits for its events to be applied: a slot for each answer, and one wake-up for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cameo_eventlog::{AppendError, Ticket};
use cameo_profile::Outcome;
use cameo_profile::view::ProfileRef;
use parking_lot::Mutex;
use tokio::sync::Notify;

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
}

impl EventTicket {
    pub(super) fn new(call: &Arc<Call>, slot: usize, render: Option<Render>) -> Self {
        Self { call: Some(Arc::clone(call)), slot, render }
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
