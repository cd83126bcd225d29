//! What a store promises, on a folder and on a real NATS server.

use std::path::PathBuf;

use cameo_eventlog::{LogId, Partition, Position};
use cameo_nats::testing::Servers;
use tempfile::TempDir;

use super::*;

fn name(partition: u16, position: u64) -> Name {
    Name { partition: Partition(partition), position: Position(position), log: LogId(5) }
}

fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

async fn keeps_its_promises(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    let (one, two) = (file(&dir, "1", &[1; 700_000]), file(&dir, "2", b"two"));
    assert_eq!(store.put(&name(0, 10), &one).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&name(0, 20), &two).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&name(0, 20), &one).await.unwrap(), Put::ThereAlready);
    let mut listed = store.list().await.unwrap();
    listed.sort_by_key(|one| one.name.position);
    assert_eq!(
        listed.iter().map(|one| (one.name, one.bytes)).collect::<Vec<_>>(),
        [(name(0, 10), 700_000), (name(0, 20), 3)]
    );
    assert!(listed.iter().all(|one| one.at_ms > 1_600_000_000_000));
    let copy = dir.path().join("copy");
    store.get(&name(0, 10), &copy).await.unwrap();
    assert!(std::fs::read(&copy).unwrap() == [1; 700_000]);
    assert!(store.get(&name(1, 10), &copy).await.is_err());
    store.remove(&name(0, 10)).await.unwrap();
    store.remove(&name(0, 10)).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_folder_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::Folder(Folder::new(dir.path().join("deep/er")));
    keeps_its_promises(&store).await;
    // What is none is not listed, and half of one is none.
    file(&dir, "deep/er/letter.txt", b"dear");
    file(&dir, &format!("deep/er/{}.new", name(2, 2)), b"half");
    assert_eq!(store.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_nats_keep_their_promises() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("snapshots").await;
    Objects::create(&nats, "test", 1).await.unwrap();
    keeps_its_promises(&Store::Objects(Objects::new(&nats, "test"))).await;
}
