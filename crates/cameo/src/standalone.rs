//! `cameo standalone`: every role in one process on one port, over the embedded log.

use std::sync::{Arc, OnceLock};

use anyhow::Context;
use axum::Router;
use cameo_auth::bucket::{Bucket, LocalBucket};
use cameo_auth::clock::SystemClock;
use cameo_auth::node::NodeStatus;
use cameo_auth::routes::RouteAccess;
use cameo_auth::seal::Sealer;
use cameo_auth::{Access, Node, NodeConfig};
use cameo_control::{LocalAudit, Plane, PlaneConfig, Upstream};
use cameo_edge::{Edge, EdgeConfig, Replica, SnapshotConfig};
use cameo_eventlog::{EmbeddedLog, EmbeddedOptions};
use cameo_gateway::{Gateway, GatewayConfig};
use cameo_http::tls::Tls;
use cameo_snapshot::{Folder, Store};
use http::Method;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::commands::Usage;
use crate::config::{DurabilityArg, Standalone, StandaloneArgs};
use crate::ledger::ReplicaLedger;
use crate::nodes::LocalNodes;
use crate::out::say;
use crate::process::{self, Stop};

#[cfg(test)]
mod tests;

/// Runs until it is told to stop.
pub(crate) fn run(args: StandaloneArgs) -> anyhow::Result<()> {
    let config = args.resolve().map_err(Usage::of)?;
    process::run(&config.log.clone(), config.log_format, async |metrics, stop| serve(config, metrics, stop).await)
}

async fn serve(config: Standalone, metrics: PrometheusHandle, stop: Stop) -> anyhow::Result<()> {
    if config.durability == DurabilityArg::Buffered {
        tracing::warn!("durability is buffered: a power cut may lose the last seconds of acknowledged visits");
    }
    // Before recovery, which may take a while: a taken port, or a certificate that cannot be used, is told at once.
    let tls = config.tls.clone().map(Tls::open).transpose()?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let options = EmbeddedOptions {
        partitions: config.partitions,
        durability: config.durability.into(),
        ..EmbeddedOptions::new(config.data_dir.join("log"))
    };
    let log = Arc::new(EmbeddedLog::open(options).context("cannot open the log")?);
    let status = Arc::new(OnceLock::new());
    let control = open_control(&config).await.context("cannot open the control store")?;
    let node = start_node(&config, &control, Arc::clone(&status)).await?;
    let edge = EdgeConfig {
        auth: node.verifier(),
        checkpoint_dir: config.data_dir.join("checkpoint"),
        checkpoint_every: config.checkpoint_every,
        snapshots: Some(SnapshotConfig {
            store: Store::Folder(Folder::new(&config.snapshot_dir)),
            every: config.snapshot_every,
            node: "standalone".into(),
            work_dir: config.data_dir.join("snapshots.tmp"),
            removes: true,
        }),
        retention: Some(config.retention),
        spool: None,
        draining: Arc::default(),
        metrics: Some(metrics),
    };
    let edge = Arc::new(Edge::open(edge, log).await.context("cannot recover the profiles")?);
    let _ = status.set(edge.replica());
    let store = Store::Folder(Folder::new(&config.snapshot_dir));
    control.plane.ask_nodes_by(Arc::new(LocalNodes { replica: edge.replica(), store }));
    tokio::spawn(Arc::clone(&edge).follow_settings(node.changes()));
    let gateway = GatewayConfig { auth: node.verifier(), spool_dir: config.data_dir.join("spool"), sole_gateway: true };
    let gateway = Gateway::new(gateway, Arc::new(ReplicaLedger(edge.replica())))?;
    let (router, _) = router(&edge, &gateway, &control.plane)?;
    // The last thing that can fail: a password that is made up is shown this once, or never.
    let made_up = match config.admin_password {
        Some(_) => None,
        None => control.plane.ensure_admin(None).await?,
    };
    greet(&config, made_up.as_deref(), listener.local_addr().unwrap_or(config.listen));
    let stopped = stop.while_serving();
    let plane = control.plane.clone();
    let stopped = async move {
        stopped.await;
        plane.close();
    };
    cameo_http::serve::serve(listener, tls, router, stopped).await;
    node.leave().await;
    // Files that are being submitted still need the replica.
    gateway.close().await;
    edge.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// The replica, once it is there, for the node to say how it is doing.
type Status = Arc<OnceLock<Arc<Replica<EmbeddedLog>>>>;

/// The control store: records, audit log, and the key that signs records.
struct Control {
    plane: Plane,
    bucket: Arc<dyn Bucket>,
    sealer: Sealer,
}

/// Opens the control store, and puts in what the configuration names and it has not.
async fn open_control(config: &Standalone) -> anyhow::Result<Control> {
    let dir = config.data_dir.join("control");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let sealer = cameo_control::signing_key(&dir.join("signing.key"))?;
    let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(&dir.join("records"))?);
    let audit = LocalAudit::open(&dir.join("audit"))?;
    let plane = PlaneConfig {
        bucket: Arc::clone(&bucket),
        audit: Arc::new(audit),
        sealer: sealer.clone(),
        clock: Arc::new(SystemClock),
    };
    let plane = Plane::open(plane).await?;
    for client in &config.clients {
        plane.ensure_client(&client.code, client.lifetime_days).await?;
    }
    if let Some(password) = &config.admin_password {
        plane.ensure_admin(Some(password.0.clone())).await?;
    }
    Ok(Control { plane, bucket, sealer })
}

/// Follows the control store until it is known whole.
async fn start_node(config: &Standalone, control: &Control, status: Status) -> anyhow::Result<Node> {
    let node = NodeConfig {
        node: "standalone".into(),
        roles: ["edge", "gateway", "control"].map(str::to_owned).into(),
        lease: config.auth_lease,
        key: control.sealer.verifying(),
        status: Arc::new(move || status.get().map_or_else(NodeStatus::default, |replica| replica.status())),
    };
    let node = Node::start(Arc::clone(&control.bucket), node, Arc::new(SystemClock))?;
    node.synced().await;
    Ok(node)
}

/// The routes of all roles with what each asks for, and the description of all of them.
fn router(
    edge: &Edge<EmbeddedLog>,
    gateway: &Gateway<ReplicaLedger<EmbeddedLog>>,
    plane: &Plane,
) -> anyhow::Result<(Router, Vec<RouteAccess>)> {
    let mut description = cameo_edge::openapi();
    description.merge(cameo_gateway::openapi());
    description.merge(cameo_control::openapi());
    let profiles = edge.router().merge(gateway.router());
    let upstream = Upstream::new(cameo_http::with_fallbacks(profiles.clone()));
    let (admin, rest) = cameo_control::router(plane, upstream);
    let mut table = edge.routes();
    table.extend(gateway.routes());
    table.extend(rest);
    table.push(RouteAccess { method: Method::GET, path: "/openapi.json", access: Access::Public });
    let router = process::described(profiles.merge(admin), description)?;
    Ok((cameo_http::with_fallbacks(router), table))
}

/// Says what to open and try next.
fn greet(config: &Standalone, made_up: Option<&String>, address: std::net::SocketAddr) {
    let client = config.clients.first().map_or("demo", |client| client.code.as_str());
    let url = format!("{}://{address}", if config.tls.is_some() { "https" } else { "http" });
    // A closed standard output is no reason to stop serving.
    let _ = say!(
        "Cameo is ready at {url}, data in {}

Try next:
  curl '{url}/v1/{client}/visits?return=profile' -d '{{\"ids\":{{\"tntId\":\"a1\"}},\"profile\":{{\"country\":\"france\"}}}}'
  curl '{url}/rest/v1/profiles/a1?client={client}'
  printf 'batch=pcId,tier\\na1,gold\\n' | curl '{url}/m2/{client}/v2/profile/batchUpdate' --data-binary @-
{admin}
API description: {url}/openapi.json   Metrics: {url}/metrics   Stop: Ctrl-C",
        config.data_dir.display(),
        admin = match made_up {
            Some(password) => format!("Admin API and pages: {url}/admin   User: admin   Password, shown this once: {password}"),
            None => format!("Admin API and pages: {url}/admin"),
        },
    );
}
