//! Local fjall databases: opened so that a kill at any moment, also while a new one is made, leaves one that opens.
//!
//! What it is: [`open`], and [`commit`] that does not wait without end. What it is not: it knows nothing of what is stored.
//!
//! fjall makes a new database file by file and refuses to go on with one that is half made. So a new one is made beside
//! its place, whole, and then takes its place by a rename.
//!
//! Invariant: at the path there is a whole database, or nothing but perhaps an empty directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};

/// Memtables waiting for the disk at which a write waits. Below the four at which fjall does.
const SEALED_MEMTABLES: usize = 3;
/// How long a write waits for them, and how often it looks.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
const FLUSH_LOOK: Duration = Duration::from_millis(20);

/// The file by which fjall knows a database.
const MARKER: &str = "version";

/// Opens the database in `dir`, or makes it, with its one keyspace.
///
/// # Errors
/// As fjall's; also when something else than a database is in `dir`.
pub fn open(dir: &Path, keyspace: &str) -> fjall::Result<(Database, Keyspace)> {
    if !dir.join(MARKER).try_exists()? {
        make(dir, keyspace)?;
    }
    open_at(dir, keyspace)
}

/// Writes a batch into these keyspaces. Blocks, for 10 seconds at most while memtables wait for a disk that may be full.
///
/// # Errors
/// As fjall's. It takes no further write then: all handles have to go, and the database has to be opened anew.
pub fn commit(keyspaces: &[&Keyspace], batch: OwnedWriteBatch) -> fjall::Result<()> {
    // fjall waits without end while four memtables wait: here the wait ends before.
    let since = Instant::now();
    while keyspaces.iter().any(|keyspace| keyspace.sealed_memtable_count() >= SEALED_MEMTABLES) {
        if since.elapsed() > FLUSH_PATIENCE {
            return Err(fjall::Error::Poisoned);
        }
        std::thread::sleep(FLUSH_LOOK);
    }
    batch.commit()
}

fn open_at(dir: &Path, keyspace: &str) -> fjall::Result<(Database, Keyspace)> {
    // One worker: what is stored here is stored beside the hot path, and must leave it the cores.
    let database = Database::builder(dir).worker_threads(1).open()?;
    let pairs = database.keyspace(keyspace, KeyspaceCreateOptions::default)?;
    Ok((database, pairs))
}

fn make(dir: &Path, keyspace: &str) -> fjall::Result<()> {
    let unborn = beside(dir);
    // Of a process that was killed here.
    absent(fs::remove_dir_all(&unborn))?;
    drop(open_at(&unborn, keyspace)?);
    // Fails when anything is in it: it is not ours to remove.
    absent(fs::remove_dir(dir))?;
    fs::rename(&unborn, dir)?;
    if let Some(parent) = dir.parent() {
        File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?.sync_all()?;
    }
    Ok(())
}

fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".new");
    dir.with_file_name(name)
}

fn absent(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_and_get(dir: &Path, value: &str) -> Option<String> {
        let (database, pairs) = open(dir, "pairs").unwrap();
        let held = pairs.get("key").unwrap().map(|held| String::from_utf8(held.to_vec()).unwrap());
        pairs.insert("key", value).unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
        held
    }

    #[test]
    fn a_database_is_made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("deep/er/db");
        assert_eq!(put_and_get(&dir, "1"), None);
        assert_eq!(put_and_get(&dir, "2").as_deref(), Some("1"));
        assert!(!beside(&dir).exists());
    }

    /// Every prefix of what fjall does to make one: files without the marker, at the place where it is made.
    #[test]
    fn a_kill_while_it_is_made_leaves_one_that_opens() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("db");
        for files in [&["lock"][..], &["lock", "0.jnl"], &["lock", "0.jnl", "version"]] {
            let unborn = beside(&dir);
            fs::create_dir_all(unborn.join("keyspaces")).unwrap();
            files.iter().for_each(|file| fs::write(unborn.join(file), "").unwrap());
            fs::create_dir_all(&dir).unwrap();
            assert_eq!(put_and_get(&dir, "1"), None, "{files:?}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn what_is_no_database_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("db");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("letter.txt"), "dear").unwrap();
        assert!(open(&dir, "pairs").is_err());
        assert_eq!(fs::read_to_string(dir.join("letter.txt")).unwrap(), "dear");
    }
}
