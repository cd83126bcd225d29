//! Promises of a replica: the same log gives the same state however it is cut, copied and resumed; what does not fit
//! stops its partition by name; nobody waits for ever.

mod same_state;
mod shared;
mod snapshots;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cameo_auth::{ClientRecord, Verifier};
use cameo_eventlog::frame::{AppenderId, FrameBuilder};
use cameo_eventlog::memory::{Failure, MemoryReader};
use cameo_eventlog::{
    AppendError, Clock, EventLog, Hint, LogId, LogReader, MemoryLog, ReadError, StoredFrame, TrimError, Trimmed,
};
use cameo_profile::event::{ClientSettings, Erase, Route, Update, Visit};
use cameo_profile::{Address, ClientCode, Event, LogTime, Partition, PartitionCount, Position, limits};
use tempfile::TempDir;

use super::{Halt, OpenError, Replica, SubmitError};
use crate::config::EdgeConfig;
use crate::replica::CheckpointError;

/// The time that logs start at.
const NOW: u64 = 1_790_000_000_000;
/// How long anything may take before a test says that it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const P0: Partition = Partition(0);

fn config(dir: &TempDir) -> EdgeConfig {
    let client = ClientRecord::new(&ClientCode::new("demo").unwrap(), 0).unwrap();
    EdgeConfig {
        auth: Verifier::fixed(vec![client]),
        checkpoint_dir: dir.path().join("checkpoint"),
        // Only the one at the end.
        checkpoint_every: Duration::from_secs(3600),
        snapshots: None,
        retention: Some(Duration::from_secs(3600)),
        spool: None,
        draining: Arc::default(),
        metrics: None,
    }
}

fn memory_log(partitions: u32) -> (MemoryLog, Clock) {
    let clock = Clock::manual(NOW);
    (MemoryLog::with_clock(PartitionCount::new(partitions).unwrap(), clock.clone()), clock)
}

fn visit(id: &str) -> Event<'_> {
    Event::Visit(Visit { client: "demo", home: id, profile: vec![("a", "1")], ..Visit::default() })
}

/// A frame of an appender that the test plays, and its digest.
fn frame(partition: Partition, counter: u64, prev_digest: u64, events: &[Event<'_>]) -> (Bytes, u64) {
    let mut frame = FrameBuilder::with_capacity(256);
    for event in events {
        frame.push(|out| event.encode(out));
    }
    frame.finish(AppenderId(7), partition, counter, prev_digest)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it ends") })
}

fn append(log: &MemoryLog, partition: Partition, bytes: Bytes) {
    for result in block_on(log.append(vec![(partition, bytes)])) {
        result.unwrap();
    }
}

/// Visits counted for a tntId in partition 0.
fn visits<L: EventLog>(replica: &Replica<L>, id: &str) -> u64 {
    let count = replica.read(P0, |state, now| {
        let profile = state.profile("demo", Address::from_canonical(id), now)?;
        profile.visits().map(|visits| visits.visit_count)
    });
    count.unwrap().unwrap_or_default()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

impl<L: EventLog> Replica<L> {
    /// Messages of links that are not known to have arrived: with none, nothing more comes into the log by itself.
    pub(crate) fn links_waiting(&self) -> usize {
        self.inner.slots.iter().map(|slot| slot.state.read().fold.links().outbox).sum()
    }
}

#[test]
fn what_is_acknowledged_is_read_and_survives_a_restart() {
    let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(1));
    let log = Arc::new(log);
    let replica = Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
    for expected in 1..=3 {
        block_on(replica.submit(P0, &visit("tnt:a"))).unwrap();
        assert_eq!(visits(&replica, "tnt:a"), expected);
    }
    let before = replica.digests();
    replica.close();
    assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::Elsewhere(_))));
    assert_eq!(visits(&replica, "tnt:a"), 3, "reads go on");
    drop(replica);
    // Everything is in the checkpoint: the log may forget it.
    block_on(log.trim(&[(P0, Position(3))], LogTime(NOW + 1))).unwrap();
    let replica = Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
    assert_eq!(replica.digests(), before);
}

#[test]
fn a_profile_erased_and_made_again_between_checkpoints_is_the_new_one() {
    let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(1));
    let log = Arc::new(log);
    let open = || Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
    let replica = open();
    for id in ["tnt:again", "tnt:gone"] {
        block_on(replica.submit(P0, &visit(id))).unwrap();
        block_on(replica.submit(P0, &visit(id))).unwrap();
    }
    drop(replica);
    let replica = open();
    for id in ["tnt:again", "tnt:gone"] {
        block_on(replica.submit(P0, &Event::Erase(Erase { client: "demo", address: id, ..Erase::default() }))).unwrap();
    }
    block_on(replica.submit(P0, &visit("tnt:again"))).unwrap();
    let before = replica.digests();
    drop(replica);
    let replica = open();
    assert_eq!((visits(&replica, "tnt:again"), visits(&replica, "tnt:gone")), (1, 0));
    assert_eq!(replica.digests(), before);
}

#[test]
fn a_call_of_many_events_is_answered_in_order() {
    let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(4));
    let replica = Replica::open(&config(&dir), Arc::new(log)).unwrap();
    let ids: Vec<_> = (0..5000).map(|n| format!("tnt:v{n}")).collect();
    let mut call = replica.start_call(ids.len());
    for (n, id) in ids.iter().enumerate() {
        call.add(
            Partition((n % 4) as u16),
            &visit(id),
            Some(|_, profile, out| out.extend(profile.home().as_str().bytes())),
        );
    }
    let answers = block_on(call.wait());
    assert_eq!(answers.len(), ids.len());
    for (answer, id) in answers.into_iter().zip(&ids) {
        assert_eq!(answer.unwrap().profile.as_deref(), Some(id.as_bytes()), "the profile right after this very visit");
    }
}

#[test]
fn what_the_log_says_is_what_the_caller_is_told() {
    let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(1));
    let replica = Replica::open(&config(&dir), Arc::new(log.clone())).unwrap();
    log.fail_next(Failure::Unavailable);
    assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::Unavailable(_))));
    log.fail_next(Failure::UnknownAndLost);
    assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::Unknown(_))));
    assert_eq!(visits(&replica, "tnt:a"), 0);
    log.fail_next(Failure::UnknownButWritten);
    // The frame races the bad news: either is true, and it counts once.
    let told = block_on(replica.submit(P0, &visit("tnt:a")));
    assert!(matches!(told, Ok(_) | Err(SubmitError::Unknown(_))), "{told:?}");
    wait_until("the frame that was written", || visits(&replica, "tnt:a") == 1);
    log.fail_next(Failure::StorageFull);
    assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::StorageFull)));
    wait_until("room again", || block_on(replica.submit(P0, &visit("tnt:a"))).is_ok());
    assert_eq!(visits(&replica, "tnt:a"), 2);
    assert_eq!(replica.health().halted, []);
}

/// Frames that do not follow, each with what its error must say. (What is no frame at all, or another partition's, the
/// log does not take.)
fn misfits() -> Vec<(&'static str, Bytes)> {
    let (_, digest) = frame(P0, 1, 0, &[visit("tnt:a")]);
    let mut nonsense = FrameBuilder::with_capacity(64);
    nonsense.push(|out| out.extend_from_slice(&[99, 1, 2]));
    vec![
        ("number 2 should come, 3 came", frame(P0, 3, digest, &[visit("tnt:b")]).0),
        ("came before it", frame(P0, 2, digest ^ 1, &[visit("tnt:b")]).0),
        ("unknown event kind 99", nonsense.finish(AppenderId(7), P0, 2, digest).0),
    ]
}

#[test]
fn a_frame_that_does_not_follow_stops_the_start_and_names_its_position() {
    for (said, bytes) in misfits() {
        let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(2));
        append(&log, P0, frame(P0, 1, 0, &[visit("tnt:a")]).0);
        append(&log, P0, bytes);
        let error = match Replica::open(&config(&dir), Arc::new(log)) {
            Ok(_) => panic!("it started although {said}"),
            Err(error) => error,
        };
        assert!(matches!(error, OpenError::Halted { partition: P0, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("partition 0") && text.contains("position 2") && text.contains(said), "{said}: {text}");
    }
}

#[test]
fn a_running_replica_stops_the_partition_and_serves_the_others() {
    for (said, bytes) in misfits() {
        let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(2));
        let log = Arc::new(log);
        let replica = Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
        append(&log, P0, frame(P0, 1, 0, &[visit("tnt:a")]).0);
        wait_until("the first frame", || visits(&replica, "tnt:a") == 1);
        append(&log, P0, bytes);
        wait_until("a stopped partition", || !replica.health().halted.is_empty());
        let (partition, halt) = replica.health().halted.remove(0);
        assert_eq!((partition, halt.position), (P0, Some(Position(2))), "{halt}");
        assert!(halt.reason.contains(said), "{said}: {halt}");
        assert!(replica.read(P0, |_, _| ()).is_err(), "what has stopped is served no more");
        assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::Elsewhere(_))));
        block_on(replica.submit(Partition(1), &visit("tnt:other"))).unwrap();
        drop(replica);
        // Nothing of it was checkpointed: the next start meets the same frame.
        assert!(matches!(Replica::open(&config(&dir), log), Err(OpenError::Halted { .. })), "{said}");
    }
}

#[test]
fn a_checkpoint_that_does_not_belong_to_the_log_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(memory_log(1).0);
    let replica = Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
    block_on(replica.submit(P0, &visit("tnt:a"))).unwrap();
    drop(replica);
    let other = Replica::open(&config(&dir), Arc::new(memory_log(1).0)).map(drop).unwrap_err();
    assert!(matches!(other, OpenError::Checkpoint(CheckpointError::OtherLog { .. })), "{other}");

    // And one that another process has open.
    let user = Replica::open(&config(&dir), Arc::clone(&log)).unwrap();
    let second = Replica::open(&config(&dir), Arc::clone(&log)).map(drop).unwrap_err();
    assert!(matches!(second, OpenError::Checkpoint(CheckpointError::InUse { .. })), "{second}");
    drop(user);

    // Frames that the checkpoint lacks are gone.
    let (first, digest) = frame(P0, 1, 0, &[visit("tnt:b")]);
    append(&log, P0, first);
    append(&log, P0, frame(P0, 2, digest, &[visit("tnt:b")]).0);
    block_on(log.trim(&[(P0, Position(2))], LogTime(NOW + 1))).unwrap();
    let behind = Replica::open(&config(&dir), log).map(drop).unwrap_err();
    assert!(matches!(behind, OpenError::Checkpoint(CheckpointError::BehindLog { .. })), "{behind}");
    let text = behind.to_string();
    assert!(text.contains("partition 0") && text.contains("position 1") && text.contains("starts at 3"), "{text}");
}

/// A log whose readers deliver everything twice, and fail once a test wants it so.
struct Failing {
    log: MemoryLog,
    fails: Arc<AtomicBool>,
}

struct FailingReader {
    reader: MemoryReader,
    fails: Arc<AtomicBool>,
    again: Option<Vec<StoredFrame>>,
}

impl LogReader for FailingReader {
    async fn next_batch(&mut self) -> Result<Vec<StoredFrame>, ReadError> {
        if let Some(again) = self.again.take() {
            return Ok(again);
        }
        let batch = self.reader.next_batch().await;
        if self.fails.load(Ordering::SeqCst) {
            let place = "a disk".into();
            return Err(ReadError::Ahead { partition: P0, asked: Position(9), last: Position(8), place });
        }
        self.again = batch.as_ref().ok().cloned();
        batch
    }
}

impl EventLog for Failing {
    type Reader = FailingReader;

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

    async fn append(&self, frames: Vec<(Partition, Bytes)>) -> Vec<Result<Position, AppendError>> {
        self.log.append(frames).await
    }

    fn reader(&self, from: Vec<(Partition, Position)>) -> FailingReader {
        FailingReader { reader: self.log.reader(from), fails: Arc::clone(&self.fails), again: None }
    }

    async fn frame(&self, partition: Partition, position: Position, hint: Hint) -> Result<StoredFrame, ReadError> {
        self.log.frame(partition, position, hint).await
    }

    async fn trim(&self, upto: &[(Partition, Position)], older_than: LogTime) -> Result<Trimmed, TrimError> {
        self.log.trim(upto, older_than).await
    }
}

#[test]
fn a_caller_whose_event_cannot_be_read_back_is_told_that_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fails) = (memory_log(1).0, Arc::new(AtomicBool::new(false)));
    let replica = Replica::open(&config(&dir), Arc::new(Failing { log, fails: Arc::clone(&fails) })).unwrap();
    for expected in 1..=3 {
        block_on(replica.submit(P0, &visit("tnt:a"))).unwrap();
        assert_eq!(visits(&replica, "tnt:a"), expected, "what is delivered twice counts once");
    }
    assert_eq!(replica.digests()[0].0, Position(3));
    fails.store(true, Ordering::SeqCst);
    // It is in the log, but its frame never comes.
    let told = block_on(replica.submit(P0, &visit("tnt:a")));
    assert!(matches!(&told, Err(SubmitError::Unknown(why)) if why.contains("a disk")), "{told:?}");
    assert!(matches!(block_on(replica.submit(P0, &visit("tnt:a"))), Err(SubmitError::Elsewhere(_))));
    assert_eq!(replica.health().halted.len(), 1);
    replica.close();
}

#[test]
fn links_are_refused_while_too_many_wait_and_taken_again_afterwards() {
    let (dir, (log, _)) = (tempfile::tempdir().unwrap(), memory_log(2));
    let replica = Replica::open(&config(&dir), Arc::new(log.clone())).unwrap();
    let count = log.partitions();
    let client = ClientCode::new("demo").unwrap();
    let ids = |kind: &str, of: Partition| -> Vec<String> {
        let all = (0..).map(|n| format!("{kind}:{n}"));
        let here = all.filter(|id| Address::from_canonical(id).partition(&client, count) == of);
        here.take(limits::OUTBOX_MESSAGES + 4096).collect()
    };
    // Of another node: what waits is left to it for a second.
    let (devices, persons) = (ids("tnt", P0), ids("tp", Partition(1)));
    let mut digest = 0;
    for (counter, chunk) in (1..).zip(devices.iter().zip(&persons).collect::<Vec<_>>().chunks(1024)) {
        let visits: Vec<_> = chunk
            .iter()
            .map(|(device, person)| {
                let (home, other_ids) = (device.as_str(), vec![person.as_str()]);
                Event::Visit(Visit { client: "demo", home, other_ids, route: Route::Enter, ..Visit::default() })
            })
            .collect();
        let (bytes, next) = frame(P0, counter, digest, &visits);
        append(&log, P0, bytes);
        digest = next;
    }
    wait_until("an outbox that is full", || replica.takes_links(P0) == Err(SubmitError::Busy));
    assert_eq!(replica.takes_links(Partition(1)), Ok(()), "the other one has room");
    wait_until("an outbox with room", || replica.takes_links(P0) == Ok(()));
    let person = Address::from_canonical(persons.last().unwrap());
    let visited = || replica.read(Partition(1), |state, now| state.profile("demo", person, now).is_some());
    wait_until("the last one's visit", || visited() == Ok(true));
}

#[test]
fn a_partition_that_stops_for_two_reasons_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let (log, _) = memory_log(2);
    let replica = metrics::with_local_recorder(&recorder, || Replica::open(&config(&dir), Arc::new(log)).unwrap());
    for reason in ["first", "second"] {
        replica.inner.halt(P0, Halt { position: None, reason: reason.to_owned() });
    }
    let text = recorder.handle().render();
    assert!(text.lines().any(|line| line == "cameo_halted_partitions 1"), "{text}");
    assert_eq!(replica.health().halted[0].1.reason, "first");
    replica.close();
}
