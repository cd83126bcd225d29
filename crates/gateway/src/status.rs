//! How far a batch is: what its head says and what the partitions counted, added up.

use cameo_profile::ClientCode;
use cameo_profile::state::{BatchHead, BatchPart};

use crate::ledger::{Ledger, LedgerError};
use crate::submit::Running;

/// How long a batch that another gateway submits may make no progress before it reads as stuck, in ms of log time.
/// Ours: longer than any pause between attempts.
const SILENCE_MS: u64 = 60_000;

/// Where a batch stands (TARGET_API §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Every row has been applied.
    Complete,
    /// Rows are on their way.
    Incomplete,
    /// Rows are missing and nobody is bringing them; the same upload with its key does.
    Stuck,
}

impl Stage {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Stuck => "stuck",
        }
    }
}

/// A batch with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) head: BatchHead,
    pub(crate) counted: BatchPart,
    pub(crate) stage: Stage,
}

impl Status {
    /// Rows that are dealt with, whatever became of them.
    pub(crate) fn consumed(&self) -> u64 {
        self.counted.consumed() + u64::from(self.head.rows_failed) + u64::from(self.head.rows_skipped)
    }

    /// Rows that failed validation or that a profile could not take.
    pub(crate) fn failed(&self) -> u64 {
        self.counted.failed + u64::from(self.head.rows_failed)
    }
}

/// Adds up what the partitions counted; the last change is the latest.
pub(crate) fn sum(parts: &[BatchPart]) -> BatchPart {
    parts.iter().fold(BatchPart::default(), |sum, part| BatchPart {
        high_line: sum.high_line.max(part.high_line),
        updated: sum.updated + part.updated,
        created: sum.created + part.created,
        not_found: sum.not_found + part.not_found,
        failed: sum.failed + part.failed,
        last_change: sum.last_change.max(part.last_change),
    })
}

/// Reads the counters of a batch. `alone`: no other gateway could be submitting it.
pub(crate) async fn of<L: Ledger>(
    ledger: &L,
    running: &Running,
    alone: bool,
    client: &ClientCode,
    head: BatchHead,
) -> Result<Status, LedgerError> {
    if let Some(closed) = head.closed {
        // The partitions may have forgotten their rows by now.
        return Ok(Status { head, counted: closed, stage: Stage::Complete });
    }
    // Asked for first: if it ends in between, the counters have what it did.
    let under_way = running.has(client, &head.batch);
    let counted = sum(&ledger.parts(client.as_str(), &head.batch).await?);
    let applied = counted.consumed() >= u64::from(head.rows_to_apply);
    // Failed rows go ahead of all others, so they are in the log once a row has been applied.
    let reported = head.rows_to_apply > 0 || head.rows_failed == 0;
    // Also while somebody is still bringing the closing word: what was complete does not turn incomplete again.
    let stage = if applied && (reported || !under_way) {
        Stage::Complete
    } else if under_way {
        Stage::Incomplete
    } else if alone || ledger.now().ms().saturating_sub(counted.last_change.max(head.opened_at)) >= SILENCE_MS {
        Stage::Stuck
    } else {
        Stage::Incomplete
    };
    Ok(Status { head, counted, stage })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[tokio::test]
    async fn a_closed_batch_is_complete_whatever_the_partitions_have_forgotten() {
        let ledger = Fake::new(4);
        let client = ClientCode::new("demo").unwrap();
        let closed = BatchPart { updated: 7, created: 2, not_found: 1, failed: 1, ..BatchPart::default() };
        let head = |closed| BatchHead {
            batch: "demo-1-a".into(),
            idempotency_key: None,
            digest: [0; 16],
            api_version: 1,
            opened_by: "gone".into(),
            opened_at: 1,
            rows: 10,
            rows_to_apply: 9,
            rows_failed: 1,
            rows_skipped: 0,
            closed,
        };
        let running = Running::default();
        let read = async |closed| of(&*ledger, &running, true, &client, head(closed)).await.unwrap();
        assert_eq!(read(None).await.stage, Stage::Stuck);
        let complete = read(Some(closed)).await;
        assert_eq!((complete.stage, complete.consumed(), complete.failed()), (Stage::Complete, 10, 2));
        // Also while the same file is being sent once more.
        let running = Running::default();
        let _turn = running.begin(&client, "demo-1-a").unwrap();
        let again = of(&*ledger, &running, true, &client, head(Some(closed))).await.unwrap();
        assert_eq!(again.stage, Stage::Complete);
    }
}
