//! Visits that come one by one by another way than a request: those of NATS producers.
//!
//! Many are under way at once and nobody waits for a single one, so those that a part of the log does not answer must not
//! take the places of all others: each lane of the log has its share.

use std::time::Duration;

use cameo_eventlog::EventLog;
use cameo_http::Refusal;
use cameo_profile::{Outcome, Partition};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::decode::{Encoding, decode};
use super::{App, Text, is_passing, place, with_event};
use crate::replica::SubmitError;

/// Visits under way in one lane. Ours: the four lanes of a cluster take as many together as an edge takes from the queue, and
/// one is a frame or two.
const LANE_VISITS: usize = 128;
/// How long a visit waits for a place in its lane: one that answers has many free by then.
const PLACE_WITHIN: Duration = Duration::from_millis(250);

/// Why a visit that came by another way than a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It never can be.
    Refused(Refusal),
    /// It may be stored, or not: to be given again, under the same event id.
    Later(SubmitError),
}

/// The places of each lane of the log.
pub(crate) struct Lanes(Vec<Semaphore>);

impl Lanes {
    pub(crate) fn of(log: &impl EventLog) -> Self {
        Self((0..log.lanes()).map(|_| Semaphore::new(LANE_VISITS)).collect())
    }

    /// A place in the lane of a partition, unless there is none for a while.
    async fn enter(&self, log: &impl EventLog, partition: Partition) -> Result<SemaphorePermit<'_>, SubmitError> {
        let place = tokio::time::timeout(PLACE_WITHIN, self.0[log.lane(partition)].acquire()).await;
        // Nobody closes them.
        place.ok().and_then(Result::ok).ok_or(SubmitError::Busy)
    }
}

/// Takes one visit of a NATS producer, who has proven to the NATS servers who it is, so ids need no signature; as JSON or
/// MessagePack; one without an event id gets this one. Done when it has been applied where it enters: from there the log
/// carries it on.
pub(crate) async fn take_one<L: EventLog>(
    app: &App<L>,
    client: &str,
    event_id: &str,
    bytes: &[u8],
) -> Result<(), NotTaken> {
    let taken = take(app, client, event_id, bytes).await;
    match &taken {
        Ok(()) => {}
        Err(NotTaken::Refused(_)) => app.meters.visits_refused.increment(1),
        Err(NotTaken::Later(_)) => app.meters.visits_failed.increment(1),
    }
    taken
}

async fn take<L: EventLog>(app: &App<L>, client: &str, event_id: &str, bytes: &[u8]) -> Result<(), NotTaken> {
    let client = app.client(client)?;
    if client.record.disabled {
        return Err(Refusal::new(403, "the client is disabled").into());
    }
    let decoded = decode(Encoding::of(None, bytes), bytes)?;
    let (true, Some(visit)) = (decoded.single, decoded.visits.into_iter().next()) else {
        return Err(Refusal::new(400, "a message has one visit, not a list").into());
    };
    let mut visit = visit?;
    visit.event_id.get_or_insert_with(|| Text(event_id.into()));
    let place = || place(app, &client.code, &visit, app.replica.now().0);
    let lane = place()?.way.partition;
    let _place = app.lanes.enter(app.replica.log(), lane).await?;
    // Again, as links may have been made meanwhile.
    let placed = place()?;
    let mut call = app.replica.start_call(1);
    with_event(&client.code, &visit, &placed, None, |event| call.add_at_entry(placed.way.partition, event));
    let answer = call.wait().await.pop().unwrap_or_else(|| Err(SubmitError::Unknown("no answer".into())))?;
    match answer.outcome {
        Outcome::Visit(visit) if visit.duplicate => app.meters.visits_duplicate.increment(1),
        _ => app.meters.visits_accepted.increment(1),
    }
    Ok(())
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        if is_passing(&refusal) {
            return Self::Later(SubmitError::Unavailable(refusal.message.into_owned()));
        }
        Self::Refused(refusal)
    }
}

impl From<SubmitError> for NotTaken {
    fn from(error: SubmitError) -> Self {
        match error {
            // Whoever gives it again gives the same.
            error @ SubmitError::TooLarge { .. } => Self::Refused(error.into()),
            error => Self::Later(error),
        }
    }
}
