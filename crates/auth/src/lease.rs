//! The lease protocol, as decisions without clock, IO or randomness: the runtime asks them, and so does the model that
//! `tests.rs` checks exhaustively.
//!
//! ```text
//! node      ── heartbeat n (sent at s, own clock) ──▶ bucket ──▶ comes back through the node's watch
//!           once the watch has caught up, everything committed before it has been applied: lease until s + lease
//! control   ── record ──▶ bucket at revision R ──▶ waits, per node that has ever been heard before R:
//!           a heartbeat that says "applied ≥ R"      (reported)
//!           or  lapse(lease) on its own clock        (lapsed: whatever the node's clock does, its lease is over)
//! ```
//! Why it is enough: a node that has not applied R holds a lease only by a heartbeat that came back before R did, so one
//! that was committed, and so sent, before R was. Its lease ends at most `lease` of the node's clock after R's commit.
//! A node that was never heard before R holds no lease without having seen R.
//!
//! All of it holds within one history of the bucket. Where acknowledged entries were lost, their places are given again, and
//! "applied ≥ R" of before would confirm another R: so reports name the history that they are about ([`Epoch`]).
//!
//! Both sides count what they have read only where their watch had caught up ([`crate::bucket::Change::last`]). A watch
//! that lags leaves out what was replaced: behind the place where a heartbeat stood, the one that replaced it may still
//! be to come, and until then its node is unknown; so may the record that replaced a record.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::Revision;
use crate::clock::Mono;

#[cfg(test)]
mod tests;

/// Longest pause between heartbeats (DESIGN, Tokens and settings).
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Heartbeats that are sent within a lease, at least: two may be lost or late, and it is held all the same.
const HEARTBEATS_A_LEASE: u32 = 4;
/// Lease when none is set: long enough to live through the election of a leader of the log.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(10);
/// What it may be set to.
pub const LEASE_SECONDS: RangeInclusive<u64> = 1..=60;
/// Heartbeats on their way that a node keeps in mind; older ones earn no lease when they come back.
const OUTSTANDING_MAX: usize = 128;
/// How many entries a node may have read before the control plane has: far more than come while one of them stands still.
const AHEAD_MAX: u64 = 10_000;
/// By how many percent the rates of two clocks may be wrong, each. Real ones: 0.05 %.
pub const DRIFT_PERCENT: u64 = 10;
/// Added to a lapse: clocks are read in whole milliseconds, on both sides.
const MARGIN: Duration = Duration::from_millis(2);

/// One run of one node. A restarted node is another one: the old process may still be there, paused, with a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRun {
    /// The node's name, as configured.
    pub node: String,
    /// Drawn at the start of the process.
    pub run: String,
}

impl fmt::Display for NodeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.run)
    }
}

/// Names a stretch of the bucket's history in which places were given once. The control plane draws a new one whenever it
/// cannot prove that what comes follows what it has read, and writes it into the bucket; whoever reads another one than before
/// reads everything again (ADR 13).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub String);

/// A node's side: when it may decide on protected calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeLease {
    lease: Duration,
    next: u64,
    /// Heartbeats that have not come back, with the moment just before each was sent.
    outstanding: VecDeque<(u64, Mono)>,
    /// The newest that has come back since the watch last caught up.
    returned: Option<u64>,
    until: Mono,
}

impl NodeLease {
    /// None held yet.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, next: 1, outstanding: VecDeque::new(), returned: None, until: Mono(0) }
    }

    /// Number of the heartbeat that is about to be sent. `now` is read *before* it is.
    pub fn sending(&mut self, now: Mono) -> u64 {
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        let number = self.next;
        self.next += 1;
        self.outstanding.push_back((number, now));
        number
    }

    /// The node's own heartbeat came back. It earns the lease when the watch has [caught up](Self::caught_up).
    pub fn came_back(&mut self, number: u64) {
        self.returned = self.returned.max(Some(number));
    }

    /// The watch has brought everything up to here, and all of it was applied.
    pub fn caught_up(&mut self) {
        let Some(number) = self.returned.take() else { return };
        while let Some(&(first, sent)) = self.outstanding.front()
            && first <= number
        {
            self.outstanding.pop_front();
            if first == number {
                self.until = self.until.max(sent.after(self.lease));
            }
        }
    }

    /// Gives it up, with every heartbeat on its way: only one that is sent from now on earns it anew.
    pub fn give_up(&mut self) {
        self.outstanding.clear();
        self.returned = None;
        self.until = Mono(0);
    }

    /// When it ends.
    #[must_use]
    pub fn until(&self) -> Mono {
        self.until
    }
}

/// Pause between the heartbeats of a node. With one a second, a lease of a second would run out before each of them.
#[must_use]
pub fn heartbeat_every(lease: Duration) -> Duration {
    HEARTBEAT_EVERY.min(lease / HEARTBEATS_A_LEASE)
}

/// Whether a lease that ends at `until` is held at `now`.
#[inline]
#[must_use]
pub fn holds(until: Mono, now: Mono) -> bool {
    now < until
}

/// How long the control plane waits, by its own clock, until a lease of another machine has run out for certain:
/// that machine's clock may be [`DRIFT_PERCENT`] slow while ours is as much fast.
#[must_use]
pub fn lapse(lease: Duration) -> Duration {
    let ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
    let stretched = ms.saturating_mul(100 + DRIFT_PERCENT).div_ceil(100 - DRIFT_PERCENT);
    Duration::from_millis(stretched) + MARGIN
}

/// What a heartbeat tells the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Beat {
    /// Who.
    pub run: NodeRun,
    /// Up to which revision it has applied,
    pub applied: Revision,
    /// and of which history.
    pub epoch: Option<Epoch>,
    /// Its lease.
    pub lease: Duration,
    /// It has given up its lease and decides on nothing any more.
    pub left: bool,
}

/// The control plane's side: every run of a node that may hold a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roster {
    runs: BTreeMap<NodeRun, Heard>,
    /// Up to where the control plane has read the bucket and missed nothing.
    read: Revision,
    /// The history that is read, and where and when its name was.
    epoch: Option<Epoch>,
    began: (Revision, Mono),
    /// The name of a new history that was not read yet.
    awaited: Option<Epoch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Heard {
    applied: Revision,
    /// Of which history it has applied that.
    epoch: Option<Epoch>,
    /// Longest lease it has named: an earlier heartbeat may have earned that one.
    lease: Duration,
    at: Mono,
}

impl Roster {
    /// A heartbeat was read from the bucket.
    pub fn heard(&mut self, beat: Beat, now: Mono) {
        if beat.left {
            self.runs.remove(&beat.run);
            return;
        }
        let before = self.runs.get(&beat.run);
        // What was applied of another history says nothing about this one.
        let applied = before.filter(|heard| heard.epoch == beat.epoch).map(|heard| heard.applied).unwrap_or_default();
        let lease = before.map(|heard| heard.lease).unwrap_or_default().max(beat.lease);
        let heard = Heard { applied: applied.max(beat.applied), epoch: beat.epoch, lease, at: now };
        self.runs.insert(beat.run, heard);
    }

    /// The bucket is read again from its beginning, in a history of this name: nothing is confirmed before the name is
    /// read. Says up to where anybody is known to have read in the history before; by more than `AHEAD_MAX` nobody is
    /// ahead of what is read here, whatever he says.
    pub fn begin_anew(&mut self, epoch: Epoch) -> Revision {
        let applied = self.runs.values().map(|heard| heard.applied).max().unwrap_or_default();
        let read = std::mem::take(&mut self.read);
        self.awaited = Some(epoch);
        read.max(applied.min(Revision(read.0.saturating_add(AHEAD_MAX))))
    }

    /// The name of a history was read.
    pub fn begun(&mut self, epoch: Epoch, revision: Revision, now: Mono) {
        if self.awaited.as_ref().is_some_and(|awaited| *awaited != epoch) {
            return;
        }
        self.awaited = None;
        if self.epoch.as_ref() == Some(&epoch) {
            return;
        }
        (self.epoch, self.began) = (Some(epoch), (revision, now));
        // A heartbeat that has earned a lease may be among what was lost, and was perhaps never read here.
        self.runs.values_mut().for_each(|heard| heard.at = heard.at.max(now));
    }

    /// The name of the history that is read, or shall be.
    #[must_use]
    pub fn epoch(&self) -> Option<&Epoch> {
        self.awaited.as_ref().or(self.epoch.as_ref())
    }

    /// The bucket has been read up to here. What counts is where the watch had caught up
    /// ([`crate::bucket::Change::last`]): before, a heartbeat may have been left out whose next one is still to come.
    pub fn read_to(&mut self, revision: Revision, last: bool) {
        if last {
            self.read = self.read.max(revision);
        }
    }

    /// Up to where the bucket has been read without a gap.
    #[must_use]
    pub fn read(&self) -> Revision {
        self.read
    }

    /// Whether the lease of a run is certainly over, as it has not been heard for so long.
    #[must_use]
    pub fn is_silent(&self, run: &NodeRun, now: Mono) -> bool {
        self.runs.get(run).is_none_or(|heard| now >= heard.at.after(lapse(heard.lease)))
    }

    /// Drops runs that have been silent for `past` beyond their lease; returns them.
    pub fn forget_silent(&mut self, past: Duration, now: Mono) -> Vec<NodeRun> {
        let gone = |heard: &Heard| now >= heard.at.after(lapse(heard.lease) + past);
        let runs: Vec<_> = self.runs.iter().filter(|(_, heard)| gone(heard)).map(|(run, _)| run.clone()).collect();
        self.runs.retain(|_, heard| !gone(heard));
        runs
    }

    /// Begins to wait for a change that the bucket took as `revision`; `answered` is when that was answered. `None`
    /// while the bucket has not been read that far without a gap: a node heard before it may still be missing.
    ///
    /// A change that is older than the history that is read now is in it from where its name is: until then nodes may have
    /// gone on without it.
    #[must_use]
    pub fn confirm(&self, revision: Revision, answered: Mono) -> Option<Confirmation> {
        let (needed, answered) = (revision.max(self.began.0), answered.max(self.began.1));
        if self.awaited.is_some() || self.read < needed {
            return None;
        }
        let nodes = self.runs.iter().map(|(run, heard)| {
            let over = answered.min(heard.at).after(lapse(heard.lease));
            (run.clone(), Waiting { over, how: None })
        });
        let (nodes, epoch) = (nodes.collect(), self.epoch.clone());
        let mut confirmation = Confirmation { revision, needed, epoch, answered, nodes };
        confirmation.look(self, answered);
        Some(confirmation)
    }
}

/// How a node is known to have let go of what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// It said that it has applied the change.
    Reported {
        /// After the bucket had answered.
        after: Duration,
    },
    /// It said that it leaves.
    Left {
        /// After the bucket had answered.
        after: Duration,
    },
    /// It was silent for so long that its lease is over.
    Lapsed {
        /// After the bucket had answered.
        after: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    /// When its lease is certainly over.
    over: Mono,
    how: Option<How>,
}

/// Waits until no node can act on what was before a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Confirmation {
    revision: Revision,
    /// What has to be applied, and of which history.
    needed: Revision,
    epoch: Option<Epoch>,
    answered: Mono,
    nodes: BTreeMap<NodeRun, Waiting>,
}

impl Confirmation {
    /// Whether the bucket goes on in the history in which this began. If not, it has to begin again.
    #[must_use]
    pub fn stands(&self, roster: &Roster) -> bool {
        roster.awaited.is_none() && roster.epoch == self.epoch
    }

    /// Takes in what has been heard, and what time it is.
    pub fn look(&mut self, roster: &Roster, now: Mono) {
        if !self.stands(roster) {
            return;
        }
        let after = now.since(self.answered);
        for (run, waiting) in self.nodes.iter_mut().filter(|(_, waiting)| waiting.how.is_none()) {
            waiting.how = match roster.runs.get(run) {
                Some(heard) if heard.epoch == self.epoch && heard.applied >= self.needed => {
                    Some(How::Reported { after })
                }
                _ if now >= waiting.over => Some(How::Lapsed { after }),
                None => Some(How::Left { after }),
                Some(_) => None,
            };
        }
    }

    /// Whether every node is confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.nodes.values().all(|waiting| waiting.how.is_some())
    }

    /// The change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Every node, with how it was confirmed, or `None` while it is waited for.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeRun, Option<How>)> {
        self.nodes.iter().map(|(run, waiting)| (run, waiting.how))
    }
}
