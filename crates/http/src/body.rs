//! Reading bodies: bounded in size and time, and never refused in a way that resets the connection.
//!
//! A server that answers and closes while the caller still sends makes the caller's system drop the answer. So what is
//! refused is read to its end first, within bounds, and thrown away.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a caller may pause within a body.
pub const PAUSE: Duration = Duration::from_secs(30);
/// What is read of a refused body before the connection is given up, in bytes. Ours: a few of the largest bodies.
const DRAIN_BYTES: usize = 256 << 20;
/// How long a refused body is read at most.
const DRAIN_TIME: Duration = Duration::from_secs(30);
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
            Self::TimedOut => 408,
            Self::Broken => 400,
        }
    }
}

/// Reads a whole body of at most `limit` bytes; a larger one is drained before the error.
///
/// # Errors
/// See [`BodyError`].
pub async fn read(mut body: Body, limit: usize) -> Result<Whole, BodyError> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        drain(body).await;
        return Err(BodyError::TooLarge { limit });
    }
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let mut turn = None;
    loop {
        let frame = match tokio::time::timeout(PAUSE, body.frame()).await {
            Err(_) => return Err(BodyError::TimedOut),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > limit {
            drop((first, rest));
            drain(body).await;
            return Err(BodyError::TooLarge { limit });
        }
        if so_far + data.len() > LARGE_BYTES && turn.is_none() {
            match tokio::time::timeout(TURN, LARGE.acquire()).await {
                Ok(Ok(permit)) => turn = Some(permit),
                _ => {
                    drop((first, rest));
                    drain(body).await;
                    return Err(BodyError::Busy);
                }
            }
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

/// Reads what the caller still sends, within bounds, and throws it away.
pub async fn drain(mut body: Body) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
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
