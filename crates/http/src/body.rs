//! Reading bodies: bounded in size and time. What is refused need not be read to be answered: the connection is closed in
//! a way that keeps the answer (see [`crate::serve`]).

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::refusal::Refusal;

/// How long a caller may pause within a body.
pub const PAUSE: Duration = Duration::from_secs(30);
/// What a body must come to on average once [`PAUSE`] is over, in bytes a second: a caller that sends a byte now and then
/// would hold a connection, and its memory, for ever. Ours: a bad line of a phone does more.
const SLOWEST: u64 = 32 << 10;
/// How long a whole body may take. Ours: the largest at 100 KB/s.
const BODY_TIME: Duration = Duration::from_secs(600);
/// What is read of a refused body so that its connection can go on, in bytes. Ours: less than a new connection costs.
const DRAIN_BYTES: u64 = 64 << 10;
/// How long that is waited for.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Room that is taken at once for a body that announces its length, in bytes.
const FIRST_ROOM: usize = 1 << 20;

/// A body that grows past this is a large one, in bytes.
const LARGE_BYTES: usize = 4 << 20;
/// Large bodies in memory at a time; others wait for their turn. Ours: with what decoding adds, well under the memory of
/// a small machine, and more than its cores can work on.
static LARGE: Semaphore = Semaphore::const_new(8);
/// How long a large body waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// A body in memory. Keep it whole while the bytes are in use: it holds the turn of a large one.
#[derive(Debug)]
pub struct Whole {
    /// The bytes.
    pub bytes: Bytes,
    _turn: Option<SemaphorePermit<'static>>,
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// Too many large bodies are in memory.
    #[error("too many large bodies are under way; try again in a moment")]
    Busy,
    /// The caller went silent.
    #[error("the rest of the body did not come within {} seconds", PAUSE.as_secs())]
    TimedOut,
    /// The caller sends, but next to nothing.
    #[error(
        "the body came too slowly: after {} seconds it must have come at {} KB a second on average, and be whole after {}",
        PAUSE.as_secs(),
        SLOWEST >> 10,
        BODY_TIME.as_secs()
    )]
    TooSlow,
    /// The caller went away, or broke the rules of HTTP.
    #[error("the body ended early")]
    Broken,
}

impl BodyError {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge { .. } => 413,
            Self::Busy => 429,
            Self::TimedOut | Self::TooSlow => 408,
            Self::Broken => 400,
        }
    }
}

/// Until when a body may go on coming.
struct Pace {
    /// By its average speed so far.
    lasts: Instant,
    /// As a whole.
    ends: Instant,
}

impl Pace {
    fn start() -> Self {
        let now = Instant::now();
        Self { lasts: now + PAUSE, ends: now + BODY_TIME }
    }

    /// So many bytes came.
    fn came(&mut self, bytes: usize) {
        self.lasts += Duration::from_micros(bytes as u64 * 1_000_000 / SLOWEST);
    }

    /// The caller had to wait for us.
    fn waited(&mut self, time: Duration) {
        self.lasts += time;
        self.ends += time;
    }

    async fn next(&self, body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        let (pause, patience) = (Instant::now() + PAUSE, self.lasts.min(self.ends));
        loop {
            return match tokio::time::timeout_at(patience.min(pause), body.frame()).await {
                Err(_) if pause <= patience => Err(BodyError::TimedOut),
                Err(_) => Err(BodyError::TooSlow),
                Ok(None) => Ok(None),
                Ok(Some(Err(_))) => Err(BodyError::Broken),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Ok(Some(data)),
                    // Trailers.
                    Err(_) => continue,
                },
            };
        }
    }
}

/// Reads a whole body of at most `limit` bytes. One that announces more is not even begun, so that a caller who asked
/// first (`Expect: 100-continue`) need not send it.
///
/// # Errors
/// See [`BodyError`].
pub async fn read(mut body: Body, limit: usize) -> Result<Whole, BodyError> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let mut turn = None;
    let mut pace = Pace::start();
    while let Some(data) = pace.next(&mut body).await? {
        pace.came(data.len());
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if so_far + data.len() > LARGE_BYTES && turn.is_none() {
            let since = Instant::now();
            match tokio::time::timeout(TURN, LARGE.acquire()).await {
                Ok(Ok(permit)) => turn = Some(permit),
                _ => return Err(BodyError::Busy),
            }
            pace.waited(since.elapsed());
        }
        // Most bodies come in one piece, which needs no copy.
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let room =
                    (announced as usize).clamp(first.len() + data.len(), FIRST_ROOM.max(first.len() + data.len()));
                let mut all = BytesMut::with_capacity(room);
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                rest = Some(all);
            }
        }
    }
    Ok(Whole { bytes: rest.map_or(first, BytesMut::freeze), _turn: turn })
}

/// Reads a small rest that the caller still sends and throws it away, so that the connection can go on. A larger one is
/// left to the connection, which ends after the answer.
pub async fn drain(mut body: Body) {
    if body.size_hint().lower() > DRAIN_BYTES {
        return;
    }
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if read > DRAIN_BYTES {
                return;
            }
        }
    };
    // Out of time or not, there is nothing more to do for this caller.
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// Drains the body, then answers.
pub async fn refuse(body: Body, response: Response) -> Response {
    drain(body).await;
    response
}

/// Refuses a `Content-Encoding`: the body would be read as what it is not.
///
/// # Errors
/// 415 that says what is taken.
pub fn check_plain(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?").trim());
    match encodings.find(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")) {
        None => Ok(()),
        Some(encoding) => {
            let encoding: String = encoding.chars().take(64).collect();
            let text =
                format!("Content-Encoding {encoding:?} is not taken here: send the body as it is, which is identity");
            Err(Refusal { field: Some("Content-Encoding".into()), ..Refusal::new(415, text) })
        }
    }
}

#[cfg(test)]
mod tests;
