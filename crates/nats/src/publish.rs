//! Appending one message to a stream: repeated under its id until it is answered, or the time is over.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use serde::Deserialize;

use crate::connection::{Nats, RequestError};

/// How long one attempt waits for its answer: far above what a healthy quorum takes. After an election of 4 to 5 s, this is
/// what is lost on top; an attempt too many costs nothing but itself.
const ATTEMPT: Duration = Duration::from_millis(600);
/// How long a connection is waited for before anything was sent: to another server it takes milliseconds.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(2);
/// Pause after an answer that says "not now".
const NOT_NOW_PAUSE: Duration = Duration::from_millis(100);

/// What is appended.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The subject, one of the stream's.
    pub subject: String,
    /// One of a kind: the server stores it once within its window of duplicates.
    pub id: String,
    /// The sequence of the last message of this subject; 0 when there must be none.
    pub expected: Option<u64>,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its bytes.
    pub payload: Bytes,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its sequence in the stream.
    pub seq: u64,
}

/// Why it has no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The stream is full, or the servers' disks are. Nothing was stored.
    #[error("NATS has no room: {0}")]
    Full(String),
    /// The subject's last message is not the expected one. `repeated` says that an earlier attempt may be that last one.
    #[error("the subject has another last message")]
    Conflict {
        /// Whether an attempt before this answer was never answered.
        repeated: bool,
    },
    /// Nothing was stored.
    #[error("{0}")]
    Unavailable(String),
    /// Nobody knows.
    #[error("{0}")]
    Unknown(String),
}

/// The server's answer to a publish.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    error: Option<ApiError>,
}

/// An error of JetStream's.
#[derive(Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) code: u64,
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

/// What an attempt came to.
enum Attempt {
    Stored(u64),
    Full(String),
    Conflict,
    /// The server knows that it did not store it, now; it may later.
    NotNow(String),
    /// It could not store it, or not yet: others of its cluster may have.
    Unsure(String),
    Refused(String),
}

impl Nats {
    /// Appends, and repeats until it is answered; `patience` is for all attempts together.
    ///
    /// # Errors
    /// Says whether it may have been stored.
    pub async fn publish(&self, publish: &Publish, patience: Duration) -> Result<Ack, PublishError> {
        let end = Instant::now() + patience;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", publish.id.as_str());
        if let Some(expected) = publish.expected {
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        }
        for (name, value) in &publish.headers {
            headers.insert(*name, value.as_str());
        }
        let mut repeated = false;
        let mut why = String::from("there is no connection to NATS");
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let for_link = if repeated { left } else { left.min(CONNECTION_PATIENCE) };
            if left.is_zero() || tokio::time::timeout(for_link, self.up()).await.is_err() {
                return Err(if repeated { PublishError::Unknown(why) } else { PublishError::Unavailable(why) });
            }
            match self.attempt(publish, headers.clone(), left.min(ATTEMPT)).await {
                Ok(Attempt::Stored(seq)) => return Ok(Ack { seq }),
                Ok(Attempt::Conflict) => return Err(PublishError::Conflict { repeated }),
                Ok(Attempt::Full(said)) if !repeated => return Err(PublishError::Full(said)),
                Ok(Attempt::Refused(said)) if !repeated => return Err(PublishError::Unavailable(said)),
                // An earlier attempt may still be on its way into the stream.
                Ok(Attempt::Full(said) | Attempt::Refused(said)) => return Err(PublishError::Unknown(said)),
                Ok(Attempt::NotNow(said)) => {
                    why = said;
                    tokio::time::sleep(NOT_NOW_PAUSE.min(left)).await;
                }
                Ok(Attempt::Unsure(said)) => {
                    (why, repeated) = (said, true);
                    tokio::time::sleep(NOT_NOW_PAUSE.min(left)).await;
                }
                Err(RequestError::Disconnected) => {}
                Err(error @ RequestError::Refused { .. }) if !repeated => {
                    return Err(PublishError::Unavailable(error.to_string()));
                }
                Err(error @ RequestError::Refused { .. }) => return Err(PublishError::Unknown(error.to_string())),
                Err(error) => {
                    why = error.to_string();
                    repeated = true;
                }
            }
        }
    }

    async fn attempt(
        &self,
        publish: &Publish,
        headers: HeaderMap,
        patience: Duration,
    ) -> Result<Attempt, RequestError> {
        let lost = self.lost();
        let mut waiting = self.ask(&publish.subject, Some(headers), publish.payload.clone()).await?;
        tokio::select! {
            answer = waiting.next() => Ok(understand(&answer)),
            () = lost => Err(RequestError::Timeout(publish.subject.clone())),
            () = tokio::time::sleep(patience) => Err(RequestError::Timeout(publish.subject.clone())),
        }
    }
}

/// The numbers are the server's (`server/errors.json`).
fn understand(answer: &Message) -> Attempt {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Attempt::NotNow("no NATS server leads the stream, or there is none".into());
    }
    let Ok(said) = serde_json::from_slice::<Answer>(&answer.payload) else {
        return Attempt::Refused("the answer of NATS cannot be understood".into());
    };
    let Some(error) = said.error else {
        return if said.seq > 0 {
            Attempt::Stored(said.seq)
        } else {
            Attempt::Refused("NATS answers without a place".into())
        };
    };
    match error.err_code {
        // Of a single server, and of a replicated stream.
        10071 | 10164 => Attempt::Conflict,
        // Storage of the account or the server; a limit of the stream with `discard: new`.
        10023 | 10047 | 10028 => Attempt::Full(error.description),
        10077 if error.description.contains("maximum") => Attempt::Full(error.description),
        // JetStream, or the stream, has no leader to speak of: nothing was proposed to the others.
        10008 | 10009 | 10039 | 10076 => Attempt::NotNow(error.description),
        // Among them "the same id is on its way through the quorum", and a disk that the leader could not write to: the
        // others may have stored what it did not.
        10158 => Attempt::Unsure(error.description),
        _ if error.code >= 500 => Attempt::Unsure(format!("{} ({})", error.description, error.err_code)),
        _ => Attempt::Refused(format!("{} ({})", error.description, error.err_code)),
    }
}
