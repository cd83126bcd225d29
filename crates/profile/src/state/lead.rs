//! Reading links between addresses (ADR 8): where an address leads, whose profile holds it, and what waits to be carried.

use super::PartitionState;
use super::walk::Completed;
use crate::ids::Address;
use crate::time::LogTime;
use crate::view::ProfileRef;

/// Where an address leads, as far as its partition knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Its profile lives here, if there is one.
    Home,
    /// Its profile lives at another address, or further on.
    Alias {
        /// Canonical text.
        to: Box<str>,
        /// Of the alias: the home holds the address with it.
        epoch: u64,
    },
    /// Its profile is on the way here.
    Returning,
    /// It has ended since the alias by which it was asked for was set.
    Ended,
}

impl PartitionState {
    /// Where an address of this partition leads; `by` is the address whose alias led here, with its epoch.
    #[must_use]
    pub fn lead(&self, client: &str, address: Address<'_>, by: Option<(Address<'_>, u64)>) -> Lead {
        let Some(alias) = self.clients.find(client).and_then(|client| self.aliases.get(client, address.as_str()))
        else {
            return Lead::Home;
        };
        match alias.target() {
            Some(_) if by.is_some_and(|(by, epoch)| !alias.holds(by.as_str(), epoch)) => Lead::Ended,
            Some(to) => Lead::Alias { to: to.into(), epoch: alias.epoch },
            None => Lead::Returning,
        }
    }

    /// The profile that lives at `home`, if it holds an address by an alias of this epoch (nothing = of any).
    #[must_use]
    pub fn profile_by(
        &self,
        client: &str,
        home: Address<'_>,
        address: Address<'_>,
        epoch: Option<u64>,
        now: LogTime,
    ) -> Option<ProfileRef<'_>> {
        let number = self.clients.find(client)?;
        if !self.holds(number, home.as_str(), address.as_str(), epoch, now) {
            return None;
        }
        self.profile(client, home, now)
    }

    /// Walks that the last event ended, in order.
    #[must_use]
    pub fn completed(&self) -> &[Completed] {
        &self.completed
    }

    /// Partitions that messages wait for, with the number of the last one.
    pub fn destinations(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.outbox.destinations()
    }

    /// Messages for a partition after a number, with the number of the first.
    pub fn messages_after(&self, to: u16, number: u64) -> (u64, impl Iterator<Item = &[u8]>) {
        self.outbox.after(to, number)
    }

    /// Number of the last message that was ever said to a partition, 0 = none.
    #[must_use]
    pub fn said(&self, to: u16) -> u64 {
        self.outbox.said(to)
    }

    /// Number of the last message heard from a partition.
    #[must_use]
    pub fn heard(&self, from: u16) -> u64 {
        self.outbox.heard(from)
    }

    /// Aliases that were set before a time: `(client, address, where it leads, epoch)`.
    pub fn aliases_before(&self, at: LogTime) -> impl Iterator<Item = (&str, Address<'_>, Address<'_>, u64)> {
        self.aliases.iter().filter(move |alias| alias.at < at.0).filter_map(|alias| {
            let (client, address) = alias.key();
            let client = &*self.clients.get(client)?.code;
            let to = alias.target()?;
            Some((client, Address::from_canonical(address), Address::from_canonical(to), alias.epoch))
        })
    }
}
