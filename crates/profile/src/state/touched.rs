//! Which profiles an event changed, and how: what a history is made of. It is derived from the fold and not part of the
//! state.

use serde::{Deserialize, Serialize};

use super::PartitionState;

/// A profile that an event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The tenant.
    pub client: Box<str>,
    /// Canonical text of the address it lives at.
    pub home: Box<str>,
    /// What happened to it.
    pub what: Touch,
}

/// What happened to a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Touch {
    /// A visit.
    Visit,
    /// A single update.
    Update,
    /// A row of a bulk file.
    Row {
        /// The batch.
        batch: Box<str>,
        /// Line of the file.
        line: u32,
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
    },
    /// It got its own part back from the profile that it was unlinked from.
    GivenBack,
    /// It has moved into the profile of another address; nothing lives here any more.
    Moved {
        /// Canonical text of the address it was linked to.
        to: Box<str>,
    },
    /// It was erased.
    Erased,
}

impl PartitionState {
    pub(super) fn touch(&mut self, client: u32, home: &str, what: Touch) {
        let Some(client) = self.clients.get(client) else { return };
        self.touched.push(Touched { client: client.code.clone(), home: home.into(), what });
    }
}
