//! Runs a router on a listener with what a public port needs: bounded headers, a time limit for them, no Nagle, answers
//! that arrive although the caller still sends, and a drain at the end that answers what is under way.
//!
//! A handler may answer without having read the body. Then the answer says `Connection: close`, and the connection ends
//! as its `stream` says: the caller gets to read the answer. A caller that speaks plain HTTP to a port of TLS is told so.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::Service;

use crate::refusal::{Family, Refusal};
use crate::stream::{Stream, Unread, Wire};
use crate::tls::{Begun, Tls};

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
/// The same as [`HEADER_TIMEOUT`], of a connection that came when more than half of the places were taken: whoever holds
/// places and sends nothing does not keep others out for long.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(5);

/// How many may be there, and how long each may take.
#[derive(Clone, Copy)]
struct Bounds {
    connections: usize,
    header: Duration,
    crowded: Duration,
}

impl Bounds {
    /// Those of this process: a quarter of the files that it may have open stays for everything else.
    fn of_process() -> Self {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let connections = files.map_or(CONNECTIONS, |files| CONNECTIONS.min(files - files / 4).max(1));
        Self { connections, header: HEADER_TIMEOUT, crowded: CROWDED_TIMEOUT }
    }

    fn patience(self, free: usize) -> Duration {
        if free < self.connections / 2 { self.crowded } else { self.header }
    }
}

/// Where a request came from; every request that is served carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Beside a request that came over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted;

/// Puts the peer of a connection beside each of its requests, and closes it after an answer to one that was not read.
#[derive(Clone)]
struct WithPeer {
    inner: Router,
    peer: Peer,
    encrypted: bool,
    unread: Unread,
}

impl Service<http::Request<Incoming>> for WithPeer {
    type Response = Response;
    type Error = <Router as Service<http::Request<Watched>>>::Error;
    type Future = Answering<<Router as Service<http::Request<Watched>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Watched>>::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, mut request: http::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        if self.encrypted {
            request.extensions_mut().insert(Encrypted);
        }
        // HTTP/1.1: the requests of a connection come one after the other.
        self.unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
        let request = request.map(|body| Watched { body, unread: Arc::clone(&self.unread) });
        Answering { future: self.inner.call(request), unread: Arc::clone(&self.unread) }
    }
}

/// A body that tells when it has been read to its end.
struct Watched {
    body: Incoming,
    unread: Unread,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.unread.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// A reply under way.
    struct Answering<F> {
        #[pin]
        future: F,
        unread: Unread,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Answering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answer = ready!(this.future.poll(context));
        if let Ok(response) = &mut answer
            && this.unread.load(Ordering::Relaxed)
        {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(answer)
    }
}

/// What a connection is served with.
#[derive(Clone)]
struct Serving {
    http: hyper::server::conn::http1::Builder,
    router: Router,
    /// For who speaks plain HTTP to a port of TLS.
    plain: Router,
    tls: Option<Tls>,
}

/// Serves until `stop` is done, then answers what is under way and returns. With `tls`, over TLS alone.
pub async fn serve(listener: TcpListener, tls: Option<Tls>, router: Router, stop: impl Future<Output = ()>) {
    serve_within(Bounds::of_process(), listener, tls, router, stop).await;
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    // No pipeline_flush: it holds an answer back while bytes of the next request are there, and loses it for good when
    // those are rubbish and end the connection.
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(HEAD_BYTES);
    let renewing = tls.clone().map(|tls| tokio::spawn(tls.renew()));
    let plain = Router::new().fallback(async || {
        Refusal::new(400, "this port speaks TLS: send the request to https://").response(Family::Native)
    });
    let serving = Serving { http, router, plain, tls };
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    let connections = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let accept = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small replies must not wait for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let (mut serving, watcher) = (serving.clone(), graceful.watcher());
        serving.http.header_read_timeout(bounds.patience(connections.available_permits()));
        tokio::spawn(async move {
            serving.connection(stream, Peer(peer), watcher).await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!(drain.seconds = DRAIN_TIMEOUT.as_secs(), "some connections did not end in time");
    }
    if let Some(renewing) = renewing {
        renewing.abort();
    }
}

impl Serving {
    /// Serves one connection to its end.
    async fn connection(self, tcp: TcpStream, peer: Peer, watcher: Watcher) {
        let (wire, router, encrypted) = match &self.tls {
            None => (Wire::Plain(tcp), self.router, false),
            Some(tls) => match tls.accept(tcp, peer.0.ip()).await {
                Ok(Begun::Tls(stream)) => (Wire::Tls(stream), self.router, true),
                Ok(Begun::Plain(tcp)) => (Wire::Plain(tcp), self.plain, false),
                Err(error) => {
                    tracing::debug!(%error, "a handshake failed");
                    return;
                }
            },
        };
        let unread = Unread::default();
        let service = WithPeer { inner: router, peer, encrypted, unread: Arc::clone(&unread) };
        let stream = TokioIo::new(Stream::new(wire, unread));
        let connection = self.http.serve_connection(stream, TowerToHyperService::new(service));
        // Aborted connections and rubbish are the caller's business; hyper has answered what can be answered.
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

#[cfg(test)]
mod tests;
