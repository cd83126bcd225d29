//! The log over real NATS servers, one and three: every promise of the trait.

use std::sync::atomic::{AtomicU32, Ordering};

use cameo_nats::testing::Servers;

use super::*;
use crate::LogReader as _;
use crate::conformance::{self, Backend};

struct OnServers {
    servers: Servers,
    logs: AtomicU32,
}

impl OnServers {
    async fn start(count: usize) -> Option<Self> {
        Some(Self { servers: Servers::start(count).await?, logs: AtomicU32::new(0) })
    }

    async fn open(&self, name: &str) -> JetStreamLog {
        let nats = self.servers.connect("edge").await;
        JetStreamLog::open(&nats, name).await.unwrap().unwrap()
    }
}

impl Backend for OnServers {
    type Log = JetStreamLog;

    async fn create(&self, case: &str, partitions: PartitionCount) -> JetStreamLog {
        let name = format!("{case}-{}", self.logs.fetch_add(1, Ordering::Relaxed));
        let nats = self.servers.connect("control").await;
        let replicas = self.servers.count();
        let options = JetStreamOptions { partitions: Some(partitions), replicas, ..JetStreamOptions::new(&name) };
        assert!(JetStreamLog::open(&nats, &name).await.unwrap().is_none());
        JetStreamLog::create(&nats, &options).await.unwrap();
        // As every start of the control plane does.
        JetStreamLog::create(&nats, &options).await.unwrap();
        let other = JetStreamOptions { partitions: PartitionCount::new(77).ok(), ..options };
        let error = JetStreamLog::create(&nats, &other).await.unwrap_err().to_string();
        assert!(error.contains("partitions, not 77; that cannot be changed"), "{error}");
        self.open(&name).await
    }

    async fn reopen(&self, log: JetStreamLog) -> Option<JetStreamLog> {
        let name = log.0.name.clone();
        drop(log);
        Some(self.open(&name).await)
    }

    const CONTIGUOUS: bool = false;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_keeps_every_promise() {
    let Some(backend) = OnServers::start(1).await else { return };
    conformance::run_all(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_keep_every_promise() {
    let Some(backend) = OnServers::start(3).await else { return };
    conformance::run_all(&backend).await;
}

/// All frames of a partition that a new reader finds, as many as asked for.
async fn read(log: &JetStreamLog, partition: Partition, count: usize) -> Vec<StoredFrame> {
    let mut reader = log.reader(vec![(partition, Position::START)]);
    let mut frames = Vec::new();
    while frames.len() < count {
        frames.extend(reader.next_batch().await.unwrap());
    }
    frames
}

fn frame_of(partition: Partition, n: u64) -> (Partition, Bytes) {
    let mut builder = frame::FrameBuilder::with_capacity(64);
    builder.push(|out| out.extend_from_slice(&n.to_le_bytes()));
    (partition, builder.finish(frame::AppenderId(9), partition, n, 0).0)
}

async fn append(log: &JetStreamLog, partition: Partition, numbers: std::ops::Range<u64>) {
    for result in log.append(numbers.map(|n| frame_of(partition, n)).collect()).await {
        result.unwrap();
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Servers whose stores can be put back to how they were.
struct Older<'s> {
    servers: &'s mut Servers,
    stores: tempfile::TempDir,
}

impl<'s> Older<'s> {
    /// Remembers how they are now.
    fn keep(servers: &'s mut Servers) -> Self {
        let stores = tempfile::tempdir().unwrap();
        let all = 0..servers.count();
        all.clone().for_each(|n| servers.kill(n));
        all.clone().for_each(|n| copy(&servers.store(n), &stores.path().join(format!("n{n}"))));
        all.for_each(|n| servers.restart(n));
        Self { servers, stores }
    }

    /// Puts them back.
    async fn come_back(&mut self, stream: &str) {
        let all = 0..self.servers.count();
        all.clone().for_each(|n| self.servers.kill(n));
        all.clone().for_each(|n| {
            std::fs::remove_dir_all(self.servers.store(n)).unwrap();
            copy(&self.stores.path().join(format!("n{n}")), &self.servers.store(n));
        });
        all.for_each(|n| self.servers.restart(n));
        let nats = self.servers.connect("edge").await;
        self.servers.leader(&nats, stream).await;
    }

    async fn log(&self, name: &str) -> JetStreamLog {
        let nats = self.servers.connect("edge").await;
        JetStreamLog::open(&nats, name).await.unwrap().unwrap()
    }
}

/// What an append is told of a stream that is not what it was.
async fn refused(log: &JetStreamLog, partition: Partition, n: u64) -> String {
    match log.append(vec![frame_of(partition, n)]).await.pop() {
        Some(Err(AppendError::Unavailable(why))) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

/// A node that starts knows only by what it has kept that a stream has lost its end, as its checkpoint is older. Nothing
/// that it appends, and nothing that others append meanwhile, however much, hides that; and what is kept stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_grows_where_a_stream_lost_its_end_is_not_taken_for_what_was_there() {
    let Some(mut backend) = OnServers::start(1).await else { return };
    let p0 = Partition(0);
    let log = backend.create("grown", PartitionCount::new(1).unwrap()).await;
    let name = log.0.name.clone();
    let stream = log.0.streams[0].name.clone();
    let dir = tempfile::tempdir().unwrap();
    log.keep_recent(dir.path()).unwrap();
    append(&log, p0, 1..20).await;
    read(&log, p0, 19).await;
    let mut older = Older::keep(&mut backend.servers);
    append(&log, p0, 20..40).await;
    read(&log, p0, 39).await;
    let kept = || recent::read(dir.path(), log.id(), 0).unwrap();
    let before = kept();
    assert_eq!(before.len(), 39);

    older.come_back(&stream).await;
    let checkpoint = vec![(p0, Position(19))];
    let waits = older.log(&name).await;
    waits.keep_recent(dir.path()).unwrap();
    assert_eq!(waits.last(p0), Position(39), "what was kept is what there was");
    let why = refused(&waits, p0, 40).await;
    assert!(why.contains("ends at position 19, but 39 was stored in it"), "{why}");
    let mut reader = waits.reader(checkpoint.clone());
    assert!(tokio::time::timeout(Duration::from_secs(1), reader.next_batch()).await.is_err(), "it looks again");

    // Its checkpoint is all that another one has.
    let ahead = older.log(&name).await;
    let mut beyond = ahead.reader(vec![(p0, Position(39))]);
    assert!(tokio::time::timeout(Duration::from_secs(1), beyond.next_batch()).await.is_err(), "it looks again");

    // One that has nothing cannot know.
    let other = older.log(&name).await;
    append(&other, p0, 60..100).await;
    let error = reader.next_batch().await.unwrap_err();
    assert!(matches!(error, ReadError::Rewritten(_)), "{error}");
    assert!(error.to_string().contains("another frame at position 39 than was read there"), "{error}");
    let error = beyond.next_batch().await.unwrap_err();
    assert!(error.to_string().contains("ended before position 39 that was read already"), "{error}");
    let later = older.log(&name).await;
    later.keep_recent(dir.path()).unwrap();
    let why = refused(&later, p0, 40).await;
    assert!(why.contains("another frame at position 39 than was read there"), "{why}");
    let error = later.reader(checkpoint).next_batch().await.unwrap_err();
    assert!(matches!(error, ReadError::Rewritten(_)), "{error}");
    assert_eq!(kept(), before);
    let error = later.missing(&[dir.path().to_owned()]).await.unwrap_err();
    assert!(matches!(error, ReappendError::Forked { position: Position(39), .. }), "{error}");
}

/// What nodes read while somebody asks what is missing is not missing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_from_a_log_that_is_written_and_read() {
    const FRAMES: u64 = 2000;
    let Some(backend) = OnServers::start(1).await else { return };
    let p0 = Partition(0);
    let log = backend.create("busy", PartitionCount::new(1).unwrap()).await;
    let dir = tempfile::tempdir().unwrap();
    log.keep_recent(dir.path()).unwrap();
    let writer = {
        let log = log.clone();
        tokio::spawn(async move { append(&log, p0, 1..FRAMES + 1).await })
    };
    let reader = {
        let log = log.clone();
        tokio::spawn(async move { read(&log, p0, FRAMES as usize).await })
    };
    while !reader.is_finished() {
        let missing = log.missing(&[dir.path().to_owned()]).await.unwrap();
        assert!(missing.is_empty(), "{:?}", missing[0].span());
    }
    writer.await.unwrap();
    assert_eq!(reader.await.unwrap().len(), FRAMES as usize);
}

/// All servers lose the same end; it comes back in its places, with its times, and nothing comes in between.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_that_three_servers_lost_is_appended_again_in_its_places() {
    let Some(mut backend) = OnServers::start(3).await else { return };
    let (p0, p1) = (Partition(0), Partition(1));
    let log = backend.create("lost", PartitionCount::new(2).unwrap()).await;
    let dir = tempfile::tempdir().unwrap();
    let recent = dir.path().join("recent");
    log.keep_recent(&recent).unwrap();
    append(&log, p0, 1..20).await;
    append(&log, p1, 1..5).await;
    let (first, _) = (read(&log, p0, 19).await, read(&log, p1, 4).await);
    assert!(log.missing(std::slice::from_ref(&recent)).await.unwrap().is_empty());

    let stream = log.0.streams[0].name.clone();
    let mut older = Older::keep(&mut backend.servers);
    let nats = older.servers.connect("edge").await;
    older.servers.leader(&nats, &stream).await;
    append(&log, p0, 20..40).await;
    let whole = read(&log, p0, 39).await;
    assert_eq!(whole[..19], first);

    older.come_back(&stream).await;
    // A stream that has lost its end takes nothing; the other one does.
    let why = refused(&log, p0, 40).await;
    assert!(why.contains("lost acknowledged frames"), "{why}");
    append(&log, p1, 5..6).await;

    let later = backend.open(&log.0.name.clone()).await;
    later.keep_recent(&recent).unwrap();
    let error = later.reader(vec![(p0, Position::START)]).next_batch().await.unwrap_err();
    assert!(matches!(error, ReadError::Ahead { .. }), "what was kept is known to have been read: {error}");
    let missing = later.missing(std::slice::from_ref(&recent)).await.unwrap();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].partitions()[&p0].0, 20);
    assert_eq!(later.reappend(&missing[0]).await.unwrap(), 20);
    assert!(later.missing(&[recent]).await.unwrap().is_empty());
    // The same frames, places and times.
    let after = backend.open(&log.0.name.clone()).await;
    assert_eq!(read(&after, p0, 39).await, whole);
    for frame in &whole[19..] {
        let one = after.frame(p0, frame.position, Hint::default()).await.unwrap();
        assert_eq!((one.bytes, one.at), (frame.bytes.clone(), frame.at));
    }
    append(&after, p0, 40..41).await;
    assert_eq!(read(&after, p0, 40).await[39].position, whole[38].position.next());
}
