//! The queue of visits over a real NATS server, drained into a log in memory that fails as the test wants.

use bytes::Bytes;
use cameo_auth::{ClientRecord, Verifier};
use cameo_edge::EdgeConfig;
use cameo_eventlog::frame::{AppenderId, FrameBuilder};
use cameo_eventlog::{
    AppendError, Hint, LogId, LogTime, MemoryLog, Partition, PartitionCount, Position, ReadError, StoredFrame,
    TrimError, Trimmed,
};
use cameo_nats::testing::Servers;
use cameo_nats::{Publish, PublishError};
use cameo_profile::{AddressBuf, ClientCode, Kind};
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;

const NAME: &str = "test";
/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: u32 = 4;

/// A log of two lanes, of which one answers no append while it hangs: its partitions are the even ones.
#[derive(Clone)]
struct Parted {
    log: MemoryLog,
    hangs: watch::Sender<bool>,
}

impl Parted {
    fn new() -> Self {
        Self { log: MemoryLog::new(PartitionCount::new(PARTITIONS).unwrap()), hangs: watch::Sender::new(false) }
    }
}

impl EventLog for Parted {
    type Reader = <MemoryLog as EventLog>::Reader;

    fn id(&self) -> LogId {
        self.log.id()
    }

    fn partitions(&self) -> PartitionCount {
        self.log.partitions()
    }

    fn now(&self) -> LogTime {
        self.log.now()
    }

    fn last(&self, partition: Partition) -> Position {
        self.log.last(partition)
    }

    fn first(&self, partition: Partition) -> Position {
        self.log.first(partition)
    }

    fn lanes(&self) -> usize {
        2
    }

    fn lane(&self, partition: Partition) -> usize {
        partition.index() % 2
    }

    async fn append(&self, frames: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        if frames.iter().any(|(partition, _)| self.lane(*partition) == 0) {
            // The sender lives in `self`.
            let _ = self.hangs.subscribe().wait_for(|hangs| !*hangs).await;
        }
        self.log.append(frames).await
    }

    fn reader(&self, from: Vec<(Partition, Position)>) -> Self::Reader {
        self.log.reader(from)
    }

    async fn frame(&self, partition: Partition, position: Position, hint: Hint) -> Result<StoredFrame, ReadError> {
        self.log.frame(partition, position, hint).await
    }

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        self.log.trim(upto, older_than).await
    }
}

/// An edge that drains the queue until it is dropped.
struct Draining {
    edge: Arc<Edge<Parted>>,
    task: tokio::task::JoinHandle<()>,
    hangs: watch::Sender<bool>,
    _dir: TempDir,
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.task.abort();
        // A test that has failed ends as well: closing waits for the log.
        self.hangs.send_replace(false);
    }
}

impl Draining {
    async fn start(nats: &Nats, log: &Parted) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EdgeConfig {
            auth: Verifier::fixed(vec![ClientRecord::new(&client(), 0).unwrap()]),
            checkpoint_dir: dir.path().join("checkpoint"),
            checkpoint_every: Duration::from_secs(3600),
            snapshots: None,
            retention: None,
            spool: None,
            draining: Arc::default(),
            metrics: None,
        };
        let edge = Arc::new(Edge::open(config, Arc::new(log.clone())).await.unwrap());
        let task = tokio::spawn(drain(nats.clone(), NAME, Arc::clone(&edge)));
        Self { edge, task, hangs: log.hangs.clone(), _dir: dir }
    }

    async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.edge.close().await;
    }

    /// Waits until all of these have a profile.
    async fn has(&self, visitors: &[String]) {
        let replica = self.edge.replica();
        let is_there = |visitor: &String| {
            let read = replica.read(partition(visitor), |state, now| {
                state.profile("demo", address(visitor).as_address(), now).is_some()
            });
            read.unwrap_or(false)
        };
        let all = async {
            while !visitors.iter().all(is_there) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, all).await.is_ok();
        let there = visitors.iter().filter(|visitor| is_there(visitor)).count();
        assert!(done, "{there} of {} visits have been taken", visitors.len());
    }
}

fn client() -> ClientCode {
    ClientCode::new("demo").unwrap()
}

fn address(visitor: &str) -> AddressBuf {
    AddressBuf::of(Kind::Tnt, visitor).unwrap()
}

fn partition(visitor: &str) -> Partition {
    address(visitor).as_address().partition(&client(), PartitionCount::new(PARTITIONS).unwrap())
}

/// So many visitors of partitions that are wanted.
fn visitors(count: usize, wanted: impl Fn(Partition) -> bool) -> Vec<String> {
    (0..).map(|n| format!("v{n}")).filter(|visitor| wanted(partition(visitor))).take(count).collect()
}

async fn publish(nats: &Nats, visitor: &str) -> Result<(), PublishError> {
    let payload = format!(r#"{{"ids":{{"tntId":"{visitor}"}}}}"#).into();
    let (subject, id) = (format!("{NAME}.visits.demo"), visitor.to_owned());
    nats.publish(&Publish { subject, id, expected: None, headers: vec![], payload }, PATIENCE).await.map(drop)
}

async fn publish_all(nats: &Nats, visitors: &[String]) {
    for visitor in visitors {
        publish(nats, visitor).await.unwrap();
    }
}

/// What has just been taken may not have left the queue yet.
async fn publish_when_there_is_room(nats: &Nats, visitor: &str) {
    let published = async { while let Err(PublishError::Full(_)) = publish(nats, visitor).await {} };
    tokio::time::timeout(PATIENCE, published).await.expect("there is room at last");
}

async fn emptied(nats: &Nats) {
    let empty = async {
        loop {
            let info = nats.stream_info(&stream(NAME)).await.unwrap().unwrap();
            if info.first > info.last {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.expect("nothing is left in the queue");
}

#[test]
fn a_message_is_put_off_about_as_long_as_it_has_waited_and_five_minutes_at_most() {
    let seconds: Vec<_> = (1..=10).map(|delivered| put_off(delivered).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!((put_off(0), put_off(u64::MAX)), (PUT_OFF, PUT_OFF_LONGEST));
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_go_on_while_a_part_of_the_log_answers_nothing() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("edge").await;
    create(&nats, NAME, 1, 1_000_000).await.unwrap();
    let log = Parted::new();
    let draining = Draining::start(&nats, &log).await;
    log.hangs.send_replace(true);
    // More than an edge has under way at once, ahead of the others.
    let (hanging, others) = (visitors(AT_ONCE + 20, |p| p.0 % 2 == 0), visitors(200, |p| p.0 % 2 == 1));
    publish_all(&nats, &hanging).await;
    publish_all(&nats, &others).await;
    draining.has(&others).await;
    log.hangs.send_replace(false);
    draining.has(&hanging).await;
    emptied(&nats).await;
    draining.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_of_a_stopped_partition_wait_leave_the_others_alone_and_fill_the_queue_before_producers_are_refused() {
    const MOST: usize = 200;
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("edge").await;
    create(&nats, NAME, 1, MOST as i64 * BYTES_OF_MESSAGE).await.unwrap();
    let log = Parted::new();
    let draining = Draining::start(&nats, &log).await;
    let mut nonsense = FrameBuilder::with_capacity(64);
    nonsense.push(|out| out.extend_from_slice(&[99, 1, 2]));
    let (frame, _) = nonsense.finish(AppenderId(7), Partition(0), 1, 0);
    log.log.append(vec![(Partition(0), frame)]).await;
    let (stopped, others) = (visitors(MOST + 1, |p| p.0 == 0), visitors(50, |p| p.0 != 0));
    publish_all(&nats, &stopped[..MOST - 1]).await;
    for visitor in &others {
        publish_when_there_is_room(&nats, visitor).await;
        draining.has(std::slice::from_ref(visitor)).await;
    }
    publish_when_there_is_room(&nats, &stopped[MOST - 1]).await;
    let refused = publish(&nats, &stopped[MOST]).await;
    assert!(matches!(&refused, Err(PublishError::Full(said)) if said.contains("maximum messages")), "{refused:?}");
    draining.end().await;
    // An operator has looked: all of them are still there.
    let mended = Draining::start(&nats, &Parted::new()).await;
    mended.has(&stopped[..MOST]).await;
    emptied(&nats).await;
    mended.end().await;
}
