//! A node against a bucket that drops heartbeats, breaks watches and holds forged records, with a clock that tests move.

use std::sync::atomic::AtomicUsize;

use cameo_profile::ClientCode;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::*;
use crate::bucket::{Entry, LocalBucket, PutError, Unreadable, Watch, WatchEnd};
use crate::record::{ClientRecord, NewToken};
use crate::role::Scope;
use crate::seal::Sealer;
use crate::token::{Secret, SecretKind};
use crate::verifier::Denied;

const LEASE: Duration = Duration::from_secs(10);
const TODAY_MS: u64 = 1_800_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn mono(&self) -> Mono {
        Mono(self.0.load(Ordering::Relaxed))
    }

    fn unix_ms(&self) -> u64 {
        TODAY_MS
    }
}

/// A bucket whose line can be cut, and that may be an older one when the line is whole again.
struct Line {
    bucket: Mutex<LocalBucket>,
    cut: watch::Sender<bool>,
    /// What those who watch are told when it is cut.
    end: Arc<Mutex<WatchEnd>>,
    /// Watches that were asked for while it was cut.
    refused: AtomicUsize,
}

impl Line {
    fn bucket(&self) -> LocalBucket {
        self.bucket.lock().clone()
    }
}

impl Bucket for Line {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Unreadable>> {
        Box::pin(async move { self.bucket().get(key).await })
    }

    fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        if *self.cut.borrow() {
            return Box::pin(std::future::ready(Err(PutError::Unknown("the line is cut".into()))));
        }
        Box::pin(async move { self.bucket().put(key, value, expected, durability).await })
    }

    fn delete(&self, key: Key, expected: Expected) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(async move { self.bucket().delete(key, expected).await })
    }

    fn watch(&self, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, Unreadable>> {
        Box::pin(async move {
            if *self.cut.borrow() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Unreadable("the line is cut".into()));
            }
            let watch = self.bucket().watch(after).await?;
            Ok(Box::new(Cut { watch, cut: self.cut.subscribe(), end: Arc::clone(&self.end) }) as Box<dyn Watch>)
        })
    }
}

struct Cut {
    watch: Box<dyn Watch>,
    cut: watch::Receiver<bool>,
    end: Arc<Mutex<WatchEnd>>,
}

impl Watch for Cut {
    fn next(&mut self) -> BoxFuture<'_, Result<Change, WatchEnd>> {
        Box::pin(async {
            tokio::select! {
                biased;
                _ = self.cut.wait_for(|cut| *cut) => Err(self.end.lock().clone()),
                change = self.watch.next() => change,
            }
        })
    }
}

struct World {
    line: Arc<Line>,
    clock: Arc<Hand>,
    sealer: Sealer,
    record: ClientRecord,
    secret: Secret,
}

impl World {
    async fn new() -> Self {
        let (cut, refused) = (watch::Sender::new(false), AtomicUsize::new(0));
        let end = Arc::new(Mutex::new(Unreadable("the line is cut".into()).into()));
        let line = Arc::new(Line { bucket: Mutex::new(LocalBucket::in_memory()), cut, end, refused });
        let mut record = ClientRecord::new(&ClientCode::new("demo").unwrap(), TODAY_MS).unwrap();
        record.require_authentication = true;
        let secret = Secret::generate(SecretKind::ProfileToken).unwrap();
        let scopes = vec![Scope::ProfileRead];
        let new = NewToken { name: "a".into(), scopes, expires_in_seconds: 3600, by: "ann".into() };
        record.create_token(TokenId("t".into()), &secret, new, TODAY_MS).unwrap();
        let clock = Arc::new(Hand(AtomicU64::new(50_000)));
        let mut world = Self { line, clock, sealer: Sealer::generate().unwrap(), record, secret };
        world.commit(|_| {}).await;
        world
    }

    fn key() -> Key {
        ClientRecord::key(&ClientCode::new("demo").unwrap())
    }

    /// What the control plane does.
    async fn commit(&mut self, change: impl FnOnce(&mut ClientRecord)) -> Revision {
        self.record.version += 1;
        change(&mut self.record);
        self.write(Some(self.sealer.seal(&Self::key(), &self.record))).await
    }

    async fn write(&self, value: Option<Bytes>) -> Revision {
        let bucket = self.line.bucket();
        let written = match value {
            Some(value) => bucket.put(Self::key(), value, Expected::Any, Durability::Durable).await,
            None => bucket.delete(Self::key(), Expected::Any).await,
        };
        written.unwrap()
    }

    fn start(&self, name: &str) -> Result<Node, StartError> {
        let config = NodeConfig {
            node: name.into(),
            roles: vec!["edge".into()],
            lease: LEASE,
            key: self.sealer.verifying(),
            status: Arc::new(NodeStatus::default),
        };
        Node::start(Arc::clone(&self.line) as Arc<dyn Bucket>, config, Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    fn check(&self, node: &Node) -> Result<(), Denied> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {}", self.secret.reveal()).parse().unwrap());
        node.verifier().check("demo", Scope::ProfileRead, &headers)
    }

    fn pass(&self, duration: Duration) {
        self.clock.0.fetch_add(duration.as_millis() as u64, Ordering::Relaxed);
    }

    async fn beat(&self, run: &NodeRun) -> Option<Heartbeat> {
        let key = Key::new(format!("{BEAT_KIND}.{run}")).unwrap();
        let entry = self.line.bucket().get(&key).await.unwrap()?;
        Some(Heartbeat::read(&entry.value).unwrap())
    }
}

/// Looks until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let look = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn a_node_earns_its_lease_and_reports_changes_without_waiting_for_its_second() {
    let mut world = World::new().await;
    let node = world.start("edge-1").unwrap();
    let verifier = node.verifier();
    node.synced().await;
    assert!(verifier.holds_lease());
    assert_eq!(world.check(&node), Ok(()));
    let first = world.beat(node.run()).await.unwrap();
    assert_eq!((first.lease_ms, first.left, &first.run), (10_000, false, node.run()));
    let mut changes = node.changes();
    for _ in 0..20 {
        let revision = world.commit(|record| record.lifetime_days += 1).await;
        changes.wait_for(|seen| *seen >= revision).await.unwrap();
        until("reported", async || world.beat(node.run()).await.is_some_and(|beat| beat.applied >= revision)).await;
    }
    // Twenty reports in less than twenty seconds' heartbeats: each hurried.
    assert!(world.beat(node.run()).await.unwrap().number > 20);
    assert_eq!(node.verifier().client("demo").unwrap().record.lifetime_days, world.record.lifetime_days);
    world.commit(|record| record.tokens.clear()).await;
    until("revoked", async || world.check(&node) == Err(Denied::Unknown)).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_refuses_when_its_lease_is_over_and_comes_back() {
    let mut world = World::new().await;
    let node = world.start("edge-1").unwrap();
    node.synced().await;
    world.line.cut.send_replace(true);
    until("cut off", async || world.line.refused.load(Ordering::Relaxed) > 0).await;
    let revision = world.commit(|record| record.tokens.clear()).await;
    // It knows no better, and may until the lease is over; what comes after is what rotations wait for.
    assert_eq!(world.check(&node), Ok(()));
    world.pass(LEASE - Duration::from_millis(1));
    assert_eq!(world.check(&node), Ok(()));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.check(&node), Err(Denied::NoLease));
    assert!(!node.verifier().holds_lease());
    world.line.cut.send_replace(false);
    until("back", async || node.verifier().holds_lease()).await;
    assert_eq!(world.check(&node), Err(Denied::Unknown));
    assert!(*node.changes().borrow() >= revision);
}

#[tokio::test]
async fn a_record_that_is_not_taken_takes_the_lease_away_until_a_good_one_comes() {
    let mut world = World::new().await;
    let node = world.start("edge-1").unwrap();
    let forged = Sealer::generate().unwrap().seal(&World::key(), &world.record);
    for value in [Some(forged), None, Some(Bytes::from_static(b"x"))] {
        until("held", async || world.check(&node) == Ok(())).await;
        let revision = world.write(value).await;
        until("refused", async || world.check(&node) == Err(Denied::NoLease)).await;
        // It says that it has seen it, as nothing is waited for; its heartbeats earn no lease.
        until("told", async || world.beat(node.run()).await.is_some_and(|beat| beat.applied >= revision)).await;
        assert_eq!(world.check(&node), Err(Denied::NoLease));
        world.commit(|_| {}).await;
    }
    until("held again", async || world.check(&node) == Ok(())).await;
}

#[tokio::test]
async fn a_node_that_leaves_says_so_and_refuses_from_then_on() {
    let world = World::new().await;
    let node = world.start("edge-1").unwrap();
    node.synced().await;
    let (run, verifier) = (node.run().clone(), node.verifier());
    node.leave().await;
    assert!(!verifier.holds_lease());
    assert!(world.beat(&run).await.unwrap().left);
    let again = world.start("edge-1").unwrap();
    assert_ne!(again.run(), &run, "a run of its own");
    again.synced().await;
}

#[tokio::test]
async fn the_last_use_of_a_token_is_told() {
    let world = World::new().await;
    let node = world.start("edge-1").unwrap();
    node.synced().await;
    let used = Key::new(format!("{USED_KIND}.t")).unwrap();
    assert_eq!(world.line.bucket().get(&used).await.unwrap(), None);
    assert_eq!(world.check(&node), Ok(()));
    until("told", async || world.line.bucket().get(&used).await.unwrap().is_some()).await;
    let entry = world.line.bucket().get(&used).await.unwrap().unwrap();
    assert_eq!(entry.value, (TODAY_MS / 60_000).to_string());
    // Once a minute is enough.
    let number = world.beat(node.run()).await.unwrap().number;
    assert_eq!(world.check(&node), Ok(()));
    until("beats on", async || world.beat(node.run()).await.unwrap().number > number + 1).await;
    assert_eq!(world.line.bucket().get(&used).await.unwrap().unwrap().revision, entry.revision);
}

impl World {
    async fn name_history(&self, name: &str) {
        let key = Key::new(EPOCH_KEY).unwrap();
        self.line.bucket().put(key, name.to_owned().into(), Expected::Any, Durability::Durable).await.unwrap();
    }

    /// The bucket comes back without what was written since this record, and goes on in its own way beyond every place that
    /// was given before.
    async fn lose(&self, older: Bytes, then: Option<Bytes>) {
        let beyond = self.line.bucket();
        let older_bucket = LocalBucket::in_memory();
        *self.line.bucket.lock() = older_bucket.clone();
        self.write(Some(older)).await;
        self.name_history("one").await;
        if let Some(then) = then {
            self.write(Some(then)).await;
        }
        let filler = || Key::new("used.filler").unwrap();
        let end = beyond.put(filler(), Bytes::new(), Expected::Any, Durability::Durable).await.unwrap();
        while older_bucket.put(filler(), Bytes::new(), Expected::Any, Durability::Ephemeral).await.unwrap() <= end {}
    }

    async fn cut(&self) {
        let before = self.line.refused.load(Ordering::Relaxed);
        self.line.cut.send_replace(true);
        until("cut off", async || self.line.refused.load(Ordering::Relaxed) > before).await;
    }
}

#[tokio::test]
async fn the_name_of_another_history_has_everything_read_again_also_what_stands_at_places_that_were_read() {
    let mut world = World::new().await;
    world.name_history("one").await;
    let node = world.start("edge-1").unwrap();
    node.synced().await;
    let reported = async |epoch: &str| {
        let beat = world.line.bucket().get(&node.inner.key).await.unwrap();
        let beat = beat.and_then(|entry| Heartbeat::read(&entry.value));
        beat.is_some_and(|beat| beat.applied > Revision(0) && beat.epoch == Some(Epoch(epoch.into())))
    };
    until("it reports of the history", async || reported("one").await).await;
    let older = world.line.bucket().get(&World::key()).await.unwrap().unwrap().value;
    // It goes on where it was, and hears nothing of what has been given twice.
    world.cut().await;
    world.record.version += 1;
    world.record.tokens.clear();
    let rotated = world.sealer.seal(&World::key(), &world.record);
    world.lose(older, Some(rotated)).await;
    world.line.cut.send_replace(false);
    until("it goes on", async || reported("one").await).await;
    assert_eq!(world.check(&node), Ok(()), "what it cannot know; and so its reports of this history count for nothing");
    world.name_history("two").await;
    until("it has read all again", async || world.check(&node) == Err(Denied::Unknown)).await;
    until("it reports of the new history", async || reported("two").await).await;
}

#[tokio::test]
async fn a_node_whose_bucket_has_lost_what_it_read_gives_up_its_lease_and_takes_nothing_older() {
    let mut world = World::new().await;
    world.name_history("one").await;
    let node = world.start("edge-1").unwrap();
    node.synced().await;
    let older = world.line.bucket().get(&World::key()).await.unwrap().unwrap().value;
    world.commit(|record| record.tokens.clear()).await;
    until("revoked", async || world.check(&node) == Err(Denied::Unknown)).await;
    *world.line.end.lock() = WatchEnd::Lost("its end".into());
    world.cut().await;
    assert_eq!(world.check(&node), Err(Denied::NoLease));
    world.lose(older, None).await;
    world.line.cut.send_replace(false);
    let reads = async || node.inner.applied.lock().0 > Revision(0);
    until("it has read all again", reads).await;
    assert_eq!(world.check(&node), Err(Denied::NoLease), "what is older than what it knows is refused");
    world.write(Some(world.sealer.seal(&World::key(), &world.record))).await;
    until("the record is there again", async || world.check(&node) == Err(Denied::Unknown)).await;
}

#[tokio::test]
async fn names_are_part_of_a_key() {
    let world = World::new().await;
    for name in ["", "a.b", "a b", "é", &"x".repeat(NODE_CHARS + 1)] {
        assert_eq!(world.start(name).err(), Some(StartError::Name(name.into())), "{name}");
    }
    assert!(world.start(&"x".repeat(NODE_CHARS)).is_ok());
}
