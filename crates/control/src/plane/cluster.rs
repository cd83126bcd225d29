//! The nodes, as their heartbeats tell; and what they are asked for: digests of their partitions, snapshots.

use std::sync::Arc;

use futures_util::future::join_all;
use serde::Serialize;

use cameo_auth::Action;
use cameo_auth::Revision;

use super::{Deed, Plane, Problem};
use crate::nodes::{Nodes, PartitionView, SnapshotResult, SnapshotView};
use crate::principal::Principal;

/// The role of nodes that hold profiles.
const HOLDS_PROFILES: &str = "edge";

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterNode {
    pub(crate) node: String,
    pub(crate) run: String,
    pub(crate) roles: Vec<String>,
    /// Up to which revision it has applied the control bucket.
    pub(crate) applied: Revision,
    pub(crate) lease_ms: u64,
    /// Its lease is certainly over.
    pub(crate) silent: bool,
    pub(crate) heard_ms_ago: u64,
    pub(crate) lag_frames: u64,
    pub(crate) profiles: u64,
    pub(crate) ready: bool,
    /// What it has of every partition, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partitions: Option<Vec<PartitionView>>,
    /// Why it did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partitions_error: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// Up to where the control plane has read the control bucket.
    pub(crate) revision: Revision,
    pub(crate) nodes: Vec<ClusterNode>,
}

impl Plane {
    /// Every node that was heard.
    pub(crate) async fn cluster(&self, by: &Principal) -> Result<Cluster, Problem> {
        self.allow(by, Deed::of(Action::ClusterRead, None)).await?;
        let nodes = self.all_nodes();
        Ok(Cluster { revision: self.0.view.read().roster.read(), nodes })
    }

    fn all_nodes(&self) -> Vec<ClusterNode> {
        let now = self.0.config.clock.mono();
        let view = self.0.view.read();
        let nodes = view.beats.values().map(|(beat, at)| ClusterNode {
            node: beat.run.node.clone(),
            run: beat.run.run.clone(),
            roles: beat.roles.clone(),
            applied: beat.applied,
            lease_ms: beat.lease_ms,
            silent: view.roster.is_silent(&beat.run, now),
            heard_ms_ago: u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX),
            lag_frames: beat.status.lag_frames,
            profiles: beat.status.profiles,
            ready: beat.status.ready,
            partitions: None,
            partitions_error: None,
        });
        nodes.collect()
    }

    /// As [`Self::cluster`], with the digest of every partition of every node that holds profiles and is heard: they are
    /// computed for this answer, which costs each of those nodes a look at all its profiles.
    pub(crate) async fn cluster_with_partitions(&self, by: &Principal) -> Result<Cluster, Problem> {
        let mut cluster = self.cluster(by).await?;
        let asker = self.asker()?;
        let asked =
            cluster.nodes.iter_mut().filter(|node| node.holds_profiles() && !node.silent).map(async |node| match asker
                .partitions(&node.node)
                .await
            {
                Ok(partitions) => node.partitions = Some(partitions),
                Err(error) => node.partitions_error = Some(error),
            });
        join_all(asked).await;
        Ok(cluster)
    }

    /// Has a node take snapshots: one that is ready, if there is one. Its name, and what became of each partition's.
    pub(crate) async fn take_snapshots(&self, by: &Principal) -> Result<(String, Vec<SnapshotResult>), Problem> {
        let deed = Deed::of(Action::SnapshotTake, None);
        self.allow(by, deed).await?;
        let mut nodes = self.all_nodes();
        nodes.retain(|node| node.holds_profiles() && !node.silent);
        // What it said of itself may be a second old: one that was not ready then is asked all the same.
        nodes.sort_by_key(|node| !node.ready);
        let asked = nodes.into_iter().map(|node| node.node).next();
        let taken = async {
            let node = asked.ok_or_else(|| Problem::Unavailable("no edge is there to take snapshots".into()))?;
            let taken = self.asker()?.take_snapshots(&node).await.map_err(Problem::Unavailable)?;
            Ok((node, taken))
        };
        let taken = taken.await;
        let detail = taken.as_ref().map(|(node, taken)| Some(format!("{} partitions by {node}", taken.len())));
        self.note(by, deed, detail).await;
        taken
    }

    /// Snapshots that are there, by partition, newest first.
    pub(crate) async fn snapshots(&self, by: &Principal) -> Result<Vec<SnapshotView>, Problem> {
        self.allow(by, Deed::of(Action::ClusterRead, None)).await?;
        let mut snapshots = self.asker()?.snapshots().await.map_err(Problem::Unavailable)?;
        snapshots.sort_by_key(|one| (one.partition, std::cmp::Reverse(one.position)));
        Ok(snapshots)
    }

    fn asker(&self) -> Result<Arc<dyn Nodes>, Problem> {
        let asker = self.0.nodes.get().cloned();
        asker.ok_or_else(|| Problem::Unavailable("this control plane has no way to ask other nodes yet".into()))
    }
}

impl ClusterNode {
    fn holds_profiles(&self) -> bool {
        self.roles.iter().any(|role| role == HOLDS_PROFILES)
    }
}
