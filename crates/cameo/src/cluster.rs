//! The roles of a cluster, a process each: `cameo edge`, `cameo gateway` and `cameo control`, over NATS.
//!
//! The control plane makes the streams of log and control bucket; the others wait until they are there. Nobody starts
//! by itself what another has to have started before: a process that cannot go on yet says so and tries again.

pub(crate) mod audit;
pub(crate) mod config;
mod elsewhere;
mod ledger;
mod nodes;
mod operations;
mod retention;
mod streams;
mod upstream;
mod visits;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use cameo_auth::bucket::{Bucket, NatsBucket};
use cameo_auth::clock::SystemClock;
use cameo_auth::node::NodeStatus;
use cameo_auth::seal::Verifying;
use cameo_auth::{Node, NodeConfig};
use cameo_control::{LocalAudit, Plane, PlaneConfig, Upstream};
use cameo_edge::{Edge, EdgeConfig, Replica, SnapshotConfig};
use cameo_eventlog::{JetStreamLog, JetStreamOptions};
use cameo_gateway::Gateway;
use cameo_http::tls::Tls;
use cameo_nats::{ConnectError, Nats, RequestError};
use cameo_snapshot::{Objects, Store};
use http::HeaderValue;
use http::header::CONNECTION;
use tokio::net::TcpListener;

use crate::commands::Usage;
use crate::ledger::ReplicaLedger;
use crate::out::say;
use crate::process;
use config::{Common, ControlArgs, EdgeArgs, GatewayArgs};
use elsewhere::Elsewhere;
use ledger::RemoteLedger;

/// Pause before something that is not there yet is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// First part of all subjects and streams in NATS.
pub(crate) const NAME: &str = "cameo";

/// In an edge's data directory: what it has read lately, should NATS lose it.
pub(crate) const RECENT: &str = "recent";

/// The log was trimmed past what an edge has read, as it was away for longer than the log is kept: exit code 6. What it
/// needs is what a start does, so it ends, and whoever started it starts it again.
#[derive(Debug)]
pub(crate) struct Overtaken;

impl std::fmt::Display for Overtaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the log was trimmed past what this edge has read; started again, it loads a newer snapshot")
    }
}

/// Runs an edge until it is told to stop.
pub(crate) fn edge(args: EdgeArgs) -> anyhow::Result<()> {
    let config = args.resolve().map_err(Usage::of)?;
    process::run(&config.common.log, config.common.log_format, async |metrics, stop| {
        let common = &config.common;
        let listener = listen(common).await?;
        let nats = connect(common).await?;
        let log = wait_for("the streams of the log", async || JetStreamLog::open(&nats, NAME).await).await?;
        let recent = common.data_dir.join(RECENT);
        log.keep_recent(&recent).with_context(|| format!("cannot keep frames in {}", recent.display()))?;
        let status = Arc::new(OnceLock::<Arc<Replica<JetStreamLog>>>::new());
        let told = Arc::clone(&status);
        let node = start_node(common, &nats, "edge", config.control_key, move || {
            told.get().map_or_else(NodeStatus::default, |replica| replica.status())
        })
        .await?;
        let draining = Arc::new(AtomicBool::new(false));
        let edge = EdgeConfig {
            auth: node.verifier(),
            checkpoint_dir: common.data_dir.join("checkpoint"),
            checkpoint_every: config.checkpoint_every,
            snapshots: Some(SnapshotConfig {
                store: Store::Objects(Objects::new(&nats, NAME)),
                every: config.snapshot_every,
                node: common.nats.name.clone(),
                work_dir: common.data_dir.join("snapshots.tmp"),
                // The control plane does, as edges may not.
                removes: false,
            }),
            // As above, once snapshots have what is in the streams.
            retention: None,
            spool: config.spool.clone(),
            draining: Arc::clone(&draining),
            metrics: Some(metrics),
        };
        let edge = Arc::new(Edge::open(edge, Arc::new(log)).await.context("cannot recover the profiles")?);
        let _ = status.set(edge.replica());
        tokio::spawn(Arc::clone(&edge).follow_settings(node.changes()));
        let ledger = ReplicaLedger(edge.replica());
        let answering = ledger::answer(&nats, NAME, &common.nats.name, ledger, Arc::clone(&draining)).await?;
        nodes::answer(&nats, NAME, &common.nats.name, edge.replica()).await?;
        let draining_visits = tokio::spawn(visits::drain(nats.clone(), NAME, Arc::clone(&edge)));
        let router = process::described(edge.router(), cameo_edge::openapi())?;
        greet("edge", common, &listener);
        let (replica, overtaken) = (edge.replica(), Arc::new(AtomicBool::new(false)));
        let (stop, told) = (stop.while_serving(), Arc::clone(&overtaken));
        let stopped = async move {
            tokio::select! {
                () = stop => {}
                () = replica.overtaken() => told.store(true, Ordering::Relaxed),
            }
        };
        serve(common, listener, router, &draining, stopped, || draining_visits.abort()).await;
        node.leave().await;
        answering.close().await;
        edge.close().await;
        if overtaken.load(Ordering::Relaxed) { Err(anyhow::Error::msg(Overtaken)) } else { Ok(()) }
    })
}

/// What a node without profiles says of itself: it serves from when it is there, and has nothing to catch up with.
fn without_profiles() -> NodeStatus {
    NodeStatus { ready: true, ..NodeStatus::default() }
}

/// Runs a gateway until it is told to stop.
pub(crate) fn gateway(args: GatewayArgs) -> anyhow::Result<()> {
    let config = args.resolve().map_err(Usage::of)?;
    process::run(&config.common.log, config.common.log_format, async |metrics, stop| {
        let common = &config.common;
        let listener = listen(common).await?;
        std::fs::create_dir_all(&common.data_dir)
            .with_context(|| format!("cannot create {}", common.data_dir.display()))?;
        let nats = connect(common).await?;
        let node = start_node(common, &nats, "gateway", config.control_key, without_profiles).await?;
        let ledger = wait_for("an edge", async || RemoteLedger::find(&nats, NAME).await).await?;
        let gateway = cameo_gateway::GatewayConfig {
            auth: node.verifier(),
            spool_dir: common.data_dir.join("spool"),
            sole_gateway: false,
        };
        let gateway = Gateway::new(gateway, Arc::new(ledger))?;
        let draining = Arc::new(AtomicBool::new(false));
        let operations = operations::router(node.verifier(), Arc::clone(&draining), metrics);
        let mut description = cameo_gateway::openapi();
        description.merge(operations::openapi());
        let router = process::described(gateway.router().merge(operations), description)?;
        greet("gateway", common, &listener);
        serve(common, listener, router, &draining, stop.while_serving(), || {}).await;
        gateway.close().await;
        node.leave().await;
        Ok(())
    })
}

/// Runs a control plane until it is told to stop.
pub(crate) fn control(args: ControlArgs) -> anyhow::Result<()> {
    let config = args.resolve().map_err(Usage::of)?;
    process::run(&config.common.log, config.common.log_format, async |metrics, stop| {
        let common = &config.common;
        let listener = listen(common).await?;
        std::fs::create_dir_all(&common.data_dir)
            .with_context(|| format!("cannot create {}", common.data_dir.display()))?;
        let sealer = cameo_control::signing_key(&config.signing_key_file)?;
        let nats = connect(common).await?;
        let log = JetStreamOptions {
            partitions: config.partitions,
            replicas: config.log_replicas,
            max_bytes: config.log_max_bytes,
            ..JetStreamOptions::new(NAME)
        };
        // A cluster that was just started has no leaders yet.
        made("the streams of the log", async || JetStreamLog::create(&nats, &log).await).await?;
        made("the store of snapshots", async || Objects::create(&nats, NAME, log.replicas).await).await?;
        made("the queue of visits", async || visits::create(&nats, NAME, log.replicas, config.visits_max_bytes).await)
            .await?;
        made("the control bucket", async || NatsBucket::create(&nats, NAME, log.replicas).await).await?;
        let bucket = wait_for("the control bucket", async || NatsBucket::open(&nats, NAME).await).await?;
        let objects = Objects::new(&nats, NAME);
        let looked_at = common.data_dir.join("snapshot.tmp");
        let mut watched = vec![bucket.stream().to_owned(), visits::stream(NAME), objects.stream().to_owned()];
        let bucket: Arc<dyn Bucket> = Arc::new(bucket);
        let plane = PlaneConfig {
            bucket: Arc::clone(&bucket),
            audit: Arc::new(LocalAudit::open(&common.data_dir.join("audit"))?),
            sealer: sealer.clone(),
            clock: Arc::new(SystemClock),
        };
        let plane = Plane::open(plane).await.context("cannot open the control plane")?;
        for client in &config.clients {
            plane.ensure_client(&client.code, client.lifetime_days).await?;
        }
        let made_up = plane.ensure_admin(config.admin_password.as_ref().map(|password| password.0.clone())).await?;
        let node = start_node(common, &nats, "control", sealer.verifying(), without_profiles).await?;
        let shortened = wait_for("the streams of the log", async || JetStreamLog::open(&nats, NAME).await).await?;
        plane.ask_nodes_by(Arc::new(nodes::RemoteNodes::new(&nats, NAME)));
        audit::take(&nats, NAME, plane.clone()).await?;
        watched.extend(shortened.streams().map(str::to_owned));
        tokio::spawn(retention::keep(shortened, objects, config.retention, looked_at));
        let upstream =
            upstream::router(&config.edge_url, &config.gateway_url, config.node_ca.as_deref(), sealer.clone())?;
        let (admin, _) = cameo_control::router(&plane, Upstream::new(upstream));
        tokio::spawn(streams::measure(nats.clone(), watched));
        let draining = Arc::new(AtomicBool::new(false));
        let operations = operations::router(node.verifier(), Arc::clone(&draining), metrics);
        let mut description = cameo_control::openapi();
        description.merge(operations::openapi());
        let router = process::described(admin.merge(operations), description)?;
        greet("control plane", common, &listener);
        if let Some(password) = made_up {
            // A closed standard output is no reason to stop serving.
            let _ = say!("Admin API and pages: User: admin   Password, shown this once: {}", password.as_str());
        }
        let _ = say!("Nodes take --control-key {}", sealer.verifying().to_hex());
        let closing = plane.clone();
        serve(common, listener, router, &draining, stop.while_serving(), move || closing.close()).await;
        node.leave().await;
        Ok(())
    })
}

/// Before anything that may take a while: a taken port, or a certificate that cannot be used, is told at once.
async fn listen(common: &Common) -> anyhow::Result<(TcpListener, Option<Tls>)> {
    let tls = common.tls.clone().map(Tls::open).transpose()?;
    let listener = TcpListener::bind(common.listen).await;
    Ok((listener.with_context(|| format!("cannot listen on {}", common.listen))?, tls))
}

async fn connect(common: &Common) -> anyhow::Result<Nats> {
    loop {
        match Nats::connect(&common.nats).await {
            Ok(nats) => return Ok(nats),
            Err(error @ ConnectError::Url { .. }) => bail!(error),
            // Certificates and passwords are renewed: it may pass by itself.
            Err(error) if hint(&error).is_some() => {
                tracing::error!("{error}; {}; trying again", hint(&error).unwrap_or_default());
            }
            Err(error) => {
                // The client's own words for its cause have the causes below it.
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(cause, "{error}; trying again");
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What to do when NATS is there and does not take us, or is not to be trusted.
pub(crate) const fn hint(error: &ConnectError) -> Option<&'static str> {
    match error {
        ConnectError::Untrusted { .. } => Some("--nats-ca names the authority that signed its certificate"),
        ConnectError::Unauthorized { user: None, .. } => {
            Some("--nats-password-file names the file with the password of --nats-user (else of --node)")
        }
        ConnectError::Unauthorized { user: Some(_), .. } => {
            Some("--nats-user (else --node) and --nats-password-file say who it is")
        }
        ConnectError::Url { .. } | ConnectError::Connect { .. } | ConnectError::Subscribe(_) => None,
    }
}

/// JetStream's number for too few servers: there may be more in a moment, or there is one and never will be.
const TOO_FEW_SERVERS: u64 = 10_074;

/// What to do when NATS has fewer servers than a stream shall have.
pub(crate) fn replicas_hint(error: &anyhow::Error) -> Option<&'static str> {
    let request = error.chain().find_map(|cause| cause.downcast_ref::<RequestError>());
    match request {
        Some(RequestError::Refused { code: TOO_FEW_SERVERS, .. }) => {
            Some("a single NATS server takes --log-replicas 1; 3, the default, needs three in a cluster")
        }
        _ => None,
    }
}

/// Looks until it is there.
async fn wait_for<T, E: std::error::Error + Send + Sync + 'static>(
    what: &str,
    look: impl AsyncFn() -> Result<Option<T>, E>,
) -> anyhow::Result<T> {
    let mut said = false;
    loop {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if said => {}
            Ok(None) => {
                tracing::info!("waiting for {what}");
                said = true;
            }
            Err(error) => refused(what, error)?,
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn made<E: std::error::Error + Send + Sync + 'static>(
    what: &str,
    make: impl AsyncFn() -> Result<(), E>,
) -> anyhow::Result<()> {
    while let Err(error) = make().await {
        refused(what, error)?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// NATS that does not answer yet is waited for; what it says no to will not change by itself.
fn refused(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Result<()> {
    let error = anyhow::Error::new(error);
    let request = error.chain().find_map(|cause| cause.downcast_ref::<RequestError>());
    if request.is_some_and(RequestError::is_passing) {
        let hint = replicas_hint(&error).map(|hint| format!(" ({hint})")).unwrap_or_default();
        tracing::warn!(error = format!("{error:#}"), "{what}: trying again{hint}");
        return Ok(());
    }
    Err(error.context(format!("{what} cannot be used")))
}

/// Follows the control bucket until it is known whole.
async fn start_node(
    common: &Common,
    nats: &Nats,
    role: &str,
    key: Verifying,
    status: impl Fn() -> NodeStatus + Send + Sync + 'static,
) -> anyhow::Result<Node> {
    let bucket = wait_for("the control bucket", async || NatsBucket::open(nats, NAME).await).await?;
    let config = NodeConfig {
        node: common.nats.name.clone(),
        roles: vec![role.to_owned()],
        lease: common.auth_lease,
        key,
        status: Arc::new(status),
    };
    let node = Node::start(Arc::new(bucket), config, Arc::new(SystemClock))?;
    if tokio::time::timeout(common.auth_lease, node.synced()).await.is_err() {
        tracing::warn!("waiting for the control bucket: protected calls cannot be judged before it is known");
        node.synced().await;
    }
    Ok(node)
}

/// Serves until it is to stop, and for a while after that: `/readyz` says no, so that a load balancer sends nothing new here, and
/// every answer ends its connection.
async fn serve(
    common: &Common,
    (listener, tls): (TcpListener, Option<Tls>),
    router: Router,
    draining: &Arc<AtomicBool>,
    stopped: impl Future<Output = ()>,
    closing: impl FnOnce(),
) {
    let told = Arc::clone(draining);
    // Who keeps a connection shall take the next one to another node, and not be cut off at the end.
    let close = map_response(move |mut response: Response| {
        if told.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        std::future::ready(response)
    });
    let elsewhere = Arc::new(Elsewhere::new());
    let router = cameo_http::with_signposts(router, move |path| elsewhere.serves(path)).layer(close);
    let (draining, drain) = (Arc::clone(draining), common.drain);
    let stopped = async move {
        stopped.await;
        draining.store(true, Ordering::Relaxed);
        closing();
        tokio::time::sleep(drain).await;
    };
    cameo_http::serve::serve(listener, tls, router, stopped).await;
    tracing::info!("stopped");
}

fn greet(role: &str, common: &Common, (listener, tls): &(TcpListener, Option<Tls>)) {
    let address = listener.local_addr().unwrap_or(common.listen);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let node = &common.nats.name;
    // A closed standard output is no reason to stop serving.
    let _ = say!("Cameo {role} {node} is ready at {scheme}://{address}, data in {}", common.data_dir.display());
}
