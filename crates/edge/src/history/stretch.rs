//! Whose history an entry belongs to. A profile that was linked went along with its address, and what had happened to it
//! is part of the other one's history from then on; a device that changes persons takes nothing along, so what it did
//! before stays with the person it did it for.

use std::collections::HashMap;

use cameo_eventlog::EventLog;
use cameo_profile::state::{AliasTo, Touch};
use cameo_profile::{Address, ClientCode, LogTime, Partition, Position, limits};

use super::Entry;
use super::alias::{Led, ON_ITS_WAY_MS, current, led_before};
use super::pending::Notes;
use super::read::{HistoryError, Recorded};
use super::store;
use super::timeline::Timeline;
use crate::replica::Replica;

/// What is known of addresses, each read once.
struct Ledger<'a, L: EventLog> {
    replica: &'a Replica<L>,
    client: &'a ClientCode,
    known: HashMap<Box<str>, Known>,
    notes: HashMap<Partition, Notes>,
}

struct Known {
    recorded: Recorded,
    /// Where the address leads now.
    now: Option<AliasTo>,
}

impl<L: EventLog> Ledger<'_, L> {
    fn know(&mut self, address: &str) -> Result<&Known, HistoryError> {
        if !self.known.contains_key(address) {
            let client = self.client.as_str();
            let partition = Address::from_canonical(address).partition(self.client, self.replica.partitions());
            // Notes first: what leaves them is in the index before.
            let (notes, now) = match self.notes.remove(&partition) {
                Some(notes) => (notes, self.replica.read(partition, |state, _| current(state, client, address))?),
                None => self.replica.noted(partition, |state| current(state, client, address))?,
            };
            let index = self.replica.index().ok_or(HistoryError::Closed)?;
            let held = store::held(&index, partition, (client, address), &notes, false)?;
            self.notes.insert(partition, notes);
            let recorded = Recorded::new(partition, held, self.replica.log().first(partition));
            self.known.insert(address.into(), Known { recorded, now });
        }
        Ok(&self.known[address])
    }

    /// Where the profile has gone that lived at an address at a moment; nothing when that is not known.
    fn whose(&mut self, address: &str, since: Since) -> Result<Option<Box<str>>, HistoryError> {
        let (mut address, mut since) = (Box::<str>::from(address), since);
        for _ in 0..limits::WALK_STEPS {
            let Known { recorded, now } = self.know(&address)?;
            if let Since::Time(time) = since
                && let Led::To(to) = recorded.led(time, now.as_ref())
            {
                address = to.address;
                continue;
            }
            let is_after = |entry: &&Entry| match since {
                Since::Entry(order) => entry.order() > order,
                Since::Time(time) => entry.at > time,
            };
            let mut changes = recorded.held.entries.iter().filter(is_after);
            let (to, at) = match changes.by_ref().find(|entry| led_before(entry).is_some()) {
                None if now.is_some() => return Ok(None),
                None => return Ok(Some(address)),
                Some(entry) => match entry.touch() {
                    Some(Touch::Linked { to, from: None, brought: true, .. }) => (to.address.clone(), entry.at),
                    _ => return Ok(None),
                },
            };
            // It was unlinked before it was linked to anything else, so it came back.
            let freed = changes.by_ref().find(|entry| led_before(entry).is_some());
            let is_freed = freed.is_some_and(|entry| matches!(entry.touch(), Some(Touch::Freed { .. })));
            let mut since_freed = changes.take_while(|entry| led_before(entry).is_none());
            let back = since_freed.find(|entry| is_freed && entry.touch() == Some(&Touch::GivenBack));
            match back {
                Some(back) => since = Since::Entry(back.order()),
                None => match self.taken_in(&address, &to, at)? {
                    Some((home, time)) => (address, since) = (home, Since::Time(time)),
                    None => return Ok(None),
                },
            }
        }
        Ok(None)
    }

    /// Which home took in what an address brought along when it was linked to another one at a time, and from when on that is to
    /// be followed. The walk that brought it may have moved the addresses that it passed afterwards: so the first way from
    /// there on that leads to who tells of it.
    fn taken_in(&mut self, address: &str, to: &str, at: LogTime) -> Result<Option<(Box<str>, LogTime)>, HistoryError> {
        let is_soon = |time: LogTime| time >= at && time.0 <= at.0.saturating_add(ON_ITS_WAY_MS);
        let mut time = at;
        let mut untold = None;
        loop {
            let (mut home, mut next) = (Box::<str>::from(to), None::<LogTime>);
            for _ in 0..limits::WALK_STEPS {
                let Known { recorded, now } = self.know(&home)?;
                let changes = recorded.held.entries.iter().filter(|entry| led_before(entry).is_some());
                let change = changes.map(|entry| entry.at).find(|change| *change > time);
                next = [next, change].into_iter().flatten().min();
                let Led::To(to) = recorded.led(time, now.as_ref()) else { break };
                home = to.address;
            }
            let recorded = &self.know(&home)?.recorded;
            let takes =
                |entry: &Entry| matches!(entry.touch(), Some(Touch::Joined { address: taken }) if **taken == *address);
            if recorded.held.entries.iter().any(|entry| is_soon(entry.at) && takes(entry)) {
                return Ok(Some((home, time)));
            }
            // One that does not know what came to it then may have taken it in.
            if !recorded.knows(at) {
                untold.get_or_insert((home, time));
            }
            match next.filter(|next| is_soon(*next)) {
                Some(next) => time = next,
                None => return Ok(untold),
            }
        }
    }

    /// Which entries of an address are part of the history of a home.
    fn of(&mut self, home: &str, address: &str) -> Result<Vec<Entry>, HistoryError> {
        let entries = self.know(address)?.recorded.entries().to_vec();
        let (mut mine, mut is_mine) = (Vec::new(), None);
        for entry in entries {
            if led_before(&entry).is_some() || entry.touch() == Some(&Touch::GivenBack) {
                is_mine = None;
            }
            let is_mine = match is_mine {
                Some(is_mine) => is_mine,
                None => self.whose(address, Since::Entry(entry.order()))?.as_deref() == Some(home),
            };
            if is_mine {
                mine.push(entry);
            }
        }
        Ok(mine)
    }
}

/// After which moment.
#[derive(Clone, Copy)]
enum Since {
    Entry((Position, u32, u32)),
    Time(LogTime),
}

impl<L: EventLog> Replica<L> {
    /// What happened to the profile that lives at an address, and to those that were linked to it, as far as they went along.
    pub(crate) fn timeline(&self, client: &ClientCode, home: Address<'_>) -> Result<Timeline, HistoryError> {
        let partition = home.partition(client, self.partitions());
        let parts: Vec<Box<str>> = self.read(partition, |state, now| {
            let profile = state.profile(client.as_str(), home, now);
            profile.map_or(Vec::new(), |profile| profile.linked().map(|address| address.as_str().into()).collect())
        })?;
        let mut ledger = Ledger { replica: self, client, known: HashMap::new(), notes: HashMap::new() };
        let mut timeline = Timeline::new(home.as_str());
        for address in std::iter::once(home.as_str()).chain(parts.iter().map(|part| &**part)) {
            let entries = ledger.of(home.as_str(), address)?;
            let Known { recorded, .. } = ledger.know(address)?;
            timeline.add(address, recorded, entries);
        }
        timeline.sort();
        Ok(timeline)
    }
}
