//! Reading stored messages by direct get: from any replica of the stream, without a consumer.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use serde_json::json;

use crate::connection::{Nats, RequestError, Waiting};

/// Most messages and bytes of one batch: fewer than what waits for a subscriber at most.
const BATCH: (u32, usize) = (512, 4 << 20);
/// How long the next reply of a batch may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A message as it stands in a stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence.
    pub seq: u64,
    /// The subject it was published to.
    pub subject: String,
    /// When the server took it, in nanoseconds since 1970.
    pub at_ns: u64,
    /// Its bytes.
    pub payload: Bytes,
    /// Nothing was behind it in the stream when it was read.
    pub last: bool,
    headers: HeaderMap,
}

impl Stored {
    /// Milliseconds since 1970 at which the server took it.
    #[must_use]
    pub const fn at_ms(&self) -> u64 {
        self.at_ns / 1_000_000
    }

    /// A header of the message.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    /// Out of a direct get, or of what a server republishes: both say in headers where it stands.
    pub(crate) fn read(message: Message) -> Option<Self> {
        let headers = message.headers?;
        let text = |name: &str| headers.get(name).map(|value| value.as_str());
        let at: jiff::Timestamp = text("Nats-Time-Stamp")?.parse().ok()?;
        Some(Self {
            seq: text("Nats-Sequence")?.parse().ok()?,
            subject: text("Nats-Subject")?.to_owned(),
            at_ns: u64::try_from(at.as_nanosecond()).ok()?,
            payload: message.payload,
            last: text("Nats-Num-Pending").is_some_and(|pending| pending == "0"),
            headers,
        })
    }

    fn pending(&self) -> Option<u64> {
        self.header("Nats-Num-Pending")?.parse().ok()
    }
}

impl Nats {
    /// Messages of a stream that fit the filter, from a sequence on: none when the replica that was asked has none yet.
    ///
    /// # Errors
    /// When nobody answered, or the answer has a hole.
    pub(crate) async fn direct_batch(
        &self,
        stream: &str,
        filter: &str,
        from: u64,
    ) -> Result<Vec<Stored>, RequestError> {
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let ask = json!({ "seq": from, "next_by_subj": filter, "batch": BATCH.0, "max_bytes": BATCH.1 });
        let mut waiting = self.ask(&subject, None, ask.to_string().into()).await?;
        let mut messages: Vec<Stored> = Vec::new();
        loop {
            // Nothing more: the end of the batch, or nothing there.
            let Some(reply) = self.reply(&mut waiting, &subject).await? else { return Ok(messages) };
            let refused = |said: &str| RequestError::Refused { subject: subject.clone(), code: 0, said: said.into() };
            let stored = Stored::read(reply).ok_or_else(|| refused("a reply has no place in the stream"))?;
            // Counted down by one a message: a reply that got lost shows.
            let follows = messages.last().is_none_or(|before| {
                stored.seq > before.seq && before.pending().zip(stored.pending()).is_none_or(|(a, b)| a == b + 1)
            });
            if !follows {
                return Err(refused("a reply of the batch is missing"));
            }
            messages.push(stored);
        }
    }

    /// The message at a sequence, as any replica has it: none may also mean that the replica is behind.
    ///
    /// # Errors
    /// When nobody answered, or it cannot be read.
    pub async fn direct_at(&self, stream: &str, seq: u64) -> Result<Option<Stored>, RequestError> {
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let mut waiting = self.ask(&subject, None, json!({ "seq": seq }).to_string().into()).await?;
        let reply = self.reply(&mut waiting, &subject).await?;
        Ok(reply.and_then(Stored::read).filter(|stored| stored.seq == seq))
    }

    /// The next message that answers; none when there is nothing, or nothing more.
    async fn reply(&self, waiting: &mut Waiting, subject: &str) -> Result<Option<Message>, RequestError> {
        let lost = self.lost();
        let reply = tokio::select! {
            reply = waiting.next() => reply,
            () = lost => return Err(RequestError::Timeout(subject.to_owned())),
            () = tokio::time::sleep(PATIENCE) => return Err(RequestError::Timeout(subject.to_owned())),
        };
        match reply.status {
            // 204 is the end of a batch.
            Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => Ok(None),
            Some(StatusCode::NO_RESPONDERS) => Err(RequestError::NoResponders(subject.to_owned())),
            Some(status) if status != StatusCode::OK => {
                let said = reply.description.unwrap_or_default();
                let code = u64::from(status.as_u16());
                Err(RequestError::Refused { subject: subject.to_owned(), code, said })
            }
            _ => Ok(Some(reply)),
        }
    }

    /// The last message of a subject, as the stream's leader has it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn last_of(&self, stream: &str, subject: &str) -> Result<Option<Stored>, RequestError> {
        self.stored(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The first message of a subject that is still there, as the stream's leader has it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn first_of(&self, stream: &str, subject: &str) -> Result<Option<Stored>, RequestError> {
        self.stored(stream, &json!({ "seq": 1, "next_by_subj": subject })).await
    }

    /// The message at a sequence, as the stream's leader has it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn at(&self, stream: &str, seq: u64) -> Result<Option<Stored>, RequestError> {
        self.stored(stream, &json!({ "seq": seq })).await
    }

    async fn stored(&self, stream: &str, ask: &serde_json::Value) -> Result<Option<Stored>, RequestError> {
        let found: Found = match self.api(&format!("STREAM.MSG.GET.{stream}"), ask).await {
            Err(RequestError::Refused { code: 10037, .. }) => return Ok(None),
            found => found?,
        };
        let bad = |said: &str| RequestError::Refused { subject: stream.into(), code: 0, said: said.into() };
        let at: jiff::Timestamp = found.message.time.parse().map_err(|_| bad("a message has no time"))?;
        Ok(Some(Stored {
            seq: found.message.seq,
            subject: found.message.subject,
            at_ns: u64::try_from(at.as_nanosecond()).unwrap_or_default(),
            payload: found.message.data.0.into(),
            last: false,
            headers: headers(&found.message.hdrs.0).ok_or_else(|| bad("the headers of a message cannot be read"))?,
        }))
    }
}

#[derive(serde::Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(serde::Deserialize)]
struct FoundMessage {
    subject: String,
    seq: u64,
    time: String,
    #[serde(default)]
    data: Base64,
    #[serde(default)]
    hdrs: Base64,
}

#[derive(Default)]
struct Base64(Vec<u8>);

impl<'de> serde::Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Headers as they are stored: `NATS/1.0`, then `name: value` a line.
fn headers(raw: &[u8]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in std::str::from_utf8(raw).ok()?.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        map.insert(name.trim(), value.trim());
    }
    Some(map)
}
