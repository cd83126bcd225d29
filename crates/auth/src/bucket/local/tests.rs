//! What only the bucket on disk can get wrong: a restart, a failed write, damage.

use super::*;

/// What goes wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Writes fail, and nothing of them is there.
    BeforeWrite,
    /// Writes fail, but are there.
    AfterWrite,
    /// The database cannot be opened.
    Closed,
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn open(dir: &Path) -> LocalBucket {
    LocalBucket::open(dir).unwrap()
}

fn fail(bucket: &LocalBucket, fault: Option<Fault>) {
    bucket.0.entries.lock().disk.as_mut().unwrap().fault = fault;
}

async fn put(bucket: &LocalBucket, name: &str, value: &'static str, durability: Durability) -> Result<u64, PutError> {
    let put = bucket.put(key(name), Bytes::from(value), Expected::Any, durability).await;
    put.map(|revision| revision.0)
}

async fn get(bucket: &LocalBucket, name: &str) -> Result<Option<(Bytes, u64)>, Unreadable> {
    let found = bucket.get(&key(name)).await?;
    Ok(found.map(|entry| (entry.value, entry.revision.0)))
}

#[tokio::test]
async fn a_restart_keeps_entries_and_gives_no_revision_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..4 {
        let bucket = open(dir.path());
        let held = get(&bucket, "client.demo").await.unwrap();
        assert_eq!(held.is_some(), round > 0);
        let durable = put(&bucket, "client.demo", "x", Durability::Durable).await.unwrap();
        assert!(durable > last, "{durable} after {last}");
        // These are on no disk when the process ends.
        for _ in 0..3 {
            last = put(&bucket, "node.a.1", "beat", Durability::Ephemeral).await.unwrap();
        }
        assert!(last > durable);
    }
    assert_eq!(get(&open(dir.path()), "node.a.1").await, Ok(None));
}

#[tokio::test]
async fn a_deletion_survives_a_restart_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let deleted = {
        let bucket = open(dir.path());
        put(&bucket, "user.ann", "x", Durability::Durable).await.unwrap();
        bucket.delete(key("user.ann"), Expected::Any).await.unwrap()
    };
    let bucket = open(dir.path());
    assert_eq!(get(&bucket, "user.ann").await, Ok(None));
    let change = bucket.watch(Revision(0)).await.unwrap().next().await.unwrap();
    assert_eq!(change, Change { key: key("user.ann"), value: None, revision: deleted, last: true });
}

#[tokio::test]
async fn a_failed_write_is_told_for_what_it_became() {
    for (fault, stored) in [(Fault::BeforeWrite, false), (Fault::AfterWrite, true)] {
        let dir = tempfile::tempdir().unwrap();
        let bucket = open(dir.path());
        let first = put(&bucket, "client.demo", "old", Durability::Durable).await.unwrap();
        fail(&bucket, Some(fault));
        let failed = put(&bucket, "client.demo", "new", Durability::Durable).await;
        assert!(matches!(failed, Err(PutError::Unknown(_))), "{failed:?}");
        fail(&bucket, Some(Fault::Closed));
        // Heartbeats go on, reading does not guess, and other writes wait for the disk.
        let beat = put(&bucket, "node.a.1", "beat", Durability::Ephemeral).await.unwrap();
        assert!(get(&bucket, "client.demo").await.is_err());
        let other = put(&bucket, "client.shop", "x", Durability::Durable).await;
        assert!(matches!(other, Err(PutError::Unavailable(_))), "{other:?}");
        fail(&bucket, None);
        let (value, revision) = get(&bucket, "client.demo").await.unwrap().unwrap();
        assert_eq!(value, if stored { "new" } else { "old" });
        // A watch that has seen the heartbeat still learns of it.
        assert_eq!((revision > beat, revision == first), (stored, !stored));
        let later = put(&bucket, "client.shop", "x", Durability::Durable).await.unwrap();
        assert!(later > beat.max(revision));
        drop(bucket);
        assert_eq!(get(&open(dir.path()), "client.demo").await, Ok(Some((value, revision))));
    }
}

#[tokio::test]
async fn a_failed_write_is_settled_by_the_next_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = open(dir.path());
    let first = put(&bucket, "client.shop", "x", Durability::Durable).await.unwrap();
    fail(&bucket, Some(Fault::AfterWrite));
    let failed = put(&bucket, "client.demo", "new", Durability::Durable).await;
    assert!(matches!(failed, Err(PutError::Unknown(_))), "{failed:?}");
    fail(&bucket, None);
    let mut watch = bucket.watch(Revision(first)).await.unwrap();
    put(&bucket, "node.a.1", "beat", Durability::Ephemeral).await.unwrap();
    let changes = [watch.next().await.unwrap(), watch.next().await.unwrap()];
    assert_eq!(changes.map(|change| change.key), [key("client.demo"), key("node.a.1")]);
}

#[tokio::test]
async fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let damaged: [(&[u8], &[u8]); 4] = [
        (b"client.demo", b"short"),
        (b"client.demo", &[0, 0, 0, 0, 0, 0, 0, 1, 7]),
        (HIGHEST, b"short"),
        (b"no key", &[0, 0, 0, 0, 0, 0, 0, 1, 0]),
    ];
    for (name, value) in damaged {
        let written = Open::at(dir.path()).unwrap();
        written.entries.insert(name, value).unwrap();
        written.database.persist(PersistMode::SyncAll).unwrap();
        drop(written);
        let error = LocalBucket::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&*String::from_utf8_lossy(name)) || name == HIGHEST, "{error}");
        assert!(error.contains("is damaged"), "{error}");
        let written = Open::at(dir.path()).unwrap();
        written.entries.remove(name).unwrap();
    }
    assert!(LocalBucket::open(dir.path()).is_ok());
}
