//! The bucket of a cluster: a JetStream key-value bucket.
//!
//! ```text
//! stream KV_CAMEO_CONTROL   subjects $KV.CAMEO_CONTROL.{key}   told again at cameo.control.{key}
//! ```
//! A revision is the message's sequence. A deletion is a message too, with the header `KV-Operation: DEL`, as every client
//! of such buckets writes it; it stays, so that a watch from before it learns of it. Writes are answered by a quorum;
//! [`Bucket::get`] asks the stream's leader. A watch is a feed (`cameo-nats`), which needs no consumer.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cameo_nats::stream::{StreamSpec, StreamWatch};
use cameo_nats::{Feed, FeedError, FeedOptions, Nats, Publish, PublishError, RequestError, Stored};
use futures_util::future::BoxFuture;

use super::{
    Bucket, Change, Durability, Entry, Expected, Key, PutError, Revision, Unreadable, VALUE_BYTES, Watch, WatchEnd,
};

/// How long a write or a read is tried: longer than the election of the stream's leader, which was seen to take 4 to 5 s.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause before a read is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long NATS remembers the id of a write: far longer than it is ever sent again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

const OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";

/// The bucket of a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NatsBucket {
    nats: Nats,
    /// First part of the subjects at which changes are told.
    name: String,
    bucket: String,
    stream: String,
    watch: StreamWatch,
}

fn bucket_of(name: &str) -> (String, String) {
    let bucket = format!("{}_CONTROL", name.to_uppercase());
    let stream = format!("KV_{bucket}");
    (bucket, stream)
}

impl NatsBucket {
    /// Makes the bucket if it is not there yet, held by so many servers. Whoever may do that does it; nodes only open it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn create(nats: &Nats, name: &str, replicas: usize) -> Result<(), RequestError> {
        let (bucket, stream) = bucket_of(name);
        let subjects = format!("$KV.{bucket}.>");
        let spec = StreamSpec {
            name: stream,
            republish: Some((subjects.clone(), format!("{name}.control.>"))),
            subjects: vec![subjects],
            replicas,
            max_bytes: -1,
            max_messages: -1,
            per_subject: 1,
            duplicate_window: DUPLICATE_WINDOW,
            work_queue: false,
            metadata: BTreeMap::new(),
        };
        nats.ensure_stream(&spec).await.map(drop)
    }

    /// Opens the bucket; `None` when it is not there yet.
    ///
    /// # Errors
    /// When NATS cannot be asked.
    pub async fn open(nats: &Nats, name: &str) -> Result<Option<Self>, RequestError> {
        let (bucket, stream) = bucket_of(name);
        let Some(info) = nats.stream_info(&stream).await? else { return Ok(None) };
        let watch = StreamWatch::start(nats.clone(), stream.clone(), info);
        Ok(Some(Self { nats: nats.clone(), name: name.to_owned(), bucket, stream, watch }))
    }

    /// The stream that holds it.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    fn subject(&self, key: &Key) -> String {
        format!("$KV.{}.{key}", self.bucket)
    }

    async fn held(&self, key: &Key) -> Result<Option<Stored>, Unreadable> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.nats.last_of(&self.stream, &self.subject(key)).await {
                Ok(held) => return Ok(held),
                // A leader is being elected, or the connection is about to come back.
                Err(error) if Instant::now() < end && !matches!(error, RequestError::Refused { .. }) => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(Unreadable(error.to_string())),
            }
        }
    }

    async fn write(&self, key: &Key, value: Option<Bytes>, expected: Expected) -> Result<Revision, PutError> {
        let unavailable = |error: Unreadable| PutError::Unavailable(error.to_string());
        let id = random_id().ok_or_else(|| PutError::Unavailable("the system has no randomness to give".into()))?;
        let mut publish = Publish {
            subject: self.subject(key),
            id,
            expected: None,
            headers: if value.is_none() { vec![(OPERATION, DELETED.to_owned())] } else { Vec::new() },
            payload: value.unwrap_or_default(),
        };
        publish.expected = match expected {
            Expected::Any => None,
            Expected::Absent => Some(0),
            // A deletion has a revision too, and is no entry.
            Expected::At(revision) => match self.held(key).await.map_err(unavailable)? {
                Some(held) if held.seq == revision.0 && !is_deletion(&held) => Some(revision.0),
                _ => return Err(PutError::Conflict),
            },
        };
        loop {
            let error = match self.nats.publish(&publish, PATIENCE).await {
                Ok(ack) => {
                    self.watch.tell(ack.seq);
                    return Ok(Revision(ack.seq));
                }
                Err(error) => error,
            };
            let repeated = match error {
                PublishError::Conflict { repeated } => repeated,
                PublishError::Full(why) | PublishError::Unavailable(why) => return Err(PutError::Unavailable(why)),
                PublishError::Unknown(why) => return Err(PutError::Unknown(why)),
            };
            let held = match self.held(key).await {
                Ok(held) => held,
                Err(error) if repeated => return Err(PutError::Unknown(error.to_string())),
                Err(error) => return Err(unavailable(error)),
            };
            match held {
                // An attempt that was never answered is the one that others see.
                Some(held) if repeated && held.header("Nats-Msg-Id") == Some(publish.id.as_str()) => {
                    return Ok(Revision(held.seq));
                }
                // Nothing is there but the mark of a deletion.
                Some(held)
                    if expected == Expected::Absent && is_deletion(&held) && publish.expected != Some(held.seq) =>
                {
                    publish.expected = Some(held.seq);
                }
                _ => return Err(PutError::Conflict),
            }
        }
    }
}

fn is_deletion(stored: &Stored) -> bool {
    stored.header(OPERATION).is_some()
}

fn random_id() -> Option<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    let mut id = String::with_capacity(32);
    random.iter().try_for_each(|byte| write!(id, "{byte:02x}")).ok()?;
    Some(id)
}

impl Bucket for NatsBucket {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Unreadable>> {
        Box::pin(async move {
            let held = self.held(key).await?.filter(|held| !is_deletion(held));
            Ok(held.map(|held| Entry { revision: Revision(held.seq), value: held.payload }))
        })
    }

    fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        _: Durability,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(async move {
            if value.len() > VALUE_BYTES {
                return Err(PutError::Unavailable(format!("a value has at most {VALUE_BYTES} bytes")));
            }
            self.write(&key, Some(value), expected).await
        })
    }

    fn delete(&self, key: Key, expected: Expected) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(async move { self.write(&key, None, expected).await })
    }

    fn watch(&self, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, Unreadable>> {
        let options = FeedOptions {
            stream: self.stream.clone(),
            filter: format!("$KV.{}.>", self.bucket),
            tail: format!("{}.control.>", self.name),
            after: after.0,
            contiguous: false,
        };
        let feed = Feed::start(self.nats.clone(), self.watch.clone(), options);
        let prefix = format!("$KV.{}.", self.bucket);
        Box::pin(std::future::ready(Ok(Box::new(NatsWatch { feed, prefix, ready: VecDeque::new() }) as Box<dyn Watch>)))
    }
}

fn end_of(error: FeedError) -> WatchEnd {
    match error {
        FeedError::Missed { .. } => WatchEnd::Missed(error.to_string()),
        FeedError::Ahead { .. } | FeedError::Rewritten { .. } | FeedError::Trimmed { .. } => {
            WatchEnd::Lost(error.to_string())
        }
    }
}

struct NatsWatch {
    feed: Feed,
    prefix: String,
    ready: VecDeque<Change>,
}

impl NatsWatch {
    fn change(&self, stored: Stored) -> Result<Change, Unreadable> {
        let key = stored.subject.strip_prefix(&self.prefix).and_then(|key| Key::new(key).ok());
        let key = key.ok_or_else(|| Unreadable(format!("{} is no key", stored.subject)))?;
        let (revision, last) = (Revision(stored.seq), stored.last);
        let value = (!is_deletion(&stored)).then_some(stored.payload);
        Ok(Change { key, value, revision, last })
    }
}

impl Watch for NatsWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Change, WatchEnd>> {
        Box::pin(async move {
            loop {
                if let Some(change) = self.ready.pop_front() {
                    return Ok(change);
                }
                let stored = self.feed.next().await.map_err(end_of)?;
                let changes: Result<Vec<_>, _> = stored.into_iter().map(|stored| self.change(stored)).collect();
                self.ready.extend(changes?);
            }
        })
    }
}
