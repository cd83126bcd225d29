//! A node's part of the protocol: follow the bucket, keep the state that requests are judged by, and earn the lease.
//!
//! ```text
//! watch task:  change → new state → swap it in → (own heartbeat, and caught up?) lease until = sent + lease
//! beat task:   every second or more often, and at once after a change was applied: heartbeat with the revision applied
//!              without a gap
//! ```
//! A watch that may have missed something, and the name of another history ([`Epoch`]), begin it all again from the first
//! entry; what is applied meanwhile is reported of no history.
//!
//! Both touch the lease under one short lock; requests only read two atomics ([`crate::verifier`]).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::bucket::{Bucket, Change, Durability, Expected, Key, Revision, WatchEnd};
use crate::clock::{Clock, Mono};
use crate::lease::{Beat, Epoch, LEASE_SECONDS, NodeLease, NodeRun, heartbeat_every};
use crate::record::TokenId;
use crate::seal::Verifying;
use crate::state::AuthState;
use crate::token::Digest;
use crate::verifier::{self, Shared, Verifier};

#[cfg(test)]
mod tests;

/// Kind of the keys of heartbeats: `node.{node}.{run}`.
pub const BEAT_KIND: &str = "node";
/// Kind of the keys that say when a token was last used: `used.{token}`, minutes since 1970.
pub const USED_KIND: &str = "used";
/// The entry with the name of the history, as the control plane writes it: [`Epoch`].
pub const EPOCH_KEY: &str = "control.epoch";
/// Pause before a broken watch is begun again.
const WATCH_AGAIN: Duration = Duration::from_millis(200);
/// How long a heartbeat may take before the next one is tried.
const BEAT_PATIENCE: Duration = Duration::from_secs(3);
/// Tokens whose last use is told with one heartbeat; the others follow with the next.
const USED_AT_ONCE: usize = 32;
/// Characters of a node's name.
pub const NODE_CHARS: usize = 64;

/// How a node runs.
#[derive(Clone)]
pub struct NodeConfig {
    /// Its name, of `a-z A-Z 0-9 - _`, one of a kind in the cluster.
    pub node: String,
    /// What it does, for people: `edge`, `gateway`, `control`.
    pub roles: Vec<String>,
    /// How long it may decide on protected calls after it last proved to be fresh.
    pub lease: Duration,
    /// Whose records it takes.
    pub key: Verifying,
    /// How it is doing, for people: goes into every heartbeat.
    pub status: Arc<dyn Fn() -> NodeStatus + Send + Sync>,
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig").field("node", &self.node).field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// How a node is doing, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Frames in the log that it has not applied yet.
    pub lag_frames: u64,
    /// Profiles it holds.
    pub profiles: u64,
    /// Whether `/readyz` would say so.
    pub ready: bool,
}

/// A heartbeat as it stands in the bucket. Not sealed: it says nothing that opens anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Who.
    #[serde(flatten)]
    pub run: NodeRun,
    /// What it does.
    pub roles: Vec<String>,
    /// Rises by one.
    pub number: u64,
    /// Up to which revision the bucket has been applied without a gap.
    pub applied: Revision,
    /// Of which history. A node of before this was told says none, and is waited for until its lease is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Its lease.
    pub lease_ms: u64,
    /// It has given up its lease for good.
    pub left: bool,
    /// How it is doing.
    pub status: NodeStatus,
}

impl Heartbeat {
    /// As the lease protocol sees it. No node has a longer lease than may be set: whoever writes more in its place shall not
    /// hold up changes for longer.
    #[must_use]
    pub fn beat(&self) -> Beat {
        let longest = Duration::from_secs(*LEASE_SECONDS.end());
        let lease = Duration::from_millis(self.lease_ms).min(longest);
        let (run, epoch) = (self.run.clone(), self.epoch.clone());
        Beat { run, applied: self.applied, epoch, lease, left: self.left }
    }

    /// Reads the value of a `node.…` entry.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// Why a node cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Its name cannot be part of a key.
    #[error("a node's name has 1 to {NODE_CHARS} of a-z A-Z 0-9 - _, which {0:?} has not")]
    Name(String),
    /// There is no randomness to name its run with.
    #[error("the system has no randomness to give")]
    Randomness,
}

struct Inner {
    shared: Arc<Shared>,
    bucket: Arc<dyn Bucket>,
    config: NodeConfig,
    run: NodeRun,
    key: Key,
    lease: Mutex<NodeLease>,
    /// Up to where the bucket has been applied and nothing was left out, and of which history: what heartbeats report.
    applied: Mutex<(Revision, Option<Epoch>)>,
    /// Told when a record was applied: the heartbeat that reports it shall not wait for its second.
    hurry: Notify,
    leaving: AtomicBool,
    /// Turns to true when the lease is earned for the first time, and stays so.
    earned: watch::Sender<bool>,
    /// The revision of the client's record that was applied last.
    changed: watch::Sender<Revision>,
}

/// How far a node has come.
#[derive(Default)]
struct Following {
    /// Up to where it has read,
    read: Revision,
    /// whether it has known everything up to some place since it began at the first entry,
    caught_up: bool,
    /// and the name of the history that it reads.
    epoch: Option<Epoch>,
    /// Records as they were taken last: the same ones are not looked at again.
    taken: HashMap<Key, Digest>,
    /// Records that could not be taken. While there is one, no lease is earned.
    refused: BTreeSet<Key>,
    /// A record was applied that no heartbeat reports yet.
    untold: bool,
}

/// A node that follows the bucket.
pub struct Node {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Begins to follow.
    ///
    /// # Errors
    /// When its name cannot be one.
    pub fn start(bucket: Arc<dyn Bucket>, config: NodeConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if config.node.is_empty() || config.node.len() > NODE_CHARS || !config.node.chars().all(plain) {
            return Err(StartError::Name(config.node));
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| StartError::Randomness)?;
        let run = NodeRun { node: config.node.clone(), run: crate::hex::encode(&random) };
        verifier::describe_metrics();
        let key = Key::new(format!("{BEAT_KIND}.{run}")).map_err(|_| StartError::Name(config.node.clone()))?;
        let shared = Shared {
            state: ArcSwap::from_pointee(AuthState::default()),
            until_ms: AtomicU64::new(0),
            clock,
            control: Some(config.key),
        };
        let inner = Arc::new(Inner {
            shared: Arc::new(shared),
            bucket,
            lease: Mutex::new(NodeLease::new(config.lease)),
            config,
            run,
            key,
            applied: Mutex::default(),
            hurry: Notify::new(),
            leaving: AtomicBool::new(false),
            earned: watch::Sender::new(false),
            changed: watch::Sender::new(Revision(0)),
        });
        let tasks = vec![tokio::spawn(Arc::clone(&inner).follow()), tokio::spawn(Arc::clone(&inner).beat())];
        Ok(Self { inner, tasks })
    }

    /// Judges requests by what this node knows.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier(Arc::clone(&self.inner.shared))
    }

    /// This run of this node.
    #[must_use]
    pub fn run(&self) -> &NodeRun {
        &self.inner.run
    }

    /// Waits until the lease is earned for the first time: by then everything that was in the bucket is known.
    pub async fn synced(&self) {
        // The sender lives in `self`.
        let _ = self.inner.earned.subscribe().wait_for(|earned| *earned).await;
    }

    /// Told after every change of a client's record; holds its revision.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.inner.changed.subscribe()
    }

    /// Gives up the lease and says so, so that nobody waits for it. Protected calls are refused from now on.
    pub async fn leave(self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            // Aborted, or ended by a panic that was reported.
            let _ = task.await;
        }
        self.inner.leaving.store(true, Ordering::Relaxed);
        self.inner.lease.lock().give_up();
        self.inner.shared.until_ms.store(0, Ordering::Release);
        self.inner.send_beat().await;
    }
}

impl Inner {
    /// Applies the bucket, from its beginning, for as long as the node runs.
    async fn follow(self: Arc<Self>) {
        let mut following = Following::default();
        loop {
            match self.bucket.watch(following.read).await {
                Err(error) => tracing::warn!(%error, "the control bucket cannot be watched; trying again"),
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(change) if self.is_of_another_history(&change, &following) => {
                            tracing::info!("the control plane has begun another history: all is read again");
                            self.begin_anew(&mut following);
                            break;
                        }
                        Ok(change) => self.take(&change, &mut following),
                        Err(error) => {
                            tracing::warn!(%error, "the watch of the control bucket broke; it is begun again");
                            match error {
                                WatchEnd::Unreadable(_) => {}
                                WatchEnd::Missed(_) => self.begin_anew(&mut following),
                                WatchEnd::Lost(_) => {
                                    self.give_up();
                                    self.begin_anew(&mut following);
                                }
                            }
                            break;
                        }
                    }
                },
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    /// Whether a change says that places of what was read may have been given anew. Whoever begins at the first entry takes
    /// the name that is there.
    fn is_of_another_history(&self, change: &Change, following: &Following) -> bool {
        change.key.as_str() == EPOCH_KEY
            && change.revision > following.read
            && (following.epoch.is_some() || following.caught_up)
            && epoch_of(change) != following.epoch
    }

    /// What was read counts as not read. What the state holds stays: records have versions, and go back nowhere.
    fn begin_anew(&self, following: &mut Following) {
        *self.applied.lock() = (Revision(0), None);
        (following.read, following.epoch, following.caught_up) = (Revision(0), None, false);
        following.refused.clear();
        following.untold = true;
    }

    /// Only a heartbeat that is sent from now on earns the lease anew.
    fn give_up(&self) {
        let mut lease = self.lease.lock();
        lease.give_up();
        self.shared.until_ms.store(0, Ordering::Release);
    }

    fn take(&self, change: &Change, following: &mut Following) {
        // A watch that was begun again may start too early.
        if change.revision <= following.read {
            return;
        }
        if change.key.as_str() == EPOCH_KEY {
            following.epoch = epoch_of(change);
            following.untold = true;
        }
        if AuthState::concerns(change) {
            self.take_record(change, following);
        }
        following.read = change.revision;
        if change.key == self.key
            && let Some(beat) = change.value.as_deref().and_then(Heartbeat::read)
        {
            self.lease.lock().came_back(beat.number);
        }
        if change.last {
            self.caught_up(following);
        }
    }

    fn take_record(&self, change: &Change, following: &mut Following) {
        let digest = change.value.as_deref().map(Digest::of);
        if digest.is_some() && following.taken.get(&change.key) == digest.as_ref() {
            following.refused.remove(&change.key);
            return;
        }
        let taken = self.shared.state.load().with(change, &self.config.key);
        match taken {
            Ok(state) => {
                following.refused.remove(&change.key);
                following.taken.extend(digest.map(|digest| (change.key.clone(), digest)));
                self.shared.state.store(Arc::new(state));
                self.changed.send_replace(change.revision);
            }
            Err(error) => {
                tracing::error!(%error, "protected calls are refused until the control plane writes it anew");
                following.refused.insert(change.key.clone());
                self.give_up();
            }
        }
        following.untold = true;
    }

    /// Everything up to here has been applied: it may be reported, and the lease is earned.
    fn caught_up(&self, following: &mut Following) {
        following.caught_up = true;
        *self.applied.lock() = (following.read, following.epoch.clone());
        if following.refused.is_empty() {
            let mut lease = self.lease.lock();
            lease.caught_up();
            let until = lease.until();
            self.shared.until_ms.store(until.0, Ordering::Release);
            drop(lease);
            if until > Mono(0) {
                self.earned.send_if_modified(|earned| !std::mem::replace(earned, true));
            }
        }
        if std::mem::take(&mut following.untold) {
            self.hurry.notify_one();
        }
    }

    /// Sends heartbeats for as long as the node runs.
    async fn beat(self: Arc<Self>) {
        let mut told = HashMap::new();
        loop {
            let sent = tokio::time::timeout(BEAT_PATIENCE.min(self.config.lease), self.send_beat()).await;
            if sent.is_err() {
                tracing::warn!("a heartbeat was not taken in time; sending the next one");
            }
            self.tell_used(&mut told).await;
            self.measure();
            // Either is enough, and neither waits for the other.
            let _ = tokio::time::timeout(heartbeat_every(self.config.lease), self.hurry.notified()).await;
        }
    }

    async fn send_beat(&self) {
        let status = (self.config.status)();
        // Before the moment is read: what is applied later is reported by the next one.
        let (applied, epoch) = self.applied.lock().clone();
        let number = self.lease.lock().sending(self.shared.clock.mono());
        let beat = Heartbeat {
            run: self.run.clone(),
            roles: self.config.roles.clone(),
            number,
            applied,
            epoch,
            lease_ms: u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX),
            left: self.leaving.load(Ordering::Relaxed),
            status,
        };
        let Ok(value) = serde_json::to_vec(&beat) else { return };
        let put = self.bucket.put(self.key.clone(), value.into(), Expected::Any, Durability::Ephemeral);
        if let Err(error) = put.await {
            tracing::warn!(%error, "a heartbeat could not be written");
        }
    }

    /// Tells when tokens were last used, where that minute is not told yet.
    async fn tell_used(&self, told: &mut HashMap<TokenId, u32>) {
        let state = self.shared.state.load_full();
        told.retain(|id, _| state.holds(id));
        let news = state.used().map(|(id, used)| (id, used.minute()));
        let news = news.filter(|(id, minute)| *minute > told.get(id).copied().unwrap_or(0));
        let news: Vec<_> = news.take(USED_AT_ONCE).map(|(id, minute)| (id.clone(), minute)).collect();
        for (id, minute) in news {
            let Ok(key) = Key::new(format!("{USED_KIND}.{}", id.0)) else { continue };
            let value = Bytes::from(minute.to_string());
            let put = self.bucket.put(key, value, Expected::Any, Durability::Durable);
            if matches!(tokio::time::timeout(BEAT_PATIENCE, put).await, Ok(Ok(_))) {
                told.insert(id, minute);
            }
        }
    }

    fn measure(&self) {
        let left = self.shared.until_ms.load(Ordering::Relaxed).saturating_sub(self.shared.clock.mono().0);
        metrics::gauge!("cameo_auth_lease_seconds").set(left as f64 / 1000.0);
        metrics::gauge!("cameo_auth_revision").set(self.applied.lock().0.0 as f64);
    }
}

/// The name of a history, out of its entry.
#[must_use]
pub fn epoch_of(change: &Change) -> Option<Epoch> {
    let text = std::str::from_utf8(change.value.as_deref()?).ok()?;
    Some(Epoch(text.to_owned()))
}
