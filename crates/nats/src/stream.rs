//! Streams: made once, looked at every second, shortened by whoever may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::connection::{Nats, RequestError};
use crate::publish::ApiError;

/// How long an answer of JetStream's API may take: while a leader is elected none comes, and asking again helps.
const API_PATIENCE: Duration = Duration::from_secs(3);
/// How often a stream is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a stream shall be.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// What is stored in it.
    pub subjects: Vec<String>,
    /// Servers that hold it, 1 to 5.
    pub replicas: usize,
    /// Most bytes; then it refuses ("discard new"). -1: the disk's.
    pub max_bytes: i64,
    /// Most messages; then it refuses alike. -1: no bound.
    pub max_messages: i64,
    /// How many messages of a subject are kept; -1: all.
    pub per_subject: i64,
    /// How long a message id is remembered.
    pub duplicate_window: Duration,
    /// A message goes when its consumer has taken it, instead of staying.
    pub work_queue: bool,
    /// From where and to where the server tells what it has stored.
    pub republish: Option<(String, String)>,
    /// Facts about it, for whoever opens it.
    pub metadata: BTreeMap<String, String>,
}

/// What a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// When it was made, as the server writes it: another time means another stream.
    pub created: String,
    /// First sequence held; one past `last` when it is empty.
    pub first: u64,
    /// Last sequence ever given.
    pub last: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Facts about it.
    pub metadata: BTreeMap<String, String>,
    /// When its leader said so, by its own clock, milliseconds since 1970; 0 when it did not say.
    pub at_ms: u64,
}

#[derive(Deserialize)]
struct InfoAnswer {
    created: String,
    #[serde(default)]
    ts: String,
    config: ConfigAnswer,
    state: StateAnswer,
}

#[derive(Deserialize)]
struct ConfigAnswer {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct StateAnswer {
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    messages: u64,
}

impl From<InfoAnswer> for StreamInfo {
    fn from(answer: InfoAnswer) -> Self {
        let state = answer.state;
        let first = if state.messages == 0 { state.last_seq + 1 } else { state.first_seq };
        let (last, bytes) = (state.last_seq, state.bytes);
        let at: Result<jiff::Timestamp, _> = answer.ts.parse();
        let at_ms = at.ok().and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or_default();
        Self { created: answer.created, first, last, bytes, metadata: answer.config.metadata, at_ms }
    }
}

/// "There is no such stream."
const NOT_FOUND: u64 = 10059;
/// "There is a stream of this name that is configured in another way."
const NAME_IN_USE: u64 = 10058;

impl Nats {
    /// Asks JetStream's API.
    ///
    /// # Errors
    /// With the server's number and words.
    pub(crate) async fn api<T: DeserializeOwned>(&self, what: &str, ask: &impl Serialize) -> Result<T, RequestError> {
        let subject = format!("$JS.API.{what}");
        let payload = serde_json::to_vec(ask).unwrap_or_default();
        let answer = self.request(&subject, payload.into(), API_PATIENCE).await?;
        let refused = |code, said: String| RequestError::Refused { subject: subject.clone(), code, said };
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| refused(0, error.to_string()))?;
        if let Some(error) = answer.get("error") {
            let error: ApiError = serde_json::from_value(error.clone()).map_err(|e| refused(0, e.to_string()))?;
            return Err(refused(error.err_code, error.description));
        }
        serde_json::from_value(answer).map_err(|error| refused(0, error.to_string()))
    }

    /// Makes a stream, or finds it. One that is there is given the numbers of bytes and messages that it may have at most, and
    /// keeps everything else, also what it holds beyond them.
    ///
    /// # Errors
    /// When it cannot be made, or this user may not.
    pub async fn ensure_stream(&self, spec: &StreamSpec) -> Result<StreamInfo, RequestError> {
        let mut config = json!({
            "name": spec.name,
            "subjects": spec.subjects,
            "retention": if spec.work_queue { "workqueue" } else { "limits" },
            "storage": "file",
            "num_replicas": spec.replicas,
            "max_bytes": spec.max_bytes,
            "max_msgs": spec.max_messages,
            "max_msgs_per_subject": spec.per_subject,
            "max_consumers": -1,
            "discard": "new",
            "duplicate_window": u64::try_from(spec.duplicate_window.as_nanos()).unwrap_or(u64::MAX),
            "deny_delete": !spec.work_queue,
            "allow_direct": true,
            "metadata": spec.metadata,
        });
        if let Some((from, to)) = &spec.republish {
            config["republish"] = json!({ "src": from, "dest": to });
        }
        let made = self.api::<InfoAnswer>(&format!("STREAM.CREATE.{}", spec.name), &config).await;
        match made {
            Err(RequestError::Refused { code: NAME_IN_USE, .. }) => self.adjust(spec).await,
            made => Ok(made?.into()),
        }
    }

    async fn adjust(&self, spec: &StreamSpec) -> Result<StreamInfo, RequestError> {
        #[derive(Deserialize)]
        struct Found {
            config: Value,
        }
        let Found { mut config } = self.api(&format!("STREAM.INFO.{}", spec.name), &json!({})).await?;
        let replicas = config["num_replicas"].as_u64();
        if replicas != u64::try_from(spec.replicas).ok() {
            tracing::warn!(
                stream = spec.name,
                replicas,
                asked = spec.replicas,
                "the stream was made with another number of replicas, and keeps it"
            );
        }
        let bounds = [("max_bytes", spec.max_bytes), ("max_msgs", spec.max_messages)];
        let info: InfoAnswer = if bounds.iter().all(|(name, bound)| config[name] == *bound) {
            self.api(&format!("STREAM.INFO.{}", spec.name), &json!({})).await?
        } else {
            tracing::info!(stream = spec.name, max_bytes = spec.max_bytes, "the stream has other bounds now");
            bounds.into_iter().for_each(|(name, bound)| config[name] = bound.into());
            self.api(&format!("STREAM.UPDATE.{}", spec.name), &config).await?
        };
        Ok(info.into())
    }

    /// Makes a durable consumer of a work queue, from which any number of takers ask for messages, or finds it and gives it
    /// these bounds. While `most_taken` messages are taken or put off, it gives out no further ones.
    ///
    /// # Errors
    /// When it cannot be made, or this user may not.
    pub async fn ensure_queue(
        &self,
        stream: &str,
        queue: &str,
        ack_wait: Duration,
        most_taken: i64,
    ) -> Result<(), RequestError> {
        let config = json!({
            "name": queue,
            "durable_name": queue,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_wait": u64::try_from(ack_wait.as_nanos()).unwrap_or(u64::MAX),
            "max_ack_pending": most_taken,
            "max_deliver": -1,
        });
        let ask = json!({ "stream_name": stream, "config": config });
        self.api::<Value>(&format!("CONSUMER.CREATE.{stream}.{queue}"), &ask).await.map(drop)
    }

    /// Looks at a stream, as its leader has it; `None` when there is none of this name.
    ///
    /// # Errors
    /// When nobody can say.
    pub async fn stream_info(&self, name: &str) -> Result<Option<StreamInfo>, RequestError> {
        match self.api::<InfoAnswer>(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Err(RequestError::Refused { code: NOT_FOUND, .. }) => Ok(None),
            info => Ok(Some(info?.into())),
        }
    }

    /// Drops every message before a sequence.
    ///
    /// # Errors
    /// When it cannot be done, or this user may not.
    pub async fn purge_before(&self, name: &str, seq: u64) -> Result<u64, RequestError> {
        #[derive(Deserialize)]
        struct Purged {
            purged: u64,
        }
        let purged: Purged = self.api(&format!("STREAM.PURGE.{name}"), &json!({ "seq": seq })).await?;
        Ok(purged.purged)
    }
}

/// What was last seen of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The stream.
    pub info: StreamInfo,
    /// When its leader said so.
    pub at: Instant,
}

/// Looks at a stream every second, for all who read it.
#[derive(Clone, Debug)]
pub struct StreamWatch {
    seen: watch::Receiver<Seen>,
    /// The highest sequence that a publish was answered with.
    told: Arc<AtomicU64>,
}

impl StreamWatch {
    /// Begins; `info` is what it starts from. Goes on for as long as somebody holds it.
    #[must_use]
    pub fn start(nats: Nats, name: String, info: StreamInfo) -> Self {
        let (sender, seen) = watch::channel(Seen { info, at: Instant::now() });
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = sender.closed() => return,
                }
                let at = Instant::now();
                // While nobody leads the stream nobody answers, and the question is not kept for the next leader.
                let Ok(info) = tokio::time::timeout(LOOK_EVERY, nats.stream_info(&name)).await else { continue };
                match info {
                    Ok(Some(info)) => {
                        sender.send_replace(Seen { info, at });
                    }
                    // Gone, as far as anybody can say: the same as a stream of another time with nothing in it.
                    Ok(None) => {
                        let info = StreamInfo {
                            created: String::new(),
                            first: 1,
                            last: 0,
                            bytes: 0,
                            metadata: BTreeMap::new(),
                            at_ms: 0,
                        };
                        sender.send_replace(Seen { info, at });
                    }
                    Err(error) => tracing::debug!(stream = name, %error, "a stream could not be looked at"),
                }
            }
        });
        Self { seen, told: Arc::default() }
    }

    /// Says that the stream has a message: whoever follows it need not wait for the next look to find that it has missed one.
    pub fn tell(&self, seq: u64) {
        self.told.fetch_max(seq, Ordering::AcqRel);
    }

    /// The last message that is known to be there without a look.
    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// What was seen, unless that was looked at before.
    pub(crate) fn news(&mut self) -> Option<Seen> {
        // An error means that the task has ended, as at the end of the runtime.
        self.seen.has_changed().unwrap_or(false).then(|| self.seen.borrow_and_update().clone())
    }

    /// Done at the next look that was answered.
    pub(crate) async fn next(&mut self) -> Seen {
        match self.seen.changed().await {
            Ok(()) => self.seen.borrow_and_update().clone(),
            // The task only ends with its watchers.
            Err(_) => std::future::pending().await,
        }
    }
}
