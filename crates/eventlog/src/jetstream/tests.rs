//! The log over real NATS servers, one and three: every promise of the trait.

use std::sync::atomic::{AtomicU32, Ordering};

use cameo_nats::testing::Servers;

use super::*;
use crate::conformance::{self, Backend};

struct OnServers {
    servers: Servers,
    logs: AtomicU32,
}

impl OnServers {
    async fn start(count: usize) -> Option<Self> {
        Some(Self { servers: Servers::start(count).await?, logs: AtomicU32::new(0) })
    }

    async fn open(&self, name: &str) -> JetStreamLog {
        let nats = self.servers.connect("edge").await;
        JetStreamLog::open(&nats, name).await.unwrap().unwrap()
    }
}

impl Backend for OnServers {
    type Log = JetStreamLog;

    async fn create(&self, case: &str, partitions: PartitionCount) -> JetStreamLog {
        let name = format!("{case}-{}", self.logs.fetch_add(1, Ordering::Relaxed));
        let nats = self.servers.connect("control").await;
        let replicas = self.servers.count();
        let options = JetStreamOptions { partitions: Some(partitions), replicas, ..JetStreamOptions::new(&name) };
        assert!(JetStreamLog::open(&nats, &name).await.unwrap().is_none());
        JetStreamLog::create(&nats, &options).await.unwrap();
        // As every start of the control plane does.
        JetStreamLog::create(&nats, &options).await.unwrap();
        let other = JetStreamOptions { partitions: PartitionCount::new(77).ok(), ..options };
        let error = JetStreamLog::create(&nats, &other).await.unwrap_err().to_string();
        assert!(error.contains("partitions, not 77; that cannot be changed"), "{error}");
        self.open(&name).await
    }

    async fn reopen(&self, log: JetStreamLog) -> Option<JetStreamLog> {
        let name = log.0.name.clone();
        drop(log);
        Some(self.open(&name).await)
    }

    const CONTIGUOUS: bool = false;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_keeps_every_promise() {
    let Some(backend) = OnServers::start(1).await else { return };
    conformance::run_all(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_keep_every_promise() {
    let Some(backend) = OnServers::start(3).await else { return };
    conformance::run_all(&backend).await;
}
