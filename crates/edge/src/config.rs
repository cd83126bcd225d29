//! What an edge has to be told. Parsed and checked by the binary before anything starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cameo_profile::ClientCode;
use metrics_exporter_prometheus::PrometheusHandle;

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Its code in paths and queries.
    pub code: ClientCode,
    /// Days without activity after which its profiles are gone, 1–90.
    pub lifetime_days: u16,
}

/// The tenants that are served. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clients(Arc<[ClientConfig]>);

impl Clients {
    /// Of these.
    #[must_use]
    pub fn new(clients: Vec<ClientConfig>) -> Self {
        Self(clients.into())
    }

    /// The code, if it is one of them.
    #[must_use]
    pub fn find(&self, code: &str) -> Option<&ClientCode> {
        self.0.iter().map(|client| &client.code).find(|known| known.as_str() == code)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ClientConfig> {
        self.0.iter()
    }
}

/// How an edge runs.
#[derive(Clone)]
pub struct EdgeConfig {
    /// The tenants.
    pub clients: Clients,
    /// Directory of the checkpoint; created when missing.
    pub checkpoint_dir: PathBuf,
    /// Pause between checkpoints.
    pub checkpoint_every: Duration,
    /// How long the log keeps what every checkpoint has.
    pub retention: Duration,
    /// Renders `/metrics`; without one the route says that there is no recorder.
    pub metrics: Option<PrometheusHandle>,
}
