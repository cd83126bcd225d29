//! Where an address led at an earlier moment: told by the changes of its alias in the index, and by where it leads now.

use cameo_profile::state::{AliasTo, Lead, Touch};
use cameo_profile::{Address, LogTime, PartitionState, Position};

use super::Entry;
use super::read::Recorded;

/// Where an address led at a moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Led {
    /// Nowhere: its profile lived there, if there was one.
    Home,
    To(AliasTo),
    /// It is not known, but from this time on.
    Unknown(LogTime),
}

/// Where an address leads now; nothing when it is a home.
pub(super) fn current(state: &PartitionState, client: &str, address: &str) -> Option<AliasTo> {
    match state.lead(client, Address::from_canonical(address), None) {
        Lead::Alias { to, epoch } => Some(AliasTo { address: to, epoch }),
        Lead::Home | Lead::Returning | Lead::Ended => None,
    }
}

/// Where an address led before an entry that changed that; the outer nothing is any other entry.
#[expect(clippy::option_option, reason = "no change, and a change of what led nowhere, are two things")]
pub(super) fn led_before(entry: &Entry) -> Option<Option<&AliasTo>> {
    match entry.touch()? {
        Touch::Linked { from, .. } => Some(from.as_ref()),
        Touch::Freed { from } => Some(Some(from)),
        _ => None,
    }
}

fn known(to: Option<&AliasTo>) -> Led {
    to.map_or(Led::Home, |to| Led::To(to.clone()))
}

/// For how long a link may be on its way to the address that it leads to, in ms. Ours: profiles live for days at least, so
/// whoever was linked so lately is not one that a profile has forgotten by ending.
pub(super) const ON_ITS_WAY_MS: u64 = 60_000;

impl Recorded {
    /// Whether this address, which led elsewhere at a time itself, knew another one that led to it by an alias. It forgets
    /// those of a profile that has ended when it is linked anew.
    pub(super) fn knew(&self, below: &Self, alias: &AliasTo, time: LogTime) -> bool {
        let passed = self.held.entries.iter().rev().filter(|entry| entry.at <= time);
        let mut linked = passed.filter_map(|entry| match entry.touch()? {
            Touch::Linked { from: None, held, .. } => Some((entry.at, held)),
            _ => None,
        });
        let Some((linked_at, held)) = linked.next() else { return true };
        let set = below.held.entries.iter().rev().find_map(|entry| match entry.touch()? {
            Touch::Linked { to, .. } if to.epoch == alias.epoch => Some(entry.at),
            _ => None,
        });
        held.iter().any(|(address, epoch)| (address, *epoch) == (&alias.address, alias.epoch))
            || set.is_some_and(|at| at.0.saturating_add(ON_ITS_WAY_MS) >= linked_at.0)
    }

    /// Whether everything that happened to it from a time on is in the index.
    pub(super) fn knows(&self, since: LogTime) -> bool {
        self.held.floor.is_none_or(|floor| floor.at <= since) && self.held.gaps.iter().all(|gap| gap.upto_ms <= since.0)
    }

    /// Where the address led right after everything that happened by a time; `now` is where it leads today.
    pub(super) fn led(&self, time: LogTime, now: Option<&AliasTo>) -> Led {
        let held = &self.held;
        let passed = held.entries.partition_point(|entry| entry.at <= time);
        // Each change says what was before it, so the next one is enough, if there is none in between that is missing.
        let next = held.entries[passed..].iter().find_map(|entry| Some((entry.position, led_before(entry)?)));
        let end = next.map_or(Position(u64::MAX), |(position, _)| position);
        let hides = |gap: &&super::Gap| gap.upto_ms > time.0 && gap.after < end.0;
        let gap = held.gaps.iter().filter(hides).map(|gap| LogTime(gap.upto_ms)).max();
        let floor = held.floor.filter(|floor| floor.at > time).map(|floor| floor.at);
        let Some(known_from) = gap.max(floor) else {
            return known(next.map_or(now, |(_, before)| before));
        };
        // What happened last before also says it: only where a profile lives anything but links happens.
        let last = held.entries[..passed].last();
        let since = last.map_or(Position::START, |last| last.position);
        let missing = held.gaps.iter().any(|gap| gap.after_ms <= time.0 && (last.is_none() || gap.upto > since.0));
        if missing || held.floor.is_some_and(|floor| floor.at <= time && floor.position > since) {
            return Led::Unknown(known_from);
        }
        match last.and_then(Entry::touch) {
            Some(Touch::Linked { to, .. }) => Led::To(to.clone()),
            _ => Led::Home,
        }
    }
}
