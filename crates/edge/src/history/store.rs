//! The index as it stands in the checkpoint's database, in a keyspace of its own.
//!
//! ```text
//! key                                                            value
//! partition (u16, big-endian) 'm'                                MessagePack array: format, position, log time, gaps
//! partition 'p' client (length u8, text) address 0 'e' position  entries (chunk.rs), position of the first one
//!   …                                            0 'f' 0         floor: position, log time (u64 each, big-endian)
//!   …                                            0 'i' position  image: log time (u64), the profile's bytes, or none
//! ```
//! Positions are u64, big-endian. Canonical addresses have no control characters, so the zero ends them.

use std::collections::{HashMap, HashSet};

use cameo_profile::state::Touch;
use cameo_profile::{LogTime, Partition, Position};
use fjall::{Keyspace, OwnedWriteBatch};
use serde::{Deserialize, Serialize};

use super::forget::Forgotten;
use super::pending::{Noted, Notes};
use super::{Entry, Floor, Gap, Image, What, chunk};

/// Name of the keyspace.
pub(crate) const KEYSPACE: &str = "history";
/// 1: what links do was not noted, so all that it has is as good as missing where earlier moments are asked for.
const FORMAT: u8 = 2;

const MARK: u8 = b'm';
const PROFILE: u8 = b'p';
const ENTRIES: u8 = b'e';
const FLOOR: u8 = b'f';
const IMAGE: u8 = b'i';

/// Bytes of an image's record before those of the profile.
const IMAGE_HEAD: usize = 8;

/// Why the index cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// The database does not read.
    #[error("the index cannot be read")]
    Database(#[from] fjall::Error),
    /// A record is not what was written.
    #[error("the index is damaged at {0}")]
    Damaged(String),
}

/// Up to where a partition is in the index.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    format: u8,
    position: u64,
    at_ms: u64,
    gaps: Vec<Gap>,
}

/// What the index has of a profile.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// In the order of the log.
    pub(crate) entries: Vec<Entry>,
    pub(crate) floor: Option<Floor>,
    /// In the order of the log.
    pub(crate) images: Vec<Image>,
    pub(crate) gaps: Vec<Gap>,
}

/// A stored record of a profile.
pub(super) enum Record {
    Entries(Vec<Entry>),
    Floor(Floor),
    Image(Image),
}

/// An image to be stored with a checkpoint.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) client: String,
    pub(crate) address: String,
    pub(crate) bytes: Vec<u8>,
}

fn mark_key(partition: Partition) -> [u8; 3] {
    let [high, low] = partition.0.to_be_bytes();
    [high, low, MARK]
}

/// What all records of a profile begin with.
pub(super) fn prefix(partition: Partition, client: &str, address: &str) -> Vec<u8> {
    // A client code has 64 characters at most (limits.rs).
    let length = [client.len() as u8];
    [&partition.0.to_be_bytes()[..], &[PROFILE], &length, client.as_bytes(), address.as_bytes(), &[0]].concat()
}

fn key(prefix: &[u8], kind: u8, position: Position) -> Vec<u8> {
    [prefix, &[kind], &position.0.to_be_bytes()].concat()
}

pub(super) fn entries_key(prefix: &[u8], first: Position) -> Vec<u8> {
    key(prefix, ENTRIES, first)
}

pub(super) fn floor_pair(prefix: &[u8], floor: Floor) -> (Vec<u8>, Vec<u8>) {
    let value = [floor.position.0.to_be_bytes(), floor.at.0.to_be_bytes()].concat();
    (key(prefix, FLOOR, Position::START), value)
}

/// Where the keys of all profiles of a log begin.
pub(super) fn is_profile(key: &[u8]) -> bool {
    key.get(2) == Some(&PROFILE)
}

/// A profile's key taken apart: partition, client, address, and how long the prefix is.
pub(super) fn profile_of(key: &[u8]) -> Option<(Partition, &str, &str, usize)> {
    let (partition, rest) = key.split_first_chunk()?;
    let (&[_, length], rest) = rest.split_first_chunk()?;
    let (client, rest) = rest.split_at_checked(usize::from(length))?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let prefix = 4 + client.len() + end + 1;
    Some((Partition(u16::from_be_bytes(*partition)), text(client)?, text(&rest[..end])?, prefix))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// Reads a record; `rest` is its key after the prefix.
pub(super) fn record(rest: &[u8], value: &[u8]) -> Option<Record> {
    let (kind, rest) = rest.split_first()?;
    let position = Position(number(rest, 0)?);
    Some(match *kind {
        ENTRIES => Record::Entries(chunk::decode(value)?),
        FLOOR => Record::Floor(Floor { position: Position(number(value, 0)?), at: LogTime(number(value, 8)?) }),
        IMAGE => {
            let (at, length) = (LogTime(number(value, 0)?), value.len() - IMAGE_HEAD);
            Record::Image(Image { position, at, length, noted: None })
        }
        _ => return None,
    })
}

/// What is missing from the index of a partition whose checkpoint is at this place.
pub(crate) fn gaps(
    index: &Keyspace,
    partition: Partition,
    position: Position,
    at: LogTime,
) -> Result<Vec<Gap>, IndexError> {
    let mark: Mark = match index.get(mark_key(partition))? {
        None => Mark { format: FORMAT, ..Mark::default() },
        Some(mark) => rmp_serde::from_slice(&mark).map_err(|error| damaged(&mark_key(partition), &error))?,
    };
    let mut gaps = match mark.format {
        FORMAT => mark.gaps,
        1 if mark.position == 0 => Vec::new(),
        1 => vec![Gap { after: 0, after_ms: 0, upto: mark.position, upto_ms: mark.at_ms }],
        other => return Err(damaged(&mark_key(partition), &format!("its format is {other}"))),
    };
    // A checkpoint from before there was an index, or one that came as a snapshot.
    if mark.position < position.0 {
        let gap = Gap { after: mark.position, after_ms: mark.at_ms, upto: position.0, upto_ms: at.0 };
        gaps.push(gap);
    }
    Ok(gaps)
}

fn image_value(at: LogTime, bytes: &[u8]) -> Vec<u8> {
    [&at.0.to_be_bytes()[..], bytes].concat()
}

/// What notes say of one address.
#[derive(Debug, Default)]
struct Noticed {
    /// The last erasure, which what follows is after.
    erased: Option<(Position, u32, u32)>,
    entries: Vec<Entry>,
    images: Vec<Image>,
    floor: Option<Floor>,
    /// Profiles that it was linked to and that were erased.
    forgotten: Vec<Forgotten>,
}

impl Noticed {
    /// Adds what the index has, as far as it is not erased; images, which come last, only where they are asked for.
    fn recall(&mut self, index: &Keyspace, prefix: &[u8], images: bool) -> Result<(), IndexError> {
        let erased = self.erased;
        let end = [prefix, &[if images { IMAGE + 1 } else { IMAGE }]].concat();
        for pair in index.range(prefix.to_vec()..end) {
            let (key, value) = pair.into_inner()?;
            match record(&key[prefix.len()..], &value).ok_or_else(|| damaged(&key, &"no record"))? {
                Record::Entries(entries) => {
                    self.entries.extend(entries.into_iter().filter(|entry| Some(entry.order()) > erased));
                }
                Record::Floor(floor) => {
                    self.floor = Some(floor).filter(|floor| erased.is_none_or(|e| floor.position > e.0));
                }
                Record::Image(image) if erased.is_none_or(|erased| image.position >= erased.0) => {
                    self.images.push(image);
                }
                Record::Image(_) => {}
            }
        }
        Ok(())
    }

    /// Puts all in the order of the log, and lets go what is to be forgotten. Some may be there twice for a moment: written,
    /// and still among the notes.
    fn sort(&mut self, gaps: &[Gap]) {
        self.entries.sort_by_key(Entry::order);
        self.entries.dedup_by_key(|entry| entry.order());
        self.images.sort_by_key(|image| image.position);
        self.images.dedup_by_key(|image| image.position);
        for forgotten in std::mem::take(&mut self.forgotten) {
            forgotten.forget(&mut self.entries, &mut self.images, gaps);
        }
    }

    fn add(&mut self, noted: Option<Noted>) {
        match noted {
            Some(Noted::Entry(entry)) if entry.what == What::Touched(Touch::Erased) => {
                *self = Self { erased: Some(entry.order()), ..Self::default() };
            }
            Some(Noted::Entry(Entry { what: What::Touched(Touch::Forgotten { epoch, brought }), .. })) => {
                self.forgotten.push(Forgotten { epoch, brought });
            }
            Some(Noted::Entry(entry)) => self.entries.push(entry),
            Some(Noted::Image(image)) => self.images.push(image),
            None => {}
        }
    }
}

fn damaged(key: &[u8], what: &dyn std::fmt::Display) -> IndexError {
    IndexError::Damaged(format!("{}: {what}", key.escape_ascii()))
}

/// Says that nothing up to here is in the index of a partition, as its state came whole from somewhere else.
pub(crate) fn write_gap(
    batch: &mut OwnedWriteBatch,
    index: &Keyspace,
    partition: Partition,
    (position, at): (Position, LogTime),
) {
    let gap = Gap { after: 0, after_ms: 0, upto: position.0, upto_ms: at.0 };
    put_mark(batch, index, partition, (position, at), vec![gap]);
}

fn put_mark(
    batch: &mut OwnedWriteBatch,
    index: &Keyspace,
    partition: Partition,
    (position, at): (Position, LogTime),
    gaps: Vec<Gap>,
) {
    let mark = Mark { format: FORMAT, position: position.0, at_ms: at.0, gaps };
    let mark = rmp_serde::to_vec(&mark).expect("plain data always encodes into memory");
    batch.insert(index, mark_key(partition), mark);
}

/// Adds what a checkpoint has of a partition to its batch.
pub(crate) fn write(
    batch: &mut OwnedWriteBatch,
    index: &Keyspace,
    partition: Partition,
    (position, at): (Position, LogTime),
    notes: &Notes,
    images: &[NewImage],
) -> fjall::Result<()> {
    let mut profiles: HashMap<(&str, &str), Noticed> = HashMap::new();
    for note in notes.iter() {
        profiles.entry((note.client, note.address)).or_default().add(note.noted());
    }
    for ((client, address), mut noticed) in profiles {
        let prefix = prefix(partition, client, address);
        let begins_anew = noticed.erased.is_some() || !noticed.forgotten.is_empty();
        if begins_anew {
            let mut kept = HashSet::new();
            if !noticed.forgotten.is_empty() {
                match noticed.recall(index, &prefix, true) {
                    Err(IndexError::Database(error)) => return Err(error),
                    // What does not read is let go with the rest.
                    Err(IndexError::Damaged(_)) | Ok(()) => noticed.sort(&notes.gaps),
                }
                kept.extend(noticed.entries.first().map(|first| entries_key(&prefix, first.position)));
                kept.extend(noticed.images.iter().map(|image| key(&prefix, IMAGE, image.position)));
                kept.extend(noticed.floor.map(|floor| floor_pair(&prefix, floor).0));
            }
            for pair in index.prefix(&prefix) {
                let key = pair.key()?;
                if !kept.contains(&key[..]) {
                    batch.remove(index, key);
                }
            }
        }
        if let Some(first) = noticed.entries.first() {
            batch.insert(index, entries_key(&prefix, first.position), chunk::encode(&noticed.entries));
        }
        for image in &noticed.images {
            // What is in the index already stays as it is.
            let Some(noted) = &image.noted else { continue };
            batch.insert(index, key(&prefix, IMAGE, image.position), image_value(image.at, noted.bytes()));
        }
    }
    for image in images {
        let key = key(&prefix(partition, &image.client, &image.address), IMAGE, position);
        batch.insert(index, key, image_value(at, &image.bytes));
    }
    put_mark(batch, index, partition, (position, at), notes.gaps.clone());
    Ok(())
}

/// What is known of a profile: in the index, and in the notes that are not there yet. The notes were copied before. Without
/// images it has not to be read how long those are.
pub(crate) fn held(
    index: &Keyspace,
    partition: Partition,
    (client, address): (&str, &str),
    notes: &Notes,
    images: bool,
) -> Result<Held, IndexError> {
    let mut held = Held { gaps: notes.gaps.clone(), ..Held::default() };
    let mut noticed = Noticed::default();
    for note in notes.iter().filter(|note| note.address == address && note.client == client) {
        noticed.add(note.noted());
    }
    noticed.recall(index, &prefix(partition, client, address), images)?;
    noticed.sort(&notes.gaps);
    (held.entries, held.images, held.floor) = (noticed.entries, noticed.images, noticed.floor);
    Ok(held)
}

/// The bytes of an image; nothing when it has been let go since.
pub(crate) fn image(
    index: &Keyspace,
    partition: Partition,
    (client, address): (&str, &str),
    image: &Image,
) -> Result<Option<Vec<u8>>, IndexError> {
    if let Some(noted) = &image.noted {
        return Ok(Some(noted.bytes().to_vec()));
    }
    let value = index.get(key(&prefix(partition, client, address), IMAGE, image.position))?;
    Ok(value.and_then(|value| Some(value.get(IMAGE_HEAD..)?.to_vec())))
}
