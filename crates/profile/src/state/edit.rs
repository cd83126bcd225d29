//! What an event changes in a draft of a profile: visits counted, attributes set and removed, in the part that they belong
//! to. Pure; whether there is a profile, and where, is the fold's business.

use super::moved;
use crate::affinity;
use crate::event::{Route, Visit};
use crate::limits;
use crate::names::Names;
use crate::packed::{Attribute, Draft};
use crate::session::Visits;
use crate::time::LogTime;

/// What a change does to a profile.
pub(super) struct Change<'c, 'a> {
    /// Log time.
    pub(super) at: LogTime,
    /// Event time: the caller's, but never after the log's.
    pub(super) time: u64,
    pub(super) create: bool,
    pub(super) visit: Option<&'c Visit<'a>>,
    pub(super) set: &'c [(&'a str, Option<&'a str>)],
    /// As `set`, each at a time of its own.
    pub(super) timed: &'c [(u64, &'a str, &'a str)],
    /// Whose part it is, when it is not the home's own.
    pub(super) via: Option<Via<'a>>,
}

/// The linked address by which an event came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Via<'a> {
    pub(super) address: &'a str,
    /// The linked address through which that one is linked; empty = to the home itself.
    pub(super) under: &'a str,
    /// Of its alias; nothing when the home is known to hold it.
    pub(super) epoch: Option<u64>,
}

/// Whether a profile may grow to this (TARGET_API §3). Of one with parts counts what it shows: what the addresses of a person
/// have in common would count many times otherwise.
pub(super) fn fits(draft: &Draft<'_>, packed: usize) -> bool {
    if draft.parts.is_empty() {
        let count = draft.attributes.iter().filter(|attribute| attribute.value.is_some()).count();
        return packed <= limits::PROFILE_BYTES && count <= limits::ATTRIBUTES;
    }
    let (mut count, mut bytes) = (0, 0);
    for attribute in draft.shown() {
        count += 1;
        bytes += attribute.value.map_or(0, <[u8]>::len) + SHOWN_OVERHEAD;
    }
    packed <= limits::LINKED_PROFILE_BYTES && bytes <= limits::PROFILE_BYTES && count <= limits::ATTRIBUTES
}

/// Bytes of name, time and length of an attribute, about.
const SHOWN_OVERHEAD: usize = 10;

/// Makes the change in the draft.
pub(super) fn edit<'a>(draft: &mut Draft<'a>, names: &mut Names, home: &[u8], change: &Change<'_, 'a>) {
    draft.active_at = change.at.0;
    draft.modified_at = change.at.0;
    let part = part_of(draft, home, change);
    if let Some(visit) = change.visit {
        count_visit(&mut draft.visits, &mut draft.categories, names, change.time, visit);
        if let Some(part) = draft.parts.get_mut(part) {
            count_visit(&mut part.visits, &mut part.categories, names, change.time, visit);
        }
        if visit.route == Route::Plain {
            for &id in &visit.other_ids {
                if !draft.ids.contains(&id.as_bytes()) && draft.ids.len() < limits::OTHER_IDS {
                    draft.ids.push(id.as_bytes());
                }
            }
        }
    }
    let linked = !draft.parts.is_empty();
    if let Some(part) = draft.parts.get_mut(part) {
        part.active_at = change.at.0;
    }
    let set = change.set.iter().map(|&(name, value)| (change.time, name, value));
    let timed = change.timed.iter().map(|&(time, name, value)| (time.min(change.at.0), name, Some(value)));
    for (time, name, value) in set.chain(timed) {
        let name = names.intern(name);
        draft.next_arrival += u64::from(linked);
        let (value, arrival) = (value.map(str::as_bytes), draft.next_arrival);
        let fresh = Attribute { name, time, value, part: part as u32, shadowed: false, arrival };
        let same = |held: &&mut Attribute<'_>| held.name == name && held.part == fresh.part && !held.shadowed;
        match draft.attributes.iter_mut().find(same) {
            // Last writer wins by event time; at the same time the later in the log.
            Some(held) if held.time <= fresh.time => *held = fresh,
            Some(_) => {}
            None => draft.attributes.push(fresh),
        }
        if linked && value.is_none() {
            // A removal is meant for the whole profile: what it outranks must not come to light when it is forgotten.
            draft.attributes.retain(|held| held.name != name || held.rank() >= fresh.rank());
        }
    }
    forget_removals(&mut draft.attributes);
}

/// Whose part of the profile a change is; 0 is the home's own, and the only one while nothing is linked.
fn part_of<'a>(draft: &mut Draft<'a>, home: &[u8], change: &Change<'_, 'a>) -> usize {
    match change.via {
        Some(via) if via.address.as_bytes() != home => match via.epoch {
            Some(epoch) => moved::part(draft, via.address, via.under, epoch, change.at.0),
            None => draft.parts.iter().position(|part| part.address == via.address.as_bytes()).unwrap_or(0),
        },
        _ => 0,
    }
}

fn count_visit<'a>(
    visits: &mut Option<Visits>,
    categories: &mut Vec<affinity::Entry<'a>>,
    names: &mut Names,
    time: u64,
    visit: &Visit<'a>,
) {
    let uncounted = visit.delivery.as_ref().is_some_and(|delivery| delivery.uncounted);
    let ended = match visits {
        _ if uncounted => false,
        None => {
            *visits = Some(Visits::first(time, visit.session_id));
            false
        }
        Some(visits) => visits.visit(time, visit.session_id),
    };
    if ended {
        affinity::halve(categories);
    }
    for &category in &visit.categories {
        affinity::view(categories, names.intern(category));
    }
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
