//! The audit log of one process, in fjall: `id (u64, big-endian)` → the entry as JSON.
//!
//! The database is opened anew after a failed write: a full disk poisons it, and it must work again when there is room.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Keyspace, PersistMode};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{AuditLog, ENTRIES_MAX, Entry, Filter, PAGE_MAX, Page, Unusable};

/// Entries that one page looks at, at most: a filter that takes none must not read the whole log in one call.
const LOOKED_AT: usize = 20_000;

struct Inner {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// `None` after a failure, until it could be opened again.
    open: Option<(Database, Keyspace)>,
    /// The next id.
    next: u64,
    /// The oldest that is there.
    oldest: u64,
}

/// Name of the keyspace with all entries.
const KEYSPACE: &str = "audit";

/// An audit log in a directory. Cheap to clone.
#[derive(Clone)]
pub struct LocalAudit(Arc<Inner>);

fn unusable(error: impl std::fmt::Display) -> Unusable {
    Unusable(error.to_string())
}

fn id_of(key: &[u8]) -> Result<u64, Unusable> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| unusable("a key is not one of ours"))
}

impl State {
    fn open(&mut self, dir: &Path) -> fjall::Result<(Database, Keyspace)> {
        if let Some(open) = &self.open {
            return Ok(open.clone());
        }
        let open = cameo_store::open(dir, KEYSPACE)?;
        self.open = Some(open.clone());
        Ok(open)
    }

    fn append(&mut self, dir: &Path, key: [u8; 8], bytes: Vec<u8>) -> fjall::Result<()> {
        let (database, entries) = self.open(dir)?;
        entries.insert(key, bytes)?;
        while self.next - self.oldest > ENTRIES_MAX {
            entries.remove(self.oldest.to_be_bytes())?;
            self.oldest += 1;
        }
        database.persist(PersistMode::SyncAll)
    }
}

impl LocalAudit {
    /// The one in a directory, created when missing. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, Unusable> {
        let (database, entries) = cameo_store::open(dir, KEYSPACE).map_err(unusable)?;
        let id = |guard: Option<fjall::Guard>| match guard {
            None => Ok(None),
            Some(guard) => guard.key().map_err(unusable).and_then(|key| id_of(&key)).map(Some),
        };
        let oldest = id(entries.first_key_value())?.unwrap_or(1);
        let next = id(entries.last_key_value())?.map_or(1, |id| id + 1);
        let state = State { open: Some((database, entries)), next, oldest };
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), state: Mutex::new(state) })))
    }

    fn write(&self, entry: Entry) -> Result<(), Unusable> {
        // Held over the write: ids are in the order of the log.
        let mut state = self.0.state.lock();
        let id = state.next;
        let bytes = serde_json::to_vec(&Entry { id, ..entry }).map_err(unusable)?;
        // Used up also when it fails: it may be on the disk.
        state.next += 1;
        let written = state.append(&self.0.dir, id.to_be_bytes(), bytes);
        if written.is_err() {
            state.open = None;
        }
        written.map_err(unusable)
    }

    fn read(&self, filter: &Filter) -> Result<Page, Unusable> {
        let limit = filter.limit.clamp(1, PAGE_MAX);
        let end = filter.before.unwrap_or(u64::MAX).to_be_bytes();
        let mut page = Page::default();
        // Not kept: an old handle would stand in the way of opening anew.
        let (_, entries) = self.0.state.lock().open(&self.0.dir).map_err(unusable)?;
        for (looked, guard) in entries.range(..end).rev().enumerate() {
            let (key, value) = guard.into_inner().map_err(unusable)?;
            if page.entries.len() == limit || looked == LOOKED_AT {
                page.next = Some(id_of(&key)? + 1);
                break;
            }
            let entry: Entry = serde_json::from_slice(&value).map_err(unusable)?;
            if filter.takes(&entry) {
                page.entries.push(entry);
            }
        }
        Ok(page)
    }
}

impl AuditLog for LocalAudit {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), Unusable>> {
        let audit = self.clone();
        Box::pin(async move {
            let writing = tokio::task::spawn_blocking(move || audit.write(entry));
            writing.await.unwrap_or_else(|error| Err(unusable(error)))
        })
    }

    fn page(&self, filter: Filter) -> BoxFuture<'_, Result<Page, Unusable>> {
        let audit = self.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || audit.read(&filter));
            reading.await.unwrap_or_else(|error| Err(unusable(error)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::AuditResult;
    use super::*;

    fn entry(action: &str, client: Option<&str>) -> Entry {
        Entry {
            id: 0,
            at_ms: 1,
            who: "ada".into(),
            action: action.into(),
            client: client.map(str::to_owned),
            target: None,
            from: "127.0.0.1".into(),
            result: AuditResult::Done,
            detail: None,
        }
    }

    #[tokio::test]
    async fn pages_go_back_in_time_without_a_gap_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let audit = LocalAudit::open(dir.path()).unwrap();
        for n in 0..25 {
            let client = if n % 2 == 0 { Some("demo") } else { None };
            audit.append(entry(if n % 5 == 0 { "token.rotate" } else { "settings.read" }, client)).await.unwrap();
        }
        drop(audit);
        let audit = LocalAudit::open(dir.path()).unwrap();
        audit.append(entry("user.manage", None)).await.unwrap();
        let mut ids = Vec::new();
        let mut before = None;
        loop {
            let page = audit.page(Filter { before, limit: 7, ..Filter::default() }).await.unwrap();
            assert!(page.entries.len() <= 7);
            ids.extend(page.entries.iter().map(|entry| entry.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(ids, (1..=26).rev().collect::<Vec<_>>());
        let filter = |client: Option<&str>, action: Option<&str>| Filter {
            client: client.map(str::to_owned),
            action: action.map(str::to_owned),
            limit: 100,
            ..Filter::default()
        };
        assert_eq!(audit.page(filter(Some("demo"), None)).await.unwrap().entries.len(), 13);
        assert_eq!(audit.page(filter(None, Some("token"))).await.unwrap().entries.len(), 5);
        assert_eq!(audit.page(filter(None, Some("tok"))).await.unwrap().entries.len(), 0);
        assert_eq!(audit.page(filter(Some("demo"), Some("token.rotate"))).await.unwrap().entries.len(), 3);
    }
}
