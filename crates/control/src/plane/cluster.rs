//! The nodes, as their heartbeats tell.

use serde::Serialize;

use cameo_auth::Action;
use cameo_auth::Revision;

use super::{Deed, Plane, Problem};
use crate::principal::Principal;

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
        });
        Ok(Cluster { revision: view.roster.read(), nodes: nodes.collect() })
    }
}
