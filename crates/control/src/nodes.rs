//! What the control plane asks other nodes for, beyond what their heartbeats say: what stands in their partitions, and
//! snapshots. The binary says how: over NATS in a cluster, by a call in a single process.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// A partition as a node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionView {
    /// Which.
    pub partition: u16,
    /// Up to where its log is applied.
    pub position: u64,
    /// Of everything in it, 32 hexadecimal digits: equal on all nodes that have applied the same frames of it.
    pub digest: String,
    /// Why it has stopped, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// What became of a partition's snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotResult {
    /// Which partition.
    pub partition: u16,
    /// Up to where its newest snapshot has it.
    pub position: u64,
    /// `taken`, `current` (there was one), `nothing` (the partition has nothing yet, or has stopped), `failed`.
    pub outcome: String,
    /// Bytes, if it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotView {
    /// Of which partition.
    pub partition: u16,
    /// Up to where it has it.
    pub position: u64,
    /// Of which log.
    pub log: String,
    /// Since when, milliseconds since 1970.
    pub at_ms: u64,
    /// Compressed.
    pub bytes: u64,
}

/// Asks other nodes. Errors are words for people.
pub trait Nodes: Send + Sync + 'static {
    /// What a node that holds profiles has of every partition.
    fn partitions<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<PartitionView>, String>>;

    /// Has such a node take a snapshot of every partition that moved since its last one.
    fn take_snapshots<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotResult>, String>>;

    /// Snapshots that are there.
    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotView>, String>>;
}
