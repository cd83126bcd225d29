//! What the control plane asks a node that holds profiles for, answered by the replica of the same process.

use std::sync::Arc;

use cameo_control::{Nodes, PartitionView, SnapshotResult, SnapshotView};
use cameo_edge::{PartitionDigest, Replica, SnapshotOutcome, SnapshotTaken};
use cameo_eventlog::{EventLog, LogId};
use cameo_snapshot::{Listed, Store};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

/// The replica and the snapshots of this process, whatever node is named: there is one.
pub(crate) struct LocalNodes<L: EventLog> {
    pub(crate) replica: Arc<Replica<L>>,
    pub(crate) store: Store,
}

/// What a replica has of every partition.
pub(crate) async fn partitions<L: EventLog>(replica: Arc<Replica<L>>) -> Result<Vec<PartitionView>, String> {
    let digests = tokio::task::spawn_blocking(move || replica.partition_digests()).await;
    let view = |one: PartitionDigest| PartitionView {
        partition: one.partition.0,
        position: one.position.0,
        digest: format!("{:032x}", one.digest),
        stopped: one.halted.map(|halt| halt.to_string()),
    };
    digests.map(|digests| digests.into_iter().map(view).collect()).map_err(|error| error.to_string())
}

/// Takes snapshots of a replica's partitions.
pub(crate) async fn take_snapshots<L: EventLog>(replica: &Replica<L>) -> Result<Vec<SnapshotResult>, String> {
    let view = |one: SnapshotTaken| {
        let (outcome, bytes, error) = match one.outcome {
            SnapshotOutcome::Taken(bytes) => ("taken", Some(bytes), None),
            SnapshotOutcome::Current => ("current", None, None),
            SnapshotOutcome::Nothing => ("nothing", None, None),
            SnapshotOutcome::Failed(error) => ("failed", None, Some(error)),
        };
        let (partition, position) = (one.partition.0, one.position.0);
        SnapshotResult { partition, position, outcome: outcome.into(), bytes, error }
    };
    Ok(replica.take_snapshots().await?.into_iter().map(view).collect())
}

/// Snapshots that are in a store, of any log.
pub(crate) async fn snapshots(store: &Store) -> Result<Vec<SnapshotView>, String> {
    let view = |one: Listed| SnapshotView {
        partition: one.name.partition.0,
        position: one.name.position.0,
        log: LogId::to_string(&one.name.log),
        at_ms: one.at_ms,
        bytes: one.bytes,
    };
    match store.list().await {
        Ok(listed) => Ok(listed.into_iter().map(view).collect()),
        Err(error) => Err(format!("{:#}", anyhow::Error::new(error))),
    }
}

impl<L: EventLog> Nodes for LocalNodes<L> {
    fn partitions<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<PartitionView>, String>> {
        partitions(Arc::clone(&self.replica)).boxed()
    }

    fn take_snapshots<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotResult>, String>> {
        take_snapshots(&self.replica).boxed()
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotView>, String>> {
        snapshots(&self.store).boxed()
    }
}
