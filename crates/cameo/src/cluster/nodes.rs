//! What the control plane asks the edges of a cluster for: requests and replies over NATS, in JSON.
//!
//! ```text
//! cameo.node.{edge}     "partitions" or "takeSnapshots"; answered with {"Ok": …} or {"Err": "why"}
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use cameo_control::{Nodes, PartitionView, SnapshotResult, SnapshotView};
use cameo_edge::Replica;
use cameo_eventlog::EventLog;
use cameo_nats::{Nats, RequestError};
use cameo_snapshot::{Objects, Store};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::nodes;

/// How long an edge may take to look at all its profiles.
const LOOK_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to write them. NATS lets a user answer within a minute (`deploy/nats/accounts.conf`).
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(55);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ask {
    Partitions,
    TakeSnapshots,
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    // Plain data always encodes; what could not would be refused by the other side.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Answers the control plane for as long as the process runs.
pub(super) async fn answer<L: EventLog>(
    nats: &Nats,
    name: &str,
    node: &str,
    replica: Arc<Replica<L>>,
) -> anyhow::Result<()> {
    let subject = format!("{name}.node.{node}");
    let mut asked = nats.subscribe(&subject, None).await.with_context(|| format!("cannot listen to {subject}"))?;
    let nats = nats.clone();
    tokio::spawn(async move {
        // One after the other: digests cost a look at every profile.
        while let Some(message) = asked.next().await {
            let Some(to) = message.reply else { continue };
            let answer = match serde_json::from_slice(&message.payload) {
                Ok(Ask::Partitions) => encode(&nodes::partitions(Arc::clone(&replica)).await),
                Ok(Ask::TakeSnapshots) => encode(&nodes::take_snapshots(&replica).await),
                Err(error) => encode(&Err::<(), _>(format!("the question cannot be read: {error}"))),
            };
            // Who asked finds no answer, and says so.
            let _ = nats.tell(&to, answer).await;
        }
    });
    Ok(())
}

/// The edges of a cluster.
pub(super) struct RemoteNodes {
    nats: Nats,
    name: String,
    store: Store,
}

impl RemoteNodes {
    pub(super) fn new(nats: &Nats, name: &str) -> Self {
        Self { nats: nats.clone(), name: name.to_owned(), store: Store::Objects(Objects::new(nats, name)) }
    }

    async fn ask<T: DeserializeOwned>(&self, node: &str, ask: Ask, patience: Duration) -> Result<T, String> {
        let subject = format!("{}.node.{node}", self.name);
        match self.nats.request(&subject, encode(&ask), patience).await {
            Ok(answer) => serde_json::from_slice::<Result<T, String>>(&answer).map_err(|error| error.to_string())?,
            Err(RequestError::Timeout(_)) => {
                Err(format!("{node} has not answered within {} s; it may still be at it", patience.as_secs()))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Nodes for RemoteNodes {
    fn partitions<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<PartitionView>, String>> {
        self.ask(node, Ask::Partitions, LOOK_PATIENCE).boxed()
    }

    fn take_snapshots<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotResult>, String>> {
        self.ask(node, Ask::TakeSnapshots, SNAPSHOT_PATIENCE).boxed()
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotView>, String>> {
        nodes::snapshots(&self.store).boxed()
    }
}
