//! What an edge has to be told. Parsed and checked by the binary before anything starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::spool::SpoolConfig;
use cameo_auth::Verifier;
use cameo_snapshot::Store;
use metrics_exporter_prometheus::PrometheusHandle;

/// How snapshots are taken and used.
#[derive(Clone, Debug)]
pub struct SnapshotConfig {
    /// Where they are held.
    pub store: Store,
    /// How old the newest one of a partition becomes before the next one is taken; zero: none is taken unasked.
    pub every: Duration,
    /// The name of this node: nodes that share a store do not all take the same one at the same time.
    pub node: String,
    /// Directory for files that are on their way; what is in it is removed at start.
    pub work_dir: PathBuf,
    /// Whether this node removes those that are not needed any more.
    pub removes: bool,
}

/// How an edge runs.
#[derive(Clone)]
pub struct EdgeConfig {
    /// What is known of clients (tenants), and who may call.
    pub auth: Verifier,
    /// Directory of the checkpoint; created when missing.
    pub checkpoint_dir: PathBuf,
    /// Pause between checkpoints.
    pub checkpoint_every: Duration,
    /// Snapshots; `None` when there is no store of them.
    pub snapshots: Option<SnapshotConfig>,
    /// How long the log keeps what every checkpoint has; `None` when trimming is not this node's business.
    pub retention: Option<Duration>,
    /// Where visits go while the log does not take any; without one they are refused.
    pub spool: Option<SpoolConfig>,
    /// Turns true when the process is about to stop: `/readyz` says no, so that no new requests are sent here.
    pub draining: Arc<AtomicBool>,
    /// Renders `/metrics`; without one the route says that there is no recorder.
    pub metrics: Option<PrometheusHandle>,
}
