//! `cameo standalone`: every role in one process on one port, over the embedded log.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use cameo_edge::{Clients, Edge, EdgeConfig};
use cameo_eventlog::{EmbeddedLog, EmbeddedOptions};
use cameo_gateway::{Gateway, GatewayConfig};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use utoipa::OpenApi;

use crate::config::{DurabilityArg, Standalone, StandaloneArgs};
use crate::ledger::ReplicaLedger;
use crate::observe;
use crate::out::say;

/// Pause between clean-ups of the metrics recorder, which otherwise keeps every sample until it is asked for them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Runs until it is told to stop.
pub(crate) fn run(args: StandaloneArgs) -> anyhow::Result<()> {
    let config = args.resolve()?;
    observe::start_logging(&config.log, config.log_format)?;
    let metrics = observe::start_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(config, metrics))
}

async fn serve(config: Standalone, metrics: PrometheusHandle) -> anyhow::Result<()> {
    if config.durability == DurabilityArg::Buffered {
        tracing::warn!("durability is buffered: a power cut may lose the last seconds of acknowledged visits");
    }
    // Before recovery, which may take a while: a taken port is told at once.
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let options = EmbeddedOptions {
        partitions: config.partitions,
        durability: config.durability.into(),
        ..EmbeddedOptions::new(config.data_dir.join("log"))
    };
    let log = Arc::new(EmbeddedLog::open(options).context("cannot open the log")?);
    let edge = EdgeConfig {
        clients: Clients::new(config.clients.clone()),
        checkpoint_dir: config.data_dir.join("checkpoint"),
        checkpoint_every: config.checkpoint_every,
        retention: config.retention,
        metrics: Some(metrics.clone()),
    };
    let edge = Edge::open(edge, log).await.context("cannot recover the profiles")?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            metrics.run_upkeep();
        }
    });
    let gateway = GatewayConfig {
        clients: config.clients.iter().map(|client| client.code.clone()).collect(),
        spool_dir: config.data_dir.join("spool"),
        sole_gateway: true,
    };
    let gateway = Gateway::new(gateway, Arc::new(ReplicaLedger(edge.replica())))?;
    let router = router(&edge, &gateway)?;
    greet(&config, listener.local_addr().unwrap_or(config.listen));
    cameo_http::serve::serve(listener, router, stop()?).await;
    // Files that are being submitted still need the replica.
    gateway.close().await;
    edge.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// The routes of all roles, and the description of all of them.
fn router(edge: &Edge<EmbeddedLog>, gateway: &Gateway<ReplicaLedger>) -> anyhow::Result<Router> {
    let mut description = cameo_edge::openapi();
    description.merge(cameo_gateway::openapi());
    description.merge(Description::openapi());
    description.info.version = env!("CARGO_PKG_VERSION").into();
    let description = description.to_json().context("cannot write the OpenAPI description")?;
    let described = get(move || async move { ([("content-type", "application/json")], description) });
    let router = edge.router().merge(gateway.router()).route("/openapi.json", described);
    Ok(cameo_http::with_fallbacks(router))
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3")))]
#[expect(dead_code, reason = "only its description is used: the handler closes over the text")]
fn openapi_json() {}

#[derive(OpenApi)]
#[openapi(paths(openapi_json))]
struct Description;

/// Done at SIGTERM or SIGINT; a second one ends the process at once.
fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: answering what is under way");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("stopped at once by a second signal; the log has everything that was acknowledged");
            std::process::exit(130);
        });
    })
}

/// Says what to open and try next.
fn greet(config: &Standalone, address: std::net::SocketAddr) {
    let client = config.clients.first().map_or("demo", |client| client.code.as_str());
    let url = format!("http://{address}");
    // A closed standard output is no reason to stop serving.
    let _ = say!(
        "Cameo is ready at {url}, data in {}

Try next:
  curl '{url}/v1/{client}/visits?return=profile' -d '{{\"ids\":{{\"tntId\":\"a1\"}},\"profile\":{{\"country\":\"france\"}}}}'
  curl '{url}/rest/v1/profiles/a1?client={client}'
  printf 'batch=pcId,tier\\na1,gold\\n' | curl '{url}/m2/{client}/v2/profile/batchUpdate' --data-binary @-
API description: {url}/openapi.json   Metrics: {url}/metrics   Stop: Ctrl-C",
        config.data_dir.display()
    );
}
