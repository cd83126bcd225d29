//! The gateway's ledger in a cluster: it asks an edge, which appends and looks up for it. Requests and replies over NATS,
//! in MessagePack but for the event, which is as it stands in the log.
//!
//! ```text
//! cameo.ledger.hello             any edge: its name and P
//! cameo.ledger.{edge}.append     partition (u16, big-endian) and event; answered when the edge has applied it
//! cameo.ledger.{edge}.ask        a question about batches
//! ```
//! An edge takes only the events of batches from it: the name of a gateway is no right to change profiles by other ways.
//! A gateway stays with one edge for as long as that answers, so that its events keep their order. An append that is not
//! answered is of unknown outcome; the rows of a file are asked for again and counted once, whichever edge takes them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use cameo_eventlog::EventLog;
use cameo_gateway::{Known, Ledger, LedgerError, Question};
use cameo_nats::{Nats, RequestError};
use cameo_profile::{Event, LogTime, Outcome, Partition, PartitionCount};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::ReplicaLedger;

/// How long an edge may take to apply an event: longer than the log tries to append it.
const APPEND_PATIENCE: Duration = Duration::from_secs(15);
/// How long a question may take.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
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

/// Answers gateways for as long as the process runs.
pub(super) async fn answer<L: EventLog>(
    nats: &Nats,
    name: &str,
    edge: &str,
    ledger: ReplicaLedger<L>,
) -> anyhow::Result<()> {
    let subscribe = async |subject: String, queue| {
        nats.subscribe(&subject, queue).await.with_context(|| format!("cannot listen to {subject}"))
    };
    let mut hellos = subscribe(format!("{name}.ledger.hello"), Some(EDGES)).await?;
    let mut appends = subscribe(format!("{name}.ledger.{edge}.append"), None).await?;
    let mut asks = subscribe(format!("{name}.ledger.{edge}.ask"), None).await?;
    let ledger = Arc::new(ledger);
    let hello = encode(&Hello { edge: edge.to_owned(), partitions: ledger.partitions().get() });
    let nats = nats.clone();
    tokio::spawn(async move {
        loop {
            // One after the other: events of a partition go into the log in the order in which they came.
            tokio::select! {
                Some(message) = appends.next() => {
                    let applied = start(&*ledger, &message.payload);
                    answer_later(&nats, message.reply, applied);
                }
                Some(message) = asks.next() => {
                    let ledger = Arc::clone(&ledger);
                    answer_later(&nats, message.reply, async move {
                        let Ask { client, question } = decode(&message.payload)?;
                        ledger.ask(&client, question).await
                    });
                }
                Some(message) = hellos.next() => {
                    let Some(reply) = message.reply else { continue };
                    // Who asked tries again.
                    let _ = nats.tell(&reply, hello.clone()).await;
                }
                else => return,
            }
        }
    });
    Ok(())
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

fn answer_later<T: Serialize + Send>(
    nats: &Nats,
    to: Option<String>,
    answer: impl Future<Output = Result<T, LedgerError>> + Send + 'static,
) {
    let Some(to) = to else { return };
    let nats = nats.clone();
    tokio::spawn(async move {
        let bytes = reply(&answer.await);
        // Who asked finds no answer, and asks again.
        let _ = nats.tell(&to, bytes).await;
    });
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

async fn hello(nats: &Nats, name: &str) -> Option<Hello> {
    let answer = nats.request(&format!("{name}.ledger.hello"), Bytes::new(), ASK_PATIENCE).await.ok()?;
    rmp_serde::from_slice(&answer).ok()
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

/// An edge that does not answer is not asked again.
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
        let to = match chosen(&nats, &name, &edge).await {
            Ok(to) => to,
            Err(error) => {
                // Whoever waited may have gone.
                let _ = answer.send(Err(error));
                continue;
            }
        };
        let sent = nats.begin_request(&format!("{name}.ledger.{to}.append"), payload).await;
        let edge = edge.clone();
        tokio::spawn(async move {
            let applied = match sent {
                Ok(sent) => understand(sent.answer(APPEND_PATIENCE).await, &edge, &to),
                Err(error) => understand(Err(error), &edge, &to),
            };
            let _ = answer.send(applied);
        });
    }
}

fn understand<T: DeserializeOwned>(
    answer: Result<Bytes, RequestError>,
    edge: &watch::Sender<String>,
    asked: &str,
) -> Result<T, LedgerError> {
    match answer {
        Ok(bytes) => decode::<Result<T, LedgerError>>(&bytes)?,
        Err(error @ RequestError::Timeout(_)) => {
            drop_edge(edge, asked);
            Err(LedgerError::Unknown(error.to_string()))
        }
        Err(error) => {
            drop_edge(edge, asked);
            Err(LedgerError::Unavailable(error.to_string()))
        }
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
        let edge = chosen(&self.nats, &self.name, &self.edge).await?;
        let payload = encode(&Ask { client: client.to_owned(), question });
        let answer = self.nats.request(&format!("{}.ledger.{edge}.ask", self.name), payload, ASK_PATIENCE).await;
        // A question changes nothing: that it was not answered is no doubt about anything.
        understand(answer, &self.edge, &edge).map_err(|error| match error {
            LedgerError::Unknown(why) => LedgerError::Unavailable(why),
            error => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use cameo_profile::event::{
        BatchClosed, BatchErrors, BatchOpened, BatchRows, ClientSettings, Delivered, DropAlias, Erase, Relay, Unlink,
        Update, Visit,
    };

    use super::*;

    fn asked(partition: u16, event: &Event<'_>) -> Result<(), LedgerError> {
        let mut payload = partition.to_be_bytes().to_vec();
        event.encode(&mut payload);
        let partitions = PartitionCount::new(4).unwrap();
        let (read_partition, read_event) = read(&payload, partitions)?;
        assert_eq!((read_partition, &read_event), (Partition(partition), event));
        Ok(())
    }

    #[test]
    fn an_edge_appends_events_of_batches_for_a_gateway_and_no_others() {
        let of_batches = [
            Event::BatchOpened(BatchOpened::default()),
            Event::BatchRows(BatchRows::default()),
            Event::BatchErrors(BatchErrors::default()),
            Event::BatchClosed(BatchClosed::default()),
        ];
        for event in of_batches {
            assert_eq!(asked(3, &event), Ok(()), "{event:?}");
            let refused = asked(4, &event).unwrap_err().to_string();
            assert!(refused.contains("no partition 4"), "{refused}");
        }
        let others = [
            Event::Visit(Visit::default()),
            Event::Update(Update::default()),
            Event::Erase(Erase::default()),
            Event::ClientSettings(ClientSettings::default()),
            Event::Unlink(Unlink::default()),
            Event::DropAlias(DropAlias::default()),
            Event::Relay(Relay::default()),
            Event::Delivered(Delivered::default()),
        ];
        for event in others {
            let refused = asked(0, &event).unwrap_err().to_string();
            assert!(refused.contains("events of batches"), "{event:?}: {refused}");
        }
        let short = read(&[0], PartitionCount::new(4).unwrap()).unwrap_err().to_string();
        assert!(short.contains("cannot be read"), "{short}");
    }
}
