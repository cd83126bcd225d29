//! Visits from NATS producers: `cameo.visits.{client}`, a work queue that the edges drain into the log.
//!
//! A message goes when its visit is in the log and has been applied where it enters: what it links is carried on from there. What
//! an edge took and did not finish comes again, to any edge; its event id (the visit's own, else the message's id, else its
//! place in the queue) makes it count once. Partitions remember an id for an hour of log time ([`cameo_profile::limits::EVENT_ID_WINDOW_MS`]), and
//! [`cameo_profile::limits::EVENT_IDS_REMEMBERED`] of them at most. So a message may count twice that was applied and comes again
//! later than that: one whose acknowledgement an outage of over an hour has swallowed (at most `AT_ONCE` an edge), and one
//! that its producer sends again after such an outage, as NATS itself remembers ids for `DUPLICATE_WINDOW` only.

use std::sync::Arc;
use std::time::Duration;

use cameo_edge::{Edge, NotTaken};
use cameo_eventlog::EventLog;
use cameo_nats::stream::StreamSpec;
use cameo_nats::{Handled, Nats, Queued, RequestError};
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

/// Messages that an edge has under way.
const AT_ONCE: usize = 512;
/// It asks for more as soon as it has room for so many: some that take long do not keep it from the rest.
const ROOM: usize = AT_ONCE / 8;
/// How long an edge waits at the queue before it asks again.
const WAIT: Duration = Duration::from_secs(5);
/// After so long without a word a message is given to another edge: longer than an append is tried (10 s).
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a message is put off that cannot be applied now: at first, and at most. Each time it is twice as long, so those
/// that wait for a partition that has stopped do not take the edges' time, and one that waited for little waits little more.
const PUT_OFF: Duration = Duration::from_secs(1);
const PUT_OFF_LONGEST: Duration = Duration::from_secs(300);
/// The queue holds one message for so many of its bytes at most, and all of them may be put off at a time. So those of a
/// partition that has stopped never keep others from being given out: when they have filled the queue, who publishes is
/// told. NATS remembers each that is put off in memory, about a hundred bytes of it.
const BYTES_OF_MESSAGE: i64 = 1024;
/// How long NATS remembers the id of a message: a producer may send it again meanwhile.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);
/// The queue, from which all edges take.
const QUEUE: &str = "edges";

/// The stream of the queue.
pub(super) fn stream(name: &str) -> String {
    format!("{}_VISITS", name.to_uppercase())
}

/// Makes the stream and its queue, or gives those that are there these bounds.
pub(super) async fn create(nats: &Nats, name: &str, replicas: usize, max_bytes: i64) -> Result<(), RequestError> {
    let max_messages = (max_bytes / BYTES_OF_MESSAGE).max(1);
    let spec = StreamSpec {
        name: stream(name),
        subjects: vec![format!("{name}.visits.*")],
        replicas,
        max_bytes,
        max_messages,
        per_subject: -1,
        duplicate_window: DUPLICATE_WINDOW,
        work_queue: true,
        republish: None,
        metadata: Default::default(),
    };
    nats.ensure_stream(&spec).await?;
    nats.ensure_queue(&spec.name, QUEUE, ACK_WAIT, max_messages).await
}

/// Drains the queue for as long as the process runs.
pub(super) async fn drain<L: EventLog>(nats: Nats, name: &'static str, edge: Arc<Edge<L>>) {
    let stream = stream(name);
    let ask = |room, pause| {
        let (nats, stream) = (&nats, &stream);
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            nats.take(stream, QUEUE, room, WAIT).await
        })
    };
    let (mut failing, mut under_way) = (false, FuturesUnordered::new());
    // Not dropped before it is answered: what it was to bring would come again much later.
    let mut asked = Some(ask(AT_ONCE, Duration::ZERO));
    loop {
        let taken = tokio::select! {
            Some(()) = under_way.next() => None,
            Some(taken) = OptionFuture::from(asked.as_mut()) => Some(taken),
        };
        if let Some(taken) = taken {
            asked = None;
            match taken {
                Ok(messages) => {
                    failing = false;
                    under_way.extend(messages.into_iter().map(|message| Box::pin(handle(&nats, &edge, message))));
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "visits of NATS producers cannot be taken; trying again");
                    }
                }
            }
        }
        let room = AT_ONCE - under_way.len();
        if asked.is_none() && room >= ROOM {
            asked = Some(ask(room, if failing { PUT_OFF } else { Duration::ZERO }));
        }
    }
}

/// For how long a message is put off that was given out so often.
fn put_off(delivered: u64) -> Duration {
    let doublings = u32::try_from(delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    PUT_OFF.saturating_mul(2_u32.saturating_pow(doublings)).min(PUT_OFF_LONGEST)
}

async fn handle<L: EventLog>(nats: &Nats, edge: &Edge<L>, message: Queued) {
    let client = message.subject.rsplit('.').next().unwrap_or_default();
    let place = format!("nats-{}", message.seq);
    let event_id = message.id.as_deref().unwrap_or(&place);
    match edge.take_visit(client, event_id, &message.payload).await {
        Ok(()) => message.handled(nats, Handled::Done).await,
        Err(NotTaken::Refused(refusal)) => {
            // Nobody waits for an answer: it is said here, and counted with the visits that were refused.
            let why: String = refusal.message.chars().filter(|c| !c.is_control()).take(200).collect();
            tracing::warn!(nats.subject = message.subject, nats.seq = message.seq, why, "a visit was refused");
            message.handled(nats, Handled::Never(&why)).await;
        }
        Err(NotTaken::Later(error)) => {
            tracing::debug!(%error, "a visit is put off");
            message.handled(nats, Handled::Later(put_off(message.delivered))).await;
        }
    }
}

#[cfg(test)]
mod tests;
