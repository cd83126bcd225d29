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
pub(crate) fn of<L: Ledger>(
    ledger: &L,
    running: &Running,
    alone: bool,
    client: &ClientCode,
    head: BatchHead,
) -> Result<Status, LedgerError> {
    // Asked for first: if it ends in between, the counters have what it did.
    let under_way = running.has(client, &head.batch);
    let counted = sum(&ledger.parts(client.as_str(), &head.batch)?);
    let stage = if under_way {
        Stage::Incomplete
    } else if counted.consumed() >= u64::from(head.rows_to_apply) {
        Stage::Complete
    } else if alone || ledger.now().ms().saturating_sub(counted.last_change.max(head.opened_at)) >= SILENCE_MS {
        Stage::Stuck
    } else {
        Stage::Incomplete
    };
    Ok(Status { head, counted, stage })
}
