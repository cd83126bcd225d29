//! Objects in a real NATS server: what goes in comes out, a name is given once, and damage is told.

use super::*;
use crate::testing::Servers;

/// Bytes that do not repeat soon.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * n / 7) as u8).collect()
}

async fn read(bucket: &ObjectBucket, name: &str) -> Result<Vec<u8>, ObjectError> {
    let mut into = Vec::new();
    bucket.get(name, &mut into).await.map(|()| into)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_in_and_come_out_once_each() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("objects").await;
    ObjectBucket::create(&nats, "TEST", 1).await.unwrap();
    let bucket = ObjectBucket::new(&nats, "TEST");
    for (n, length) in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 17].into_iter().enumerate() {
        let (name, held) = (format!("object {n} of {length}"), bytes(length));
        bucket.put(&name, &mut held.as_slice()).await.unwrap();
        assert!(read(&bucket, &name).await.unwrap() == held, "{name}");
        let again = bucket.put(&name, &mut b"other".as_slice()).await;
        assert!(matches!(again, Err(ObjectError::ThereAlready(_))), "{again:?}");
    }
    let mut listed: Vec<_> = bucket.list().await.unwrap().into_iter().map(|object| object.size).collect();
    listed.sort_unstable();
    assert_eq!(listed, [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 17].map(|length| length as u64));
    bucket.remove("object 1 of 1").await.unwrap();
    bucket.remove("object 1 of 1").await.unwrap();
    assert!(matches!(read(&bucket, "object 1 of 1").await, Err(ObjectError::Missing(_))));
    assert_eq!(bucket.list().await.unwrap().len(), 4);
    // What was removed can be put again.
    bucket.put("object 1 of 1", &mut b"new".as_slice()).await.unwrap();
    assert_eq!(read(&bucket, "object 1 of 1").await.unwrap(), b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_name_leave_one_whole_object() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("objects").await;
    ObjectBucket::create(&nats, "TEST", 1).await.unwrap();
    let bucket = ObjectBucket::new(&nats, "TEST");
    let (one, two) = (bytes(3 * CHUNK_BYTES), vec![7; 2 * CHUNK_BYTES]);
    let (mut from_one, mut from_two) = (one.as_slice(), two.as_slice());
    let (first, second) = tokio::join!(bucket.put("x", &mut from_one), bucket.put("x", &mut from_two));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let held = read(&bucket, "x").await.unwrap();
    assert!(held == if first.is_ok() { one } else { two });
    // The other one's chunks are of a writer that may still be writing.
    assert_eq!(bucket.remove_unfinished().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_other_bytes_is_damaged() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("objects").await;
    ObjectBucket::create(&nats, "TEST", 1).await.unwrap();
    let bucket = ObjectBucket::new(&nats, "TEST");
    let object = bucket.put("x", &mut bytes(1000).as_slice()).await.unwrap();
    bucket.purge(&bucket.chunks_at(&object.nuid)).await.unwrap();
    bucket.store(bucket.chunks_at(&object.nuid), "other".into(), None, vec![1; 1000]).await.unwrap();
    let damaged = read(&bucket, "x").await;
    assert!(matches!(damaged, Err(ObjectError::Damaged { .. })), "{damaged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_publish_can_neither_replace_nor_hide_an_object() {
    let Some(servers) = Servers::start(1).await else { return };
    let nats = servers.connect("objects").await;
    ObjectBucket::create(&nats, "TEST", 1).await.unwrap();
    let bucket = ObjectBucket::new(&nats, "TEST");
    let (held, other) = (bytes(CHUNK_BYTES + 1), b"other".as_slice());
    let object = bucket.put("x", &mut held.as_slice()).await.unwrap();
    bucket.put("y", &mut { other }).await.unwrap();
    let of_y = bucket.nats.first_of(&bucket.stream, &bucket.described_at("y")).await.unwrap().unwrap();
    let mut forged: serde_json::Value = serde_json::from_slice(&of_y.payload).unwrap();
    for (n, (deleted, name)) in [(false, "x"), (true, "x"), (true, "y")].into_iter().enumerate() {
        forged["deleted"] = deleted.into();
        forged["name"] = name.into();
        let payload = serde_json::to_vec(&forged).unwrap();
        bucket.store(bucket.described_at("x"), format!("forged {n}"), None, payload).await.unwrap();
    }
    // One of its name at a place that is not its own, and bytes behind its own.
    bucket
        .store(bucket.described_at("z"), "elsewhere".into(), None, serde_json::to_vec(&forged).unwrap())
        .await
        .unwrap();
    bucket.store(bucket.chunks_at(&object.nuid), "more".into(), None, vec![1; 1000]).await.unwrap();

    assert!(read(&bucket, "x").await.unwrap() == held);
    let mut listed: Vec<_> = bucket.list().await.unwrap().into_iter().map(|one| (one.name, one.size)).collect();
    listed.sort_unstable();
    assert_eq!(listed, [("x".to_owned(), held.len() as u64), ("y".to_owned(), other.len() as u64)]);
    // Whoever may remove still does.
    bucket.remove("x").await.unwrap();
    assert!(matches!(read(&bucket, "x").await, Err(ObjectError::Missing(_))));
    assert_eq!(bucket.list().await.unwrap().len(), 1);
}
