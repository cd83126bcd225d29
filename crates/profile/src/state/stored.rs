//! The state as key–value pairs: what a checkpoint holds, and the digest by which replicas compare.
//!
//! ```text
//! key                                         value
//! 1 'c'                                       clients (client.rs)
//! 1 'n' id (u32, big-endian)                  text of an interned name
//! 1 'e' number (u64, big-endian)              an event id (dedupe.rs)
//! 1 'b' client (u32, big-endian) batch id     a batch (batch.rs)
//! 1 'p' client (u32, big-endian) address      a profile (packed.rs)
//! ```
//! The first byte is the version of the layout.

use xxhash_rust::xxh3::Xxh3Default;

use super::PartitionState;
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
