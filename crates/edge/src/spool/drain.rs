//! From the spool into the log: the first visit of each visitor, again and again, until nothing is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cameo_eventlog::EventLog;
use cameo_profile::{Event, Partition};

use super::Spool;
use crate::replica::Replica;

/// Visits given to the log at a time: some frames of each partition.
const ROUND: usize = 2000;
/// Pause after a log that did not take all of them.
const AGAIN: Duration = Duration::from_millis(500);

/// Drains for as long as it is polled. Dropped at any moment, it leaves what is not applied in the spool.
pub(crate) async fn drain<L: EventLog>(spool: Arc<Spool>, replica: Arc<Replica<L>>) {
    loop {
        if spool.level().visits == 0 {
            spool.filled.notified().await;
            continue;
        }
        if spool.doubt.swap(false, Ordering::SeqCst) {
            // The log may have one of the visits: of an append that was never answered, also of the process before, or of
            // another node that its caller turned to. Then the replica comes past it, and the visit leaves the spool. A
            // partition that has stopped says why elsewhere.
            if !replica.catch_up_afresh().await {
                spool.doubt.store(true, Ordering::SeqCst);
                tokio::time::sleep(AGAIN).await;
            }
            continue;
        }
        let round = spool.round(ROUND);
        // Whoever came in doubt meanwhile may be among them.
        if spool.doubt.load(Ordering::SeqCst) {
            continue;
        }
        if !give(&spool, &replica, &round).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether all of them are applied.
async fn give<L: EventLog>(spool: &Spool, replica: &Replica<L>, round: &[(u64, Partition)]) -> bool {
    let mut call = replica.start_call(round.len());
    let mut complete = true;
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
        }
    }
    for answer in call.wait().await {
        if let Err(error) = answer {
            // Also when this one is certainly not stored: a log that was away may have the same event from another node.
            tracing::debug!(%error, "the log did not take a visit of the spool");
            spool.doubt.store(true, Ordering::SeqCst);
            complete = false;
        }
    }
    complete
}
