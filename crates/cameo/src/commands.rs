//! The command line: what commands there are, what they share, and the exit codes that scripts can rely on.

mod access_log;
mod admin;
mod bench;
mod bulk;
mod clf;
mod health;
mod import;
mod log;
mod profile;
mod restore;
mod snapshot;
mod visit;

use std::path::PathBuf;
use std::process::ExitCode;

use cameo_client::{Client, Error};
use cameo_nats::ConnectError;
use clap::{Args, Parser, Subcommand};

use crate::cluster;
use crate::cluster::config::{ControlArgs, EdgeArgs, GatewayArgs};
use crate::config::StandaloneArgs;
use crate::out::{remark, say};
use crate::standalone;

/// Cameo: an event-sourced profile store
///
/// Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 the server cannot be reached; 4 not found; 5 done in
/// part (some visits or rows were refused); 6, of an edge: the log was trimmed past it, start it again.
#[derive(Debug, Parser)]
#[command(name = "cameo", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole store in one process: visits, profiles, bulk files, one port
    Standalone(Box<StandaloneArgs>),
    /// Run an edge of a cluster: visits and profiles, over NATS
    Edge(Box<EdgeArgs>),
    /// Run a gateway of a cluster: bulk files, over NATS
    Gateway(Box<GatewayArgs>),
    /// Run the control plane of a cluster: tokens, settings, users, admin pages, over NATS
    Control(Box<ControlArgs>),
    /// Print the settings that `cameo standalone` would run with, as TOML
    Config(Box<StandaloneArgs>),
    /// Send visits, or import them from an access log
    #[command(subcommand)]
    Visit(visit::VisitCommand),
    /// Read and change profiles
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Upload bulk files and follow them
    #[command(subcommand)]
    Bulk(bulk::BulkCommand),
    /// Make, list, rotate and revoke tokens of the profile API
    #[command(subcommand)]
    Token(admin::TokenCommand),
    /// Switch Require Authentication
    #[command(subcommand)]
    Auth(admin::AuthCommand),
    /// Secrets that servers sign ids of persons with
    #[command(subcommand)]
    Identity(admin::IdentityCommand),
    /// Users of the admin API and pages
    #[command(subcommand)]
    User(admin::UserCommand),
    /// Clients (tenants) and their settings
    #[command(subcommand)]
    Client(admin::ClientCommand),
    /// Show the nodes of a cluster, and whether they have the same
    Cluster(snapshot::ClusterArgs),
    /// Take, list and export snapshots of all partitions
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Make a new server's data, or a new cluster's log, from a folder of snapshots: profiles and batches, and with the signing key clients, tokens and users
    Restore(Box<restore::RestoreArgs>),
    /// Give the log of a cluster back what NATS has lost of it
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Read the audit log
    Audit(admin::AuditArgs),
    /// Measure visits and reads against a server: throughput and latency percentiles
    Bench(Box<bench::BenchArgs>),
    /// Ask a server whether it is ready: 0 yes, 1 not now, 3 it does not answer
    Health(health::HealthArgs),
}

/// Where a client command goes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// URL of the server
    #[arg(long, env = "CAMEO_URL", default_value = "http://127.0.0.1:8080", global = true)]
    pub(crate) url: String,
    /// Client (tenant) code
    #[arg(long, env = "CAMEO_CLIENT", default_value = "demo", global = true)]
    pub(crate) client: String,
    /// PEM file of the authorities that an https:// server is trusted by [default: the system's]
    #[arg(long, env = "CAMEO_CA", value_name = "FILE", global = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Token for the profile API
    #[arg(long, env = "CAMEO_TOKEN", hide_env_values = true, global = true)]
    pub(crate) token: Option<String>,
    /// Print JSON for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Target {
    pub(crate) fn connect(&self) -> Result<Client, Error> {
        let client = Client::trusting(&self.url, &self.client, self.ca.as_deref())?;
        match &self.token {
            Some(token) => client.with_token(token),
            None => Ok(client),
        }
    }
}

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// All of it.
    Whole,
    /// Some visits or rows were refused.
    InPart,
    /// What was asked for says no (a batch that is stuck).
    Failed,
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Standalone(args) => standalone::run(*args).map(|()| Done::Whole),
        Command::Edge(args) => cluster::edge(*args).map(|()| Done::Whole),
        Command::Gateway(args) => cluster::gateway(*args).map(|()| Done::Whole),
        Command::Control(args) => cluster::control(*args).map(|()| Done::Whole),
        Command::Config(args) => args.resolve().map_err(|error| Usage::of(error).into()).and_then(|config| {
            say!("{}", config.to_toml()?.trim_end())?;
            Ok(Done::Whole)
        }),
        Command::Visit(command) => on_runtime(visit::run(command)),
        Command::Profile(command) => on_runtime(profile::run(command)),
        Command::Bulk(command) => on_runtime(bulk::run(command)),
        Command::Token(command) => on_runtime(admin::token(command)),
        Command::Auth(command) => on_runtime(admin::auth(command)),
        Command::Identity(command) => on_runtime(admin::identity(command)),
        Command::User(command) => on_runtime(admin::user(command)),
        Command::Client(command) => on_runtime(admin::client(command)),
        Command::Cluster(args) => on_runtime(snapshot::cluster(args)),
        Command::Snapshot(command) => on_runtime(snapshot::run(command)),
        Command::Restore(args) => on_runtime(restore::run(*args)),
        Command::Log(command) => on_runtime(log::run(command)),
        Command::Audit(args) => on_runtime(admin::audit(args)),
        Command::Bench(args) => on_runtime(bench::run(*args)),
        Command::Health(args) => on_runtime(health::run(args)),
    };
    match done {
        Ok(Done::Whole) => ExitCode::SUCCESS,
        Ok(Done::InPart) => ExitCode::from(5),
        Ok(Done::Failed) => ExitCode::FAILURE,
        Err(error) => {
            remark!("error: {error:#}");
            let (code, hint) = classify(&error);
            if let Some(hint) = hint {
                remark!("{hint}");
            }
            ExitCode::from(code)
        }
    }
}

fn on_runtime(command: impl Future<Output = anyhow::Result<Done>>) -> anyhow::Result<Done> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(command);
    // Not by dropping it: that would wait for a read of a terminal that nobody types into.
    runtime.shutdown_background();
    done
}

/// The exit code of an error, and what to do about it.
fn classify(error: &anyhow::Error) -> (u8, Option<String>) {
    if error.is::<Usage>() {
        return (2, None);
    }
    if error.is::<cluster::Overtaken>() {
        return (6, None);
    }
    match error.downcast_ref::<ConnectError>() {
        Some(ConnectError::Url { .. }) => return (2, None),
        Some(ConnectError::Connect { .. }) => return (3, None),
        Some(other) => return (1, cluster::hint(other).map(|hint| format!("{hint}."))),
        None => {}
    }
    if let Some(hint) = cluster::replicas_hint(error) {
        return (1, Some(format!("{hint}.")));
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Unreachable { url, .. }) => {
            (3, Some(format!("Is `cameo standalone` running at {url}? Another server is named by --url or CAMEO_URL.")))
        }
        Some(Error::Untrusted { .. }) => {
            (3, Some("The authority that signed it is named by --ca FILE or CAMEO_CA.".into()))
        }
        Some(Error::NotTls { .. }) => (3, None),
        Some(Error::NoAuthorities { .. }) => (2, Some("A file of them is named by --ca FILE or CAMEO_CA.".into())),
        Some(Error::Refused { status: 404, .. }) => (4, None),
        // 403: who asks is known, and may not.
        Some(Error::Refused { status: 401, .. }) => {
            let text = "A token is given by --token or CAMEO_TOKEN; admin commands take --user with CAMEO_PASSWORD, or --api-key.";
            (1, Some(text.into()))
        }
        Some(Error::BadUrl { .. } | Error::BadToken | Error::BadKey | Error::BadCa { .. }) => (2, None),
        _ => (1, None),
    }
}

/// A JSON value on a line of its own, for scripts.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    say!("{value}")
}

/// What was asked for makes no sense, in a way that the parser of the command line cannot see: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl Usage {
    /// A configuration that makes no sense.
    pub(crate) fn of(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
