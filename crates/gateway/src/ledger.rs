//! What the gateway needs of the log and of its folded state. The binary implements it over the replica of the same process,
//! or over the edges of a cluster: a gateway has no profiles in memory.

use std::future::Future;
use std::iter::Peekable;

use cameo_profile::state::{BatchHead, BatchPart, RowErrorOwned};
use cameo_profile::{Event, LogTime, Outcome, Partition, PartitionCount, PartitionState};
use serde::{Deserialize, Serialize};

use crate::bounds;

/// Why an event was not applied, or a state not read; by what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
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
    /// Who was asked takes it no more, another may. Nothing was stored.
    #[error("nothing was stored: {0}")]
    Elsewhere(String),
    /// Nobody knows whether it was stored.
    #[error("the outcome is unknown ({0})")]
    Unknown(String),
}

/// Something to know of a client's batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The head of a batch. It may live in any partition, as the batch may have had a key.
    Head {
        /// Which.
        batch: Box<str>,
    },
    /// The batch that has an idempotency key.
    HeadByKey {
        /// The key's.
        partition: Partition,
        /// The key.
        key: Box<str>,
    },
    /// Batches whose head is in a partition, by their ids: as many as an answer holds.
    Heads {
        /// Which.
        partition: Partition,
        /// Only those after this id; empty: from the first.
        after: Box<str>,
    },
    /// What each partition counted for a batch, in the order of the partitions.
    Parts {
        /// Which.
        batch: Box<str>,
    },
    /// Failed rows of a batch in a partition, in the order in which they were added: as many as an answer holds.
    Errors {
        /// Which.
        partition: Partition,
        /// Which.
        batch: Box<str>,
        /// How many of them are known already.
        skip: u32,
    },
    /// The highest line among the failed rows of a batch.
    LastError {
        /// Which.
        batch: Box<str>,
    },
}

/// What is known; each question has its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    /// Of [`Question::Head`] and [`Question::HeadByKey`].
    Head(Option<BatchHead>),
    /// Of [`Question::Heads`], and whether others follow.
    Heads(Vec<BatchHead>, bool),
    /// Of [`Question::Parts`].
    Parts(Vec<BatchPart>),
    /// Of [`Question::Errors`].
    Errors {
        /// In their order.
        errors: Vec<RowErrorOwned>,
        /// Others follow.
        more: bool,
        /// The partition has dropped some.
        dropped: bool,
    },
    /// Of [`Question::LastError`]; 0 when there is none.
    Line(u32),
}

/// Folded partitions that can be read here and now.
pub trait Folded {
    /// P.
    fn count(&self) -> PartitionCount;

    /// Reads a partition as it is now.
    ///
    /// # Errors
    /// When its state cannot be read.
    fn read<R>(&self, partition: Partition, read: impl FnOnce(&PartitionState, LogTime) -> R)
    -> Result<R, LedgerError>;
}

impl Question {
    /// Looks it up.
    ///
    /// # Errors
    /// When a partition cannot be read.
    pub fn look_up(&self, client: &str, folded: &impl Folded) -> Result<Known, LedgerError> {
        match self {
            Self::Head { batch } => {
                let mut unread = None;
                for partition in folded.count().iter() {
                    match folded.read(partition, |state, _| state.batch_head(client, batch).cloned()) {
                        Ok(None) => {}
                        Ok(head) => return Ok(Known::Head(head)),
                        Err(error) => unread = Some(error),
                    }
                }
                // It may be in the one that cannot be read.
                unread.map_or(Ok(Known::Head(None)), Err)
            }
            Self::HeadByKey { partition, key } => {
                let head = folded.read(*partition, |state, _| state.batch_head_by_key(client, key).cloned());
                head.map(Known::Head)
            }
            Self::Heads { partition, after } => folded.read(*partition, |state, _| {
                let mut heads = state.batch_heads(client).filter(|head| *head.batch > **after).peekable();
                Known::Heads(page(&mut heads, head_bytes), heads.peek().is_some())
            }),
            Self::Parts { batch } => {
                let part = |p| folded.read(p, |state, _| state.batch_part(client, batch).unwrap_or_default());
                folded.count().iter().map(part).collect::<Result<_, _>>().map(Known::Parts)
            }
            Self::Errors { partition, batch, skip } => folded.read(*partition, |state, _| {
                let (errors, dropped) = state.batch_errors(client, batch);
                let mut errors = errors.iter().skip(*skip as usize).peekable();
                Known::Errors { errors: page(&mut errors, error_bytes), more: errors.peek().is_some(), dropped }
            }),
            Self::LastError { batch } => {
                let last = |p| {
                    folded.read(p, |state, _| state.batch_errors(client, batch).0.iter().map(|error| error.line).max())
                };
                let lines = folded.count().iter().map(last).collect::<Result<Vec<_>, _>>()?;
                Ok(Known::Line(lines.into_iter().flatten().max().unwrap_or_default()))
            }
        }
    }
}

/// As many as an answer holds, and one at least, so that it goes on.
fn page<'a, T: Clone + 'a>(from: &mut Peekable<impl Iterator<Item = &'a T>>, bytes_of: fn(&T) -> usize) -> Vec<T> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(next) = from.next_if(|next| page.is_empty() || bytes + bytes_of(next) <= bounds::ANSWER_BYTES) {
        bytes += bytes_of(next);
        page.push(next.clone());
    }
    page
}

/// What a head takes in an answer, in bytes, at most: its texts, and numbers of nine bytes.
fn head_bytes(head: &BatchHead) -> usize {
    head.batch.len() + head.idempotency_key.as_ref().map_or(0, |key| key.len()) + head.opened_by.len() + 200
}

/// The same of a failed row.
fn error_bytes(error: &RowErrorOwned) -> usize {
    error.reason.len() + error.column.as_ref().map_or(0, |column| column.len()) + 20
}

/// The log with the state it folds to.
pub trait Ledger: Send + Sync + 'static {
    /// P.
    fn partitions(&self) -> PartitionCount;

    /// What the log would stamp now.
    fn now(&self) -> LogTime;

    /// Encodes the event and hands it to the log before it returns; events of one partition keep the order of the
    /// calls. The future is done when the event has been applied to the state that [`Self::ask`] asks; it need not be
    /// polled for that.
    fn append(
        &self,
        partition: Partition,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + 'static + use<Self>;

    /// Asks about a client's batches.
    fn ask(&self, client: &str, question: Question) -> impl Future<Output = Result<Known, LedgerError>> + Send;

    /// The head of a batch.
    fn head(&self, client: &str, batch: &str) -> impl Future<Output = Result<Option<BatchHead>, LedgerError>> + Send {
        let asked = self.ask(client, Question::Head { batch: batch.into() });
        async { if let Known::Head(head) = asked.await? { Ok(head) } else { Err(besides()) } }
    }

    /// The batch that has an idempotency key; `partition` is that of the key.
    fn head_by_key(
        &self,
        partition: Partition,
        client: &str,
        key: &str,
    ) -> impl Future<Output = Result<Option<BatchHead>, LedgerError>> + Send {
        let asked = self.ask(client, Question::HeadByKey { partition, key: key.into() });
        async { if let Known::Head(head) = asked.await? { Ok(head) } else { Err(besides()) } }
    }

    /// All batches of a client, in no order.
    fn heads(&self, client: &str) -> impl Future<Output = Result<Vec<BatchHead>, LedgerError>> + Send {
        async move {
            let mut all = Vec::new();
            for partition in self.partitions().iter() {
                let mut after = Box::default();
                loop {
                    let Known::Heads(heads, more) = self.ask(client, Question::Heads { partition, after }).await?
                    else {
                        return Err(besides());
                    };
                    after = heads.last().map(|head| head.batch.clone()).unwrap_or_default();
                    all.extend(heads);
                    if !more {
                        break;
                    }
                }
            }
            Ok(all)
        }
    }

    /// What each partition counted for a batch, in the order of the partitions.
    fn parts(&self, client: &str, batch: &str) -> impl Future<Output = Result<Vec<BatchPart>, LedgerError>> + Send {
        let asked = self.ask(client, Question::Parts { batch: batch.into() });
        async {
            match asked.await? {
                Known::Parts(parts) if parts.len() == usize::from(self.partitions().get()) => Ok(parts),
                _ => Err(besides()),
            }
        }
    }

    /// The failed rows of a batch by line, and whether there were more.
    fn errors(
        &self,
        client: &str,
        batch: &str,
    ) -> impl Future<Output = Result<(Vec<RowErrorOwned>, bool), LedgerError>> + Send {
        async move {
            let (mut all, mut any_dropped) = (Vec::new(), false);
            for partition in self.partitions().iter() {
                let mut skip = 0;
                loop {
                    let question = Question::Errors { partition, batch: batch.into(), skip };
                    let Known::Errors { errors, more, dropped } = self.ask(client, question).await? else {
                        return Err(besides());
                    };
                    skip += errors.len() as u32;
                    all.extend(errors);
                    any_dropped |= dropped;
                    if !more {
                        break;
                    }
                }
            }
            all.sort_unstable();
            Ok((all, any_dropped))
        }
    }

    /// The highest line among the failed rows of a batch; 0 when there is none.
    fn last_error(&self, client: &str, batch: &str) -> impl Future<Output = Result<u32, LedgerError>> + Send {
        let asked = self.ask(client, Question::LastError { batch: batch.into() });
        async { if let Known::Line(line) = asked.await? { Ok(line) } else { Err(besides()) } }
    }
}

/// An answer of another kind than the question: only between releases that do not go together.
fn besides() -> LedgerError {
    LedgerError::Unavailable("the answer is not to the question: the nodes are of different releases".into())
}
