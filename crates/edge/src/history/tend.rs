//! Keeps the index small, beside the hot path: walks through it bit by bit, lets go what the log has trimmed and what is
//! too much for one profile, joins small records, and asks for images, without which an old profile could not be replayed
//! once the log has let go how it began.

use std::time::{Duration, Instant};

use cameo_profile::state::Lead;
use cameo_profile::time::DAY_MS;
use cameo_profile::{Address, LogTime, Partition, PartitionState, Position};
use fjall::{Database, Keyspace};

use super::store::{self, IndexError, Record};
use super::{ENTRIES_KEPT, Entry, Floor, IMAGE_BYTES_KEPT, IMAGES_KEPT, Image, chunk};

/// Records looked at in one step. Ours: some milliseconds.
const STEP_RECORDS: usize = 4096;
/// Records of a profile that are joined into few.
const JOIN_AT: usize = 16;
/// Entries of a joined record.
const CHUNK_ENTRIES: usize = 512;
/// How old the last image may get while events come, in ms of log time. Ours: of the log's retention this much at most is
/// lost to replays, at its old end.
const IMAGE_EVERY_MS: u64 = 7 * DAY_MS;
/// Events after the last image: what a replay reads from the log at most, about.
const IMAGE_ENTRIES: usize = 256;
/// Images asked for at a time.
const WANTED: usize = 1000;

/// A profile whose image the next checkpoint is to take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) partition: Partition,
    pub(crate) client: String,
    pub(crate) address: String,
}

/// What a step has to know of the replica.
pub(crate) trait Around {
    /// The first position that the log holds.
    fn first(&self, partition: Partition) -> Position;
    /// Now, by the log.
    fn now(&self) -> LogTime;
    /// Reads a partition, unless it has stopped.
    fn read<R>(&self, partition: Partition, read: impl FnOnce(&PartitionState) -> R) -> Option<R>;
}

/// Where the walk is.
#[derive(Debug, Default)]
pub(crate) struct Tend {
    /// The key it goes on from; `None` at the start.
    from: Option<Vec<u8>>,
    /// Images that are wanted, bounded.
    pub(crate) wanted: Vec<Wanted>,
}

/// All records of one profile.
#[derive(Default)]
struct Profile {
    prefix: Vec<u8>,
    partition: u16,
    client: String,
    address: String,
    keys: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    floor: Option<Floor>,
    images: Vec<Image>,
    image_keys: Vec<Vec<u8>>,
}

impl Tend {
    /// Goes on for about as long as it may, one step at least; true when the end was reached and the next walk begins anew.
    pub(crate) fn walk(
        &mut self,
        database: &Database,
        index: &Keyspace,
        around: &impl Around,
        budget: Duration,
    ) -> Result<bool, IndexError> {
        let began = Instant::now();
        loop {
            let ended = self.step(database, index, around)?;
            if ended || began.elapsed() >= budget {
                return Ok(ended);
            }
        }
    }

    /// Goes some way; true when the end was reached.
    fn step(&mut self, database: &Database, index: &Keyspace, around: &impl Around) -> Result<bool, IndexError> {
        let from = self.from.take().unwrap_or_default();
        let (mut seen, mut profile) = (0, Profile::default());
        for pair in index.range(from..) {
            let (key, value) = pair.into_inner()?;
            if !store::is_profile(&key) {
                continue;
            }
            if !profile.prefix.is_empty() && !key.starts_with(&profile.prefix) {
                self.settle(database, index, around, std::mem::take(&mut profile))?;
                if seen >= STEP_RECORDS {
                    self.from = Some(key.to_vec());
                    return Ok(false);
                }
            }
            seen += 1;
            profile.add(&key, &value).ok_or_else(|| IndexError::Damaged(key.escape_ascii().to_string()))?;
        }
        if !profile.prefix.is_empty() {
            self.settle(database, index, around, profile)?;
        }
        Ok(true)
    }

    fn settle(
        &mut self,
        database: &Database,
        index: &Keyspace,
        around: &impl Around,
        mut profile: Profile,
    ) -> Result<(), IndexError> {
        let partition = Partition(profile.partition);
        let now = around.now();
        let (client, address) = (profile.client.as_str(), Address::from_canonical(&profile.address));
        // What an address that leads elsewhere was before is told as long as that lives.
        let lives = around.read(partition, |state| {
            let leads = matches!(state.lead(client, address, None), Lead::Alias { .. });
            leads || state.profile(client, address, now).is_some()
        });
        // A partition that has stopped is left as it is.
        let Some(lives) = lives else { return Ok(()) };
        profile.entries.sort_by_key(Entry::order);
        profile.entries.dedup_by_key(|entry| entry.order());
        let trimmed = profile.entries.partition_point(|entry| entry.position < around.first(partition));
        let gone = trimmed.max(profile.entries.len().saturating_sub(ENTRIES_KEPT));
        // Settings of a client are few, and hold for ever.
        let gone = if profile.address.is_empty() { 0 } else { gone };
        let floor = gone.checked_sub(1).and_then(|last| profile.entries.get(last));
        let floor = floor.map(|entry| Floor { position: entry.position, at: entry.at });
        profile.entries.drain(..gone);
        let mut batch = database.batch();
        if gone > 0 || profile.keys.len() >= JOIN_AT {
            let pair = |entries: &[Entry]| {
                let first = entries.first()?;
                Some((store::entries_key(&profile.prefix, first.position), chunk::encode(entries)))
            };
            let chunks: Vec<_> = chunks(&profile.entries).filter_map(pair).collect();
            // A key is written or removed, never both.
            let is_kept = |key: &Vec<u8>| chunks.iter().any(|(kept, _)| kept == key);
            profile.keys.iter().filter(|key| !is_kept(key)).for_each(|key| batch.remove(index, key.as_slice()));
            chunks.into_iter().for_each(|(key, value)| batch.insert(index, key, value));
        }
        let floor = floor.or(profile.floor);
        let lost = floor.map_or(Position::START, |floor| floor.position);
        let surplus = surplus(&profile.images);
        for (n, (image, key)) in profile.images.iter().zip(&profile.image_keys).enumerate() {
            if n < surplus || image.position < lost || (!lives && profile.entries.is_empty()) {
                batch.remove(index, key.as_slice());
            }
        }
        if let Some(floor) = floor {
            let (key, value) = store::floor_pair(&profile.prefix, floor);
            if !lives && profile.entries.is_empty() {
                batch.remove(index, key);
            } else if profile.floor != Some(floor) {
                batch.insert(index, key, value);
            }
        }
        if !batch.is_empty() {
            batch.commit()?;
        }
        let image = profile.images.iter().rfind(|image| image.position >= lost);
        if lives && self.wanted.len() < WANTED && wants_image(&profile.entries, image, floor, now) {
            let Profile { client, address, .. } = profile;
            self.wanted.push(Wanted { partition, client, address });
        }
        Ok(())
    }
}

/// Entries in pieces, each with a first position of its own.
fn chunks(mut entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    std::iter::from_fn(move || {
        let at_least = &entries.get(..CHUNK_ENTRIES.min(entries.len()))?;
        let last = at_least.last()?.position;
        let length = at_least.len() + entries[at_least.len()..].partition_point(|entry| entry.position == last);
        let (chunk, rest) = entries.split_at(length);
        entries = rest;
        Some(chunk)
    })
}

/// How many images, from the oldest on, are too many.
fn surplus(images: &[Image]) -> usize {
    let mut bytes = 0;
    let fits = images.iter().rev().take(IMAGES_KEPT).enumerate().take_while(|(n, image)| {
        bytes += image.length;
        *n == 0 || bytes <= IMAGE_BYTES_KEPT
    });
    images.len() - fits.count()
}

/// Whether a replay would have to read too much, or will soon not be possible.
fn wants_image(entries: &[Entry], image: Option<&Image>, floor: Option<Floor>, now: LogTime) -> bool {
    let since = image.map_or(0, |image| entries.partition_point(|entry| entry.position <= image.position));
    let since = &entries[since..];
    let Some(first) = since.first() else { return false };
    let base = match (image, floor) {
        (Some(image), _) => image.at,
        (None, None) => first.at,
        (None, Some(_)) => return true,
    };
    since.len() >= IMAGE_ENTRIES || base.0 + IMAGE_EVERY_MS <= now.0
}

impl Profile {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if self.prefix.is_empty() {
            let (partition, client, address, length) = store::profile_of(key)?;
            self.partition = partition.0;
            (self.client, self.address) = (client.to_owned(), address.to_owned());
            self.prefix = key[..length].to_vec();
        }
        match store::record(&key[self.prefix.len()..], value)? {
            Record::Entries(entries) => {
                self.keys.push(key.to_vec());
                self.entries.extend(entries);
            }
            Record::Floor(floor) => self.floor = Some(floor),
            Record::Image(image) => {
                self.image_keys.push(key.to_vec());
                self.images.push(image);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use cameo_eventlog::Hint;
    use cameo_profile::state::Touch;

    use super::*;
    use crate::history::What;

    /// A log that still has everything, and a partition with nothing in it.
    #[derive(Default)]
    struct Still(PartitionState);

    impl Around for Still {
        fn first(&self, _: Partition) -> Position {
            Position::START
        }

        fn now(&self) -> LogTime {
            LogTime(1)
        }

        fn read<R>(&self, _: Partition, read: impl FnOnce(&PartitionState) -> R) -> Option<R> {
            Some(read(&self.0))
        }
    }

    #[test]
    fn of_images_the_latest_are_kept_as_far_as_count_and_bytes_allow() {
        let image = |length: &usize| Image { position: Position(1), at: LogTime(1), length: *length, noted: None };
        let surplus = |lengths: &[usize]| super::surplus(&lengths.iter().map(image).collect::<Vec<_>>());
        assert_eq!(surplus(&[]), 0);
        assert_eq!(surplus(&[1; IMAGES_KEPT + 3]), 3);
        let quarter = IMAGE_BYTES_KEPT / 4;
        assert_eq!(surplus(&[quarter; 6]), 2);
        assert_eq!(surplus(&[1, quarter, quarter, 1, quarter, quarter]), 2);
        assert_eq!(surplus(&[1, IMAGE_BYTES_KEPT + 1]), 1, "the last one stays");
    }

    #[test]
    fn a_walk_goes_as_far_as_its_time_allows() {
        let dir = tempfile::tempdir().unwrap();
        let (database, _) = cameo_store::open(&dir.path().join("checkpoint"), "state").unwrap();
        let index = database.keyspace(store::KEYSPACE, fjall::KeyspaceCreateOptions::default).unwrap();
        let what = What::Touched(Touch::Visit { created: true, came: None });
        let entry = Entry { position: Position(1), event: 0, change: 0, at: LogTime(1), hint: Hint(0), what };
        let value = chunk::encode(&[entry]);
        let mut batch = database.batch();
        for n in 0..2 * STEP_RECORDS + 1 {
            let prefix = store::prefix(Partition(0), "demo", &format!("tnt:{n}"));
            batch.insert(&index, store::entries_key(&prefix, Position(1)), value.clone());
        }
        batch.commit().unwrap();
        let (mut tend, still) = (Tend::default(), Still::default());
        let mut walk = |budget| tend.walk(&database, &index, &still, budget).unwrap();
        assert!(walk(Duration::from_secs(600)), "all of it at once");
        for ended in [false, false, true, false] {
            assert_eq!(walk(Duration::ZERO), ended, "a step at a time");
        }
    }
}
