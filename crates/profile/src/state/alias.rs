//! Aliases: addresses of this partition whose profile lives elsewhere (ADR 8).
//!
//! ```text
//! stored    epoch (varint) · set at (varint, ms since 1970) · the address it points to (text to the end)
//! ```
//! An empty text stands for an address whose profile is on its way back: it is a home, but must not be read yet.

use hashbrown::HashTable;

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
}

impl Alias {
    fn hash(&self) -> u64 {
        key_hash(self.client, self.address.as_bytes())
    }

    /// The address it points to, if it does.
    pub(crate) fn target(&self) -> Option<&str> {
        (!self.to.is_empty()).then_some(&*self.to)
    }

    pub(crate) fn key(&self) -> (u32, &str) {
        (self.client, &self.address)
    }

    pub(crate) fn stored(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.to.len());
        varint::put(&mut out, self.epoch);
        varint::put(&mut out, self.at);
        out.extend_from_slice(self.to.as_bytes());
        out
    }
}

/// The aliases of one partition.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    all: HashTable<Alias>,
    /// The highest epoch given.
    epoch: u64,
    /// Keys that changed since the last checkpoint.
    changed: Vec<(u32, Box<str>)>,
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

    /// Points `address` to `to` (empty: see [`Alias`]); returns the epoch.
    pub(crate) fn set(&mut self, client: u32, address: &str, to: &str, at: u64) -> u64 {
        self.epoch += 1;
        let alias = Alias { client, address: address.into(), to: to.into(), epoch: self.epoch, at };
        self.insert(alias);
        self.changed.push((client, address.into()));
        self.epoch
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

    /// Removes the alias of `address`, if it is still the one of `epoch`.
    pub(crate) fn remove(&mut self, client: u32, address: &str, epoch: u64) -> bool {
        let hash = key_hash(client, address.as_bytes());
        let meant = |alias: &Alias| alias.client == client && &*alias.address == address && alias.epoch == epoch;
        let Ok(entry) = self.all.find_entry(hash, meant) else { return false };
        entry.remove();
        self.changed.push((client, address.into()));
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
    pub(crate) fn take_changed(&mut self) -> Vec<(u32, Box<str>)> {
        std::mem::take(&mut self.changed)
    }

    /// The checkpoint that took this key was not written.
    pub(crate) fn put_back(&mut self, client: u32, address: &str) {
        self.changed.push((client, address.into()));
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
        let (epoch, at) = (from.varint(), from.varint());
        let Ok(to) = std::str::from_utf8(from.rest()) else { return false };
        if from.is_bad() {
            return false;
        }
        self.insert(Alias { client, address: address.into(), to: to.into(), epoch, at });
        true
    }
}
