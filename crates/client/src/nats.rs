//! Visits over NATS: `cameo.visits.{client}`, for producers that speak NATS already. With the feature `nats`.
//!
//! The connection is the caller's own, with all the options that it may need. At a cluster with the accounts of `deploy/nats`
//! a producer is the user `producer`, and has its replies sent to `_INBOX_producer`
//! (`ConnectOptions::custom_inbox_prefix`).

use std::time::Duration;

use async_nats::{Client, HeaderMap, RequestErrorKind};
use serde::Deserialize;

use crate::Visit;
use crate::transport::random_id;

/// How often a visit is sent; the pauses between are as those of calls over HTTP.
const TRIES: u32 = 5;
/// The first pause between tries; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The header by which NATS, and then the edges, know a visit that was sent before.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// Why a visit is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Such a client cannot be part of a subject.
    #[error("{code:?} cannot be a client: one has letters, digits, - and _")]
    BadClient {
        /// As given.
        code: String,
    },
    /// The visit cannot be sent.
    #[error("the visit cannot be sent to {subject}")]
    BadVisit {
        /// Where to.
        subject: String,
        /// Why: it is too large for a message, or its event id for a header.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It may be stored or not. With an event id of its own it may be sent again, and counts once.
    #[error(
        "NATS did not say that the visit to {subject} is stored: there is no answer, nobody takes it, or this user may not send it"
    )]
    Unanswered {
        /// Where to.
        subject: String,
        /// What the connection said last.
        #[source]
        source: async_nats::client::RequestError,
    },
    /// JetStream has not stored it.
    #[error("the visit to {subject} was not stored: {description} (code {code})")]
    Refused {
        /// Where to.
        subject: String,
        /// As an HTTP status.
        code: u16,
        /// JetStream's words.
        description: String,
    },
    /// Whoever answers is not JetStream.
    #[error("what answers at {subject} is not JetStream")]
    BadReply {
        /// Where to.
        subject: String,
        /// What is wrong with the answer.
        #[source]
        source: serde_json::Error,
    },
}

/// A visit is on the disks of NATS, from which the edges take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place in the queue.
    pub sequence: u64,
    /// NATS had it already; nothing was added.
    pub duplicate: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Said>,
}

#[derive(Deserialize)]
struct Said {
    code: u16,
    #[serde(default)]
    description: String,
}

/// Publishes the visits of one client (tenant). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Producer {
    nats: Client,
    subject: String,
}

impl Producer {
    /// For the client code `code`.
    ///
    /// # Errors
    /// When there can be no such client.
    pub fn new(nats: Client, code: &str) -> Result<Self, PublishError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if code.is_empty() || !code.chars().all(plain) {
            return Err(PublishError::BadClient { code: code.to_owned() });
        }
        Ok(Self { nats, subject: format!("cameo.visits.{code}") })
    }

    /// Sends a visit and waits until NATS has stored it; again under the same id, up to five times, while nobody answers.
    /// The id is the visit's event id, or made up here: then only this call knows it.
    ///
    /// What the edges refuse later (an unknown field, a bad id) they log and drop: nobody waits for their answer.
    ///
    /// # Errors
    /// When it is not known to be stored. What to do next depends on the cause.
    pub async fn publish(&self, visit: &Visit) -> Result<Published, PublishError> {
        let bad = |source| PublishError::BadVisit { subject: self.subject.clone(), source };
        let payload: bytes::Bytes = serde_json::to_vec(visit).map_err(|error| bad(error.into()))?.into();
        let id = visit.event_id_text().map_or_else(random_id, str::to_owned);
        let id: async_nats::HeaderValue =
            id.parse().map_err(|error: async_nats::header::ParseHeaderValueError| bad(error.into()))?;
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, id);
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.once(&headers, &payload).await {
                Err(PublishError::Unanswered { .. } | PublishError::Refused { code: 500.., .. }) => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.once(&headers, &payload).await
    }

    async fn once(&self, headers: &HeaderMap, payload: &bytes::Bytes) -> Result<Published, PublishError> {
        let subject = || self.subject.clone();
        let sent = self.nats.request_with_headers(subject(), headers.clone(), payload.clone()).await;
        let answer = sent.map_err(|source| match source.kind() {
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                PublishError::BadVisit { subject: subject(), source: source.into() }
            }
            RequestErrorKind::TimedOut | RequestErrorKind::NoResponders | RequestErrorKind::Other => {
                PublishError::Unanswered { subject: subject(), source }
            }
        })?;
        understood(&self.subject, &answer.payload)
    }
}

/// The answer of JetStream to what was published.
fn understood(subject: &str, payload: &[u8]) -> Result<Published, PublishError> {
    let subject = || subject.to_owned();
    let answer: Answer =
        serde_json::from_slice(payload).map_err(|source| PublishError::BadReply { subject: subject(), source })?;
    match answer.error {
        Some(Said { code, description }) => Err(PublishError::Refused { subject: subject(), code, description }),
        None => Ok(Published { sequence: answer.seq, duplicate: answer.duplicate }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_jetstream_are_understood() {
        let of = |text: &str| understood("cameo.visits.demo", text.as_bytes());
        let stored = of(r#"{"stream":"CAMEO_VISITS","seq":7}"#).unwrap();
        assert_eq!(stored, Published { sequence: 7, duplicate: false });
        assert!(of(r#"{"stream":"CAMEO_VISITS","seq":7,"duplicate":true}"#).unwrap().duplicate);
        let refused =
            of(r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#).unwrap_err();
        assert!(matches!(refused, PublishError::Refused { code: 503, .. }), "{refused}");
        assert!(refused.to_string().contains("maximum bytes exceeded"));
        assert!(matches!(of("+OK"), Err(PublishError::BadReply { .. })));
    }
}
