//! Messages on their way between partitions (ADR 8): what this one has to say to each other one, numbered, and how far
//! it has heard from each.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Messages for one partition. The first has the number `first`; numbers begin at 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Queue {
    first: u64,
    messages: VecDeque<Box<[u8]>>,
    /// What the last checkpoint has: numbers from `.0` up to `.1`.
    saved: (u64, u64),
}

impl Default for Queue {
    fn default() -> Self {
        Self { first: 1, messages: VecDeque::new(), saved: (1, 1) }
    }
}

impl Queue {
    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }
}

/// All that a partition has to say, and has heard.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queues: BTreeMap<u16, Queue>,
    /// Number of the last message heard from each partition.
    heard: BTreeMap<u16, u64>,
    waiting: usize,
    changed: bool,
}

/// What a checkpoint has to learn.
#[derive(Debug, Default)]
pub(crate) struct OutboxChanges {
    /// Messages that the last one has and that are gone: partition and number.
    pub(crate) gone: Vec<(u16, u64)>,
    /// Messages that it has not.
    pub(crate) added: Vec<(u16, u64, Vec<u8>)>,
    /// A counter changed.
    pub(crate) counted: bool,
}

/// What outlives the messages, as stored: numbers of the next message to each partition, and of the last one from each.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    /// Of the first message that waits for each partition, or else of the next.
    pub(super) first: Vec<(u16, u64)>,
    pub(super) heard: Vec<(u16, u64)>,
    pub(super) epoch: u64,
    pub(super) sagas: u64,
}

impl Counters {
    pub(super) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("plain data always encodes into memory")
    }

    /// `None` when the bytes are none of ours.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }
}

impl Outbox {
    pub(crate) fn push(&mut self, to: u16, message: Box<[u8]>) {
        self.queues.entry(to).or_default().messages.push_back(message);
        self.waiting += 1;
    }

    /// Whether `number` of the messages of a partition is the one that follows; if so it counts as heard.
    pub(crate) fn hear(&mut self, from: u16, number: u64) -> bool {
        let follows = number == self.heard(from) + 1;
        if follows {
            self.heard.insert(from, number);
            self.changed = true;
        }
        follows
    }

    /// Number of the last message heard from a partition, 0 = none.
    pub(crate) fn heard(&self, from: u16) -> u64 {
        self.heard.get(&from).copied().unwrap_or_default()
    }

    /// Forgets messages up to a number.
    pub(crate) fn delivered(&mut self, to: u16, upto: u64) {
        let Some(queue) = self.queues.get_mut(&to) else { return };
        while queue.first <= upto && queue.messages.pop_front().is_some() {
            queue.first += 1;
            self.waiting -= 1;
            self.changed = true;
        }
    }

    /// How many messages wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Partitions that messages wait for, with the number of the last one.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let some = self.queues.iter().filter(|(_, queue)| !queue.messages.is_empty());
        some.map(|(to, queue)| (*to, queue.end() - 1))
    }

    /// Number of the last message that was ever said to a partition, 0 = none.
    pub(crate) fn said(&self, to: u16) -> u64 {
        self.queues.get(&to).map_or(0, |queue| queue.end() - 1)
    }

    /// Messages for a partition after a number, with the number of the first.
    pub(crate) fn after(&self, to: u16, number: u64) -> (u64, impl Iterator<Item = &[u8]>) {
        let queue = self.queues.get(&to);
        let first = queue.map_or(1, |queue| queue.first.max(number + 1));
        let skip = queue.map_or(0, |queue| usize::try_from(first - queue.first).unwrap_or(usize::MAX));
        (first, queue.into_iter().flat_map(move |queue| queue.messages.iter().skip(skip)).map(|bytes| &**bytes))
    }

    /// The counters as stored, with those of others that stand beside them.
    pub(crate) fn counters(&self, epoch: u64, sagas: u64) -> Vec<u8> {
        let first = self.queues.iter().map(|(to, queue)| (*to, queue.first)).collect();
        let heard = self.heard.iter().map(|(from, number)| (*from, *number)).collect();
        Counters { first, heard, epoch, sagas }.encode()
    }

    /// Takes counters from a checkpoint; returns those of the others. Comes before the messages.
    pub(crate) fn restore_counters(&mut self, bytes: &[u8]) -> Option<(u64, u64)> {
        let counters = Counters::decode(bytes)?;
        self.heard = counters.heard.into_iter().collect();
        for (to, first) in counters.first {
            self.queues.insert(to, Queue { first, saved: (first, first), messages: VecDeque::new() });
        }
        Some((counters.epoch, counters.sagas))
    }

    /// Takes a message from a checkpoint; numbers come without a gap.
    pub(crate) fn restore(&mut self, to: u16, number: u64, message: &[u8]) -> bool {
        let Some(queue) = self.queues.get_mut(&to) else { return false };
        if number != queue.end() {
            return false;
        }
        queue.messages.push_back(message.into());
        queue.saved.1 = number + 1;
        self.waiting += 1;
        true
    }

    /// What changed since the last call; then all counts as saved.
    pub(crate) fn take_changes(&mut self) -> OutboxChanges {
        let (mut gone, mut added) = (Vec::new(), Vec::new());
        let mut counted = std::mem::take(&mut self.changed);
        for (&to, queue) in &mut self.queues {
            let (from, upto) = queue.saved;
            gone.extend((from..queue.first.min(upto)).map(|number| (to, number)));
            let start = upto.max(queue.first);
            let skip = usize::try_from(start - queue.first).unwrap_or(usize::MAX);
            for (message, number) in queue.messages.iter().skip(skip).zip(start..) {
                added.push((to, number, message.to_vec()));
            }
            // A queue of its own record begins to exist with its first message.
            counted |= queue.saved != (queue.first, queue.end());
            queue.saved = (queue.first, queue.end());
        }
        OutboxChanges { gone, added, counted }
    }

    /// The checkpoint that took the counters, or this message, was not written.
    pub(crate) fn put_back(&mut self, message: Option<(u16, u64)>, deleted: bool) {
        self.changed = true;
        let Some((to, number)) = message else { return };
        let Some(queue) = self.queues.get_mut(&to) else { return };
        if deleted {
            queue.saved.0 = queue.saved.0.min(number);
        } else {
            queue.saved.1 = queue.saved.1.min(number);
        }
    }

    /// All messages, for a digest.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u16, u64, &[u8])> {
        self.queues.iter().flat_map(|(to, queue)| {
            queue.messages.iter().zip(queue.first..).map(|(message, number)| (*to, number, &**message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(outbox: &Outbox, to: u16, number: u64) -> (u64, Vec<Vec<u8>>) {
        let (first, messages) = outbox.after(to, number);
        (first, messages.map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn messages_are_numbered_for_each_receiver_and_go_when_they_have_arrived() {
        let mut outbox = Outbox::default();
        for (to, text) in [(3, "a"), (5, "b"), (3, "c")] {
            outbox.push(to, text.as_bytes().into());
        }
        assert_eq!(taken(&outbox, 3, 0), (1, vec![b"a".to_vec(), b"c".to_vec()]));
        assert_eq!(taken(&outbox, 3, 1), (2, vec![b"c".to_vec()]));
        assert_eq!(taken(&outbox, 3, 2), (3, vec![]));
        assert_eq!(outbox.destinations().collect::<Vec<_>>(), [(3, 2), (5, 1)]);
        outbox.delivered(3, 1);
        assert_eq!(taken(&outbox, 3, 0), (2, vec![b"c".to_vec()]));
        outbox.delivered(3, 9);
        outbox.push(3, b"d".as_slice().into());
        assert_eq!((taken(&outbox, 3, 0), outbox.waiting()), ((3, vec![b"d".to_vec()]), 2));
    }

    #[test]
    fn a_number_is_heard_once_and_in_order() {
        let mut outbox = Outbox::default();
        let heard: Vec<_> = [2, 1, 1, 2, 4, 3].into_iter().map(|number| outbox.hear(9, number)).collect();
        assert_eq!(heard, [false, true, false, true, false, true]);
        assert_eq!((outbox.heard(9), outbox.heard(8)), (3, 0));
    }

    #[test]
    fn what_a_checkpoint_has_comes_back() {
        let mut outbox = Outbox::default();
        let mut stored = BTreeMap::new();
        let mut counters = Vec::new();
        let mut save = |outbox: &mut Outbox| {
            let OutboxChanges { gone, added, counted } = outbox.take_changes();
            gone.iter().for_each(|key| assert!(stored.remove(key).is_some()));
            stored.extend(added.into_iter().map(|(to, number, message)| ((to, number), message)));
            if counted {
                counters = outbox.counters(7, 8);
            }
            let mut again = Outbox::default();
            assert_eq!(again.restore_counters(&counters), Some((7, 8)));
            for ((to, number), message) in &stored {
                assert!(again.restore(*to, *number, message));
            }
            let all = |outbox: &Outbox| outbox.all().map(|(t, n, m)| (t, n, m.to_vec())).collect::<Vec<_>>();
            assert_eq!((all(&again), again.waiting()), (all(outbox), outbox.waiting()));
            assert_eq!(again.counters(0, 0), outbox.counters(0, 0));
        };
        outbox.push(3, b"a".as_slice().into());
        outbox.hear(1, 1);
        save(&mut outbox);
        outbox.push(3, b"b".as_slice().into());
        outbox.push(4, b"c".as_slice().into());
        outbox.delivered(3, 1);
        save(&mut outbox);
        outbox.delivered(3, 2);
        outbox.delivered(4, 1);
        save(&mut outbox);
        outbox.push(3, b"d".as_slice().into());
        save(&mut outbox);
    }
}
