//! What a request must not have whatever its route: a path with a bad escape, which routing would take literally and so
//! store or look up another id than was meant; and two hosts (RFC 9112, 3.2).

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::response::Response;
use http::header::HOST;
use http::{HeaderMap, Request};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::refusal::{Family, Refusal};

/// Refuses such requests.
#[derive(Clone, Copy)]
pub(crate) struct StrictLayer;

impl<S> Layer<S> for StrictLayer {
    type Service = Strict<S>;

    fn layer(&self, inner: S) -> Strict<S> {
        Strict { inner }
    }
}

/// The service of a [`StrictLayer`].
#[derive(Clone)]
pub(crate) struct Strict<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Strict<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match check(request.uri().path(), request.headers()) {
            Some(refusal) => Answer::Refused { response: Some(refusal.response(Family::of(request.uri().path()))) },
            None => Answer::Served { future: self.inner.call(request) },
        }
    }
}

fn check(path: &str, headers: &HeaderMap) -> Option<Refusal> {
    if let Some(at) = bad_escape(path) {
        let text = format!(
            "the path has a bad escape at character {}: % must be followed by two hexadecimal digits",
            path[..at].chars().count() + 1
        );
        return Some(Refusal::new(400, text));
    }
    let mut hosts = headers.get_all(HOST).iter();
    (hosts.next().is_some() && hosts.next().is_some())
        .then(|| Refusal::new(400, "the request names more than one Host"))
}

/// Where a `%` stands without its two digits.
fn bad_escape(path: &str) -> Option<usize> {
    let bytes = path.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    (0..bytes.len()).find(|&at| bytes[at] == b'%' && !(is_digit(at + 1) && is_digit(at + 2)))
}

pin_project! {
    /// A reply at once, or one under way.
    #[project = AnswerProjection]
    pub(crate) enum Answer<F> {
        Refused { response: Option<Response> },
        Served { #[pin] future: F },
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Answer<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            AnswerProjection::Served { future } => future.poll(context),
            AnswerProjection::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Asked again after its answer, which no caller does.
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_two_digits() {
        for good in ["/", "/a%20b", "/%C3%a9", "/é", "/100%25"] {
            assert_eq!(bad_escape(good), None, "{good}");
        }
        for (bad, at) in [("/%", 1), ("/a%4", 2), ("/%zz", 1), ("/%20%g0", 4), ("/%%20", 1)] {
            assert_eq!(bad_escape(bad), Some(at), "{bad}");
        }
    }
}
