//! The fold: one event, one change of the partition's state. Total and deterministic.

use hashbrown::hash_table::Entry;
use serde::{Deserialize, Serialize};

use super::PartitionState;
use crate::affinity;
use crate::batch::BatchOpenedOutcome;
use crate::dedupe::EventKey;
use crate::event::{BatchRows, ClientSettings, Erase, Event, Update, Visit};
use crate::ids::Address;
use crate::limits;
use crate::packed::{Attribute, Draft, Head, Packed, key_hash};
use crate::session::Visits;
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

/// What a change does to a profile.
struct Change<'c, 'a> {
    /// Log time.
    at: LogTime,
    /// Event time: the caller's, but never after the log's.
    time: u64,
    create: bool,
    visit: Option<&'c Visit<'a>>,
    set: &'c [(&'a str, Option<&'a str>)],
    /// As `set`, each at a time of its own.
    timed: &'c [(u64, &'a str, &'a str)],
}

enum Changed {
    Created,
    Updated,
    NotFound,
    TooLarge,
}

impl PartitionState {
    /// Applies one event that the log stamped with `at`.
    pub fn apply(&mut self, at: LogTime, event: &Event<'_>) -> Outcome {
        match event {
            Event::Visit(event) => Outcome::Visit(self.visit(at, event)),
            Event::Update(event) => Outcome::Update(self.update(at, event)),
            Event::Erase(event) => Outcome::Erase { found: self.erase(at, event) },
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
        }
    }

    fn visit(&mut self, at: LogTime, event: &Visit<'_>) -> VisitOutcome {
        let client = self.clients.intern(event.client);
        if let Some(event_id) = event.event_id {
            let key = EventKey::new(client, if event.generated { "" } else { event.home }, event_id);
            if let Some(first) = self.event_ids.find(key) {
                let first_tnt_id = first.map(Into::into);
                return VisitOutcome { duplicate: true, first_tnt_id, ..VisitOutcome::default() };
            }
            let made_up = event.generated.then(|| Address::from_canonical(event.home).parts().1);
            self.event_ids.insert(key, at, made_up);
        }
        // Most visits have a handful of parameters; the copy is cheaper than a second form of events.
        let set: Vec<_> = event.profile.iter().map(|&(name, value)| (name, Some(value))).collect();
        let time = event_time(at, event.occurred_at);
        let timed = event.delivery.as_ref().map_or(&[][..], |delivery| &delivery.timed);
        let mut change = Change { at, time, create: true, visit: Some(event), set: &set, timed };
        let mut outcome = VisitOutcome::default();
        let changed = match self.change(client, event.home.as_bytes(), &change) {
            Changed::TooLarge => {
                outcome.attributes_refused = true;
                (change.set, change.timed) = (&[], &[]);
                self.change(client, event.home.as_bytes(), &change)
            }
            changed => changed,
        };
        outcome.created = matches!(changed, Changed::Created);
        outcome
    }

    fn update(&mut self, at: LogTime, event: &Update<'_>) -> UpdateOutcome {
        let client = self.clients.intern(event.client);
        if let Some(event_id) = event.event_id {
            let key = EventKey::new(client, event.address, event_id);
            if self.event_ids.find(key).is_some() {
                return UpdateOutcome::Duplicate;
            }
            self.event_ids.insert(key, at, None);
        }
        let unset = event.unset.iter().map(|&name| (name, None));
        let set: Vec<_> = event.set.iter().map(|&(name, value)| (name, Some(value))).chain(unset).collect();
        let time = event_time(at, event.occurred_at);
        let change = Change { at, time, create: false, visit: None, set: &set, timed: &[] };
        match self.change(client, event.address.as_bytes(), &change) {
            Changed::Created | Changed::Updated => UpdateOutcome::Updated,
            Changed::NotFound => UpdateOutcome::NotFound,
            Changed::TooLarge => UpdateOutcome::TooLarge,
        }
    }

    fn erase(&mut self, at: LogTime, event: &Erase<'_>) -> bool {
        let Some(client) = self.clients.find(event.client) else { return false };
        let found = self.profile(event.client, Address::from_canonical(event.address), at).is_some();
        let address = event.address.as_bytes();
        self.remove(key_hash(client, address), client, address);
        found
    }

    fn batch_rows(&mut self, at: LogTime, event: &BatchRows<'_>) -> bool {
        let client = self.clients.intern(event.client);
        let time = event.occurred_at.min(at.0);
        let mut part = self.batches.get(client, event.batch).map(|batch| batch.part).unwrap_or_default();
        if event.after > part.high_line {
            return false;
        }
        let mut address = String::new();
        let mut set = Vec::new();
        let mut refused = Vec::new();
        for row in &event.rows {
            if row.line <= part.high_line {
                continue;
            }
            part.high_line = row.line;
            address.clear();
            address.extend([event.kind, ":", row.id]);
            set.clear();
            let values = event.columns.iter().zip(&row.values);
            set.extend(values.filter_map(|(&name, value)| value.map(|value| (name, Some(value)))));
            set.extend(row.removed.iter().filter_map(|&i| event.columns.get(usize::from(i)).map(|&name| (name, None))));
            let change = Change { at, time, create: event.create, visit: None, set: &set, timed: &[] };
            match self.change(client, address.as_bytes(), &change) {
                Changed::Created => {
                    part.created += 1;
                    part.updated += 1;
                }
                Changed::Updated => part.updated += 1,
                Changed::NotFound => part.not_found += 1,
                Changed::TooLarge => {
                    part.failed += 1;
                    refused.push(row.line);
                }
            }
        }
        for line in refused {
            self.batches.add_row_error(client, event.batch, line, TOO_LARGE, at);
        }
        part.last_change = at.0;
        self.batches.entry(client, event.batch, at).part = part;
        true
    }

    fn client_settings(&mut self, at: LogTime, event: &ClientSettings<'_>) {
        let client = self.clients.intern(event.client);
        self.clients.set_lifetime(client, at, event.lifetime_days);
        self.none_ends_before = 0;
    }

    /// Finds the profile, or makes one, and changes it; all or nothing.
    fn change(&mut self, client: u32, address: &[u8], change: &Change<'_, '_>) -> Changed {
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
            edit(&mut draft, names, change);
            draft.pack(client, address, scratch);
            let count = draft.attributes.iter().filter(|attribute| attribute.value.is_some()).count();
            // What takes away is never refused, so that a profile at its limit can be brought below it.
            let adds = change.set.iter().any(|(_, value)| value.is_some()) || !change.timed.is_empty();
            !adds || (scratch.len() <= limits::PROFILE_BYTES && count <= limits::ATTRIBUTES)
        };
        if !fits {
            return Changed::TooLarge;
        }
        match entry {
            Entry::Occupied(mut entry) => {
                let packed = entry.get_mut();
                self.bytes = self.bytes + scratch.len() - packed.len();
                packed.replace(scratch);
                if !packed.is_changed() {
                    packed.set_changed(true);
                    self.changed.push(hash);
                }
            }
            Entry::Vacant(entry) => {
                self.bytes += scratch.len();
                let mut packed = Packed::new(scratch);
                packed.set_changed(true);
                entry.insert(packed);
                self.changed.push(hash);
            }
        }
        self.none_ends_before = self.none_ends_before.min(ends_at);
        if is_new { Changed::Created } else { Changed::Updated }
    }
}

/// The reason a report gives for a row that a profile could not take.
const TOO_LARGE: &str = "the profile would exceed 64 KB or 1,000 attributes";

/// Event time: the caller's word, bounded by the log's (design, "The idea").
fn event_time(at: LogTime, occurred_at: Option<u64>) -> u64 {
    occurred_at.map_or(at.0, |time| time.min(at.0))
}

/// Makes the change in the draft.
fn edit<'a>(draft: &mut Draft<'a>, names: &mut crate::names::Names, change: &Change<'_, 'a>) {
    draft.active_at = change.at.0;
    draft.modified_at = change.at.0;
    if let Some(visit) = change.visit {
        let uncounted = visit.delivery.as_ref().is_some_and(|delivery| delivery.uncounted);
        let ended = match &mut draft.visits {
            _ if uncounted => false,
            None => {
                draft.visits = Some(Visits::first(change.time, visit.session_id));
                false
            }
            Some(visits) => visits.visit(change.time, visit.session_id),
        };
        if ended {
            affinity::halve(&mut draft.categories);
        }
        for &category in &visit.categories {
            affinity::view(&mut draft.categories, names.intern(category));
        }
        for &id in &visit.other_ids {
            if !draft.ids.contains(&id.as_bytes()) && draft.ids.len() < limits::OTHER_IDS {
                draft.ids.push(id.as_bytes());
            }
        }
    }
    let set = change.set.iter().map(|&(name, value)| (change.time, name, value));
    let timed = change.timed.iter().map(|&(time, name, value)| (time.min(change.at.0), name, Some(value)));
    for (time, name, value) in set.chain(timed) {
        let name = names.intern(name);
        let fresh = Attribute { name, time, value: value.map(str::as_bytes) };
        match draft.attributes.iter_mut().find(|attribute| attribute.name == name) {
            // Last writer wins by event time; at the same time the later in the log.
            Some(held) if held.time <= fresh.time => *held = fresh,
            Some(_) => {}
            None => draft.attributes.push(fresh),
        }
    }
    forget_removals(&mut draft.attributes);
}

/// Keeps at most [`limits::REMEMBERED_REMOVALS`] removals, the latest.
fn forget_removals(attributes: &mut Vec<Attribute<'_>>) {
    let removed = |attribute: &Attribute<'_>| attribute.value.is_none();
    let mut count = attributes.iter().filter(|attribute| removed(attribute)).count();
    while count > limits::REMEMBERED_REMOVALS {
        let oldest = attributes.iter().enumerate().filter(|(_, a)| removed(a)).min_by_key(|(_, a)| a.time);
        let Some((at, _)) = oldest else { return };
        attributes.remove(at);
        count -= 1;
    }
}
