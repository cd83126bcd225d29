//! One profile in one small allocation, the form it has in memory and in checkpoints.
//!
//! ```text
//! flags u8          bit 0 changed since the last checkpoint (0 when stored) · 1 has visits · 2 has ids · 3 has parts
//! key               client number (varint) · address (length, text)
//! created_at        6 bytes, little-endian, ms since 1970; times below are relative to it
//! active_at         varint      last activity, log time: decides when the profile ends
//! modified_at       varint
//! [visits]          see session.rs, then count of categories u8, each: name, points (varint)
//! [ids]             count (varint), each: address (length, text)
//! [parts]           next arrival (varint), count (varint), each: see parts.rs
//! attributes        count (varint), each: name, time (signed varint), length·2 + removed (varint), bytes
//!                   with parts, then: part·2 + shadowed (varint), arrival (varint)
//! name              number + 1 (varint), or 0 and the text (length, bytes)
//! ```
//! The layout is version 1, named in the checkpoint's key prefix (state/stored.rs).

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::affinity;
use crate::names::Name;
use crate::parts::Part;
use crate::session::Visits;
use crate::varint::{self, Reader};

const CHANGED: u8 = 1;
const HAS_VISITS: u8 = 2;
const HAS_IDS: u8 = 4;
const HAS_PARTS: u8 = 8;

/// The bytes of one profile.
#[derive(Clone, Debug)]
pub(crate) struct Packed(Box<[u8]>);

/// An attribute within a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) name: Name<'a>,
    /// Event time of the value or of its removal, ms since 1970.
    pub(crate) time: u64,
    /// `None` = removed at that time.
    pub(crate) value: Option<&'a [u8]>,
    /// Index of the part it belongs to; 0 without parts.
    pub(crate) part: u32,
    /// It was brought along by a link to a profile that showed a value of this name already, so it never wins against
    /// one.
    pub(crate) shadowed: bool,
    /// Its number among the changes of the profile, with parts; the later of two of one time counts.
    pub(crate) arrival: u64,
}

impl Attribute<'_> {
    /// What decides which of several values of one name is shown: the highest. Of shadowed ones the first that came.
    pub(crate) const fn rank(&self) -> (bool, u64, u64) {
        if self.shadowed { (false, u64::MAX - self.arrival, 0) } else { (true, self.time, self.arrival) }
    }
}

/// A profile taken apart, to be changed and packed again.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) created_at: u64,
    pub(crate) active_at: u64,
    pub(crate) modified_at: u64,
    pub(crate) visits: Option<Visits>,
    pub(crate) categories: Vec<affinity::Entry<'a>>,
    pub(crate) ids: Vec<&'a [u8]>,
    /// What each linked address brought and did, the home's own first; empty while nothing was ever linked.
    pub(crate) parts: Vec<Part<'a>>,
    /// The number that the next change of an attribute gets, with parts.
    pub(crate) next_arrival: u64,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

/// The parts of a profile that reading needs first; categories, ids and attributes are read on from `rest`.
pub(crate) struct Head<'a> {
    pub(crate) client: u32,
    pub(crate) address: &'a [u8],
    pub(crate) created_at: u64,
    pub(crate) active_at: u64,
    pub(crate) modified_at: u64,
    flags: u8,
    rest: Reader<'a>,
}

/// The hash of a profile's key in its partition's table.
#[inline]
pub(crate) fn key_hash(client: u32, address: &[u8]) -> u64 {
    xxh3_64_with_seed(address, u64::from(client))
}

impl Packed {
    /// Takes bytes of a checkpoint, if they are a whole profile.
    pub(crate) fn from_stored(bytes: &[u8]) -> Option<Self> {
        let head = Head::read(bytes);
        let mut rest = head.rest;
        let draft = Draft::read(&head, &mut rest);
        let whole = !rest.is_bad() && rest.is_empty() && head.flags & CHANGED == 0;
        (whole && std::str::from_utf8(head.address).is_ok() && draft.attributes.iter().all(is_text))
            .then(|| Self(bytes.into()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head::read(&self.0)
    }

    #[inline]
    pub(crate) fn is(&self, client: u32, address: &[u8]) -> bool {
        let mut from = Reader::new(&self.0);
        from.byte();
        from.varint() == u64::from(client) && from.bytes() == address
    }

    pub(crate) fn hash(&self) -> u64 {
        let head = self.head();
        key_hash(head.client, head.address)
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.0[0] & CHANGED != 0
    }

    pub(crate) fn set_changed(&mut self, changed: bool) {
        self.0[0] = self.0[0] & !CHANGED | u8::from(changed);
    }

    /// The bytes as a checkpoint holds them, without the flag of the moment.
    pub(crate) fn stored(&self, out: &mut Vec<u8>) {
        out.push(self.0[0] & !CHANGED);
        out.extend_from_slice(&self.0[1..]);
    }

    /// Replaces the bytes, in place when they fit exactly; keeps the flag of the moment.
    #[inline]
    pub(crate) fn replace(&mut self, bytes: &[u8]) {
        let changed = self.is_changed();
        if self.0.len() == bytes.len() {
            self.0.copy_from_slice(bytes);
        } else {
            self.0 = bytes.into();
        }
        self.set_changed(changed);
    }

    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

fn is_text(attribute: &Attribute<'_>) -> bool {
    attribute.value.is_none_or(|value| std::str::from_utf8(value).is_ok())
}

impl<'a> Head<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Self {
        let mut from = Reader::new(bytes);
        let flags = from.byte();
        let client = from.varint() as u32;
        let address = from.bytes();
        let mut created = [0; 8];
        let six = from.take(6);
        created[..six.len()].copy_from_slice(six);
        let created_at = u64::from_le_bytes(created);
        let active_at = created_at.wrapping_add(from.varint());
        let modified_at = created_at.wrapping_add(from.varint());
        Self { client, address, created_at, active_at, modified_at, flags, rest: from }
    }

    /// Everything, to be changed.
    pub(crate) fn draft(&self) -> Draft<'a> {
        Draft::read(self, &mut self.rest.clone())
    }
}

impl<'a> Draft<'a> {
    /// A profile that comes into being at `now`.
    pub(crate) fn created(now: u64) -> Self {
        Self {
            created_at: now,
            active_at: now,
            modified_at: now,
            visits: None,
            categories: Vec::new(),
            ids: Vec::new(),
            parts: Vec::new(),
            next_arrival: 0,
            attributes: Vec::new(),
        }
    }

    #[inline]
    fn read(head: &Head<'a>, from: &mut Reader<'a>) -> Self {
        let (mut visits, mut categories) = (None, Vec::new());
        if head.flags & HAS_VISITS != 0 {
            (visits, categories) = read_visits(head.created_at, from);
        }
        let mut ids = Vec::new();
        if head.flags & HAS_IDS != 0 {
            for _ in 0..from.varint() {
                if from.is_bad() {
                    break;
                }
                ids.push(from.bytes());
            }
        }
        let (mut parts, mut next_arrival) = (Vec::new(), 0);
        if head.flags & HAS_PARTS != 0 {
            next_arrival = from.varint();
            for _ in 0..from.varint() {
                if from.is_bad() {
                    break;
                }
                parts.push(Part::read(head.created_at, from));
            }
        }
        let linked = !parts.is_empty();
        let count = from.varint();
        // An attribute has at least three bytes, so a count out of thin air reserves no more than the profile's size.
        let mut attributes = Vec::with_capacity((count as usize).min(from.rest().len() / 3) + 4);
        for _ in 0..count {
            if from.is_bad() {
                break;
            }
            let name = read_name(from);
            let time = head.created_at.wrapping_add(from.signed() as u64);
            let length = from.varint();
            let value = (length & 1 == 0).then(|| from.take((length >> 1) as usize));
            let (part, arrival) = if linked { (from.varint(), from.varint()) } else { (0, 0) };
            let (part, shadowed) = ((part >> 1) as u32, part & 1 == 1);
            attributes.push(Attribute { name, time, value, part, shadowed, arrival });
        }
        Self {
            created_at: head.created_at,
            active_at: head.active_at,
            modified_at: head.modified_at,
            visits,
            categories,
            ids,
            parts,
            next_arrival,
            attributes,
        }
    }

    /// Packs into `out`, which is cleared first.
    #[inline]
    pub(crate) fn pack(&self, client: u32, address: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let mut flags = 0;
        if self.visits.is_some() {
            flags |= HAS_VISITS;
        }
        if !self.ids.is_empty() {
            flags |= HAS_IDS;
        }
        if !self.parts.is_empty() {
            flags |= HAS_PARTS;
        }
        out.push(flags);
        varint::put(out, u64::from(client));
        varint::put_bytes(out, address);
        out.extend_from_slice(&self.created_at.to_le_bytes()[..6]);
        varint::put(out, self.active_at.wrapping_sub(self.created_at));
        varint::put(out, self.modified_at.wrapping_sub(self.created_at));
        if let Some(visits) = &self.visits {
            put_visits(out, self.created_at, visits, &self.categories);
        }
        if !self.ids.is_empty() {
            varint::put(out, self.ids.len() as u64);
            for id in &self.ids {
                varint::put_bytes(out, id);
            }
        }
        if !self.parts.is_empty() {
            varint::put(out, self.next_arrival);
            varint::put(out, self.parts.len() as u64);
            for part in &self.parts {
                part.put(self.created_at, out);
            }
        }
        varint::put(out, self.attributes.len() as u64);
        for attribute in &self.attributes {
            put_name(out, attribute.name);
            varint::put_signed(out, attribute.time.wrapping_sub(self.created_at) as i64);
            match attribute.value {
                Some(value) => {
                    varint::put(out, (value.len() as u64) << 1);
                    out.extend_from_slice(value);
                }
                None => varint::put(out, 1),
            }
            if !self.parts.is_empty() {
                varint::put(out, u64::from(attribute.part) << 1 | u64::from(attribute.shadowed));
                varint::put(out, attribute.arrival);
            }
        }
    }

    /// Whether the address of a part leads here still: neither it nor one through which it is linked follows another
    /// profile.
    pub(crate) fn is_here(&self, part: usize) -> bool {
        let mut at = part;
        for _ in 0..self.parts.len() {
            let Some(part) = self.parts.get(at) else { return true };
            if part.left {
                return false;
            }
            if part.under.is_empty() {
                return true;
            }
            let Some(above) = self.parts.iter().position(|other| other.address == part.under) else { return true };
            at = above;
        }
        true
    }

    /// [`Self::is_here`] of all parts, each looked at once: there may be a thousand of them.
    pub(crate) fn here(&self) -> Vec<bool> {
        let places: BTreeMap<&[u8], usize> = self.parts.iter().map(|part| part.address).zip(0..).collect();
        let mut known: Vec<Option<bool>> = vec![None; self.parts.len()];
        let mut way = Vec::new();
        for start in 0..self.parts.len() {
            let mut at = start;
            let is_here = loop {
                if let Some(known) = known[at] {
                    break known;
                }
                // Until it is known: one that is met again, in a circle, leads nowhere else.
                known[at] = Some(true);
                way.push(at);
                let part = &self.parts[at];
                if part.left {
                    break false;
                }
                match places.get(part.under).filter(|_| !part.under.is_empty()) {
                    Some(&above) => at = above,
                    None => break true,
                }
            };
            way.drain(..).for_each(|passed| known[passed] = Some(is_here));
        }
        known.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Of each attribute, by its place, whether another one of its name has a higher rank; empty without parts, where every
    /// name stands once.
    pub(crate) fn hidden(&self) -> Vec<bool> {
        if self.parts.is_empty() {
            return Vec::new();
        }
        let mut order: Vec<usize> = (0..self.attributes.len()).collect();
        let key = |&at: &usize| (self.attributes[at].name, self.attributes[at].rank());
        order.sort_unstable_by_key(key);
        let mut hidden = vec![false; self.attributes.len()];
        for pair in order.windows(2) {
            hidden[pair[0]] = self.attributes[pair[0]].name == self.attributes[pair[1]].name;
        }
        hidden
    }

    /// Names that would be shown if there were only some of the attributes.
    pub(crate) fn names_shown_of(&self, is_of: impl Fn(&Attribute<'a>) -> bool) -> BTreeSet<Name<'a>> {
        let mut best: BTreeMap<Name<'a>, &Attribute<'a>> = BTreeMap::new();
        for attribute in self.attributes.iter().filter(|attribute| is_of(attribute)) {
            let held = best.entry(attribute.name).or_insert(attribute);
            if held.rank() < attribute.rank() {
                *held = attribute;
            }
        }
        best.into_iter().filter(|(_, attribute)| attribute.value.is_some()).map(|(name, _)| name).collect()
    }

    /// The attributes that are shown, in the order they were first set: of each name the one of the highest rank, if it
    /// is no removal.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &Attribute<'a>> {
        let hidden = self.hidden();
        let shown = move |&(at, attribute): &(usize, &Attribute<'a>)| {
            attribute.value.is_some() && !hidden.get(at).copied().unwrap_or_default()
        };
        self.attributes.iter().enumerate().filter(shown).map(|(_, attribute)| attribute)
    }
}

/// Reads what [`put_visits`] wrote.
#[inline]
pub(crate) fn read_visits<'a>(created_at: u64, from: &mut Reader<'a>) -> (Option<Visits>, Vec<affinity::Entry<'a>>) {
    let visits = Visits::decode(created_at, from);
    let count = from.byte();
    let categories = (0..count).map(|_| (read_name(from), from.varint() as u32)).collect();
    (Some(visits), categories)
}

/// Writes visits and categories; times stand relative to `created_at`.
#[inline]
pub(crate) fn put_visits(out: &mut Vec<u8>, created_at: u64, visits: &Visits, categories: &[affinity::Entry<'_>]) {
    visits.encode(created_at, out);
    out.push(categories.len() as u8);
    for &(name, points) in categories {
        put_name(out, name);
        varint::put(out, u64::from(points));
    }
}

#[inline]
fn read_name<'a>(from: &mut Reader<'a>) -> Name<'a> {
    match from.varint() {
        0 => Name::Text(from.bytes()),
        number => Name::Id((number - 1) as u32),
    }
}

#[inline]
fn put_name(out: &mut Vec<u8>, name: Name<'_>) {
    match name {
        Name::Id(id) => varint::put(out, u64::from(id) + 1),
        Name::Text(text) => {
            out.push(0);
            varint::put_bytes(out, text);
        }
    }
}

#[cfg(test)]
mod tests;
