//! `cameo_http_requests_total` by route and status: one look-up and one atomic add a request.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::MatchedPath;
use axum::response::Response;
use http::Request;
use metrics::Counter;
use parking_lot::RwLock;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// Counters by route template and by status; as many as routes times the statuses they can answer. Nested, so that a
/// look-up borrows the route's name.
type Counters = Arc<RwLock<HashMap<Box<str>, HashMap<u16, Counter>>>>;

/// Counts what passes through it.
#[derive(Clone, Default)]
pub(crate) struct CountLayer(Counters);

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, counters: Arc::clone(&self.0) }
    }
}

/// The service of a [`CountLayer`].
#[derive(Clone)]
pub(crate) struct Count<S> {
    inner: S,
    counters: Counters,
}

impl<S, B> Service<Request<B>> for Count<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Counted<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.extensions().get::<MatchedPath>().cloned();
        Counted { future: self.inner.call(request), path, counters: Arc::clone(&self.counters) }
    }
}

pin_project! {
    /// A reply under way.
    pub(crate) struct Counted<F> {
        #[pin]
        future: F,
        path: Option<MatchedPath>,
        counters: Counters,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(context));
        if let Ok(response) = &result {
            // What no route matches counts as one, or callers could make counters without end.
            count(this.counters, this.path.as_ref().map_or("none", MatchedPath::as_str), response.status().as_u16());
        }
        Poll::Ready(result)
    }
}

fn count(counters: &Counters, path: &str, status: u16) {
    if let Some(counter) = counters.read().get(path).and_then(|of_route| of_route.get(&status)) {
        counter.increment(1);
        return;
    }
    let labels = [("route", path.to_owned()), ("status", status.to_string())];
    let counter = metrics::counter!("cameo_http_requests_total", &labels);
    counter.increment(1);
    counters.write().entry(path.into()).or_default().insert(status, counter);
}
