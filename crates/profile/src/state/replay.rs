//! One profile's events folded once more, apart from all others: how the profile read at an earlier moment.
//!
//! Whoever replays gives the events that took effect on the profile, and the settings of its client from the beginning
//! on, in the order of the log, with the log times they were folded at. Events that were dropped (duplicates, rows seen before) are not given, so nothing is looked for in
//! what the partition remembered of ids and batches.
//!
//! The result is the very profile that the partition held, byte for byte: names have the numbers they have in the
//! partition (the table only grows).

use super::{PartitionState, stored};
use crate::event::{BatchRows, Event, Update, Visit};
use crate::ids::Address;
use crate::state::Outcome;
use crate::time::LogTime;
use crate::view::ProfileRef;

/// A partition's state that has one profile at most.
#[derive(Debug)]
pub struct Replay {
    state: PartitionState,
    client: Box<str>,
    /// Batches get names of their own: none has been seen.
    rows: u64,
}

impl PartitionState {
    /// The profile that lives at `address` as bytes to begin a [`Replay`] with; ended ones too, until they are swept.
    #[must_use]
    pub fn image(&self, client: &str, address: &str) -> Option<Vec<u8>> {
        let number = self.clients.find(client)?;
        let hash = crate::packed::key_hash(number, address.as_bytes());
        let packed = self.profiles.find(hash, |packed| packed.is(number, address.as_bytes()))?;
        let mut bytes = Vec::with_capacity(packed.len());
        packed.stored(&mut bytes);
        Some(bytes)
    }

    /// Begins with what lived at `address`, by an image, or with nothing; the settings come as events, except those that
    /// were made up to `settled`. `None` when nothing of the client is here, or the image is damaged.
    #[must_use]
    pub fn replay(
        &self,
        client: &str,
        address: &str,
        settled: Option<LogTime>,
        image: Option<&[u8]>,
    ) -> Option<Replay> {
        let number = self.clients.find(client)?;
        let mut state =
            Self { clients: self.clients.as_of(settled), names: self.names.clone(), ..Self::new(self.me, self.count) };
        if let Some(image) = image {
            state.restore(&stored::profile_key(number, address.as_bytes()), image).ok()?;
        }
        Some(Replay { state, client: client.into(), rows: 0 })
    }
}

impl Replay {
    /// Folds one event that took effect at `at`; of rows the one with this line.
    pub fn apply(&mut self, at: LogTime, event: &Event<'_>, line: Option<u32>) -> Outcome {
        match event {
            Event::Visit(event) => self.state.apply(at, &Event::Visit(Visit { event_id: None, ..event.clone() })),
            Event::Update(event) => self.state.apply(at, &Event::Update(Update { event_id: None, ..event.clone() })),
            Event::BatchRows(event) => {
                self.rows += 1;
                let batch = self.rows.to_string();
                let rows = event.rows.iter().filter(|row| line.is_none_or(|line| row.line == line)).cloned().collect();
                let event = BatchRows { batch: &batch, after: 0, rows, ..event.clone() };
                self.state.apply(at, &Event::BatchRows(event))
            }
            event => self.state.apply(at, event),
        }
    }

    /// The profile as it read at `now`, which is not before the last event.
    #[must_use]
    pub fn profile(&self, address: Address<'_>, now: LogTime) -> Option<ProfileRef<'_>> {
        self.state.profile(&self.client, address, now)
    }

    /// The bytes of the profile, to be compared.
    #[must_use]
    pub fn image(&self, address: &str) -> Option<Vec<u8>> {
        self.state.image(&self.client, address)
    }
}
