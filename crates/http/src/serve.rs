//! Runs a router on a listener with what a public port needs: bounded headers, a time limit for them, no Nagle, and a
//! drain at the end that answers what is under way.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How long a caller may take to send the head of a request, and how long an idle connection is kept. Ours.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// How long the drain waits for requests under way. Ours: longer than the slowest body is waited for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(40);
/// Bytes of a request's head. Ours: an update by GET has up to 8 KB of query; the rest is for cookies and proxies.
/// A longer head is answered with 431.
const HEAD_BYTES: usize = 64 << 10;
/// Pause after a failed accept (out of file descriptors), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections at a time; further ones wait in the system's queue. Ours: a few hundred megabytes at worst.
const CONNECTIONS: usize = 10_000;

/// Serves until `stop` is done, then answers what is under way and returns.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    // No pipeline_flush: it holds an answer back while bytes of the next request are there, and loses it for good when
    // those are rubbish and end the connection.
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_BYTES);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accept = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small replies must not wait for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Aborted connections and rubbish are the caller's business; hyper has answered what can be answered.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!(drain.seconds = DRAIN_TIMEOUT.as_secs(), "some connections did not end in time");
    }
}
