//! A state of the model, and what each step does to it.

use std::time::Duration;

use super::{Bounds, LEASE, NOW, Weak};
use crate::bucket::Revision;
use crate::clock::Mono;
use crate::lease::{Beat, Confirmation, How, NodeLease, NodeRun, Roster, holds, lapse};

/// The key of a run's heartbeats: its node, and which run of it.
pub(super) type Name = (u8, u8);

pub(super) fn node_run((node, run): Name) -> NodeRun {
    NodeRun { node: char::from(b'a' + node).into(), run: char::from(b'0' + run).into() }
}

/// What stands in the log. Its revision is its index and one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Entry {
    /// The client's record, without the old token.
    Rotation,
    /// The same record, changed once more: it replaces the one before it.
    Change,
    /// A heartbeat, with its number.
    Beat { key: Name, number: u64, applied: u64, left: bool },
    /// The control plane deleted a heartbeat.
    Deleted { key: Name },
}

impl Entry {
    pub(super) fn key(self) -> Option<Name> {
        match self {
            Self::Rotation | Self::Change => None,
            Self::Beat { key, .. } | Self::Deleted { key } => Some(key),
        }
    }
}

/// A watch of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    /// The run whose it is; otherwise it is the control plane's.
    pub(super) of: Option<Name>,
    /// Up to where it has brought entries.
    pub(super) at: u64,
    /// Where the last of those stands that replaced what it left out.
    pub(super) gap_to: u64,
    /// Up to where it has brought everything.
    pub(super) whole: u64,
}

impl Watch {
    /// Other runs' heartbeats tell a run nothing: its watch brings them with what is before them.
    pub(super) fn concerns(&self, entry: Entry) -> bool {
        self.of.is_none_or(|name| entry.key().is_none_or(|key| key == name))
    }

    /// Revisions that may come next: entries that were replaced may be left out.
    pub(super) fn next(&self, log: &[Entry]) -> Vec<u64> {
        let mut next = Vec::new();
        for index in self.at as usize..log.len() {
            if self.concerns(log[index]) {
                next.push(index as u64 + 1);
                if replaced_at(log, index).is_none() {
                    break;
                }
            }
        }
        next
    }

    /// Brings an entry, and leaves out those before it. Says whether that closes every gap. The real one may say so
    /// less often, when another entry is behind it already; that only delays what depends on it.
    pub(super) fn bring(&mut self, revision: u64, log: &[Entry]) -> bool {
        let left_out = (self.at as usize..revision as usize - 1).filter(|index| self.concerns(log[*index]));
        let replaced = left_out.filter_map(|index| replaced_at(log, index)).max();
        self.gap_to = self.gap_to.max(replaced.unwrap_or(0));
        self.at = revision;
        let last = self.gap_to <= revision;
        if last {
            (self.whole, self.gap_to) = (revision, 0);
        }
        last
    }

    pub(super) fn pass_what_is_of_no_concern(&mut self, log: &[Entry]) {
        while log.get(self.at as usize).is_some_and(|entry| !self.concerns(*entry)) {
            self.at += 1;
        }
    }
}

/// The revision of the entry that replaced the one at an index.
pub(super) fn replaced_at(log: &[Entry], index: usize) -> Option<u64> {
    let same = |later: &usize| log[*later].key() == log[index].key();
    (index + 1..log.len()).find(same).map(|later| later as u64 + 1)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) node: usize,
    pub(super) key: Name,
    pub(super) lease: NodeLease,
    pub(super) sent: u64,
    pub(super) to_send: u64,
    pub(super) watch: Watch,
    /// Its state is without the old token.
    pub(super) rotated: bool,
    pub(super) left: bool,
    /// It once held a lease, and then no more.
    pub(super) lost: bool,
    /// A request with the old token, begun after the reply, has made its first look and may pass.
    pub(super) looked: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Control {
    pub(super) watch: Watch,
    pub(super) roster: Roster,
    pub(super) answered: Option<Mono>,
    pub(super) confirmation: Option<Confirmation>,
    pub(super) replied: bool,
    pub(super) restarts: usize,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct World {
    pub(super) log: Vec<Entry>,
    /// Heartbeats that were sent and not committed, in order.
    pub(super) flight: Vec<(usize, Entry)>,
    pub(super) runs: Vec<Run>,
    pub(super) control: Control,
    pub(super) leaves: usize,
    /// An old token was accepted for a request that began after the reply.
    pub(super) broken: bool,
}

impl World {
    pub(super) fn rotation(&self) -> Option<u64> {
        self.log.iter().position(|entry| *entry == Entry::Rotation).map(|index| index as u64 + 1)
    }

    pub(super) fn commit(&mut self, run: usize, entry: Entry, weak: Weak) {
        if let (Weak::OnCommit, Entry::Beat { number, .. }) = (weak, entry) {
            self.runs[run].lease.came_back(number);
            self.runs[run].lease.caught_up();
        }
        self.log.push(entry);
    }

    pub(super) fn deliver(&mut self, run: usize, revision: u64, weak: Weak) {
        let run = &mut self.runs[run];
        let last = run.watch.bring(revision, &self.log) || weak == Weak::NodeBehind;
        match self.log[revision as usize - 1] {
            Entry::Rotation | Entry::Change => run.rotated = true,
            Entry::Beat { key, number, .. } if key == run.key => {
                if weak == Weak::FromReturn {
                    run.lease.outstanding.iter_mut().filter(|(sent, _)| *sent == number).for_each(|(_, at)| *at = NOW);
                }
                run.lease.came_back(if weak == Weak::AnyBeat { run.sent } else { number });
            }
            Entry::Beat { .. } | Entry::Deleted { .. } => {}
        }
        if last {
            run.watch.whole = revision;
            run.lease.caught_up();
        }
    }

    pub(super) fn hear(&mut self, revision: u64, weak: Weak) {
        let last = self.control.watch.bring(revision, &self.log) || weak == Weak::ControlBehind;
        if let Entry::Beat { key, applied, left, .. } = self.log[revision as usize - 1] {
            let (run, applied) = (node_run(key), Revision(applied));
            self.control.roster.heard(Beat { run, applied, epoch: None, lease: LEASE, left }, NOW);
        }
        self.control.roster.read_to(Revision(revision), last);
    }

    pub(super) fn confirm(&mut self, weak: Weak) {
        let (Some(revision), Some(answered)) = (self.rotation().map(Revision), self.control.answered) else { return };
        let mut roster = self.control.roster.clone();
        if weak == Weak::BeforeRead {
            roster.read_to(revision, true);
        }
        self.control.confirmation = roster.confirm(revision, answered);
        if let (Weak::NoDrift, Some(confirmation)) = (weak, &mut self.control.confirmation) {
            for waiting in confirmation.nodes.values_mut() {
                waiting.over = Mono(waiting.over.0 - lapse(LEASE).as_millis() as u64).after(LEASE);
            }
        }
    }

    /// Forgets who is silent for longer than a lease can last, and deletes their entries unless they changed meanwhile.
    pub(super) fn forget(&mut self, weak: Weak) {
        let gone = match weak {
            Weak::ForgetsEarly => {
                let runs = &self.control.roster.runs;
                let gone: Vec<_> = runs.iter().filter(|(_, heard)| NOW >= heard.at.after(LEASE)).collect();
                let gone: Vec<_> = gone.into_iter().map(|(run, _)| run.clone()).collect();
                self.control.roster.runs.retain(|run, _| !gone.contains(run));
                gone
            }
            _ => self.control.roster.forget_silent(Duration::ZERO, NOW),
        };
        for key in gone {
            let last = self.log.iter().rposition(|entry| entry.key().is_some_and(|name| node_run(name) == key));
            if let Some(index) = last
                && (index < self.control.watch.at as usize || weak == Weak::SweepsUnread)
                && let Entry::Beat { key, .. } = self.log[index]
            {
                self.log.push(Entry::Deleted { key });
            }
        }
    }

    /// What the control plane does after everything that it learns.
    pub(super) fn look_around(&mut self) {
        let control = &mut self.control;
        let Some(confirmation) = &mut control.confirmation else { return };
        confirmation.look(&control.roster, NOW);
        control.replied |= confirmation.is_done();
    }

    /// Lets the clocks go on, by setting back everything that was read from them.
    pub(super) fn time(&mut self, moves: &[u64]) {
        for run in &mut self.runs {
            let held = holds(run.lease.until, NOW);
            let by = moves[1 + run.node];
            run.lease.until.0 = run.lease.until.0.saturating_sub(by);
            run.lease.outstanding.iter_mut().for_each(|(_, sent)| sent.0 -= by);
            run.lost |= held && !holds(run.lease.until, NOW);
        }
        let control = &mut self.control;
        control.roster.runs.values_mut().for_each(|heard| heard.at.0 -= moves[0]);
        control.answered.iter_mut().for_each(|answered| answered.0 -= moves[0]);
        if let Some(confirmation) = &mut control.confirmation {
            confirmation.answered.0 -= moves[0];
            confirmation.nodes.values_mut().for_each(|waiting| waiting.over.0 -= moves[0]);
        }
    }

    /// Makes one of what differs in nothing that is to come.
    pub(super) fn settle(&mut self, bounds: &Bounds) {
        let goes_on = bounds.goes_on;
        let rotation = self.rotation().unwrap_or(u64::MAX);
        for run in &mut self.runs {
            run.watch.pass_what_is_of_no_concern(&self.log);
        }
        for run in &mut self.runs {
            if run.lease.until <= NOW {
                run.lease.until = Mono(0);
            }
            let oldest = NOW.0 - LEASE.as_millis() as u64;
            run.lease.outstanding.iter_mut().for_each(|(_, sent)| sent.0 = sent.0.max(oldest));
            // Whether it is before the rotation is all that a revision is asked for.
            run.watch.whole = if run.watch.whole >= rotation { rotation } else { 0 };
            if !goes_on {
                run.lost = false;
                if run.rotated && !run.looked {
                    // Its lease opens nothing to the old token any more; its heartbeats still count.
                    run.lease.give_up();
                    if run.watch.whole == rotation {
                        run.watch = Watch { of: run.watch.of, at: u64::MAX, gap_to: 0, whole: rotation };
                    }
                }
            }
        }
        let control = &mut self.control;
        if control.replied && !goes_on {
            *control = Control { replied: true, ..Control::default() };
        }
        control.watch.whole = 0;
        let oldest = NOW.0 - lapse(LEASE).as_millis() as u64;
        control.roster.runs.values_mut().for_each(|heard| heard.at.0 = heard.at.0.max(oldest));
        control.answered.iter_mut().for_each(|answered| answered.0 = answered.0.max(oldest));
        if let Some(confirmation) = &mut control.confirmation {
            confirmation.answered.0 = confirmation.answered.0.max(oldest);
            for waiting in confirmation.nodes.values_mut() {
                waiting.over = if waiting.how.is_some() { NOW } else { waiting.over.max(NOW) };
                if let Some(How::Reported { after } | How::Left { after } | How::Lapsed { after }) = &mut waiting.how {
                    *after = Duration::ZERO;
                }
            }
        }
    }

    /// Takes heartbeats out of the log that nobody will read any more, as if they had never been there.
    pub(super) fn trim(&mut self, bounds: &Bounds) {
        if self.control.restarts < bounds.restarts && !self.control.replied {
            return;
        }
        let read = |world: &Self, index: usize| {
            let at = index as u64;
            let own = |run: &&Run| Some(run.key) == world.log[index].key() && !run.left;
            let heard = world.control.replied || world.control.watch.at > at;
            heard && world.log[index].key().is_some() && world.runs.iter().filter(own).all(|run| run.watch.at > at)
        };
        while let Some(index) = (0..self.log.len()).find(|index| read(self, *index)) {
            self.log.remove(index);
            let shift = |revision: &mut u64| *revision -= u64::from(*revision > index as u64 && *revision < u64::MAX);
            for run in &mut self.runs {
                let watch = &mut run.watch;
                [&mut watch.at, &mut watch.gap_to, &mut watch.whole].into_iter().for_each(shift);
            }
            for entry in self.log.iter_mut().chain(self.flight.iter_mut().map(|(_, entry)| entry)) {
                if let Entry::Beat { applied, .. } = entry {
                    shift(applied);
                }
            }
            let Control { watch, roster, confirmation, .. } = &mut self.control;
            [&mut watch.at, &mut watch.gap_to, &mut roster.read.0].into_iter().for_each(shift);
            roster.runs.values_mut().for_each(|heard| shift(&mut heard.applied.0));
            if let Some(confirmation) = confirmation {
                [&mut confirmation.revision.0, &mut confirmation.needed.0].into_iter().for_each(shift);
            }
        }
    }

    pub(super) fn confirmed(&self, how: fn(How) -> bool) -> bool {
        let nodes = self.control.confirmation.iter().flat_map(Confirmation::nodes);
        self.control.replied && nodes.filter_map(|(_, found)| found).any(how)
    }

    /// Whether a run would let a call with the new token pass.
    pub(super) fn serves_new(run: &Run) -> bool {
        holds(run.lease.until(), NOW) && run.rotated
    }
}
