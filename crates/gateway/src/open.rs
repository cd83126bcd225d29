//! From a validated file to a batch: writes its head, or finds the batch that its key already has, and starts what
//! brings the rows into the log.

use std::sync::Arc;

use cameo_http::Refusal;
use cameo_http::refusal::{RETRY_BUSY, RETRY_UNAVAILABLE};
use cameo_profile::event::{BatchOpened, batch_partition_text};
use cameo_profile::state::{BatchHead, BatchOpenedOutcome, BatchPart};
use cameo_profile::time::DAY_MS;
use cameo_profile::{ClientCode, Event, Outcome, Partition, ids, limits};
use tokio::sync::oneshot;

use crate::gateway::{App, Place, random};
use crate::ledger::{Ledger, LedgerError};
use crate::spool::Spooled;
use crate::status::{self, Stage};
use crate::submit::Submission;

/// A file that is to become a batch.
pub(crate) struct Opening<L> {
    pub(crate) app: Arc<App<L>>,
    pub(crate) client: ClientCode,
    pub(crate) key: Option<String>,
    pub(crate) spooled: Spooled,
    /// Who uploads it, if known.
    pub(crate) by: Option<Arc<str>>,
    pub(crate) place: Place,
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        let (status, retry) = match error {
            LedgerError::Full => (429, RETRY_BUSY),
            LedgerError::StorageFull => (507, RETRY_UNAVAILABLE),
            LedgerError::Unavailable(_) | LedgerError::Elsewhere(_) | LedgerError::Unknown(_) => {
                (503, RETRY_UNAVAILABLE)
            }
        };
        Self { retry_after: Some(retry), ..Self::new(status, error.to_string()) }
    }
}

impl<L: Ledger> Opening<L> {
    /// Gives the batch, whose head and failed rows are in the log.
    pub(crate) async fn run(self) -> Result<BatchHead, Refusal> {
        let client = self.client.as_str();
        if let Some(key) = &self.key {
            let partition = self.partition("");
            if let Some(head) = self.app.ledger.head_by_key(partition, client, key).await? {
                return self.join(head, partition).await;
            }
        }
        let opened_at = self.app.ledger.now().ms();
        let random = random().map_err(|error| Refusal::new(503, format!("no random numbers: {error}")))?;
        let batch = format!("{client}-{opened_at}-{random}");
        let partition = self.partition(&batch);
        let head = self.head(&batch, opened_at);
        match self.app.ledger.append(partition, &Event::BatchOpened(self.event(&head))).await {
            Ok(Outcome::BatchOpened(BatchOpenedOutcome::KeyTaken { batch, .. })) => {
                let Some(head) = self.app.ledger.head(client, &batch).await? else {
                    // Forgotten since: only when thousands of batches came in between.
                    return Err(Refusal { retry_after: Some(RETRY_BUSY), ..Refusal::new(503, "try again") });
                };
                self.join(head, partition).await
            }
            Ok(_) => {
                self.app.meters.batches.increment(1);
                self.app.meters.rows_failed.increment(u64::from(head.rows_failed));
                self.app.meters.rows_skipped.increment(u64::from(head.rows_skipped));
                Ok(self.submit(head, partition).await)
            }
            Err(LedgerError::Unknown(why)) => {
                let text = match &self.key {
                    Some(_) => format!("the outcome is unknown ({why}); retry with the same Idempotency-Key"),
                    None => format!("the outcome is unknown ({why}); an Idempotency-Key makes a retry safe"),
                };
                Err(Refusal { retry_after: Some(RETRY_UNAVAILABLE), ..Refusal::new(503, text) })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn partition(&self, batch: &str) -> Partition {
        let text = batch_partition_text(batch, self.key.as_deref());
        ids::partition_of(&self.client, &text, self.app.ledger.partitions())
    }

    fn head(&self, batch: &str, opened_at: u64) -> BatchHead {
        let report = &self.spooled.report;
        BatchHead {
            batch: batch.into(),
            idempotency_key: self.key.as_deref().map(Into::into),
            digest: self.spooled.digest,
            api_version: self.spooled.version.number(),
            opened_by: self.app.process.as_str().into(),
            opened_at,
            rows: report.rows,
            rows_to_apply: report.rows_to_apply,
            rows_failed: report.rows_failed,
            rows_skipped: report.rows_skipped,
            closed: None,
        }
    }

    fn event<'a>(&'a self, head: &'a BatchHead) -> BatchOpened<'a> {
        BatchOpened {
            client: self.client.as_str(),
            batch: &head.batch,
            idempotency_key: head.idempotency_key.as_deref(),
            digest: head.digest,
            api_version: head.api_version,
            opened_by: &head.opened_by,
            opened_at: head.opened_at,
            rows: head.rows,
            rows_to_apply: head.rows_to_apply,
            rows_failed: head.rows_failed,
            rows_skipped: head.rows_skipped,
        }
    }

    /// The key has a batch: it must be of this very file.
    async fn join(self, head: BatchHead, partition: Partition) -> Result<BatchHead, Refusal> {
        let difference = if head.digest != self.spooled.digest {
            "another file".into()
        } else if head.api_version != self.spooled.version.number() {
            format!("version {} of the API", head.api_version)
        } else if self.is_forgotten(&head).await? {
            let days = limits::BATCH_KEPT_MS / DAY_MS;
            let text = format!(
                "batch {} of this Idempotency-Key was never completed, and what was applied of it is known for {days} \
                 days only; nothing was stored, and another key makes a new batch of the file",
                head.batch
            );
            return Err(Refusal { field: Some("Idempotency-Key".into()), ..Refusal::new(409, text) });
        } else {
            return Ok(self.submit(head, partition).await);
        };
        let text = format!("this Idempotency-Key belongs to batch {}, of {difference}; nothing was stored", head.batch);
        Err(Refusal { field: Some("Idempotency-Key".into()), ..Refusal::new(409, text) })
    }

    /// Whether rows are missing, and partitions may have forgotten which: to go on would apply some of them again.
    async fn is_forgotten(&self, head: &BatchHead) -> Result<bool, LedgerError> {
        let app = &self.app;
        if app.ledger.now().ms().saturating_sub(head.opened_at) < limits::BATCH_KEPT_MS {
            return Ok(false);
        }
        let status =
            status::of(&*app.ledger, &app.running, app.config.sole_gateway, &self.client, head.clone()).await?;
        Ok(status.stage != Stage::Complete)
    }

    /// Brings what is missing into the log, unless nothing is or somebody in this process is at it.
    async fn submit(self, head: BatchHead, head_partition: Partition) -> BatchHead {
        if head.closed.is_some() {
            return head;
        }
        let Some(turn) = self.app.running.begin(&self.client, &head.batch) else { return head };
        let submission = Submission {
            ledger: Arc::clone(&self.app.ledger),
            client: self.client,
            head: head.clone(),
            head_partition,
            version: self.spooled.version,
            spooled: Arc::new(self.spooled),
            by: self.by,
            turn,
            meters: Arc::clone(&self.app.meters),
            metered: BatchPart::default(),
            short_of_room: self.app.short_of_room.clone(),
            stop: self.app.stop_signal(),
        };
        let (sender, reported) = oneshot::channel();
        let place = self.place;
        tokio::spawn(async move {
            submission.run(sender).await;
            drop(place);
        });
        // An error means that the first attempt failed; others follow, and the head is in the log.
        let _ = reported.await;
        head
    }
}
