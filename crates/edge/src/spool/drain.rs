//! From the spool into the log: of each partition the first visits, a frame at a time, until nothing is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo_eventlog::EventLog;
use cameo_profile::{Partition, Position};
use futures_util::future::join_all;

use super::Spool;
use crate::replica::Replica;

/// Pause after a log that did not take all of them.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a partition that cannot go on yet is looked at.
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
    join_all(replica.partitions().iter().map(|partition| drain_one(&spool, &replica, partition))).await;
}

/// One partition does not wait for the log of another, which may have no leader or no quorum, before as much is on its way
/// there as an outbox takes.
async fn drain_one<L: EventLog>(spool: &Arc<Spool>, replica: &Replica<L>, partition: Partition) {
    let mut known = Known::All;
    loop {
        if !spool.holds(partition) {
            spool.filled[partition.index()].notified().await;
            continue;
        }
        if !is_ready(spool, replica, partition, &mut known) {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        // They are read from the disk.
        let reading = Arc::clone(spool);
        let visits = match tokio::task::spawn_blocking(move || reading.next(partition)).await {
            Ok(Ok(visits)) => visits,
            Ok(Err(error)) => {
                tracing::error!(%error, "the spool cannot be read; trying again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            // The runtime ends.
            Err(_) => return,
        };
        // None, while the first one is being written; and what goes on to profiles elsewhere waits there for room.
        if visits.is_empty() || replica.takes_links(partition).is_err() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        // Whoever came in doubt meanwhile may be among them.
        if spool.doubts(partition) {
            continue;
        }
        if let Some(error) = replica.submit_together(partition, visits).await.into_iter().find_map(Result::err) {
            // Also when they are certainly not stored: a log that was away may have the same event from another node.
            tracing::debug!(%error, "the log did not take visits of the spool");
            spool.doubt(partition);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether a partition's visits can go into the log now.
fn is_ready<L: EventLog>(spool: &Spool, replica: &Replica<L>, partition: Partition, known: &mut Known) -> bool {
    // One that has stopped says why elsewhere.
    if replica.has_stopped(partition) {
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
