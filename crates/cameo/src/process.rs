//! What every process of a server does alike: start logs, metrics and threads, describe its routes, stop when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use utoipa::OpenApi;

use crate::config::LogFormat;
use crate::observe;

/// Pause between clean-ups of the metrics recorder, which otherwise keeps every sample until it is asked for them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// How long threads are waited for at the end that were still loading something when it was stopped.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(100);

/// Runs a server to its end.
pub(crate) fn run(
    log: &str,
    format: LogFormat,
    serve: impl AsyncFnOnce(PrometheusHandle, Stop) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    observe::start_logging(log, format)?;
    take_all_files();
    let metrics = observe::start_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(async {
        // First of all: the first process of a container ignores signals that it does not handle.
        let stop = Stop::listen()?;
        let kept = metrics.clone();
        tokio::spawn(async move {
            loop {
                observe::measure_memory();
                tokio::time::sleep(METRICS_UPKEEP).await;
                kept.run_upkeep();
            }
        });
        tokio::select! {
            served = serve(metrics, stop.clone()) => served,
            () = stop.before_serving() => Ok(()),
        }
    });
    // What it was loading when it was stopped is left as by a kill.
    runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
    result
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

/// SIGTERM or SIGINT; a second one ends the process at once.
#[derive(Clone)]
pub(crate) struct Stop {
    told: watch::Receiver<bool>,
    serving: Arc<AtomicBool>,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            for at_once in [false, true] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if at_once {
                    tracing::warn!("stopped at once by a second signal; the log has everything that was acknowledged");
                    std::process::exit(130);
                }
                tell.send_replace(true);
            }
        });
        Ok(Self { told, serving: Arc::default() })
    }

    /// Done when it is told to stop. From here on whoever asked sees to it that what is under way is answered.
    pub(crate) fn while_serving(self) -> impl Future<Output = ()> {
        self.serving.store(true, Ordering::SeqCst);
        async move {
            self.told().await;
            tracing::info!("stopping: answering what is under way");
        }
    }

    /// Done when it is told to stop while nobody serves yet.
    async fn before_serving(self) {
        self.told().await;
        if self.serving.load(Ordering::SeqCst) {
            std::future::pending().await
        }
        tracing::info!("stopped before it was ready");
    }

    async fn told(&self) {
        // The sender lives as long as the process.
        let _ = self.told.clone().wait_for(|told| *told).await;
    }
}
