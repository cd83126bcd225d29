//! What moves on a page without a reload: fragments of HTML, sent as server-sent events when they change.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use cameo_auth::Action;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use maud::{Markup, html};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::gate::Viewer;
use super::{Site, layout};
use crate::api::typed;
use crate::plane::{Plane, Problem, Progress, Rollout};

/// Streams at a time: each is an open connection and a look every so often.
static STREAMS: Semaphore = Semaphore::const_new(64);
/// Pause between looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many looks without a change something is sent all the same, so that a dead connection is noticed.
const KEEP_ALIVE_LOOKS: u32 = 30;
/// After so many looks a stream ends; the browser begins another one, if the page is still there.
const LOOKS: u32 = 1200;

/// One look: the fragment, and whether it will not change any more.
pub(super) struct Look {
    pub(super) html: Markup,
    pub(super) last: bool,
}

/// A part of a page that is kept up to date from a URL. Without a script it shows how things were.
pub(super) fn region(url: &str, now: &Markup) -> Markup {
    html! { div data-live=(url) aria-live="polite" { (now) } }
}

/// How a change reaches the nodes.
pub(super) fn confirmation(rollout: &Rollout) -> Markup {
    let now = rollout.progress().borrow().clone();
    let url = format!("/admin/rollouts/{}/events", rollout.number);
    if now.done { nodes(&now) } else { region(&url, &nodes(&now)) }
}

fn nodes(progress: &Progress) -> Markup {
    let waiting = progress.nodes.iter().filter(|node| node.how == "waiting").count();
    html! {
        p {
            @if progress.done {
                strong { "Confirmed" } " after " (progress.took_ms) " ms: no node accepts what was before."
            } @else {
                strong { "Waiting" } " for " (waiting) " of " (progress.nodes.len()) " nodes."
            }
        }
        ul.nodes {
            @for node in &progress.nodes {
                li data-how=(node.how) {
                    span.node { (node.node) } " "
                    @match (node.how, node.after_ms) {
                        ("reported", Some(ms)) => { "has reported it, after " (ms) " ms" }
                        ("left", _) => { "has left" }
                        ("lapsed", Some(ms)) => { "is silent; its lease was over after " (ms) " ms" }
                        _ => { "is waited for" }
                    }
                }
            }
        }
    }
}

/// The events of a rollout.
pub(super) async fn rollout(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(number): Path<u64>,
) -> Response {
    let found = site.plane.rollout(number);
    let found = found.filter(|rollout| viewer.principal.may(Action::TokenList, Some(&rollout.client)));
    let Some(rollout) = found else {
        return layout::problem(&site.plane, &viewer, &Problem::Missing("such change".into()));
    };
    let progress = rollout.progress();
    events(&site, &viewer, move || {
        let now = progress.borrow().clone();
        async move { Look { html: nodes(&now), last: now.done } }
    })
}

struct Stream<F> {
    look: F,
    shown: String,
    looks: u32,
    quiet: u32,
    done: bool,
    plane: Plane,
    session: zeroize::Zeroizing<String>,
    closing: tokio::sync::watch::Receiver<bool>,
    _place: SemaphorePermit<'static>,
}

/// A stream of fragments: the first at once, then whenever a look shows another. It ends with the session of who looks,
/// and is no use of it: a page that was left open does not keep anybody signed in.
pub(super) fn events<F, L>(site: &Site, viewer: &Viewer, look: F) -> Response
where
    F: FnMut() -> L + Send + 'static,
    L: Future<Output = Look> + Send + 'static,
{
    let Ok(place) = STREAMS.try_acquire() else {
        let text = "too many pages are watching; reload to see how things are\n";
        return typed(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", text.into());
    };
    let closing = site.plane.closing();
    let (plane, session) = (site.plane.clone(), viewer.id.clone());
    let begun =
        Stream { look, shown: String::new(), looks: 0, quiet: 0, done: false, plane, session, closing, _place: place };
    let body = Body::from_stream(stream::unfold(begun, next));
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

async fn next<F, L>(mut stream: Stream<F>) -> Option<(Result<Bytes, Infallible>, Stream<F>)>
where
    F: FnMut() -> L,
    L: Future<Output = Look>,
{
    loop {
        if stream.done || stream.looks >= LOOKS || *stream.closing.borrow() {
            return None;
        }
        if stream.looks > 0 {
            // The wait ends early when the server stops.
            let _ = tokio::time::timeout(LOOK_EVERY, stream.closing.changed()).await;
        }
        if !stream.plane.is_signed_in(&stream.session) {
            return None;
        }
        stream.looks += 1;
        let look = (stream.look)().await;
        let html = look.html.into_string();
        stream.done = look.last;
        let message = if html != stream.shown || look.last {
            stream.quiet = 0;
            let event = if look.last { "event: last\n" } else { "" };
            // A line break would end the event's line.
            let message = format!("{event}data: {}\n\n", html.replace(['\r', '\n'], "&#10;"));
            stream.shown = html;
            message
        } else if stream.quiet >= KEEP_ALIVE_LOOKS {
            stream.quiet = 0;
            ": still here\n\n".to_owned()
        } else {
            stream.quiet += 1;
            continue;
        };
        return Some((Ok(Bytes::from(message)), stream));
    }
}
