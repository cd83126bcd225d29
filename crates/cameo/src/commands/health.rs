//! `cameo health`: whether a server may be sent requests, by exit code. Made for the health checks of containers, whose
//! image has no other program.

use std::path::PathBuf;
use std::time::Duration;

use cameo_client::{Client, Error};
use clap::Args;

use super::Done;
use crate::out::say;

/// Whoever does not say that it is ready within this time is not.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// URL of the server
    #[arg(long, env = "CAMEO_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// PEM file of the authorities that an https:// server is trusted by [default: the system's]
    #[arg(long, env = "CAMEO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub(crate) async fn run(args: HealthArgs) -> anyhow::Result<Done> {
    // Readiness is of the server, not of a client (tenant): which one is named here makes no difference.
    let server = Client::trusting(&args.url, "-", args.ca.as_deref())?;
    let Ok(answer) = tokio::time::timeout(PATIENCE, server.ready()).await else {
        let reason = format!("nothing for {} seconds", PATIENCE.as_secs());
        return Err(Error::Unreachable { url: args.url, reason }.into());
    };
    answer?;
    say!("ready")?;
    Ok(Done::Whole)
}
