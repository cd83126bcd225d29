//! The state as key–value pairs: what a checkpoint holds, and the digest by which replicas compare.
//!
//! ```text
//! key                                         value
//! 1 'a' client (u32, big-endian) address      an alias (alias.rs)
//! 1 'c'                                       clients (client.rs)
//! 1 'm'                                       numbers of messages, epochs and walks (outbox.rs)
//! 1 'o' partition (u16) number (u64, b.-e.)   a message for another partition (message.rs)
//! 1 'n' id (u32, big-endian)                  text of an interned name
//! 1 'e' number (u64, big-endian)              an event id (dedupe.rs)
//! 1 'b' client (u32, big-endian) batch id     a batch (batch.rs)
//! 1 'p' client (u32, big-endian) address      a profile (packed.rs)
//! ```
//! The first byte is the version of the layout.

use xxhash_rust::xxh3::Xxh3Default;

use super::PartitionState;
use super::outbox::OutboxChanges;
use crate::batch;
use crate::client::Clients;
use crate::packed::Packed;
use crate::time::LogTime;

const VERSION: u8 = 1;
const CLIENTS: [u8; 2] = [VERSION, b'c'];
const NAME: [u8; 2] = [VERSION, b'n'];
const EVENT_ID: [u8; 2] = [VERSION, b'e'];
const BATCH: [u8; 2] = [VERSION, b'b'];
const PROFILE: [u8; 2] = [VERSION, b'p'];
pub(super) const ALIAS: [u8; 2] = [VERSION, b'a'];
pub(super) const NUMBERS: [u8; 2] = [VERSION, b'm'];
pub(super) const MESSAGE: [u8; 2] = [VERSION, b'o'];

/// What changed since the last time it was taken. Deletes come before puts: a key may be in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys to remove.
    pub deletes: Vec<Vec<u8>>,
    /// Pairs to write.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A pair of a checkpoint that no version of Cameo wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The layout version in the key is not known.
    #[error("the checkpoint has layout version {0}; this version of Cameo reads 1")]
    Version(u8),
    /// The value is damaged, or pairs are missing.
    #[error("the checkpoint's record {key} is damaged or out of order")]
    Damaged {
        /// The key, printable.
        key: String,
    },
}

pub(super) fn profile_key(client: u32, address: &[u8]) -> Vec<u8> {
    [&PROFILE, &client.to_be_bytes()[..], address].concat()
}

fn batch_key(key: &batch::BatchKey) -> Vec<u8> {
    [&BATCH, &key.0.to_be_bytes()[..], key.1.as_bytes()].concat()
}

fn alias_key(client: u32, address: &str) -> Vec<u8> {
    [&ALIAS, &client.to_be_bytes()[..], address.as_bytes()].concat()
}

fn message_key(to: u16, number: u64) -> Vec<u8> {
    [&MESSAGE, &to.to_be_bytes()[..], &number.to_be_bytes()[..]].concat()
}

pub(super) fn split_message(rest: &[u8]) -> Option<(u16, u64)> {
    let (to, number) = rest.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*to), u64::from_be_bytes(number.try_into().ok()?)))
}

fn number_key<const N: usize>(kind: [u8; 2], number: [u8; N]) -> Vec<u8> {
    [&kind, &number[..]].concat()
}

impl PartitionState {
    /// Everything that changed since the last call (or since [`Self::restore`]).
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes { deletes: std::mem::take(&mut self.gone), puts: Vec::new() };
        if std::mem::take(&mut self.clients.changed) {
            changes.puts.push((CLIENTS.to_vec(), self.clients.encode()));
        }
        let names = self.names.take_new();
        changes.puts.extend(names.map(|(id, text)| (number_key(NAME, id.to_be_bytes()), text.as_bytes().to_vec())));
        let (forgotten, added_from) = self.event_ids.take_changes();
        changes.deletes.extend(forgotten.map(|number| number_key(EVENT_ID, number.to_be_bytes())));
        let added = self.event_ids.stored(added_from);
        changes.puts.extend(added.map(|(number, value)| (number_key(EVENT_ID, number.to_be_bytes()), value)));
        let (batches, removed) = self.batches.take_changes();
        changes.deletes.extend(removed.iter().map(batch_key));
        changes.puts.extend(batches.into_iter().map(|(key, value)| (batch_key(&key), value)));
        for (client, address) in self.aliases.take_changed() {
            match self.aliases.get(client, &address) {
                Some(alias) => changes.puts.push((alias_key(client, &address), alias.stored())),
                None => changes.deletes.push(alias_key(client, &address)),
            }
        }
        let OutboxChanges { gone, added, counted } = self.outbox.take_changes();
        changes.deletes.extend(gone.into_iter().map(|(to, number)| message_key(to, number)));
        changes.puts.extend(added.into_iter().map(|(to, number, message)| (message_key(to, number), message)));
        let numbers = (self.aliases.epoch(), self.sagas);
        if counted || numbers != self.saved_numbers {
            self.saved_numbers = numbers;
            changes.puts.push((NUMBERS.to_vec(), self.outbox.counters(numbers.0, numbers.1)));
        }
        changes.puts.reserve(self.changed.len());
        for hash in std::mem::take(&mut self.changed) {
            for packed in self.profiles.iter_hash_mut(hash).filter(|packed| packed.is_changed()) {
                // The table's iterator goes by a part of the hash only.
                if packed.hash() != hash {
                    continue;
                }
                packed.set_changed(false);
                let head = packed.head();
                let key = profile_key(head.client, head.address);
                let mut value = Vec::with_capacity(packed.len());
                packed.stored(&mut value);
                changes.puts.push((key, value));
            }
        }
        changes
    }

    /// Every pair, whatever has changed, in rising order of their keys: what a checkpoint of now would hold.
    #[must_use]
    pub fn all_pairs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = vec![(CLIENTS.to_vec(), self.clients.encode())];
        let names = self.names.all().zip(0u32..);
        pairs.extend(names.map(|(text, id)| (number_key(NAME, id.to_be_bytes()), text.as_bytes().to_vec())));
        let event_ids = self.event_ids.stored(0);
        pairs.extend(event_ids.map(|(number, value)| (number_key(EVENT_ID, number.to_be_bytes()), value)));
        pairs.extend(self.batches.all().map(|(key, value)| (batch_key(key), batch::encode(value))));
        pairs.extend(self.aliases.iter().map(|alias| {
            let (client, address) = alias.key();
            (alias_key(client, address), alias.stored())
        }));
        pairs.push((NUMBERS.to_vec(), self.outbox.counters(self.aliases.epoch(), self.sagas)));
        pairs.extend(self.outbox.all().map(|(to, number, message)| (message_key(to, number), message.to_vec())));
        pairs.extend(self.profiles.iter().map(|packed| {
            let (head, mut value) = (packed.head(), Vec::with_capacity(packed.len()));
            packed.stored(&mut value);
            (profile_key(head.client, head.address), value)
        }));
        pairs.sort_unstable();
        pairs
    }

    /// The checkpoint that took `changes` could not be written: they count as changed again.
    pub fn put_back(&mut self, changes: Changes) {
        for (key, deleted) in changes
            .deletes
            .into_iter()
            .map(|key| (key, true))
            .chain(changes.puts.into_iter().map(|(key, _)| (key, false)))
        {
            let Some((kind, rest)) = key.split_first_chunk::<2>() else { continue };
            let number = rest.try_into().map(u64::from_be_bytes);
            match *kind {
                CLIENTS => self.clients.changed = true,
                NAME => self.names.put_back(rest.try_into().map_or(0, u32::from_be_bytes)),
                EVENT_ID => match number {
                    Ok(number) if deleted => self.event_ids.put_back(number, u64::MAX),
                    Ok(number) => self.event_ids.put_back(u64::MAX, number),
                    Err(_) => {}
                },
                BATCH => {
                    if let Some((client, batch)) = split_client(rest) {
                        self.batches.put_back((client, batch.into()));
                    }
                }
                ALIAS => {
                    if let Some((client, address)) = split_client(rest) {
                        self.aliases.put_back(client, address);
                    }
                }
                NUMBERS => self.outbox.put_back(None, deleted),
                MESSAGE => self.outbox.put_back(split_message(rest), deleted),
                _ if deleted => self.gone.push(key),
                _ => {
                    let Some((client, address)) = split_client(rest) else { continue };
                    let address = address.as_bytes();
                    let hash = crate::packed::key_hash(client, address);
                    if let Some(packed) = self.profiles.find_mut(hash, |packed| packed.is(client, address))
                        && !packed.is_changed()
                    {
                        packed.set_changed(true);
                        self.changed.push(hash);
                    }
                }
            }
        }
    }

    /// Takes one pair of a checkpoint. Pairs come in rising order of their keys, into a new state.
    ///
    /// # Errors
    /// When the pair is damaged or of an unknown version; the state is of no use then.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        match key.first() {
            Some(&VERSION) => {}
            other => return Err(RestoreError::Version(other.copied().unwrap_or_default())),
        }
        self.restore_pair(key, value).ok_or_else(|| RestoreError::Damaged { key: key.escape_ascii().to_string() })
    }

    fn restore_pair(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, rest) = key.split_first_chunk::<2>()?;
        let done = match *kind {
            CLIENTS => {
                self.clients = Clients::decode(value)?;
                true
            }
            NAME => {
                let id = u32::from_be_bytes(rest.try_into().ok()?);
                self.names.restore(id, std::str::from_utf8(value).ok()?)
            }
            EVENT_ID => self.event_ids.restore(u64::from_be_bytes(rest.try_into().ok()?), value),
            BATCH => {
                let (client, batch) = split_client(rest)?;
                self.batches.restore((client, batch.into()), value)
            }
            ALIAS => {
                let (client, address) = split_client(rest)?;
                self.aliases.restore(client, address, value)
            }
            NUMBERS => {
                let (epoch, sagas) = self.outbox.restore_counters(value)?;
                self.aliases.restore_epoch(epoch);
                (self.sagas, self.saved_numbers) = (sagas, (epoch, sagas));
                true
            }
            MESSAGE => {
                let (to, number) = split_message(rest)?;
                self.outbox.restore(to, number, value)
            }
            PROFILE => {
                let packed = Packed::from_stored(value)?;
                let (client, address) = split_client(rest)?;
                if !packed.is(client, address.as_bytes()) {
                    return None;
                }
                self.bytes += packed.len();
                self.profiles.insert_unique(packed.hash(), packed, Packed::hash);
                self.none_ends_before = 0;
                true
            }
            _ => false,
        };
        done.then_some(())
    }

    /// A digest of everything that events can tell apart, as of `now`: equal on every replica at the same position.
    /// What has ended does not count, so the sweeper does not show.
    #[must_use]
    pub fn digest(&self, now: LogTime) -> u128 {
        let mut hash = Xxh3Default::new();
        let mut add = |key: &[u8], value: &[u8]| {
            for part in [key, value] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        };
        add(&CLIENTS, &self.clients.encode());
        for (id, text) in self.names.all().zip(0u32..).map(|(text, id)| (id, text)) {
            add(&number_key(NAME, id.to_be_bytes()), text.as_bytes());
        }
        // The numbers of event ids start anew when all were forgotten before a restart, so they do not count.
        for (_, value) in self.event_ids.stored(0) {
            add(&EVENT_ID, &value);
        }
        for (key, value) in self.batches.all() {
            add(&batch_key(key), &batch::encode(value));
        }
        let mut aliases: Vec<_> = self.aliases.iter().collect();
        aliases.sort_unstable_by_key(|alias| alias.key());
        for alias in aliases {
            let (client, address) = alias.key();
            add(&alias_key(client, address), &alias.stored());
        }
        add(&NUMBERS, &self.outbox.counters(self.aliases.epoch(), self.sagas));
        for (to, number, message) in self.outbox.all() {
            add(&message_key(to, number), message);
        }
        let mut profiles: Vec<_> = self
            .profiles
            .iter()
            .filter(|packed| {
                let head = packed.head();
                self.clients.get(head.client).is_some_and(|client| now.0 < client.ends_at(head.active_at))
            })
            .map(|packed| {
                let mut value = Vec::with_capacity(packed.len());
                packed.stored(&mut value);
                value
            })
            .collect();
        profiles.sort_unstable();
        for value in profiles {
            add(&PROFILE, &value);
        }
        hash.digest128()
    }
}

fn split_client(rest: &[u8]) -> Option<(u32, &str)> {
    let (client, text) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*client), std::str::from_utf8(text).ok()?))
}
