//! What a partition knows of bulk files: the heads that live here, what it applied for each, and rows that failed.
//!
//! Every partition counts its own rows; a reader adds the parts up. Rows of a batch reach a partition in rising order
//! of their lines, so the highest line seen tells a repeated row from a new one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{BatchClosed, BatchErrors, BatchOpened};
use crate::limits;
use crate::time::LogTime;

/// The head of a batch, in its head partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHead {
    /// `CLIENT-EPOCHMS-RANDOM`.
    pub batch: Box<str>,
    /// The caller's key, if one was sent.
    pub idempotency_key: Option<Box<str>>,
    /// xxh3-128 of the decoded body.
    pub digest: [u8; 16],
    /// 1, 2 or 3.
    pub api_version: u8,
    /// The gateway process that submitted it.
    pub opened_by: Box<str>,
    /// When it was accepted, ms since 1970.
    pub opened_at: u64,
    /// Data rows in the file.
    pub rows: u32,
    /// Rows that reach the log.
    pub rows_to_apply: u32,
    /// Rows that failed validation.
    pub rows_failed: u32,
    /// Rows without any value.
    pub rows_skipped: u32,
    /// What came of it, once every row had been applied.
    #[serde(default)]
    pub closed: Option<BatchPart>,
}

/// What one partition applied of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPart {
    /// The highest line of the file this partition has seen.
    pub high_line: u32,
    /// Rows that changed a profile, new ones included.
    pub updated: u64,
    /// Rows that made a new profile.
    pub created: u64,
    /// Rows whose id is unknown (v1).
    pub not_found: u64,
    /// Rows that a profile could not take (too large).
    pub failed: u64,
    /// Log time of the last change, ms since 1970.
    pub last_change: u64,
}

impl BatchPart {
    /// Rows counted here, whatever became of them.
    #[must_use]
    pub const fn consumed(&self) -> u64 {
        self.updated + self.not_found + self.failed
    }
}

/// A failed row for the report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowErrorOwned {
    /// Line of the file, counted from 1.
    pub line: u32,
    /// The column, if one is to blame.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// All of it, for one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) head: Option<BatchHead>,
    pub(crate) part: BatchPart,
    pub(crate) errors: Vec<RowErrorOwned>,
    /// Some errors are not in `errors`, as there were too many or they were dropped for later ones.
    pub(crate) errors_incomplete: bool,
    /// Every row of it has been applied, in all partitions, so it may be forgotten before those that are open.
    #[serde(default)]
    pub(crate) closed: bool,
    #[serde(skip)]
    changed: bool,
}

impl Batch {
    fn error_bytes(&self) -> usize {
        self.errors.iter().map(size_of).sum()
    }
}

fn size_of(error: &RowErrorOwned) -> usize {
    size_of_val(error) + error.reason.len() + error.column.as_ref().map_or(0, String::len)
}

/// Client number and batch id.
pub(crate) type BatchKey = (u32, Box<str>);

/// The batches of one partition.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    all: BTreeMap<BatchKey, Batch>,
    error_bytes: usize,
    removed: Vec<BatchKey>,
}

/// What the fold made of a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchOpenedOutcome {
    /// It is the batch for its key, now or since before.
    Opened,
    /// Another batch has the key: use that one, if it is of the same file.
    KeyTaken {
        /// The batch that came first.
        batch: Box<str>,
        /// Digest of its file.
        digest: [u8; 16],
    },
}

impl Batches {
    pub(crate) fn get(&self, client: u32, batch: &str) -> Option<&Batch> {
        self.all.get(&(client, batch.into()))
    }

    pub(crate) fn heads(&self, client: u32) -> impl Iterator<Item = &BatchHead> {
        self.all.iter().filter(move |((c, _), _)| *c == client).filter_map(|(_, batch)| batch.head.as_ref())
    }

    pub(crate) fn head_by_key(&self, client: u32, key: &str) -> Option<&BatchHead> {
        self.heads(client).find(|head| head.idempotency_key.as_deref() == Some(key))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&BatchKey, &Batch)> {
        self.all.iter()
    }

    /// The batch, made if need be; others make room, see [`limits::BATCHES_REMEMBERED`].
    pub(crate) fn entry(&mut self, client: u32, batch: &str, at: LogTime) -> &mut Batch {
        let key = (client, Box::from(batch));
        if !self.all.contains_key(&key) {
            self.forget_old(at);
        }
        let entry = self.all.entry(key).or_default();
        entry.changed = true;
        entry.part.last_change = at.0;
        entry
    }

    fn forget_old(&mut self, at: LogTime) {
        let mut stale: Vec<_> = self
            .all
            .iter()
            .filter(|(_, batch)| batch.part.last_change + limits::BATCH_KEPT_MS <= at.0)
            .map(|(key, _)| key.clone())
            .collect();
        if self.all.len() - stale.len() >= limits::BATCHES_REMEMBERED {
            // What is forgotten of an open batch would be applied again by a retry, so those go only when they are many.
            let too_many_open = self.all.values().filter(|batch| !batch.closed).count() > limits::BATCHES_OPEN;
            stale.extend(self.oldest(|batch| batch.closed != too_many_open));
        }
        for key in stale {
            if let Some(batch) = self.all.remove(&key) {
                self.error_bytes -= batch.error_bytes();
                self.removed.push(key);
            }
        }
    }

    fn oldest(&self, wanted: impl Fn(&Batch) -> bool) -> Option<BatchKey> {
        let wanted = self.all.iter().filter(|(_, batch)| wanted(batch));
        wanted.min_by_key(|(_, batch)| batch.part.last_change).map(|(key, _)| key.clone())
    }

    pub(crate) fn open(&mut self, client: u32, event: &BatchOpened<'_>, at: LogTime) -> BatchOpenedOutcome {
        if let Some(key) = event.idempotency_key
            && let Some(first) = self.head_by_key(client, key)
            && &*first.batch != event.batch
        {
            return BatchOpenedOutcome::KeyTaken { batch: first.batch.clone(), digest: first.digest };
        }
        let batch = self.entry(client, event.batch, at);
        batch.head.get_or_insert_with(|| BatchHead {
            batch: event.batch.into(),
            idempotency_key: event.idempotency_key.map(Into::into),
            digest: event.digest,
            api_version: event.api_version,
            opened_by: event.opened_by.into(),
            opened_at: event.opened_at,
            rows: event.rows,
            rows_to_apply: event.rows_to_apply,
            rows_failed: event.rows_failed,
            rows_skipped: event.rows_skipped,
            closed: None,
        });
        BatchOpenedOutcome::Opened
    }

    /// Keeps what came of a batch, if its head is here; the first word stays. A batch that is forgotten stays so.
    pub(crate) fn close(&mut self, client: u32, event: &BatchClosed<'_>, at: LogTime) {
        if self.get(client, event.batch).is_none_or(|batch| batch.closed) {
            return;
        }
        let entry = self.entry(client, event.batch, at);
        entry.closed = true;
        if let Some(head) = &mut entry.head {
            head.closed = Some(BatchPart {
                high_line: 0,
                updated: event.updated,
                created: event.created,
                not_found: event.not_found,
                failed: event.failed,
                last_change: at.0,
            });
        }
    }

    /// Keeps failed rows for the report. A repeated event adds nothing: lines come in rising order.
    pub(crate) fn add_errors(&mut self, client: u32, event: &BatchErrors<'_>, at: LogTime) {
        let last = self.get(client, event.batch).and_then(|b| b.errors.last()).map_or(0, |e| e.line);
        let fresh = event.errors.iter().filter(|error| error.line > last).map(|error| RowErrorOwned {
            line: error.line,
            column: error.column.map(Into::into),
            reason: error.reason.into(),
        });
        self.keep(client, event.batch, fresh.collect(), at);
    }

    /// A row that the fold could not apply.
    pub(crate) fn add_row_error(&mut self, client: u32, batch: &str, line: u32, reason: &str, at: LogTime) {
        let error = RowErrorOwned { line, column: None, reason: reason.into() };
        self.keep(client, batch, vec![error], at);
    }

    fn keep(&mut self, client: u32, batch: &str, errors: Vec<RowErrorOwned>, at: LogTime) {
        let entry = self.entry(client, batch, at);
        let room = limits::BATCH_ERRORS_KEPT.saturating_sub(entry.errors.len());
        entry.errors_incomplete |= errors.len() > room;
        let mut added = 0;
        for error in errors.into_iter().take(room) {
            added += size_of(&error);
            entry.errors.push(error);
        }
        self.error_bytes += added;
        while self.error_bytes > limits::BATCH_ERROR_BYTES {
            let Some(key) = self.oldest(|batch| !batch.errors.is_empty()) else { break };
            let Some(oldest) = self.all.get_mut(&key) else { break };
            self.error_bytes -= oldest.error_bytes();
            oldest.errors = Vec::new();
            oldest.errors_incomplete = true;
            oldest.changed = true;
        }
    }

    /// Changed batches, encoded, and removed ones, since the last call.
    pub(crate) fn take_changes(&mut self) -> (Vec<(BatchKey, Vec<u8>)>, Vec<BatchKey>) {
        let changed = self.all.iter_mut().filter(|(_, batch)| batch.changed).map(|(key, batch)| {
            batch.changed = false;
            (key.clone(), encode(batch))
        });
        (changed.collect(), std::mem::take(&mut self.removed))
    }

    /// The checkpoint that took this change was not written.
    pub(crate) fn put_back(&mut self, key: BatchKey) {
        match self.all.get_mut(&key) {
            Some(batch) => batch.changed = true,
            None => self.removed.push(key),
        }
    }

    pub(crate) fn restore(&mut self, key: BatchKey, bytes: &[u8]) -> bool {
        let Ok(batch) = rmp_serde::from_slice::<Batch>(bytes) else { return false };
        self.error_bytes += batch.error_bytes();
        self.all.insert(key, batch);
        true
    }
}

/// Layout: a MessagePack array in the order of the fields of [`Batch`].
pub(crate) fn encode(batch: &Batch) -> Vec<u8> {
    rmp_serde::to_vec(batch).expect("plain data always encodes into memory")
}

#[cfg(test)]
mod tests;
