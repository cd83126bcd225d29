//! Everything one partition of the log adds up to, and the fold that makes it.
//!
//! The fold ([`PartitionState::apply`]) is total and deterministic; `stored` (its sibling) turns the state into
//! key–value pairs for checkpoints and back. Reading is by [`ProfileRef`]. What addresses of several partitions have to do
//! with each other is in `walk` (ADR 8).

mod alias;
mod carry;
mod edit;
mod fold;
mod lead;
mod message;
mod moments;
mod moved;
mod outbox;
mod replay;
mod stored;
mod touched;
mod walk;

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::batch::Batches;
use crate::client::Clients;
use crate::dedupe::{EventIds, EventKey};
use crate::event::Visit;
use crate::ids::Address;
use crate::limits::LIFETIME_DAYS_DEFAULT;
use crate::names::Names;
use crate::packed::{Packed, key_hash};
use crate::position::{Partition, PartitionCount};
use crate::time::LogTime;
use crate::view::ProfileRef;

pub use crate::batch::{BatchHead, BatchOpenedOutcome, BatchPart, RowErrorOwned};
pub use fold::{Outcome, UpdateOutcome, VisitOutcome};
pub use lead::Lead;
pub use message::Saga;
pub use message::carried;
pub use moments::{Agreed, Moments};
pub use replay::Replay;
pub use stored::{Changes, RestoreError};
pub use touched::{AliasTo, Came, CameVia, ELSEWHERE, Touch, Touched};
pub use walk::Completed;

/// The state of one partition.
#[derive(Debug)]
pub struct PartitionState {
    /// Which partition it is, of how many: the fold must know which addresses are its own.
    me: Partition,
    count: PartitionCount,
    profiles: HashTable<Packed>,
    /// Bytes in `profiles`, without what the table and the allocator add.
    bytes: usize,
    /// Hashes of profiles with the changed flag, in the order they got it; a hash may be stale.
    changed: Vec<u64>,
    /// Stored keys of profiles that are gone since the last checkpoint.
    gone: Vec<Vec<u8>>,
    /// No profile ends before this (ms since 1970), so the sweeper need not look.
    none_ends_before: u64,
    names: Names,
    clients: Clients,
    event_ids: EventIds,
    batches: Batches,
    aliases: alias::Aliases,
    outbox: outbox::Outbox,
    /// Number of the last walk that began here.
    sagas: u64,
    /// `sagas` and the aliases' epoch, as the last checkpoint has them.
    saved_numbers: (u64, u64),
    /// Walks that the last event ended.
    completed: Vec<Completed>,
    /// Profiles that the last event changed.
    touched: Vec<Touched>,
    /// Which message of a relay is dealt with, from 1; 0 = the event is none.
    message: u32,
    /// Messages that have waited for a profile that is back now.
    returned: VecDeque<message::Message>,
    /// Reused for packing.
    scratch: Vec<u8>,
}

/// Whether bytes are a message between partitions.
pub(crate) fn is_message(bytes: &[u8]) -> bool {
    message::Message::decode(bytes).is_some()
}

/// How much a partition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Profiles in memory; ended ones count until the sweeper has been by.
    pub profiles: usize,
    /// Their bytes, with the table, without what the allocator adds.
    pub bytes: usize,
    /// Event ids remembered.
    pub event_ids: usize,
    /// Batches remembered.
    pub batches: usize,
    /// Attribute and category names interned.
    pub names: usize,
    /// What links addresses.
    pub links: Links,
}

/// What a partition holds of links between addresses (ADR 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Addresses whose profile lives at another one.
    pub aliases: usize,
    /// Messages that wait to be carried to other partitions.
    pub outbox: usize,
}

impl Default for PartitionState {
    fn default() -> Self {
        Self::new(Partition(0), PartitionCount::ONE)
    }
}

impl PartitionState {
    /// The state of partition `me` of `count` before its first event.
    #[must_use]
    pub fn new(me: Partition, count: PartitionCount) -> Self {
        Self {
            me,
            count,
            profiles: HashTable::new(),
            bytes: 0,
            changed: Vec::new(),
            gone: Vec::new(),
            none_ends_before: u64::MAX,
            names: Names::default(),
            clients: Clients::default(),
            event_ids: EventIds::default(),
            batches: Batches::default(),
            aliases: alias::Aliases::default(),
            outbox: outbox::Outbox::default(),
            sagas: 0,
            saved_numbers: (0, 0),
            completed: Vec::new(),
            touched: Vec::new(),
            message: 0,
            returned: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    /// The profile that lives at `address`, unless there is none or it has ended by `now`.
    #[must_use]
    pub fn profile(&self, client: &str, address: Address<'_>, now: LogTime) -> Option<ProfileRef<'_>> {
        let number = self.clients.find(client)?;
        let client = self.clients.get(number)?;
        let address = address.as_str().as_bytes();
        let packed = self.profiles.find(key_hash(number, address), |packed| packed.is(number, address))?;
        let head = packed.head();
        (now.0 < client.ends_at(head.active_at)).then(|| ProfileRef::new(&self.names, client, &head, now))
    }

    /// Whether a visit would be dropped as one that was applied before, by its event id.
    #[must_use]
    pub fn has_seen(&self, visit: &Visit<'_>) -> bool {
        let (Some(client), Some(event_id)) = (self.clients.find(visit.client), visit.event_id) else { return false };
        let key = EventKey::visit(client, if visit.generated { "" } else { visit.home }, event_id);
        self.event_ids.find(key).is_some()
    }

    /// Days without activity after which a profile of this client is gone.
    #[must_use]
    pub fn lifetime_days(&self, client: &str) -> u16 {
        let client = self.clients.find(client).and_then(|number| self.clients.get(number));
        client.map_or(LIFETIME_DAYS_DEFAULT, crate::client::Client::lifetime_days)
    }

    /// What this partition counted for a batch.
    #[must_use]
    pub fn batch_part(&self, client: &str, batch: &str) -> Option<BatchPart> {
        self.batches.get(self.clients.find(client)?, batch).map(|batch| batch.part)
    }

    /// The head of a batch, if this is its head partition.
    #[must_use]
    pub fn batch_head(&self, client: &str, batch: &str) -> Option<&BatchHead> {
        self.batches.get(self.clients.find(client)?, batch)?.head.as_ref()
    }

    /// The batch that has this idempotency key, if this is its head partition.
    #[must_use]
    pub fn batch_head_by_key(&self, client: &str, key: &str) -> Option<&BatchHead> {
        self.batches.head_by_key(self.clients.find(client)?, key)
    }

    /// All batch heads of a client that live here.
    pub fn batch_heads(&self, client: &str) -> impl Iterator<Item = &BatchHead> {
        self.clients.find(client).into_iter().flat_map(|number| self.batches.heads(number))
    }

    /// Failed rows of a batch that this partition knows of, and whether there were more.
    #[must_use]
    pub fn batch_errors(&self, client: &str, batch: &str) -> (&[RowErrorOwned], bool) {
        let batch = self.clients.find(client).and_then(|number| self.batches.get(number, batch));
        batch.map_or((&[], false), |batch| (&batch.errors, batch.errors_incomplete))
    }

    /// How much it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            profiles: self.profiles.len(),
            bytes: self.bytes + self.profiles.capacity() * (size_of::<Packed>() + 1),
            event_ids: self.event_ids.len(),
            batches: self.batches.len(),
            names: self.names.len(),
            links: self.links(),
        }
    }

    /// How many aliases and waiting messages it holds.
    #[must_use]
    pub fn links(&self) -> Links {
        Links { aliases: self.aliases.len(), outbox: self.outbox.waiting() + self.aliases.waiting() }
    }

    /// Profiles and addresses that the last event changed, in the order of the changes.
    #[must_use]
    pub fn touched(&self) -> &[Touched] {
        &self.touched
    }

    /// Frees up to `budget` profiles that have ended by `now`; returns how many. No reader and no event can tell
    /// whether it was called.
    pub fn sweep(&mut self, now: LogTime, budget: usize) -> usize {
        if now.0 < self.none_ends_before {
            return 0;
        }
        let mut ended = Vec::new();
        let mut first_end = u64::MAX;
        for packed in &self.profiles {
            let head = packed.head();
            let end = self.clients.get(head.client).map_or(u64::MAX, |client| client.ends_at(head.active_at));
            if end > now.0 {
                first_end = first_end.min(end);
            } else if ended.len() < budget {
                ended.push((key_hash(head.client, head.address), head.client, head.address.to_vec()));
            } else {
                first_end = now.0;
            }
        }
        self.none_ends_before = first_end;
        for (hash, client, address) in &ended {
            self.remove(*hash, *client, address);
        }
        ended.len()
    }

    /// Takes a profile out; it is gone from the next checkpoint too.
    fn remove(&mut self, hash: u64, client: u32, address: &[u8]) -> bool {
        let Ok(entry) = self.profiles.find_entry(hash, |packed| packed.is(client, address)) else { return false };
        let (packed, _) = entry.remove();
        self.bytes -= packed.len();
        self.gone.push(stored::profile_key(client, address));
        true
    }
}

#[cfg(test)]
mod tests;
