//! From the spool into the log: the first visit of each visitor, again and again, until nothing is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cameo_eventlog::EventLog;
use cameo_profile::Event;

use super::Spool;
use crate::replica::{Replica, SubmitError};

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
            // An append of unknown outcome, of this process or the one before, may be in the log: then the replica comes
            // past it, and the visit leaves the spool. One that stopped says why elsewhere.
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
async fn give<L: EventLog>(spool: &Spool, replica: &Replica<L>, round: &[(u64, cameo_profile::Partition)]) -> bool {
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
        match answer {
            Ok(_) => {}
            Err(SubmitError::Unknown(why)) => {
                tracing::debug!(why, "what became of visits of the spool is not known; the log will tell");
                spool.doubt.store(true, Ordering::SeqCst);
                complete = false;
            }
            Err(error) => {
                tracing::debug!(%error, "the log does not take the spool's visits yet");
                complete = false;
            }
        }
    }
    complete
}
