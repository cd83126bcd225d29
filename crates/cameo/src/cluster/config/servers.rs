//! The NATS of a cluster, and who comes to it: what nodes and commands of operators are told alike.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use cameo_nats::NatsOptions;
use clap::Args;
use serde::Deserialize;

use super::{read, secret};

/// Where NATS is, and how to sign in there.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Servers {
    /// NATS servers: nats://host:port or tls://host:port, all of them, separated by commas
    #[arg(long, env = "CAMEO_NATS", value_name = "URLS", value_delimiter = ',')]
    nats: Vec<String>,
    /// User at NATS [default: the node's name, if there is a password]
    #[arg(long, env = "CAMEO_NATS_USER", value_name = "NAME")]
    nats_user: Option<String>,
    /// File with the password at NATS
    #[arg(long, env = "CAMEO_NATS_PASSWORD_FILE", value_name = "FILE")]
    nats_password_file: Option<PathBuf>,
    /// PEM file of the authorities that NATS servers are trusted by; with it, TLS is a must
    #[arg(long, env = "CAMEO_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// PEM file of this node's certificate at NATS
    #[arg(long, env = "CAMEO_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(long, env = "CAMEO_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
}

impl Servers {
    /// One server, and nobody who signs in.
    #[cfg(test)]
    pub(super) fn at(url: &str) -> Self {
        Self { nats: vec![url.to_owned()], ..Self::default() }
    }

    pub(super) fn is_given(&self) -> bool {
        !self.nats.is_empty()
    }

    /// Takes what is not given here from the file.
    pub(super) fn or(&mut self, mut file: Self) {
        or_file!(self, file: nats_user nats_password_file nats_ca nats_cert nats_key);
        if self.nats.is_empty() {
            self.nats = file.nats;
        }
    }

    /// Checks all of it, for the node of this name.
    pub(super) fn resolve(self, name: &str) -> anyhow::Result<NatsOptions> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(
            (1..=cameo_auth::node::NODE_CHARS).contains(&name.len()) && name.chars().all(plain),
            "a node's name has 1 to {} of a-z A-Z 0-9 - _, which {name:?} has not",
            cameo_auth::node::NODE_CHARS
        );
        ensure!(!self.nats.is_empty(), "the NATS servers of the cluster are not named: --nats or CAMEO_NATS");
        for url in &self.nats {
            let good = url.starts_with("nats://") || url.starts_with("tls://");
            ensure!(good, "{url:?} is no NATS server: one is given as nats://host:port or tls://host:port");
        }
        let user = match &self.nats_password_file {
            Some(path) => Some((self.nats_user.unwrap_or_else(|| name.to_owned()), secret(path)?)),
            None => {
                ensure!(self.nats_user.is_none(), "--nats-user needs --nats-password-file");
                None
            }
        };
        let identity = match (self.nats_cert, self.nats_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("nats_cert and nats_key go together"),
        };
        for path in self.nats_ca.iter().chain(identity.iter().flat_map(|(certificate, key)| [certificate, key])) {
            read(path)?;
        }
        Ok(NatsOptions { user, ca: self.nats_ca, identity, ..NatsOptions::new(name, self.nats) })
    }
}
