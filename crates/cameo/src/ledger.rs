//! The gateway's ledger over the replica: how bulk files reach the log when all roles are one process.

use std::sync::Arc;

use cameo_edge::{Replica, SubmitError};
use cameo_eventlog::EmbeddedLog;
use cameo_gateway::{Ledger, LedgerError};
use cameo_profile::{Event, LogTime, Outcome, Partition, PartitionCount, PartitionState};

/// A replica, as the gateway sees it.
pub(crate) struct ReplicaLedger(pub(crate) Arc<Replica<EmbeddedLog>>);

fn convert(error: SubmitError) -> LedgerError {
    match error {
        SubmitError::Busy => LedgerError::Full,
        SubmitError::StorageFull => LedgerError::StorageFull,
        SubmitError::Unavailable(why) => LedgerError::Unavailable(why),
        SubmitError::Unknown(why) => LedgerError::Unknown(why),
        // The gateway's chunks are far below the log's limit.
        too_large @ SubmitError::TooLarge { .. } => LedgerError::Unavailable(too_large.to_string()),
    }
}

impl Ledger for ReplicaLedger {
    fn partitions(&self) -> PartitionCount {
        self.0.partitions()
    }

    fn now(&self) -> LogTime {
        self.0.now()
    }

    fn append(
        &self,
        partition: Partition,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + 'static + use<> {
        let mut call = self.0.start_call(1);
        call.add(partition, event, None);
        async move {
            let answer = call.wait().await.pop();
            let answer = answer.unwrap_or_else(|| Err(SubmitError::Unknown("no answer".into())));
            answer.map(|answer| answer.outcome).map_err(convert)
        }
    }

    fn read<R>(
        &self,
        partition: Partition,
        read: impl FnOnce(&PartitionState, LogTime) -> R,
    ) -> Result<R, LedgerError> {
        self.0.read(partition, read).map_err(convert)
    }
}
