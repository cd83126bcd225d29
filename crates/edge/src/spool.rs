//! The outage spool: visits that the log cannot take now, on this node's disk until it can (ADR 10).
//!
//! What it is: a bounded database of encoded visits in the order in which they came, an index of their event ids in memory,
//! and [`drain`], which gives them to the log. What it is not: a queue that anybody reads, or a second log: what is in it
//! is durable here, and nowhere visible.
//!
//! Invariants:
//! - Every visit in it has an event id, its home address and its time: it counts once however often it is appended.
//! - A visit leaves it when this node's replica has applied its event id, and for no other reason ([`Spool::applied`]).
//!   That it has left is durable before a checkpoint that has its effect ([`Spool::flush`]): so what is still in it after a
//!   restart, once the log has been read to its end, is not in the log.
//! - While it holds visits of a partition, the native visits that come for that partition go through it, so that none
//!   overtakes another. Delivery calls and the visits of NATS producers are not spooled, and go past it: their callers learn
//!   at once, or try again by themselves.
//! - Visits of a partition go into the log in the order in which they came: those of a frame together or not at all, and the
//!   next ones after it.
//! - Partitions do not wait for one another: one whose log is silent, or that has stopped, holds up only its own. For one that
//!   has stopped nothing is taken; what it has in here stays until the node starts again with that partition well.

pub(crate) mod drain;
mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cameo_profile::event::Visit;
use cameo_profile::{Address, Event, Partition, PartitionCount};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use parking_lot::Mutex;
use tokio::sync::Notify;
use xxhash_rust::xxh3::Xxh3Default;

use store::{Record, Store};

/// Bytes that a visit counts for beyond its own: its place in the index and in the database.
const OVERHEAD_BYTES: u64 = 160;
/// Most visits, and bytes of them, that go into the log in one frame.
const FRAME: (usize, u64) = (1000, 256 << 10);
/// Default of [`SpoolConfig::max_bytes`]: some hours of a busy site's visits.
pub const MAX_BYTES_DEFAULT: u64 = 1 << 30;

/// Where a spool is and how large it may grow.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Its directory; created when missing. It belongs to this node's checkpoint.
    pub dir: PathBuf,
    /// Bytes of visits it takes; further ones are refused as without a spool.
    pub max_bytes: u64,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The database cannot be opened or read.
    #[error("the spool at {dir} cannot be used")]
    Database {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: fjall::Error,
    },
    /// What is in it is no visit of this log.
    #[error(
        "the spool at {dir} is damaged: {reason}; what it holds was acknowledged, so keep the files before removing it"
    )]
    Damaged {
        /// Where.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start the thread of the spool")]
    Thread(#[source] std::io::Error),
}

/// Why a visit was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It holds as much as it may.
    Full,
    /// The disk does not take it, or not in time.
    Disk,
}

/// A visit that is durable here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spooled {
    /// The tntId that was made up when a visit of this event id came first.
    pub(crate) first_tnt_id: Option<Box<str>>,
}

/// A visit to be taken.
pub(crate) struct New {
    pub(crate) partition: Partition,
    /// It, with an event id and a time, as an event.
    pub(crate) encoded: Vec<u8>,
    /// The log is not heard from, and may have it already.
    pub(crate) in_doubt: bool,
}

/// The same, read.
struct Read<'n> {
    partition: Partition,
    visit: Visit<'n>,
    encoded: &'n [u8],
}

impl New {
    fn read(&self) -> Option<Read<'_>> {
        let Ok(Event::Visit(visit)) = Event::decode(&self.encoded) else { return None };
        Some(Read { partition: self.partition, visit, encoded: &self.encoded })
    }
}

/// A visit as the index knows it.
struct Held {
    key: u128,
    partition: Partition,
    bytes: u64,
    made_up: Option<Box<str>>,
    /// The record, until it is known to be on disk: until then whoever has placed it may have to take it back.
    unwritten: Option<Box<[u8]>>,
}

/// What one call has put into the index, and what is to be said of it.
#[derive(Default)]
struct Placed {
    results: Vec<Result<Spooled, Refused>>,
    records: Vec<Record>,
    /// Results that the disk has not confirmed, and the place of each: this call's own, or one of another call's.
    unsettled: Vec<(usize, u64)>,
    /// The first place that is this call's own.
    own_from: u64,
}

impl Placed {
    /// The places that are this call's own; one may come twice.
    fn own(&self) -> impl Iterator<Item = u64> {
        self.unsettled.iter().map(|(_, seq)| *seq).filter(|seq| *seq >= self.own_from)
    }
}

#[derive(Default)]
struct Index {
    by_key: HashMap<u128, u64>,
    held: BTreeMap<u64, Held>,
    /// The places of each partition's.
    of: BTreeSet<(Partition, u64)>,
    bytes: u64,
    next: u64,
}

/// The spool of a node.
pub(crate) struct Spool {
    index: Mutex<Index>,
    /// Visits of each partition that are not applied.
    waiting: Box<[AtomicU64]>,
    /// Of each partition: some came while its log was not heard from, which has to be read to its end before they are given
    /// to it.
    doubt: Box<[AtomicBool]>,
    store: Store,
    max_bytes: u64,
    /// Of each partition: told when there is something to drain.
    filled: Box<[Notify]>,
    meters: Meters,
}

struct Meters {
    visits: Gauge,
    bytes: Gauge,
    spooled: Counter,
    drained: Counter,
    refused: Counter,
}

impl Meters {
    fn new() -> Self {
        describe_gauge!("cameo_spool_visits", "Visits in the outage spool");
        describe_gauge!("cameo_spool_bytes", "Bytes of the visits in the outage spool");
        describe_counter!(
            "cameo_spool_visits_total",
            "Visits of the outage spool: spooled, drained into the log, refused"
        );
        let visits = |what: &'static str| counter!("cameo_spool_visits_total", "what" => what);
        Self {
            visits: gauge!("cameo_spool_visits"),
            bytes: gauge!("cameo_spool_bytes"),
            spooled: visits("spooled"),
            drained: visits("drained"),
            refused: visits("refused"),
        }
    }
}

/// How much there is, for `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) visits: usize,
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
}

/// What the fold takes for one event (`dedupe.rs` of the core), and its partition.
fn key(partition: Partition, visit: &Visit<'_>) -> Option<u128> {
    let home = if visit.generated { "" } else { visit.home };
    let mut hash = Xxh3Default::new();
    hash.update(&partition.0.to_le_bytes());
    for part in [visit.client, home, visit.event_id?] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Some(hash.digest128())
}

fn held(partition: Partition, visit: &Visit<'_>, encoded: usize) -> Option<Held> {
    let made_up = visit.generated.then(|| Address::from_canonical(visit.home).parts().1.into());
    Some(Held {
        key: key(partition, visit)?,
        partition,
        bytes: encoded as u64 + OVERHEAD_BYTES,
        made_up,
        unwritten: None,
    })
}

impl Spool {
    /// Opens it, or makes it. Before the replica reads the log: what it applies leaves the spool.
    pub(crate) fn open(config: &SpoolConfig, partitions: PartitionCount) -> Result<Arc<Self>, SpoolError> {
        let (store, records) = Store::open(&config.dir)?;
        let damaged = |reason: String| SpoolError::Damaged { dir: config.dir.clone(), reason };
        let mut index = Index::default();
        let waiting: Box<[_]> = partitions.iter().map(|_| AtomicU64::new(0)).collect();
        for record in records {
            let record = record?;
            let waits = waiting.get(record.partition.index());
            let waits = waits.ok_or_else(|| damaged(format!("it has a visit of partition {}", record.partition)))?;
            let event = Event::decode(&record.bytes).map_err(|error| damaged(error.to_string()))?;
            let Event::Visit(visit) = &event else { return Err(damaged("it has something else than visits".into())) };
            let held = held(record.partition, visit, record.bytes.len());
            let held = held.ok_or_else(|| damaged("it has a visit without an event id".into()))?;
            waits.fetch_add(1, Ordering::Relaxed);
            index.add(record.seq, held);
        }
        let spool = Self {
            index: Mutex::new(index),
            waiting,
            // Of what the process before appended nobody here knows the outcome.
            doubt: partitions.iter().map(|_| AtomicBool::new(true)).collect(),
            store,
            max_bytes: config.max_bytes,
            filled: partitions.iter().map(|_| Notify::new()).collect(),
            meters: Meters::new(),
        };
        let level = spool.level();
        if level.visits > 0 {
            tracing::warn!(
                spool.visits = level.visits,
                spool.bytes = level.bytes,
                "visits of an outage are in the spool"
            );
        }
        Ok(Arc::new(spool))
    }

    /// Whether visits of this partition have to go through it.
    pub(crate) fn holds(&self, partition: Partition) -> bool {
        self.waiting[partition.index()].load(Ordering::Acquire) > 0
    }

    pub(crate) fn level(&self) -> Level {
        let index = self.index.lock();
        let level = Level { visits: index.held.len(), bytes: index.bytes, max_bytes: self.max_bytes };
        self.meters.visits.set(level.visits as f64);
        self.meters.bytes.set(level.bytes as f64);
        level
    }

    /// Whether the log of a partition may have visits of it that are in here.
    fn doubts(&self, partition: Partition) -> bool {
        self.doubt[partition.index()].load(Ordering::SeqCst)
    }

    fn doubt(&self, partition: Partition) {
        self.doubt[partition.index()].store(true, Ordering::SeqCst);
    }

    /// Whether it was in doubt; from here on it is not.
    fn take_doubt(&self, partition: Partition) -> bool {
        self.doubt[partition.index()].swap(false, Ordering::SeqCst)
    }

    /// Takes visits, in this order; done when they are durable. `seen` says whether the replica has applied one.
    ///
    /// Also when nobody waits for it any more, as a server drops the work for a caller who hangs up, it goes on to its end: what
    /// is in the index and neither on its way to the disk nor on it would hold up its partition for ever.
    pub(crate) async fn put(
        self: &Arc<Self>,
        visits: Vec<New>,
        seen: impl Fn(Partition, &Visit<'_>) -> bool + Send + 'static,
    ) -> Vec<Result<Spooled, Refused>> {
        let (count, spool) = (visits.len(), Arc::clone(self));
        let put = tokio::spawn(async move {
            // What is no visit is never given here; to the caller it would be as if there were no spool.
            let read: Option<Vec<_>> = visits.iter().map(New::read).collect();
            // Before they are in the index: who finds them there must find this too.
            visits.iter().filter(|new| new.in_doubt).for_each(|new| spool.doubt(new.partition));
            Some(spool.put_all(&read?, seen).await)
        });
        // It ends early with the process only.
        put.await.ok().flatten().unwrap_or_else(|| vec![Err(Refused::Disk); count])
    }

    async fn put_all(
        &self,
        visits: &[Read<'_>],
        seen: impl Fn(Partition, &Visit<'_>) -> bool,
    ) -> Vec<Result<Spooled, Refused>> {
        let mut placed = Placed::default();
        {
            let mut index = self.index.lock();
            placed.own_from = index.next;
            let was_empty = index.held.is_empty();
            for new in visits {
                let result = self.place(&mut index, new, &mut placed);
                placed.results.push(result);
            }
            if was_empty && !placed.records.is_empty() {
                tracing::warn!("the log does not take visits: they go into the spool");
            }
        }
        let records = std::mem::take(&mut placed.records);
        let own = records.iter().filter(|record| record.seq >= placed.own_from).count();
        if !records.is_empty() && !self.store.add(records).await {
            self.take_back(&placed);
            self.meters.refused.increment(visits.len() as u64);
            return visits.iter().map(|_| Err(Refused::Disk)).collect();
        }
        self.meters.spooled.increment(own as u64);
        let results = self.settle(visits, placed, seen);
        self.meters.refused.increment(results.iter().filter(|result| result.is_err()).count() as u64);
        self.level();
        visits.iter().for_each(|new| self.filled[new.partition.index()].notify_one());
        results
    }

    fn place(&self, index: &mut Index, new: &Read<'_>, placed: &mut Placed) -> Result<Spooled, Refused> {
        // One without an event id is never given here; to the caller it would be as if there were no spool.
        let held = held(new.partition, &new.visit, new.encoded.len()).ok_or(Refused::Disk)?;
        let there = index.by_key.get(&held.key).copied();
        if let Some((seq, first)) = there.and_then(|seq| Some((seq, index.held.get(&seq)?))) {
            if let Some(unwritten) = &first.unwritten {
                placed.unsettled.push((placed.results.len(), seq));
                // Of another call, which may fail to write it: so it is written here too, the same in the same place.
                if seq < placed.own_from {
                    placed.records.push(Record { seq, partition: new.partition, bytes: unwritten.to_vec() });
                }
            }
            return Ok(Spooled { first_tnt_id: first.made_up.clone() });
        }
        if index.bytes + held.bytes > self.max_bytes {
            return Err(Refused::Full);
        }
        let seq = index.next;
        self.waiting[new.partition.index()].fetch_add(1, Ordering::AcqRel);
        index.add(seq, Held { unwritten: Some(new.encoded.into()), ..held });
        placed.unsettled.push((placed.results.len(), seq));
        placed.records.push(Record { seq, partition: new.partition, bytes: new.encoded.to_vec() });
        Ok(Spooled { first_tnt_id: None })
    }

    /// After the disk has taken what was placed: what is still there stays. What is not was applied meanwhile, or has been
    /// taken back by the call that placed it first: that one is refused here too.
    fn settle(
        &self,
        visits: &[Read<'_>],
        placed: Placed,
        seen: impl Fn(Partition, &Visit<'_>) -> bool,
    ) -> Vec<Result<Spooled, Refused>> {
        let Placed { mut results, unsettled, .. } = placed;
        let (mut gone, mut lost) = (Vec::new(), Vec::new());
        {
            let mut index = self.index.lock();
            for (at, seq) in unsettled {
                match index.held.get_mut(&seq) {
                    Some(held) => held.unwritten = None,
                    None => {
                        gone.push(seq);
                        lost.push(at);
                    }
                }
            }
        }
        let seen = |new: &Read<'_>| seen(new.partition, &new.visit);
        for at in lost {
            if !seen(&visits[at]) {
                results[at] = Err(Refused::Disk);
            }
        }
        // It was written after it had gone: then it was not there to be removed.
        self.store.forget(&gone);
        for new in visits.iter().filter(|new| seen(new)) {
            self.applied(new.partition, &new.visit);
        }
        results
    }

    /// Takes back what this call has placed, unless another one has written it.
    fn take_back(&self, placed: &Placed) {
        let mut index = self.index.lock();
        let unwritten = |seq: &u64| index.held.get(seq).is_some_and(|held| held.unwritten.is_some());
        let seqs: Vec<_> = placed.own().filter(unwritten).collect();
        for seq in &seqs {
            self.remove(&mut index, *seq);
        }
        drop(index);
        self.store.forget(&seqs);
    }

    /// The replica has applied a visit: called for each, under the lock of its partition.
    pub(crate) fn applied(&self, partition: Partition, visit: &Visit<'_>) {
        if !self.holds(partition) {
            return;
        }
        let Some(key) = key(partition, visit) else { return };
        let mut index = self.index.lock();
        let Some(seq) = index.by_key.get(&key).copied() else { return };
        self.remove(&mut index, seq);
        let empty = index.held.is_empty();
        drop(index);
        self.store.forget(&[seq]);
        self.meters.drained.increment(1);
        if empty {
            tracing::info!("the spool is empty: all of its visits are in the log");
        }
    }

    fn remove(&self, index: &mut Index, seq: u64) {
        let Some(held) = index.held.remove(&seq) else { return };
        index.by_key.remove(&held.key);
        index.of.remove(&(held.partition, seq));
        index.bytes -= held.bytes;
        self.waiting[held.partition.index()].fetch_sub(1, Ordering::AcqRel);
    }

    /// Makes durable which visits have left. Blocks.
    ///
    /// # Errors
    /// When the disk does not take it: then no checkpoint may be written.
    pub(crate) fn flush(&self) -> Result<(), fjall::Error> {
        self.store.flush()
    }

    /// The first visits of a partition, encoded, as many as one frame takes; none while the first one is being written.
    fn next(&self, partition: Partition) -> fjall::Result<Vec<Vec<u8>>> {
        let (mut seqs, mut bytes) = (Vec::new(), 0);
        {
            let index = self.index.lock();
            for (_, seq) in index.of.range((partition, 0)..=(partition, u64::MAX)).take(FRAME.0) {
                bytes += index.held.get(seq).map_or(0, |held| held.bytes);
                if bytes > FRAME.1 && !seqs.is_empty() {
                    break;
                }
                seqs.push(*seq);
            }
        }
        // None overtakes one that is not to be read yet.
        let records = seqs.into_iter().map(|seq| self.store.get(seq)).map_while(Result::transpose);
        records.map(|record| record.map(|record| record.bytes)).collect()
    }
}

impl Index {
    fn add(&mut self, seq: u64, held: Held) {
        self.next = self.next.max(seq + 1);
        self.bytes += held.bytes;
        self.by_key.insert(held.key, seq);
        self.of.insert((held.partition, seq));
        self.held.insert(seq, held);
    }
}

#[cfg(test)]
mod tests;
