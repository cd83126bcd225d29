//! The bucket of one process: in memory, and in fjall when it is to survive.
//!
//! ```text
//! key (text)    revision (u64, big-endian), then 0 for deleted or 1 and the value
//! 0xff          highest revision ever given out (u64, big-endian); rewritten in steps
//! ```
//! A deletion stays as a mark, so that a watch from before it learns of it. Names are bounded by what people create.
//! Ephemeral entries are not written: they speak of processes that ended with this one.
//!
//! A write that fails leaves its entry in doubt, and the database closed: a full disk poisons it. The next write or look
//! at that entry opens it anew and asks what is there; what is there then gets the next place in the order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, PersistMode};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Bucket, Change, Durability, Entry, Expected, Key, PutError, Revision, Unreadable, VALUE_BYTES, Watch, WatchEnd,
};

/// Revisions that one durable write reserves, so that those of ephemeral entries are not given out again after a restart.
const REVISION_STEP: u64 = 1 << 20;
const HIGHEST: &[u8] = &[0xff];

/// Why the bucket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database does not open, read or write.
    #[error("the control store in {} cannot be used", dir.display())]
    Database {
        /// Its directory.
        dir: PathBuf,
        /// What the database said.
        source: fjall::Error,
    },
    /// A record is not what was written.
    #[error("the control store in {} is damaged: the entry {key:?} cannot be read", dir.display())]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// Which entry.
        key: String,
    },
}

#[cfg(test)]
mod tests;

#[derive(Debug, Default)]
struct Entries {
    by_key: BTreeMap<Key, (Revision, Option<Bytes>)>,
    by_revision: BTreeMap<Revision, Key>,
    last: Revision,
    /// Revisions up to here may be given out.
    reserved: u64,
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    /// `None` after a failure, until it could be opened anew.
    open: Option<Open>,
    /// The entry whose write failed: it may be there.
    doubt: Option<Key>,
    #[cfg(test)]
    fault: Option<tests::Fault>,
}

#[derive(Clone)]
struct Open {
    database: Database,
    entries: Keyspace,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

struct Inner {
    entries: Mutex<Entries>,
    /// The last revision, for watches.
    told: watch::Sender<Revision>,
}

/// A bucket in this process. Cheap to clone.
#[derive(Clone)]
pub struct LocalBucket(Arc<Inner>);

impl LocalBucket {
    /// One that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        let entries = Entries { reserved: u64::MAX, ..Entries::default() };
        Self(Arc::new(Inner { entries: Mutex::new(entries), told: watch::Sender::new(Revision(0)) }))
    }

    /// The one in a directory, created when missing. Blocks.
    ///
    /// # Errors
    /// Names the directory, and the entry that is damaged.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Database { dir: dir.to_owned(), source };
        let open = Open::at(dir).map_err(failed)?;
        let mut entries = Entries::default();
        for pair in open.entries.iter() {
            let (key, value) = pair.into_inner().map_err(failed)?;
            let damaged = || OpenError::Damaged { dir: dir.to_owned(), key: String::from_utf8_lossy(&key).into() };
            if *key == *HIGHEST {
                entries.last = Revision(u64::from_be_bytes((*value).try_into().map_err(|_| damaged())?));
                continue;
            }
            let text = String::from_utf8(key.to_vec()).map_err(|_| damaged())?;
            let name = Key::new(text).map_err(|_| damaged())?;
            let (revision, value) = decode(&value).ok_or_else(damaged)?;
            entries.by_revision.insert(revision, name.clone());
            entries.by_key.insert(name, (revision, value));
        }
        let newest = entries.by_revision.keys().next_back().copied().unwrap_or_default();
        entries.last = entries.last.max(newest);
        entries.reserved = entries.last.0;
        let told = watch::Sender::new(entries.last);
        entries.disk = Some(Disk {
            dir: dir.to_owned(),
            open: Some(open),
            doubt: None,
            #[cfg(test)]
            fault: None,
        });
        Ok(Self(Arc::new(Inner { entries: Mutex::new(entries), told })))
    }

    fn write(&self, key: Key, value: Option<Bytes>, expected: Expected, durable: bool) -> Result<Revision, PutError> {
        if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES) {
            return Err(PutError::Unavailable(format!("the value is longer than {VALUE_BYTES} bytes")));
        }
        // Held over the write to disk: order on disk, in memory and in the watches is one.
        let mut entries = self.0.entries.lock();
        let settled = entries.settle();
        self.0.told.send_if_modified(|told| std::mem::replace(told, entries.last) != entries.last);
        if durable {
            settled.map_err(|error| PutError::Unavailable(error.to_string()))?;
        }
        let held = entries.by_key.get(&key);
        let fits = match expected {
            Expected::Any => true,
            Expected::Absent => held.is_none_or(|(_, value)| value.is_none()),
            Expected::At(revision) => held.is_some_and(|(at, value)| *at == revision && value.is_some()),
        };
        if !fits {
            return Err(PutError::Conflict);
        }
        let revision = entries.reserve()?;
        if durable {
            entries.store(&key, revision, value.as_ref()).map_err(|error| PutError::Unknown(error.to_string()))?;
        }
        entries.apply(key, revision, value);
        self.0.told.send_replace(revision);
        Ok(revision)
    }

    /// Whether an entry can be told, after a write of it failed.
    fn settle(&self, key: &Key) -> Result<(), Unreadable> {
        let mut entries = self.0.entries.lock();
        if entries.disk.as_ref().and_then(|disk| disk.doubt.as_ref()) != Some(key) {
            return Ok(());
        }
        entries.settle().map_err(|error| Unreadable(error.to_string()))?;
        self.0.told.send_replace(entries.last);
        Ok(())
    }

    async fn write_blocking(
        &self,
        key: Key,
        value: Option<Bytes>,
        expected: Expected,
        durable: bool,
    ) -> Result<Revision, PutError> {
        let bucket = self.clone();
        let written = tokio::task::spawn_blocking(move || bucket.write(key, value, expected, durable)).await;
        written.unwrap_or_else(|_| Err(PutError::Unknown("the writer has ended".into())))
    }
}

impl Entries {
    /// The next revision. It is used up, whatever becomes of the write.
    fn reserve(&mut self) -> Result<Revision, PutError> {
        let revision = Revision(self.last.0 + 1);
        if revision.0 > self.reserved {
            let next = revision.0 + REVISION_STEP;
            let stored = self.disk.as_mut().map_or(Ok(()), |disk| disk.write(HIGHEST, &next.to_be_bytes()));
            stored.map_err(|error| PutError::Unavailable(error.to_string()))?;
            self.reserved = next;
        }
        self.last = revision;
        Ok(revision)
    }

    fn store(&mut self, key: &Key, revision: Revision, value: Option<&Bytes>) -> fjall::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let written = disk.write(key.as_str().as_bytes(), &encode(revision, value));
        if written.is_err() {
            disk.doubt = Some(key.clone());
        }
        written
    }

    fn apply(&mut self, key: Key, revision: Revision, value: Option<Bytes>) {
        if let Some((before, _)) = self.by_key.insert(key.clone(), (revision, value)) {
            self.by_revision.remove(&before);
        }
        self.by_revision.insert(revision, key);
    }

    /// Asks the disk what became of a write that failed. If it is there, it is written again with a new revision:
    /// others have been given out since, and watches are past the old one.
    fn settle(&mut self) -> fjall::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let Some(key) = disk.doubt.clone() else { return Ok(()) };
        let found = disk.open()?.entries.get(key.as_str())?;
        let found = found.and_then(|bytes| decode(&bytes));
        let held = self.by_key.get(&key).map(|(revision, _)| *revision);
        if let Some((revision, value)) = found
            && Some(revision) != held
        {
            let revision = self.reserve().map_err(|_| fjall::Error::Poisoned)?;
            self.store(&key, revision, value.as_ref())?;
            self.apply(key, revision, value);
        }
        if let Some(disk) = &mut self.disk {
            disk.doubt = None;
        }
        Ok(())
    }
}

impl Disk {
    fn open(&mut self) -> fjall::Result<Open> {
        #[cfg(test)]
        if self.fault == Some(tests::Fault::Closed) {
            return Err(fjall::Error::Poisoned);
        }
        if let Some(open) = &self.open {
            return Ok(open.clone());
        }
        let open = Open::at(&self.dir)?;
        self.open = Some(open.clone());
        Ok(open)
    }

    /// Writes durably. A write that failed half-way may be there after a restart.
    fn write(&mut self, key: &[u8], value: &[u8]) -> fjall::Result<()> {
        let open = self.open()?;
        #[cfg(test)]
        let fault = self.fault;
        let write = || {
            #[cfg(test)]
            if fault == Some(tests::Fault::BeforeWrite) {
                return Err(fjall::Error::Poisoned);
            }
            open.entries.insert(key, value)?;
            #[cfg(test)]
            if fault == Some(tests::Fault::AfterWrite) {
                open.database.persist(PersistMode::SyncAll)?;
                return Err(fjall::Error::Poisoned);
            }
            open.database.persist(PersistMode::SyncAll)
        };
        let written = write();
        if written.is_err() {
            self.open = None;
        }
        written
    }
}

impl Open {
    fn at(dir: &Path) -> fjall::Result<Self> {
        let (database, entries) = cameo_store::open(dir, "bucket")?;
        Ok(Self { database, entries })
    }
}

fn encode(revision: Revision, value: Option<&Bytes>) -> Vec<u8> {
    let mut out = revision.0.to_be_bytes().to_vec();
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(value.map_or(&[], |value| value));
    out
}

fn decode(bytes: &[u8]) -> Option<(Revision, Option<Bytes>)> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let value = match rest {
        [0] => None,
        [1, value @ ..] => Some(Bytes::copy_from_slice(value)),
        _ => return None,
    };
    Some((Revision(u64::from_be_bytes(*revision)), value))
}

impl Bucket for LocalBucket {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Unreadable>> {
        Box::pin(async move {
            let (bucket, of) = (self.clone(), key.clone());
            let doubted = self.0.entries.lock().disk.as_ref().is_some_and(|disk| disk.doubt.as_ref() == Some(key));
            if doubted {
                let settled = tokio::task::spawn_blocking(move || bucket.settle(&of)).await;
                settled.unwrap_or_else(|_| Err(Unreadable("the reader has ended".into())))?;
            }
            let entries = self.0.entries.lock();
            let found = entries.by_key.get(key);
            Ok(found.and_then(|(revision, value)| Some(Entry { value: value.clone()?, revision: *revision })))
        })
    }

    fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(self.write_blocking(key, Some(value), expected, durability == Durability::Durable))
    }

    fn delete(&self, key: Key, expected: Expected) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(self.write_blocking(key, None, expected, true))
    }

    fn watch(&self, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, Unreadable>> {
        let watch = LocalWatch { bucket: self.clone(), told: self.0.told.subscribe(), after };
        Box::pin(async move { Ok(Box::new(watch) as Box<dyn Watch>) })
    }
}

struct LocalWatch {
    bucket: LocalBucket,
    told: watch::Receiver<Revision>,
    after: Revision,
}

impl Watch for LocalWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Change, WatchEnd>> {
        Box::pin(async move {
            loop {
                // Marked as seen before looking: what is written between the look and the wait wakes the wait.
                self.told.borrow_and_update();
                if let Some(change) = self.bucket.first_after(self.after) {
                    self.after = change.revision;
                    return Ok(change);
                }
                self.told.changed().await.map_err(|_| Unreadable("the bucket is closed".into()))?;
            }
        })
    }
}

impl LocalBucket {
    fn first_after(&self, after: Revision) -> Option<Change> {
        let entries = self.0.entries.lock();
        let mut behind = entries.by_revision.range(Revision(after.0 + 1)..);
        let (revision, key) = behind.next()?;
        let (_, value) = entries.by_key.get(key)?;
        Some(Change { key: key.clone(), value: value.clone(), revision: *revision, last: behind.next().is_none() })
    }
}
