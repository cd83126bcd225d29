//! The API in process, over the log in memory: shapes, refusals, every limit, and that the description has every route.

mod contributions;
mod decoding;
mod delivery;
mod description;
mod history;
mod limits;
mod links;
mod profiles;
mod settings;
mod spool;
mod visits;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use cameo_auth::{ClientRecord, Verifier};
use cameo_eventlog::frame::{AppenderId, FrameBuilder};
use cameo_eventlog::{Clock, EventLog, MemoryLog};
use cameo_profile::{ClientCode, Partition, PartitionCount};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{Edge, EdgeConfig, SpoolConfig};

/// The time that rigs start at.
const NOW: u64 = 1_790_000_000_000;
const VISITS: &str = "/v1/demo/visits";

/// An edge over a log in memory.
struct Rig {
    edge: Edge<MemoryLog>,
    log: MemoryLog,
    clock: Clock,
    router: Router,
    dir: TempDir,
    auth: Verifier,
}

/// A reply, read whole.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    content_type: String,
    retry_after: bool,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

/// Looks until something is so, and lets everybody else go on in between.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looks = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), looks).await.is_ok(), "never came: {what}");
}

/// A client as it is when it is new.
fn client(code: &str) -> ClientRecord {
    ClientRecord::new(&ClientCode::new(code).unwrap(), NOW).unwrap()
}

fn clients() -> Vec<ClientRecord> {
    vec![client("demo"), ClientRecord { lifetime_days: 2, ..client("brief") }]
}

impl Rig {
    async fn new() -> Self {
        Self::with(clients()).await
    }

    async fn with(clients: Vec<ClientRecord>) -> Self {
        let clock = Clock::manual(NOW);
        let log = MemoryLog::with_clock(PartitionCount::new(4).unwrap(), clock.clone());
        Self::over_clients(clients, log, clock, tempfile::tempdir().unwrap(), None).await
    }

    /// Over a log, with what an edge before it has left in the directory, and a spool of so many bytes.
    async fn over(log: MemoryLog, clock: Clock, dir: TempDir, spool_bytes: Option<u64>) -> Self {
        Self::over_clients(clients(), log, clock, dir, spool_bytes).await
    }

    async fn over_clients(
        clients: Vec<ClientRecord>,
        log: MemoryLog,
        clock: Clock,
        dir: TempDir,
        spool_bytes: Option<u64>,
    ) -> Self {
        Self::over_auth(Verifier::fixed(clients), log, clock, dir, spool_bytes).await
    }

    async fn over_auth(auth: Verifier, log: MemoryLog, clock: Clock, dir: TempDir, spool_bytes: Option<u64>) -> Self {
        let config = EdgeConfig {
            auth: auth.clone(),
            checkpoint_dir: dir.path().join("checkpoint"),
            checkpoint_every: Duration::from_secs(3600),
            snapshots: None,
            retention: Some(Duration::from_secs(3600)),
            spool: spool_bytes.map(|max_bytes| SpoolConfig { dir: dir.path().join("spool"), max_bytes }),
            draining: Arc::default(),
            metrics: None,
        };
        let edge = Edge::open(config, Arc::new(log.clone())).await.unwrap();
        let router = cameo_http::with_fallbacks(edge.router());
        Self { edge, log, clock, router, dir, auth }
    }

    /// How many frames the log has.
    fn frames(&self) -> u64 {
        (0..4).map(|partition| self.log.last(Partition(partition)).0).sum()
    }

    /// Appends what stops a partition: an event of a kind that nobody knows.
    async fn append_nonsense(&self, partition: Partition) {
        let mut nonsense = FrameBuilder::with_capacity(64);
        nonsense.push(|out| out.extend_from_slice(&[99, 1, 2]));
        let (frame, _) = nonsense.finish(AppenderId(7), partition, 1, 0);
        let frames = self.frames();
        self.log.append(vec![(partition, frame)]).await;
        assert_eq!(self.frames(), frames + 1);
    }

    /// Waits until a partition has stopped, and no other.
    async fn stopped(&self, partition: Partition) {
        let halted = || self.edge.replica().health().halted.into_iter().map(|(partition, _)| partition);
        until("the partition has stopped", || halted().next().is_some()).await;
        assert_eq!(halted().collect::<Vec<_>>(), [partition]);
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let (content_type, retry_after) = (header("content-type"), !header("retry-after").is_empty());
        Reply { status: parts.status, content_type, retry_after, text }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn call(&self, method: Method, path: &str, content_type: &str, body: impl Into<Body>) -> Reply {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn visit(&self, visit: &Value) -> Reply {
        self.call(Method::POST, VISITS, "application/json", visit.to_string()).await
    }

    async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PATCH, path, "application/json", body.to_string()).await
    }

    async fn fetch(&self, tnt_id: &str) -> Reply {
        self.get(&format!("/rest/v1/profiles/{tnt_id}?client=demo")).await
    }

    /// The value of one attribute of a tntId, if it has it.
    async fn attribute(&self, tnt_id: &str, name: &str) -> Option<String> {
        let profile = self.fetch(tnt_id).await.expect(200).json();
        profile["profileAttributes"][name]["value"].as_str().map(str::to_owned)
    }

    /// The same, once the links that were made have nothing left to do.
    async fn settled(&self) -> Vec<(cameo_profile::Position, u128)> {
        let all_done = async {
            while self.edge.replica().links_waiting() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all_done).await.expect("links are done");
        self.stored()
    }

    /// Everything that is in the log: the same before and after when nothing was stored.
    fn stored(&self) -> Vec<(cameo_profile::Position, u128)> {
        self.edge.replica().digests()
    }
}
