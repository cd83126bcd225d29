//! The gateway's ledger in a cluster: it asks an edge, which appends and looks up for it. Requests and replies over NATS,
//! in MessagePack but for the event, which is as it stands in the log.
//!
//! ```text
//! cameo.ledger.hello             any edge that is ready: its name and P
//! cameo.ledger.hello.any         any edge, for when none is ready
//! cameo.ledger.{edge}.append     partition (u16, big-endian) and event; answered when the edge has applied it
//! cameo.ledger.{edge}.ask        a question about batches
//! ```
//! An edge takes only the events of batches from it: the name of a gateway is no right to change profiles by other ways.
//! A gateway stays with one edge for as long as that can do what it is asked, so that its events keep their order. One that has
//! stopped a partition, or is shutting down, says so, and the same is asked of another. An append that is not
//! answered is of unknown outcome; the rows of a file are asked for again and counted once, whichever edge takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use cameo_eventlog::EventLog;
use cameo_gateway::{Known, Ledger, LedgerError, Question};
use cameo_nats::{Asked, Incoming, Nats, RequestError, Subscription};
use cameo_profile::{Event, LogTime, Outcome, Partition, PartitionCount};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::ledger::ReplicaLedger;

/// How long an edge may take to apply an event: longer than the log tries to append it.
const APPEND_PATIENCE: Duration = Duration::from_secs(15);
/// How long a question may take.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Edges that are asked one after the other, when each says that another may do it.
const EDGES_ASKED: usize = 3;
/// How often an edge looks whether it is ready.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events on their way to the edge. More than the gateway has under way at once.
const EVENTS: usize = 4096;
/// Bytes of a reply: a NATS message holds 1 MiB with its headers.
const REPLY_BYTES: usize = 1_000_000;
/// The queue group of the edges, of which one answers.
const EDGES: &str = "edges";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    edge: String,
    partitions: u16,
}

#[derive(Serialize, Deserialize)]
struct Ask {
    client: String,
    question: Question,
}

fn encode(value: &impl Serialize) -> Bytes {
    // Plain data always encodes into memory; what could not would be refused by the other side.
    rmp_serde::to_vec(value).unwrap_or_default().into()
}

/// A reply within its bound, or the words that it is not.
fn reply<T: Serialize>(value: &Result<T, LedgerError>) -> Bytes {
    let bytes = encode(value);
    if bytes.len() <= REPLY_BYTES {
        return bytes;
    }
    let text = format!("the answer of {} bytes is larger than a message", bytes.len());
    encode(&Err::<T, _>(LedgerError::Unavailable(text)))
}

/// An edge that answers gateways.
pub(super) struct Answering {
    close: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Answering {
    /// Takes nothing more: who asks is told by NATS, and asks another edge. Waits until what was taken is answered.
    pub(super) async fn close(self) {
        self.close.send_replace(true);
        if tokio::time::timeout(APPEND_PATIENCE, self.task).await.is_err() {
            tracing::warn!("a gateway may not have been told what became of its events");
        }
    }
}

/// Answers gateways. Those that look for an edge are answered while this one is ready and not about to stop.
pub(super) async fn answer<L: EventLog>(
    nats: &Nats,
    name: &str,
    edge: &str,
    ledger: ReplicaLedger<L>,
    draining: Arc<AtomicBool>,
) -> anyhow::Result<Answering> {
    let (close, closing) = watch::channel(false);
    let subscribe = async |subject: String, queue| {
        nats.subscribe(&subject, queue).await.with_context(|| format!("cannot listen to {subject}"))
    };
    let desk = Desk {
        appends: subscribe(format!("{name}.ledger.{edge}.append"), None).await?,
        asks: subscribe(format!("{name}.ledger.{edge}.ask"), None).await?,
        others: subscribe(format!("{name}.ledger.hello.any"), Some(EDGES)).await?,
        hellos: None,
        hello: encode(&Hello { edge: edge.to_owned(), partitions: ledger.partitions().get() }),
        name: name.to_owned(),
        nats: nats.clone(),
        ledger: Arc::new(ledger),
        draining,
    };
    Ok(Answering { close, task: tokio::spawn(desk.serve(closing)) })
}

/// Where gateways come with what they ask of an edge.
struct Desk<L: EventLog> {
    nats: Nats,
    name: String,
    ledger: Arc<ReplicaLedger<L>>,
    draining: Arc<AtomicBool>,
    hello: Bytes,
    appends: Subscription,
    asks: Subscription,
    /// Who looks for any edge.
    others: Subscription,
    /// Who looks for one that is ready; heard while this one is.
    hellos: Option<Subscription>,
}

impl<L: EventLog> Desk<L> {
    async fn serve(mut self, mut closing: watch::Receiver<bool>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut answers = JoinSet::new();
        let mut open = true;
        loop {
            // One after the other: events of a partition go into the log in the order in which they came.
            tokio::select! {
                Some(message) = self.appends.next() => {
                    let applied = start(&*self.ledger, &message.payload);
                    answers.spawn(tell(self.nats.clone(), message.reply, applied));
                }
                Some(message) = self.asks.next() => {
                    let ledger = Arc::clone(&self.ledger);
                    let known = async move {
                        let Ask { client, question } = decode(&message.payload)?;
                        ledger.ask(&client, question).await
                    };
                    answers.spawn(tell(self.nats.clone(), message.reply, known));
                }
                Some(message) = next_of(self.hellos.as_mut()) => self.greet(message).await,
                Some(message) = self.others.next() => self.greet(message).await,
                // A panic has been reported by the panic hook; who asked finds no answer.
                Some(_) = answers.join_next() => {}
                _ = look.tick(), if open => self.look().await,
                // An error means that nobody can close it any more.
                _ = closing.changed(), if open => {
                    if !self.nats.is_up() {
                        // Nobody can be told, nor asks.
                        return;
                    }
                    open = false;
                    self.hellos = None;
                    for subscription in [&mut self.appends, &mut self.asks, &mut self.others] {
                        subscription.finish().await;
                    }
                }
                else => break,
            }
        }
        // The last answers; without a connection nobody waits for them.
        let _ = self.nats.flush().await;
    }

    /// Listens to those who look for an edge that is ready, or no longer.
    async fn look(&mut self) {
        let ready = !self.draining.load(Ordering::Relaxed) && self.ledger.0.health().is_ready();
        if ready == self.hellos.is_some() {
            return;
        }
        self.hellos = None;
        if ready {
            // Without a connection at the next look.
            self.hellos = self.nats.subscribe(&format!("{}.ledger.hello", self.name), Some(EDGES)).await.ok();
        }
    }

    async fn greet(&self, message: Incoming) {
        let Some(reply) = message.reply else { return };
        // Who asked tries again.
        let _ = self.nats.tell(&reply, self.hello.clone()).await;
    }
}

async fn next_of(subscription: Option<&mut Subscription>) -> Option<Incoming> {
    subscription?.next().await
}

fn start<L: EventLog>(
    ledger: &ReplicaLedger<L>,
    payload: &[u8],
) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + use<L> {
    let begun = read(payload, ledger.partitions()).map(|(partition, event)| ledger.append(partition, &event));
    async { begun?.await }
}

/// What a gateway asks to append, and where.
fn read(payload: &[u8], partitions: PartitionCount) -> Result<(Partition, Event<'_>), LedgerError> {
    let bad = |error: String| LedgerError::Unavailable(format!("the event cannot be read: {error}"));
    let (partition, event) = payload.split_first_chunk().ok_or_else(|| bad("it is too short".into()))?;
    let partition = Partition(u16::from_be_bytes(*partition));
    let event = Event::decode(event).map_err(|error| bad(error.to_string()))?;
    if partition.0 >= partitions.get() {
        return Err(LedgerError::Unavailable(format!("there is no partition {partition}")));
    }
    match event {
        Event::BatchOpened(_) | Event::BatchRows(_) | Event::BatchErrors(_) | Event::BatchClosed(_) => {
            Ok((partition, event))
        }
        Event::Visit(_)
        | Event::Update(_)
        | Event::Erase(_)
        | Event::ClientSettings(_)
        | Event::Unlink(_)
        | Event::DropAlias(_)
        | Event::Relay(_)
        | Event::Delivered(_) => {
            let why =
                "a gateway appends events of batches, and this is another; gateway and edges must be of one version";
            tracing::warn!(eventlog.partition = partition.0, "an event that is none of a batch was refused");
            Err(LedgerError::Unavailable(why.into()))
        }
    }
}

async fn tell<T: Serialize>(nats: Nats, to: Option<String>, answer: impl Future<Output = Result<T, LedgerError>>) {
    let bytes = reply(&answer.await);
    let Some(to) = to else { return };
    // Who asked finds no answer, and asks again.
    let _ = nats.tell(&to, bytes).await;
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, LedgerError> {
    rmp_serde::from_slice(bytes).map_err(|error| LedgerError::Unavailable(format!("cannot be read: {error}")))
}

/// What is sent to an edge, in order.
struct Outgoing {
    payload: Bytes,
    answer: oneshot::Sender<Result<Outcome, LedgerError>>,
}

/// The ledger of a gateway, at an edge.
pub(super) struct RemoteLedger {
    nats: Nats,
    name: String,
    partitions: PartitionCount,
    /// The edge that is asked; empty while one is looked for.
    edge: watch::Sender<String>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl RemoteLedger {
    /// Finds an edge; `None` when none answers yet.
    pub(super) async fn find(nats: &Nats, name: &str) -> Result<Option<Self>, RequestError> {
        let Some(hello) = hello(nats, name).await else { return Ok(None) };
        let bad = |said: String| RequestError::Refused { subject: format!("{name}.ledger.hello"), code: 0, said };
        let partitions = PartitionCount::new(hello.partitions.into()).map_err(|error| bad(error.to_string()))?;
        let (outgoing, events) = mpsc::channel(EVENTS);
        let edge = watch::Sender::new(hello.edge);
        tokio::spawn(send(nats.clone(), name.to_owned(), edge.clone(), events));
        Ok(Some(Self { nats: nats.clone(), name: name.to_owned(), partitions, edge, outgoing }))
    }
}

/// An edge that is ready, or if there is none any: it can still do what concerns partitions that have not stopped.
async fn hello(nats: &Nats, name: &str) -> Option<Hello> {
    for subject in ["hello", "hello.any"] {
        let asked = nats.request(&format!("{name}.ledger.{subject}"), Bytes::new(), ASK_PATIENCE).await;
        if let Some(hello) = asked.ok().and_then(|answer| rmp_serde::from_slice(&answer).ok()) {
            return Some(hello);
        }
    }
    None
}

/// The edge that is asked now; another one when the last has failed.
async fn chosen(nats: &Nats, name: &str, edge: &watch::Sender<String>) -> Result<String, LedgerError> {
    let held = edge.borrow().clone();
    if !held.is_empty() {
        return Ok(held);
    }
    let found = hello(nats, name).await.ok_or_else(|| LedgerError::Unavailable("no edge answers".into()))?;
    tracing::info!(edge = found.edge, "the gateway goes on with another edge");
    edge.send_replace(found.edge.clone());
    Ok(found.edge)
}

/// An edge that does not answer, or cannot do what it is asked, is not asked again.
fn drop_edge(edge: &watch::Sender<String>, failed: &str) {
    edge.send_if_modified(|held| {
        let same = held == failed;
        if same {
            held.clear();
        }
        same
    });
}

/// Sends events in their order, each as soon as the one before it is on its way.
async fn send(nats: Nats, name: String, edge: watch::Sender<String>, mut events: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { payload, answer }) = events.recv().await {
        let question = Asking { nats: nats.clone(), name: name.clone(), edge: edge.clone(), what: "append", payload };
        let sent = question.begin().await;
        tokio::spawn(async move {
            // Whoever waited may have gone.
            let _ = answer.send(question.finish(sent, APPEND_PATIENCE).await);
        });
    }
}

/// Something that is asked of an edge, and when that one cannot do it of another.
struct Asking {
    nats: Nats,
    name: String,
    edge: watch::Sender<String>,
    what: &'static str,
    payload: Bytes,
}

/// A question on its way, and the edge that it goes to.
type Begun = Result<(String, Result<Asked, RequestError>), LedgerError>;

impl Asking {
    async fn begin(&self) -> Begun {
        let to = chosen(&self.nats, &self.name, &self.edge).await?;
        let subject = format!("{}.ledger.{to}.{}", self.name, self.what);
        let sent = self.nats.begin_request(&subject, self.payload.clone()).await;
        Ok((to, sent))
    }

    async fn finish<T: DeserializeOwned>(&self, begun: Begun, patience: Duration) -> Result<T, LedgerError> {
        let mut answer = self.answer(begun, patience).await;
        for _ in 1..EDGES_ASKED {
            if !matches!(answer, Err(LedgerError::Elsewhere(_))) {
                break;
            }
            // Behind what was sent meanwhile: rows that do not follow their partition's are refused by the fold, and sent again.
            answer = self.answer(self.begin().await, patience).await;
        }
        answer
    }

    async fn answer<T: DeserializeOwned>(&self, begun: Begun, patience: Duration) -> Result<T, LedgerError> {
        let (asked, sent) = begun?;
        let answer = match sent {
            Ok(sent) => sent.answer(patience).await,
            Err(error) => Err(error),
        };
        let result = answer.map_err(|error| match error {
            RequestError::Timeout(_) => LedgerError::Unknown(error.to_string()),
            // It has ended, and never saw it.
            RequestError::NoResponders(_) => LedgerError::Elsewhere(error.to_string()),
            RequestError::Disconnected | RequestError::Refused { .. } => LedgerError::Unavailable(error.to_string()),
        });
        let said = match result {
            Ok(bytes) => decode::<Result<T, LedgerError>>(&bytes)?,
            Err(error) => {
                drop_edge(&self.edge, &asked);
                return Err(error);
            }
        };
        if matches!(said, Err(LedgerError::Elsewhere(_))) {
            drop_edge(&self.edge, &asked);
        }
        said
    }
}

impl Ledger for RemoteLedger {
    fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    fn now(&self) -> LogTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LogTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn append(
        &self,
        partition: Partition,
        event: &Event<'_>,
    ) -> impl Future<Output = Result<Outcome, LedgerError>> + Send + 'static + use<> {
        let mut payload = partition.0.to_be_bytes().to_vec();
        event.encode(&mut payload);
        let payload = payload.into();
        let (answer, applied) = oneshot::channel();
        let taken = self.outgoing.try_send(Outgoing { payload, answer });
        async move {
            taken.map_err(|_| LedgerError::Full)?;
            applied.await.unwrap_or_else(|_| Err(LedgerError::Unknown("the gateway is stopping".into())))
        }
    }

    async fn ask(&self, client: &str, question: Question) -> Result<Known, LedgerError> {
        let question = Asking {
            nats: self.nats.clone(),
            name: self.name.clone(),
            edge: self.edge.clone(),
            what: "ask",
            payload: encode(&Ask { client: client.to_owned(), question }),
        };
        let answer = question.finish(question.begin().await, ASK_PATIENCE).await;
        // A question changes nothing: that it was not answered is no doubt about anything.
        answer.map_err(|error| match error {
            LedgerError::Unknown(why) => LedgerError::Unavailable(why),
            error => error,
        })
    }
}

#[cfg(test)]
mod tests;
