//! Aliases: addresses of this partition whose profile lives elsewhere (ADR 8).
//!
//! An alias remembers the addresses that point to it, as a home does in its parts: so whatever comes along can be told from
//! what points to an address that had ended and begun anew.
//!
//! ```text
//! stored    epoch (varint) · set at (varint, ms since 1970) · the address it points to (length, text) ·
//!           count (varint) of those that point here, each: address (length, text), epoch (varint)
//!           messages that wait, until the end, each: length (varint), bytes
//! ```
//! An empty text stands for an address whose profile is on its way back: it is a home, but must not be read yet, and what
//! comes for it waits.

use std::collections::BTreeSet;

use hashbrown::HashTable;

use crate::limits;
use crate::packed::key_hash;
use crate::varint::{self, Reader};

/// Where an address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    client: u32,
    address: Box<str>,
    /// The address it points to; empty while a profile is on its way back.
    pub(crate) to: Box<str>,
    /// Rises in its partition with every change of any alias.
    pub(crate) epoch: u64,
    /// When it was set, log time in ms since 1970.
    pub(crate) at: u64,
    /// Addresses that point here, with the epochs of their aliases.
    pub(crate) held: Vec<(Box<str>, u64)>,
    /// Messages that wait until the profile is back.
    pub(crate) waiting: Vec<Box<[u8]>>,
}

impl Alias {
    fn hash(&self) -> u64 {
        key_hash(self.client, self.address.as_bytes())
    }

    /// The address it points to, if it does.
    pub(crate) fn target(&self) -> Option<&str> {
        (!self.to.is_empty()).then_some(&*self.to)
    }

    /// Whether another address points here by an alias of this epoch.
    pub(crate) fn holds(&self, other: &str, epoch: u64) -> bool {
        self.held.iter().any(|(held, of)| **held == *other && *of == epoch)
    }

    pub(crate) fn key(&self) -> (u32, &str) {
        (self.client, &self.address)
    }

    pub(crate) fn stored(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.to.len());
        varint::put(&mut out, self.epoch);
        varint::put(&mut out, self.at);
        varint::put_bytes(&mut out, self.to.as_bytes());
        varint::put(&mut out, self.held.len() as u64);
        for (address, epoch) in &self.held {
            varint::put_bytes(&mut out, address.as_bytes());
            varint::put(&mut out, *epoch);
        }
        self.waiting.iter().for_each(|message| varint::put_bytes(&mut out, message));
        out
    }
}

/// Bytes of an epoch and of what MessagePack writes around it, at most.
const HELD_OVERHEAD: usize = 16;

/// About how many bytes a message takes for these.
pub(crate) fn bytes_of(held: &[(Box<str>, u64)]) -> usize {
    held.iter().map(|(address, _)| address.len() + HELD_OVERHEAD).sum()
}

/// The aliases of one partition.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    all: HashTable<Alias>,
    /// The highest epoch given.
    epoch: u64,
    /// Keys that changed since the last checkpoint, each once: while no checkpoint can be written there are no more than
    /// aliases that were ever changed.
    changed: BTreeSet<(u32, Box<str>)>,
    /// Messages that wait, of all of them.
    waiting: usize,
}

impl Aliases {
    #[inline]
    pub(crate) fn get(&self, client: u32, address: &str) -> Option<&Alias> {
        if self.all.is_empty() {
            return None;
        }
        let hash = key_hash(client, address.as_bytes());
        self.all.find(hash, |alias| alias.client == client && &*alias.address == address)
    }

    /// Points `address` to `to` (empty: see [`Alias`]); returns the epoch. What pointed to it goes on to do so.
    pub(crate) fn set(&mut self, client: u32, address: &str, to: &str, at: u64) -> u64 {
        self.epoch += 1;
        let held = self.find_mut(client, address).map_or(Vec::new(), |alias| std::mem::take(&mut alias.held));
        let epoch = self.epoch;
        self.insert(Alias { client, address: address.into(), to: to.into(), epoch, at, held, waiting: Vec::new() });
        self.changed.insert((client, address.into()));
        self.epoch
    }

    fn find_mut(&mut self, client: u32, address: &str) -> Option<&mut Alias> {
        let hash = key_hash(client, address.as_bytes());
        self.all.find_mut(hash, |alias| alias.client == client && &*alias.address == address)
    }

    /// Remembers that another address points to this one. Past the limit the first that came is forgotten.
    pub(crate) fn hold(&mut self, client: u32, address: &str, other: &str, epoch: u64) {
        let Some(alias) = self.find_mut(client, address) else { return };
        if alias.held.last().is_some_and(|(held, of)| **held == *other && *of == epoch) {
            return;
        }
        alias.held.retain(|(held, _)| **held != *other);
        alias.held.push((other.into(), epoch));
        if alias.held.len() > limits::LINKED_ADDRESSES {
            alias.held.remove(0);
        }
        self.changed.insert((client, address.into()));
    }

    /// Forgets that another address points to this one, unless it does by a later alias.
    pub(crate) fn let_go(&mut self, client: u32, address: &str, other: &str, epoch: u64) {
        let Some(alias) = self.find_mut(client, address) else { return };
        let before = alias.held.len();
        alias.held.retain(|(held, of)| **held != *other || *of > epoch);
        if alias.held.len() < before {
            self.changed.insert((client, address.into()));
        }
    }

    fn insert(&mut self, alias: Alias) {
        let same = |held: &Alias| held.client == alias.client && held.address == alias.address;
        match self.all.find_mut(alias.hash(), same) {
            Some(held) => *held = alias,
            None => {
                self.all.insert_unique(alias.hash(), alias, Alias::hash);
            }
        }
    }

    /// Whether the profile of an address is on its way back to it.
    pub(crate) fn is_returning(&self, client: u32, address: &str) -> bool {
        self.get(client, address).is_some_and(|alias| alias.target().is_none())
    }

    /// Keeps a message for an address until its profile is back.
    pub(crate) fn wait(&mut self, client: u32, address: &str, message: Box<[u8]>) {
        let Some(alias) = self.find_mut(client, address) else { return };
        alias.waiting.push(message);
        self.waiting += 1;
        self.changed.insert((client, address.into()));
    }

    /// How many messages wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// The profile of an address is back: who points to it, and what has waited.
    pub(crate) fn returned(&mut self, client: u32, address: &str) -> Option<Alias> {
        let hash = key_hash(client, address.as_bytes());
        let meant = |alias: &Alias| alias.client == client && &*alias.address == address;
        let (alias, _) = self.all.find_entry(hash, meant).ok()?.remove();
        self.waiting -= alias.waiting.len();
        self.changed.insert((client, address.into()));
        Some(alias)
    }

    /// Removes the alias of `address`, if it is still the one of `epoch`.
    pub(crate) fn remove(&mut self, client: u32, address: &str, epoch: u64) -> bool {
        let hash = key_hash(client, address.as_bytes());
        let meant = |alias: &Alias| alias.client == client && &*alias.address == address && alias.epoch == epoch;
        let Ok(entry) = self.all.find_entry(hash, meant) else { return false };
        entry.remove();
        self.changed.insert((client, address.into()));
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Alias> {
        self.all.iter()
    }

    /// Keys that changed since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<(u32, Box<str>)> {
        std::mem::take(&mut self.changed)
    }

    /// The checkpoint that took this key was not written.
    pub(crate) fn put_back(&mut self, client: u32, address: &str) {
        self.changed.insert((client, address.into()));
    }

    /// The highest epoch that was ever given, which outlives its alias.
    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn restore_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Takes one from a checkpoint.
    pub(crate) fn restore(&mut self, client: u32, address: &str, bytes: &[u8]) -> bool {
        let mut from = Reader::new(bytes);
        let (epoch, at, to) = (from.varint(), from.varint(), from.text().into());
        let mut held = Vec::new();
        for _ in 0..from.varint() {
            held.push((from.text().into(), from.varint()));
            if from.is_bad() {
                return false;
            }
        }
        let mut waiting = Vec::new();
        while !from.is_empty() && !from.is_bad() {
            waiting.push(from.bytes().into());
        }
        if from.is_bad() {
            return false;
        }
        self.waiting += waiting.len();
        self.insert(Alias { client, address: address.into(), to, epoch, at, held, waiting });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Aliases;

    #[test]
    fn what_is_to_be_saved_does_not_grow_with_what_changes_nothing_or_the_same_again() {
        let mut aliases = Aliases::default();
        aliases.set(1, "ecid:e", "tp:p", 0);
        assert_eq!(aliases.take_changed().len(), 1);
        aliases.hold(1, "ecid:e", "tnt:a", 1);
        assert_eq!(aliases.take_changed().len(), 1);
        aliases.hold(1, "ecid:e", "tnt:a", 1);
        aliases.let_go(1, "ecid:e", "tnt:b", 1);
        assert!(aliases.take_changed().is_empty(), "nothing has changed");
        for _ in 0..1000 {
            aliases.hold(1, "ecid:e", "tnt:a", 1);
            aliases.hold(1, "ecid:e", "tnt:b", 2);
        }
        aliases.let_go(1, "ecid:e", "tnt:b", 2);
        assert_eq!(aliases.take_changed().len(), 1);
    }
}
