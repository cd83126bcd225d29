//! What the gateway needs of the log and of its folded state. The binary implements it over the edge's replica.

use std::future::Future;

use cameo_profile::state::{BatchHead, BatchPart, RowErrorOwned};
use cameo_profile::{Event, LogTime, Outcome, Partition, PartitionCount, PartitionState};

/// Why an event was not applied, or a state not read; by what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Too much is under way. Nothing was stored.
    #[error("too much is waiting to be stored; try again in a moment")]
    Full,
    /// The disk is full. Nothing was stored.
    #[error("the storage is full; nothing was stored, and it works again when there is room")]
    StorageFull,
    /// The log or the state is not there. Nothing was stored.
    #[error("nothing was stored: {0}")]
    Unavailable(String),
    /// Nobody knows whether it was stored.
    #[error("the outcome is unknown ({0})")]
    Unknown(String),
}

/// The log with the state it folds to.
pub trait Ledger: Send + Sync + 'static {
    /// P.
    fn partitions(&self) -> PartitionCount;

    /// What the log would stamp now.
    fn now(&self) -> LogTime;

    /// Encodes the event and hands it to the log before it returns; events of one partition keep the order of the
    /// calls. The future is done when the event has been applied to the state that [`Self::read`] reads; it need not
    /// be polled for that.
    fn append(
        &self,
        partition: Partition,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + 'static + use<Self>;

    /// Reads a partition as it is now.
    ///
    /// # Errors
    /// When its state cannot be read.
    fn read<R>(&self, partition: Partition, read: impl FnOnce(&PartitionState, LogTime) -> R)
    -> Result<R, LedgerError>;

    /// The head of a batch. It may live in any partition, as the batch may have had a key.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn head(&self, client: &str, batch: &str) -> Result<Option<BatchHead>, LedgerError> {
        for partition in self.partitions().iter() {
            if let Some(head) = self.read(partition, |state, _| state.batch_head(client, batch).cloned())? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// The batch that has an idempotency key; `partition` is that of the key.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn head_by_key(&self, partition: Partition, client: &str, key: &str) -> Result<Option<BatchHead>, LedgerError> {
        self.read(partition, |state, _| state.batch_head_by_key(client, key).cloned())
    }

    /// All batches of a client, in no order.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn heads(&self, client: &str) -> Result<Vec<BatchHead>, LedgerError> {
        let mut heads = Vec::new();
        for partition in self.partitions().iter() {
            self.read(partition, |state, _| heads.extend(state.batch_heads(client).cloned()))?;
        }
        Ok(heads)
    }

    /// What each partition counted for a batch, in the order of the partitions.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn parts(&self, client: &str, batch: &str) -> Result<Vec<BatchPart>, LedgerError> {
        let part = |partition| self.read(partition, |state, _| state.batch_part(client, batch).unwrap_or_default());
        self.partitions().iter().map(part).collect()
    }

    /// The failed rows of a batch by line, and whether there were more.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn errors(&self, client: &str, batch: &str) -> Result<(Vec<RowErrorOwned>, bool), LedgerError> {
        let (mut errors, mut more) = (Vec::new(), false);
        for partition in self.partitions().iter() {
            self.read(partition, |state, _| {
                let (some, incomplete) = state.batch_errors(client, batch);
                errors.extend_from_slice(some);
                more |= incomplete;
            })?;
        }
        errors.sort_unstable();
        Ok((errors, more))
    }
}
