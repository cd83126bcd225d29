//! Taking messages from a work queue: a durable consumer that somebody else has made.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;

use crate::connection::{Nats, RequestError};

/// How long the server's end of a request for messages may be late.
const GRACE: Duration = Duration::from_secs(2);

/// A message of a work queue. It comes again, to anybody, unless it is [`handled`](Self::handled) in time.
#[derive(Debug)]
pub struct Queued {
    /// Its sequence in the stream.
    pub seq: u64,
    /// How often it was given out, this time included.
    pub delivered: u64,
    /// The subject it was published to.
    pub subject: String,
    /// The message id that it was published with, if it was.
    pub id: Option<String>,
    /// Its bytes.
    pub payload: Bytes,
    /// Where what became of it is told.
    reply: String,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled<'a> {
    /// It can go.
    Done,
    /// It can go, as nobody can ever use it; the words are for the server's advisories.
    Never(&'a str),
    /// It shall come again after so long.
    Later(Duration),
}

impl Queued {
    fn read(message: Message) -> Option<Self> {
        let reply = message.reply?.to_string();
        // $JS.ACK.{stream}.{consumer}.{delivered}.{seq}.… or, with domain and account, two tokens more in front.
        let tokens: Vec<_> = reply.split('.').collect();
        let at = if tokens.len() >= 11 { 7 } else { 5 };
        let (delivered, seq) = (tokens.get(at - 1)?.parse().ok()?, tokens.get(at)?.parse().ok()?);
        let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
        let id = id.map(|id| id.as_str().to_owned());
        Some(Self { seq, delivered, subject: message.subject.to_string(), id, payload: message.payload, reply })
    }

    /// Tells what became of it. Lost on the way, the message comes again: whoever takes it then must notice.
    pub async fn handled(&self, nats: &Nats, what: Handled<'_>) {
        let text = match what {
            Handled::Done => "+ACK".to_owned(),
            Handled::Never(why) => format!("+TERM {why}"),
            Handled::Later(pause) => format!("-NAK {}", json!({ "delay": pause.as_nanos() as u64 })),
        };
        if let Err(error) = nats.tell(&self.reply, text.into()).await {
            tracing::debug!(%error, "a message of a queue will come again");
        }
    }
}

impl Nats {
    /// Asks a queue for messages and waits for them: up to `most`, none when there are none within `wait`.
    ///
    /// # Errors
    /// When the queue cannot be asked.
    pub async fn take(
        &self,
        stream: &str,
        queue: &str,
        most: usize,
        wait: Duration,
    ) -> Result<Vec<Queued>, RequestError> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{queue}");
        let expires = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        // What is there, at once; if nothing is, the first that comes.
        let mut taken = self.taken(&subject, json!({ "batch": most, "no_wait": true }), most, wait).await?;
        if taken.is_empty() {
            taken = self.taken(&subject, json!({ "batch": 1, "expires": expires }), 1, wait).await?;
        }
        Ok(taken)
    }

    async fn taken(
        &self,
        subject: &str,
        ask: serde_json::Value,
        most: usize,
        wait: Duration,
    ) -> Result<Vec<Queued>, RequestError> {
        let lost = self.lost();
        let mut lost = std::pin::pin!(lost);
        // Messages of a queue keep their subject, so they need an inbox of their own to be told apart.
        let mut waiting = self.ask_apart(subject, ask.to_string().into()).await?;
        let end = tokio::time::Instant::now() + wait + GRACE;
        let mut taken = Vec::new();
        while taken.len() < most {
            let message = tokio::select! {
                message = waiting.0.next() => match message {
                    Some(message) => message,
                    None => break,
                },
                () = &mut lost => break,
                () = tokio::time::sleep_until(end) => break,
            };
            match message.status {
                Some(StatusCode::NO_RESPONDERS) => return Err(RequestError::NoResponders(subject.to_owned())),
                // The end of what there is (404), of the time (408), or of the consumer (409).
                Some(status) if status != StatusCode::OK => break,
                _ => taken.extend(Queued::read(message)),
            }
        }
        Ok(taken)
    }
}
