//! The spool's database goes on after a failed write, whatever made it fail.

use std::fs;

use super::*;

fn record(seq: u64) -> Record {
    Record { seq, partition: Partition(1), bytes: vec![seq as u8; 10] }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_it_is_opened_anew_and_works_again() {
    let root = tempfile::tempdir().unwrap();
    let (dir, away) = (root.path().join("spool"), root.path().join("away"));
    let (store, before) = Store::open(&dir).unwrap();
    drop(before);
    assert!(store.add(vec![record(1), record(2)]).await);
    // As a failed write leaves it, with a disk that is still unwell: a file is where the directory has to be.
    *store.shared.open.lock() = None;
    fs::rename(&dir, &away).unwrap();
    fs::write(&dir, "").unwrap();
    assert!(!store.add(vec![record(3)]).await);
    assert!(store.get(1).is_err());
    store.flush().expect("nothing waits to be made durable");
    store.forget(&[2]);
    assert!(store.flush().is_err(), "this may not be called durable");
    assert!(store.flush().is_err(), "nor the second time");

    fs::remove_file(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    store.flush().expect("it works again");
    assert_eq!(store.get(1).unwrap(), Some(record(1)));
    assert_eq!(store.get(2).unwrap(), None, "what was let go meanwhile goes");
    assert_eq!(store.get(3).unwrap(), None, "what was refused is not there");
    assert!(store.add(vec![record(4)]).await);
    drop(store);
    let (_store, all) = Store::open(&dir).unwrap();
    assert_eq!(all.map(Result::unwrap).collect::<Vec<_>>(), [record(1), record(4)]);
}
