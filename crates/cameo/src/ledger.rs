//! The gateway's ledger over the replica: how bulk files reach the log when all roles are one process.

use std::sync::Arc;

use cameo_edge::{Replica, SubmitError};
use cameo_eventlog::EventLog;
use cameo_gateway::{Folded, Known, Ledger, LedgerError, Question};
use cameo_profile::{Event, LogTime, Outcome, Partition, PartitionCount, PartitionState};

/// A replica, as the gateway sees it.
pub(crate) struct ReplicaLedger<L: EventLog>(pub(crate) Arc<Replica<L>>);

fn convert(error: SubmitError) -> LedgerError {
    match error {
        SubmitError::Busy => LedgerError::Full,
        SubmitError::StorageFull => LedgerError::StorageFull,
        SubmitError::Unavailable(why) => LedgerError::Unavailable(why),
        SubmitError::Elsewhere(why) => LedgerError::Elsewhere(why),
        SubmitError::Unknown(why) => LedgerError::Unknown(why),
        // The gateway's chunks are far below the log's limit.
        too_large @ SubmitError::TooLarge { .. } => LedgerError::Unavailable(too_large.to_string()),
    }
}

impl<L: EventLog> Ledger for ReplicaLedger<L> {
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
    ) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + 'static + use<L> {
        // Rows of linked ids go on to other partitions: they wait until there is room.
        let room = if matches!(event, Event::BatchRows(_)) { self.0.takes_links(partition) } else { Ok(()) };
        let mut call = self.0.start_call(1);
        if room.is_ok() {
            call.add(partition, event, None);
        }
        async move {
            room.map_err(convert)?;
            let answer = call.wait().await.pop();
            let answer = answer.unwrap_or_else(|| Err(SubmitError::Unknown("no answer".into())));
            answer.map(|answer| answer.outcome).map_err(convert)
        }
    }

    async fn ask(&self, client: &str, question: Question) -> Result<Known, LedgerError> {
        question.look_up(client, self)
    }
}

impl<L: EventLog> Folded for ReplicaLedger<L> {
    fn count(&self) -> PartitionCount {
        self.0.partitions()
    }

    fn read<R>(
        &self,
        partition: Partition,
        read: impl FnOnce(&PartitionState, LogTime) -> R,
    ) -> Result<R, LedgerError> {
        self.0.read(partition, read).map_err(convert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_auth::{ClientRecord, Verifier};
    use cameo_edge::{Edge, EdgeConfig};
    use cameo_eventlog::{EmbeddedLog, EmbeddedOptions};
    use cameo_profile::event::Visit;
    use cameo_profile::{AddressBuf, ClientCode, Kind};
    use std::time::Duration;

    async fn edge(dir: &tempfile::TempDir) -> Edge<EmbeddedLog> {
        let log = EmbeddedLog::open(EmbeddedOptions::new(dir.path().join("log"))).unwrap();
        let client = ClientRecord::new(&ClientCode::new("demo").unwrap(), 0).unwrap();
        let config = EdgeConfig {
            auth: Verifier::fixed(vec![client]),
            checkpoint_dir: dir.path().join("checkpoint"),
            checkpoint_every: Duration::from_secs(3600),
            snapshots: None,
            retention: Some(Duration::from_secs(3600)),
            spool: None,
            draining: Arc::default(),
            metrics: None,
        };
        Edge::open(config, Arc::new(log)).await.unwrap()
    }

    fn visit<'a>(home: &'a str, value: &'static str) -> Event<'a> {
        Event::Visit(Visit { client: "demo", home, profile: vec![("n", value)], ..Visit::default() })
    }

    fn value(ledger: &ReplicaLedger<EmbeddedLog>, partition: Partition, address: &AddressBuf) -> Option<String> {
        let read = ledger.read(partition, |state, now| {
            let profile = state.profile("demo", address.as_address(), now)?;
            profile.attributes().find(|attribute| attribute.name == "n").map(|attribute| attribute.value.to_owned())
        });
        read.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_appended_is_applied_in_order_also_when_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let edge = edge(&dir).await;
        let ledger = ReplicaLedger(edge.replica());
        let address = AddressBuf::of(Kind::Tnt, "a").unwrap();
        let home = address.as_address().as_str();
        let client = ClientCode::new("demo").unwrap();
        let partition = address.as_address().partition(&client, ledger.partitions());
        for value in ["1", "2", "3"] {
            drop(ledger.append(partition, &visit(home, value)));
        }
        let last = ledger.append(partition, &visit(home, "4")).await.unwrap();
        assert!(matches!(last, Outcome::Visit(outcome) if !outcome.created && !outcome.duplicate));
        assert_eq!(value(&ledger, partition, &address).as_deref(), Some("4"));
        edge.close().await;
        let closed = ledger.append(partition, &visit(home, "5")).await;
        assert!(matches!(closed, Err(LedgerError::Elsewhere(_))), "{closed:?}");
        assert_eq!(value(&ledger, partition, &address).as_deref(), Some("4"), "reads go on");
    }

    #[test]
    fn what_the_caller_may_do_next_survives_the_crossing() {
        for (from, to) in [
            (SubmitError::Busy, LedgerError::Full),
            (SubmitError::StorageFull, LedgerError::StorageFull),
            (SubmitError::Unavailable("w".into()), LedgerError::Unavailable("w".into())),
            (SubmitError::Elsewhere("w".into()), LedgerError::Elsewhere("w".into())),
            // Never said to be safe to retry.
            (SubmitError::Unknown("w".into()), LedgerError::Unknown("w".into())),
        ] {
            assert_eq!(convert(from), to);
        }
    }
}
