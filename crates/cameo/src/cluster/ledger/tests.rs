//! What an edge does for a gateway, and which edge a gateway asks.

use cameo_auth::{ClientRecord, Verifier};
use cameo_edge::{Edge, EdgeConfig};
use cameo_eventlog::MemoryLog;
use cameo_eventlog::frame::{AppenderId, FrameBuilder};
use cameo_nats::testing::Servers;
use cameo_profile::ClientCode;
use cameo_profile::event::{
    BatchClosed, BatchErrors, BatchOpened, BatchRows, ClientSettings, Delivered, DropAlias, Erase, Relay, Unlink,
    Update, Visit,
};

use super::*;

fn asked(partition: u16, event: &Event<'_>) -> Result<(), LedgerError> {
    let mut payload = partition.to_be_bytes().to_vec();
    event.encode(&mut payload);
    let partitions = PartitionCount::new(4).unwrap();
    let (read_partition, read_event) = read(&payload, partitions)?;
    assert_eq!((read_partition, &read_event), (Partition(partition), event));
    Ok(())
}

#[test]
fn an_edge_appends_events_of_batches_for_a_gateway_and_no_others() {
    let of_batches = [
        Event::BatchOpened(BatchOpened::default()),
        Event::BatchRows(BatchRows::default()),
        Event::BatchErrors(BatchErrors::default()),
        Event::BatchClosed(BatchClosed::default()),
    ];
    for event in of_batches {
        assert_eq!(asked(3, &event), Ok(()), "{event:?}");
        let refused = asked(4, &event).unwrap_err().to_string();
        assert!(refused.contains("no partition 4"), "{refused}");
    }
    let others = [
        Event::Visit(Visit::default()),
        Event::Update(Update::default()),
        Event::Erase(Erase::default()),
        Event::ClientSettings(ClientSettings::default()),
        Event::Unlink(Unlink::default()),
        Event::DropAlias(DropAlias::default()),
        Event::Relay(Relay::default()),
        Event::Delivered(Delivered::default()),
    ];
    for event in others {
        let refused = asked(0, &event).unwrap_err().to_string();
        assert!(refused.contains("events of batches"), "{event:?}: {refused}");
    }
    let short = read(&[0], PartitionCount::new(4).unwrap()).unwrap_err().to_string();
    assert!(short.contains("cannot be read"), "{short}");
}

/// An edge over a log of its own: two of them need not agree.
struct Site {
    edge: Edge<MemoryLog>,
    log: MemoryLog,
    answering: Answering,
    draining: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn start(nats: &Nats, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = MemoryLog::new(PartitionCount::new(4).unwrap());
        let client = ClientRecord::new(&ClientCode::new("demo").unwrap(), 0).unwrap();
        let draining = Arc::new(AtomicBool::new(false));
        let config = EdgeConfig {
            auth: Verifier::fixed(vec![client]),
            checkpoint_dir: dir.path().join("checkpoint"),
            checkpoint_every: Duration::from_secs(3600),
            snapshots: None,
            retention: None,
            spool: None,
            draining: Arc::clone(&draining),
            metrics: None,
        };
        let edge = Edge::open(config, Arc::new(log.clone())).await.unwrap();
        let ledger = ReplicaLedger(edge.replica());
        let answering = answer(nats, "test", name, ledger, Arc::clone(&draining)).await.unwrap();
        Self { edge, log, answering, draining, _dir: dir }
    }

    /// Stops the first partition at this edge.
    async fn stop_partition(&self) {
        let mut nonsense = FrameBuilder::with_capacity(64);
        nonsense.push(|out| out.extend_from_slice(&[99, 1, 2]));
        let (frame, _) = nonsense.finish(AppenderId(7), Partition(0), 1, 0);
        self.log.append(vec![(Partition(0), frame)]).await;
        until("the partition has stopped", async || !self.edge.replica().health().halted.is_empty()).await;
    }

    fn batches(&self, partition: u16) -> usize {
        self.edge.replica().read(Partition(partition), |state, _| state.batch_heads("demo").count()).unwrap()
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let looks = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), looks).await.is_ok(), "never came: {what}");
}

/// Whom a gateway finds that has none yet.
async fn found(nats: &Nats) -> Option<String> {
    hello(nats, "test").await.map(|hello| hello.edge)
}

/// Waits until this edge is found and no other.
async fn alone(nats: &Nats, edge: &str) {
    until("one edge alone is found", async || {
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(found(nats).await);
        }
        all.iter().all(|found| found.as_deref() == Some(edge))
    })
    .await;
}

async fn open(gateway: &RemoteLedger, partition: u16, batch: &str) -> Result<Outcome, LedgerError> {
    let opened = BatchOpened { client: "demo", batch, ..BatchOpened::default() };
    gateway.append(Partition(partition), &Event::BatchOpened(opened)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_asks_another_edge_when_one_cannot_and_a_crippled_one_rather_than_none() {
    let Some(servers) = Servers::start(1).await else { return };
    let (one, other, nats) = (servers.connect("one").await, servers.connect("other").await, servers.connect("g").await);
    let first = Site::start(&one, "first").await;
    until("an edge that answers", async || found(&nats).await.is_some()).await;
    let gateway = RemoteLedger::find(&nats, "test").await.unwrap().unwrap();
    open(&gateway, 0, "a").await.unwrap();
    let second = Site::start(&other, "second").await;
    first.stop_partition().await;
    alone(&nats, "second").await;
    open(&gateway, 0, "b").await.unwrap();
    assert_eq!(second.batches(0), 1, "where it has not stopped");
    // From then on all goes there, also what the first one could do.
    open(&gateway, 1, "c").await.unwrap();
    assert_eq!((first.batches(1), second.batches(1)), (0, 1));
    // Asked for a batch it looks past the partition that has stopped.
    let question = Question::Head { batch: "c".into() };
    assert!(matches!(gateway.ask("demo", question.clone()).await, Ok(Known::Head(Some(_)))));
    second.answering.close().await;
    open(&gateway, 1, "c").await.unwrap();
    assert_eq!(first.batches(1), 1, "it is the only one");
    assert!(matches!(gateway.ask("demo", question).await, Ok(Known::Head(Some(_)))));
    let refused = open(&gateway, 0, "d").await;
    assert!(matches!(&refused, Err(LedgerError::Elsewhere(why)) if why.contains("has stopped")), "{refused:?}");
    first.answering.close().await;
    assert!(matches!(open(&gateway, 1, "e").await, Err(LedgerError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_stops_is_not_found_and_what_it_has_taken_is_answered() {
    let Some(servers) = Servers::start(1).await else { return };
    let (one, other, nats) = (servers.connect("one").await, servers.connect("other").await, servers.connect("g").await);
    let first = Site::start(&one, "first").await;
    until("an edge that answers", async || found(&nats).await.is_some()).await;
    let gateway = RemoteLedger::find(&nats, "test").await.unwrap().unwrap();
    let second = Site::start(&other, "second").await;
    first.draining.store(true, Ordering::Relaxed);
    alone(&nats, "second").await;
    // Until it closes it goes on for whom it has; events that are under way then are answered, the others go elsewhere.
    let names: Vec<_> = (0..200).map(|n| format!("b{n}")).collect();
    let opening: Vec<_> = names.iter().map(|name| open(&gateway, 2, name)).collect();
    let closing = async {
        first.answering.close().await;
        first.edge.close().await;
    };
    let (opened, ()) = tokio::join!(futures_util::future::join_all(opening), closing);
    for (name, opened) in names.iter().zip(opened) {
        assert!(opened.is_ok(), "{name}: {opened:?}");
    }
    open(&gateway, 2, "last").await.unwrap();
    assert!(second.batches(2) >= 1);
}
