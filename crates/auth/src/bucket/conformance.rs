//! One suite that every backend of the control bucket passes. A backend's tests implement [`Backend`] and call
//! [`run_all`] on a multi-threaded runtime; each case gets a bucket of its own.
//!
//! Failures are panics, with the name of the case before them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Bucket, Change, Durability, Expected, Key, PutError, Revision, VALUE_BYTES, Watch};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writers that race, and how often each writes.
const WRITERS: usize = 8;
const WRITES: usize = 50;

/// Makes buckets for the suite.
pub trait Backend: Sync {
    /// A new, empty bucket.
    fn create(&self, case: &str) -> impl Future<Output = Arc<dyn Bucket>> + Send;

    /// The same bucket after a restart, or `None` when the backend forgets.
    fn reopen(&self, case: &str, bucket: Arc<dyn Bucket>) -> impl Future<Output = Option<Arc<dyn Bucket>>> + Send;
}

/// Runs every case.
pub async fn run_all<B: Backend>(backend: &B) {
    compare_and_set(&*backend.create("compare-and-set").await).await;
    values(&*backend.create("values").await).await;
    one_of_many(backend.create("one-of-many").await).await;
    watches(&*backend.create("watches").await).await;
    lagging(&*backend.create("lagging").await).await;
    cancelled(backend.create("cancelled").await).await;
    order(backend.create("order").await).await;
    restart(backend).await;
}

fn key(text: &str) -> Key {
    Key::new(text).expect("the suite's own keys are keys")
}

async fn put(bucket: &dyn Bucket, name: &str, value: &str, expected: Expected) -> Result<Revision, PutError> {
    bucket.put(key(name), Bytes::copy_from_slice(value.as_bytes()), expected, Durability::Durable).await
}

async fn must_put(bucket: &dyn Bucket, name: &str, value: &str) -> Revision {
    put(bucket, name, value, Expected::Any).await.expect("a healthy bucket takes a write")
}

async fn watch(bucket: &dyn Bucket, after: u64) -> Box<dyn Watch> {
    bucket.watch(Revision(after)).await.expect("a healthy bucket can be watched")
}

async fn next(watch: &mut Box<dyn Watch>) -> Change {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("a change comes in time").expect("a healthy watch goes on")
}

/// Reads until the watch has caught up.
async fn catch_up(watch: &mut Box<dyn Watch>) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.last().is_none_or(|change: &Change| !change.last) {
        changes.push(next(watch).await);
    }
    changes
}

async fn compare_and_set(bucket: &dyn Bucket) {
    eprintln!("case: compare-and-set");
    assert_eq!(bucket.get(&key("a.1")).await, Ok(None));
    assert_eq!(put(bucket, "a.1", "x", Expected::At(Revision(1))).await, Err(PutError::Conflict));
    let first = put(bucket, "a.1", "x", Expected::Absent).await.expect("nothing is there");
    assert!(first > Revision(0));
    assert_eq!(put(bucket, "a.1", "y", Expected::Absent).await, Err(PutError::Conflict));
    let other = must_put(bucket, "a.2", "z").await;
    assert_eq!(put(bucket, "a.1", "y", Expected::At(other)).await, Err(PutError::Conflict));
    let second = put(bucket, "a.1", "y", Expected::At(first)).await.expect("it is as expected");
    assert_eq!(put(bucket, "a.1", "w", Expected::At(first)).await, Err(PutError::Conflict));
    let entry = bucket.get(&key("a.1")).await.expect("it can be read").expect("it is there");
    assert_eq!((&*entry.value, entry.revision), (&b"y"[..], second));
    assert!(first < other && other < second);
    assert_eq!(bucket.delete(key("a.1"), Expected::At(first)).await, Err(PutError::Conflict));
    let deleted = bucket.delete(key("a.1"), Expected::At(second)).await.expect("it is as expected");
    assert!(deleted > second);
    assert_eq!(bucket.get(&key("a.1")).await, Ok(None));
    assert_eq!(put(bucket, "a.1", "v", Expected::At(deleted)).await, Err(PutError::Conflict));
    assert!(put(bucket, "a.1", "v", Expected::Absent).await.expect("it is gone") > deleted);
}

async fn values(bucket: &dyn Bucket) {
    eprintln!("case: values");
    for (name, bytes) in [("a.empty", 0), ("a.most", VALUE_BYTES)] {
        let value = Bytes::from(vec![0xa5; bytes]);
        let put = bucket.put(key(name), value.clone(), Expected::Any, Durability::Durable).await;
        let revision = put.expect("it is of a size that fits");
        let entry = bucket.get(&key(name)).await.expect("it can be read").expect("it is there");
        assert_eq!((entry.value == value, entry.revision), (true, revision), "{name}");
    }
    let large = Bytes::from(vec![0; VALUE_BYTES + 1]);
    let refused = bucket.put(key("a.large"), large, Expected::Any, Durability::Durable).await;
    assert!(matches!(refused, Err(PutError::Unavailable(_))), "{refused:?}");
    assert_eq!(bucket.get(&key("a.large")).await, Ok(None));
}

async fn one_of_many(bucket: Arc<dyn Bucket>) {
    eprintln!("case: one of many");
    let mut held = put(&*bucket, "a.1", "0", Expected::Absent).await.expect("nothing is there");
    for _ in 0..WRITES {
        let race = (0..WRITERS).map(|writer| {
            let bucket = Arc::clone(&bucket);
            tokio::spawn(async move { put(&*bucket, "a.1", &writer.to_string(), Expected::At(held)).await })
        });
        let race: Vec<_> = race.collect();
        let mut won = Vec::new();
        for (writer, task) in race.into_iter().enumerate() {
            match task.await.expect("a writer ends") {
                Ok(revision) => won.push((writer.to_string(), revision)),
                Err(error) => assert_eq!(error, PutError::Conflict),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        let entry = bucket.get(&key("a.1")).await.expect("it can be read").expect("it is there");
        assert_eq!((String::from_utf8_lossy(&entry.value).into_owned(), entry.revision), won[0]);
        held = entry.revision;
    }
}

async fn watches(bucket: &dyn Bucket) {
    eprintln!("case: watches");
    let mut early = watch(bucket, 0).await;
    let first = must_put(bucket, "a.1", "x").await;
    let change = next(&mut early).await;
    let expected = Change { key: key("a.1"), value: Some(Bytes::from_static(b"x")), revision: first, last: true };
    assert_eq!(change, expected);
    let gone = bucket.delete(key("a.1"), Expected::Any).await.expect("it can be deleted");
    let change = next(&mut early).await;
    assert_eq!(change, Change { key: key("a.1"), value: None, revision: gone, last: true });
    let second = must_put(bucket, "a.2", "y").await;
    // From anywhere: what is after, and nothing else.
    let after_first: Vec<_> = catch_up(&mut watch(bucket, first.0).await).await;
    assert_eq!(after_first.iter().map(|change| change.revision).collect::<Vec<_>>(), [gone, second]);
    let mut late = watch(bucket, second.0).await;
    let third = must_put(bucket, "a.3", "z").await;
    assert_eq!(next(&mut late).await.revision, third);
}

/// What a watch that lags leaves out, and that it says so.
async fn lagging(bucket: &dyn Bucket) {
    eprintln!("case: lagging");
    must_put(bucket, "a.replaced", "1").await;
    let kept = must_put(bucket, "a.kept", "1").await;
    let replaced = must_put(bucket, "a.replaced", "2").await;
    let mut watch = watch(bucket, 0).await;
    let changes = catch_up(&mut watch).await;
    let place = |revision| changes.iter().position(|change| change.revision == revision).expect("it must be there");
    assert!(place(kept) < place(replaced));
    // Past `kept`, the effect of what was before it may be missing: that is no place to say that all is known.
    assert!(!changes[place(kept)].last && changes[place(replaced)].last, "{changes:?}");
    assert!(changes.iter().is_sorted_by(|a, b| a.revision < b.revision), "{changes:?}");
}

async fn cancelled(bucket: Arc<dyn Bucket>) {
    eprintln!("case: cancelled");
    let mut watch = watch(&*bucket, 0).await;
    let writer = tokio::spawn({
        let bucket = Arc::clone(&bucket);
        async move {
            for n in 0..WRITES {
                must_put(&*bucket, &format!("a.{n}"), "x").await;
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < WRITES {
        // Dropped at its first wait, again and again: no change is lost by that.
        tokio::select! {
            biased;
            change = watch.next() => seen.push(change.expect("a healthy watch goes on").key),
            () = tokio::task::yield_now() => {}
        }
    }
    writer.await.expect("the writer ends");
    assert_eq!(seen, (0..WRITES).map(|n| key(&format!("a.{n}"))).collect::<Vec<_>>());
}

/// Many writers of few keys, watched from the beginning: where a watch has caught up, it knows every entry.
async fn order(bucket: Arc<dyn Bucket>) {
    eprintln!("case: order");
    let mut watch = watch(&*bucket, 0).await;
    let writers = (0..WRITERS).map(|writer| {
        let bucket = Arc::clone(&bucket);
        tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0..WRITES {
                let (name, value) = (format!("a.{}", n % 3), format!("{writer} {n}"));
                let put = bucket.put(key(&name), value.clone().into(), Expected::Any, Durability::Ephemeral).await;
                written.push((put.expect("a healthy bucket takes a write"), key(&name), value));
            }
            written
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut all = BTreeMap::new();
    for writer in writers {
        for (revision, key, value) in writer.await.expect("a writer ends") {
            assert!(all.insert(revision, (key, value)).is_none(), "{revision} was given out twice");
        }
    }
    let end = *all.keys().next_back().expect("there were writes");
    let (mut at, mut known) = (Revision(0), BTreeMap::new());
    while at < end {
        let change = next(&mut watch).await;
        assert!(change.revision > at, "{} after {at}", change.revision);
        at = change.revision;
        let value = String::from_utf8(change.value.expect("nothing is deleted").to_vec()).expect("text");
        assert_eq!(all[&at], (change.key.clone(), value.clone()));
        known.insert(change.key, value);
        if change.last {
            let as_of: BTreeMap<_, _> = all.range(..=at).map(|(_, entry)| entry.clone()).collect();
            assert_eq!(known, as_of, "at {at}");
        }
    }
}

async fn restart<B: Backend>(backend: &B) {
    eprintln!("case: restart");
    let bucket = backend.create("restart").await;
    must_put(&*bucket, "a.1", "x").await;
    let kept = must_put(&*bucket, "a.1", "y").await;
    must_put(&*bucket, "a.2", "x").await;
    bucket.delete(key("a.2"), Expected::Any).await.expect("it can be deleted");
    let beat = bucket.put(key("a.3"), Bytes::new(), Expected::Any, Durability::Ephemeral).await;
    let last = beat.expect("a healthy bucket takes a write");
    let Some(bucket) = backend.reopen("restart", bucket).await else { return };
    let entry = bucket.get(&key("a.1")).await.expect("it can be read").expect("it is there");
    assert_eq!((&*entry.value, entry.revision), (&b"y"[..], kept));
    assert_eq!(bucket.get(&key("a.2")).await, Ok(None));
    let next = put(&*bucket, "a.1", "z", Expected::At(kept)).await.expect("it is as it was");
    assert!(next > last, "{next} was given out before {last}");
    assert_eq!(catch_up(&mut watch(&*bucket, kept.0).await).await.last().map(|change| change.revision), Some(next));
}
