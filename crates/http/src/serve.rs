//! Runs a router on a listener with what a public port needs: bounded headers, a time limit for them, no Nagle, answers
//! that arrive although the caller still sends, and a drain at the end that answers what is under way.
//!
//! A handler may answer without having read the body. Then the answer says `Connection: close`, and the connection ends
//! as its `stream` says: the caller gets to read the answer.

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
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::Service;

use crate::stream::{Stream, Unread};

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

/// Where a request came from; every request that is served carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Puts the peer of a connection beside each of its requests, and closes it after an answer to one that was not read.
#[derive(Clone)]
struct WithPeer {
    inner: Router,
    peer: Peer,
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
        let unread = Unread::default();
        let service = WithPeer { inner: router.clone(), peer: Peer(peer), unread: Arc::clone(&unread) };
        let stream = TokioIo::new(Stream::new(stream, unread));
        let connection = http.serve_connection(stream, TowerToHyperService::new(service));
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

#[cfg(test)]
mod tests;
