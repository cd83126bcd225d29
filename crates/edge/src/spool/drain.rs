//! From the spool into the log: the first visit of each visitor, again and again, until nothing is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo_eventlog::EventLog;
use cameo_profile::{Event, Partition, Position};

use super::Spool;
use crate::replica::Replica;

/// Visits given to the log at a time: some frames of each partition.
const ROUND: usize = 2000;
/// Pause after a log that did not take all of them.
const AGAIN: Duration = Duration::from_millis(500);
/// How often partitions that cannot go on yet are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What is known of the log of a partition. It may have one of the spool's visits: of an append that was never answered,
/// also of the process before, or of another node that its caller turned to. Once the replica has come past its end, as
/// the log itself tells it afterwards, such a visit has left the spool.
#[derive(Clone, Copy)]
enum Known {
    /// What is in the spool is not in the log.
    All,
    /// To be heard from after this moment.
    NothingSince(Instant),
    /// Heard from: to be applied up to its end.
    Upto(Position),
}

/// Drains for as long as it is polled. Dropped at any moment, it leaves what is not applied in the spool.
pub(crate) async fn drain<L: EventLog>(spool: Arc<Spool>, replica: Arc<Replica<L>>) {
    let mut known = vec![Known::All; usize::from(replica.partitions().get())];
    loop {
        if spool.level().visits == 0 {
            spool.filled.notified().await;
            continue;
        }
        let partitions = replica.partitions().iter().zip(&mut known);
        let ready: Vec<_> = partitions.map(|(partition, known)| is_ready(&spool, &replica, partition, known)).collect();
        if !ready.contains(&true) {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let mut round = spool.round(ROUND, &ready);
        // Whoever came in doubt meanwhile may be among them.
        round.retain(|(_, partition)| !spool.doubts(*partition));
        if !give(&spool, &replica, &round).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether a partition's visits can go into the log now.
fn is_ready<L: EventLog>(spool: &Spool, replica: &Replica<L>, partition: Partition, known: &mut Known) -> bool {
    // One that has stopped says why elsewhere.
    if !spool.holds(partition) || replica.has_stopped(partition) {
        return false;
    }
    if spool.take_doubt(partition) {
        *known = Known::NothingSince(Instant::now());
    }
    if let Known::NothingSince(asked) = *known {
        let elapsed = asked.elapsed();
        if replica.silence_of(partition) < elapsed {
            *known = Known::Upto(replica.log().last(partition));
        }
    }
    if let Known::Upto(end) = *known
        && replica.has_applied(partition, end)
    {
        *known = Known::All;
    }
    matches!(known, Known::All)
}

/// Whether all of them are applied.
async fn give<L: EventLog>(spool: &Spool, replica: &Replica<L>, round: &[(u64, Partition)]) -> bool {
    let mut call = replica.start_call(round.len());
    let (mut complete, mut given) = (true, Vec::with_capacity(round.len()));
    for (seq, partition) in round {
        let record = match spool.store.get(*seq) {
            // It is being written at this moment.
            Ok(None) => {
                complete = false;
                continue;
            }
            Ok(Some(record)) => record,
            Err(error) => {
                tracing::error!(%error, "the spool cannot be read; trying again");
                return false;
            }
        };
        // It was read when it was put, or when the spool was opened.
        if let Ok(event) = Event::decode(&record.bytes) {
            call.add(*partition, &event, None);
            given.push(*partition);
        }
    }
    for (answer, partition) in call.wait().await.into_iter().zip(given) {
        if let Err(error) = answer {
            // Also when this one is certainly not stored: a log that was away may have the same event from another node.
            tracing::debug!(%error, "the log did not take a visit of the spool");
            spool.doubt(partition);
            complete = false;
        }
    }
    complete
}
