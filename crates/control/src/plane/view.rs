//! What the control plane has read of the bucket.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cameo_auth::Revision;
use cameo_auth::bucket::{Change, Expected, Key, WatchEnd};
use cameo_auth::clock::Mono;
use cameo_auth::lease::{Epoch, NodeRun, Roster};
use cameo_auth::node::{BEAT_KIND, EPOCH_KEY, Heartbeat, USED_KIND, epoch_of};
use cameo_auth::record::{self, ClientRecord, TokenId};
use cameo_auth::seal::{Sealer, Verifying};
use cameo_profile::ClientCode;

use super::users::{KEY_KIND, KeyRecord, USER_KIND, UserRecord};
use super::{Inner, SWEEP_EVERY};

/// Pause before a broken watch is begun again.
const WATCH_AGAIN: Duration = Duration::from_millis(200);
/// A node that was silent for so long beyond its lease is taken off the list.
const GONE_AFTER: Duration = Duration::from_secs(600);
/// Entries of last uses that one look takes out of the bucket, each by a durable write; the others wait for the next one.
const UNUSED_AT_ONCE: usize = 100;

/// Everything that was read.
pub(super) struct View {
    verifying: Verifying,
    /// How often it was begun anew.
    pub(super) pass: u64,
    /// Up to where anybody is known to have read before it was.
    pub(super) floor: Revision,
    /// Records that are known here and were not found in the bucket since.
    pub(super) lost: BTreeSet<Key>,
    pub(super) clients: BTreeMap<String, ClientRecord>,
    pub(super) users: BTreeMap<String, UserRecord>,
    pub(super) keys: BTreeMap<String, KeyRecord>,
    pub(super) beats: BTreeMap<NodeRun, (Heartbeat, Mono)>,
    pub(super) roster: Roster,
    pub(super) used: HashMap<TokenId, LastUse>,
    /// Heartbeats of nodes that have left, to be taken out of the bucket.
    left: Vec<(Key, Revision)>,
    /// Users and keys that were removed, with their last version: a record that comes back as it was is somebody else's
    /// doing, although it is signed. Grows with what people remove, as the marks in the bucket do.
    gone: BTreeMap<Key, u64>,
    /// Entries that are not ours, with what is wrong with them.
    foreign: BTreeMap<Key, String>,
}

/// When a token was last used, as nodes told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LastUse {
    /// Since 1970.
    pub(super) minute: u32,
    /// Where that was told last.
    revision: Revision,
}

/// An entry that is not in the bucket as it was last seen.
pub(super) struct Lost {
    pub(super) key: Key,
    pub(super) version: u64,
    /// What belongs there; `None`: nothing.
    pub(super) value: Option<Bytes>,
}

/// A record with a version, which never goes back.
pub(super) trait Versioned: serde::de::DeserializeOwned + serde::Serialize {
    /// Whether people may remove one. Where they may not, one that is gone from the bucket is somebody else's doing.
    const REMOVABLE: bool;
    /// Where it stands in the bucket.
    fn key(&self) -> Option<Key>;
    /// What the view finds it by.
    fn handle(&self) -> &str;
    fn version(&self) -> u64;
}

impl Versioned for ClientRecord {
    const REMOVABLE: bool = false;

    fn key(&self) -> Option<Key> {
        Some(Self::key(&ClientCode::new(&self.code).ok()?))
    }

    fn handle(&self) -> &str {
        &self.code
    }

    fn version(&self) -> u64 {
        self.version
    }
}

impl Versioned for UserRecord {
    const REMOVABLE: bool = true;

    fn key(&self) -> Option<Key> {
        super::users::user_key(&self.name).ok()
    }

    fn handle(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }
}

impl Versioned for KeyRecord {
    const REMOVABLE: bool = true;

    fn key(&self) -> Option<Key> {
        Key::new(format!("{KEY_KIND}.{}", self.id)).ok()
    }

    fn handle(&self) -> &str {
        &self.id
    }

    fn version(&self) -> u64 {
        1
    }
}

impl View {
    pub(super) fn new(verifying: Verifying) -> Self {
        Self {
            verifying,
            pass: 0,
            floor: Revision(0),
            lost: BTreeSet::new(),
            clients: BTreeMap::new(),
            users: BTreeMap::new(),
            keys: BTreeMap::new(),
            beats: BTreeMap::new(),
            roster: Roster::default(),
            used: HashMap::new(),
            left: Vec::new(),
            gone: BTreeMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Counts everything as unread, in a history of this name. What is known stays, and is looked for in the bucket.
    pub(super) fn begin_anew(&mut self, epoch: Epoch) {
        self.pass += 1;
        self.floor = self.floor.max(self.roster.begin_anew(epoch));
        self.lost = self.records().into_iter().map(|record| record.0).collect();
        // What names places in the bucket is read again with them.
        self.used.clear();
        self.left.clear();
        self.foreign.clear();
    }

    /// Every record that is known here, with its version.
    fn records(&self) -> Vec<(Key, u64)> {
        let clients = self.clients.values().filter_map(entry_of);
        clients.chain(self.users.values().filter_map(entry_of)).chain(self.keys.values().filter_map(entry_of)).collect()
    }

    /// What the bucket has lost, as it was; and what has come back that was removed, with its last version.
    pub(super) fn lost(&self, sealer: &Sealer) -> Vec<Lost> {
        fn all<'a, T: Versioned + 'a>(
            records: impl Iterator<Item = &'a T>,
            lost: &BTreeSet<Key>,
            sealer: &Sealer,
        ) -> Vec<Lost> {
            let found = records.filter_map(|record| Some((entry_of(record)?, record)));
            let found = found.filter(|((key, _), _)| lost.contains(key));
            let sealed = |((key, version), record): ((Key, u64), &T)| {
                let value = Some(sealer.seal(&key, record));
                Lost { key, version, value }
            };
            found.map(sealed).collect()
        }
        let mut lost = all(self.clients.values(), &self.lost, sealer);
        lost.extend(all(self.users.values(), &self.lost, sealer));
        lost.extend(all(self.keys.values(), &self.lost, sealer));
        let back = self.gone.iter().filter(|(key, _)| self.foreign.contains_key(key));
        lost.extend(back.map(|(key, version)| Lost { key: key.clone(), version: *version, value: None }));
        lost
    }

    /// What the first entry is that is not ours.
    pub(super) fn foreign(&self) -> Option<String> {
        self.foreign.iter().next().map(|(key, why)| format!("the control store's entry {key} is not taken: {why}"))
    }

    /// The version that a record has to exceed, if one of its key was removed.
    pub(super) fn version_gone(&self, key: &Key) -> u64 {
        self.gone.get(key).copied().unwrap_or(0)
    }

    /// Takes in a change that came at `now`.
    fn take(&mut self, change: &Change, now: Mono) {
        let key = &change.key;
        let taken = if key.name_of(record::KIND).is_some() {
            take_record(&self.verifying, &mut self.clients, change, &mut self.gone)
        } else if key.name_of(USER_KIND).is_some() {
            take_record(&self.verifying, &mut self.users, change, &mut self.gone)
        } else if key.name_of(KEY_KIND).is_some() {
            take_record(&self.verifying, &mut self.keys, change, &mut self.gone)
        } else {
            self.take_unsealed(change, now);
            Ok(())
        };
        match taken {
            Ok(()) => {
                self.lost.remove(key);
                self.foreign.remove(key);
            }
            Err(why) => {
                tracing::error!(%key, %why, "an entry of the control store is not taken");
                self.foreign.insert(key.clone(), why);
            }
        }
        self.roster.read_to(change.revision, change.last);
    }

    fn take_unsealed(&mut self, change: &Change, now: Mono) {
        if change.key.as_str() == EPOCH_KEY {
            if let Some(epoch) = epoch_of(change) {
                self.roster.begun(epoch, change.revision, now);
            }
        } else if let Some(name) = change.key.name_of(BEAT_KIND) {
            // A deleted heartbeat is our own sweeping, after the roster has let go of the node.
            let Some(beat) = change.value.as_deref().and_then(Heartbeat::read) else { return };
            if beat.run.to_string() != name {
                return;
            }
            self.roster.heard(beat.beat(), now);
            if beat.left {
                self.beats.remove(&beat.run);
                self.left.push((change.key.clone(), change.revision));
            } else {
                self.beats.insert(beat.run.clone(), (beat, now));
            }
        } else if let Some(id) = change.key.name_of(USED_KIND) {
            let id = TokenId(id.to_owned());
            let Some(value) = &change.value else {
                self.used.remove(&id);
                return;
            };
            let minute = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            let held = self.used.entry(id).or_default();
            *held = LastUse { minute: held.minute.max(minute.unwrap_or(0)), revision: change.revision };
        }
    }

    /// The entries of last uses whose token is gone for good. Only up to where everything was read: before, the record
    /// that has the token may still be to come. A node that did not know yet may write one anew; it is found again.
    fn unused(&self) -> Vec<(Key, Revision)> {
        let read = self.roster.read();
        let tokens: HashSet<_> =
            self.clients.values().flat_map(|client| &client.tokens).map(|token| &token.id).collect();
        let gone = self.used.iter().filter(|(id, used)| used.revision <= read && !tokens.contains(id));
        let entry =
            |(id, used): (&TokenId, &LastUse)| Some((Key::new(format!("{USED_KIND}.{}", id.0)).ok()?, used.revision));
        gone.filter_map(entry).take(UNUSED_AT_ONCE).collect()
    }
}

fn entry_of<T: Versioned>(record: &T) -> Option<(Key, u64)> {
    Some((record.key()?, record.version()))
}

/// Takes in a record; one that was removed leaves its version in `gone`.
fn take_record<T: Versioned>(
    verifying: &Verifying,
    into: &mut BTreeMap<String, T>,
    change: &Change,
    gone: &mut BTreeMap<Key, u64>,
) -> Result<(), String> {
    let Some(value) = &change.value else {
        if !T::REMOVABLE {
            return Err("it was deleted by somebody else".into());
        }
        into.retain(|_, record| {
            let goes = record.key().as_ref() == Some(&change.key);
            if goes {
                gone.insert(change.key.clone(), record.version());
            }
            !goes
        });
        return Ok(());
    };
    let record: T = verifying.open(&change.key, value).map_err(|error| error.to_string())?;
    if gone.get(&change.key).is_some_and(|last| record.version() <= *last) {
        return Err(format!("it was removed, and has come back as version {}", record.version()));
    }
    if into.get(record.handle()).is_some_and(|held| held.version() > record.version()) {
        return Err(format!("version {} is older than what was there", record.version()));
    }
    into.insert(record.handle().to_owned(), record);
    Ok(())
}

impl Inner {
    /// Takes in a change. Whoever waits for a revision is told only where the watch had caught up: before, an entry that
    /// was replaced is left out, and its effect comes with a later one.
    ///
    /// One of a watch from before everything was begun anew counts no more.
    pub(super) fn take(&self, change: &Change, pass: u64) {
        let mut view = self.view.write();
        if view.pass != pass {
            return;
        }
        view.take(change, self.config.clock.mono());
        let read = view.roster.read();
        // Under the lock: a revision of before must not be told after all was begun anew.
        self.read.send_if_modified(|told| std::mem::replace(told, read) != read);
    }
}

/// Follows the bucket for as long as there is a control plane.
pub(super) async fn follow(plane: Weak<Inner>) {
    let Some(mut passes) = plane.upgrade().map(|inner| inner.pass.subscribe()) else { return };
    let (mut pass, mut after) = (0, Revision(0));
    loop {
        let Some(bucket) = plane.upgrade().map(|inner| Arc::clone(&inner.config.bucket)) else { return };
        let now = *passes.borrow_and_update();
        if std::mem::replace(&mut pass, now) != now {
            after = Revision(0);
        }
        match bucket.watch(after).await {
            Err(error) => tracing::warn!(%error, "the control bucket cannot be watched; trying again"),
            Ok(mut watch) => loop {
                let next = tokio::select! {
                    next = watch.next() => next,
                    // Also when there is no control plane any more, which is seen then.
                    _ = passes.changed() => break,
                };
                let Some(inner) = plane.upgrade() else { return };
                match next {
                    Ok(change) if change.revision > after => {
                        after = change.revision;
                        inner.take(&change, pass);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the watch of the control bucket broke; it is begun again");
                        if matches!(error, WatchEnd::Missed(_) | WatchEnd::Lost(_)) {
                            inner.begin_anew(pass);
                        }
                        break;
                    }
                }
            },
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

/// Looks every so often for what has no use any more.
pub(super) async fn sweep(plane: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(inner) = plane.upgrade() else { return };
        inner.sweep().await;
    }
}

impl Inner {
    /// Takes nodes off the list that are gone for good, and out of the bucket their heartbeats and the last uses of
    /// tokens that are gone.
    pub(super) async fn sweep(&self) {
        let now = self.config.clock.mono();
        let (gone, read, mut over) = {
            let mut view = self.view.write();
            let gone = view.roster.forget_silent(GONE_AFTER, now);
            gone.iter().for_each(|run| drop(view.beats.remove(run)));
            let mut over = std::mem::take(&mut view.left);
            over.extend(view.unused());
            (gone, view.roster.read(), over)
        };
        for run in gone {
            let Ok(key) = Key::new(format!("{BEAT_KIND}.{run}")) else { continue };
            // A heartbeat that was not read yet says that the node is back. Deleted, it would never be heard.
            if let Ok(Some(entry)) = self.config.bucket.get(&key).await
                && entry.revision <= read
            {
                over.push((key, entry.revision));
            }
        }
        for (key, revision) in over {
            // Only if nothing was said since: a node that comes back is heard again.
            if let Err(error) = self.config.bucket.delete(key.clone(), Expected::At(revision)).await {
                tracing::debug!(%key, %error, "an entry that has no use any more stays");
            }
        }
    }
}
