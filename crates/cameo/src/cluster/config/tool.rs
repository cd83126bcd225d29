//! How commands of operators reach the NATS of a cluster: the same flags as a node's, and no more.

use std::path::PathBuf;

use cameo_nats::NatsOptions;
use clap::Args;

use super::CommonArgs;

/// Where NATS is, and who asks.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NatsArgs {
    /// NATS servers of the cluster, separated by commas
    #[arg(long, env = "CAMEO_NATS", value_name = "URLS", value_delimiter = ',')]
    nats: Vec<String>,
    /// As which node: it must be one that may, as the control plane may
    #[arg(long, env = "CAMEO_NODE", value_name = "NAME", default_value = "control-1")]
    node: String,
    /// User at NATS [default: the node's name, if there is a password]
    #[arg(long, env = "CAMEO_NATS_USER", value_name = "NAME")]
    nats_user: Option<String>,
    /// File with the password at NATS
    #[arg(long, env = "CAMEO_NATS_PASSWORD_FILE", value_name = "FILE")]
    nats_password_file: Option<PathBuf>,
    /// PEM file of the authorities that NATS servers are trusted by
    #[arg(long, env = "CAMEO_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// PEM file of a certificate at NATS
    #[arg(long, env = "CAMEO_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(long, env = "CAMEO_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
}

impl NatsArgs {
    /// Whether a cluster is meant at all.
    pub(crate) fn is_given(&self) -> bool {
        !self.nats.is_empty()
    }

    /// Checked, as a node's are.
    pub(crate) fn resolve(self) -> anyhow::Result<NatsOptions> {
        let Self { nats, node, nats_user, nats_password_file, nats_ca, nats_cert, nats_key } = self;
        let node = Some(node);
        let common = CommonArgs {
            nats,
            node,
            nats_user,
            nats_password_file,
            nats_ca,
            nats_cert,
            nats_key,
            ..Default::default()
        };
        Ok(common.resolve()?.nats)
    }
}
