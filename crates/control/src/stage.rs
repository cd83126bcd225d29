//! A control plane for tests: in memory, with a clock that is moved by hand, a bucket whose writes can be held up, and
//! users whose password was hashed beforehand.

mod call;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cameo_auth::bucket::{
    Bucket, Change, Durability, Entry as BucketEntry, Expected, Key, LocalBucket, PutError, Unreadable, Watch, WatchEnd,
};
use cameo_auth::clock::{Clock, Mono};
use cameo_auth::lease::NodeRun;
use cameo_auth::node::{Heartbeat, NodeStatus};
use cameo_auth::seal::Sealer;
use cameo_auth::{Node, NodeConfig, Revision, Role};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use zeroize::Zeroizing;

use crate::audit::{AuditLog, Entry, Filter, Page, Unusable};
use crate::plane::{NewClient, Plane, PlaneConfig, Settings, UserRecord};
use crate::principal::{Grant, Principal, Proof};

pub(crate) use call::Call;

/// The password of every user here.
pub(crate) const PASSWORD: &str = "seven green bicycles";

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn forward(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn mono(&self) -> Mono {
        Mono(self.0.load(Ordering::SeqCst))
    }

    fn unix_ms(&self) -> u64 {
        1_800_000_000_000 + self.0.load(Ordering::SeqCst)
    }
}

/// A bucket whose durable writes pass a gate, and that may come back as it was before.
pub(crate) struct GatedBucket {
    inner: Mutex<LocalBucket>,
    /// Told when it has lost something.
    lost: watch::Sender<()>,
    /// Closed by taking its one permit.
    pub(crate) gate: Semaphore,
    /// Writes that are said to have failed, although they were stored: their number.
    pub(crate) lose: AtomicU64,
    /// Durable writes and deletions that were asked for.
    pub(crate) writes: AtomicU64,
}

impl GatedBucket {
    fn inner(&self) -> LocalBucket {
        self.inner.lock().clone()
    }

    /// One that holds the same.
    pub(crate) async fn copy(&self) -> LocalBucket {
        let (copy, mut watch) = (LocalBucket::in_memory(), self.inner().watch(Revision(0)).await.unwrap());
        loop {
            let Change { key, value, last, .. } = watch.next().await.unwrap();
            if let Some(value) = value {
                copy.put(key, value, Expected::Any, Durability::Durable).await.unwrap();
            }
            if last {
                return copy;
            }
        }
    }

    /// Goes on as this one.
    pub(crate) fn come_back_as(&self, older: LocalBucket) {
        *self.inner.lock() = older;
        self.lost.send_replace(());
    }
}

struct Losing {
    watch: Box<dyn Watch>,
    lost: watch::Receiver<()>,
}

impl Watch for Losing {
    fn next(&mut self) -> BoxFuture<'_, Result<Change, WatchEnd>> {
        Box::pin(async {
            tokio::select! {
                biased;
                _ = self.lost.changed() => Err(WatchEnd::Lost("its end".into())),
                change = self.watch.next() => change,
            }
        })
    }
}

impl Bucket for GatedBucket {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<BucketEntry>, Unreadable>> {
        Box::pin(async move { self.inner().get(key).await })
    }

    fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(async move {
            if durability == Durability::Durable {
                drop(self.gate.acquire().await);
                self.writes.fetch_add(1, Ordering::SeqCst);
                let left = self.lose.load(Ordering::SeqCst);
                if left > 0 {
                    self.lose.store(left - 1, Ordering::SeqCst);
                    self.inner().put(key, value, expected, durability).await?;
                    return Err(PutError::Unknown("the connection broke".into()));
                }
            }
            self.inner().put(key, value, expected, durability).await
        })
    }

    fn delete(&self, key: Key, expected: Expected) -> BoxFuture<'_, Result<Revision, PutError>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { self.inner().delete(key, expected).await })
    }

    fn watch(&self, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, Unreadable>> {
        Box::pin(async move {
            let lost = self.lost.subscribe();
            let watch = self.inner().watch(after).await?;
            Ok(Box::new(Losing { watch, lost }) as Box<dyn Watch>)
        })
    }
}

/// An audit log in memory.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<Vec<Entry>>, Notify);

impl Remembered {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().clone()
    }

    /// `who action target result`, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |entry: &Entry| {
            let target = entry.target.as_deref().unwrap_or("-");
            format!("{} {} {target} {}", entry.who, entry.action, entry.result.as_str())
        };
        self.0.lock().iter().map(line).collect()
    }

    /// Waits until there is such a line.
    pub(crate) async fn has(&self, line: &str) {
        loop {
            let more = self.1.notified();
            if self.lines().iter().any(|one| one == line) {
                return;
            }
            more.await;
        }
    }

    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }
}

impl AuditLog for Remembered {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), Unusable>> {
        let mut entries = self.0.lock();
        let id = entries.len() as u64 + 1;
        entries.push(Entry { id, ..entry });
        self.1.notify_one();
        Box::pin(async { Ok(()) })
    }

    fn page(&self, filter: Filter) -> BoxFuture<'_, Result<Page, Unusable>> {
        let before = filter.before.unwrap_or(u64::MAX);
        let entries = self.0.lock();
        let found = entries.iter().rev().filter(|entry| entry.id < before && filter.takes(entry));
        let page = Page { entries: found.take(filter.limit).cloned().collect(), next: None };
        Box::pin(async { Ok(page) })
    }
}

/// Everything that a test needs to hold.
pub(crate) struct Stage {
    pub(crate) plane: Plane,
    pub(crate) bucket: Arc<GatedBucket>,
    pub(crate) audit: Arc<Remembered>,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) sealer: Sealer,
}

impl Stage {
    /// An empty control plane.
    pub(crate) async fn empty() -> Self {
        let bucket = Arc::new(GatedBucket {
            inner: Mutex::new(LocalBucket::in_memory()),
            lost: watch::Sender::new(()),
            gate: Semaphore::new(1),
            lose: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        });
        let audit = Arc::new(Remembered::default());
        let clock = Arc::new(HandClock(AtomicU64::new(1_000_000)));
        let sealer = Sealer::generate().unwrap();
        let config = PlaneConfig {
            bucket: Arc::clone(&bucket) as Arc<dyn Bucket>,
            audit: Arc::clone(&audit) as Arc<dyn AuditLog>,
            sealer: sealer.clone(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let plane = Plane::open(config).await.unwrap();
        Self { plane, bucket, audit, clock, sealer }
    }

    /// With the clients `demo` and `shop`, and nothing in the audit log.
    pub(crate) async fn with_clients() -> Self {
        let stage = Self::empty().await;
        for code in ["demo", "shop"] {
            let new = NewClient { code: code.into(), settings: Settings::default() };
            stage.plane.create_client(&Principal::system(), new).await.unwrap();
        }
        stage.audit.forget();
        stage
    }

    /// A node that follows the bucket.
    pub(crate) async fn node(&self, name: &str) -> Node {
        let config = NodeConfig {
            node: name.into(),
            roles: vec!["edge".into()],
            lease: Duration::from_secs(10),
            key: self.sealer.verifying(),
            status: Arc::new(NodeStatus::default),
        };
        let bucket = Arc::clone(&self.bucket) as Arc<dyn Bucket>;
        let node = Node::start(bucket, config, Arc::clone(&self.clock) as Arc<dyn Clock>).unwrap();
        node.synced().await;
        node
    }

    /// A node that said one thing and nothing more.
    pub(crate) async fn silent_node(&self, name: &str, lease: Duration) {
        let run = NodeRun { node: name.into(), run: "0011".into() };
        let key = Key::new(format!("node.{run}")).unwrap();
        let beat = Heartbeat {
            run,
            roles: vec!["edge".into()],
            number: 1,
            applied: Revision(0),
            epoch: None,
            lease_ms: u64::try_from(lease.as_millis()).unwrap(),
            left: false,
            status: NodeStatus::default(),
        };
        let value = serde_json::to_vec(&beat).unwrap().into();
        let revision = self.bucket.put(key, value, Expected::Any, Durability::Ephemeral).await.unwrap();
        self.plane.caught_up(revision).await;
    }

    /// A user whose password is [`PASSWORD`], put where the control plane would put it.
    pub(crate) async fn user(&self, name: &str, grants: &[(&str, Role)]) -> Principal {
        let roles = grants.iter().map(|(client, role)| Grant { client: (*client).into(), role: *role });
        let record = UserRecord {
            name: name.into(),
            version: 1,
            password: hashed(),
            roles: roles.collect(),
            created_ms: self.clock.unix_ms(),
        };
        let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        let key = Key::new(format!("user.{hex}")).unwrap();
        let sealed = self.sealer.seal(&key, &record);
        let revision = self.bucket.put(key, sealed, Expected::Absent, Durability::Durable).await.unwrap();
        self.plane.caught_up(revision).await;
        Principal { who: name.into(), grants: record.roles, proof: Proof::Basic, from: "10.0.0.9".into() }
    }

    /// An admin key with a role for a client.
    pub(crate) async fn key(&self, client: &str, role: Role) -> Zeroizing<String> {
        let name = format!("{}-{}", client.replace('*', "all"), role.as_str());
        let roles = vec![Grant { client: client.into(), role }];
        let made = self.plane.create_key(&Principal::system(), &name, roles, None).await.unwrap();
        Zeroizing::new(made.secret.reveal().to_owned())
    }
}

fn hashed() -> String {
    use argon2::password_hash::PasswordHasher as _;
    let params = argon2::Params::new(64, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon2.hash_password(PASSWORD.as_bytes()).unwrap().to_string()
}
