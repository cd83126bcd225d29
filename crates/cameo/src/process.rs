//! What every process of a server does alike: start logs, metrics and threads, describe its routes, stop when told to.

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use utoipa::OpenApi;

use crate::config::LogFormat;
use crate::observe;

/// Pause between clean-ups of the metrics recorder, which otherwise keeps every sample until it is asked for them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Runs a server to its end.
pub(crate) fn run(
    log: &str,
    format: LogFormat,
    serve: impl AsyncFnOnce(PrometheusHandle) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    observe::start_logging(log, format)?;
    take_all_files();
    let metrics = observe::start_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        let kept = metrics.clone();
        tokio::spawn(async move {
            loop {
                observe::measure_memory();
                tokio::time::sleep(METRICS_UPKEEP).await;
                kept.run_upkeep();
            }
        });
        serve(metrics).await
    })
}

/// Raises the number of files and connections that may be open to what the system allows: shells begin with few.
fn take_all_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, files.limit = limit.current, "cannot raise the number of open files");
    }
}

/// With the description of the routes at `/openapi.json`.
pub(crate) fn described(router: Router, mut description: utoipa::openapi::OpenApi) -> anyhow::Result<Router> {
    description.merge(Description::openapi());
    name_operations(&mut description);
    description.info.version = env!("CARGO_PKG_VERSION").into();
    let text = description.to_json().context("cannot write the OpenAPI description")?;
    let described = get(move || async move { ([("content-type", "application/json")], text) });
    Ok(router.route("/openapi.json", described))
}

/// Gives every operation a name of its own, as the format asks for: its method and its path. Those that come from the
/// names of functions are alike in different rooms.
fn name_operations(description: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut description.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
            ("options", &mut item.options),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
            let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
            operation.operation_id = Some(method.to_owned() + &words.map(capital).collect::<String>());
        }
    }
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3")))]
#[expect(dead_code, reason = "only its description is used: the handler closes over the text")]
fn openapi_json() {}

#[derive(OpenApi)]
#[openapi(paths(openapi_json))]
struct Description;

/// Done at SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = ()>> {
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
