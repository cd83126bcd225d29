//! How commands of operators reach the NATS of a cluster: the same flags as a node's, and no more.

use cameo_nats::NatsOptions;
use clap::Args;

use super::servers::Servers;
use crate::commands::Usage;

/// Where NATS is, and who asks.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NatsArgs {
    #[command(flatten)]
    servers: Servers,
    /// As which node: it must be one that may, as the control plane may
    #[arg(long, env = "CAMEO_NODE", value_name = "NAME", default_value = "control-1")]
    node: String,
}

impl NatsArgs {
    /// Whether a cluster is meant at all.
    pub(crate) fn is_given(&self) -> bool {
        self.servers.is_given()
    }

    /// Checked, as a node's are.
    pub(crate) fn resolve(self) -> anyhow::Result<NatsOptions> {
        Ok(self.servers.resolve(&self.node).map_err(Usage::of)?)
    }
}
