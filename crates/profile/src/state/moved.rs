//! Profiles that change their home: taken apart, taken in, and given back (ADR 8). Pure functions on a draft.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::message::{Joined, Moved, MovedAttribute, MovedPart, MovedVisits, brought, put_brought};
use crate::affinity;
use crate::limits;
use crate::names::{Name, Names};
use crate::packed::{Attribute, Draft};
use crate::parts::{Part, add_visits};
use crate::session::Visits;

/// What makes an attribute of a profile one: its name, its part, and whether it is shadowed.
type Key<'a> = (Name<'a>, u32, bool);

/// Where the first attribute of each key stands: of a person with a thousand addresses there may be a hundred thousand.
#[derive(Debug, Default)]
struct Index<'a>(BTreeMap<Key<'a>, usize>);

impl<'a> Index<'a> {
    fn of(attributes: &[Attribute<'a>]) -> Self {
        let mut index = Self::default();
        for (at, attribute) in attributes.iter().enumerate() {
            index.0.entry((attribute.name, attribute.part, attribute.shadowed)).or_insert(at);
        }
        index
    }

    /// Adds an attribute, of each key the one of the highest rank.
    fn merge(&mut self, kept: &mut Vec<Attribute<'a>>, key: Key<'a>, attribute: Attribute<'a>) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(kept.len());
                kept.push(attribute);
            }
            Entry::Occupied(entry) => {
                let held = &mut kept[*entry.get()];
                if held.rank() <= attribute.rank() {
                    *held = attribute;
                }
            }
        }
    }
}

fn owned(visits: Option<&Visits>, categories: &[affinity::Entry<'_>], names: &Names) -> Option<MovedVisits> {
    let named = categories.iter().map(|&(name, points)| (names.text(name).into(), points));
    visits.map(|visits| MovedVisits::new(visits, named.collect()))
}

fn text(bytes: &[u8]) -> Box<str> {
    std::str::from_utf8(bytes).unwrap_or_default().into()
}

fn borrowed<'a>(moved: Option<&'a MovedVisits>, names: &mut Names) -> (Option<Visits>, Vec<affinity::Entry<'a>>) {
    let Some(moved) = moved else { return (None, Vec::new()) };
    let categories = moved.categories.iter().map(|(name, points)| (names.intern(name), *points));
    (Some(moved.visits()), categories.collect())
}

impl Moved {
    /// All of a profile. Attributes stand in the order in which they came.
    pub(super) fn of(draft: &Draft<'_>, names: &Names) -> Self {
        let mut order: Vec<&Attribute<'_>> = draft.attributes.iter().collect();
        order.sort_by_key(|attribute| attribute.arrival);
        let attribute = |attribute: &&Attribute<'_>| MovedAttribute {
            name: names.text(attribute.name).into(),
            time: attribute.time,
            value: attribute.value.map(text),
            part: attribute.part,
            shadowed: attribute.shadowed,
        };
        let part = |part: &Part<'_>| MovedPart {
            address: text(part.address),
            under: text(part.under),
            epoch: part.epoch,
            left: part.left,
            created_at: part.created_at,
            active_at: part.active_at,
            visits: owned(part.visits.as_ref(), &part.categories, names),
            brought: put_brought(part.epoch, &part.brought),
        };
        Self {
            created_at: draft.created_at,
            active_at: draft.active_at,
            visits: owned(draft.visits.as_ref(), &draft.categories, names),
            parts: draft.parts.iter().map(part).collect(),
            attributes: order.iter().map(attribute).collect(),
        }
    }

    /// Splits off what does not fit into a message, as `(address of its part, attribute)`; an empty address is the home's
    /// own.
    pub(super) fn split_off(&mut self, bytes: usize) -> Vec<(Box<str>, MovedAttribute)> {
        let mut held = 0;
        let fits = self.attributes.iter().take_while(|attribute| {
            held += attribute.bytes();
            held <= bytes
        });
        let rest = self.attributes.split_off(fits.count());
        let address = |part: u32| self.parts.get(part as usize).map_or("".into(), |part| part.address.clone());
        rest.into_iter().map(|attribute| (address(attribute.part), attribute)).collect()
    }
}

/// Gives a profile its own part, if nothing was ever linked to it.
fn begin_parts(draft: &mut Draft<'_>) {
    if !draft.parts.is_empty() {
        return;
    }
    let mut own = Part::new(b"", b"", 0, draft.created_at);
    own.active_at = draft.active_at;
    own.visits = draft.visits;
    own.categories = draft.categories.clone();
    draft.parts.push(own);
    for attribute in &mut draft.attributes {
        draft.next_arrival += 1;
        attribute.arrival = draft.next_arrival;
    }
}

/// The part of an address, made if need be. By an epoch that is newer than the one held the address is back.
pub(super) fn part<'a>(draft: &mut Draft<'a>, address: &'a str, under: &'a str, epoch: u64, now: u64) -> usize {
    begin_parts(draft);
    let (address, under) = (address.as_bytes(), under.as_bytes());
    let at = draft.parts.iter().position(|part| part.address == address).unwrap_or_else(|| {
        draft.parts.push(Part::new(address, under, epoch, now));
        draft.parts.len() - 1
    });
    let part = &mut draft.parts[at];
    if epoch > part.epoch {
        (part.epoch, part.under, part.left) = (epoch, under, false);
    }
    at
}

/// Takes an address and what it brings into the profile of its new home; `under` is the address through which it came.
pub(super) fn take_in<'a>(draft: &mut Draft<'a>, names: &mut Names, joined: &'a Joined, under: &'a str, now: u64) {
    draft.modified_at = now;
    draft.active_at = draft.active_at.max(now);
    let child = part(draft, &joined.child, under, joined.epoch, now);
    if let Some(held) = &joined.held {
        // What went elsewhere by itself, while this one was with others, does not come back with it.
        for part in draft.parts.iter_mut().filter(|part| part.under == joined.child.as_bytes()) {
            part.left |= held.iter().all(|(address, epoch)| part.address != address.as_bytes() || part.epoch > *epoch);
        }
        for (address, epoch) in held {
            part(draft, address, &joined.child, *epoch, now);
        }
    }
    let Some(moved) = &joined.moved else { return };
    draft.parts[child].bring(joined.epoch);
    let shown: BTreeSet<Name<'_>> = draft.shown().map(|attribute| attribute.name).collect();
    draft.created_at = draft.created_at.min(moved.created_at);
    let places = add_parts(draft, names, moved, child, &joined.child, now);
    let mut index = Index::of(&draft.attributes);
    for attribute in in_order(&moved.attributes, |attribute| shown.contains(&names.intern(&attribute.name))) {
        let place = places.get(attribute.part as usize).copied().unwrap_or(child);
        add_attribute(draft, names, &mut index, &shown, attribute, place);
    }
}

/// In the order in which they are to come: as they came before, but those that will be shadowed by their rank, the highest
/// first, as of shadowed ones the first counts.
fn in_order<'m>(
    moved: &'m [MovedAttribute],
    mut will_hide: impl FnMut(&'m MovedAttribute) -> bool,
) -> Vec<&'m MovedAttribute> {
    let (mut hidden, mut order) = (Vec::new(), Vec::with_capacity(moved.len()));
    for (place, attribute) in moved.iter().enumerate() {
        if will_hide(attribute) { hidden.push((place, attribute)) } else { order.push(attribute) }
    }
    let rank = |(place, attribute): &(usize, &MovedAttribute)| match attribute.shadowed {
        true => (false, u64::MAX - *place as u64, 0),
        false => (true, attribute.time, *place),
    };
    hidden.sort_by_key(|entry| std::cmp::Reverse(rank(entry)));
    order.extend(hidden.into_iter().map(|(_, attribute)| attribute));
    order
}

/// Adds the visits of a profile on its way, of the whole and of each part: its own to the part at `own`, and those of addresses
/// linked to it to theirs. Returns where each part is.
fn add_parts<'a>(
    draft: &mut Draft<'a>,
    names: &mut Names,
    moved: &'a Moved,
    own: usize,
    under: &'a str,
    now: u64,
) -> Vec<usize> {
    let (visits, categories) = borrowed(moved.visits.as_ref(), names);
    add_visits(&mut draft.visits, &mut draft.categories, visits, categories.clone());
    if moved.parts.is_empty() {
        let part = &mut draft.parts[own];
        part.created_at = part.created_at.min(moved.created_at);
        part.add_visits(visits, categories);
    }
    let mut places = Vec::with_capacity(moved.parts.len());
    for (n, other) in moved.parts.iter().enumerate() {
        let at = if n == 0 { own } else { moved_part(draft, other, under, now) };
        let (visits, categories) = borrowed(other.visits.as_ref(), names);
        let part = &mut draft.parts[at];
        part.created_at = part.created_at.min(other.created_at);
        part.active_at = part.active_at.max(other.active_at);
        part.add_visits(visits, categories);
        if n > 0 {
            brought(other.epoch, other.brought.clone()).into_iter().for_each(|epoch| part.bring(epoch));
        }
        places.push(at);
    }
    places
}

fn moved_part<'a>(draft: &mut Draft<'a>, moved: &'a MovedPart, child: &'a str, now: u64) -> usize {
    let under = if moved.under.is_empty() { child } else { &moved.under };
    let held = draft.parts.iter().any(|part| part.address == moved.address.as_bytes() && part.epoch > moved.epoch);
    let at = part(draft, &moved.address, under, moved.epoch, now);
    if !held {
        draft.parts[at].left = moved.left;
    }
    at
}

/// Takes a part that was taken out elsewhere back as the profile's own.
pub(super) fn take_back<'a>(draft: &mut Draft<'a>, names: &mut Names, moved: &'a Moved, now: u64) {
    begin_parts(draft);
    draft.created_at = draft.created_at.min(moved.created_at);
    // That it was asked for is activity: what was idle among others must not have ended by itself.
    draft.active_at = now;
    draft.modified_at = now;
    let places = add_parts(draft, names, moved, 0, "", now);
    // What has been set here meanwhile is ordered with the rest by time alone.
    let (shown, mut index) = (BTreeSet::new(), Index::of(&draft.attributes));
    for attribute in &moved.attributes {
        let place = places.get(attribute.part as usize).copied().unwrap_or(0);
        add_attribute(draft, names, &mut index, &shown, attribute, place);
    }
    forget_if_alone(draft);
}

/// Adds attributes that came after the message that linked their address, or (`child` is empty) gave it back.
pub(super) fn take_more<'a>(
    draft: &mut Draft<'a>,
    names: &mut Names,
    child: &'a str,
    more: &'a [(Box<str>, MovedAttribute)],
) {
    // What came with the same address before hides nothing of it; and among its own it has nothing to hide behind.
    let root = draft.parts.iter().position(|part| part.address == child.as_bytes());
    let own = root.filter(|_| !child.is_empty()).map(|root| below(draft, root));
    let shown: BTreeSet<Name<'_>> = match own {
        Some(own) => draft.names_shown_of(|attribute| !own[attribute.part as usize]),
        None => BTreeSet::new(),
    };
    let places: BTreeMap<_, _> = draft.parts.iter().map(|part| part.address).zip(0..).collect();
    let mut index = Index::of(&draft.attributes);
    for (address, attribute) in more {
        let address = if address.is_empty() { child } else { address };
        let place = places.get(address.as_bytes()).copied().unwrap_or(0);
        add_attribute(draft, names, &mut index, &shown, attribute, place);
    }
}

fn add_attribute<'a>(
    draft: &mut Draft<'a>,
    names: &mut Names,
    index: &mut Index<'a>,
    shown: &BTreeSet<Name<'_>>,
    moved: &'a MovedAttribute,
    place: usize,
) {
    let name = names.intern(&moved.name);
    let part = place as u32;
    let shadowed = moved.shadowed || shown.contains(&name);
    draft.next_arrival += 1;
    let value = moved.value.as_deref().map(str::as_bytes);
    let fresh = Attribute { name, time: moved.time, value, part, shadowed, arrival: draft.next_arrival };
    let held = match index.0.entry((name, part, shadowed)) {
        Entry::Vacant(entry) => {
            entry.insert(draft.attributes.len());
            None
        }
        Entry::Occupied(entry) => Some(&mut draft.attributes[*entry.get()]),
    };
    match held {
        // Of what an address brought at several times the first is what the profile may show, and the latest its own.
        Some(held) if shadowed && held.time != fresh.time => draft.attributes.push(fresh),
        Some(held) if held.time <= fresh.time => *held = fresh,
        Some(_) => {}
        None => draft.attributes.push(fresh),
    }
}

/// Takes the part of an address out, with the parts of those that are linked through it; `None` when there is none.
pub(super) fn take_out(draft: &mut Draft<'_>, names: &Names, address: &str) -> Option<(Moved, Vec<LetGo>)> {
    let root = draft.parts.iter().position(|part| part.address == address.as_bytes()).filter(|at| *at > 0)?;
    let goes = below(draft, root);
    let mut places = vec![u32::MAX; draft.parts.len()];
    places[root] = 0;
    let others: Vec<usize> = (0..draft.parts.len()).filter(|at| goes[*at] && *at != root).collect();
    for (n, &at) in others.iter().enumerate() {
        places[at] = n as u32 + 1;
    }
    let mut taken = Draft::created(draft.parts[root].created_at);
    taken.active_at = draft.parts[root].active_at;
    for &at in std::iter::once(&root).chain(&others) {
        let mut part = draft.parts[at].clone();
        add_visits(&mut taken.visits, &mut taken.categories, part.visits, part.categories.clone());
        if at == root {
            (part.address, part.under, part.epoch) = (b"", b"", 0);
            part.brought.clear();
        } else if part.under == address.as_bytes() {
            part.under = b"";
        }
        taken.parts.push(part);
    }
    let mut index = Index::default();
    for attribute in draft.attributes.iter().filter(|attribute| goes[attribute.part as usize]) {
        let part = places[attribute.part as usize];
        // Among its own it has nothing to hide behind.
        let fresh = Attribute { part, shadowed: false, ..*attribute };
        index.merge(&mut taken.attributes, (fresh.name, part, false), fresh);
    }
    let gone = shrink(&mut taken, names);
    forget_if_alone(&mut taken);
    let moved = Moved::of(&taken, names);
    remain(draft, &goes);
    Some((moved, gone))
}

/// Which parts are linked through the one at `root`, itself included.
fn below(draft: &Draft<'_>, root: usize) -> Vec<bool> {
    let mut through: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (at, part) in draft.parts.iter().enumerate().skip(1).filter(|(_, part)| !part.under.is_empty()) {
        through.entry(part.under).or_default().push(at);
    }
    let (mut goes, mut found) = (vec![false; draft.parts.len()], vec![root]);
    while let Some(at) = found.pop() {
        goes[at] = true;
        let below = through.get(draft.parts[at].address).into_iter().flatten();
        found.extend(below.filter(|at| !goes[**at]));
    }
    goes
}

/// Drops the parts that went; what is left counts for the whole.
fn remain(draft: &mut Draft<'_>, gone: &[bool]) {
    let mut places = vec![0; gone.len()];
    let mut next = 0;
    for (at, gone) in gone.iter().enumerate() {
        places[at] = next;
        next += u32::from(!gone);
    }
    draft.attributes.retain(|attribute| !gone[attribute.part as usize]);
    for attribute in &mut draft.attributes {
        attribute.part = places[attribute.part as usize];
    }
    let mut at = 0;
    draft.parts.retain(|_| {
        at += 1;
        !gone[at - 1]
    });
    draft.created_at = draft.parts.iter().map(|part| part.created_at).min().unwrap_or(draft.created_at);
    (draft.visits, draft.categories) = (None, Vec::new());
    for at in 0..draft.parts.len() {
        let part = draft.parts[at].clone();
        add_visits(&mut draft.visits, &mut draft.categories, part.visits, part.categories);
    }
    forget_if_alone(draft);
}

/// A profile with nothing but its own part needs no parts.
fn forget_if_alone(draft: &mut Draft<'_>) {
    if draft.parts.len() != 1 {
        return;
    }
    draft.parts.clear();
    draft.next_arrival = 0;
    let (mut kept, mut index) = (Vec::with_capacity(draft.attributes.len()), Index::default());
    for attribute in draft.attributes.drain(..) {
        index.merge(&mut kept, (attribute.name, 0, false), attribute);
    }
    for attribute in &mut kept {
        (attribute.part, attribute.shadowed, attribute.arrival) = (0, false, 0);
    }
    draft.attributes = kept;
}

/// Says that an address follows another profile now.
pub(super) fn leave(draft: &mut Draft<'_>, address: &str, epoch: u64) {
    let meant = |part: &&mut Part<'_>| part.address == address.as_bytes() && part.epoch <= epoch;
    if let Some(part) = draft.parts.iter_mut().skip(1).find(meant) {
        part.left = true;
    }
}

/// An address that is linked no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LetGo {
    pub(super) address: Box<str>,
    pub(super) epoch: u64,
    /// It had left before.
    pub(super) left: bool,
}

/// Lets the idlest addresses go until what is said of the others fits into a message, and there are not too many. One through
/// which others are linked is as busy as they are. What they did becomes the home's own, and can no longer be undone.
pub(super) fn shrink(draft: &mut Draft<'_>, names: &Names) -> Vec<LetGo> {
    let sizes: Vec<_> = draft.parts.iter().map(|part| part_bytes(part, names)).collect();
    let (mut count, mut bytes) = (draft.parts.len(), sizes.iter().sum::<usize>());
    let fits = |count: usize, bytes: usize| count <= limits::LINKED_ADDRESSES && bytes <= limits::MESSAGE_PARTS_BYTES;
    if fits(count, bytes) {
        return Vec::new();
    }
    let here = draft.here();
    let mut through: BTreeMap<&[u8], usize> = BTreeMap::new();
    draft.parts.iter().for_each(|part| *through.entry(part.under).or_default() += 1);
    let mut idlest: Vec<usize> = (1..count).collect();
    idlest.sort_by_cached_key(|&at| (here[at], draft.parts[at].active_at));
    let mut goes = vec![false; count];
    let mut gone = Vec::new();
    while !fits(count, bytes) {
        let is_leaf = |&&at: &&usize| !goes[at] && through.get(draft.parts[at].address).is_none_or(|below| *below == 0);
        let Some(&at) = idlest.iter().find(is_leaf) else { break };
        let part = &draft.parts[at];
        gone.push(LetGo { address: text(part.address), epoch: part.epoch, left: !here[at] });
        goes[at] = true;
        (count, bytes) = (count - 1, bytes - sizes[at]);
        if let Some(below) = through.get_mut(part.under) {
            *below -= 1;
        }
    }
    make_own(draft, &goes);
    gone
}

/// About how many bytes a message takes for a part of a profile.
fn part_bytes(part: &Part<'_>, names: &Names) -> usize {
    let categories: usize = part.categories.iter().map(|(name, _)| names.text(*name).len() + 8).sum();
    PART_OVERHEAD + part.address.len() + part.under.len() + categories + part.brought.len() * EPOCH_BYTES
}

/// Bytes of an epoch in a message, at most.
const EPOCH_BYTES: usize = 9;

/// Bytes of a part's numbers and visits in a message, about.
const PART_OVERHEAD: usize = 128;

/// Makes parts one with the home's own.
fn make_own(draft: &mut Draft<'_>, goes: &[bool]) {
    let mut places = vec![0; goes.len()];
    let mut kept: Vec<Part<'_>> = Vec::with_capacity(goes.len());
    for (at, part) in std::mem::take(&mut draft.parts).into_iter().enumerate() {
        if goes[at] {
            kept[0].add_visits(part.visits, part.categories);
        } else {
            places[at] = kept.len() as u32;
            kept.push(part);
        }
    }
    draft.parts = kept;
    let (mut kept, mut index) = (Vec::with_capacity(draft.attributes.len()), Index::default());
    for mut attribute in draft.attributes.drain(..) {
        attribute.part = places[attribute.part as usize];
        index.merge(&mut kept, (attribute.name, attribute.part, attribute.shadowed), attribute);
    }
    draft.attributes = kept;
}
