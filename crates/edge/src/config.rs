//! What an edge has to be told. Parsed and checked by the binary before anything starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::spool::SpoolConfig;
use cameo_auth::Verifier;
use metrics_exporter_prometheus::PrometheusHandle;

/// How an edge runs.
#[derive(Clone)]
pub struct EdgeConfig {
    /// What is known of clients (tenants), and who may call.
    pub auth: Verifier,
    /// Directory of the checkpoint; created when missing.
    pub checkpoint_dir: PathBuf,
    /// Pause between checkpoints.
    pub checkpoint_every: Duration,
    /// How long the log keeps what every checkpoint has; `None` when trimming is not this node's business.
    pub retention: Option<Duration>,
    /// Where visits go while the log does not take any; without one they are refused.
    pub spool: Option<SpoolConfig>,
    /// Turns true when the process is about to stop: `/readyz` says no, so that no new requests are sent here.
    pub draining: Arc<AtomicBool>,
    /// Renders `/metrics`; without one the route says that there is no recorder.
    pub metrics: Option<PrometheusHandle>,
}
