//! The fold: one event, one change of the partition's state. Total and deterministic.
//!
//! What concerns an address whose profile lives elsewhere, or is to, goes on as a message (walk.rs).

use hashbrown::hash_table::Entry;
use serde::{Deserialize, Serialize};

use super::PartitionState;
use super::edit::{Change, Via, edit, fits};
use super::message::{Saga, Walk};
use super::touched::Touch;
use crate::batch::{BatchOpenedOutcome, BatchPart};
use crate::dedupe::EventKey;
use crate::event::{BatchRow, BatchRows, ClientSettings, Erase, Event, Route, Update, Visit};
use crate::ids::Address;
use crate::packed::{Draft, Head, Packed, key_hash};
use crate::time::LogTime;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Of a visit.
    Visit(VisitOutcome),
    /// Of an update.
    Update(UpdateOutcome),
    /// Of an erasure.
    Erase {
        /// Whether there was a profile.
        found: bool,
    },
    /// Of the head of a batch.
    BatchOpened(BatchOpenedOutcome),
    /// Of rows of a batch.
    BatchRows {
        /// Whether they follow what this partition has seen of the batch; if not, none was applied.
        follow: bool,
    },
    /// Of an unlinking.
    Unlink {
        /// Whether the address was linked, by the alias that was meant.
        found: bool,
    },
    /// Of messages that arrived.
    Relayed {
        /// Number of the last one heard from that partition.
        heard: u64,
    },
    /// Not known yet, or to be found among [`PartitionState::completed`]: it is applied where the profile lives.
    Forwarded(Saga),
    /// Of anything that nobody asks about.
    Applied,
}

/// What became of a visit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitOutcome {
    /// Its event id was seen before: nothing changed.
    pub duplicate: bool,
    /// It made a new profile.
    pub created: bool,
    /// Its attributes would have made the profile too large: the visit was counted, none of them was stored.
    pub attributes_refused: bool,
    /// For a duplicate whose tntId was made up: the id that the first one got.
    pub first_tnt_id: Option<Box<str>>,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateOutcome {
    /// The profile has the values, except where it had newer ones.
    Updated,
    /// Its event id was seen before: nothing changed.
    Duplicate,
    /// No such profile: nothing changed.
    NotFound,
    /// The profile would have become too large: nothing changed.
    TooLarge,
}

pub(super) enum Changed {
    Created,
    Updated,
    NotFound,
    TooLarge,
}

impl PartitionState {
    /// Applies one event that the log stamped with `at`.
    pub fn apply(&mut self, at: LogTime, event: &Event<'_>) -> Outcome {
        self.completed.clear();
        self.touched.clear();
        self.message = 0;
        match event {
            Event::Visit(event) => self.visit(at, event),
            Event::Update(event) => self.update(at, event),
            Event::Erase(event) => self.erase(at, event),
            Event::BatchOpened(event) => {
                let client = self.clients.intern(event.client);
                Outcome::BatchOpened(self.batches.open(client, event, at))
            }
            Event::BatchRows(event) => Outcome::BatchRows { follow: self.batch_rows(at, event) },
            Event::BatchErrors(event) => {
                let client = self.clients.intern(event.client);
                self.batches.add_errors(client, event, at);
                Outcome::Applied
            }
            Event::BatchClosed(event) => {
                if let Some(client) = self.clients.find(event.client) {
                    self.batches.close(client, event, at);
                }
                Outcome::Applied
            }
            Event::ClientSettings(event) => {
                self.client_settings(at, event);
                Outcome::Applied
            }
            Event::Unlink(event) => self.unlink(at, event),
            Event::DropAlias(event) => {
                self.drop_alias(at, event);
                Outcome::Applied
            }
            Event::Relay(event) => self.relay(at, event),
            Event::Delivered(event) => {
                self.outbox.delivered(event.to, event.upto);
                Outcome::Applied
            }
        }
    }

    fn visit(&mut self, at: LogTime, event: &Visit<'_>) -> Outcome {
        let client = self.clients.intern(event.client);
        if event.route == Route::Direct {
            let via = Via { address: event.via, under: "", epoch: None };
            // Whoever sent it here may have looked at its addresses at different moments.
            let is_here = |id: &str| id == event.home || self.holds(client, event.home, id, None, at);
            if is_here(event.via) && event.other_ids.iter().all(|id| is_here(id)) {
                return Outcome::Visit(self.visit_here(at, client, event.home, event, None, Some(via)));
            }
            return self.begin(at, event.client, event.via, walk(at, event, event.via, None));
        }
        let mut duplicate: Option<Box<str>> = None;
        if let Some(event_id) = event.event_id {
            let key = EventKey::visit(client, if event.generated { "" } else { event.home }, event_id);
            if let Some(first) = self.event_ids.find(key) {
                duplicate = Some(first.map_or(Box::default(), Box::from));
            } else {
                let made_up = event.generated.then(|| Address::from_canonical(event.home).parts().1);
                self.event_ids.insert(key, at, made_up);
            }
        }
        let first_home = duplicate.as_deref().filter(|id: &&str| !id.is_empty()).map(|id| ["tnt:", id].concat());
        let home = first_home.as_deref().unwrap_or(event.home);
        let links = event.route == Route::Enter && !event.other_ids.is_empty();
        if links || self.aliases.get(client, home).is_some() {
            return self.begin(at, event.client, home, walk(at, event, home, duplicate));
        }
        if let Some(first) = duplicate {
            return Outcome::Visit(VisitOutcome::duplicate(first));
        }
        Outcome::Visit(self.visit_here(at, client, home, event, None, None))
    }

    /// Applies a visit to the profile that lives at `home`. `time` is that of its first try, if it has come a long way.
    pub(super) fn visit_here(
        &mut self,
        at: LogTime,
        client: u32,
        home: &str,
        event: &Visit<'_>,
        time: Option<u64>,
        via: Option<Via<'_>>,
    ) -> VisitOutcome {
        // Most visits have a handful of parameters; the copy is cheaper than a second form of events.
        let set: Vec<_> = event.profile.iter().map(|&(name, value)| (name, Some(value))).collect();
        let first_try = time;
        let time = time.unwrap_or_else(|| event_time(at, event.occurred_at)).min(at.0);
        let timed = event.delivery.as_ref().map_or(&[][..], |delivery| &delivery.timed);
        let mut change = Change { at, time, create: true, visit: Some(event), set: &set, timed, via };
        let mut outcome = VisitOutcome::default();
        let changed = match self.change(client, home.as_bytes(), &change) {
            Changed::TooLarge => {
                outcome.attributes_refused = true;
                (change.set, change.timed) = (&[], &[]);
                self.change(client, home.as_bytes(), &change)
            }
            changed => changed,
        };
        outcome.created = matches!(changed, Changed::Created);
        let came = self.came(first_try, via);
        self.touch(client, home, Touch::Visit { created: outcome.created, came });
        outcome
    }

    fn update(&mut self, at: LogTime, event: &Update<'_>) -> Outcome {
        let client = self.clients.intern(event.client);
        let walk = |address: &str, duplicate: bool| Walk {
            next: Vec::new(),
            named: vec![address.into()],
            via: address.into(),
            time: event_time(at, event.occurred_at),
            joined: Vec::new(),
            event: encoded(&Event::Update(event.clone())),
            duplicate: duplicate.then(Box::default),
            turns: 0,
        };
        if event.route == Route::Direct {
            let via = Via { address: event.via, under: "", epoch: None };
            if self.holds(client, event.address, event.via, None, at) {
                return Outcome::Update(self.update_here(at, client, event.address, event, None, Some(via)));
            }
            return self.begin(at, event.client, event.via, walk(event.via, false));
        }
        let mut duplicate = false;
        if let Some(event_id) = event.event_id {
            let key = EventKey::update(client, event.address, event_id);
            duplicate = self.event_ids.find(key).is_some();
            if !duplicate {
                self.event_ids.insert(key, at, None);
            }
        }
        if self.aliases.get(client, event.address).is_some() {
            return self.begin(at, event.client, event.address, walk(event.address, duplicate));
        }
        if duplicate {
            return Outcome::Update(UpdateOutcome::Duplicate);
        }
        Outcome::Update(self.update_here(at, client, event.address, event, None, None))
    }

    /// Applies an update to the profile that lives at `home`.
    pub(super) fn update_here(
        &mut self,
        at: LogTime,
        client: u32,
        home: &str,
        event: &Update<'_>,
        time: Option<u64>,
        via: Option<Via<'_>>,
    ) -> UpdateOutcome {
        let unset = event.unset.iter().map(|&name| (name, None));
        let set: Vec<_> = event.set.iter().map(|&(name, value)| (name, Some(value))).chain(unset).collect();
        let came = self.came(time, via);
        let time = time.unwrap_or_else(|| event_time(at, event.occurred_at)).min(at.0);
        let change = Change { at, time, create: false, visit: None, set: &set, timed: &[], via };
        match self.change(client, home.as_bytes(), &change) {
            Changed::Created | Changed::Updated => {
                self.touch(client, home, Touch::Update { came });
                UpdateOutcome::Updated
            }
            Changed::NotFound => UpdateOutcome::NotFound,
            Changed::TooLarge => UpdateOutcome::TooLarge,
        }
    }

    fn erase(&mut self, at: LogTime, event: &Erase<'_>) -> Outcome {
        let client = self.clients.intern(event.client);
        if self.aliases.get(client, event.address).is_none() {
            return Outcome::Erase { found: self.erase_here(at, client, event.address) };
        }
        let walk = Walk {
            next: Vec::new(),
            named: vec![event.address.into()],
            via: event.address.into(),
            time: at.0,
            joined: Vec::new(),
            event: encoded(&Event::Erase(event.clone())),
            duplicate: None,
            turns: 0,
        };
        self.begin(at, event.client, event.address, walk)
    }

    fn batch_rows(&mut self, at: LogTime, event: &BatchRows<'_>) -> bool {
        let client = self.clients.intern(event.client);
        let mut part = self.batches.get(client, event.batch).map(|batch| batch.part).unwrap_or_default();
        if event.after > part.high_line {
            return false;
        }
        let mut address = String::new();
        let (mut refused, mut elsewhere) = (Vec::new(), Vec::new());
        for row in &event.rows {
            if row.line <= part.high_line {
                continue;
            }
            part.high_line = row.line;
            address.clear();
            address.extend([event.kind, ":", row.id]);
            if self.aliases.get(client, &address).is_some() {
                elsewhere.push((address.clone(), row));
            } else if !part.count(&self.row_here(at, client, &address, event, row, (event.create, None, None))) {
                refused.push(row.line);
            }
        }
        for line in refused {
            self.batches.add_row_error(client, event.batch, line, TOO_LARGE, at);
        }
        part.last_change = at.0;
        self.batches.entry(client, event.batch, at).part = part;
        for (address, row) in elsewhere {
            let one = BatchRows { rows: vec![row.clone()], ..event.clone() };
            let walk = Walk {
                next: Vec::new(),
                named: vec![address.as_str().into()],
                via: address.as_str().into(),
                time: event.occurred_at.min(at.0),
                joined: Vec::new(),
                event: encoded(&Event::BatchRows(one)),
                duplicate: None,
                turns: 0,
            };
            self.send(at, event.client, &address, walk);
        }
        true
    }

    /// Applies a row of a bulk file to the profile that lives at `home`: whether it may make one, and when it was sent on its way
    /// and by which address it came, if it had to go to another one.
    pub(super) fn row_here(
        &mut self,
        at: LogTime,
        client: u32,
        home: &str,
        event: &BatchRows<'_>,
        row: &BatchRow<'_>,
        (create, way, via): (bool, Option<u64>, Option<Via<'_>>),
    ) -> Changed {
        let time = event.occurred_at.min(at.0);
        let values = event.columns.iter().zip(&row.values);
        let mut set: Vec<_> = values.filter_map(|(&name, value)| value.map(|value| (name, Some(value)))).collect();
        set.extend(row.removed.iter().filter_map(|&i| event.columns.get(usize::from(i)).map(|&name| (name, None))));
        let change = Change { at, time, create, visit: None, set: &set, timed: &[], via };
        let changed = self.change(client, home.as_bytes(), &change);
        if matches!(changed, Changed::Created | Changed::Updated) {
            let came = self.came(way, via);
            self.touch(client, home, Touch::Row { line: row.line, came });
        }
        changed
    }

    /// Applies rows that came from another partition, and counts them in this one.
    pub(super) fn rows_here(
        &mut self,
        at: LogTime,
        client: u32,
        home: &str,
        event: &BatchRows<'_>,
        via: Option<Via<'_>>,
    ) {
        for row in &event.rows {
            let changed = self.row_here(at, client, home, event, row, (event.create, Some(event.occurred_at), via));
            let part = &mut self.batches.entry(client, event.batch, at).part;
            if !part.count(&changed) {
                self.batches.add_row_error(client, event.batch, row.line, TOO_LARGE, at);
            }
        }
    }

    fn client_settings(&mut self, at: LogTime, event: &ClientSettings<'_>) {
        let client = self.clients.intern(event.client);
        self.clients.set_lifetime(client, at, event.lifetime_days);
        self.none_ends_before = 0;
    }

    /// Finds the profile, or makes one, and changes it; all or nothing.
    pub(super) fn change(&mut self, client: u32, address: &[u8], change: &Change<'_, '_>) -> Changed {
        let hash = key_hash(client, address);
        let Self { profiles, names, clients, scratch, .. } = self;
        let Some(settings) = clients.get(client) else { return Changed::NotFound };
        let ends_at = settings.ends_at(change.at.0);
        let entry = profiles.entry(hash, |packed| packed.is(client, address), Packed::hash);
        let lives = |head: &Head<'_>| change.at.0 < settings.ends_at(head.active_at);
        let old = match &entry {
            Entry::Occupied(entry) => Some(entry.get().head()).filter(lives),
            Entry::Vacant(_) => None,
        };
        let is_new = old.is_none();
        if is_new && !change.create {
            return Changed::NotFound;
        }
        // Borrowed from the entry's bytes, which stay as they are until the packed form is whole.
        let fits = {
            let mut draft = old.map_or_else(|| Draft::created(change.at.0), |head| head.draft());
            edit(&mut draft, names, address, change);
            draft.pack(client, address, scratch);
            // What takes away is never refused, so that a profile at its limit can be brought below it.
            let adds = change.set.iter().any(|(_, value)| value.is_some()) || !change.timed.is_empty();
            !adds || fits(&draft, scratch.len())
        };
        if !fits {
            return Changed::TooLarge;
        }
        store(entry, scratch, hash, &mut self.bytes, &mut self.changed);
        self.none_ends_before = self.none_ends_before.min(ends_at);
        if is_new { Changed::Created } else { Changed::Updated }
    }
}

/// Puts the packed form of a profile into its place.
pub(super) fn store(
    entry: Entry<'_, Packed>,
    packed_form: &[u8],
    hash: u64,
    bytes: &mut usize,
    changed: &mut Vec<u64>,
) {
    match entry {
        Entry::Occupied(mut entry) => {
            let packed = entry.get_mut();
            *bytes = *bytes + packed_form.len() - packed.len();
            packed.replace(packed_form);
            if !packed.is_changed() {
                packed.set_changed(true);
                changed.push(hash);
            }
        }
        Entry::Vacant(entry) => {
            *bytes += packed_form.len();
            let mut packed = Packed::new(packed_form);
            packed.set_changed(true);
            entry.insert(packed);
            changed.push(hash);
        }
    }
}

impl BatchPart {
    /// Counts what became of a row; says whether the profile took it, or there was none.
    fn count(&mut self, changed: &Changed) -> bool {
        match changed {
            Changed::Created => {
                self.created += 1;
                self.updated += 1;
            }
            Changed::Updated => self.updated += 1,
            Changed::NotFound => self.not_found += 1,
            Changed::TooLarge => {
                self.failed += 1;
                return false;
            }
        }
        true
    }
}

/// The reason a report gives for a row that a profile could not take.
const TOO_LARGE: &str = "the profile would exceed 64 KB or 1,000 attributes";

impl VisitOutcome {
    /// Of an event that was seen before; `first` is the tntId that was made up then, or empty.
    pub(super) fn duplicate(first: Box<str>) -> Self {
        Self { duplicate: true, first_tnt_id: Some(first).filter(|id| !id.is_empty()), ..Self::default() }
    }
}

/// Event time: the caller's word, bounded by the log's (design, "The idea").
fn event_time(at: LogTime, occurred_at: Option<u64>) -> u64 {
    occurred_at.map_or(at.0, |time| time.min(at.0))
}

fn encoded(event: &Event<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    bytes
}

/// A visit that sets out from the lowest address it named.
fn walk(at: LogTime, event: &Visit<'_>, from: &str, duplicate: Option<Box<str>>) -> Walk {
    // What was done before is not done again: a duplicate only looks for the profile.
    let links = event.route != Route::Plain && duplicate.is_none();
    let next: Vec<Box<str>> = if links { event.other_ids.iter().map(|&id| id.into()).collect() } else { Vec::new() };
    Walk {
        named: std::iter::once(from.into()).chain(next.iter().cloned()).collect(),
        next,
        via: from.into(),
        time: event_time(at, event.occurred_at),
        joined: Vec::new(),
        event: encoded(&Event::Visit(event.clone())),
        duplicate,
        turns: 0,
    }
}
