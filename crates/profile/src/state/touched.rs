//! Which profiles and addresses an event changed, and how: what a history is made of. It is derived from the fold and not
//! part of the state.

use super::PartitionState;
use super::edit::Via;

/// A profile or an address that an event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The tenant.
    pub client: Box<str>,
    /// Canonical text of the address that the profile lives at, or that was linked.
    pub address: Box<str>,
    /// What happened to it.
    pub what: Touch,
}

/// What happened to a profile, or to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A visit.
    Visit {
        /// It made the profile.
        created: bool,
        /// How it came, if it had a way to go.
        came: Option<Box<Came>>,
    },
    /// A single update.
    Update {
        /// How it came, if it had a way to go.
        came: Option<Box<Came>>,
    },
    /// A row of a bulk file.
    Row {
        /// Line of the file.
        line: u32,
        /// How it came, if it had a way to go.
        came: Option<Box<Came>>,
    },
    /// An address was linked; if it had a profile, that was taken in.
    Joined {
        /// Canonical text of the address.
        address: Box<str>,
    },
    /// More attributes of an address that was linked.
    More {
        /// Canonical text of the address.
        address: Box<str>,
    },
    /// A linked address follows another profile from now on.
    Left {
        /// Canonical text of the address.
        address: Box<str>,
    },
    /// An address was unlinked: its part was taken out.
    TakenOut {
        /// Canonical text of the address.
        address: Box<str>,
        /// Who asked for it, if known.
        by: Option<Box<str>>,
    },
    /// It got its own part back from the profile that it was unlinked from.
    GivenBack,
    /// The address leads to another one from now on.
    Linked {
        /// Where it leads.
        to: AliasTo,
        /// Where it led before; nothing when it was a home.
        from: Option<AliasTo>,
        /// A profile lived here, which went along.
        brought: bool,
        /// For one that was a home: addresses that go on to lead to it, with the epochs of their aliases.
        held: Vec<(Box<str>, u64)>,
    },
    /// The address leads nowhere any more: it is a home again.
    Freed {
        /// Where it led before.
        from: AliasTo,
    },
    /// What was known of it is to be forgotten.
    Erased,
    /// A profile to which it was linked has been erased: what it brought to that, and that it led there, is to be forgotten.
    Forgotten {
        /// Of the alias by which it was linked last.
        epoch: u64,
        /// Of those by which it brought something.
        brought: Vec<u64>,
    },
}

/// Where an address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasTo {
    /// Canonical text of the address it leads to.
    pub address: Box<str>,
    /// Of the alias: the home holds the address with it.
    pub epoch: u64,
}

/// How an event came that had a way to go before it was applied (ADR 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// Which message of a `Relay` event brought it, from 1; 0 = it is the log's event itself; [`ELSEWHERE`].
    pub message: u32,
    /// Its time, ms since 1970.
    pub time: u64,
    /// The linked address whose part it is; nothing when it is the home's own.
    pub via: Option<CameVia>,
}

/// The linked address by which an event came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameVia {
    /// Canonical text.
    pub address: Box<str>,
    /// The linked address through which that one is linked; empty = to the home itself.
    pub under: Box<str>,
    /// Of its alias, if it came along that.
    pub epoch: Option<u64>,
}

/// The event came before, and has waited here for a profile that was on its way back: it is in another frame.
pub const ELSEWHERE: u32 = u32::MAX;

impl Touch {
    /// Whether it cannot be made again from the event that the log has: what the profile was like afterwards has to be kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Visit { came, .. } | Self::Update { came } | Self::Row { came, .. } => {
                came.as_ref().is_some_and(|came| came.message == ELSEWHERE)
            }
            Self::Freed { .. } => false,
            Self::Erased | Self::Forgotten { .. } => false,
            Self::Joined { .. }
            | Self::More { .. }
            | Self::Left { .. }
            | Self::TakenOut { .. }
            | Self::GivenBack
            | Self::Linked { .. } => true,
        }
    }
}

impl CameVia {
    pub(super) fn as_via(&self) -> Via<'_> {
        Via { address: &self.address, under: &self.under, epoch: self.epoch }
    }
}

impl PartitionState {
    pub(super) fn touch(&mut self, client: u32, address: &str, what: Touch) {
        let Some(client) = self.clients.get(client) else { return };
        self.touched.push(Touched { client: client.code.clone(), address: address.into(), what });
    }

    /// How the event came that is applied now: nothing when it stands in the log for this very home.
    pub(super) fn came(&self, time: Option<u64>, via: Option<Via<'_>>) -> Option<Box<Came>> {
        let via = via.map(|via| CameVia { address: via.address.into(), under: via.under.into(), epoch: via.epoch });
        time.map(|time| Box::new(Came { message: self.message, time, via }))
    }

    /// Removes the alias of an address, if it is still the one of this epoch.
    pub(super) fn free(&mut self, client: u32, address: &str, epoch: u64) -> bool {
        let alias = self.aliases.get(client, address).filter(|alias| alias.epoch == epoch);
        let from = alias.and_then(|alias| Some(AliasTo { address: alias.target()?.into(), epoch }));
        let removed = self.aliases.remove(client, address, epoch);
        if let Some(from) = from {
            self.touch(client, address, Touch::Freed { from });
        }
        removed
    }
}
