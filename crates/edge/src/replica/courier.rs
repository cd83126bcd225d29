//! The courier: carries messages from the outboxes of partitions to where they are for, and says so (ADR 8).
//!
//! Whatever it does is safe to do twice, and by any node: the fold takes each message once, in order. The node whose event
//! caused a message carries it at once; what waits for longer than [`TAKE_OVER`] any node carries, as its own may be gone.
//! It also keeps the tickets of calls whose event went on to another partition, until the end of the walk is applied.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo_eventlog::{AppendError, EventLog, Ticket};
use cameo_profile::event::{Delivered, DropAlias, MessageBytes, Relay};
use cameo_profile::state::{Completed, Saga};
use cameo_profile::{Address, ClientCode, Event, LogTime, Outcome, Partition};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::call::{Answer, Call, EventTicket};
use super::{Inner, SubmitError};

/// A message that has waited for so long is carried by any node. Ours: many times what it takes the one that caused it.
const TAKE_OVER: Duration = Duration::from_secs(1);
/// How often all outboxes are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A relay of which nothing has been heard for so long is sent again.
const RELAY_PATIENCE: Duration = Duration::from_secs(15);
/// How long a call waits for the end of its walk. The event is in the log, so its outcome is unknown then, not lost.
const PARKED_PATIENCE: Duration = Duration::from_secs(15);
/// Calls that wait for the end of a walk. Ours: as many as a server holds open; past it a call learns at once that its
/// outcome is unknown.
const PARKED: usize = 1 << 16;
/// Bytes of messages in one relay, but for one that is larger by itself.
const RELAY_BYTES: usize = 256 << 10;
/// Messages in one relay.
const RELAY_MESSAGES: usize = 1000;
/// How often aliases are looked at whose home has ended.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// An alias is looked at when it has been there for so long, in milliseconds: what made it has come to its end by then.
const SETTLED_MS: u64 = 10 * 60_000;
/// Aliases of a partition looked at in one round.
const LOOKED_AT: usize = 1000;
/// Ends of walks that are remembered although nobody waited: a node that has read less of one partition than of another
/// applies the end first. Ours: more than end within the second after which other nodes carry a message.
const ENDED: usize = 4096;

/// What appliers and callers share with the courier.
#[derive(Debug, Default)]
pub(super) struct Courier {
    parked: Mutex<HashMap<Saga, (EventTicket, Instant)>>,
    /// Walks that ended lately without a ticket, the latest last. Locked only while `parked` is.
    ended: Mutex<VecDeque<(Saga, Outcome)>>,
    /// Partitions with messages that events of this node caused.
    own: Mutex<BTreeSet<u16>>,
    wake: Notify,
}

impl Courier {
    /// Keeps a ticket until its walk has ended. If it has, the answer is without the profile.
    pub(super) fn park(&self, saga: Saga, ticket: EventTicket) {
        // Until it has its place: an end that comes in between would find neither the ticket, nor somebody to look for it.
        let mut parked = self.parked.lock();
        let outcome =
            self.ended.lock().iter().rev().find(|(ended, _)| *ended == saga).map(|(_, outcome)| outcome.clone());
        if let Some(outcome) = outcome {
            drop(parked);
            return ticket.answer(Ok(Answer { outcome, profile: None }));
        }
        if parked.len() >= PARKED {
            drop(parked);
            return ticket.fail(&unknown("too many calls wait for profiles to be linked"));
        }
        parked.insert(saga, (ticket, Instant::now()));
    }

    /// The ticket of a walk that has ended, if it is here.
    pub(super) fn unpark(&self, done: &Completed) -> Option<EventTicket> {
        // Held until the end is remembered, as `park` holds it.
        let mut parked = self.parked.lock();
        let ticket = parked.remove(&done.saga).map(|(ticket, _)| ticket);
        if ticket.is_none() {
            let mut ended = self.ended.lock();
            if ended.len() >= ENDED {
                ended.pop_front();
            }
            ended.push_back((done.saga, done.outcome.clone()));
        }
        ticket
    }

    /// A partition has messages that this node is to carry.
    pub(super) fn wake(&self, partition: Partition) {
        self.own.lock().insert(partition.0);
        self.wake.notify_one();
    }

    fn fail_overdue(&self) {
        let overdue: Vec<_> = {
            let mut parked = self.parked.lock();
            let late: Vec<_> = parked
                .iter()
                .filter(|(_, (_, since))| since.elapsed() > PARKED_PATIENCE)
                .map(|(saga, _)| *saga)
                .collect();
            late.iter().filter_map(|saga| parked.remove(saga)).collect()
        };
        for (ticket, _) in overdue {
            ticket.fail(&unknown("it is stored, and what it links is on its way"));
        }
    }
}

fn unknown(why: &'static str) -> AppendError {
    AppendError::Unknown(why.into())
}

/// What is known of the way from one partition to another.
struct Way {
    /// The first message that waits, and since when it has been the first.
    waits: (u64, Instant),
    /// Since when something is under way.
    sent: Option<Instant>,
}

/// Answers of relays: `from`, `to`, and whether it was stored.
type Relayed = (u16, u16, bool);

/// Runs until the replica closes. What it knows can be found out again, so a panic only costs time.
pub(super) fn run<L: EventLog>(inner: &Arc<Inner<L>>, runtime: &Runtime) {
    while catch_unwind(AssertUnwindSafe(|| carry_all(inner, runtime))).is_err() {
        tracing::error!("the courier panicked; it begins again");
        std::thread::sleep(TAKE_OVER);
    }
}

fn carry_all<L: EventLog>(inner: &Arc<Inner<L>>, runtime: &Runtime) {
    runtime.block_on(async {
        let mut ways: BTreeMap<(u16, u16), Way> = BTreeMap::new();
        let (answers, mut answered) = tokio::sync::mpsc::channel::<Relayed>(RELAY_MESSAGES);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut cleaned = Instant::now();
        let mut looked_at = vec![0; inner.slots.len()];
        loop {
            let mut own = BTreeSet::new();
            let mut all = false;
            tokio::select! {
                () = inner.closed() => return,
                () = inner.courier.wake.notified() => own = std::mem::take(&mut *inner.courier.own.lock()),
                Some((from, to, stored)) = answered.recv() => {
                    if let Some(way) = ways.get_mut(&(from, to)) {
                        way.sent = None;
                    }
                    if stored {
                        own.insert(from);
                    }
                }
                _ = look.tick() => all = true,
            }
            for from in &own {
                carry(inner, Partition(*from), true, &mut ways, &answers);
            }
            if all {
                for from in inner.log.partitions().iter() {
                    carry(inner, from, false, &mut ways, &answers);
                }
                measure(inner, &mut ways);
                inner.courier.fail_overdue();
                if cleaned.elapsed() > HOUSEKEEPING {
                    cleaned = Instant::now();
                    for (partition, from) in inner.log.partitions().iter().zip(&mut looked_at) {
                        *from = drop_ended(inner, partition, *from);
                    }
                }
            }
        }
    });
}

/// Tells how much waits, and for how long; forgets ways on which nothing does.
fn measure<L: EventLog>(inner: &Arc<Inner<L>>, ways: &mut BTreeMap<(u16, u16), Way>) {
    let mut waiting = 0;
    let mut used = BTreeSet::new();
    for from in inner.log.partitions().iter() {
        let state = inner.slots[from.index()].state.read();
        waiting += state.fold.links().outbox;
        used.extend(state.fold.destinations().map(|(to, _)| (from.0, to)));
    }
    ways.retain(|way, known| used.contains(way) || known.sent.is_some());
    let longest = ways.iter().filter(|(way, _)| used.contains(way)).map(|(_, known)| known.waits.1.elapsed()).max();
    inner.meters.links_waiting.set(waiting as f64);
    inner.meters.links_waiting_seconds.set(longest.unwrap_or_default().as_secs_f64());
}

/// Sends what waits in a partition's outbox. Of another node's only what has waited for long.
fn carry<L: EventLog>(
    inner: &Arc<Inner<L>>,
    from: Partition,
    own: bool,
    ways: &mut BTreeMap<(u16, u16), Way>,
    answers: &tokio::sync::mpsc::Sender<Relayed>,
) {
    if inner.slots[from.index()].halted.get().is_some() {
        return;
    }
    let destinations: Vec<_> = inner.slots[from.index()].state.read().fold.destinations().collect();
    for (to, last) in destinations {
        let slot = &inner.slots[usize::from(to)];
        if slot.halted.get().is_some() {
            continue;
        }
        let heard = slot.state.read().fold.heard(from.0);
        let now = Instant::now();
        let way = ways.entry((from.0, to)).or_insert(Way { waits: (heard + 1, now), sent: None });
        if way.waits.0 != heard + 1 {
            way.waits = (heard + 1, now);
        }
        let is_late = now.duration_since(way.waits.1) > TAKE_OVER;
        if way.sent.is_some_and(|since| since.elapsed() > RELAY_PATIENCE) {
            way.sent = None;
        }
        if way.sent.is_some() || !(own || is_late) {
            continue;
        }
        if heard >= last {
            way.sent = Some(now);
            let delivered = Event::Delivered(Delivered { to, upto: heard });
            submit(inner, from, &delivered, (from.0, to), answers.clone());
            continue;
        }
        let state = inner.slots[from.index()].state.read();
        let (first, messages) = state.fold.messages_after(to, heard);
        let mut bytes = 0;
        let messages: Vec<_> = messages
            .take(RELAY_MESSAGES)
            .take_while(|message| {
                let fits = bytes == 0 || bytes + message.len() <= RELAY_BYTES;
                bytes += message.len();
                fits
            })
            .map(<[u8]>::to_vec)
            .collect();
        drop(state);
        if messages.is_empty() {
            continue;
        }
        let messages: Vec<_> = messages.iter().map(|message| MessageBytes(message)).collect();
        way.sent = Some(now);
        let relay = Event::Relay(Relay { from: from.0, first, messages });
        submit(inner, Partition(to), &relay, (from.0, to), answers.clone());
    }
}

/// Appends an event of the courier's own; the answer comes back by `answers`.
fn submit<L: EventLog>(
    inner: &Arc<Inner<L>>,
    partition: Partition,
    event: &Event<'_>,
    (from, to): (u16, u16),
    answers: tokio::sync::mpsc::Sender<Relayed>,
) {
    let call = Call::new(1);
    let ticket = EventTicket::new(&call, 0, None);
    let refused = inner.appender.submit(partition, |out| event.encode(out), Some(ticket));
    if let Err((error, ticket)) = refused {
        match SubmitError::from(error) {
            error @ SubmitError::TooLarge { .. } => {
                tracing::error!(eventlog.partition = partition.0, %error, "messages to a partition cannot be carried");
            }
            error => tracing::debug!(eventlog.partition = partition.0, %error, "a message waits"),
        }
        if let Some(ticket) = ticket {
            ticket.fail(&AppendError::Unavailable("refused".into()));
        }
    }
    tokio::spawn(async move {
        let answer = call.wait().await.pop();
        let stored = matches!(answer, Some(Ok(Answer { outcome: Outcome::Relayed { .. } | Outcome::Applied, .. })));
        // The courier has gone with its replica.
        let _ = answers.send((from, to, stored)).await;
    });
}

/// Has the fold look at some aliases that seem to lead to profiles which have ended: nobody may ever come by again to notice.
/// Returns where to go on.
fn drop_ended<L: EventLog>(inner: &Arc<Inner<L>>, partition: Partition, from: usize) -> usize {
    let settled: Vec<_> = {
        let state = inner.slots[partition.index()].state.read();
        let before = LogTime(inner.log.now().0.saturating_sub(SETTLED_MS));
        let owned = |(client, address, _, epoch): (&str, Address<'_>, _, u64)| {
            (client.to_owned(), address.as_str().to_owned(), epoch)
        };
        state.fold.aliases_before(before).skip(from).take(LOOKED_AT).map(owned).collect()
    };
    let next = if settled.len() < LOOKED_AT { 0 } else { from + LOOKED_AT };
    let ended = settled.into_iter().filter(|(client, address, _)| {
        ClientCode::new(client).is_ok_and(|client| inner.seems_ended(&client, Address::from_canonical(address)))
    });
    for (client, address, epoch) in ended {
        let event = Event::DropAlias(DropAlias { client: &client, address: &address, epoch });
        // What is refused now is dropped at another time.
        let _ = inner.appender.submit(partition, |out| event.encode(out), None);
    }
    next
}
