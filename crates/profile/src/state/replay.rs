//! One profile's events folded once more, apart from all others: how the profile read at an earlier moment.
//!
//! Whoever replays gives the events that took effect on the profile ([`PartitionState::touched`]), and the settings of its
//! client from the beginning on, in the order of the log, with the log times they were folded at. Events that were dropped
//! (duplicates, rows seen before) are not given, so nothing is looked for in what the partition remembered of ids and batches.
//! What links did to the profile cannot be made again from one partition's log: a replay begins after it, with an image.
//!
//! The result is the very profile that the partition held, byte for byte: names have the numbers they have in the
//! partition (the table only grows).

use super::edit::Via;
use super::touched::{Came, CameVia};
use super::{PartitionState, stored};
use crate::event::{ClientSettings, Event, Route};
use crate::ids::Address;
use crate::time::LogTime;
use crate::view::ProfileRef;

/// A partition's state that has one profile at most.
#[derive(Debug)]
pub struct Replay {
    state: PartitionState,
    client: Box<str>,
    /// Canonical text of the address that the profile lives at.
    home: Box<str>,
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
        Some(Replay { state, client: client.into(), home: address.into() })
    }
}

impl Replay {
    /// Folds settings of the client.
    pub fn settle(&mut self, at: LogTime, settings: &ClientSettings<'_>) {
        self.state.apply(at, &Event::ClientSettings(settings.clone()));
    }

    /// Applies one event that took effect on the profile at `at`; of rows the one with this line. `came` is how it had come.
    pub fn apply(&mut self, at: LogTime, event: &Event<'_>, line: Option<u32>, came: Option<&Came>) {
        let client = self.state.clients.intern(&self.client);
        let home = std::mem::take(&mut self.home);
        let direct = |route: Route, address| match route {
            Route::Direct => Some(Via { address, under: "", epoch: None }),
            Route::Plain | Route::Enter => None,
        };
        let time = came.map(|came| came.time);
        let via = |direct| match came {
            Some(came) => came.via.as_ref().map(CameVia::as_via),
            None => direct,
        };
        match event {
            Event::Visit(event) => {
                self.state.visit_here(at, client, &home, event, time, via(direct(event.route, event.via)));
            }
            Event::Update(event) => {
                self.state.update_here(at, client, &home, event, time, via(direct(event.route, event.via)));
            }
            Event::BatchRows(event) => {
                for row in event.rows.iter().filter(|row| line == Some(row.line)) {
                    // It took effect, so it was allowed to.
                    self.state.row_here(at, client, &home, event, row, (true, None, via(None)));
                }
            }
            _ => {}
        }
        self.state.touched.clear();
        self.home = home;
    }

    /// Whether the profile held an address by an alias of this epoch at `now`.
    #[must_use]
    pub fn holds(&self, address: &str, epoch: u64, now: LogTime) -> bool {
        let client = self.state.clients.find(&self.client);
        client.is_some_and(|client| self.state.holds(client, &self.home, address, Some(epoch), now))
    }

    /// The profile as it read at `now`, which is not before the last event.
    #[must_use]
    pub fn profile(&self, now: LogTime) -> Option<ProfileRef<'_>> {
        self.state.profile(&self.client, Address::from_canonical(&self.home), now)
    }
}
