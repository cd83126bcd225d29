//! The bucket over real NATS servers: every promise of the trait, and each write once when leaders die.

use std::sync::Arc;

use cameo_nats::testing::Servers;

use super::*;
use crate::bucket::conformance::{self, Backend};

struct OnServers(Servers);

impl OnServers {
    async fn open(&self, name: &str) -> Arc<dyn Bucket> {
        let nats = self.0.connect("node").await;
        Arc::new(NatsBucket::open(&nats, name).await.unwrap().unwrap())
    }
}

impl Backend for OnServers {
    async fn create(&self, case: &str) -> Arc<dyn Bucket> {
        let nats = self.0.connect("control").await;
        assert!(NatsBucket::open(&nats, case).await.unwrap().is_none());
        for _ in 0..2 {
            NatsBucket::create(&nats, case, self.0.count()).await.unwrap();
        }
        self.open(case).await
    }

    async fn reopen(&self, case: &str, bucket: Arc<dyn Bucket>) -> Option<Arc<dyn Bucket>> {
        drop(bucket);
        Some(self.open(case).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_keeps_every_promise() {
    let Some(servers) = Servers::start(1).await else { return };
    conformance::run_all(&OnServers(servers)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_keep_every_promise() {
    let Some(servers) = Servers::start(3).await else { return };
    conformance::run_all(&OnServers(servers)).await;
}

/// Writes by compare-and-set as the control plane does: when it is not told what came of it, it looks.
async fn set(bucket: &NatsBucket, key: &Key, value: Bytes, held: Revision) -> Revision {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let put = bucket.put(key.clone(), value.clone(), Expected::At(held), Durability::Durable).await;
        match put {
            Ok(revision) => return revision,
            Err(PutError::Unavailable(_)) => {}
            Err(PutError::Unknown(_) | PutError::Conflict) => match bucket.get(key).await {
                Ok(Some(entry)) if entry.value == value => return entry.revision,
                Ok(Some(entry)) => assert_eq!(entry.revision, held, "somebody else has written"),
                Ok(None) => panic!("the entry is gone"),
                Err(_) => {}
            },
        }
        assert!(std::time::Instant::now() < end, "{put:?}");
    }
}

/// A compare-and-set whose answer is lost with the leader still happens once, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_dies_and_each_write_happens_once() {
    let Some(mut servers) = Servers::start(3).await else { return };
    let nats = servers.connect("control").await;
    NatsBucket::create(&nats, "c", 3).await.unwrap();
    let bucket = NatsBucket::open(&nats, "c").await.unwrap().unwrap();
    let key = Key::new("a.1").unwrap();
    let mut held = bucket.put(key.clone(), "0".into(), Expected::Absent, Durability::Durable).await.unwrap();
    let mut watch = bucket.watch(Revision(0)).await.unwrap();
    for round in 0..2 {
        let leader = servers.leader(&nats, "KV_C_CONTROL").await;
        servers.kill(leader);
        for n in 0..20 {
            held = set(&bucket, &key, format!("{round} {n}").into(), held).await;
        }
        servers.restart(leader);
    }
    assert_eq!(held, Revision(41), "one revision a write");
    let last = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let change = match watch.next().await {
                Ok(change) => change,
                // It cannot know what it did not hear while it had no connection.
                Err(WatchEnd::Missed(_)) => {
                    watch = bucket.watch(Revision(0)).await.unwrap();
                    continue;
                }
                Err(end) => panic!("{end}"),
            };
            if change.revision == held {
                return change;
            }
        }
    });
    let last = last.await.unwrap();
    assert_eq!((last.value.as_deref(), last.last), (Some(&b"1 19"[..]), true));
}
