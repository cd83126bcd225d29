//! Partitions that begin again from snapshots of different moments: what they had said to each other is made to fit (ADR 6).
//!
//! Of two partitions one may have said what the other has not heard yet and never will (it was delivered after the other's
//! snapshot), or may have heard what the first has no knowledge of. Without this, messages between the two would wait for one
//! that never comes, or be taken for old ones. Snapshots are read twice: [`Moments::note`] sees every pair, then
//! [`Agreed`] says which of them are kept.
//!
//! What holds afterwards, for each pair of partitions: the first message that waits, or else the next that will be said, is the
//! one after the last that was heard. No epoch and no number of a walk is given that a partition gave before.

use std::collections::BTreeMap;

use super::outbox::Counters;
use super::stored::{ALIAS, MESSAGE, NUMBERS, RestoreError, split_message};
use crate::position::{Partition, PartitionCount};
use crate::varint::Reader;

/// By how much epochs and numbers of walks are raised where some are lost. Ours: more than a partition gives between two
/// snapshots, however far they are apart.
const RAISED_BY: u64 = 1 << 32;

/// Up to where each partition had got with each other one.
#[derive(Debug)]
pub struct Moments {
    of: Vec<Known>,
}

/// What the snapshot of one partition says.
#[derive(Clone, Debug, Default)]
struct Known {
    /// For each partition, the number of the first message that waits, and the one after the last.
    queues: BTreeMap<u16, (u64, u64)>,
    heard: BTreeMap<u16, u64>,
    epoch: u64,
    sagas: u64,
}

impl Known {
    /// From which number on messages for a partition wait, and which is the next.
    fn queue(&self, to: u16) -> (u64, u64) {
        self.queues.get(&to).copied().unwrap_or((1, 1))
    }
}

/// What is restored of each partition, so that all fit.
#[derive(Debug)]
pub struct Agreed {
    of: Vec<Known>,
    /// Whether some message was lost.
    lost: bool,
}

impl Moments {
    /// Of partitions that have never said anything.
    #[must_use]
    pub fn new(partitions: PartitionCount) -> Self {
        Self { of: vec![Known::default(); usize::from(partitions.get())] }
    }

    /// Takes note of a pair of a partition's snapshot. Pairs come in rising order of their keys; returns whether one that
    /// matters may follow.
    ///
    /// # Errors
    /// When the pair is damaged.
    pub fn note(&mut self, partition: Partition, key: &[u8], value: &[u8]) -> Result<bool, RestoreError> {
        let damaged = || RestoreError::Damaged { key: key.escape_ascii().to_string() };
        let known = self.of.get_mut(partition.index()).ok_or_else(damaged)?;
        match key.split_first_chunk::<2>() {
            Some((&NUMBERS, _)) => {
                let counters = Counters::decode(value).ok_or_else(damaged)?;
                known.queues = counters.first.into_iter().map(|(to, first)| (to, (first, first))).collect();
                known.heard = counters.heard.into_iter().collect();
                (known.epoch, known.sagas) = (counters.epoch, counters.sagas);
            }
            Some((&MESSAGE, rest)) => {
                let (to, number) = split_message(rest).ok_or_else(damaged)?;
                let queue = known.queues.get_mut(&to).filter(|(_, next)| *next == number).ok_or_else(damaged)?;
                queue.1 += 1;
            }
            _ => {}
        }
        Ok(key < &[MESSAGE[0], MESSAGE[1] + 1][..])
    }

    /// What fits, when the pairs of all partitions have been noted.
    #[must_use]
    pub fn agree(self) -> Agreed {
        let mut of = self.of;
        let (mut lost, mut forgotten) = (false, false);
        let all = || 0..of.len();
        let pairs: Vec<_> = all().flat_map(|from| all().map(move |to| (from, to))).filter(|(a, b)| a != b).collect();
        for (from, to) in pairs {
            let (sender, receiver) = (from as u16, to as u16);
            let (first, next) = of[from].queue(receiver);
            let heard = of[to].heard.get(&sender).copied().unwrap_or_default();
            lost |= heard + 1 < first;
            forgotten |= next <= heard;
            let heard = heard.max(first.saturating_sub(1));
            if heard > 0 {
                of[to].heard.insert(sender, heard);
                of[from].queues.insert(receiver, (heard + 1, next.max(heard + 1)));
            }
        }
        if forgotten {
            // Others know epochs and walks of a partition that itself does not.
            for known in &mut of {
                known.epoch += RAISED_BY;
                known.sagas += RAISED_BY;
            }
        }
        Agreed { of, lost: lost || forgotten }
    }
}

impl Agreed {
    /// Whether partitions had to be made to fit: what was linked between the moments of their snapshots may be lost.
    #[must_use]
    pub const fn is_lossy(&self) -> bool {
        self.lost
    }

    /// The pair with a partition's counters, which replaces the one of its snapshot; `None` when it needs none.
    #[must_use]
    pub fn numbers(&self, partition: Partition) -> Option<(Vec<u8>, Vec<u8>)> {
        let known = self.of.get(partition.index())?;
        let is_empty = known.queues.is_empty() && known.heard.is_empty() && known.epoch == 0 && known.sagas == 0;
        let counters = Counters {
            first: known.queues.iter().map(|(to, (first, _))| (*to, *first)).collect(),
            heard: known.heard.iter().map(|(from, number)| (*from, *number)).collect(),
            epoch: known.epoch,
            sagas: known.sagas,
        };
        (!is_empty).then(|| (NUMBERS.to_vec(), counters.encode()))
    }

    /// Whether a pair of a partition's snapshot is kept. Its counters are not: see [`Self::numbers`].
    #[must_use]
    pub fn keeps(&self, partition: Partition, key: &[u8], value: &[u8]) -> bool {
        match key.split_first_chunk::<2>() {
            Some((&NUMBERS, _)) => false,
            Some((&MESSAGE, rest)) => split_message(rest)
                .zip(self.of.get(partition.index()))
                .is_some_and(|((to, number), known)| number >= known.queue(to).0),
            // A profile on its way back may never come, and nobody could read what begins there. One that does come is taken
            // in all the same.
            Some((&ALIAS, _)) => !(self.lost && is_returning(value)),
            _ => true,
        }
    }
}

/// Whether a stored alias is one of an address whose profile is on its way back.
fn is_returning(stored: &[u8]) -> bool {
    let mut from = Reader::new(stored);
    let (_epoch, _at) = (from.varint(), from.varint());
    from.text().is_empty() && !from.is_bad()
}
